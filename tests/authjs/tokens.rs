//! Tokens, cookies and forms of this crate and of the packages, each read by the other.

use std::collections::BTreeSet;

use secretwell::auth::KeyRing;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{
    Csrf, CsrfCookie, CsrfTokens, SessionCookie, SessionTokens, Sessions,
};
use serde_json::{Value, json};

use super::site::{Application, Browser, Packages, Site};
use crate::support::secs;

const SECRET: &str = "the current secret, thirty-two bytes or more";
const OLD: &str = "the previous secret, thirty-two bytes or more";

#[tokio::test]
async fn tokens_are_decoded_by_the_packages_and_vice_versa() {
    let packages = Packages::start();
    let claims =
        json!({"sub": "42", "name": "Ünïcödé 🔑", "roles": ["a", "b"], "nested": {"x": null}});
    let ring = KeyRing::new(SECRET).unwrap().with_previous(OLD).unwrap();
    for (package, salt, accepts_list) in [
        ("next-auth@4", "", false),
        ("next-auth@4", "next-auth.state", false),
        ("next-auth@5", "authjs.session-token", true),
        ("next-auth@5", "__Secure-authjs.session-token", false),
        ("@auth/core", "authjs.session-token", false),
        ("@auth/core", "__Secure-authjs.session-token", true),
        ("@auth/core", "a.custom-name", true),
    ] {
        let tokens = match (package, salt) {
            ("next-auth@4", "") => SessionTokens::v4(&ring),
            ("next-auth@4", salt) => SessionTokens::v4_with_cookie_name(salt, &ring),
            (_, salt) => SessionTokens::v5(salt, &ring),
        }
        .unwrap();
        for (encoding, decoding) in [
            (json!(SECRET), json!(SECRET)),
            (json!(OLD), json!([SECRET, OLD])),
            (json!([OLD, SECRET]), json!([SECRET, OLD])),
        ] {
            if !accepts_list && decoding.is_array() {
                continue;
            }
            let action = json!({"action": "encode", "by": package, "token": claims, "secret": encoding, "salt": salt});
            let package_token = packages.run(action).await.unwrap();
            let session = tokens
                .decode::<Value>(package_token.as_str().unwrap())
                .unwrap();
            let token = tokens.encode(&claims, secs(3600)).unwrap();
            let action = json!({"action": "decode", "by": package, "token": token, "secret": decoding, "salt": salt});
            let decoded = packages.run(action).await.unwrap();
            for (name, value) in claims.as_object().unwrap() {
                assert_eq!(session.claims[name], *value, "{package} {name}");
                assert_eq!(decoded[name], *value, "{package} {name}");
            }
        }
        let token = tokens.encode(&claims, secs(3600)).unwrap();
        let action = json!({"action": "decode", "by": package, "token": token, "secret": "another", "salt": salt});
        packages.run(action).await.unwrap_err();
    }
}

#[tokio::test]
async fn chunked_cookies_are_read_by_the_packages_and_vice_versa() {
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
        let sessions =
            Sessions::new(cookie.max_size(64 * 1024), &KeyRing::new(SECRET).unwrap()).unwrap();
        for (length, cookies) in [(3, 1), (4_000, 2), (34_000, 12)] {
            let long = "x".repeat(length);
            let browser = site.log_in(&long).await;
            assert_eq!(browser.cookies_named(&name).len(), cookies);
            let session = sessions.find::<Value>(&browser.header()).unwrap();
            assert_eq!(session.unwrap().claims["name"], long);

            let set = sessions.start(&json!({"name": long}), "").unwrap();
            assert_eq!(set.len(), cookies);
            let browser = Browser::with_cookies(&set);
            assert_eq!(site.name(&browser).await, Some(long));
        }
    }
}

#[tokio::test]
async fn csrf_tokens_are_accepted_by_the_packages_and_vice_versa() {
    let packages = Packages::start();
    let application = Application::start(&[("AUTH_SECRET", SECRET.to_owned())]).await;
    let secure = Application::start(&[
        ("AUTH_SECRET", SECRET.to_owned()),
        ("NEXTAUTH_URL", "https://127.0.0.1".to_owned()),
    ])
    .await;
    let one_secret = KeyRing::new(SECRET).unwrap();
    let two_secrets = KeyRing::new(SECRET).unwrap().with_previous(OLD).unwrap();
    let older = ["three", "two", "one"].map(|secret| KeyRing::new(secret).unwrap());
    let five_secrets = KeyRing::merge(
        [KeyRing::new(SECRET).unwrap(), KeyRing::new(OLD).unwrap()]
            .into_iter()
            .chain(older),
    );
    for (site, cookie, tokens) in [
        (
            application.site("eager/v4"),
            CsrfCookie::v4(Scheme::Http),
            CsrfTokens::new(&one_secret),
        ),
        (
            application.site("eager/v5"),
            CsrfCookie::v5(Scheme::Http),
            CsrfTokens::new(&one_secret),
        ),
        (
            Site::Core(&packages, json!([SECRET, OLD])),
            CsrfCookie::v5(Scheme::Http),
            CsrfTokens::new(&two_secrets).whole_list_only(),
        ),
        (
            Site::Core(&packages, json!([SECRET, OLD, "three", "two", "one"])),
            CsrfCookie::v5(Scheme::Http),
            CsrfTokens::new(&five_secrets.unwrap()).whole_list_only(),
        ),
        (
            secure.site("eager/v4"),
            CsrfCookie::v4(Scheme::Https),
            CsrfTokens::new(&one_secret),
        ),
        (
            secure.site("eager/v5"),
            CsrfCookie::v5(Scheme::Https),
            CsrfTokens::new(&one_secret),
        ),
    ] {
        let mut browser = Browser::default();
        let token = site.csrf_token(&mut browser).await;
        let expected = attributes(browser.set_cookie_header(cookie.name()));
        let value = cookie.find(&browser.header()).unwrap();
        assert_eq!(tokens.verify_post(&value, Some(&token)), Csrf::Verified);

        let (token, value) = tokens.generate().unwrap();
        let set = [cookie.set(&value)];
        for (csrf, logged_in) in [("another", false), (token.as_str(), true)] {
            let mut browser = Browser::with_cookies(&set);
            site.post_name(&mut browser, csrf, "Ada").await;
            assert_eq!(
                !browser.cookies_named("session-token").is_empty(),
                logged_in
            );
        }
        assert_eq!(
            attributes(&set[0]),
            expected,
            "the attributes must be equal"
        );
    }
}

/// Returns the name and the attributes of a `Set-Cookie` header, without the value and the order.
fn attributes(header: &str) -> BTreeSet<String> {
    let mut parts = header.split("; ").map(str::to_owned);
    let name = parts.next().unwrap().split('=').next().unwrap().to_owned();
    parts.chain([name]).collect()
}
