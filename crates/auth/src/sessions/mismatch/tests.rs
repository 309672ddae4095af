use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::*;

/// A value that must not be part of an error.
const CANARY: &str = "ada.canary@example.com";
const NUMBER: u64 = 73_501_733;

#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Reader,
    Writer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    #[allow(dead_code)]
    age: u8,
}

#[derive(Debug, Deserialize)]
struct Team {
    #[allow(dead_code)]
    lead: bool,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[allow(dead_code)]
enum Login {
    Password { hash: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
#[allow(dead_code)]
enum Id {
    Number(u32),
    List(Vec<u32>),
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
enum Content {
    Pair(u8, u8),
    Named { size: u8 },
    Empty,
}

#[derive(Debug)]
struct Mail;

impl<'de> Deserialize<'de> for Mail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "valid" => Ok(Self),
            "foreign" => Err(de::Error::invalid_value(Unexpected::Other(CANARY), &"mail")),
            "expected" => {
                let expected = format!("something like {CANARY}");
                Err(de::Error::invalid_value(
                    Unexpected::Str(&text),
                    &&*expected,
                ))
            }
            _ => Err(de::Error::custom(format!("`{text}` is no mail, {CANARY}"))),
        }
    }
}

/// Returns the field and the problem. Checks that no value is part of them.
fn describe<C: DeserializeOwned>(claims: &Value) -> (String, String) {
    let text = claims.to_string();
    assert!(serde_json::from_str::<C>(&text).is_err(), "{text}");
    let error = mismatch::<C>(&text);
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains("canary") && !shown.contains("73501733"),
        "{shown}"
    );
    (error.field.unwrap_or_default(), error.problem)
}

fn assert_describes<C: DeserializeOwned>(claims: &Value, field: &str, problem: &str) {
    let (found_field, found_problem) = describe::<C>(claims);
    assert_eq!(
        (&*found_field, &*found_problem),
        (field, problem),
        "{claims}"
    );
}

