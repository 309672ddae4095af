use std::time::Duration;

use secretwell_core::ErrorKind;

use super::variables::{DEFAULT_ADDRESS, timeout};
use super::*;
use crate::header::namespace;

fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let (_, value) = set.iter().find(|(known, _)| *known == name)?;
        Some((*value).to_owned())
    }
}

fn addresses(builder: &VaultBuilder) -> Vec<String> {
    let addresses = builder.settings.client.addresses().iter();
    addresses.map(ToString::to_string).collect()
}

#[test]
fn bao_variables_have_precedence_over_vault_variables() {
    let set = [
        ("VAULT_ADDR", "https://vault:8200/"),
        ("BAO_ADDR", "\u{FEFF}https://bao:8200\r\n"),
        ("VAULT_TOKEN", "t"),
        ("BAO_NAMESPACE", " \u{FEFF}"),
        ("VAULT_NAMESPACE", "\u{FEFF}team1/"),
        ("VAULT_CLIENT_TIMEOUT", "\u{FEFF} 7\r\n"),
        ("VAULT_SRV_LOOKUP", "false"),
    ];
    let builder = VaultBuilder::from_variables(&variables(&set)).unwrap();
    assert_eq!(addresses(&builder), ["https://bao:8200"]);
    assert_eq!(builder.settings.namespace.as_deref(), Some("team1/"));
    assert_eq!(namespace("team1/").unwrap(), "team1");
    builder.build().unwrap();
    assert_eq!(timeout("90s").unwrap(), Duration::from_secs(90));

    let from_home = VaultBuilder::from_variables(&variables(&[("HOME", "/home/me")])).unwrap();
    assert_eq!(addresses(&from_home), [DEFAULT_ADDRESS]);
    assert!(format!("{:?}", from_home.settings.auth).contains(".vault-token"));
}

#[test]
fn invalid_variables_are_rejected_by_name() {
    for (set, expected) in [
        (vec![], "no token"),
        (vec![("VAULT_ADDR", "vault:8200")], "https://"),
        (vec![("VAULT_ADDR", "http://vault:8200")], "unencrypted"),
        (vec![("VAULT_CLIENT_CERT", "a.pem")], "VAULT_CLIENT_KEY"),
        (
            vec![("VAULT_CLIENT_TIMEOUT", "soon")],
            "`VAULT_CLIENT_TIMEOUT` is not a duration",
        ),
        (
            vec![("VAULT_CLIENT_TIMEOUT", "0")],
            "`VAULT_CLIENT_TIMEOUT` is zero; set it to a time",
        ),
        (
            vec![("BAO_CLIENT_TIMEOUT", "0ms")],
            "`VAULT_CLIENT_TIMEOUT` is zero; set it to a time",
        ),
        (vec![("VAULT_SKIP_VERIFY", "yes")], "VAULT_SKIP_VERIFY"),
        (vec![("VAULT_SKIP_VERIFY", "true")], "does not allow"),
        (vec![("VAULT_CACERT", "/no/such.pem")], "/no/such.pem"),
        (vec![("VAULT_CAPATH", "/no/such")], "/no/such"),
        (
            vec![("VAULT_CACERT_BYTES", "c4n4ry")],
            "the configured PEM text contains no certificate",
        ),
        (
            vec![("VAULT_TLS_SERVER_NAME", "vault internal")],
            "the expected server name",
        ),
        (
            vec![
                ("BAO_CLIENT_CERT", "/no/such.pem"),
                ("VAULT_CLIENT_KEY", "/no/key.pem"),
            ],
            "/no/such.pem",
        ),
        (vec![("VAULT_HEADERS", "{}")], "VAULT_HEADERS"),
        (vec![("BAO_WRAP_TTL", "5m")], "VAULT_WRAP_TTL"),
        (vec![("VAULT_SRV_LOOKUP", "true")], "VAULT_SRV_LOOKUP"),
        (
            vec![("VAULT_ADDR", "https://vault:8200/v1/")],
            "set it to `https://vault:8200`",
        ),
        (
            vec![("VAULT_ADDR", "https://vault:8200/base/ui/")],
            "set it to `https://vault:8200/base`",
        ),
    ] {
        let mut set = set;
        if expected != "no token" {
            set.push(("VAULT_TOKEN", "c4n4ry"));
        }
        let built = VaultBuilder::from_variables(&variables(&set)).and_then(VaultBuilder::build);
        let error = built.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(!format!("{error:?}").contains("c4n4ry"));
    }
    let set = [("VAULT_TOKEN", "t"), ("VAULT_SKIP_VERIFY", "1")];
    let builder = VaultBuilder::from_variables(&variables(&set)).unwrap();
    let builder = builder.client(ClientConfig::danger_skip_verification);
    builder.build().unwrap();
}

