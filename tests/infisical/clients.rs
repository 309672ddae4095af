//! Comparison of our provider with the official clients.

use std::collections::BTreeMap;
use std::path::PathBuf;

use infisical::secrets::GetSecretRequest;
use secretwell::SecretProvider;
use secretwell::infisical::ApiVersion;
use tokio::process::Command;

use super::place::Place;
use crate::support::{key, tool};

/// Own secrets, imported secrets, references, and unusual values.
const NAMES: &[&str] = &[
    "PLAIN",
    "EMPTY",
    "LINES",
    "UNICODE",
    "SHARED",
    "BOTH",
    "TWICE",
    "REFERENCE",
    "CHAIN",
];

async fn write_secrets(place: &Place) {
    place.write(None, "PLAIN", "plain").await;
    place.write(None, "EMPTY", "").await;
    place.write(None, "LINES", "one\r\ntwo\n").await;
    place.write(None, "UNICODE", "naïve ключ 鍵 🔑").await;
    place.write(None, "BOTH", "own").await;
    place.write(Some("first"), "SHARED", "shared").await;
    place.write(Some("first"), "BOTH", "imported").await;
    place.write(Some("first"), "TWICE", "first").await;
    place.write(Some("second"), "TWICE", "second").await;
    let folder = place
        .folder_path(Some("first"))
        .trim_matches('/')
        .replace('/', ".");
    let reference = format!("<${{{}.{folder}.SHARED}}>", place.environment);
    place.write(None, "REFERENCE", &reference).await;
    place.write(None, "CHAIN", "(${REFERENCE})").await;
    place.import(Some("first")).await;
    place.import(Some("second")).await;
}

async fn read_with_provider(place: &Place) -> BTreeMap<String, String> {
    let provider = place.provider().build().unwrap();
    let keys: Vec<_> = NAMES.iter().map(|name| key(name)).collect();
    let results = provider.get_many(&keys).await.into_iter();
    let text = |result: Result<secretwell::Secret, _>| {
        let secret = result.unwrap();
        secret.value.expose_text().unwrap().to_owned()
    };
    NAMES
        .iter()
        .map(|name| (*name).to_owned())
        .zip(results.map(text))
        .collect()
}

/// Reads the folder with a script of `tests/clients`.
async fn read_with_script(
    place: &Place,
    program: PathBuf,
    script: &str,
) -> BTreeMap<String, String> {
    let mut command = Command::new(program);
    command.arg(tool(&format!("clients/{script}")));
    let output = command.envs(place.for_clients()).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Reads single secrets with the official crate. Its lists contain a name twice if it is imported twice.
async fn read_with_crate(place: &Place) -> BTreeMap<String, String> {
    let variables: BTreeMap<_, _> = place.for_clients().into_iter().collect();
    let mut client = infisical::Client::builder()
        .base_url(&variables["URL"])
        .build()
        .await
        .unwrap();
    let login = infisical::AuthMethod::new_universal_auth(
        &variables["CLIENT_ID"],
        &variables["CLIENT_SECRET"],
    );
    client.login(login).await.unwrap();
    let mut secrets = BTreeMap::new();
    for name in NAMES {
        let request = GetSecretRequest::builder(*name, &place.project, &place.environment)
            .path(&place.folder)
            .build();
        let secret = client.secrets().get(request).await.unwrap();
        secrets.insert((*name).to_owned(), secret.secret_value);
    }
    secrets
}

#[tokio::test]
async fn official_clients_read_the_same_values() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::new(api).await;
        write_secrets(&place).await;
        let ours = read_with_provider(&place).await;
        assert_eq!(ours["CHAIN"], "(<shared>)");
        assert_eq!(ours["BOTH"], "own");
        assert_eq!(ours["TWICE"], "second");
        assert_eq!(
            read_with_script(&place, "node".into(), "infisical.mjs").await,
            ours
        );
        let python = tool("infisical-python/bin/python");
        assert_eq!(read_with_script(&place, python, "infisical.py").await, ours);
        assert_eq!(read_with_crate(&place).await, ours);
    }
}
