mod any;
mod empty;
mod forms;
mod lists;
mod panics;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use secretwell_core::{Error, ErrorKind, MemoryProvider, SecretKey, SecretValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::error::short_type_name;

fn resolver(secrets: &[(&str, &str)]) -> Resolver {
    Resolver::new(secrets.iter().copied().collect::<MemoryProvider>())
}

async fn load<T: DeserializeOwned>(secrets: &[(&str, &str)]) -> Result<T, LoadError> {
    resolver(secrets).load().await
}

/// A struct with one secret.
#[derive(Deserialize, Debug)]
struct One<T> {
    value: T,
}

/// Loads one secret with the value `text` as a `T`.
async fn read<T: DeserializeOwned>(text: &str) -> T {
    let loaded: One<T> = load(&[("value", text)])
        .await
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    loaded.value
}

/// Returns the problems of a load that must fail, as `KEY kind`.
async fn problems<T: DeserializeOwned>(secrets: &[(&str, &str)]) -> Vec<String> {
    let Err(error) = load::<T>(secrets).await else {
        panic!("the load succeeded")
    };
    let key = |problem: &Error| problem.key().map_or("-".into(), ToString::to_string);
    error
        .problems()
        .iter()
        .map(|problem| format!("{} {}", key(problem), problem.kind()))
        .collect()
}

fn keys<T: DeserializeOwned>() -> Vec<String> {
    Plan::<T>::new()
        .unwrap()
        .keys()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Low,
    High,
}

#[derive(Deserialize)]
struct Wrapped(u32);

#[derive(Deserialize)]
struct AllTypes {
    text: String,
    secret: SecretString,
    bytes: SecretValue,
    small: u8,
    signed: i64,
    ratio: f64,
    flag: bool,
    letter: char,
    address: IpAddr,
    level: Level,
    wait: Duration,
    items: Vec<String>,
    pair: (u16, bool),
    wrapped: Wrapped,
    maybe: Option<u16>,
    boxed: Box<str>,
}

const ALL_VALUES: &[(&str, &str)] = &[
    ("text", " kept unchanged\n"),
    ("secret", "s3cr3t"),
    ("bytes", "raw"),
    ("small", " 255\n"),
    ("signed", "-9"),
    ("ratio", "0.5"),
    ("flag", "Yes"),
    ("letter", "x"),
    ("address", "::1"),
    ("level", "high"),
    ("wait", "1m 30s"),
    ("items", "a, b,c"),
    ("pair", "1,true"),
    ("wrapped", "7"),
    ("boxed", "b"),
];

#[tokio::test]
async fn all_supported_field_types_load() {
    let loaded: AllTypes = load(ALL_VALUES).await.unwrap();
    assert_eq!(loaded.text, " kept unchanged\n");
    assert_eq!(loaded.secret.expose_secret(), "s3cr3t");
    assert_eq!(loaded.bytes.expose_bytes(), b"raw");
    assert_eq!((loaded.small, loaded.signed, loaded.ratio), (255, -9, 0.5));
    assert_eq!((loaded.flag, loaded.letter), (true, 'x'));
    assert_eq!(loaded.address, "::1".parse::<IpAddr>().unwrap());
    assert_eq!(loaded.level, Level::High);
    assert_eq!(loaded.wait, Duration::from_secs(90));
    assert_eq!(loaded.items, ["a", "b", "c"]);
    assert_eq!(loaded.pair, (1, true));
    assert_eq!(
        (loaded.wrapped.0, loaded.maybe, &*loaded.boxed),
        (7, None, "b")
    );
}

#[tokio::test]
async fn all_absent_keys_are_reported_together() {
    let expected: Vec<String> = keys::<AllTypes>()
        .into_iter()
        .filter(|key| key != "maybe")
        .map(|key| format!("{key} not found"))
        .collect();
    assert_eq!(problems::<AllTypes>(&[]).await, expected);
}

#[tokio::test]
async fn absent_and_invalid_fields_have_different_kinds() {
    let mut secrets = ALL_VALUES.to_vec();
    secrets.retain(|(key, _)| !["text", "level"].contains(key));
    secrets.extend([
        ("small", "256"),
        ("address", "not an address"),
        ("maybe", "x"),
        ("wait", "30"),
    ]);
    assert_eq!(
        problems::<AllTypes>(&secrets).await,
        [
            "text not found",
            "small invalid",
            "address invalid",
            "level not found",
            "wait invalid",
            "maybe invalid"
        ],
    );
}

/// A type that accepts no sample value.
#[derive(Deserialize, Debug)]
#[serde(try_from = "String")]
struct Picky;

impl TryFrom<String> for Picky {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "accepted" => Ok(Self),
            _ => Err(format!("{text} is not accepted")),
        }
    }
}

