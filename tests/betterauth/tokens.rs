//! Tokens and cookies of this crate and of the package, each read by the other.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, Remember, SessionCookies, SessionRow, Sessions, TokenSigner,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FIRST, PUBLISHED, SECOND};
use crate::authjs::site::{Browser, Packages};

#[derive(Debug, Deserialize)]
struct User {
    name: String,
}

/// The strategies of the cookie cache, with their names in the package.
const STRATEGIES: [(&str, CacheStrategy); 3] = [
    ("compact", CacheStrategy::Compact),
    ("jwt", CacheStrategy::Jwt),
    ("jwe", CacheStrategy::Jwe),
];

/// An instance of the package, with a database that other instances of a test can share.
struct Instance<'a> {
    packages: &'a Packages,
    database: Option<&'a str>,
    base_url: &'a str,
    options: Value,
}

impl Instance<'_> {
    async fn send(&self, browser: &mut Browser, route: &str, body: Option<Value>) -> Value {
        let mut options = self.options.clone();
        options["baseURL"] = json!(self.base_url);
        let method = if body.is_some() { "POST" } else { "GET" };
        let headers = json!({
            "cookie": browser.header(), "origin": self.base_url,
            "content-type": "application/json",
        });
        let request = json!({
            "action": "request", "database": self.database, "options": options,
            "url": format!("{}/api/auth/{route}", self.base_url), "method": method,
            "headers": headers, "body": body.map(|body| body.to_string()),
        });
        let response = self.packages.run(request).await.unwrap();
        assert_eq!(response["status"], 200, "{route}: {response}");
        browser.receive_from(&response);
        serde_json::from_str(response["body"].as_str().unwrap()).unwrap()
    }

    async fn sign_up(&self, name: &str) -> Browser {
        let mut browser = Browser::default();
        let email = format!("user{}@example.test", name.len());
        let user = json!({"name": name, "email": email, "password": "a password"});
        self.send(&mut browser, "sign-up/email", Some(user)).await;
        browser
    }

    /// Returns the name of the user who is logged in. The cookies of `browser` do not change.
    async fn name(&self, browser: &Browser) -> Option<String> {
        let session = self.send(&mut browser.clone(), "get-session", None).await;
        session["user"]["name"].as_str().map(str::to_owned)
    }
}

fn secrets(secret: &str) -> BetterAuthSecrets {
    BetterAuthSecrets::new(secret).unwrap()
}

/// Returns the name of the user in the cookies, according to this crate.
fn name(sessions: &Sessions, browser: &Browser) -> Option<String> {
    let session = sessions.find::<User>(&browser.header()).unwrap();
    session.map(|session| session.user.name)
}

/// Returns the row and the user of a new session.
fn new_session(name: &str) -> (SessionRow, Value) {
    let end = SystemTime::now() + Duration::from_secs(7 * 24 * 60 * 60);
    let row = SessionRow::new("session-1", "user-1", "a-token-of-a-session", end);
    let user = json!({
        "id": "user-1", "email": "ada@example.test", "name": name, "emailVerified": true,
        "createdAt": "2027-01-15T07:59:55.000Z", "updatedAt": "2027-01-15T07:59:55.000Z",
    });
    (row, user)
}

/// Returns the attributes of a `Set-Cookie` header, without their order, their case and the exact lifetime.
fn attributes(header: &str) -> BTreeSet<String> {
    let attributes = header.split("; ").skip(1).map(str::to_lowercase);
    let rounded = |attribute: String| match attribute.strip_prefix("max-age=") {
        // The lifetime of a session that starts now is rounded down.
        Some(seconds) => format!("max-age={}", seconds.parse::<u64>().unwrap().div_ceil(60)),
        None => attribute,
    };
    attributes.map(rounded).collect()
}

#[tokio::test]
async fn signed_tokens_are_read_by_the_package_and_vice_versa() {
    let packages = Packages::start_script("betterauth.mjs");
    let signer = TokenSigner::new(&secrets(FIRST)).unwrap();
    let other = TokenSigner::new(&secrets(SECOND)).unwrap();
    for token in [
        "tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123",
        "a.b.c",
        "a-b_c~d",
        "+/=",
        "0",
    ] {
        let sign = json!({"action": "sign", "name": "x", "value": token, "secret": FIRST});
        let header = packages.run(sign).await.unwrap();
        let (_, value) = header.as_str().unwrap().split_once('=').unwrap();
        let value = value.split(';').next().unwrap();
        let sessions = Sessions::new(SessionCookies::new(Scheme::Http), &secrets(FIRST)).unwrap();
        let found = sessions.token(&format!("better-auth.session_token={value}"));
        assert_eq!(found.unwrap().expose(), token);

        // The package writes only letters and digits. A token of this crate need not contain more.
        let Ok(signed) = signer.sign(token) else {
            continue;
        };
        for (signed, expected) in [
            (signed.expose().to_owned(), json!(token)),
            (other.sign(token).unwrap().expose().to_owned(), json!(false)),
        ] {
            let encoded = signed
                .replace('%', "%25")
                .replace('+', "%2B")
                .replace('=', "%3D");
            let cookies = format!("x={encoded}");
            let read = json!({"action": "read", "cookies": cookies, "name": "x", "secret": FIRST});
            assert_eq!(packages.run(read).await.unwrap(), expected, "{token}");
        }
    }
}

