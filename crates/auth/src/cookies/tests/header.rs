//! What a parser behind the layer reads from the rewritten headers.

use cookie::Cookie;
use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use proptest::prelude::*;

use crate::cookies::header::{MAX_TRIED, name, rewrite, values};

fn headers(values: &[&[u8]]) -> HeaderMap {
    let headers = values.iter().map(|value| {
        let value = HeaderValue::from_bytes(value).unwrap();
        (COOKIE, value)
    });
    headers.collect()
}

fn texts(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(COOKIE).iter();
    values
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}

/// Rewrites `values`. A value of `id` is valid if it begins with `ok-`.
fn rewritten(values: &[&[u8]]) -> Vec<String> {
    let mut headers = headers(values);
    rewrite(&mut headers, &["id".to_owned()], |_, value| {
        value.strip_prefix("ok-").map(str::to_owned)
    });
    texts(&headers)
}

/// The cookies that tower-cookies reads from the headers.
fn as_tower_cookies_reads(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut read = Vec::new();
    for header in headers.get_all(COOKIE) {
        let Ok(text) = std::str::from_utf8(header.as_bytes()) else {
            continue;
        };
        for part in text.split(';') {
            if let Ok(cookie) = Cookie::parse_encoded(part.to_owned()) {
                read.push((cookie.name().to_owned(), cookie.value().to_owned()));
            }
        }
    }
    read
}

#[test]
fn other_cookies_keep_every_byte() {
    for header in [
        "a=1",
        "a=1;b=2 ;  c=\"x;y\"",
        "theme=%69d; ids=1; xid=ok-1; ID=ok-1; Id=1",
        "id",
        "; ;=id=ok-1",
        "a=id=ok-1",
    ] {
        assert_eq!(rewritten(&[header.as_bytes()]), [header]);
    }
    assert_eq!(
        rewritten(&[b"a=1;  b=\"2\" ;id=ok-x;c = 3"]),
        ["a=1;  b=\"2\" ; id=x;c = 3"]
    );
    let mut headers = headers(&[b"a=\xff"]);
    rewrite(&mut headers, &["id".to_owned()], |_, _| None);
    assert_eq!(headers[COOKIE].as_bytes(), b"a=\xff");
}

#[test]
fn first_valid_cookie_of_a_name_is_passed_on_and_the_others_are_removed() {
    assert_eq!(
        rewritten(&[b"id=bad; id=ok-1; id=ok-2; a=1"]),
        ["id=1; a=1"]
    );
    assert_eq!(rewritten(&[b"id=bad"]), Vec::<String>::new());
    assert_eq!(rewritten(&[b"a=1; id=bad"]), ["a=1"]);
    assert_eq!(rewritten(&[b"id=bad; a=1; b=2"]), ["a=1; b=2"]);
    // HTTP/2 can split the header.
    assert_eq!(
        rewritten(&[b"id=bad", b"a=1", b"id=ok-1", b"id=ok-2; b=2"]),
        ["a=1", "id=1", "b=2"]
    );
}

#[test]
fn cookie_whose_name_only_a_parser_reads_as_the_protected_one_is_removed() {
    for evil in [
        "%69d=evil",
        "%69%64=evil",
        "i%64 =evil",
        " id =evil",
        "\tid\t=evil",
        "\u{a0}id\u{3000}=evil",
        "%20id=evil",
    ] {
        let header = format!("{evil}; a=1; {evil}");
        assert_eq!(rewritten(&[header.as_bytes()]), ["a=1"], "{evil:?}");
    }
}

#[test]
fn quoted_and_encoded_values_are_read() {
    for value in [
        "ok-a b",
        "\"ok-a b\"",
        "ok%2Da%20b",
        "%6f%6b-a b",
        " ok-a b ",
        "\"ok-a%20b\"",
    ] {
        let header = format!("id={value}");
        assert_eq!(rewritten(&[header.as_bytes()]), ["id=a%20b"], "{value}");
    }
}

