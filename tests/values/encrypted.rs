//! Values that a tool left encrypted: they are refused in every backend and by every command.

use std::sync::Arc;

use secretwell::auth::{LazyAuth, Mode};
use secretwell::backend::{encrypted_by, encrypted_document};
use secretwell::env::{EnvProvider, Environment};
use secretwell::file::{FileProvider, Format};
use secretwell::infisical::ApiVersion;
use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use secretwell::{
    Error, ErrorKind, Freshness, KeyPrefix, MemoryProvider, Resolver, SecretProvider,
    SecretProviderExt, SecretString, from_url,
};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::cli::secretwell;
use crate::infisical::place::Place;
use crate::support::{key, pass, replace, resolver, secs};
use crate::vault::server::{shared, unique};

/// Values as each tool writes them, with a marker that no message may contain.
const CIPHERTEXTS: [(&str, &str); 6] = [
    (
        "encrypted:BDqDBibm4wsYqMpCc4n4ryHmMadg9K3dAt+Z9HPMfLE=",
        "dotenvx",
    ),
    (
        "ENC[AES256_GCM,data:c4n4ry,iv:YQ==,tag:Yg==,type:str]",
        "SOPS",
    ),
    (
        "ENC[PKCS7,MIIBc4n4ryYJKoZIhvcNAQcDoIIBajCCAWYCAQAx]",
        "hiera-eyaml",
    ),
    ("ENC(nrmZtkF7T0kjG/VodDvc4n4ryCt8EgjCA+)", "Jasypt"),
    (
        "vault:v1:8SDd3WHDOjf7mq69c4n4ryBXAiQQAVZRkFM13ok481zo",
        "the transit engine of Vault",
    ),
    ("U2FsdGVkX18c4n4ryY2hhbmdlIG1lIG5vdw==", "OpenSSL"),
];

struct OneVariable(&'static str);

impl Environment for OneVariable {
    fn value(&self, name: &std::ffi::OsStr) -> Option<std::ffi::OsString> {
        (name == "AUTH_SECRET").then(|| self.0.into())
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        vec!["AUTH_SECRET".into()]
    }
}

fn document(format: Format, value: &str) -> String {
    let quoted = serde_json::to_string(value).unwrap();
    match format {
        Format::Env => format!("AUTH_SECRET={quoted}\n"),
        Format::Yaml => format!("AUTH_SECRET: {quoted}\n"),
        Format::Toml => format!("AUTH_SECRET = {quoted}\n"),
        _ => format!("{{\"AUTH_SECRET\": {quoted}}}"),
    }
}

/// Returns a provider of variables and of each layout of files with `value`.
fn local_providers(
    folder: &TempDir,
    value: &'static str,
) -> Vec<(String, Arc<dyn SecretProvider>)> {
    let directory = folder.path().join("directory");
    replace(
        &directory.join("AUTH_SECRET"),
        format!("{value}\n").as_bytes(),
    );
    let mut providers: Vec<(String, Arc<dyn SecretProvider>)> = vec![
        (
            "variables".into(),
            Arc::new(EnvProvider::with_environment(OneVariable(value), "")),
        ),
        (
            "directory".into(),
            Arc::new(FileProvider::directory(directory)),
        ),
    ];
    for format in [Format::Env, Format::Json, Format::Yaml, Format::Toml] {
        let path = folder.path().join(format!("{format:?}"));
        replace(&path, document(format, value).as_bytes());
        let provider = FileProvider::document(path).format(format);
        providers.push((format!("{format:?}"), Arc::new(provider)));
    }
    providers
}

fn assert_refused(error: &Error, tool: &str, context: &str) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{context}: {error}");
    assert!(!error.is_temporary(), "{context}: {error}");
    let text = format!("{error} {error:#?}");
    assert!(
        text.contains(&format!("encrypted by {tool}")),
        "{context}: {text}"
    );
    assert!(!text.contains("c4n4ry"), "{context}: {text}");
}

