//! Notifications of any sender that can compute an HMAC: `x-secretwell-signature` and a list of keys.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName};
use secretwell_core::SecretKey;
use secretwell_core::backend::Change;
use serde::Deserialize;

use crate::rejection::Rejection;
use crate::signature::{self, Signature};

static HEADER: HeaderName = HeaderName::from_static("x-secretwell-signature");

/// A notification with more keys counts as a change of all keys.
const MAX_KEYS: usize = 1000;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    keys: Option<Vec<String>>,
}

/// Parses `t=<seconds>,v1=<hex>`. There is one `v1` for each secret that the sender uses. Other parts are
/// ignored, so that later versions of the signature can be sent as well.
pub(crate) fn signature(headers: &HeaderMap) -> Result<Signature, Rejection> {
    let (mut times, mut codes) = (Vec::new(), Vec::new());
    for part in signature::header(headers, &HEADER)?.split(',') {
        match part.trim().split_once('=') {
            Some(("t", time)) => times.push(time),
            Some(("v1", code)) => codes.push(code),
            _ => {}
        }
    }
    let [time] = times[..] else {
        return Err(Rejection::malformed(
            "the signature header must contain one time",
        ));
    };
    let sent_at = signature::parse_time(time).and_then(|seconds| seconds.checked_mul(1000));
    Signature::parse(sent_at, format!("{time}."), &codes)
}