#[test]
fn url_configures_address_mount_path_and_login() {
    let set = [
        ("VAULT_ADDR", "https://from-env:8200"),
        ("VAULT_SECRET_ID", "c4n4ry"),
        ("VAULT_TOKEN", "c4n4ry"),
        ("VAULT_PASSWORD", "c4n4ry"),
    ];
    for (url, address, mount, path, kv) in [
        ("vault://", "https://from-env:8200", "secret", "", None),
        ("vault://v:1/kv", "https://v:1", "kv", "", None),
        (
            "vault://v/kv/my%20app/db/?kv=1",
            "https://v",
            "kv",
            "my app/db",
            Some(KvVersion::V1),
        ),
        (
            "vault:///team/kv/app?mount=team/kv&kv=2&auth=userpass&user=me",
            "https://from-env:8200",
            "team/kv",
            "app",
            Some(KvVersion::V2),
        ),
        (
            "vault:///kvops/app?mount=kv&auth=agent",
            "https://from-env:8200",
            "kv",
            "kvops/app",
            None,
        ),
        (
            "vault:///app?mount=/kv/&auth=agent",
            "https://from-env:8200",
            "kv",
            "app",
            None,
        ),
        (
            "vault+http://127.0.0.1:8200/secret/app?auth=approle&role=r",
            "http://127.0.0.1:8200",
            "secret",
            "app",
            None,
        ),
    ] {
        let builder = VaultBuilder::from_url_with(url, &variables(&set)).unwrap();
        assert_eq!(addresses(&builder), [address], "{url}");
        assert_eq!(
            (
                builder.settings.mount.as_str(),
                builder.settings.path.as_str()
            ),
            (mount, path),
            "{url}"
        );
        assert_eq!(builder.settings.kv, kv, "{url}");
        let provider = builder.build().unwrap();
        assert!(!format!("{provider:?}").contains("c4n4ry"));
    }
    let several = VaultBuilder::from_url_with("vault://a:1,b:2/kv", &variables(&set)).unwrap();
    assert_eq!(addresses(&several), ["https://a:1", "https://b:2"]);
}

#[test]
fn every_login_method_can_be_chosen_in_a_url() {
    let set = [
        ("VAULT_ROLE_ID", "role-of-the-variable"),
        ("VAULT_SECRET_ID", "c4n4ry"),
        ("VAULT_PASSWORD", "c4n4ry"),
        ("VAULT_JWT", "c4n4ry"),
    ];
    for (options, path, expected) in [
        ("auth=approle", "approle/login", "Plain(Credential"),
        ("auth=approle&role=r", "approle/login", "Plain"),
        (
            "auth=approle&role_id_file=/r&bind_secret_id=false",
            "approle/login",
            "Unbound",
        ),
        (
            "auth=approle&role_id=r&wrapped_secret_id_file=/w",
            "approle/login",
            "Wrapped",
        ),
        ("auth=kubernetes&role=r", "kubernetes/login", "/var/run"),
        ("auth=jwt&role=r&auth_mount=idp", "idp/login", "\"r\""),
        ("auth=userpass&user=me", "userpass/login/me", "\"me\""),
        (
            "auth=ldap&user=my%20name",
            "ldap/login/my%20name",
            "\"ldap\"",
        ),
        ("auth=cert", "cert/login", "None"),
        (
            "auth=aws&role=r&aws_region=eu-central-1&aws_server_id=v",
            "aws/login",
            "eu-central-1",
        ),
    ] {
        let url = format!("vault://v/kv?{options}");
        let builder = VaultBuilder::from_url_with(&url, &variables(&set)).unwrap();
        let auth = &builder.settings.auth;
        assert_eq!(auth.path().unwrap(), format!("/v1/auth/{path}"), "{url}");
        let shown = format!("{auth:?}");
        assert!(shown.contains(expected), "{url}: {shown}");
        assert!(!shown.contains("c4n4ry"), "{shown}");
        builder.build().unwrap();
    }
}

