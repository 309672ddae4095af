//! Empty values, and values of white space.

use serde::Deserialize;
use serde_with::{As, NoneAsEmptyString};

use super::{ALL_VALUES, AllTypes, keys, load, problems};

#[tokio::test]
async fn empty_value_is_invalid_and_not_absent() {
    let empty: Vec<(&str, &str)> = ALL_VALUES.iter().map(|(key, _)| (*key, "")).collect();
    let expected: Vec<String> = keys::<AllTypes>()
        .into_iter()
        .filter(|key| ALL_VALUES.iter().any(|(known, _)| known == key))
        .map(|key| format!("{key} invalid"))
        .collect();
    assert_eq!(problems::<AllTypes>(&empty).await, expected);
    // Neither `None` nor a default replaces it.
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Lenient {
        maybe: Option<String>,
        #[serde(default)]
        default: Vec<String>,
    }
    assert_eq!(
        problems::<Lenient>(&[("maybe", ""), ("default", "")]).await,
        ["maybe invalid", "default invalid"]
    );
}

#[tokio::test]
async fn white_space_is_a_value() {
    #[derive(Deserialize, Debug)]
    struct Texts {
        text: String,
        maybe: Option<String>,
    }
    let texts: Texts = load(&[("text", " \n"), ("maybe", " ")]).await.unwrap();
    assert_eq!((&*texts.text, texts.maybe.as_deref()), (" \n", Some(" ")));
    #[derive(Deserialize, Debug)]
    #[expect(dead_code)]
    struct Others {
        port: Option<u16>,
        list: Vec<String>,
    }
    assert_eq!(
        problems::<Others>(&[("port", " "), ("list", " ")]).await,
        ["port invalid", "list invalid"]
    );
}

#[tokio::test]
async fn empty_value_is_invalid_for_types_that_accept_any_input() {
    #[derive(Deserialize, Debug)]
    struct Empty {
        #[serde(deserialize_with = "As::<NoneAsEmptyString>::deserialize", default)]
        proxy: Option<String>,
        #[expect(dead_code)]
        value: serde_json::Value,
    }
    let secrets = [("proxy", ""), ("value", "")];
    assert_eq!(
        problems::<Empty>(&secrets).await,
        ["proxy invalid", "value invalid"]
    );
    let loaded: Empty = load(&[("value", "x")]).await.unwrap();
    assert_eq!(loaded.proxy, None);
}
