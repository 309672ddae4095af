//! Tokens, cookies and forms of the packages, and ours, each read by the other.

use std::collections::BTreeSet;

use secretwell::auth::KeyRing;
use secretwell::auth::authjs::{
    Csrf, CsrfCookie, CsrfTokens, Scheme, SessionCookie, SessionTokens, Sessions,
};
use serde_json::{Value, json};

use super::site::{Application, Browser, Packages, Site};
use crate::support::secs;

const SECRET: &str = "the secret of now, thirty-two bytes or more";
const OLD: &str = "the secret before, thirty-two bytes or more";

#[tokio::test]
async fn each_reads_the_tokens_of_the_other() {
    let packages = Packages::start();
    let claims =
        json!({"sub": "42", "name": "Ünïcödé 🔑", "roles": ["a", "b"], "nested": {"x": null}});
    let ring = KeyRing::new(SECRET).with_previous(OLD);
    for (by, salt, list) in [
        ("next-auth@4", "", false),
        ("next-auth@4", "next-auth.state", false),
        ("next-auth@5", "authjs.session-token", true),
        ("next-auth@5", "__Secure-authjs.session-token", false),
        ("@auth/core", "authjs.session-token", false),
        ("@auth/core", "__Secure-authjs.session-token", true),
        ("@auth/core", "a.name.of-their-own", true),
    ] {
        let tokens = match (by, salt) {
            ("next-auth@4", "") => SessionTokens::v4(&ring),
            ("next-auth@4", salt) => SessionTokens::v4_named(salt, &ring),
            (_, salt) => SessionTokens::v5(salt, &ring),
        }
        .unwrap();
        for (encoding, decoding) in [
            (json!(SECRET), json!(SECRET)),
            (json!(OLD), json!([SECRET, OLD])),
            (json!([OLD, SECRET]), json!([SECRET, OLD])),
        ] {
            if !list && decoding.is_array() {
                continue;
            }
            let question = json!({"action": "encode", "by": by, "token": claims, "secret": encoding, "salt": salt});
            let theirs = packages.ask(question).await.unwrap();
            let session = tokens.decode::<Value>(theirs.as_str().unwrap()).unwrap();
            let ours = tokens.encode(&claims, secs(3600)).unwrap();
            let question = json!({"action": "decode", "by": by, "token": ours, "secret": decoding, "salt": salt});
            let read = packages.ask(question).await.unwrap();
            for (name, value) in claims.as_object().unwrap() {
                assert_eq!(session.claims[name], *value, "{by} {name}");
                assert_eq!(read[name], *value, "{by} {name}");
            }
        }
        let forged = tokens.encode(&claims, secs(3600)).unwrap();
        let question = json!({"action": "decode", "by": by, "token": forged, "secret": "another", "salt": salt});
        packages.ask(question).await.unwrap_err();
    }
}

#[tokio::test]
async fn each_reads_the_cookies_of_the_other_however_many_they_are() {
    let packages = Packages::start();
    let application = Application::start(&[("AUTH_SECRET", SECRET.to_owned())]).await;
    for (site, cookie) in [
        (
            application.site("eager/v4"),
            SessionCookie::v4(Scheme::Http),
        ),
        (
            application.site("eager/v5"),
            SessionCookie::v5(Scheme::Http),
        ),
        (
            Site::Core(&packages, json!([SECRET, OLD])),
            SessionCookie::v5(Scheme::Http),
        ),
    ] {
        let name = cookie.name().to_owned();
        let sessions = Sessions::new(cookie, &KeyRing::new(SECRET)).unwrap();
        for (length, cookies) in [(3, 1), (4_000, 2), (34_000, 12)] {
            let long = "x".repeat(length);
            let browser = site.log_in(&long).await;
            assert_eq!(browser.cookies_named(&name).len(), cookies);
            let session = sessions.find::<Value>(&browser.header()).unwrap();
            assert_eq!(session.claims["name"], long);

            let set = sessions.start(&json!({"name": long}), "").unwrap();
            assert_eq!(set.len(), cookies);
            let browser = Browser::sent(&set);
            assert_eq!(site.name(&browser).await, Some(long));
        }
    }
}

#[tokio::test]
async fn each_accepts_the_forms_of_the_other() {
    let packages = Packages::start();
    let application = Application::start(&[("AUTH_SECRET", SECRET.to_owned())]).await;
    let secure = Application::start(&[
        ("AUTH_SECRET", SECRET.to_owned()),
        ("NEXTAUTH_URL", "https://127.0.0.1".to_owned()),
    ])
    .await;
    let one = KeyRing::new(SECRET);
    let two = KeyRing::new(SECRET).with_previous(OLD);
    let five = ["three", "two", "one"].map(KeyRing::new);
    let five = KeyRing::merge(
        [KeyRing::new(SECRET), KeyRing::new(OLD)]
            .into_iter()
            .chain(five),
    );
    for (site, cookie, tokens) in [
        (
            application.site("eager/v4"),
            CsrfCookie::v4(Scheme::Http),
            CsrfTokens::new(&one),
        ),
        (
            application.site("eager/v5"),
            CsrfCookie::v5(Scheme::Http),
            CsrfTokens::new(&one),
        ),
        (
            Site::Core(&packages, json!([SECRET, OLD])),
            CsrfCookie::v5(Scheme::Http),
            CsrfTokens::new(&two).list_only(),
        ),
        (
            Site::Core(&packages, json!([SECRET, OLD, "three", "two", "one"])),
            CsrfCookie::v5(Scheme::Http),
            CsrfTokens::new(&five.unwrap()).list_only(),
        ),
        (
            secure.site("eager/v4"),
            CsrfCookie::v4(Scheme::Https),
            CsrfTokens::new(&one),
        ),
        (
            secure.site("eager/v5"),
            CsrfCookie::v5(Scheme::Https),
            CsrfTokens::new(&one),
        ),
    ] {
        let mut browser = Browser::default();
        let token = site.csrf_token(&mut browser).await;
        let theirs = attributes(browser.header_of(cookie.name()));
        let value = cookie.find(&browser.header()).unwrap();
        assert_eq!(tokens.verify_post(&value, Some(&token)), Csrf::Verified);

        let (token, value) = tokens.generate().unwrap();
        let set = [cookie.set(&value)];
        for (given, logged_in) in [("another", false), (token.as_str(), true)] {
            let mut browser = Browser::sent(&set);
            site.post_name(&mut browser, given, "Ada").await;
            assert_eq!(
                !browser.cookies_named("session-token").is_empty(),
                logged_in
            );
        }
        assert_eq!(attributes(&set[0]), theirs, "but for its value");
    }
}

/// What stands behind the value in a `Set-Cookie` header, in any order.
fn attributes(header: &str) -> BTreeSet<String> {
    let mut parts = header.split("; ").map(str::to_owned);
    let name = parts.next().unwrap().split('=').next().unwrap().to_owned();
    parts.chain([name]).collect()
}