/// Returns the change that a body describes.
pub(crate) fn change(body: &[u8]) -> Result<Change, Rejection> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(Change::All);
    }
    let malformed =
        Rejection::malformed("the body must be empty or JSON such as {\"keys\":[\"API_KEY\"]}");
    // A list would also be accepted, as the members without their names.
    if !body.starts_with(b"{") {
        return Err(malformed);
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| malformed)?;
    let names = body.keys.unwrap_or_default();
    let keys: Result<BTreeSet<SecretKey>, _> = names.iter().map(SecretKey::parse).collect();
    let keys = keys.map_err(|_| Rejection::malformed("one of the keys is not a valid key"))?;
    match keys.len() {
        1..=MAX_KEYS => Ok(Change::Keys(keys)),
        _ => Ok(Change::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{SECRET, headers, status};

    // Computed by `hmac.new(secret, b"1700000000." + body, "sha256")` of Python.
    const EMPTY: &str = "7fbdde5c0c90ce43ba69dd4d54a3a2cb923965981181295a4dd6e281ce9e6a4f";
    const KEYS: &str = "349eee671375acf6f9740a29f73e080224b6b8404e24f3f3d47cbf5de229f74e";
    const NOT_UTF_8: &str = "8e92d06b23d5a3d61343f2c01d1a688f5edd1bbdf11d49c39e90f3210b945042";
    const KEYS_BODY: &[u8] = br#"{"keys":["db/PASSWORD","API_KEY"]}"#;

    fn is_valid(header: &str, body: &[u8]) -> Result<bool, u16> {
        let parsed = signature(&headers(HEADER.as_str(), &[header]));
        let parsed = parsed.map_err(|rejection| rejection.status.as_u16())?;
        Ok(parsed.is_valid(body, &[SECRET.into()]))
    }

    #[test]
    fn signatures_of_another_implementation_are_valid() {
        for (code, body) in [
            (EMPTY, &b""[..]),
            (KEYS, KEYS_BODY),
            (NOT_UTF_8, b"\xFF\xFE"),
        ] {
            let header = format!("t=1700000000,v1={code}");
            assert_eq!(is_valid(&header, body), Ok(true));
            assert_eq!(is_valid(&header, b"{}"), Ok(false), "another body");
            let other_time = format!("t=1700000001,v1={code}");
            assert_eq!(is_valid(&other_time, body), Ok(false));
        }
    }

    #[test]
    fn one_of_several_codes_must_be_valid() {
        let wrong = "0".repeat(64);
        let upper = EMPTY.to_uppercase();
        for (header, expected) in [
            (format!("t=1700000000,v1={wrong},v1={EMPTY}"), Ok(true)),
            (format!("v1={EMPTY}, v1={wrong}, t=1700000000"), Ok(true)),
            (format!("t=1700000000,v1={upper}"), Ok(true)),
            (
                format!("t=1700000000,v0=abc,later,v1={EMPTY},v2=xyz"),
                Ok(true),
            ),
            (format!("t=1700000000,v1={wrong}"), Ok(false)),
            // The signed text is the text of the header.
            (format!("t=01700000000,v1={EMPTY}"), Ok(false)),
            ("t=1700000000,v1=".to_owned(), Err(400)),
            (
                format!("t=1700000000{}", format!(",v1={wrong}").repeat(9)),
                Err(400),
            ),
            (format!("t=1700000000,v1={}", &EMPTY[1..]), Err(400)),
            (format!("t=1700000000,v1={EMPTY}0"), Err(400)),
            (
                format!("t=1700000000,v1={}", EMPTY.replace("7f", "+7")),
                Err(400),
            ),
            (format!("t=1700000000,t=1700000000,v1={EMPTY}"), Err(400)),
            (format!("t=,v1={EMPTY}"), Err(400)),
            (format!("t=+1700000000,v1={EMPTY}"), Err(400)),
            (format!("t=-1,v1={EMPTY}"), Err(400)),
            (format!("t={},v1={EMPTY}", u64::MAX), Err(400)),
            (format!("t={}0,v1={EMPTY}", u64::MAX), Err(400)),
            (format!("v1={EMPTY}"), Err(400)),
            ("t=1700000000".to_owned(), Err(400)),
            (EMPTY.to_owned(), Err(400)),
            (String::new(), Err(400)),
        ] {
            assert_eq!(is_valid(&header, b""), expected, "{header}");
        }
    }

    #[test]
    fn header_must_occur_once() {
        let header = format!("t=1700000000,v1={EMPTY}");
        let name = HEADER.as_str();
        assert_eq!(status(signature(&headers(name, &[])).map(drop)), Err(401));
        let twice = headers(name, &[&header, &header]);
        assert_eq!(status(signature(&twice).map(drop)), Err(400));
        assert!(signature(&headers(name, &[&header])).is_ok());
    }

    #[test]
    fn every_previous_secret_is_accepted() {
        let parsed = signature(&headers(
            HEADER.as_str(),
            &[&format!("t=1700000000,v1={EMPTY}")],
        ));
        let parsed = parsed.unwrap();
        let ring = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect::<Vec<_>>();
        assert!(parsed.is_valid(b"", &ring(&["new", SECRET])));
        assert!(!parsed.is_valid(b"", &ring(&["new", "newer"])));
        assert!(!parsed.is_valid(b"", &[]));
    }

    #[test]
    fn body_names_keys_or_none() {
        let keys = |names: &[&str]| {
            let names = names.iter().map(SecretKey::parse);
            Ok(Change::Keys(names.collect::<Result<_, _>>().unwrap()))
        };
        let many = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("\"K{number}\"")).collect();
            format!("{{\"keys\":[{}]}}", names.join(","))
        };
        for (body, expected) in [
            ("", Ok(Change::All)),
            (" \r\n", Ok(Change::All)),
            ("{}", Ok(Change::All)),
            (r#"{"keys":null}"#, Ok(Change::All)),
            (r#"{"keys":[]}"#, Ok(Change::All)),
            (r#"{"keys":["A","db/B","A"]}"#, keys(&["A", "db/B"])),
            (r#"{"id":7,"keys":["A"],"value":"ignored"}"#, keys(&["A"])),
            (r#"{"keys":["A","../B"]}"#, Err(400)),
            (r#"{"keys":[""]}"#, Err(400)),
            (r#"{"keys":"A"}"#, Err(400)),
            (r#"{"keys":[1]}"#, Err(400)),
            (r#"{"keys":["A"],"keys":["B"]}"#, Err(400)),
            ("null", Err(400)),
            ("[]", Err(400)),
            (r#"[["A"]]"#, Err(400)),
            ("keys=A", Err(400)),
            ("{\"keys\":[\"A\"]", Err(400)),
            (&many(1001), Ok(Change::All)),
            (&"[".repeat(10_000), Err(400)),
        ] {
            assert_eq!(status(change(body.as_bytes())), expected, "{body:.80}");
        }
        assert_eq!(
            status(change(b"\xFF\xFE")),
            Err(400),
            "a body that is not UTF-8"
        );
        let Ok(Change::Keys(thousand)) = change(many(1000).as_bytes()) else {
            panic!("1,000 keys are a list")
        };
        assert_eq!(thousand.len(), 1000);
    }
}
