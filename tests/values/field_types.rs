//! The table of supported field types in `docs/guides/field-types.md`.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use secretwell::load::Plan;
use secretwell::{MemoryProvider, Resolver, SecretString, SecretValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Prints the tables if it is set.
const PRINT: &str = "SECRETWELL_PRINT_TABLE";

#[derive(Deserialize)]
struct One<T> {
    #[serde(rename = "value")]
    _value: T,
}

/// Returns a row of the table, after each text was loaded as a `T`.
async fn row<T: DeserializeOwned>(name: &str, accepted: &[&str], refused: &[&str]) -> String {
    for (texts, is_accepted) in [(accepted, true), (refused, false)] {
        for text in texts {
            let memory = MemoryProvider::from_iter([("value", *text)]);
            let loaded = Resolver::new(memory).load::<One<T>>().await;
            assert_eq!(loaded.is_ok(), is_accepted, "{name}: {text}");
        }
    }
    let cell = |texts: &[&str]| {
        let texts = texts.iter().map(|text| format!("`{text}`"));
        match texts.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "nothing".to_owned(),
            texts => texts,
        }
    };
    format!("| {name} | {} | {} |\n", cell(accepted), cell(refused))
}

/// Returns a row for a type that cannot be loaded.
fn refused<T: DeserializeOwned>(name: &str) -> String {
    let error = Plan::<One<T>>::new().map(drop).unwrap_err().to_string();
    let (_, hint) = error.split_once("; ").unwrap();
    format!("| {name} | {hint} |\n")
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Low,
    High,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Storage {
    Memory,
    #[expect(dead_code)]
    Disk(String),
}

#[derive(Deserialize)]
struct Endpoint {
    #[expect(dead_code)]
    host: String,
    #[expect(dead_code)]
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Plain,
}

#[derive(Deserialize)]
struct Flattened {
    #[serde(flatten)]
    _rest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Recursive {
    _inner: Option<Box<Recursive>>,
}

async fn supported() -> String {
    const ANY: [&str; 4] = ["any text", "007", "1.10", "[\"a\"]"];
    [
        "| type | accepted | refused |\n| --- | --- | --- |\n".to_owned(),
        row::<String>("`String`, `Box<str>`", &ANY, &[]).await,
        row::<SecretString>("`SecretString`", &ANY, &[]).await,
        row::<SecretValue>("`SecretValue`, any bytes", &ANY, &[]).await,
        row::<PathBuf>("`PathBuf`", &["/run/a b"], &[]).await,
        row::<IpAddr>(
            "`IpAddr`, and other types that are parsed from text",
            &["127.0.0.1", "::1"],
            &["localhost", " ::1"],
        )
        .await,
        row::<SocketAddr>(
            "`SocketAddr`",
            &["[::1]:80", "10.0.0.1:80"],
            &["::1", "host:80"],
        )
        .await,
        row::<u16>(
            "integers, here `u16`",
            &["80", "+80", "0755", "1_000", "0xFF", "0o17", "0b101"],
            &["65536", "-1", "1.0", "1e3", "1__0", "80 443"],
        )
        .await,
        row::<f64>(
            "`f32`, `f64`",
            &["0.5", "-.5", "1e3", "1_000.5"],
            &["NaN", "inf", "1e400", "0x1"],
        )
        .await,
        row::<bool>(
            "`bool`, in any case",
            &["true", "false", "yes", "no", "on", "off", "1", "0"],
            &["t", "f", "y", "n", "enabled", "2"],
        )
        .await,
        row::<char>("`char`", &["x", "ß"], &["xy"]).await,
        row::<Duration>(
            "`Duration`",
            &["30s", "5m", "1h 30m", "250ms"],
            &["30", "5 parsecs", "-1s"],
        )
        .await,
        row::<Level>(
            "enum without data",
            &["low", "high"],
            &["Low", "medium", "0"],
        )
        .await,
        row::<Storage>(
            "enum with data",
            &["memory", r#"{"disk": "/data"}"#, r#"{"memory": null}"#],
            &["disk", r#"{"disk": "/a", "memory": null}"#],
        )
        .await,
        row::<Vec<String>>(
            "`Vec<String>`, and other sequences",
            &["a", "a, b", r#"["a", "b,c"]"#, "[]", "[1.10, true]"],
            &["a,,b", "a,", "[a, b]", r#"["a""#, "[null]"],
        )
        .await,
        row::<HashSet<u16>>(
            "`HashSet<u16>`",
            &["80,443", "[80, 443]", r#"["0x50"]"#],
            &["80;443", "[80", "[[80]]"],
        )
        .await,
        row::<Vec<SocketAddr>>(
            "`Vec<SocketAddr>`",
            &["[::1]:80,[::2]:80", r#"["[::1]:80"]"#],
            &["[::1]:80,x"],
        )
        .await,
        row::<Vec<Vec<u8>>>("`Vec<Vec<u8>>`", &["[[1, 2], []]"], &["[[1], [2]"]).await,
        row::<[u8; 3]>(
            "arrays of up to 32 items, tuples; here `[u8; 3]`",
            &["1,2,3", "[1, 2, 3]"],
            &["1,2", "1,2,3,4", "[]"],
        )
        .await,
        row::<Vec<Endpoint>>(
            "`Vec` of a struct",
            &[r#"[{"host": "a", "port": 1}]"#, r#"[{"host": "a"}]"#, "[]"],
            &["a", r#"[{"port": 1}]"#],
        )
        .await,
        row::<BTreeMap<String, u16>>(
            "maps, here `BTreeMap<String, u16>`",
            &[r#"{"a": 80, "b": "0x50"}"#, "{}"],
            &["a=1", "[]", r#"{"a": 1, "a": 2}"#],
        )
        .await,
        row::<serde_json::Value>(
            "`serde_json::Value`, which becomes a string",
            &["7", r#"{"a": 1}"#],
            &[],
        )
        .await,
    ]
    .concat()
}

fn unsupported() -> String {
    [
        "| type | alternative |\n| --- | --- |\n".to_owned(),
        refused::<SystemTime>("`SystemTime`"),
        refused::<Flattened>("struct with `#[serde(flatten)]`"),
        refused::<Tagged>("internally tagged enum"),
        refused::<Recursive>("recursive struct"),
    ]
    .concat()
}

#[tokio::test]
async fn table_of_field_types_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guides/field-types.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let is_printed = std::env::var_os(PRINT).is_some();
    for table in [supported().await, unsupported()] {
        if is_printed {
            println!("{table}");
        } else {
            assert!(
                guide.contains(&table),
                "run this test with {PRINT}=1 --nocapture, and update the guide"
            );
        }
    }
}
