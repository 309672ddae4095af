//! Numbers, maps, enums with data, and the messages for values that are refused.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use secretwell_core::{Error, KeyPrefix};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{One, Plan, keys, load, read};

/// Returns the problem of a value that must be refused, without its key and origin.
async fn refusal<T: DeserializeOwned>(text: &str) -> String {
    match load::<One<T>>(&[("value", text)]).await {
        Ok(_) => panic!("{text} is accepted"),
        Err(error) => {
            let problem = error.problems()[0].to_string();
            problem
                .trim_start_matches("value from memory://: invalid: ")
                .to_owned()
        }
    }
}

#[tokio::test]
async fn integers_accept_the_notations_of_documents() {
    assert_eq!(read::<u32>(" 1_000\n").await, 1000);
    assert_eq!(read::<u32>("0xDEADBEEF").await, 0xdead_beef);
    assert_eq!(read::<i8>("-0x80").await, i8::MIN);
    assert_eq!(read::<u16>("0o755").await, 0o755);
    assert_eq!(read::<u16>("0755").await, 755);
    assert_eq!(read::<u64>("+12").await, 12);
    assert_eq!(read::<u128>(&u128::MAX.to_string()).await, u128::MAX);
    assert_eq!(read::<i128>(&i128::MIN.to_string()).await, i128::MIN);
    for text in ["256", "-1", "1.0", "1e2", "x", "1 000"] {
        assert_eq!(refusal::<u8>(text).await, "the value is not a valid `u8`");
    }
}

#[tokio::test]
async fn floats_must_be_finite() {
    assert_eq!(read::<f64>("1_000.5").await, 1000.5);
    assert_eq!(read::<f32>("1e3").await, 1000.0);
    for text in ["NaN", "inf", "-inf", "1e400", "infinity", "0x1", "x"] {
        assert_eq!(
            refusal::<f64>(text).await,
            "the value is not a finite decimal number, such as `0.5`"
        );
    }
}

