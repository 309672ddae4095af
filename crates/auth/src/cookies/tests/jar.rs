//! `RingJar` beside the jars of axum-extra.

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use axum_extra::extract::cookie::{PrivateCookieJar, SignedCookieJar};
use cookie::{Cookie, Key};
use http::header::{COOKIE, HeaderMap, HeaderValue, RETRY_AFTER, SET_COOKIE};
use http::{Request, Response, StatusCode};
use secretwell_core::MemoryProvider;
use tower_service::Service;

use super::{Down, NEW, OLD, keys, lazy_keys, lazy_keys_in, ring};
use crate::cookies::{CookieKeys, Private, Protection, RingJar, Signed};
use crate::{KeyRing, Mode};

const OLDER: &str = "the older secret: ol/pe/Unols=3g6s1xYv72K7gNU3sdo+OL0wNhqoVWhr";
const VALUE: &str = "ä value; with = \"all\" % of it";

/// Returns the `Cookie` header of a browser that has received this response, without its other cookies.
fn received(response: &Response<Body>) -> HeaderMap {
    let set_cookie = response.headers().get_all(SET_COOKIE).iter();
    let pairs = set_cookie.map(|header| header.to_str().unwrap().split(';').next().unwrap());
    sent(&pairs.collect::<Vec<_>>().join("; "))
}

fn sent(cookies: &str) -> HeaderMap {
    HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookies).unwrap())])
}

fn value<P: Protection>(headers: &HeaderMap, keys: &CookieKeys) -> Option<String> {
    let jar = RingJar::<P>::from_headers(headers, keys);
    jar.get("a").map(|cookie| cookie.value().to_owned())
}

/// The headers with the cookie `a`, protected by a ring jar.
fn protected<P: Protection>(keys: &CookieKeys) -> HeaderMap {
    let jar = RingJar::<P>::new(keys).add(("a", VALUE));
    received(&jar.into_response())
}

#[test]
fn cookies_are_those_of_axum_extra_in_both_directions() {
    for (keys, key) in [
        (keys(&[OLD]), Key::derive_from(OLD.as_bytes())),
        (
            CookieKeys::from_master(&ring(&[OLD])).unwrap(),
            Key::from(OLD.as_bytes()),
        ),
    ] {
        let theirs = SignedCookieJar::new(key.clone()).add(("a", VALUE));
        let theirs = received(&theirs.into_response());
        assert_eq!(value::<Signed>(&theirs, &keys).as_deref(), Some(VALUE));
        let read = SignedCookieJar::from_headers(&protected::<Signed>(&keys), key.clone());
        assert_eq!(read.get("a").unwrap().value(), VALUE);

        let theirs = PrivateCookieJar::new(key.clone()).add(("a", VALUE));
        let theirs = received(&theirs.into_response());
        assert_eq!(value::<Private>(&theirs, &keys).as_deref(), Some(VALUE));
        let read = PrivateCookieJar::from_headers(&protected::<Private>(&keys), key.clone());
        assert_eq!(read.get("a").unwrap().value(), VALUE);
    }
}

fn previous_key_is_accepted<P: Protection>() {
    let (old, both, new) = (keys(&[OLD]), keys(&[NEW, OLD]), keys(&[NEW]));
    let cookie = protected::<P>(&old);
    let jar = RingJar::<P>::from_headers(&cookie, &both);
    assert_eq!(jar.get("a").unwrap().value(), VALUE);
    assert!(jar.is_outdated("a"));
    assert_eq!(value::<P>(&cookie, &new), None);

    let jar = jar.add(("a", VALUE));
    assert!(!jar.is_outdated("a"));
    let renewed = received(&jar.into_response());
    assert_eq!(value::<P>(&renewed, &new).as_deref(), Some(VALUE));
    assert!(!RingJar::<P>::from_headers(&renewed, &both).is_outdated("a"));
}

#[test]
fn cookie_of_a_previous_key_is_accepted_and_written_again_with_the_primary_key() {
    previous_key_is_accepted::<Signed>();
    previous_key_is_accepted::<Private>();
}

