//! Test vectors: tokens, cookies and CSRF tokens, with the results of the real packages.
//!
//! The environment variable `SECRETWELL_AUTHJS_VECTORS` can name another file of the same format to test
//! instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use secretwell_core::Error;

use super::*;
use crate::KeyRing;
use crate::sessions::keys::Format;
use crate::sessions::{Scheme, TokenError, text};

const VECTORS: &str = include_str!("../../../fixtures/authjs-vectors.json");

/// Further vectors for unusual errors in tokens.
const FURTHER_VECTORS: &str = include_str!("../../../fixtures/authjs-further-vectors.json");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    id: String,
    kind: String,
    pkg: String,
    decode_secrets: Secrets,
    #[serde(default)]
    salt: String,
    #[serde(default)]
    token: Option<String>,
    expect: String,
    #[serde(default)]
    also_acceptable: Vec<String>,
    #[serde(default)]
    decoded: Option<Value>,
    #[serde(default)]
    now: Option<u64>,
    #[serde(default)]
    cookie_name: String,
    /// The names and values of a chunked cookie.
    #[serde(default)]
    cookies: Vec<(String, String)>,
    /// For CSRF tokens: `csrfToken` in the form.
    #[serde(default)]
    body_value: Option<String>,
    #[serde(default)]
    is_post: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Secrets {
    One(String),
    Many(Vec<String>),
}

/// Returns the names that the vectors use for a result.
///
/// The packages do not report why a chunked cookie is rejected.
fn expected_names(
    result: &Result<Session<Value>, TokenError>,
    is_chunked: bool,
) -> &'static [&'static str] {
    match result {
        Ok(_) => &["ok"],
        Err(_) if is_chunked => &["null"],
        Err(TokenError::Forged | TokenError::UnknownKey) => {
            &["no_matching_secret", "decryption_failed"]
        }
        Err(TokenError::Expired) => &["expired"],
        Err(TokenError::NotYetValid) => &["claim_invalid"],
        // Each object fits, except if a number is too large, or if the claims are nested too deeply.
        Err(TokenError::Claims(_) | TokenError::Malformed | TokenError::TooLarge) => &[
            "malformed",
            "null",
            "alg_not_allowed",
            "not_supported",
            "claim_invalid",
            "payload_not_object",
        ],
        // Only caches of Better Auth.
        Err(TokenError::OtherVersion | TokenError::OtherToken) => &[],
    }
}

impl Vector {
    fn format(&self) -> Format {
        match self.pkg.as_str() {
            "next-auth" => Format::V4,
            "@auth/core" => Format::V5,
            other => panic!("{}: unknown package {other}", self.id),
        }
    }

    fn is_chunked(&self) -> bool {
        self.kind == "chunked-cookie"
    }

    fn secrets(&self) -> &[String] {
        match &self.decode_secrets {
            Secrets::One(secret) => std::slice::from_ref(secret),
            Secrets::Many(secrets) => secrets,
        }
    }

    fn ring(&self) -> Result<KeyRing, Error> {
        let secrets = self.secrets();
        let ring = KeyRing::new(secrets[0].as_str())?;
        let mut previous = secrets[1..].iter().map(String::as_str);
        previous.try_fold(ring, KeyRing::with_previous)
    }

    fn tokens(&self) -> Result<SessionTokens, Error> {
        match (self.format(), self.salt.as_str()) {
            (Format::V4, "") => SessionTokens::v4(&self.ring()?),
            (Format::V4, salt) => SessionTokens::v4_with_cookie_name(salt, &self.ring()?),
            (_, salt) => SessionTokens::v5(salt, &self.ring()?),
        }
    }

    /// Returns the token. The chunks of a chunked cookie are joined.
    fn token(&self) -> String {
        if !self.is_chunked() {
            return self.token.clone().unwrap_or_default();
        }
        let cookie = SessionCookie::v5(Scheme::Http)
            .with_name(&self.cookie_name)
            .unwrap();
        let pairs = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let header = pairs.collect::<Vec<_>>().join("; ");
        cookie.candidates(&header).next().unwrap_or_default()
    }

