//! Lists, tuples and arrays: a JSON array or items separated by commas.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, LinkedList, VecDeque};
use std::fmt::Debug;
use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};
use secretwell_core::SecretValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Level, One, load, read};

/// Returns the message of a value that must be refused.
async fn refusal<T: DeserializeOwned>(text: &str) -> String {
    match load::<One<T>>(&[("value", text)]).await {
        Ok(_) => panic!("{text} is accepted"),
        Err(error) => error.problems()[0].message().to_owned(),
    }
}

#[tokio::test]
async fn every_sequence_type_accepts_both_notations() {
    async fn check<T: DeserializeOwned + IntoIterator<Item = String>>() {
        for text in [
            r#"["a", "b,c"]"#,
            " [\"a\",\n\"b,c\"]\n",
            r#"["a","\u0062,c"]"#,
        ] {
            let mut items: Vec<String> = read::<T>(text).await.into_iter().collect();
            items.sort();
            assert_eq!(items, ["a", "b,c"], "{text}");
        }
        let mut items: Vec<String> = read::<T>(" b , a\n").await.into_iter().collect();
        items.sort();
        assert_eq!(items, ["a", "b"]);
        assert_eq!(read::<T>("[]").await.into_iter().count(), 0);
        assert_eq!(read::<T>("one").await.into_iter().count(), 1);
    }
    check::<Vec<String>>().await;
    check::<VecDeque<String>>().await;
    check::<LinkedList<String>>().await;
    check::<HashSet<String>>().await;
    check::<BTreeSet<String>>().await;
    check::<BinaryHeap<String>>().await;
    assert_eq!(*read::<Box<[String]>>(r#"["a","b,c"]"#).await, ["a", "b,c"]);
    assert_eq!(read::<[String; 2]>(r#"["a","b,c"]"#).await, ["a", "b,c"]);
    assert_eq!(
        read::<(String, u8)>(r#"["a,b", 1]"#).await,
        ("a,b".to_owned(), 1)
    );
    assert_eq!(read::<(String, u8)>("a,1").await, ("a".to_owned(), 1));
}

#[tokio::test]
async fn items_accept_the_texts_of_fields() {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Endpoint {
        host: String,
        port: Option<u16>,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    struct Port(u16);

    assert_eq!(
        read::<Vec<u16>>(r#"[80, "443", "0x50"]"#).await,
        [80, 443, 80]
    );
    assert_eq!(read::<Vec<u16>>("80,0x50, 1_000").await, [80, 80, 1000]);
    assert_eq!(read::<Vec<Port>>("[80]").await, [Port(80)]);
    assert_eq!(
        read::<Vec<bool>>(r#"[true, "no", 1]"#).await,
        [true, false, true]
    );
    assert_eq!(read::<Vec<String>>("[1.10, 1]").await, ["1.10", "1"]);
    assert_eq!(read::<Vec<Option<u8>>>("[1, null]").await, [Some(1), None]);
    assert_eq!(
        read::<Vec<Vec<u16>>>("[[1, 2], [], [3]]").await,
        [vec![1, 2], vec![], vec![3]]
    );
    assert_eq!(
        read::<Vec<(String, u8)>>(r#"[["a", 1], ["b", 2]]"#).await[1],
        ("b".to_owned(), 2)
    );
    assert_eq!(
        read::<Vec<Level>>(r#"["low", "high"]"#).await,
        [Level::Low, Level::High]
    );
    assert_eq!(
        read::<Vec<Level>>("low, high").await,
        [Level::Low, Level::High]
    );
    assert_eq!(read::<Option<Vec<u8>>>("[1]").await, Some(vec![1]));
    let secrets: Vec<SecretString> = read(r#"["s3,cr3t", ""]"#).await;
    assert_eq!(secrets[0].expose_secret(), "s3,cr3t");
    assert_eq!(
        read::<Vec<SecretValue>>(r#"["a,b"]"#).await[0].expose_bytes(),
        b"a,b"
    );
    let structs: Vec<Endpoint> =
        read(r#"[{"host": "a", "port": 1}, {"host": "b,c", "port": null, "more": [1]}]"#).await;
    assert_eq!(
        (structs[0].port, structs[1].host.as_str(), structs[1].port),
        (Some(1), "b,c", None)
    );
    let values: Vec<serde_json::Value> =
        read(r#"[1, -1, 1.10, true, null, "x", [1], {"a": 1}]"#).await;
    assert_eq!(
        serde_json::to_string(&values).unwrap(),
        r#"[1,-1,"1.10",true,null,"x",[1],{"a":1}]"#
    );
    let maps: Vec<BTreeMap<String, u8>> = read(r#"[{"a": 1}]"#).await;
    assert_eq!(maps[0]["a"], 1);
}

#[tokio::test]
async fn text_that_begins_with_a_bracket_and_is_no_array_is_an_error() {
    #[derive(Deserialize, Debug)]
    struct Name(#[expect(dead_code)] Box<str>);

    for text in [
        "[a, b]",
        "[\"a\", \"b\"",
        "[a",
        "['a']",
        "[1, 2,]",
        "[\"a\"] x",
        "[a],[b]",
        " [\n",
    ] {
        for message in [
            refusal::<Vec<String>>(text).await,
            refusal::<Vec<Name>>(text).await,
            refusal::<HashSet<Option<String>>>(text).await,
            refusal::<Vec<SecretString>>(text).await,
            refusal::<Vec<SecretValue>>(text).await,
            refusal::<Vec<std::path::PathBuf>>(text).await,
            refusal::<Vec<serde_json::Value>>(text).await,
            refusal::<(String, String)>(text).await,
            refusal::<[String; 2]>(text).await,
        ] {
            assert!(message.contains("is not a JSON array"), "{text}: {message}");
        }
    }
    assert!(
        refusal::<Vec<u16>>("[80, 443")
            .await
            .contains("is not a JSON array")
    );
    assert!(
        refusal::<Vec<Vec<u16>>>("[[1], [2]")
            .await
            .contains("is not a JSON array")
    );
}

#[tokio::test]
async fn socket_addresses_in_brackets_are_a_list() {
    let expected: Vec<SocketAddr> = vec!["[::1]:80".parse().unwrap(), "[::2]:80".parse().unwrap()];
    assert_eq!(read::<Vec<SocketAddr>>("[::1]:80,[::2]:80").await, expected);
    assert_eq!(
        read::<Vec<SocketAddr>>(r#"["[::1]:80", "[::2]:80"]"#).await,
        expected
    );
    assert_eq!(read::<Vec<SocketAddr>>("[::1]:80").await, expected[..1]);
    assert_eq!(read::<(SocketAddr, String)>("[::1]:80, a").await.1, "a");
    assert!(
        refusal::<Vec<SocketAddr>>("[::1]:80,x")
            .await
            .contains("not a valid")
    );
}

#[tokio::test]
async fn empty_items_are_errors() {
    for (text, position) in [("a,,b", 2), ("a,", 2), (",", 1), (",a", 1), ("a, ,b", 2)] {
        let message = refusal::<Vec<String>>(text).await;
        assert!(
            message.starts_with(&format!("item {position} of the list is empty")),
            "{message}"
        );
        assert!(refusal::<[String; 2]>(text).await.contains("is empty"));
    }
    let commas = ",".repeat(1_000_000);
    assert!(refusal::<Vec<u8>>(&commas).await.starts_with("item 1 "));
    let many = "1,".repeat(200_000) + "1";
    assert_eq!(read::<Vec<u8>>(&many).await.len(), 200_001);
    // In a JSON array, an empty text is written on purpose.
    assert_eq!(read::<Vec<String>>(r#"["a", ""]"#).await, ["a", ""]);
}

#[tokio::test]
async fn arrays_and_tuples_require_their_length() {
    #[derive(Deserialize, Debug)]
    struct Pair(#[expect(dead_code)] u8, #[expect(dead_code)] u8);

    assert_eq!(read::<[u8; 3]>("1,2,3").await, [1, 2, 3]);
    for (text, found) in [
        ("1,2,3,4", 4),
        ("1,2", 2),
        ("[1,2,3,4]", 4),
        ("[]", 0),
        ("1", 1),
    ] {
        let expected = format!("the list has {found} items, but 3 are required");
        assert_eq!(refusal::<[u8; 3]>(text).await, expected);
        assert_eq!(refusal::<(u8, u8, u8)>(text).await, expected);
    }
    assert!(refusal::<Pair>("1,2,3").await.contains("3 items, but 2"));
    assert!(
        refusal::<Vec<[u8; 2]>>("[[1, 2], [3]]")
            .await
            .contains("1 items, but 2")
    );
    assert!(
        refusal::<Vec<Pair>>("[[1, 2, 3]]")
            .await
            .contains("3 items, but 2")
    );

    /// A type that takes only the first item of a list.
    #[derive(Debug)]
    struct First;
    impl<'de> Deserialize<'de> for First {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = First;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a list")
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(
                    self,
                    mut items: A,
                ) -> Result<First, A::Error> {
                    let _: Option<u8> = items.next_element()?;
                    Ok(First)
                }
            }
            deserializer.deserialize_seq(Visitor)
        }
    }
    read::<First>("1").await;
    for text in ["1,2", "[1, 2]"] {
        assert!(refusal::<First>(text).await.contains("2 items, but 1"));
    }
}

/// Text with a minimum length, as newtypes for user names or tokens have it.
#[derive(Debug)]
struct LongText(String);

impl<'de> Deserialize<'de> for LongText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() {
            0..3 => Err(serde::de::Error::custom("too short")),
            _ => Ok(Self(text)),
        }
    }
}

#[tokio::test]
async fn broken_array_is_refused_for_every_item_type() {
    let broken = [
        r#"["abc", "def"#,
        r#"["abc", "def",]"#,
        "[abc, def]",
        "[abc",
        r#"["abc"],["def"]"#,
        "[[abc], def",
    ];
    for text in broken {
        let message = refusal::<Vec<LongText>>(text).await;
        assert!(message.contains("is not a JSON array"), "{text}: {message}");
        let message = refusal::<Vec<SocketAddr>>(text).await;
        assert!(!message.is_empty(), "{text}");
    }
    assert_eq!(read::<Vec<LongText>>("abc, def").await[1].0, "def");
    for text in ["[80, 443", "[80,, 443]", "[80 443]", "[80]]"] {
        assert!(!refusal::<Vec<u16>>(text).await.is_empty(), "{text}");
    }
    let addresses = read::<Vec<SocketAddr>>("[::1]:80, 10.0.0.1:1,[fe80::1]:2").await;
    assert_eq!(addresses.len(), 3);
}

#[tokio::test]
async fn object_is_not_a_list_of_its_parts() {
    for object in [r#"{"a": "x", "b": "y"}"#, r#"{"a": "x"}"#, " {} "] {
        let message = refusal::<Vec<String>>(object).await;
        assert!(
            message.contains("not a list, but a JSON object"),
            "{message}"
        );
        refusal::<(String, String)>(object).await;
        refusal::<HashSet<String>>(object).await;
        refusal::<Vec<std::collections::BTreeMap<String, String>>>(object).await;
    }
    // This is not an object.
    assert_eq!(read::<Vec<String>>("{a},{b}").await, ["{a}", "{b}"]);
}

#[tokio::test]
async fn only_ascii_white_space_around_items_is_removed() {
    assert_eq!(
        read::<Vec<String>>("a,\u{a0}b\u{a0} ").await,
        ["a", "\u{a0}b\u{a0}"]
    );
}
