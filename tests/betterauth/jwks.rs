//! The Rust code of the guide for tokens of the JWT plugin, with the vectors and with the real plugin.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::pedantic,
    clippy::disallowed_methods,
    reason = "the code is part of the guide"
)]
mod code {
    include!(concat!(env!("OUT_DIR"), "/better_auth_guide.rs"));
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time;

use self::code::{Jwks, Keys, TokenError, access_token, session_cookie, usable_keys};
use super::FIRST;
use crate::authjs::site::{Browser, Packages};

const ORIGIN: &str = "https://app.example.test";

/// Returns the entries of a kind. `SECRETWELL_BETTERAUTH_VECTORS` names another file with vectors.
fn vectors(kind: &str) -> Vec<Value> {
    let file = std::env::var("SECRETWELL_BETTERAUTH_VECTORS").unwrap_or_else(|_| {
        let fixtures = "../crates/auth/fixtures/betterauth-vectors.json";
        format!("{}/{fixtures}", env!("CARGO_MANIFEST_DIR"))
    });
    let text = std::fs::read_to_string(file).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    entries
        .into_iter()
        .filter(|entry| entry["kind"] == kind)
        .collect()
}

/// Returns the issuer in a token, unverified.
fn issuer(token: &str) -> Option<String> {
    use base64::Engine;
    let payload = token.split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    Some(payload["iss"].as_str()?.to_owned())
}

#[test]
fn vectors_of_session_data_jwks() {
    let entries = vectors("session-data-jwks");
    assert!(!entries.is_empty());
    for entry in entries {
        let id = entry["id"].as_str().unwrap();
        let set: JwkSet = serde_json::from_value(entry["jwks"].clone()).unwrap();
        let keys = usable_keys(&set);
        let token = entry["token"].as_str().unwrap();
        // The code of the guide always checks the issuer.
        let expected = entry["issuer"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| issuer(token));
        let milliseconds = entry["nowMs"].as_u64().unwrap();
        let now = UNIX_EPOCH + Duration::from_millis(milliseconds);
        let result = session_cookie(token, &keys, &expected.unwrap_or_default(), now);
        let found = if result.is_ok() { "ok" } else { "null" };
        let also = entry["alsoAcceptable"].as_array();
        let is_expected = entry["expect"] == found
            || entry["alsoAcceptable"] == found
            || also.is_some_and(|values| values.iter().any(|value| value == found));
        assert!(
            is_expected,
            "{id}: {result:?} instead of {}",
            entry["expect"]
        );
        if let (Ok(cookie), Some(decoded)) = (result, entry.get("decoded")) {
            assert_eq!(decoded["user"]["name"], cookie.user.name, "{id}");
            assert_eq!(decoded["user"]["id"], cookie.user.id, "{id}");
            assert_eq!(decoded["session"]["id"], cookie.session.id, "{id}");
            assert_eq!(decoded["session"]["userId"], cookie.session.user_id, "{id}");
            let lower = cookie.user.email.to_lowercase();
            assert_eq!(decoded["user"]["email"], lower, "{id}");
        }
    }
}

/// The real plugin, with its key type.
struct Plugin {
    packages: Packages,
    options: Value,
    key: Value,
}

impl Plugin {
    fn new(key: &Value) -> Self {
        Self {
            packages: Packages::start_script("betterauth.mjs"),
            options: json!({
                "secret": FIRST, "baseURL": ORIGIN,
                "session": {"cookieCache": {"enabled": true, "strategy": "jwt"}},
            }),
            key: key.clone(),
        }
    }

    async fn send(&self, browser: &mut Browser, route: &str, body: Option<Value>) -> Value {
        let method = if body.is_some() { "POST" } else { "GET" };
        let headers = json!({
            "cookie": browser.header(), "origin": ORIGIN, "content-type": "application/json",
        });
        let request = json!({
            "action": "request", "database": "plugin", "options": self.options,
            "plugins": {"jwt": {"sessionCookieCache": true, "jwks": {"keyPairConfig": self.key}}},
            "url": format!("{ORIGIN}/api/auth/{route}"), "method": method, "headers": headers,
            "body": body.map(|body| body.to_string()),
        });
        let response = self.packages.run(request).await.unwrap();
        assert_eq!(response["status"], 200, "{route}: {response}");
        browser.receive_from(&response);
        serde_json::from_str(response["body"].as_str().unwrap()).unwrap()
    }