#[test]
fn published_default_secret_is_refused() {
    BetterAuthSecrets::new(PUBLISHED).unwrap_err();
    BetterAuthSecrets::from_list(format!("2:{FIRST},1:{PUBLISHED}")).unwrap_err();
}

/// The cookies of an application: its address and options, and the same in this crate. The package does not limit the
/// number of bytes.
fn applications() -> Vec<(&'static str, Value, SessionCookies)> {
    let unlimited = |(base_url, options, cookies): (_, _, SessionCookies)| {
        (base_url, options, cookies.max_size(100_000))
    };
    differing_applications()
        .into_iter()
        .map(unlimited)
        .collect()
}

fn differing_applications() -> Vec<(&'static str, Value, SessionCookies)> {
    let secure = || SessionCookies::new(Scheme::Https);
    vec![
        (
            "http://localhost:3000",
            json!({}),
            SessionCookies::new(Scheme::Http),
        ),
        (
            "https://app.example.test",
            json!({"crossSubDomainCookies": {"enabled": true, "domain": "example.test"}}),
            secure().domain("example.test").unwrap(),
        ),
        (
            "https://app.example.test",
            json!({"cookiePrefix": "shop"}),
            SessionCookies::with_prefix(Scheme::Https, "shop").unwrap(),
        ),
        (
            "https://app.example.test",
            json!({"defaultCookieAttributes": {"partitioned": true}}),
            secure().partitioned().unwrap(),
        ),
    ]
}

#[tokio::test]
async fn cached_sessions_are_read_by_the_package_and_vice_versa() {
    let packages = Packages::start_script("betterauth.mjs");
    for (index, (base_url, advanced, cookies)) in applications().into_iter().enumerate() {
        for (strategy, cache) in STRATEGIES {
            let what = format!("{base_url} {advanced} {strategy}");
            let database = format!("{index} {strategy}");
            let instance = Instance {
                packages: &packages,
                database: Some(&database),
                base_url,
                options: json!({
                    "secret": FIRST, "advanced": advanced,
                    "session": {"cookieCache": {"enabled": true, "strategy": strategy}},
                }),
            };
            let sessions = Sessions::with_cache(cookies.clone(), &secrets(FIRST), cache).unwrap();
            let stranger = Sessions::with_cache(cookies.clone(), &secrets(SECOND), cache).unwrap();
            for length in [3, 4_000, 20_000] {
                let long = "x".repeat(length);
                let browser = instance.sign_up(&long).await;
                assert_eq!(name(&sessions, &browser).as_ref(), Some(&long), "{what}");
                assert_eq!(name(&stranger, &browser), None, "{what}");
                let chunks = browser.cookies_named("session_data").len();
                assert_eq!(chunks > 1, length > 3, "{what}");

                let (row, user) = new_session(&long);
                let set = sessions
                    .start(&row, &user, Remember::UntilExpiry, "")
                    .unwrap();
                let own = Browser::with_cookies(&set);
                assert_eq!(instance.name(&own).await.as_ref(), Some(&long), "{what}");
                let read = json!({
                    "action": "cache", "cookies": own.header(), "secret": FIRST,
                    "strategy": strategy, "isSecure": base_url.starts_with("https"),
                    "cookiePrefix": advanced["cookiePrefix"].as_str().unwrap_or("better-auth"),
                });
                let cached = packages.run(read).await.unwrap();
                assert_eq!(cached["user"]["name"], long, "{what}");
                for header in &set {
                    let cookie = header.split('=').next().unwrap();
                    let expected = attributes(browser.set_cookie_header(cookie));
                    assert_eq!(attributes(header), expected, "{what} {cookie}");
                }
            }
        }
    }
}