#[test]
fn valid_cookie_beside_bytes_that_are_not_utf_8_is_readable() {
    let mut headers = headers(&[b"a=\xff; id=ok-1; b=2"]);
    rewrite(&mut headers, &["id".to_owned()], |_, value| {
        value.strip_prefix("ok-").map(str::to_owned)
    });
    assert_eq!(
        as_tower_cookies_reads(&headers),
        [("id".to_owned(), "1".to_owned())]
    );
    assert!(
        headers
            .get_all(COOKIE)
            .iter()
            .any(|it| it.as_bytes() == b"a=\xff; b=2")
    );
}

#[test]
fn header_of_many_cookies_costs_few_attempts() {
    let many = |value: &str| format!("id={value}; a=1; ").repeat(5000);
    let mut attempts = 0;
    let mut cookies = headers(&[many("x").as_bytes(), b"id=ok-1"]);
    rewrite(&mut cookies, &["id".to_owned()], |_, _| {
        attempts += 1;
        None
    });
    assert_eq!(attempts, MAX_TRIED);
    let left = texts(&cookies).concat();
    assert!(!left.contains("id="), "no cookie is passed on untried");
    // Cookies without a value are not tried.
    assert!(rewritten(&[many("").as_bytes(), b"id=ok-1"]).contains(&"id=1".to_owned()));
}

#[test]
fn each_protected_name_is_treated_on_its_own() {
    let mut headers = headers(&[b"x=ok-1; y=bad; y=ok-2; x=ok-3"]);
    rewrite(
        &mut headers,
        &["x".to_owned(), "y".to_owned()],
        |name, value| Some(format!("{name}{}", value.strip_prefix("ok-")?)),
    );
    assert_eq!(texts(&headers), ["x=x1; y=y2"]);
}

/// Bytes of a header, with parts of cookies that are likely to matter.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"id".to_vec()),
        Just(b"%69".to_vec()),
        Just(b"d".to_vec()),
        Just(b"ok-".to_vec()),
        Just(b"=".to_vec()),
        Just(b";".to_vec()),
        Just(b" ".to_vec()),
        Just(b"\"".to_vec()),
        Just("\u{a0}".as_bytes().to_vec()),
        Just(b"%".to_vec()),
        proptest::collection::vec(prop_oneof![32_u8..127, 128_u8..=255, Just(b'\t')], 0..4),
    ];
    proptest::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_unverified_cookie_of_the_name_reaches_a_parser(
        values in proptest::collection::vec(header_bytes(), 0..4)
    ) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let before = headers(&values);
        let mut after = before.clone();
        let mut opened = Vec::new();
        rewrite(&mut after, &["id".to_owned()], |_, value| {
            let plain = value.strip_prefix("ok-")?;
            opened.push(plain.to_owned());
            Some(plain.to_owned())
        });
        let read = as_tower_cookies_reads(&after);
        let ids: Vec<&String> = read.iter().filter(|(name, _)| name == "id").map(|it| &it.1).collect();
        prop_assert!(ids.len() <= 1, "{:?}", texts(&after));
        prop_assert_eq!(ids, opened.iter().collect::<Vec<_>>());
        // The bytes of all other cookies are the same, in their order. A parser that rejected a header because of a
        // removed cookie that is not UTF-8 can read the rest afterwards.
        let others = |headers: &HeaderMap| -> Vec<Vec<u8>> {
            let headers = headers.get_all(COOKIE).iter();
            let parts = headers.flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
            let others = parts.filter(|part| name(part).as_deref() != Some("id"));
            let trimmed = others.map(|part| part.trim_ascii().to_vec());
            trimmed.filter(|part| !part.is_empty()).collect()
        };
        prop_assert_eq!(others(&before), others(&after));
    }

    #[test]
    fn any_part_is_parsed_without_a_panic(part in header_bytes()) {
        let _ = (name(&part), values(&part));
    }
}