    async fn sign_up(&self, name: &str) -> Browser {
        let mut browser = Browser::default();
        let user = json!({
            "name": name, "email": format!("{name}@example.test"), "password": "a password",
        });
        self.send(&mut browser, "sign-up/email", Some(user)).await;
        browser
    }

    async fn token(&self, browser: &mut Browser) -> String {
        let body = self.send(browser, "token", None).await;
        body["token"].as_str().unwrap().to_owned()
    }

    async fn keys(&self) -> Value {
        self.send(&mut Browser::default(), "jwks", None).await
    }

    /// The key ends, so that the next token has a new one.
    async fn expire_keys(&self) {
        let action = json!({"action": "expireKeys", "database": "plugin"});
        self.packages.run(action).await.unwrap();
    }
}

/// The route of the keys, which the tests change and count.
#[derive(Clone)]
struct Endpoint {
    keys: Arc<Mutex<Value>>,
    fails: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    url: String,
}

impl Endpoint {
    async fn new(keys: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Self {
            keys: Arc::new(Mutex::new(keys)),
            fails: Arc::default(),
            requests: Arc::default(),
            url: format!("http://{}/api/auth/jwks", listener.local_addr().unwrap()),
        };
        let respond = async |State(endpoint): State<Self>| {
            endpoint.requests.fetch_add(1, Ordering::SeqCst);
            match endpoint.fails.load(Ordering::SeqCst) {
                true => Err(StatusCode::BAD_GATEWAY),
                false => Ok(Json(endpoint.keys.lock().await.clone())),
            }
        };
        let router = Router::new().route("/api/auth/jwks", get(respond));
        let router = router.with_state(endpoint.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        endpoint
    }

    async fn set(&self, keys: Value) {
        *self.keys.lock().await = keys;
    }

    /// Returns the number of requests since the last call.
    fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

/// Advances tokio's clock, which the code of the guide reads.
async fn pass(seconds: u64) {
    time::pause();
    time::advance(Duration::from_secs(seconds)).await;
    time::resume();
}

async fn name(jwks: &Jwks, token: &str) -> Result<String, TokenError> {
    let keys = jwks.keys_for(token).await?;
    let user = access_token(token, &keys, ORIGIN, SystemTime::now())?;
    Ok(user.name)
}

#[tokio::test]
async fn tokens_of_the_plugin_are_verified_with_each_supported_key() {
    for key in [
        json!({"alg": "EdDSA", "crv": "Ed25519"}),
        json!({"alg": "ES256"}),
        json!({"alg": "PS256"}),
        json!({"alg": "RS256"}),
    ] {
        let plugin = Plugin::new(&key);
        let mut ada = plugin.sign_up("Ada").await;
        let token = plugin.token(&mut ada).await;
        let cookie = ada.cookies_named("session_data")[0].to_owned();
        let set: JwkSet = serde_json::from_value(plugin.keys().await).unwrap();
        let keys = usable_keys(&set);
        let now = SystemTime::now();
        let user = access_token(&token, &keys, ORIGIN, now).unwrap();
        assert_eq!(
            (user.name.as_str(), user.email.as_str()),
            ("Ada", "ada@example.test")
        );
        let found = session_cookie(&cookie, &keys, ORIGIN, now).unwrap();
        assert_eq!(
            (found.user.name.as_str(), found.user.id),
            ("Ada", user.sub),
            "{key}"
        );

        // Neither passes for the other, and neither for another application.
        access_token(&cookie, &keys, ORIGIN, now).unwrap_err();
        session_cookie(&token, &keys, ORIGIN, now).unwrap_err();
        access_token(&token, &keys, "https://other.example.test", now).unwrap_err();
        access_token(&token, &Keys::new(), ORIGIN, now).unwrap_err();
        let minutes = |minutes: u64| now + Duration::from_secs(minutes * 60);
        access_token(&token, &keys, ORIGIN, minutes(15)).unwrap();
        access_token(&token, &keys, ORIGIN, minutes(16)).unwrap_err();
        session_cookie(&cookie, &keys, ORIGIN, minutes(6)).unwrap_err();
    }
}

#[tokio::test]
async fn key_of_an_unsupported_type_is_ignored_and_the_others_remain_usable() {
    let plugin = Plugin::new(&json!({"alg": "EdDSA", "crv": "Ed25519"}));
    let mut ada = plugin.sign_up("Ada").await;
    let token = plugin.token(&mut ada).await;
    let good = plugin.keys().await["keys"][0].clone();
    let with = |alg: &str| {
        let mut key = good.clone();
        key["alg"] = json!(alg);
        key
    };
    let others = json!([
        {"kty": "EC", "crv": "P-521", "alg": "ES512", "kid": "a", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "alg": "ECDH-ES", "kid": "b", "x": "AA"},
        {"kty": "oct", "alg": "HS256", "kid": "c", "k": good["x"]},
        {"kty": "new", "kid": "d"},
    ]);
    let mut set = others.as_array().unwrap().clone();
    set.push(good.clone());
    let parsed: JwkSet = serde_json::from_value(json!({"keys": set})).unwrap();
    let keys = usable_keys(&parsed);
    assert_eq!(keys.len(), 1);
    access_token(&token, &keys, ORIGIN, SystemTime::now()).unwrap();
    for alg in ["HS256", "ES256", "RS256", "none"] {
        let set = json!({"keys": [with(alg)]});
        let keys = usable_keys(&serde_json::from_value(set).unwrap());
        assert!(
            keys.is_empty(),
            "{alg}: the type of the key does not allow it"
        );
    }
}

#[tokio::test]
async fn algorithm_of_the_token_does_not_override_that_of_the_key() {
    use base64::Engine;
    let plugin = Plugin::new(&json!({"alg": "EdDSA", "crv": "Ed25519"}));
    let mut ada = plugin.sign_up("Ada").await;
    let token = plugin.token(&mut ada).await;
    let set = plugin.keys().await;
    let keys = usable_keys(&serde_json::from_value(set.clone()).unwrap());
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let payload = signed.split('.').nth(1).unwrap();
    let kid = set["keys"][0]["kid"].as_str().unwrap();
    for alg in ["none", "HS256", "ES256", "RS256"] {
        let header = encode(&json!({"alg": alg, "kid": kid}).to_string());
        for signature in ["", signature] {
            let forged = format!("{header}.{payload}.{signature}");
            access_token(&forged, &keys, ORIGIN, SystemTime::now()).unwrap_err();
        }
    }
    // The public key as an HMAC secret.
    let public = set["keys"][0]["x"].as_str().unwrap().as_bytes();
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some(kid.to_owned());
    let claims = json!({"sub": "x", "name": "x", "email": "x", "iss": ORIGIN, "aud": ORIGIN, "exp": 4_000_000_000_u64});
    let key = jsonwebtoken::EncodingKey::from_secret(public);
    let forged = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    access_token(&forged, &keys, ORIGIN, SystemTime::now()).unwrap_err();
}

#[tokio::test]
async fn new_key_of_the_plugin_is_fetched_once_and_the_old_one_remains_valid() {
    let plugin = Plugin::new(&json!({"alg": "EdDSA", "crv": "Ed25519"}));
    let mut ada = plugin.sign_up("Ada").await;
    let old = plugin.token(&mut ada).await;
    let endpoint = Endpoint::new(plugin.keys().await).await;
    let jwks = Jwks::new(&endpoint.url).unwrap();
    for _ in 0..3 {
        assert_eq!(name(&jwks, &old).await.as_deref(), Ok("Ada"));
    }
    assert_eq!(endpoint.requests(), 1);

    plugin.expire_keys().await;
    let new = plugin.token(&mut ada).await;
    endpoint.set(plugin.keys().await).await;
    assert_ne!(old.split('.').next(), new.split('.').next());
    // The previous fetch was just now.
    assert_eq!(
        name(&jwks, &new).await,
        Err(TokenError::Invalid("an unknown key"))
    );
    pass(31).await;
    let requests = (0..20).map(|_| name(&jwks, &new));
    for result in futures_join(requests).await {
        assert_eq!(result.as_deref(), Ok("Ada"));
    }
    assert_eq!(name(&jwks, &old).await.as_deref(), Ok("Ada"));
    assert_eq!(endpoint.requests(), 1);
}

/// Polls futures concurrently.
async fn futures_join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        match futures.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    results
}

#[tokio::test]
async fn forged_key_ids_cause_one_request_per_interval() {
    let plugin = Plugin::new(&json!({"alg": "EdDSA", "crv": "Ed25519"}));
    let mut ada = plugin.sign_up("Ada").await;
    let token = plugin.token(&mut ada).await;
    let endpoint = Endpoint::new(plugin.keys().await).await;
    let jwks = Jwks::new(&endpoint.url).unwrap();
    name(&jwks, &token).await.unwrap();
    endpoint.requests();
    let forge = |number: usize| {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some(format!("forged {number}"));
        let key = jsonwebtoken::EncodingKey::from_secret(b"x");
        jsonwebtoken::encode(&header, &json!({}), &key).unwrap()
    };
    for _ in 0..3 {
        pass(31).await;
        for number in 0..100 {
            let result = name(&jwks, &forge(number)).await;
            assert_eq!(result, Err(TokenError::Invalid("an unknown key")));
        }
        assert_eq!(endpoint.requests(), 1);
    }
    for text in ["", "a", "a.b.c", "..", &"x".repeat(100_000)] {
        assert!(matches!(
            name(&jwks, text).await,
            Err(TokenError::Invalid(_))
        ));
    }
    assert_eq!(endpoint.requests(), 0);
}

#[tokio::test]
async fn outage_of_the_endpoint_never_looks_like_a_logout() {
    let plugin = Plugin::new(&json!({"alg": "EdDSA", "crv": "Ed25519"}));
    let mut ada = plugin.sign_up("Ada").await;
    let token = plugin.token(&mut ada).await;
    let endpoint = Endpoint::new(plugin.keys().await).await;
    endpoint.fails.store(true, Ordering::SeqCst);
    let jwks = Jwks::new(&endpoint.url).unwrap();
    for _ in 0..3 {
        assert_eq!(name(&jwks, &token).await, Err(TokenError::Unavailable));
    }
    assert_eq!(endpoint.requests(), 1);
    endpoint.fails.store(false, Ordering::SeqCst);
    pass(31).await;
    name(&jwks, &token).await.unwrap();

    // Known keys outlive an outage.
    endpoint.fails.store(true, Ordering::SeqCst);
    pass(11 * 60).await;
    name(&jwks, &token).await.unwrap();
    endpoint.fails.store(false, Ordering::SeqCst);
    endpoint.set(json!({"keys": []})).await;
    pass(31).await;
    name(&jwks, &token).await.unwrap();
    endpoint.set(json!({"page": "sign in"})).await;
    pass(31).await;
    name(&jwks, &token).await.unwrap();

    // A key that was removed is forgotten.
    plugin.expire_keys().await;
    let new = plugin.token(&mut ada).await;
    let mut keys = plugin.keys().await;
    let kid = jsonwebtoken::decode_header(&new).unwrap().kid.unwrap();
    let list = keys["keys"].as_array_mut().unwrap();
    list.retain(|key| key["kid"] == kid.as_str());
    assert_eq!(list.len(), 1);
    endpoint.set(keys).await;
    pass(31).await;
    assert_eq!(
        name(&jwks, &token).await,
        Err(TokenError::Invalid("an unknown key"))
    );
    name(&jwks, &new).await.unwrap();
}