#[test]
fn credential_variables_are_those_of_the_login_method() {
    let set = [
        ("VAULT_TOKEN", "c4n4ry"),
        ("VAULT_ROLE_ID", "r"),
        ("VAULT_SECRET_ID", "c4n4ry"),
        ("VAULT_PASSWORD", "c4n4ry"),
        ("VAULT_JWT", "c4n4ry"),
    ];
    for (options, expected) in [
        ("", &["BAO_TOKEN", "VAULT_TOKEN"][..]),
        ("token_file=/t", &[]),
        (
            "auth=approle",
            &[
                "BAO_ROLE_ID",
                "VAULT_ROLE_ID",
                "BAO_SECRET_ID",
                "VAULT_SECRET_ID",
            ],
        ),
        (
            "auth=approle&role_id=r",
            &["BAO_SECRET_ID", "VAULT_SECRET_ID"],
        ),
        ("auth=approle&role_id=r&secret_id_file=/s", &[]),
        ("auth=jwt&role=r", &["BAO_JWT", "VAULT_JWT"]),
        ("auth=userpass&user=me", &["BAO_PASSWORD", "VAULT_PASSWORD"]),
        (
            "auth=aws&role=r",
            &[
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
            ],
        ),
        ("auth=kubernetes&role=r", &[]),
        ("auth=agent", &[]),
    ] {
        let url = format!("vault://v/kv?{options}");
        let builder = VaultBuilder::from_url_with(&url, &variables(&set)).unwrap();
        assert_eq!(builder.credential_variables(), expected, "{options}");
    }
    let builder = VaultBuilder::from_variables(&variables(&set)).unwrap();
    assert_eq!(builder.credential_variables(), ["BAO_TOKEN", "VAULT_TOKEN"]);
    assert!(
        builder
            .auth(VaultAuth::agent())
            .credential_variables()
            .is_empty()
    );
}