#[tokio::test]
async fn problems_after_a_field_that_accepts_no_sample_are_reported() {
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Outer {
        before: String,
        inner: Inner,
        spare: Option<Inner>,
        after: String,
        maybe: Option<u8>,
        count: u8,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Inner {
        picky: Picky,
        port: u16,
        late: String,
    }
    assert_eq!(
        problems::<Outer>(&[
            ("inner/picky", "c4n4ry"),
            ("inner/port", "x"),
            ("spare/picky", "c4n4ry"),
            ("count", "300"),
        ])
        .await,
        [
            "before not found",
            "inner/picky invalid",
            "inner/port invalid",
            "inner/late not found",
            "spare/picky invalid",
            "after not found",
            "count invalid",
        ],
    );
    let good = [
        ("before", "b"),
        ("inner/picky", "accepted"),
        ("inner/port", "1"),
        ("inner/late", "l"),
        ("after", "a"),
        ("count", "3"),
    ];
    assert!(load::<Outer>(&good).await.is_ok());

    // The hint mentions that a default might apply.
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Flat {
        picky: Picky,
        #[serde(default)]
        name: String,
    }
    let error = load::<Flat>(&[]).await.unwrap_err().to_string();
    assert!(
        error.contains("name from memory://: not found") && error.contains("has a default"),
        "{error}"
    );
    assert!(load::<Flat>(&[("picky", "accepted")]).await.is_ok());
}

#[tokio::test]
async fn error_messages_contain_no_value() {
    const CANARY: &str = "c4n4ry";
    let secrets: Vec<(&str, &str)> = ALL_VALUES.iter().map(|(key, _)| (*key, CANARY)).collect();
    let Err(error) = load::<AllTypes>(&secrets).await else {
        panic!("the load succeeded")
    };
    assert!(error.problems().len() > 7);
    assert!(!format!("{error} {error:?} {error:#?}").contains(CANARY));

    // The error of `Picky` contains its input, like the error of `url::Url`.
    #[derive(Deserialize, Debug)]
    struct Address {
        #[serde(rename = "ADDRESS")]
        _address: Picky,
    }
    let error = load::<Address>(&[("ADDRESS", CANARY)]).await.unwrap_err();
    assert_eq!(error.problems()[0].kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`Picky`"), "{error}");
    assert!(!format!("{error} {error:?} {error:#?}").contains(CANARY));
}

#[tokio::test]
async fn invalid_value_error_names_the_type_or_the_variants() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code)]
    struct Reasons {
        port: Option<u16>,
        level: Level,
    }
    let error = load::<Reasons>(&[("port", "x"), ("level", "medium")])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Reasons: 2 problems\n  \
         - port from memory://: invalid: the value is not a valid `u16`\n  \
         - level from memory://: invalid: the value is not one of `low`, `high`",
    );
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Nested {
    #[expect(dead_code)]
    auth_secret: String,
    db: Db,
    replica: Option<Db>,
    #[serde(default)]
    cache: Option<Box<Db>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "UPPERCASE")]
struct Db {
    user: String,
    #[serde(alias = "PASS")]
    password: String,
    #[serde(default)]
    port: u16,
    #[serde(skip)]
    pool: usize,
}

