//! Test vectors: tokens, caches, requests, secrets and cookie names, with the results of the real package.
//!
//! The environment variable `SECRETWELL_BETTERAUTH_VECTORS` can name another file of the same format to test
//! instead. Vectors of the kind `session-data-jwks` need public keys and are tested with the guide.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secretwell_core::Error;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::payload::Claims;
use super::*;
use crate::sessions::keys::Format;
use crate::sessions::text::{WipedBytes, decode_json, percent_decode};
use crate::sessions::{SameSite, Scheme, TokenError};

const VECTORS: &str = include_str!("../../../fixtures/betterauth-vectors.json");
const KINDS: [&str; 6] = [
    "session-token",
    "session-data",
    "session-data-jwks",
    "request",
    "secrets",
    "cookie-names",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    id: String,
    kind: String,
    expect: String,
    #[serde(default)]
    also_acceptable: Vec<String>,
    #[serde(default)]
    why: String,
    #[serde(default)]
    strategy: Option<CacheStrategy>,
    #[serde(default)]
    decode_secrets: Value,
    #[serde(default)]
    secrets_env: Option<String>,
    #[serde(default)]
    legacy_secret: Option<String>,
    #[serde(default)]
    cache_version: Option<String>,
    #[serde(default)]
    token: Option<String>,
    /// Names and values of the cookies of a cache. For `cookie-names`, a map of attributes.
    #[serde(default)]
    cookies: Value,
    #[serde(default)]
    cookie_name: String,
    /// The `Cookie` header of a request.
    #[serde(default)]
    header: Option<String>,
    #[serde(default)]
    database: String,
    #[serde(default)]
    secure: bool,
    #[serde(default)]
    cookie_prefix: String,
    #[serde(default)]
    node_env: String,
    #[serde(default)]
    session_token: String,
    #[serde(default)]
    now_ms: u64,
    #[serde(default)]
    decoded: Value,
    #[serde(default)]
    expires_at_ms: Option<f64>,
    // Secrets.
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    options: Value,
    #[serde(default)]
    current: Option<String>,
    #[serde(default)]
    current_version: Option<u64>,
    #[serde(default)]
    keys: Option<Vec<Version>>,
    #[serde(default)]
    legacy: Option<String>,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
    value: String,
}

impl Vector {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now_ms)
    }

    fn secrets(&self) -> Result<BetterAuthSecrets, Error> {
        if let Some(list) = &self.secrets_env {
            let secrets = BetterAuthSecrets::from_list(list.as_str())?;
            return match &self.legacy_secret {
                Some(legacy) => secrets.with_legacy(legacy.as_str()),
                None => Ok(secrets),
            };
        }
        match &self.decode_secrets {
            Value::Array(secrets) => {
                let mut secrets = secrets.iter().filter_map(Value::as_str);
                let current = BetterAuthSecrets::new(secrets.next().unwrap_or_default())?;
                secrets.try_fold(current, BetterAuthSecrets::with_previous)
            }
            secret => BetterAuthSecrets::new(secret.as_str().unwrap_or_default()),
        }
    }

    /// Returns the result as text, and whether it is acceptable: either the package has the same result, or
    /// the vector lists it as acceptable.
    fn accepts(&self, names: &[&str]) -> bool {
        let mut expected = std::iter::once(&self.expect).chain(&self.also_acceptable);
        expected.any(|expected| names.contains(&expected.as_str()))
    }

    /// Joins the chunks of the cache.
    fn cache(&self) -> String {
        if let Some(token) = &self.token {
            return percent_decode(token);
        }
        let pairs: Vec<(String, String)> = serde_json::from_value(self.cookies.clone()).unwrap();
        let mut chunks: Vec<(usize, String)> = Vec::new();
        for (name, value) in pairs {
            match name
                .strip_prefix(&self.cookie_name)
                .unwrap()
                .strip_prefix('.')
            {
                Some(index) => chunks.push((index.parse().unwrap(), percent_decode(&value))),
                None => return percent_decode(&value),
            }
        }
        chunks.sort();
        chunks.into_iter().map(|(_, chunk)| chunk).collect()
    }
}