#[test]
fn forged_cookies_are_not_in_the_jar() {
    let keys = keys(&[NEW, OLD]);
    let good = protected::<Signed>(&keys)[COOKIE]
        .to_str()
        .unwrap()
        .to_owned();
    let (_, sealed) = good.split_once('=').unwrap();
    let tampered = format!("a={sealed}x");
    let zero_mac = format!("a={}=evil", "A".repeat(43));
    let truncated = format!("a={}", &sealed[..44]);
    for forged in ["a=plain", "a=", "a", &tampered, &zero_mac, &truncated] {
        assert_eq!(value::<Signed>(&sent(forged), &keys), None, "{forged}");
        assert_eq!(value::<Private>(&sent(forged), &keys), None, "{forged}");
        // It does not hide the good one, on either side.
        for cookies in [format!("{forged}; {good}"), format!("{good}; {forged}")] {
            let found = value::<Signed>(&sent(&cookies), &keys);
            assert_eq!(found.as_deref(), Some(VALUE), "{cookies}");
        }
    }
    let quoted = format!("a=\"{sealed}\"");
    assert_eq!(
        value::<Signed>(&sent(&quoted), &keys).as_deref(),
        Some(VALUE)
    );

    // The name of a private cookie is part of what is authenticated.
    let private = protected::<Private>(&keys)[COOKIE]
        .to_str()
        .unwrap()
        .to_owned();
    let renamed = private.replacen("a=", "b=", 1);
    let jar = RingJar::<Private>::from_headers(&sent(&renamed), &keys);
    assert!(jar.get("b").is_none());
}

#[test]
fn cookie_beside_bytes_that_are_not_utf_8_is_found() {
    let keys = keys(&[NEW]);
    let good = protected::<Private>(&keys);
    let header = [b"x=\xff; ", good[COOKIE].as_bytes()].concat();
    let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_bytes(&header).unwrap())]);
    assert_eq!(value::<Private>(&headers, &keys).as_deref(), Some(VALUE));
}

#[test]
fn removed_cookie_is_removed_in_the_browser_even_if_it_is_not_valid() {
    let keys = keys(&[NEW]);
    let removal = || Cookie::build("a").path("/app").build();
    for cookies in [
        "a=forged",
        protected::<Signed>(&keys)[COOKIE].to_str().unwrap(),
    ] {
        let jar = RingJar::<Signed>::from_headers(&sent(cookies), &keys).remove(removal());
        assert!(jar.get("a").is_none());
        let response = jar.into_response();
        let header = response.headers()[SET_COOKIE].to_str().unwrap();
        assert!(header.starts_with("a=; Path=/app; Max-Age=0"), "{header}");
    }
    let unknown = RingJar::<Signed>::from_headers(&sent("b=1"), &keys).remove(removal());
    assert!(!unknown.into_response().headers().contains_key(SET_COOKIE));
    let added = RingJar::<Signed>::new(&keys)
        .add(("a", "1"))
        .remove(removal());
    assert!(!added.into_response().headers().contains_key(SET_COOKIE));
}

#[test]
fn unchanged_jar_sets_no_cookie() {
    let keys = keys(&[NEW]);
    let jar = RingJar::<Private>::from_headers(&protected::<Private>(&keys), &keys);
    assert_eq!(jar.iter().count(), 1);
    assert!(!jar.into_response().headers().contains_key(SET_COOKIE));
}

#[test]
fn debug_output_contains_no_value() {
    let jar = RingJar::<Signed>::new(&keys(&[NEW])).add(("a", VALUE));
    assert_eq!(format!("{jar:?}"), "RingJar { cookies: 1, .. }");
}

async fn count(jar: RingJar<Private>) -> (RingJar<Private>, String) {
    let count = jar.get("count").map_or(0, |it| it.value().parse().unwrap()) + 1;
    (jar.add(("count", count.to_string())), count.to_string())
}

async fn call(router: &Router, cookies: HeaderMap) -> Response<Body> {
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    *request.headers_mut() = cookies;
    router.clone().call(request).await.unwrap()
}

async fn body(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1000)
        .await
        .unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn late_and_rotated_secret_gives_no_empty_jar() {
    let memory = MemoryProvider::new();
    let keys = lazy_keys(&memory);
    let router = Router::new().route("/", get(count)).layer(keys.provide());
    let absent = call(&router, HeaderMap::new()).await;
    assert_eq!(absent.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!absent.headers().contains_key(SET_COOKIE));

    memory.set("cookie_secret", OLD).unwrap();
    keys.ready(std::time::Duration::from_secs(60))
        .await
        .unwrap();
    let first = call(&router, HeaderMap::new()).await;
    let cookies = received(&first);
    assert_eq!(body(first).await, "1");

    memory.set("cookie_secret", NEW).unwrap();
    keys.rebuild().await.unwrap();
    let second = call(&router, cookies.clone()).await;
    assert!(
        RingJar::<Private>::from_headers(&received(&second), &super::keys(&[NEW]))
            .get("count")
            .is_some()
    );
    assert_eq!(body(second).await, "2");

    keys.revoke_previous().await.unwrap();
    let revoked = call(&router, cookies).await;
    assert_eq!(body(revoked).await, "1");
}

