//! Location of servers and secrets: URLs, whole secrets, and errors about mounts and paths.

use std::env;
use std::io::Write;
use std::time::SystemTime;

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, KeyPrefix, SecretProvider, from_url};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::server::{Bao, shared, unique};
use super::tls::{Authority, file};
use crate::process::{CHILD, assert_passed, run_child};
use crate::support::{assert_lists, key, keys, secs};

fn provider(bao: &Bao, mount: &str, kv: KvVersion) -> VaultProvider {
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    VaultProvider::builder([format!("http://{}", bao.address)], token)
        .unwrap()
        .mount(mount)
        .path("app")
        .kv_version(kv)
        .client(|client| client.deadline(secs(1)))
        .build()
        .unwrap()
}

async fn read_error(provider: &VaultProvider) -> Error {
    provider.get(&key("A")).await.unwrap_err()
}

#[tokio::test]
async fn url_configures_server_mount_path_and_login() {
    let bao = shared().await;
    let name = unique("url");
    bao.mount(&name, 1).await;
    bao.root("POST", &format!("{name}/team/app"), json!({"A": "value"}))
        .await;
    let rules = format!("path \"{name}/team/*\" {{ capabilities = [\"read\"] }}");
    bao.policy(&name, &rules).await;
    let login = format!("sys/auth/{name}");
    bao.root("POST", &login, json!({"type": "approle"})).await;
    let role = format!("auth/{name}/role/app");
    bao.root("POST", &role, json!({"token_policies": [name]}))
        .await;
    let role_value = async |method: &str, path: &str| {
        let response = bao
            .root(method, &format!("{role}/{path}"), Value::Null)
            .await;
        response["data"][path.replace('-', "_")]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let role_id = role_value("GET", "role-id").await;
    let mut secret_id = NamedTempFile::new().unwrap();
    secret_id
        .write_all(role_value("POST", "secret-id").await.as_bytes())
        .unwrap();

    let url = format!(
        "vault+http://{}/{name}/team/app?auth=approle&auth_mount={name}&role={role_id}&secret_id_file={}",
        bao.address,
        secret_id.path().display(),
    );
    let secret = from_url(&url).unwrap().get(&key("A")).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "value");
}

#[tokio::test]
async fn url_and_variables_configure_a_server_with_tls() {
    const NAME: &str = "vault::location::url_and_variables_configure_a_server_with_tls";
    if env::var_os(CHILD).is_some() {
        let provider = from_url(&env::var("URL").unwrap()).unwrap();
        let secret = provider.get(&key("A")).await.unwrap();
        assert_eq!(secret.value.expose_text().unwrap(), "value");
        return;
    }
    let authority = Authority::new("the tests' authority");
    let bao = Bao::with_tls(&authority.sign(&["127.0.0.1"], |_| ())).await;
    bao.mount("secret", 2).await;
    let secret = json!({"data": {"A": "value"}});
    bao.root("POST", "secret/data/app", secret).await;
    let ca = file(&authority.pem());
    // A directory with two authorities, and with what Kubernetes and editors add.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("..data")).unwrap();
    for (name, text) in [
        ("another.pem", Authority::new("another").pem()),
        ("the-tests.pem", authority.pem()),
        (".hidden", "no certificate".to_owned()),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let url = format!("vault://{}/secret/app", bao.address);
    for (name, path) in [("VAULT_CACERT", ca.path()), ("VAULT_CAPATH", folder.path())] {
        let output = run_child(
            NAME,
            &[
                ("URL", url.as_bytes()),
                ("VAULT_TOKEN", bao.root_token().as_bytes()),
                (name, path.to_str().unwrap().as_bytes()),
            ],
        );
        assert_passed(&output);
    }
}

#[tokio::test]
async fn whole_secrets_are_json_and_are_listed_by_path() {
    let bao = shared().await;
    let name = unique("whole");
    bao.mount(&name, 2).await;
    for (path, data) in [
        ("db", json!({"user": "u", "port": 5432})),
        ("a/b", json!({})),
    ] {
        let path = format!("{name}/data/app/{path}");
        bao.root("POST", &path, json!({"data": data})).await;
    }
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([format!("http://{}", bao.address)], token)
        .unwrap()
        .mount(&name)
        .path("app")
        .whole_secrets()
        .build()
        .unwrap();
    let requested = keys(&["db", "a/b", "none"]);
    let [db, empty, missing] = &provider.get_many(&requested).await[..] else {
        panic!("expected three results")
    };
    let json: Value = serde_json::from_slice(db.as_ref().unwrap().value.expose_bytes()).unwrap();
    assert_eq!(json, json!({"user": "u", "port": 5432}));
    assert_eq!(empty.as_ref().unwrap().value.expose_bytes(), b"{}");
    assert!(missing.as_ref().unwrap_err().is_not_found());
    let listed = provider.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed, keys(&["a/b", "db"]));
}