#[tokio::test]
async fn encrypted_value_is_refused_in_every_local_backend() {
    for (value, tool) in CIPHERTEXTS {
        let folder = tempfile::tempdir().unwrap();
        for (name, provider) in local_providers(&folder, value) {
            let name = format!("{name} {tool}");
            let key = key("AUTH_SECRET");
            assert_refused(&provider.get(&key).await.unwrap_err(), tool, &name);
            let listed = provider.list(&KeyPrefix::root()).await.unwrap();
            assert_eq!(listed, std::slice::from_ref(&key), "{name}");
            // The weaker source of a chain is not read.
            let chain = provider.or_else(MemoryProvider::from_iter([("AUTH_SECRET", "weaker")]));
            assert_refused(&chain.get(&key).await.unwrap_err(), tool, &name);
            let error = Resolver::new(chain).get("AUTH_SECRET").await.unwrap_err();
            assert_refused(&error, tool, &name);
        }
    }
}

#[tokio::test]
async fn encrypted_value_in_a_list_or_a_table_is_refused() {
    let (value, tool) = CIPHERTEXTS[0];
    let folder = tempfile::tempdir().unwrap();
    let json = format!("{{\"db\": {{\"user\": \"u\", \"list\": [\"a\", \"{value}\"]}}}}");
    let yaml = format!("db:\n  user: u\n  list:\n  - a\n  - {value}\n");
    let toml = format!("[db]\nuser = 'u'\nlist = ['a', '{value}']\n");
    let mut providers: Vec<Arc<dyn SecretProvider>> = Vec::new();
    for (format, text) in [
        (Format::Json, &json),
        (Format::Yaml, &yaml),
        (Format::Toml, &toml),
    ] {
        let path = folder.path().join(format!("{format:?}"));
        replace(&path, text.as_bytes());
        providers.push(Arc::new(FileProvider::document(path).format(format)));
    }
    let table = format!("{{\"user\": \"u\", \"list\": [\"a\", \"{value}\"]}}");
    let list = format!("[\"a\", \"{value}\"]");
    let memory = [("db", &*table), ("db/list", &*list), ("db/user", "u")];
    providers.push(Arc::new(MemoryProvider::from_iter(memory)));
    for provider in providers {
        let weaker = [("db", "{}"), ("db/list", "weaker")];
        let chain = provider.or_else(MemoryProvider::from_iter(weaker));
        let resolver = Resolver::new(chain);
        for name in ["db", "db/list"] {
            assert_refused(&resolver.get(name).await.unwrap_err(), tool, name);
        }
        assert_eq!(crate::support::text(&resolver, "db/user").await, "u");
    }
}

#[tokio::test]
async fn encrypted_value_is_refused_in_every_remote_backend() {
    let bao = shared().await;
    let mount = unique("encrypted");
    bao.mount(&mount, 2).await;
    let infisical = Place::fake(ApiVersion::V4).await;
    for (value, tool) in CIPHERTEXTS {
        let secret = json!({"data": {"AUTH_SECRET": value}});
        bao.root("POST", &format!("{mount}/data/app"), secret).await;
        infisical.write(None, "AUTH_SECRET", value).await;
        let token = VaultAuth::token(Credential::value(bao.root_token()));
        let address = format!("http://{}", bao.address);
        let vault = VaultProvider::builder([address], token).unwrap();
        let vault = vault.mount(&mount).path("app").build().unwrap();
        let providers: [(&str, Arc<dyn SecretProvider>); 3] = [
            ("vault", Arc::new(vault)),
            ("infisical", Arc::new(infisical.provider().build().unwrap())),
            (
                "memory",
                Arc::new(MemoryProvider::from_iter([("AUTH_SECRET", value)])),
            ),
        ];
        for (name, provider) in providers {
            let resolver = Resolver::new(provider.clone());
            let error = resolver.get("AUTH_SECRET").await.unwrap_err();
            assert_refused(&error, tool, name);
            assert_eq!(error.key(), Some(&key("AUTH_SECRET")));
            assert!(error.origin().is_some());
            let accepting = Resolver::builder(provider)
                .accept_encrypted([key("AUTH_SECRET")])
                .build();
            let accepted = accepting.get("AUTH_SECRET").await.unwrap();
            assert_eq!(accepted.value.expose_text().unwrap(), value, "{name}");
        }
    }
}