#[tokio::test(start_paused = true)]
async fn unreachable_source_is_503_in_each_mode_and_not_an_empty_jar() {
    for mode in [Mode::Production, Mode::Development] {
        let keys = lazy_keys_in(mode, &Down::new());
        let router = Router::new().route("/", get(count)).layer(keys.provide());
        let response = call(&router, HeaderMap::new()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert!(!response.headers().contains_key(SET_COOKIE));
    }
}

#[tokio::test]
async fn absent_secret_in_development_is_a_placeholder() {
    let keys = lazy_keys_in(Mode::Development, &MemoryProvider::new());
    let router = Router::new().route("/", get(count)).layer(keys.provide());
    let first = call(&router, HeaderMap::new()).await;
    let cookies = received(&first);
    assert_eq!(body(first).await, "1");
    assert_eq!(body(call(&router, cookies).await).await, "2");
}

/// During the activation delay, another instance might already sign with the new secret.
#[test]
fn cookie_of_a_newer_key_is_not_outdated() {
    let newer = KeyRing {
        primary: OLD.into(),
        ..ring(&[NEW, OLD, OLDER])
    };
    let newer = CookieKeys::derive(&newer).unwrap();
    for (secret, outdated) in [(NEW, false), (OLD, false), (OLDER, true)] {
        let cookie = protected::<Signed>(&keys(&[secret]));
        let jar = RingJar::<Signed>::from_headers(&cookie, &newer);
        assert_eq!(jar.get("a").unwrap().value(), VALUE);
        assert_eq!(jar.is_outdated("a"), outdated, "{secret}");
    }
}

#[test]
fn good_cookie_is_found_beside_some_others_but_not_beside_thousands() {
    let keys = keys(&[NEW, OLD]);
    let good = protected::<Signed>(&keys)[COOKIE]
        .to_str()
        .unwrap()
        .to_owned();
    let found = |count: usize| {
        let cookies = "a=bad; ".repeat(count) + &good;
        value::<Signed>(&sent(&cookies), &keys)
    };
    assert_eq!(found(15).as_deref(), Some(VALUE));
    assert_eq!(found(5000), None);
}

#[tokio::test]
async fn router_without_the_layer_responds_with_500() {
    let router = Router::new().route("/", get(count));
    let response = call(&router, HeaderMap::new()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

struct App {
    cookies: CookieKeys,
}

impl AsRef<CookieKeys> for App {
    fn as_ref(&self) -> &CookieKeys {
        &self.cookies
    }
}

#[tokio::test]
async fn keys_can_be_part_of_the_build() {
    async fn add(jar: RingJar<Signed, App>) -> RingJar<Signed, App> {
        jar.add(("a", VALUE))
    }
    let memory = MemoryProvider::from_iter([("cookie_secret", NEW)]);
    let app = crate::LazyAuth::new(
        secretwell_resolver::Resolver::new(memory),
        |_: super::Secrets, context: crate::BuildContext| async move {
            let cookies = CookieKeys::derive(&context.key_ring("cookie_secret")?)?;
            Ok(App { cookies })
        },
    );
    let router = Router::new().route("/", get(add)).layer(app.provide());
    let response = call(&router, HeaderMap::new()).await;
    let found = value::<Signed>(&received(&response), &keys(&[NEW]));
    assert_eq!(found.as_deref(), Some(VALUE));
}

struct Preferences(CookieKeys);

impl AsRef<CookieKeys> for Preferences {
    fn as_ref(&self) -> &CookieKeys {
        &self.0
    }
}

/// The signature does not cover the name, so each kind of cookie has a secret of its own.
#[tokio::test]
async fn value_that_is_signed_in_one_jar_is_not_valid_in_another() {
    async fn choose(jar: RingJar<Signed, Preferences>) -> RingJar<Signed, Preferences> {
        jar.add(("theme", "admin"))
    }
    async fn user(jar: RingJar<Signed>) -> String {
        let user = jar.get("user");
        user.map_or("nobody".to_owned(), |it| it.value().to_owned())
    }
    let users = lazy_keys(&MemoryProvider::from_iter([("cookie_secret", NEW)]));
    let memory = MemoryProvider::from_iter([("cookie_secret", OLD)]);
    let preferences = crate::LazyAuth::new(
        secretwell_resolver::Resolver::new(memory),
        |_: super::Secrets, context: crate::BuildContext| async move {
            let ring = context.key_ring("cookie_secret")?;
            Ok(Preferences(CookieKeys::derive(&ring)?))
        },
    );
    let theme = Router::new()
        .route("/", get(choose))
        .layer(preferences.provide());
    let cookies = received(&call(&theme, HeaderMap::new()).await);
    let renamed = cookies[COOKIE].to_str().unwrap().replace("theme=", "user=");
    let router = Router::new()
        .route("/", get(user))
        .layer(users.provide())
        .layer(preferences.provide());
    assert_eq!(body(call(&router, sent(&renamed)).await).await, "nobody");
}