/// A name that is left out silently would be missing in the environment of a program.
#[tokio::test]
async fn names_that_cannot_be_keys_are_notices() {
    let bao = shared().await;
    let name = unique("notices");
    bao.mount(&name, 2).await;
    let fields = json!({"OK": "1", "a/b": "2", "..": "3"});
    for (path, fields) in [
        ("app", &fields),
        ("app/db", &fields),
        ("app/b%5Cad", &json!({"OK": "1"})),
    ] {
        let path = format!("{name}/data/{path}");
        bao.root("POST", &path, json!({"data": fields})).await;
    }
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let builder = VaultProvider::builder([format!("http://{}", bao.address)], token).unwrap();
    let builder = builder.mount(&name).path("app");
    let fields = builder.clone().build().unwrap();
    let whole = builder.whole_secrets().build().unwrap();
    for (provider, prefix, listed, named) in [
        (
            &fields,
            "",
            &["OK", "db/OK"][..],
            &["..", "a/b", "b\\\\ad/OK", "db/..", "db/a/b"][..],
        ),
        (&fields, "db", &["db/OK"], &["db/..", "db/a/b"]),
        // The first one is the secret at the path of the provider.
        (&whole, "", &["db"], &["", "b\\\\ad"]),
        (&whole, "db", &[], &[]),
    ] {
        assert_lists(provider, prefix, listed, named).await;
    }
}

#[tokio::test]
async fn time_of_the_server_needs_no_login() {
    let token = VaultAuth::token(Credential::value("wrong"));
    let address = format!("http://{}", shared().await.address);
    let provider = VaultProvider::builder([address], token).unwrap();
    let time = provider.path("app").build().unwrap().server_time().await;
    let difference = SystemTime::now().duration_since(time.unwrap());
    let difference = difference.unwrap_or_default();
    assert!(difference < secs(60), "{difference:?}");
}

#[tokio::test]
async fn wrong_kv_version_missing_mount_and_missing_secret_are_distinguished() {
    let bao = shared().await;
    let (one, two) = (unique("one"), unique("two"));
    bao.mount(&one, 1).await;
    bao.mount(&two, 2).await;
    bao.root("POST", &format!("{one}/app"), json!({"A": "1"}))
        .await;
    for number in 0..2 {
        let secret = json!({"data": {"A": number.to_string()}});
        bao.root("POST", &format!("{two}/data/app"), secret).await;
    }
    for (mount, kv, kind, expected) in [
        (
            one.as_str(),
            KvVersion::V2,
            ErrorKind::InvalidConfig,
            "has KV version 1",
        ),
        (
            two.as_str(),
            KvVersion::V1,
            ErrorKind::InvalidConfig,
            "has KV version 2",
        ),
        (
            "none",
            KvVersion::V2,
            ErrorKind::InvalidConfig,
            "mount does not exist",
        ),
        (
            "none",
            KvVersion::V1,
            ErrorKind::InvalidConfig,
            "mount does not exist",
        ),
    ] {
        let error = read_error(&provider(bao, mount, kv)).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_temporary(), "{error}");
    }
    let error = provider(bao, &two, KvVersion::V2).get(&key("none/A")).await;
    let error = error.unwrap_err().to_string();
    let expected = format!("the secret `{two}/data/app/none` does not exist");
    assert!(error.contains(&expected), "{error}");
    for (verb, expected) in [("delete", "was deleted"), ("destroy", "was destroyed")] {
        let path = format!("{two}/{verb}/app");
        bao.root("POST", &path, json!({"versions": [2]})).await;
        let error = read_error(&provider(bao, &two, KvVersion::V2)).await;
        assert!(
            error.is_not_found() && error.to_string().contains(expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn uninitialized_server_is_distinguished_from_a_sealed_one() {
    let mut bao = Bao::uninitialized().await;
    let token = VaultAuth::token(Credential::value("a-token"));
    let provider = VaultProvider::builder([format!("http://{}", bao.address)], token)
        .unwrap()
        .path("app")
        .client(|client| client.deadline(secs(1)))
        .build()
        .unwrap();
    let error = read_error(&provider).await;
    assert!(error.to_string().contains("not initialized"), "{error}");
    assert!(error.is_temporary(), "{error}");

    bao.initialize().await;
    bao.root("POST", "sys/seal", Value::Null).await;
    let error = read_error(&provider).await;
    assert!(error.to_string().contains("is sealed"), "{error}");
}
