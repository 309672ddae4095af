//! Panics in code of the user's types.

use secretwell_core::{ErrorKind, MemoryProvider};
use serde::{Deserialize, Deserializer};

use super::{Plan, keys, load, problems};
use crate::Resolver;

const CANARY: &str = "c4n4ry";

/// A type whose conversion panics on every text except `accepted`.
#[derive(Deserialize, Debug)]
#[serde(from = "String")]
struct Fragile;

impl From<String> for Fragile {
    fn from(text: String) -> Self {
        assert_eq!(text, "accepted");
        Self
    }
}

/// A type that panics on each error of the deserializer.
#[derive(Debug)]
struct Unwrapping;

impl<'de> Deserialize<'de> for Unwrapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer).ok().unwrap();
        assert_eq!(text, "accepted");
        Ok(Self)
    }
}

/// A struct that cannot be built from its accepted fields.
#[derive(Deserialize, Debug)]
#[serde(from = "Raw")]
struct FragileStruct;

#[derive(Deserialize)]
struct Raw {
    inner: String,
}

impl From<Raw> for FragileStruct {
    fn from(raw: Raw) -> Self {
        assert_eq!(raw.inner, "accepted");
        Self
    }
}

#[derive(Deserialize, Debug)]
#[expect(dead_code)]
struct Panics {
    before: u8,
    fragile: Fragile,
    maybe: Option<Fragile>,
    unwrapping: Unwrapping,
    #[serde(deserialize_with = "panic_always")]
    function: u8,
    nested: FragileStruct,
    after: String,
}

fn panic_always<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    panic!("no `{}`", String::deserialize(deserializer)?)
}

#[tokio::test]
async fn panic_is_a_problem_that_names_the_field() {
    let expected_keys = [
        "before",
        "fragile",
        "maybe",
        "unwrapping",
        "function",
        "nested/inner",
        "after",
    ];
    assert_eq!(keys::<Panics>(), expected_keys);
    let secrets = expected_keys.map(|key| (key, CANARY));
    let error = load::<Panics>(&secrets).await.unwrap_err();
    let text = error.to_string();
    for expected in [
        "before from memory://: invalid: the value is not a valid `u8`",
        "fragile from memory://: invalid: the code that deserializes `Fragile` panicked",
        "maybe from memory://: invalid: the code that deserializes `Fragile` panicked",
        "unwrapping from memory://: invalid: the code that deserializes `Unwrapping` panicked",
        "function from memory://: invalid: the code that deserializes the value panicked",
        "nested: invalid: the code that deserializes `FragileStruct` panicked",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(error.problems().len(), 6);
    assert!(!error.is_temporary());
    assert!(!format!("{error} {error:?} {error:#?}").contains(CANARY));
}

#[tokio::test]
async fn panic_on_a_sample_reports_only_the_absent_keys() {
    assert_eq!(
        problems::<Panics>(&[("before", "1"), ("after", "a")]).await,
        [
            "fragile not found",
            "unwrapping not found",
            "function not found",
            "nested/inner not found",
        ],
    );
}

#[test]
fn panic_on_the_probe_does_not_leave_the_plan() {
    let error = Plan::<Unwrapping>::new().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn panic_of_the_whole_struct_is_reported() {
    assert_eq!(
        problems::<FragileStruct>(&[("inner", "other")]).await,
        ["- invalid"]
    );
    assert!(
        load::<FragileStruct>(&[("inner", "accepted")])
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn panic_while_a_rejected_struct_is_dropped_is_caught() {
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Outer {
        bomb: Bomb,
        port: u16,
    }
    #[derive(Deserialize, Debug)]
    struct Bomb(String);

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert_ne!(self.0, "armed");
        }
    }
    let resolver = Resolver::new(MemoryProvider::from_iter([
        ("bomb", "armed"),
        ("port", "x"),
    ]));
    let error = resolver.load::<Outer>().await.unwrap_err();
    assert_eq!(error.problems()[0].kind(), ErrorKind::Invalid);
}