fn vectors(kind: &str) -> Vec<Vector> {
    let text = match std::env::var_os("SECRETWELL_BETTERAUTH_VECTORS") {
        Some(path) => std::fs::read(path).unwrap(),
        None => VECTORS.into(),
    };
    let text = decode_json(text.into(), Format::V5).unwrap();
    let mut vectors: Vec<Vector> = serde_json::from_str(&text).unwrap();
    for vector in &vectors {
        assert!(KINDS.contains(&vector.kind.as_str()), "{}", vector.kind);
    }
    vectors.retain(|vector| vector.kind == kind);
    vectors
}

/// Checks all vectors of a kind. `check` returns the result as text, and whether it is acceptable.
fn check_all(kind: &str, check: impl Fn(&Vector) -> (String, bool)) {
    let vectors = vectors(kind);
    let failures: Vec<String> = vectors
        .iter()
        .filter_map(|vector| {
            let (result, passed) = check(vector);
            let (id, expect) = (&vector.id, &vector.expect);
            (!passed).then(|| format!("{id}: expected {expect}, got {result}"))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn session_data_is_decoded_as_by_the_package() {
    check_all("session-data", |vector| {
        let secrets = match vector.secrets() {
            Ok(secrets) => secrets,
            Err(error) => return (error.to_string(), vector.accepts(&["error"])),
        };
        let mut cache = SessionCache::new(vector.strategy.unwrap(), &secrets).unwrap();
        if let Some(version) = &vector.cache_version {
            cache = cache.with_version(version);
        }
        let signer = TokenSigner::new(&secrets).unwrap();
        let token = signer.sign(&vector.session_token).unwrap();
        let token = signer.verify(token.expose()).unwrap();
        let text = vector.cache();
        let verified = cache.verify(&text, vector.now());
        let opened = match &verified {
            Ok(verified) => cache.open(verified, &token, vector.now()),
            Err(error) => Err(error.clone()),
        };
        match opened {
            Ok((payload, expires)) => {
                let mut claims = WipedBytes::for_claims();
                let renewed = Claims::renewed(&payload, "", vector.now()).unwrap();
                renewed.write(&mut claims);
                claims += "}";
                let mut claims: Map<String, Value> = serde_json::from_slice(&claims).unwrap();
                claims.retain(|name, _| name == "session" || name == "user");
                let differs = |(name, value): (&String, &Value)| {
                    let decoded = vector.decoded.get(name);
                    decoded
                        .is_some_and(|decoded| json::stringify(value) != json::stringify(decoded))
                };
                let different = claims.iter().find(|member| differs(*member));
                let end = expires.duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0;
                let has_end = vector
                    .expires_at_ms
                    .is_none_or(|expected| (end - expected).abs() < 0.5);
                let cached = cache
                    .decode_at::<Value>(&text, &token, vector.now())
                    .unwrap();
                let user = json::stringify(&cached.user);
                assert_eq!(user, json::stringify(&claims["user"]), "{}", vector.id);
                let cached_at = cached.cached_at.duration_since(UNIX_EPOCH).unwrap();
                let updated_at = vector.decoded["updatedAt"].as_f64();
                let is_updated_at =
                    |expected: f64| (cached_at.as_secs_f64() * 1000.0 - expected).abs() < 0.5;
                assert!(updated_at.is_none_or(is_updated_at), "{}", vector.id);
                let passed = vector.accepts(&["ok"]) && different.is_none() && has_end;
                (format!("a session with {different:?}, {end}"), passed)
            }
            Err(error) => {
                let reason = match vector.why.as_str() {
                    _ if vector.expect != "null" => None,
                    "expired" => Some(TokenError::Expired),
                    "version" => Some(TokenError::OtherVersion),
                    "token-mismatch" => Some(TokenError::OtherToken),
                    _ => None,
                };
                let is_reason = reason.is_none_or(|reason| reason == error);
                (format!("{error:?}"), vector.accepts(&["null"]) && is_reason)
            }
        }
    });
}

#[test]
fn secrets_are_read_as_by_the_package() {
    check_all("secrets", |vector| {
        let option = |name: &str| {
            let value = vector.options.get(name).and_then(Value::as_str);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let variable = |name: &str| {
            vector
                .env
                .get(name)
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let list = match vector.options.get("secrets") {
            Some(Value::Array(secrets)) => {
                let entry = |entry: &Value| {
                    let version = match &entry["version"] {
                        Value::String(version) => version.clone(),
                        version => version.to_string(),
                    };
                    format!("{version}:{}", entry["value"].as_str().unwrap_or_default())
                };
                Some(secrets.iter().map(entry).collect::<Vec<_>>().join(","))
            }
            _ => variable("BETTER_AUTH_SECRETS"),
        };
        let single = option("secret")
            .or_else(|| variable("BETTER_AUTH_SECRET"))
            .or_else(|| variable("AUTH_SECRET"));
        let secrets = match (list, single) {
            (Some(list), None) => BetterAuthSecrets::from_list(list),
            (Some(list), Some(legacy)) => {
                BetterAuthSecrets::from_list(list).and_then(|list| list.with_legacy(legacy))
            }
            (None, single) => BetterAuthSecrets::new(single.unwrap_or_default()),
        };
        let secrets = match secrets {
            Ok(secrets) => secrets,
            Err(error) => {
                // The package accepts its published default secrets in some places.
                let is_published = error.message().contains("published default secret");
                return (
                    error.to_string(),
                    is_published || vector.accepts(&["error"]),
                );
            }
        };
        let text = |secret: &secretwell_core::SecretValue| secret.expose_text().unwrap().to_owned();
        let versions: Vec<_> = secrets
            .versions()
            .map(|(version, secret)| (version, text(secret)))
            .collect();
        let expected: Vec<_> = vector
            .keys
            .iter()
            .flatten()
            .map(|key| (key.version, key.value.clone()))
            .collect();
        let passed = vector.accepts(&["ok"])
            && vector.current.as_deref() == Some(&text(secrets.current()))
            && vector.current_version == secrets.current_version()
            && vector.legacy == secrets.legacy().map(text)
            && versions == expected;
        for (version, secret) in &expected {
            assert_eq!(secrets.version(*version).map(text).as_ref(), Some(secret));
        }
        ("other secrets".to_owned(), passed)
    });
}

#[test]
fn session_token_is_verified_as_by_the_package() {
    check_all("session-token", |vector| {
        let signer = TokenSigner::new(&vector.secrets().unwrap()).unwrap();
        let cookies = SessionCookies::new(Scheme::Http);
        // The name can have a prefix.
        let cookies = cookies
            .with_name(CookieKey::SessionToken, &vector.cookie_name)
            .unwrap();
        let header = match (&vector.header, &vector.token) {
            (Some(header), _) => header.clone(),
            (None, token) => format!("{}={}", vector.cookie_name, token.as_deref().unwrap()),
        };
        let text = cookies.candidates(CookieKey::SessionToken, &header).next();
        match text.as_deref().map(|text| signer.verify(text)) {
            Some(Ok(token)) => {
                let is_same = vector.decoded.as_str() == Some(token.expose());
                ("a token".to_owned(), vector.accepts(&["ok"]) && is_same)
            }
            None | Some(Err(TokenError::Malformed)) => {
                ("null".to_owned(), vector.accepts(&["null"]))
            }
            Some(Err(_)) => ("false".to_owned(), vector.accepts(&["false"])),
        }
    });
}

#[test]
fn requests_are_answered_as_by_the_package() {
    check_all("request", |vector| {
        let scheme = match vector.secure {
            true => Scheme::Https,
            false => Scheme::Http,
        };
        let prefix = match vector.cookie_prefix.as_str() {
            "" => "better-auth",
            prefix => prefix,
        };
        let cookies = SessionCookies::with_prefix(scheme, prefix).unwrap();
        let strategy = vector.strategy.unwrap();
        let sessions = Sessions::with_cache(cookies, &vector.secrets().unwrap(), strategy);
        let mut sessions = sessions.unwrap();
        if let Some(version) = &vector.cache_version {
            sessions = sessions.cache_version(version);
        }
        let header = vector.header.as_deref().unwrap_or_default();
        let found = sessions.find_at::<Value>(header, vector.now()).unwrap();
        let user = |user: &Value| json::stringify(user);
        if let Some(found) = found {
            let is_same = vector.decoded.get("user").map(user) == Some(user(&found.user));
            return ("a session".to_owned(), vector.accepts(&["ok"]) && is_same);
        }
        // The application finds the token in its database, and so does the service.
        let token = sessions.token(header);
        let expected = vector
            .decoded
            .pointer("/session/token")
            .and_then(Value::as_str);
        let is_looked_up = vector.database != "empty"
            && token.is_some_and(|token| Some(token.expose()) == expected);
        let passed = match is_looked_up {
            true => vector.accepts(&["ok"]),
            false => vector.accepts(&["null"]),
        };
        (format!("no session, looked up: {is_looked_up}"), passed)
    });
}

#[test]
fn cookies_have_the_names_and_attributes_of_the_package() {
    check_all("cookie-names", |vector| {
        let advanced = |name: &str| vector.options.pointer(&format!("/advanced/{name}"));
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let base = text(vector.options.get("baseURL"));
        let is_secure = match (advanced("useSecureCookies"), &base) {
            (Some(secure), _) => secure.as_bool().unwrap(),
            (None, Some(base)) => base.starts_with("https://"),
            (None, None) => vector.node_env == "production",
        };
        let scheme = match is_secure {
            true => Scheme::Https,
            false => Scheme::Http,
        };
        let prefix = text(advanced("cookiePrefix"));
        let prefix = prefix.as_deref().unwrap_or("better-auth");
        let mut cookies = SessionCookies::with_prefix(scheme, prefix).unwrap();
        let is_shared = advanced("crossSubDomainCookies/enabled") == Some(&Value::Bool(true));
        if is_shared {
            let domain = text(advanced("crossSubDomainCookies/domain")).unwrap_or_else(|| {
                let host = base.as_deref().unwrap().split('/').nth(2).unwrap();
                host.split(':').next().unwrap().to_owned()
            });
            cookies = cookies.domain(&domain).unwrap();
        }
        let same_site = |value: &str| match value {
            "strict" => SameSite::Strict,
            "none" => SameSite::None,
            _ => SameSite::Lax,
        };
        if let Some(value) = text(advanced("defaultCookieAttributes/sameSite")) {
            cookies = cookies.same_site(same_site(&value)).unwrap();
        }
        if advanced("defaultCookieAttributes/partitioned") == Some(&Value::Bool(true)) {
            cookies = cookies.partitioned().unwrap();
        }
        if let Some(path) = text(advanced("defaultCookieAttributes/path")) {
            cookies = cookies.path(&path).unwrap();
        }
        let keys = [
            (CookieKey::SessionToken, "session_token", "sessionToken"),
            (CookieKey::SessionData, "session_data", "sessionData"),
            (
                CookieKey::DontRemember,
                "dont_remember",
                "dontRememberToken",
            ),
        ];
        let mut differences = Vec::new();
        for (key, name, expected) in keys {
            if let Some(name) = text(advanced(&format!("cookies/{name}/name"))) {
                cookies = cookies.with_name(key, &name).unwrap();
            }
            let same_site_of = advanced(&format!("cookies/{name}/attributes/sameSite"));
            if let Some(value) = text(same_site_of) {
                cookies = cookies.same_site_of(key, same_site(&value)).unwrap();
            }
            let expected = &vector.cookies[expected];
            let attribute = |name: &str| expected["attributes"].get(name);
            let mut header = format!("{}=v", expected["name"].as_str().unwrap());
            if let Some(domain) = text(attribute("domain")) {
                header += &format!("; Domain={}", domain.trim_start_matches('.'));
            }
            header += &format!("; Path={}", attribute("path").unwrap().as_str().unwrap());
            let same_site = text(attribute("sameSite")).unwrap();
            let (first, rest) = same_site.split_at(1);
            header += &format!("; HttpOnly; SameSite={}{rest}", first.to_uppercase());
            if attribute("secure") == Some(&Value::Bool(true)) {
                header += "; Secure";
            }
            if attribute("partitioned") == Some(&Value::Bool(true)) {
                header += "; Partitioned";
            }
            let set = cookies.set(key, "v", None, "").unwrap();
            if set != [header.clone()] {
                differences.push(format!("{set:?} instead of {header}"));
            }
        }
        let passed = vector.accepts(&["ok"]) && differences.is_empty();
        (differences.join(", "), passed)
    });
}