    /// Decodes the token.
    ///
    /// Returns the result as text, and whether it is acceptable: either the packages have the same result,
    /// or the vector lists it as stricter and acceptable.
    fn check(&self) -> (String, bool) {
        let tokens = match self.tokens() {
            Ok(tokens) => tokens,
            Err(error) => return (error.to_string(), self.expect == "empty_secret"),
        };
        let now = self
            .now
            .map_or_else(SystemTime::now, |now| UNIX_EPOCH + Duration::from_secs(now));
        let result = tokens.decode_at::<Value>(&self.token(), now);
        let names = expected_names(&result, self.is_chunked());
        let mut expected = std::iter::once(&self.expect).chain(&self.also_acceptable);
        let claims_match = match (&result, &self.decoded) {
            (Ok(session), Some(decoded)) => is_equal_in_javascript(&session.claims, decoded),
            (Ok(_), None) => false,
            (Err(_), _) => true,
        };
        let passed = expected.any(|expected| names.contains(&expected.as_str())) && claims_match;
        (format!("{result:?}"), passed)
    }
}

/// Returns whether two values are equal in JavaScript, which has only one type of number.
fn is_equal_in_javascript(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_equal_in_javascript(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let mut pairs = one.iter().zip(other);
            let is_pair_equal = |((name, one), (other_name, other)): (_, (_, _))| {
                name == other_name && is_equal_in_javascript(one, other)
            };
            one.len() == other.len() && pairs.all(is_pair_equal)
        }
        _ => one == other,
    }
}

fn vectors(kinds: &[&str]) -> Vec<Vector> {
    let texts = match std::env::var_os("SECRETWELL_AUTHJS_VECTORS") {
        Some(path) => vec![std::fs::read(path).unwrap()],
        None => vec![VECTORS.into(), FURTHER_VECTORS.into()],
    };
    let mut vectors: Vec<Vector> = Vec::new();
    for text in texts {
        let text = text::decode_json(text.into(), Format::V5).unwrap();
        vectors.extend(serde_json::from_str::<Vec<Vector>>(&text).unwrap());
    }
    for vector in &vectors {
        let known = [&TOKENS[..], &CSRF].concat();
        assert!(known.contains(&vector.kind.as_str()), "{}", vector.kind);
    }
    vectors.retain(|vector| kinds.contains(&vector.kind.as_str()));
    assert!(!vectors.is_empty());
    vectors
}

const TOKENS: [&str; 3] = ["jwe", "check-cookie", "chunked-cookie"];
const CSRF: [&str; 1] = ["csrf"];

#[test]
fn tokens_and_cookies_are_decoded_as_by_the_packages() {
    let vectors = vectors(&TOKENS).into_iter();
    let failures = vectors.filter_map(|vector| {
        let (result, passed) = vector.check();
        let (id, expect) = (&vector.id, &vector.expect);
        (!passed).then(|| format!("{id}: expected {expect}, got {result}"))
    });
    let failures: Vec<String> = failures.collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn csrf_tokens_are_verified_as_by_the_packages() {
    for vector in vectors(&CSRF) {
        let expected = match vector.expect.as_str() {
            "verified" => Csrf::Verified,
            "cookie_ok_not_verified" => Csrf::CookieOnly,
            "cookie_rejected_new_issued" => Csrf::Rejected,
            other => panic!("{}: {other}", vector.id),
        };
        let body = vector.body_value.as_deref();
        let verify = |tokens: CsrfTokens| match vector.is_post {
            true => tokens.verify_post(&vector.token(), body),
            false => tokens.verify_cookie(&vector.token()),
        };
        let status = verify(CsrfTokens::new(&vector.ring().unwrap()).whole_list_only());
        assert_eq!(status, expected, "{}", vector.id);

        // Without `whole_list_only`, the token of a part of the list is accepted too. The packages reject it
        // after a rotation.
        let parts =
            (1..=vector.secrets().len()).flat_map(|length| vector.secrets().windows(length));
        let of_part =
            |part: &[String]| verify(CsrfTokens::new(&KeyRing::new(part.join(",")).unwrap()));
        let accepted = parts.map(of_part).find(|status| *status != Csrf::Rejected);
        let status = verify(CsrfTokens::new(&vector.ring().unwrap()));
        assert_eq!(status, accepted.unwrap_or(expected), "{}", vector.id);
    }
}