#[tokio::test]
async fn missing_token_names_what_to_set() {
    let token = token(&Variables::new(&variables(&[("HOME", "/nonexistent")]))).unwrap();
    let error = token.read().await.unwrap_err().to_string();
    for expected in ["/nonexistent/.vault-token", "`VAULT_TOKEN`", "`auth`"] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn plain_http_to_another_machine_is_allowed_by_an_option_or_a_variable() {
    let build = |url: &str, set: &[(&str, &str)]| {
        let builder = VaultBuilder::from_url_with(url, &variables(set))?;
        builder.build().map(drop)
    };
    let allowed = [("SECRETWELL_ALLOW_HTTP", "true")];
    build("vault+http://vault/kv?auth=agent", &allowed).unwrap();
    build("vault+http://vault/kv?auth=agent&allow_http=true", &[]).unwrap();
    for (url, set, expected) in [
        ("allow_http=false", "", "unencrypted"),
        ("kv=2", "false", "unencrypted"),
        ("kv=2", " ", "unencrypted"),
        ("allow_http=maybe", "", "`allow_http`"),
        ("kv=2", "maybe", "SECRETWELL_ALLOW_HTTP"),
    ] {
        let url = format!("vault+http://vault/kv?auth=agent&{url}");
        let error = build(&url, &[("SECRETWELL_ALLOW_HTTP", set)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
}

#[test]
fn url_errors_name_the_problem_but_no_credentials() {
    for (url, expected) in [
        ("vault://v/kv?token=c4n4ry", "must not contain credentials"),
        (
            "vault://v/kv?auth=approle&role=r&secret_id=c4n4ry",
            "secret_id_file",
        ),
        ("vault://u:c4n4ry@v/kv", "credentials"),
        (
            "vault://v/kv?auth=github",
            "the login method `github` is not supported",
        ),
        ("vault://v/kv?auth=approle", "`role_id`"),
        (
            "vault://v/kv?auth=approle&role_id=%20&bind_secret_id=false",
            "role or user",
        ),
        (
            "vault://v/kv?auth=approle&role_id=r&bind_secret_id=no",
            "`bind_secret_id`",
        ),
        ("vault://v/kv?auth=ldap", "`user`"),
        ("vault://v/kv?auth=aws", "`role`"),
        ("vault://v/kv?auth=aws&role=r&aws_region=eu/1", "AWS region"),
        ("vault://v/kv?auth=approle&role=r", "secret_id"),
        ("vault://v/kv?auth=jwt&role=r", "jwt"),
        ("vault://v/kv?auth=kubernetes&role=", "empty"),
        ("vault://v/kv", "no token"),
        ("vault://v/kv?kv=3&auth=agent", "neither 1 nor 2"),
        ("vault://v/kv?auth=agent&auth=agent", "twice"),
        ("vault://v/kv?depth=1", "the options are: auth"),
        ("vault+http://v/kv?auth=agent", "unencrypted"),
        ("vault://v/a/../b?auth=agent", "`..`"),
        ("vault://v/kv?auth=agent&namespace=a%0Ab", "namespace"),
    ] {
        let built = VaultBuilder::from_url_with(url, &variables(&[])).and_then(VaultBuilder::build);
        let error = built.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}: {error}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("c4n4ry"), "{url}");
    }
}

#[test]
fn proxy_is_set_by_an_option_or_a_variable() {
    let build = |url: &str, set: &[(&str, &str)]| {
        let builder = VaultBuilder::from_url_with(url, &variables(set))?;
        builder.build().map(drop)
    };
    let url = "vault://vault/kv?auth=agent";
    for name in ["VAULT_PROXY_ADDR", "VAULT_HTTP_PROXY", "BAO_PROXY_ADDR"] {
        build(url, &[(name, "http://proxy:3128")]).unwrap();
        let unsupported = [(name, "socks5://me:hunter2@proxy")];
        let error = build(url, &unsupported).unwrap_err();
        assert!(error.to_string().contains("SOCKS"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        // The option has precedence.
        build(&format!("{url}&proxy=none"), &unsupported).unwrap();
    }
    let error = build(&format!("{url}&proxy=socks5://proxy"), &[]).unwrap_err();
    assert!(error.to_string().contains("SOCKS"), "{error}");
}

#[test]
fn origin_has_the_namespace() {
    let url = "vault://vault:8200/secret/app?namespace=team1/";
    let provider = VaultBuilder::from_url_with(url, &variables(&[("VAULT_TOKEN", "t")]));
    let provider = provider.unwrap().build().unwrap();
    let origin = secretwell_core::SecretProvider::origin(&provider).as_str();
    assert_eq!(origin, "vault://vault:8200/secret/app?namespace=team1");
}

#[test]
fn wrong_options_are_named_with_their_own_form() {
    for (option, expected) in [
        ("kv=v2", "write it like `kv=2`"),
        (
            "auth=kerberos",
            "the login method `kerberos` is not supported",
        ),
    ] {
        let url = format!("vault://vault:8200/secret/app?{option}");
        let error = VaultBuilder::from_url_with(&url, &variables(&[("VAULT_TOKEN", "t")]));
        let error = error.err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let url = "vault://vault:8200/secret/app?auth=hvs.CAESIJc4n4ry";
    let error = VaultBuilder::from_url_with(url, &variables(&[]))
        .err()
        .unwrap();
    assert!(!error.to_string().contains("c4n4ry"), "{error}");
}

/// Without any authority, the server's certificate would be checked against those of the system only.
#[test]
fn directory_of_authorities_with_hidden_files_only_is_an_error() {
    let directory = std::env::temp_dir().join(format!("secretwell-capath-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("folder")).unwrap();
    std::fs::write(directory.join(".hidden"), "c4n4ry").unwrap();
    let path = directory.display().to_string();
    let set = [("VAULT_TOKEN", "t"), ("VAULT_CAPATH", path.as_str())];
    let error = VaultBuilder::from_variables(&variables(&set)).unwrap_err();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("has no files"), "{error}");
}

#[test]
fn url_of_another_scheme_is_refused_without_its_content() {
    for url in [
        "https://user:c4n4ry@vault/secret/app",
        "vaults://c4n4ry@vault/secret/app",
        "VAULT://c4n4ry@vault/secret/app",
        "c4n4ry",
        "",
    ] {
        let error = VaultBuilder::from_url_with(url, &variables(&[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert!(!format!("{error:#?}").contains("c4n4ry"), "{error:#?}");
    }
}
