//! The official clients read what our provider reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use infisical::secrets::GetSecretRequest;
use secretwell::SecretProvider;
use secretwell::infisical::ApiVersion;
use tokio::process::Command;

use super::place::Place;
use crate::support::{key, tool};

/// Own secrets and imported ones, references, and everything that a value may hold.
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

async fn furnish(place: &Place) {
    place.write(None, "PLAIN", "plain").await;
    place.write(None, "EMPTY", "").await;
    place.write(None, "LINES", "one\r\ntwo\n").await;
    place.write(None, "UNICODE", "naïve ключ 鍵 🔑").await;
    place.write(None, "BOTH", "own").await;
    place.write(Some("first"), "SHARED", "shared").await;
    place.write(Some("first"), "BOTH", "imported").await;
    place.write(Some("first"), "TWICE", "first").await;
    place.write(Some("second"), "TWICE", "second").await;
    let deep = place
        .folder_path(Some("first"))
        .trim_matches('/')
        .replace('/', ".");
    let reference = format!("<${{{}.{deep}.SHARED}}>", place.environment);
    place.write(None, "REFERENCE", &reference).await;
    place.write(None, "CHAIN", "(${REFERENCE})").await;
    place.import(Some("first")).await;
    place.import(Some("second")).await;
}

async fn ours(place: &Place) -> BTreeMap<String, String> {
    let provider = place.provider().build().unwrap();
    let keys: Vec<_> = NAMES.iter().map(|name| key(name)).collect();
    let answers = provider.get_many(&keys).await.into_iter();
    let text = |answer: Result<secretwell::Secret, _>| {
        let secret = answer.unwrap();
        secret.value.expose_text().unwrap().to_owned()
    };
    NAMES
        .iter()
        .map(|name| (*name).to_owned())
        .zip(answers.map(text))
        .collect()
}

/// What a script of `tests/clients` finds in the folder.
async fn by_script(place: &Place, program: PathBuf, script: &str) -> BTreeMap<String, String> {
    let mut command = Command::new(program);
    command.arg(tool(&format!("clients/{script}")));
    let output = command.envs(place.for_clients()).output().await.unwrap();
    let wrote = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{wrote}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// By its reads of single secrets: its lists show a name twice that is imported twice.
async fn by_crate(place: &Place) -> BTreeMap<String, String> {
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
    let mut found = BTreeMap::new();
    for name in NAMES {
        let request = GetSecretRequest::builder(*name, &place.project, &place.environment)
            .path(&place.folder)
            .build();
        let secret = client.secrets().get(request).await.unwrap();
        found.insert((*name).to_owned(), secret.secret_value);
    }
    found
}

#[tokio::test]
async fn the_official_clients_read_the_same() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::new(api).await;
        furnish(&place).await;
        let ours = ours(&place).await;
        assert_eq!(ours["CHAIN"], "(<shared>)");
        assert_eq!(ours["BOTH"], "own");
        assert_eq!(ours["TWICE"], "second");
        assert_eq!(
            by_script(&place, "node".into(), "infisical.mjs").await,
            ours
        );
        let python = tool("infisical-python/bin/python");
        assert_eq!(by_script(&place, python, "infisical.py").await, ours);
        assert_eq!(by_crate(&place).await, ours);
    }
}