#[tokio::test]
async fn messages_show_the_accepted_forms() {
    for text in ["30", "30 parsecs", "-1s", "0x1s"] {
        assert_eq!(
            refusal::<Duration>(text).await,
            "the value is not a duration with a unit, such as `30s` or `5m`"
        );
    }
    for text in ["t", "y", "2", "enabled", "tru"] {
        assert_eq!(
            refusal::<bool>(text).await,
            "the value is not `true` or `false`, `yes` or `no`, `on` or `off`, `1` or `0`"
        );
    }
    assert_eq!(
        refusal::<IpAddr>(" 127.0.0.1").await,
        "the value is not a valid `IpAddr`; remove the white space around it"
    );
    assert_eq!(
        refusal::<IpAddr>("127.0.0").await,
        "the value is not a valid `IpAddr`"
    );
    assert_eq!(refusal::<u8>(" x ").await, "the value is not a valid `u8`");
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Storage {
    Memory,
    Disk(String),
    Sized(u8, u8),
    Remote { host: String, port: u16 },
}

#[tokio::test]
async fn enum_with_data_loads_from_json() {
    let remote = Storage::Remote {
        host: "a".to_owned(),
        port: 1,
    };
    assert_eq!(read::<Storage>(" memory ").await, Storage::Memory);
    assert_eq!(
        read::<Storage>(r#"{"memory": null}"#).await,
        Storage::Memory
    );
    assert_eq!(
        read::<Storage>(r#"{"disk": "/a"}"#).await,
        Storage::Disk("/a".to_owned())
    );
    assert_eq!(
        read::<Storage>(r#"{"sized": [1, 2]}"#).await,
        Storage::Sized(1, 2)
    );
    assert_eq!(
        read::<Storage>(r#" {"remote": {"host": "a", "port": 1}} "#).await,
        remote
    );
    assert_eq!(
        read::<Vec<Storage>>(r#"["memory", {"disk": "x"}]"#).await,
        [Storage::Memory, Storage::Disk("x".to_owned())]
    );
    assert_eq!(
        refusal::<Storage>("disk").await,
        "the enum variant `disk` has data; write it as the JSON object {\"disk\": …}"
    );
    assert_eq!(
        refusal::<Storage>("tape").await,
        "the value is not one of `memory`, `disk`, `sized`, `remote`"
    );
    assert!(
        refusal::<Storage>(r#"{"remote": {"host": "a"}}"#)
            .await
            .contains("`port` is missing")
    );
    assert!(
        refusal::<Storage>(r#"{"sized": [1]}"#)
            .await
            .contains("1 items, but 2")
    );
    assert!(
        refusal::<Storage>(r#"{"memory": 1}"#)
            .await
            .contains("without data")
    );
    assert!(
        refusal::<Storage>(r#"{"memory": null, "disk": "a"}"#)
            .await
            .contains("one variant")
    );
    assert!(
        refusal::<Storage>(r#"{"disk": "#)
            .await
            .contains("JSON object")
    );
}

#[tokio::test]
async fn map_field_loads_from_a_json_object() {
    #[derive(Deserialize, Debug)]
    struct Settings {
        labels: BTreeMap<String, String>,
        limits: Option<HashMap<String, u16>>,
        #[serde(default)]
        flags: BTreeMap<String, bool>,
        name: String,
    }
    assert_eq!(keys::<Settings>(), ["labels", "limits", "flags", "name"]);
    let loaded: Settings = load(&[
        ("labels", r#" {"team": "a,b", "007": 1.10} "#),
        ("limits", r#"{"a": 80, "b": "0x50"}"#),
        ("name", "n"),
    ])
    .await
    .unwrap();
    assert_eq!(loaded.labels["team"], "a,b");
    assert_eq!(loaded.labels["007"], "1.10");
    assert_eq!(
        loaded.limits.unwrap(),
        HashMap::from([("a".into(), 80), ("b".into(), 80)])
    );
    assert!(loaded.flags.is_empty());
    assert_eq!(loaded.name, "n");
    assert!(read::<BTreeMap<u8, u8>>(r#"{"1": 2}"#).await[&1] == 2);
    let nested: BTreeMap<String, BTreeMap<String, Vec<u8>>> = read(r#"{"a": {"b": [1]}}"#).await;
    assert_eq!(nested["a"]["b"], [1]);
    for text in ["a=1", "[]", "{", "{'a': 1}", "{\"a\": 1, \"a\": 2}", "{} x"] {
        assert!(
            refusal::<BTreeMap<String, u8>>(text)
                .await
                .contains("is not a JSON object"),
            "{text}"
        );
    }

    // All problems are reported, although a map accepts no other sample than an object.
    let error = load::<Settings>(&[("limits", "c4n4ry"), ("flags", r#"{"a": "c4n4ry"}"#)])
        .await
        .unwrap_err();
    let shown: Vec<_> = error
        .problems()
        .iter()
        .map(|it| it.key().unwrap().to_string())
        .collect();
    assert_eq!(shown, ["labels", "limits", "flags", "name"]);
    assert!(!format!("{error} {error:?}").contains("c4n4ry"));
}

#[test]
fn types_that_cannot_be_loaded_are_refused_by_the_plan() {
    #[derive(Deserialize)]
    struct Rest {
        #[expect(dead_code)]
        name: String,
        #[expect(dead_code)]
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    struct Outer {
        #[expect(dead_code)]
        rest: Rest,
    }
    fn refusal<T: DeserializeOwned>() -> String {
        Plan::<T>::new()
            .map(drop)
            .map_err(|error: Error| error.to_string())
            .unwrap_err()
    }
    for (message, expected) in [
        (
            refusal::<One<SystemTime>>(),
            "value: invalid configuration: the keys of `One<SystemTime>` cannot be determined: a `SystemTime` has no text; use `time::OffsetDateTime`",
        ),
        (
            refusal::<One<Option<SystemTime>>>(),
            "use `time::OffsetDateTime`",
        ),
        (refusal::<Rest>(), "a field of a map type"),
        (refusal::<Outer>(), "a field of a map type"),
        (refusal::<BTreeMap<String, String>>(), "use `load_map`"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn range_has_a_key_for_each_end() {
    assert_eq!(keys::<One<Range<u16>>>(), ["value/start", "value/end"]);
    let loaded: One<Range<u16>> = load(&[("value/start", "1"), ("value/end", "0x10")])
        .await
        .unwrap();
    assert_eq!(loaded.value, 1..16);
}

#[tokio::test]
async fn prefix_loads_as_a_map() {
    let secrets = [
        ("flags/a", "on"),
        ("flags/deep/b", "no"),
        ("flagship", "x"),
        ("ports/a", "[1, 2]"),
        ("ports/b", "3"),
        ("bad/a", "c4n4ry"),
        ("bad/b", "1"),
        ("bad/c", "c4n4ry"),
        ("bad/d", ""),
        ("bad/e", " "),
    ];
    let resolver = super::resolver(&secrets);
    let prefix = |text: &str| KeyPrefix::parse(text).unwrap();
    let flags = resolver.load_map::<bool>(&prefix("flags")).await.unwrap();
    let expected = [("a".to_owned(), true), ("deep/b".to_owned(), false)];
    assert_eq!(flags, BTreeMap::from(expected));
    let ports = resolver
        .load_map::<Vec<u8>>(&prefix("ports"))
        .await
        .unwrap();
    assert_eq!(ports["a"], [1, 2]);
    assert_eq!(ports["b"], [3]);
    assert!(
        resolver
            .load_map::<u8>(&prefix("none"))
            .await
            .unwrap()
            .is_empty()
    );
    let texts = resolver
        .load_map::<String>(&KeyPrefix::root())
        .await
        .unwrap_err();
    assert_eq!(texts.problems().len(), 1, "only the empty value is refused");
    let ports = resolver.load_map::<String>(&prefix("ports")).await.unwrap();
    assert_eq!(ports["a"], "[1, 2]");

    let error = resolver.load_map::<u8>(&prefix("bad")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "BTreeMap<String, u8>: 4 problems\n  \
         - bad/a from memory://: invalid: the value is not a valid `u8`\n  \
         - bad/c from memory://: invalid: the value is not a valid `u8`\n  \
         - bad/d from memory://: invalid: the value is empty; set a value, or remove the secret\n  \
         - bad/e from memory://: invalid: the value is not a valid `u8`"
    );
    let error = resolver
        .load_map::<One<u8>>(&prefix("bad"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("needs a key for each field"),
        "{error}"
    );
}

#[tokio::test]
async fn names_in_a_map_have_one_notation() {
    let map = read::<BTreeMap<u16, String>>(r#"{"80": "a", "443": "b"}"#).await;
    assert_eq!(map[&80], "a");
    let map = read::<BTreeMap<i64, u8>>(r#"{"-1": 1, "0": 2}"#).await;
    assert_eq!(map[&-1], 1);
    assert_eq!(read::<BTreeMap<bool, u8>>(r#"{"true": 1}"#).await[&true], 1);
    assert_eq!(read::<BTreeMap<char, u8>>(r#"{"x": 1}"#).await[&'x'], 1);
    for object in [
        r#"{"80": "a", "0x50": "b"}"#,
        r#"{"80": "a", " 80": "b"}"#,
        r#"{"080": "a"}"#,
        r#"{"+80": "a"}"#,
        r#"{"8_0": "a"}"#,
        r#"{"-0": "a"}"#,
        r#"{"65536": "a"}"#,
    ] {
        let message = refusal::<BTreeMap<u16, String>>(object).await;
        assert!(message.contains("a name of decimal digits"), "{message}");
    }
    refusal::<BTreeMap<bool, u8>>(r#"{"true": 1, "yes": 0}"#).await;
    refusal::<BTreeMap<char, u8>>(r#"{"x": 1, "x ": 0}"#).await;
    // Names that are text differ by their white space.
    let map = read::<BTreeMap<String, u8>>(r#"{"a": 1, " a": 2, "A": 3}"#).await;
    assert_eq!(map.len(), 3);
}

#[derive(Deserialize, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Level {
    Low,
    High(u8),
    Pair(u8, u8),
    Full { limit: u8 },
}

#[tokio::test]
async fn variant_that_needs_data_is_refused_as_text_and_named() {
    assert_eq!(read::<Level>("Low").await, Level::Low);
    for name in ["High", "Pair", "Full"] {
        let problem = refusal::<Level>(name).await;
        assert!(problem.contains(&format!("`{name}`")), "{problem}");
    }
    let problem = refusal::<Level>("c4n4ry").await;
    assert!(!problem.contains("c4n4ry"), "{problem}");
    // In JSON, the variants have their data.
    let levels = r#"["Low", {"High": 1}, {"Pair": [1, 2]}, {"Full": {"limit": 3}}]"#;
    let expected = vec![
        Level::Low,
        Level::High(1),
        Level::Pair(1, 2),
        Level::Full { limit: 3 },
    ];
    assert_eq!(read::<Vec<Level>>(levels).await, expected);
    for wrong in [
        r#"[{"High": 1, "Low": null}]"#,
        "[{}]",
        r#"[{"Pair": [1]}]"#,
        r#"["High"]"#,
        r#"[["Low"]]"#,
    ] {
        refusal::<Vec<Level>>(wrong).await;
    }
}

#[tokio::test]
async fn names_of_json_members_are_parsed_as_the_type_of_the_keys() {
    #[derive(Deserialize, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Port(u16);
    let ports: BTreeMap<Port, String> = read(r#"{"80": "web", "443": "tls"}"#).await;
    assert_eq!(ports[&Port(443)], "tls");
    let levels: BTreeMap<Level, u8> = read(r#"{"Low": 1}"#).await;
    assert_eq!(levels[&Level::Low], 1);
    let optional: BTreeMap<Option<bool>, char> = read(r#"{"true": "t"}"#).await;
    assert_eq!(optional[&Some(true)], 't');
    refusal::<BTreeMap<Port, String>>(r#"{"http": "web"}"#).await;
    refusal::<BTreeMap<Level, u8>>(r#"{"High": 1}"#).await;
    refusal::<BTreeMap<bool, u8>>(r#"{"yes": 1}"#).await;
}

#[tokio::test]
async fn bytes_that_are_not_text_are_refused_as_text_and_not_quoted() {
    let memory = secretwell_core::MemoryProvider::new();
    memory.set("value", &b"c4n4ry\xFF"[..]).unwrap();
    let resolver = crate::Resolver::new(memory);
    let error = resolver.load::<One<String>>().await.unwrap_err();
    let text = format!("{error} {error:#?}");
    assert!(text.contains("the value is not UTF-8 text"), "{text}");
    assert!(!text.contains("c4n4ry"), "{text}");
    let loaded: One<secretwell_core::SecretValue> = resolver.load().await.unwrap();
    assert_eq!(loaded.value.expose_bytes(), b"c4n4ry\xFF");
}
