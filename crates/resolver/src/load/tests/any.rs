//! Field types that accept several forms of input. They get the text of their secret.

use bytesize::ByteSize;
use rust_decimal::Decimal;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_with::json::JsonString;
use serde_with::{As, DisplayFromStr, NoneAsEmptyString, OneOrMany, PickFirst, Same};
use time::OffsetDateTime;

use super::{keys, load, problems};

#[derive(Deserialize, Debug)]
struct Foreign {
    price: Decimal,
    maybe_price: Option<Decimal>,
    limit: ByteSize,
    since: OffsetDateTime,
    #[serde(deserialize_with = "As::<PickFirst<(Same, DisplayFromStr)>>::deserialize")]
    port: u16,
    #[serde(deserialize_with = "As::<OneOrMany<Same>>::deserialize")]
    hosts: Vec<String>,
    #[serde(deserialize_with = "As::<NoneAsEmptyString>::deserialize")]
    proxy: Option<String>,
    #[serde(deserialize_with = "As::<JsonString>::deserialize")]
    account: serde_json::Value,
}

const FOREIGN: &[(&str, &str)] = &[
    ("price", "1.10"),
    ("limit", "10 MiB"),
    ("since", "2026-01-02 03:04:05.0 +00:00:00"),
    ("port", "8080"),
    ("hosts", "a"),
    ("proxy", "http://localhost"),
    ("account", r#"{"id": 1}"#),
];

#[tokio::test]
async fn types_that_accept_any_input_get_the_text() {
    let loaded: Foreign = load(FOREIGN).await.unwrap();
    // The scale of the decimal is kept, so the text was not converted to a float.
    assert_eq!(loaded.price.to_string(), "1.10");
    assert_eq!(loaded.maybe_price, None);
    assert_eq!(loaded.limit, ByteSize::mib(10));
    assert_eq!(loaded.since.unix_timestamp(), 1_767_323_045);
    assert_eq!(loaded.port, 8080);
    assert_eq!(loaded.hosts, ["a"]);
    assert_eq!(loaded.proxy.as_deref(), Some("http://localhost"));
    assert_eq!(loaded.account["id"], 1);
}

#[tokio::test]
async fn problems_of_types_that_accept_any_input_are_reported_together() {
    let required: Vec<String> = keys::<Foreign>()
        .into_iter()
        .filter(|key| key != "maybe_price")
        .collect();
    let expected: Vec<String> = required
        .iter()
        .map(|key| format!("{key} not found"))
        .collect();
    assert_eq!(problems::<Foreign>(&[]).await, expected);

    let invalid: Vec<(&str, &str)> = ["price", "maybe_price", "limit", "since", "port", "account"]
        .map(|key| (key, "c4n4ry,"))
        .to_vec();
    let valid = FOREIGN
        .iter()
        .filter(|(key, _)| ["hosts", "proxy"].contains(key));
    let secrets: Vec<_> = invalid.iter().chain(valid).copied().collect();
    let expected: Vec<String> = invalid
        .iter()
        .map(|(key, _)| format!("{key} invalid"))
        .collect();
    assert_eq!(problems::<Foreign>(&secrets).await, expected);

    let error = load::<Foreign>(&secrets).await.unwrap_err();
    assert!(
        error.to_string().contains("is not a valid `Decimal`"),
        "{error}"
    );
    assert!(!format!("{error} {error:?} {error:#?}").contains("c4n4ry"));
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(untagged)]
enum Address {
    Port(u16),
    Socket(std::net::SocketAddr),
    Name(String),
}

#[tokio::test]
async fn self_describing_types_get_a_string() {
    #[derive(Deserialize)]
    struct Free {
        json: serde_json::Value,
        socket: Address,
        number: Address,
        secret: Secrets,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Secrets {
        One(SecretString),
    }
    let loaded: Free = load(&[
        ("json", r#"{"id": 1}"#),
        ("socket", "127.0.0.1:80"),
        ("number", "007"),
        ("secret", "s3cr3t"),
    ])
    .await
    .unwrap();
    assert_eq!(loaded.json, serde_json::Value::from(r#"{"id": 1}"#));
    assert_eq!(
        loaded.socket,
        Address::Socket("127.0.0.1:80".parse().unwrap())
    );
    assert_eq!(loaded.number, Address::Name("007".to_owned()));
    let Secrets::One(secret) = loaded.secret;
    assert_eq!(secret.expose_secret(), "s3cr3t");
}