#[tokio::test]
async fn sign_out_on_either_side_ends_the_session_on_both() {
    let packages = Packages::start_script("betterauth.mjs");
    for (base_url, advanced, cookies) in applications() {
        let instance = Instance {
            packages: &packages,
            database: None,
            base_url,
            options: json!({"secret": FIRST, "advanced": advanced}),
        };
        let sessions = Sessions::stateless(cookies, &secrets(FIRST)).unwrap();
        for long in ["Ada".to_owned(), "x".repeat(9_000)] {
            // Each side starts a session, and each side ends it.
            let (row, user) = new_session(&long);
            let started = sessions
                .start(&row, &user, Remember::UntilExpiry, "")
                .unwrap();
            for mut browser in [
                instance.sign_up(&long).await,
                Browser::with_cookies(&started),
            ] {
                assert_eq!(instance.name(&browser).await.as_ref(), Some(&long));
                assert_eq!(name(&sessions, &browser).as_ref(), Some(&long));
                let mut here = browser.clone();
                for header in sessions.end(&here.header()) {
                    here.receive(&header);
                }
                instance
                    .send(&mut browser, "sign-out", Some(json!({})))
                    .await;
                for browser in [&here, &browser] {
                    assert_eq!(browser.header(), "", "{advanced}");
                    assert_eq!(instance.name(browser).await, None);
                    assert_eq!(name(&sessions, browser), None);
                }
            }
        }
    }
}

#[tokio::test]
async fn temporary_session_stays_temporary_on_both_sides() {
    let packages = Packages::start_script("betterauth.mjs");
    let instance = Instance {
        packages: &packages,
        database: None,
        base_url: "http://localhost:3000",
        options: json!({"secret": FIRST}),
    };
    let cookies = SessionCookies::new(Scheme::Http);
    let sessions = Sessions::stateless(cookies, &secrets(FIRST)).unwrap();
    let (row, user) = new_session("Ada");
    let set = sessions
        .start(&row, &user, Remember::UntilBrowserCloses, "")
        .unwrap();
    let own = Browser::with_cookies(&set);
    assert_eq!(instance.name(&own).await.as_deref(), Some("Ada"));
    for header in &set {
        assert!(!header.contains("Max-Age"), "{header}");
    }
    let mark = own.cookies_named("dont_remember")[0];
    let read = json!({
        "action": "read", "cookies": format!("mark={mark}"), "name": "mark", "secret": FIRST,
    });
    assert_eq!(packages.run(read).await.unwrap(), "true");
}

#[tokio::test]
async fn secrets_of_a_list_are_accepted_as_by_the_package() {
    let packages = Packages::start_script("betterauth.mjs");
    let list = |entries: &[(u32, &str)]| {
        let option: Vec<_> = entries
            .iter()
            .map(|(version, value)| json!({"version": version, "value": value}))
            .collect();
        let text: Vec<_> = entries
            .iter()
            .map(|(version, value)| format!("{version}:{value}"))
            .collect();
        (
            json!(option),
            BetterAuthSecrets::from_list(text.join(",")).unwrap(),
        )
    };
    let instance = |secrets: &Value| Instance {
        packages: &packages,
        database: None,
        base_url: "http://localhost:3000",
        options: json!({"secrets": secrets}),
    };
    let cookies = || SessionCookies::new(Scheme::Http);
    let (before, _) = list(&[(1, FIRST)]);
    let ada = instance(&before).sign_up("Ada").await;
    // The first entry signs, whatever its number.
    for entries in [[(2, SECOND), (1, FIRST)], [(0, SECOND), (7, FIRST)]] {
        let (option, secrets) = list(&entries);
        assert_eq!(instance(&option).name(&ada).await, None);
        let sessions = Sessions::stateless(cookies(), &secrets).unwrap();
        assert_eq!(name(&sessions, &ada), None);
        let accepting = Sessions::stateless(cookies(), &secrets)
            .unwrap()
            .accept_previous_tokens();
        assert_eq!(name(&accepting, &ada).as_deref(), Some("Ada"));
        let bob = instance(&option).sign_up("Bob").await;
        assert_eq!(name(&sessions, &bob).as_deref(), Some("Bob"));

        // A token that is signed again makes the session valid for both, as the wrapper of the guide does.
        let token = sessions_token(&accepting, &ada);
        let signed = TokenSigner::new(&secrets).unwrap().sign(&token).unwrap();
        let mut renewed = ada.clone();
        let encoded = signed
            .expose()
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        renewed.receive(&format!("better-auth.session_token={encoded}; Path=/"));
        assert_eq!(
            instance(&option).name(&renewed).await.as_deref(),
            Some("Ada")
        );
        assert_eq!(name(&sessions, &renewed).as_deref(), Some("Ada"));
    }
}

fn sessions_token(sessions: &Sessions, browser: &Browser) -> String {
    sessions
        .token(&browser.header())
        .unwrap()
        .expose()
        .to_owned()
}
