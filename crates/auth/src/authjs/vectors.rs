//! Tokens, cookies and CSRF tokens that the real packages made and judged.
//!
//! Others of the same form are judged instead when `SECRETWELL_AUTHJS_VECTORS` is the path of their file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../fixtures/authjs-vectors.json");

/// More of them, of what is wrong with a token in unusual ways.
const MORE: &str = include_str!("../../fixtures/authjs-further-vectors.json");

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
    /// Of a chunked cookie.
    #[serde(default)]
    cookies: Vec<(String, String)>,
    /// Of a CSRF token: what the form has.
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

/// What the vectors call each of our answers. Why a chunked cookie is no session the packages do not say.
fn names(found: &Result<Session<Value>, TokenError>, is_chunked: bool) -> &'static [&'static str] {
    match found {
        Ok(_) => &["ok"],
        Err(_) if is_chunked => &["null"],
        Err(TokenError::Forged) => &["no_matching_secret", "decryption_failed"],
        Err(TokenError::Expired) => &["expired"],
        Err(TokenError::Malformed) => &[
            "malformed",
            "null",
            "alg_not_allowed",
            "not_supported",
            "claim_invalid",
            "payload_not_object",
        ],
    }
}

impl Vector {
    fn format(&self) -> Format {
        match self.pkg.as_str() {
            "next-auth" => Format::V4,
            "@auth/core" => Format::V5,
            other => panic!("{}: no tokens of {other} are known", self.id),
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

    fn ring(&self) -> KeyRing {
        let secrets = self.secrets();
        let ring = KeyRing::new(secrets[0].as_str());
        let previous = secrets[1..].iter().map(String::as_str);
        previous.fold(ring, KeyRing::with_previous)
    }

    fn tokens(&self) -> Result<SessionTokens, Error> {
        match (self.format(), self.salt.as_str()) {
            (Format::V5, salt) => SessionTokens::v5(salt, &self.ring()),
            (Format::V4, "") => SessionTokens::v4(&self.ring()),
            (Format::V4, salt) => SessionTokens::v4_named(salt, &self.ring()),
        }
    }

    /// The token, also where it is in several cookies.
    fn token(&self) -> String {
        let whole = || self.token.clone().unwrap_or_default();
        if !self.is_chunked() {
            return whole();
        }
        let cookie = SessionCookie::v5(Scheme::Http).with_name(&self.cookie_name);
        let pairs = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let header = pairs.collect::<Vec<_>>().join("; ");
        cookie.find(&header).unwrap_or_default()
    }

    /// What we make of it, and whether that is what the packages make of it or a stricter answer that is
    /// right as well.
    fn judge(&self) -> (String, bool) {
        let tokens = match self.tokens() {
            Ok(tokens) => tokens,
            Err(error) => return (error.to_string(), self.expect == "empty_secret"),
        };
        let now = self
            .now
            .map_or_else(SystemTime::now, |now| UNIX_EPOCH + Duration::from_secs(now));
        let found = tokens.decode_at::<Value>(&self.token(), now);
        let names = names(&found, self.is_chunked());
        let mut expected = std::iter::once(&self.expect).chain(&self.also_acceptable);
        let says_the_same = match (&found, &self.decoded) {
            (Ok(session), Some(decoded)) => is_same(&session.claims, decoded),
            (Ok(_), None) => false,
            (Err(_), _) => true,
        };
        let right = expected.any(|expected| names.contains(&expected.as_str())) && says_the_same;
        (format!("{found:?}"), right)
    }
}

/// Whether two values are the same in JavaScript, which has one kind of number.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let mut pairs = one.iter().zip(other);
            let is_pair =
                |((name, one), (also, other)): (_, (_, _))| name == also && is_same(one, other);
            one.len() == other.len() && pairs.all(is_pair)
        }
        _ => one == other,
    }
}

fn vectors(kinds: &[&str]) -> Vec<Vector> {
    let texts = match std::env::var_os("SECRETWELL_AUTHJS_VECTORS") {
        Some(path) => vec![std::fs::read(path).unwrap()],
        None => vec![VECTORS.into(), MORE.into()],
    };
    let mut vectors: Vec<Vector> = Vec::new();
    for text in texts {
        let text = text::json(text.into(), Format::V5).unwrap();
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
fn all_vectors_of_tokens_and_cookies_are_judged_as_the_packages_do() {
    let judged = vectors(&TOKENS).into_iter().filter_map(|vector| {
        let (found, right) = vector.judge();
        let (id, expect) = (&vector.id, &vector.expect);
        (!right).then(|| format!("{id}: expected {expect}, found {found}"))
    });
    let wrong: Vec<String> = judged.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_vectors_of_csrf_tokens_are_judged_as_the_packages_do() {
    for vector in vectors(&CSRF) {
        let expected = match vector.expect.as_str() {
            "verified" => Csrf::Verified,
            "cookie_ok_not_verified" => Csrf::CookieOnly,
            "cookie_rejected_new_issued" => Csrf::Rejected,
            other => panic!("{}: {other}", vector.id),
        };
        let body = vector.body_value.as_deref();
        let judge = |tokens: CsrfTokens| match vector.is_post {
            true => tokens.verify_post(&vector.token(), body),
            false => tokens.verify_cookie(&vector.token()),
        };
        let found = judge(CsrfTokens::new(&vector.ring()).list_only());
        assert_eq!(found, expected, "{}", vector.id);

        // What the packages reject after a rotation is still good with us: what a part of the list made.
        let parts =
            (1..=vector.secrets().len()).flat_map(|length| vector.secrets().windows(length));
        let of_part = |part: &[String]| judge(CsrfTokens::new(&KeyRing::new(part.join(","))));
        let kept = parts.map(of_part).find(|status| *status != Csrf::Rejected);
        let found = judge(CsrfTokens::new(&vector.ring()));
        assert_eq!(found, kept.unwrap_or(expected), "{}", vector.id);
    }
}