#[tokio::test]
async fn only_the_named_keys_accept_ciphertexts() {
    let (value, tool) = CIPHERTEXTS[0];
    let memory = MemoryProvider::from_iter([("A", value), ("B", value), ("C", value)]);
    let resolver = Resolver::builder(memory)
        .accept_encrypted([key("A")])
        .accept_encrypted([key("B")])
        .build();
    resolver.get("A").await.unwrap();
    resolver.get("B").await.unwrap();
    assert_refused(&resolver.get("C").await.unwrap_err(), tool, "C");
    assert_eq!(resolver.counters().failures, 1);
}

#[tokio::test]
async fn ciphertext_is_accepted_when_configured() {
    let (value, _) = CIPHERTEXTS[0];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("directory");
    replace(&path.join("AUTH_SECRET"), format!("{value}\n").as_bytes());
    replace(
        &folder.path().join(".env"),
        document(Format::Env, value).as_bytes(),
    );
    let url = format!("file://{}?encrypted=accept", path.display());
    let document = format!("file://{}/.env?encrypted=accept", folder.path().display());
    let variable = EnvProvider::with_environment(OneVariable(value), "").accept_encrypted();
    let chain = MemoryProvider::new().or_else(variable);
    let providers: [Arc<dyn SecretProvider>; 4] = [
        from_url(&url).unwrap(),
        from_url(&document).unwrap(),
        Arc::new(FileProvider::directory(path).accept_encrypted()),
        Arc::new(chain),
    ];
    for provider in providers {
        // The setting of the provider is sufficient, also behind a resolver.
        let read = provider.get(&key("AUTH_SECRET")).await.unwrap();
        assert_eq!(read.value.expose_text().unwrap(), value);
        let resolved = Resolver::new(provider).get("AUTH_SECRET").await.unwrap();
        assert_eq!(resolved.value.expose_text().unwrap(), value);
    }
    for arguments in [
        &["get", "AUTH_SECRET"][..],
        &["run", "--", "sh", "-c", "printf %s \"$AUTH_SECRET\""],
    ] {
        let output = secretwell(["--from", &url])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.stdout, value.as_bytes(), "{output:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_to_a_ciphertext_keeps_the_current_value() {
    let (value, tool) = CIPHERTEXTS[0];
    let memory = MemoryProvider::from_iter([("A", "current")]);
    let resolver = resolver(memory.clone());
    assert_eq!(crate::support::text(&resolver, "A").await, "current");
    memory.set("A", value).unwrap();
    pass(secs(200)).await;
    let stale = resolver.get("A").await.unwrap();
    assert_eq!(stale.value.expose_text().unwrap(), "current");
    let Freshness::Stale { reason, .. } = stale.freshness else {
        panic!("the ciphertext must be refused")
    };
    assert_refused(&reason, tool, "rotation");
    memory.set("A", "next").unwrap();
    pass(secs(200)).await;
    assert_eq!(crate::support::text(&resolver, "A").await, "next");
}

#[tokio::test]
async fn service_does_not_start_with_a_ciphertext_of_any_field() {
    #[derive(Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    struct Settings {
        auth_secret: SecretString,
        smtp_password: Option<String>,
    }
    let (value, tool) = CIPHERTEXTS[1];
    let strong = "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=";
    for (secret, password, refused) in [
        (value, "plain", "AUTH_SECRET"),
        (strong, value, "SMTP_PASSWORD"),
    ] {
        let memory =
            MemoryProvider::from_iter([("AUTH_SECRET", secret), ("SMTP_PASSWORD", password)]);
        let auth = LazyAuth::new(Resolver::new(memory), |settings: Settings, _| async move {
            Ok((settings.auth_secret, settings.smtp_password))
        });
        for mode in [Mode::Production, Mode::Development] {
            let report = auth.preflight(mode).await;
            let [problem] = report.problems() else {
                panic!("{report}")
            };
            assert_eq!(problem.key(), Some(&key(refused)));
            assert_refused(problem, tool, "preflight");
        }
    }
}