#[tokio::test]
async fn nested_structs_use_key_prefixes() {
    assert_eq!(
        keys::<Nested>()[..5],
        [
            "AUTH_SECRET",
            "DB/USER",
            "DB/PASS",
            "DB/PASSWORD",
            "DB/PORT"
        ]
    );
    let base = [("AUTH_SECRET", "a"), ("DB/USER", "u"), ("DB/PASS", "p")];
    let loaded: Nested = load(&base).await.unwrap();
    assert_eq!(
        (loaded.db.user.as_str(), loaded.db.password.as_str()),
        ("u", "p")
    );
    assert_eq!((loaded.db.port, loaded.db.pool), (0, 0));
    assert!(loaded.replica.is_none() && loaded.cache.is_none());

    let partial: Vec<_> = base.into_iter().chain([("REPLICA/USER", "u")]).collect();
    assert_eq!(
        problems::<Nested>(&partial).await,
        ["REPLICA/PASSWORD not found"]
    );
    assert_eq!(
        problems::<Nested>(&[]).await,
        [
            "AUTH_SECRET not found",
            "DB/USER not found",
            "DB/PASSWORD not found"
        ],
    );
    let duplicate: Vec<_> = base.into_iter().chain([("DB/PASSWORD", "q")]).collect();
    let error = load::<Nested>(&duplicate).await.unwrap_err();
    assert!(error.to_string().contains("under two names"), "{error}");
}

#[tokio::test]
async fn default_of_a_struct_applies_only_if_all_its_keys_are_absent() {
    #[derive(Deserialize, Debug)]
    struct Outer {
        #[serde(default)]
        db: Db,
    }
    assert!(load::<Outer>(&[]).await.unwrap().db.user.is_empty());
    assert_eq!(
        problems::<Outer>(&[("db/USER", "u")]).await,
        ["db/PASSWORD not found"]
    );
}

#[tokio::test]
async fn generic_and_newtype_structs_load() {
    #[derive(Deserialize)]
    struct Pair<T> {
        left: T,
        right: T,
    }
    #[derive(Deserialize)]
    struct Outer(Pair<u8>);
    let loaded: Outer = load(&[("left", "1"), ("right", "2")]).await.unwrap();
    assert_eq!((loaded.0.left, loaded.0.right), (1, 2));
}

#[tokio::test]
async fn failed_read_is_an_error_even_for_an_option() {
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Optional {
        first: Option<String>,
        second: String,
    }
    let plan = Plan::<Optional>::new().unwrap();
    let down = Error::new(ErrorKind::Unavailable, "down");
    let absent = Error::new(ErrorKind::NotFound, "absent");
    let error = plan
        .assemble(vec![Err(down.clone()), Err(absent)])
        .unwrap_err();
    let kinds: Vec<_> = error.problems().iter().map(Error::kind).collect();
    assert_eq!(kinds, [ErrorKind::Unavailable, ErrorKind::NotFound]);
    assert!(!error.is_temporary());
    assert!(
        plan.assemble(vec![Err(down.clone()), Err(down)])
            .unwrap_err()
            .is_temporary()
    );
}

#[tokio::test]
async fn loaded_contains_the_origin_of_each_value() {
    #[derive(Deserialize)]
    struct Two {
        #[expect(dead_code)]
        a: String,
        #[expect(dead_code)]
        b: Option<String>,
    }
    let (plan, resolver) = (Plan::<Two>::new().unwrap(), resolver(&[("a", "1")]));
    let loaded = plan.assemble(resolver.get_many(plan.keys()).await).unwrap();
    assert_eq!(loaded.secrets.len(), 1);
    assert_eq!(loaded.secrets[0].0.as_str(), "a");
    assert_eq!(loaded.secrets[0].1.origin.as_str(), "memory://");
}

