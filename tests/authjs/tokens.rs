//! Tokens, cookies and forms of the packages, and ours, each read by the other.

use secretwell::auth::KeyRing;
use secretwell::auth::authjs::{Csrf, CsrfTokens, SessionCookie, SessionTokens, Sessions};
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
    let ring = KeyRing::of(SECRET).with_earlier(OLD);
    for (by, salt, list) in [
        ("next-auth@4", "", false),
        ("next-auth@5", "authjs.session-token", true),
        ("next-auth@5", "__Secure-authjs.session-token", false),
        ("@auth/core", "authjs.session-token", false),
        ("@auth/core", "__Secure-authjs.session-token", true),
        ("@auth/core", "a.name.of-their-own", true),
    ] {
        let tokens = match salt {
            "" => SessionTokens::v4(&ring),
            salt => SessionTokens::v5(salt, &ring),
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
        (application.site("eager/v4"), SessionCookie::v4(false)),
        (application.site("eager/v5"), SessionCookie::v5(false)),
        (
            Site::Core(&packages, json!([SECRET, OLD])),
            SessionCookie::v5(false),
        ),
    ] {
        let name = cookie.name().to_owned();
        let sessions = Sessions::new(cookie, &KeyRing::of(SECRET)).unwrap();
        for (length, cookies) in [(3, 1), (4_000, 2), (34_000, 12)] {
            let long = "x".repeat(length);
            let browser = site.log_in(&long).await;
            assert_eq!(browser.named(&name).len(), cookies);
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
    let one = KeyRing::of(SECRET);
    let two = KeyRing::of(SECRET).with_earlier(OLD);
    for (site, name, tokens) in [
        (
            application.site("eager/v4"),
            "next-auth.csrf-token",
            CsrfTokens::new(&one),
        ),
        (
            application.site("eager/v5"),
            "authjs.csrf-token",
            CsrfTokens::new(&one),
        ),
        (
            Site::Core(&packages, json!([SECRET, OLD])),
            "authjs.csrf-token",
            CsrfTokens::new(&two).joined_only(),
        ),
    ] {
        let mut browser = Browser::default();
        let token = site.csrf_token(&mut browser).await;
        let cookie = browser.named(name)[0].replace("%7C", "|");
        assert_eq!(tokens.verify(&cookie, Some(&token), true), Csrf::Verified);
        assert_eq!(
            CsrfTokens::new(&two).verify(&cookie, Some(&token), true),
            Csrf::Verified
        );

        let (token, cookie) = tokens.make().unwrap();
        let set = format!("{name}={}", cookie.replace('|', "%7C"));
        for (given, logged_in) in [("another", false), (token.as_str(), true)] {
            let mut browser = Browser::sent(std::slice::from_ref(&set));
            site.post_name(&mut browser, given, "Ada").await;
            assert_eq!(!browser.named("session-token").is_empty(), logged_in);
        }
    }
}