macro_rules! claims {
    ($($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)?) => {{
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Claims { $($(#[$attribute])* $field: $type),* }
        describe::<Claims>
    }};
}

#[track_caller]
fn check(found: (String, String), field: &str, problem: &str) {
    assert_eq!((&*found.0, &*found.1), (field, problem));
}

#[test]
fn missing_null_and_other_types_name_the_claim_and_both_types() {
    let role = claims! { name: String, role: String };
    check(role(&json!({"name": CANARY})), "role", "it is missing");
    check(
        role(&json!({"name": CANARY, "role": null})),
        "role",
        "expected a string, found null",
    );
    for (value, found) in [
        (json!(NUMBER), "an integer"),
        (json!(-73_501_733), "an integer"),
        (json!(73_501_733.5), "a floating-point number"),
        (json!(true), "a boolean"),
        (json!([CANARY]), "an array"),
        (json!({CANARY: CANARY}), "an object"),
    ] {
        check(
            role(&json!({"name": CANARY, "role": value})),
            "role",
            &format!("expected a string, found {found}"),
        );
    }
    check(
        claims! { age: u8 }(&json!({"age": NUMBER})),
        "age",
        "expected u8, found an integer that is not one",
    );
}

#[test]
fn nested_claims_have_a_path_and_keys_of_maps_are_data() {
    check(
        claims! { user: Profile }(&json!({"user": {"age": CANARY}})),
        "user.age",
        "expected u8, found a string",
    );
    check(
        claims! { user: Option<Profile> }(&json!({"user": {}})),
        "user.age",
        "it is missing",
    );
    check(
        claims! { user: Profile }(&json!({"user": {"age": 1, CANARY: 1}})),
        "user.*",
        "the type does not have it",
    );
    check(
        claims! { teams: Vec<Team> }(&json!({"teams": [{"lead": true}, {"lead": CANARY}]})),
        "teams[1].lead",
        "expected a boolean, found a string",
    );
    check(
        claims! { teams: BTreeMap<String, Team> }(&json!({"teams": {CANARY: {"lead": CANARY}}})),
        "teams.*.lead",
        "expected a boolean, found a string",
    );
    check(
        claims! { a: HashMap<u32, String>, b: HashMap<Role, u8> }(
            &json!({"a": {"1": CANARY}, "b": {"reader": CANARY}}),
        ),
        "b.*",
        "expected u8, found a string",
    );
    check(
        claims! { pair: (u8, u8) }(&json!({"pair": [1]})),
        "pair",
        "expected a tuple of size 2, found another length",
    );
}

#[test]
fn variants_of_enums_are_named_and_values_are_not() {
    check(
        claims! { role: Role }(&json!({"role": CANARY})),
        "role",
        "expected one of `reader`, `writer`",
    );
    check(
        claims! { role: Role }(&json!({"role": {"reader": CANARY}})),
        "role",
        "expected unit, found a string",
    );
    check(
        claims! { content: Content }(&json!({"content": {"Named": {"size": CANARY}}})),
        "content.size",
        "expected u8, found a string",
    );
    check(
        claims! { content: Content }(&json!({"content": {"Pair": [1, CANARY]}})),
        "content[1]",
        "expected u8, found a string",
    );
    check(
        claims! { content: Content }(&json!({"content": "Pair"})),
        "content",
        "the variant of the enum has no content",
    );
    check(
        claims! { content: Content }(&json!({"content": [CANARY]})),
        "content",
        "expected a variant of an enum",
    );
    check(
        claims! { id: Id }(&json!({"id": CANARY})),
        "id",
        "it matches no variant of the enum",
    );
    check(
        claims! { login: Login }(&json!({"login": {"kind": CANARY}})),
        "login.*",
        "expected one of `password`",
    );
    check(
        claims! { login: Login }(&json!({"login": {"kind": "password", "hash": CANARY}})),
        "login",
        "expected u32, found a string",
    );
}

#[test]
fn texts_of_other_code_are_left_out() {
    let mail = claims! { mail: Mail };
    for value in [CANARY, "x", "foreign"] {
        let (field, problem) = mail(&json!({"mail": value, "name": CANARY}));
        assert_eq!(field, "mail");
        assert!(
            [
                "the type refuses its value",
                "expected mail, found another kind of value that is not one"
            ]
            .contains(&&*problem),
            "{problem}"
        );
    }
    check(
        mail(&json!({"mail": "expected", "name": CANARY})),
        "mail",
        "it has another type or value",
    );
    check(
        claims! { address: IpAddr }(&json!({"address": CANARY})),
        "address",
        "the type refuses its value",
    );
}

#[test]
fn flattened_claim_is_found_by_its_value() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Claims {
        name: String,
        #[serde(flatten)]
        profile: Profile2,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Profile2 {
        age: u8,
        role: Option<Role>,
    }
    assert_describes::<Claims>(
        &json!({"name": "Ada", "age": CANARY}),
        "age",
        "expected u8, found a string",
    );
    assert_describes::<Claims>(
        &json!({"name": "Ada", "age": 1, "role": CANARY}),
        "role",
        "expected one of `reader`, `writer`",
    );
    assert_describes::<Claims>(&json!({"name": CANARY}), "age", "it is missing");
    assert_describes::<Claims>(
        &json!({"name": NUMBER, "age": 1}),
        "name",
        "expected a string, found an integer",
    );
    // Two claims have the refused value, so it is not known which one is meant.
    assert_describes::<Claims>(
        &json!({"name": "Ada", "age": CANARY, "mail": CANARY}),
        "",
        "expected u8, found a string",
    );
}

#[test]
fn unknown_repeated_and_unsuitable_claims_as_a_whole() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Strict {
        name: String,
    }
    assert_describes::<Strict>(
        &json!({"name": CANARY, "role": CANARY}),
        "role",
        "the type does not have it",
    );
    assert_describes::<Vec<u8>>(
        &json!({"name": CANARY}),
        "",
        "expected a sequence, found an object",
    );
    assert_describes::<HashMap<String, u8>>(
        &json!({"name": CANARY}),
        "name",
        "expected u8, found a string",
    );
    let repeated = format!(r#"{{"name":"{CANARY}","name":"{CANARY}"}}"#);
    assert!(serde_json::from_str::<Strict>(&repeated).is_err());
    let error = mismatch::<Strict>(&repeated);
    assert_eq!(
        (error.field, &*error.problem),
        (None, "the type refuses them")
    );
}

#[test]
fn raw_claim_is_not_named_instead_of_the_one_that_does_not_fit() {
    use serde_json::value::RawValue;
    check(
        claims! { extra: Box<RawValue>, number: serde_json::Number, role: Role }(
            &json!({"extra": {"mail": CANARY}, "number": 1.5, "role": CANARY}),
        ),
        "role",
        "expected one of `reader`, `writer`",
    );
}

/// The text is valid JSON, so the token is authentic, and the user is logged in.
#[test]
fn claims_that_cannot_be_represented_are_described() {
    let nested = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    for claims in [nested.as_str(), r#"{"a":1e400}"#] {
        if serde_json::from_str::<Value>(claims).is_ok() {
            // Another crate has enabled `arbitrary_precision`.
            continue;
        }
        let error = mismatch::<Value>(claims);
        assert_eq!(error.field, None);
        assert!(error.problem.contains("too large"), "{error}");
    }
}