#[test]
fn unsupported_types_are_rejected_with_an_alternative() {
    #[derive(Deserialize)]
    struct Flat {
        #[expect(dead_code)]
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    #[serde(tag = "kind")]
    enum Kind {
        Plain,
    }
    #[derive(Deserialize)]
    struct Tagged {
        #[expect(dead_code)]
        kind: Kind,
    }
    #[derive(Deserialize)]
    struct Recursive {
        #[expect(dead_code)]
        inner: Option<Box<Recursive>>,
    }
    #[derive(Deserialize)]
    struct BadName {
        #[serde(rename = "../x")]
        #[expect(dead_code)]
        x: u8,
    }
    let message = |result: Result<_, Error>| result.unwrap_err().to_string();
    for (message, expected) in [
        (
            message(Plan::<Flat>::new().map(|_| ())),
            "declare every field by name",
        ),
        (message(Plan::<Tagged>::new().map(|_| ())), "or a `String`"),
        (
            message(Plan::<Recursive>::new().map(|_| ())),
            "structs are recursive",
        ),
        (
            message(Plan::<String>::new().map(|_| ())),
            "named field for each secret",
        ),
        (
            message(Plan::<BadName>::new().map(|_| ())),
            "is not a valid key",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn rejection_of_a_whole_struct_is_reported_as_invalid() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "Raw")]
    struct Checked;
    #[derive(Deserialize)]
    struct Raw {
        low: u8,
        high: u8,
    }
    impl TryFrom<Raw> for Checked {
        type Error = String;
        fn try_from(raw: Raw) -> Result<Self, String> {
            if raw.low < raw.high {
                Ok(Self)
            } else {
                Err(format!("{} is too low", raw.high))
            }
        }
    }
    assert_eq!(keys::<Checked>(), ["low", "high"]);
    assert!(
        load::<Checked>(&[("low", "1"), ("high", "2")])
            .await
            .is_ok()
    );
    assert_eq!(
        problems::<Checked>(&[("low", "2"), ("high", "1")]).await,
        ["- invalid"]
    );
    assert_eq!(
        problems::<Checked>(&[("high", "0")]).await,
        ["low not found"]
    );

    #[derive(Deserialize, Debug)]
    struct Outer {
        #[expect(dead_code)]
        range: Checked,
        #[expect(dead_code)]
        port: u16,
    }
    let error = load::<Outer>(&[("range/low", "2"), ("range/high", "1"), ("port", "x")])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Outer: 2 problems\n  \
         - range: invalid: `Checked` did not accept its values\n  \
         - port from memory://: invalid: the value is not a valid `u16`",
    );
}

#[test]
fn load_error_converts_into_one_error_with_all_problems() {
    let problem = |kind| Error::new(kind, "reason").with_key(&SecretKey::from_static("A"));
    let convert = |kinds: &[ErrorKind]| {
        let problems = kinds.iter().copied().map(problem).collect();
        Error::from(LoadError::new::<Db>(problems))
    };
    use ErrorKind::{Invalid, NotFound, Timeout, Unavailable};

    let single = convert(&[NotFound]);
    assert_eq!(single.key().unwrap().as_str(), "A");
    assert_eq!(single.to_string(), problem(NotFound).to_string());

    let both = convert(&[NotFound, Invalid]);
    assert_eq!(
        both.to_string(),
        "invalid: Db: 2 problems: (1) A: not found: reason, (2) A: invalid: reason",
    );
    for (kinds, kind, is_temporary) in [
        (&[NotFound, NotFound][..], NotFound, false),
        (&[NotFound, Unavailable], Unavailable, false),
        (&[Unavailable, Invalid], Invalid, false),
        (&[Timeout, Unavailable], Timeout, true),
        (&[], Invalid, false),
    ] {
        let error = convert(kinds);
        assert_eq!(
            (error.kind(), error.is_temporary()),
            (kind, is_temporary),
            "{kinds:?}"
        );
    }
}

#[test]
fn short_type_names_have_no_module_paths() {
    assert_eq!(
        short_type_name("alloc::vec::Vec<core::option::Option<u8>>"),
        "Vec<Option<u8>>"
    );
    assert_eq!(short_type_name("(core::net::IpAddr, u8)"), "(IpAddr, u8)");
    assert_eq!(short_type_name("secrecy::SecretBox<str>"), "SecretBox<str>");
}