/// Whole documents, as the tools write them. The plain keys of such a document are not served either.
fn documents() -> Vec<(Format, String, &'static str)> {
    let mac = "ENC[AES256_GCM,data:c4n4ry,iv:YQ==,tag:Yg==,type:str]";
    vec![
        (
            Format::Yaml,
            format!("A: plain\nsops:\n    age: []\n    lastmodified: \"2026-01-01T00:00:00Z\"\n    mac: {mac}\n    version: 3.9.0\n"),
            "SOPS",
        ),
        (
            Format::Json,
            format!("{{\n\t\"A\": \"plain\",\n\t\"sops\": {{\n\t\t\"mac\": \"{mac}\"\n\t}}\n}}"),
            "SOPS",
        ),
        (
            Format::Env,
            format!("A=plain\nsops_mac={mac}\nsops_version=3.9.0\n"),
            "SOPS",
        ),
        (
            Format::Yaml,
            "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nspec:\n  encryptedData:\n    A: AgBc4n4ry\n".into(),
            "Sealed Secrets",
        ),
        (
            Format::Env,
            "# generated\nDOTENV_VAULT_PRODUCTION=\"c4n4ry\"\nDOTENV_VAULT_PRODUCTION_VERSION=2\n".into(),
            "dotenv-vault",
        ),
        (Format::Env, "$ANSIBLE_VAULT;1.1;AES256\n6638c4n4ry\n".into(), "Ansible Vault"),
        (Format::Toml, "\0GITCRYPT\0\x01c4n4ry".into(), "git-crypt"),
        (Format::Json, "age-encryption.org/v1\n-> X25519 c4n4ry\n".into(), "age"),
        (Format::Env, "eyJpdiI6Imc4n4ryIn0=\n".into(), "Laravel"),
    ]
}

#[tokio::test]
async fn encrypted_document_is_refused_with_all_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("document");
    for (format, text, tool) in documents() {
        replace(&path, text.as_bytes());
        let provider = FileProvider::document(&path).format(format);
        let errors = [
            provider.get(&key("A")).await.unwrap_err(),
            provider.get(&key("sops/mac")).await.unwrap_err(),
            provider.list(&KeyPrefix::root()).await.unwrap_err(),
            provider.health().await.unwrap_err(),
        ];
        for error in errors {
            assert_refused(&error, tool, tool);
        }
    }
}

#[test]
fn every_command_refuses_a_ciphertext_by_name() {
    let (value, _) = CIPHERTEXTS[0];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env.production");
    replace(&path, document(Format::Env, value).as_bytes());
    let file = format!("file://{}", path.display());
    for source in [file.as_str(), "env://APP_"] {
        for arguments in [
            &["check", "--require", "AUTH_SECRET"][..],
            &["check"],
            &["get", "AUTH_SECRET"],
            &["run", "--", "printenv"],
            &["run", "--only", "AUTH_SECRET", "--", "printenv"],
            &["export"],
            &["list"],
            &["doctor"],
        ] {
            let output = secretwell(["--from", source])
                .args(arguments)
                .env("APP_AUTH_SECRET", value)
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).unwrap();
            assert_eq!(output.status.code(), Some(65), "{arguments:?}: {text}");
            assert!(
                text.contains("encrypted by dotenvx"),
                "{arguments:?}: {text}"
            );
            assert!(!text.contains("c4n4ry"), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn random_values_are_never_taken_for_encrypted() {
    const ALPHABETS: [&[u8]; 4] = [
        b"0123456789abcdef",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
        b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~",
    ];
    let mut random = fastrand::Rng::with_seed(17);
    let mut value = [0; 44];
    for round in 0..1_000_000 {
        match ALPHABETS.get(round % 5) {
            Some(alphabet) => value.fill_with(|| alphabet[random.usize(..alphabet.len())]),
            None => random.fill(&mut value),
        }
        assert_eq!(encrypted_by(&value), None, "{value:?}");
        if round % 8 == 0 {
            assert_eq!(encrypted_document(&value), None, "{value:?}");
        }
    }
}
