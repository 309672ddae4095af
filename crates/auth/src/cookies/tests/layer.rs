//! `CookieLayer` around the real tower-sessions, and around services that set other cookies.

use axum::Router;
use axum::body::Body;
use axum::response::AppendHeaders;
use axum::routing::get;
use cookie::Key;
use http::header::{COOKIE, HeaderMap, HeaderValue, RETRY_AFTER, SET_COOKIE};
use http::{Request, Response, StatusCode};
use secretwell_core::MemoryProvider;
use tower_service::Service;
use tower_sessions::session::{Id, Record};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore, session_store};

use super::{Down, NEW, OLD, lazy_keys, lazy_keys_in};
use crate::cookies::{CookieKeys, CookieLayer};
use crate::{LazyAuth, Mode};

async fn visits(session: Session) -> String {
    let visits: u32 = session.get("visits").await.unwrap().unwrap_or(0) + 1;
    session.insert("visits", visits).await.unwrap();
    visits.to_string()
}

/// Reads the session and does not write it.
async fn peek(session: Session) -> String {
    let visits: Option<u32> = session.get("visits").await.unwrap();
    visits.map_or("none".to_owned(), |visits| visits.to_string())
}

async fn log_out(session: Session) {
    session.flush().await.unwrap();
}

async fn cookies(headers: HeaderMap) -> String {
    let headers = headers.get_all(COOKIE).iter();
    headers
        .map(|it| it.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(" | ")
}

fn routes() -> Router {
    Router::new()
        .route("/", get(visits))
        .route("/peek", get(peek))
        .route("/log-out", get(log_out))
        .route("/cookies", get(cookies))
}

struct Setup {
    memory: MemoryProvider,
    keys: LazyAuth<CookieKeys>,
    router: Router,
}

fn service(layer: fn(&LazyAuth<CookieKeys>) -> CookieLayer) -> Setup {
    let memory = MemoryProvider::from_iter([("cookie_secret", OLD)]);
    let keys = lazy_keys(&memory);
    let sessions = SessionManagerLayer::new(MemoryStore::default());
    Setup {
        router: routes().layer(sessions).layer(layer(&keys)),
        memory,
        keys,
    }
}

fn signed() -> Setup {
    service(|keys| CookieLayer::signed(keys, ["id"]))
}

fn private() -> Setup {
    service(|keys| CookieLayer::private(keys, ["id"]))
}

async fn send(router: &Router, path: &str, cookies: &[&[u8]]) -> Response<Body> {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    for cookie in cookies {
        let value = HeaderValue::from_bytes(cookie).unwrap();
        request.headers_mut().append(COOKIE, value);
    }
    router.clone().call(request).await.unwrap()
}

async fn body(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 10_000)
        .await
        .unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn get_body(router: &Router, path: &str, cookie: &str) -> String {
    body(send(router, path, &[cookie.as_bytes()]).await).await
}

fn set_cookie(response: &Response<Body>) -> &str {
    response.headers()[SET_COOKIE].to_str().unwrap()
}

/// Starts a session. Returns its `Cookie` header.
async fn start(router: &Router) -> String {
    let response = send(router, "/", &[]).await;
    set_cookie(&response).split(';').next().unwrap().to_owned()
}

/// The plain id in a signed cookie.
fn plain_id(cookie: &str) -> String {
    let encoded = cookie.strip_prefix("id=").unwrap();
    let decoded = percent_encoding::percent_decode(encoded.as_bytes())
        .decode_utf8()
        .unwrap();
    decoded[44..].to_owned()
}

#[tokio::test]
async fn session_of_tower_sessions_lives_behind_a_protected_cookie() {
    for service in [signed(), private()] {
        let response = send(&service.router, "/", &[]).await;
        let header = set_cookie(&response);
        assert!(
            header.ends_with("; HttpOnly; SameSite=Strict; Secure; Path=/"),
            "{header}"
        );
        let cookie = header.split(';').next().unwrap().to_owned();
        assert_eq!(get_body(&service.router, "/", &cookie).await, "2");
        assert_eq!(get_body(&service.router, "/peek", &cookie).await, "2");
        // Two more keys of the ring do not disturb it.
        let inner = get_body(
            &service.router,
            "/cookies",
            &format!("a=1; {cookie}; b=\"2\""),
        )
        .await;
        assert!(
            inner.starts_with("a=1; id=") && inner.ends_with("; b=\"2\""),
            "{inner}"
        );
        assert_eq!(inner.len(), "a=1; id=; b=\"2\"".len() + 22, "{inner}");
    }
}

#[tokio::test]
async fn unverifiable_id_does_not_reach_the_session() {
    let service = signed();
    let cookie = start(&service.router).await;
    let id = plain_id(&cookie);
    assert_eq!(id.len(), 22);
    let zero_mac = format!("id={}%3D{id}", "A".repeat(43));
    for forged in [
        format!("id={id}"),
        format!("%69d={id}"),
        format!("i%64={id}"),
        format!("\tid ={id}"),
        format!("\u{a0}id={id}"),
        format!("id=\"{id}\""),
        zero_mac,
        format!("{cookie}x"),
        cookie[..cookie.len() - 1].to_owned(),
        String::new(),
        "id=".to_owned(),
    ] {
        let seen = get_body(&service.router, "/peek", &forged).await;
        assert_eq!(seen, "none", "{forged}");
        let inner = get_body(&service.router, "/cookies", &format!("a=1; {forged}")).await;
        assert!(!inner.contains(&id), "{inner}");
        // It does not hide the good one, before or after it, in one header or several.
        for cookies in [format!("{forged}; {cookie}"), format!("{cookie}; {forged}")] {
            assert_eq!(
                get_body(&service.router, "/peek", &cookies).await,
                "1",
                "{cookies}"
            );
        }
        let split = [
            forged.as_bytes(),
            b"a=1",
            cookie.as_bytes(),
            forged.as_bytes(),
        ];
        let response = send(&service.router, "/peek", &split).await;
        assert_eq!(body(response).await, "1", "{forged}");
    }
}

#[tokio::test]
async fn quoted_cookie_and_one_beside_other_bytes_are_accepted() {
    for service in [signed(), private()] {
        let cookie = start(&service.router).await;
        let quoted = cookie.replacen("id=", "id=\"", 1) + "\"";
        assert_eq!(get_body(&service.router, "/peek", &quoted).await, "1");
        let beside = [b"x=\xff; ", cookie.as_bytes()].concat();
        let response = send(&service.router, "/peek", &[&beside]).await;
        assert_eq!(body(response).await, "1");
    }
}

#[tokio::test]
async fn private_cookie_hides_the_id() {
    let service = private();
    let cookie = start(&service.router).await;
    let inner = get_body(&service.router, "/cookies", &cookie).await;
    let id = inner.strip_prefix("id=").unwrap();
    assert!(!cookie.contains(id));
    assert_eq!(
        get_body(&service.router, "/peek", &format!("id={id}")).await,
        "none"
    );
}

#[tokio::test]
async fn removal_of_the_cookie_passes_through() {
    for service in [signed(), private()] {
        let cookie = start(&service.router).await;
        let response = send(&service.router, "/log-out", &[cookie.as_bytes()]).await;
        let header = set_cookie(&response);
        assert!(
            header.starts_with("id=;") && header.contains("Max-Age=0"),
            "{header}"
        );
        assert_eq!(get_body(&service.router, "/peek", &cookie).await, "none");
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_loses_no_session_and_a_write_signs_with_the_new_key() {
    for service in [signed(), private()] {
        let router = &service.router;
        let old = start(router).await;
        service.memory.set("cookie_secret", NEW).unwrap();
        service.keys.rebuild().await.unwrap();
        let read = send(router, "/peek", &[old.as_bytes()]).await;
        assert!(!read.headers().contains_key(SET_COOKIE));
        assert_eq!(body(read).await, "1");
        let response = send(router, "/", &[old.as_bytes()]).await;
        let new = set_cookie(&response).split(';').next().unwrap().to_owned();
        assert_eq!(body(response).await, "2");

        service.keys.revoke_previous().await.unwrap();
        assert_eq!(get_body(router, "/peek", &old).await, "none");
        assert_eq!(get_body(router, "/peek", &new).await, "2");
    }
}

#[tokio::test]
async fn without_keys_the_inner_service_is_not_called() {
    let service = signed();
    service.memory.remove("cookie_secret").unwrap();
    for cookies in ["", "id=1"] {
        let response = send(&service.router, "/", &[cookies.as_bytes()]).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(SET_COOKIE));
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_source_is_503_in_each_mode_and_not_an_unprotected_session() {
    for mode in [Mode::Production, Mode::Development] {
        let keys = lazy_keys_in(mode, &Down::new());
        let sessions = SessionManagerLayer::new(MemoryStore::default());
        let router = routes()
            .layer(sessions)
            .layer(CookieLayer::signed(&keys, ["id"]));
        for path in ["/", "/unknown"] {
            let response = send(&router, path, &[b"id=1"]).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(RETRY_AFTER));
            assert!(!response.headers().contains_key(SET_COOKIE));
        }
    }
}

#[tokio::test]
async fn absent_secret_in_development_gives_protected_sessions() {
    let keys = lazy_keys_in(Mode::Development, &MemoryProvider::new());
    let sessions = SessionManagerLayer::new(MemoryStore::default());
    let router = routes()
        .layer(sessions)
        .layer(CookieLayer::signed(&keys, ["id"]));
    let cookie = start(&router).await;
    assert_eq!(get_body(&router, "/peek", &cookie).await, "1");
    let plain = format!("id={}", plain_id(&cookie));
    assert_eq!(get_body(&router, "/peek", &plain).await, "none");
}

/// A store that cannot be reached.
#[derive(Debug, Clone)]
struct BrokenStore;

#[async_trait::async_trait]
impl SessionStore for BrokenStore {
    async fn save(&self, _: &Record) -> session_store::Result<()> {
        Err(session_store::Error::Backend("down".to_owned()))
    }

    async fn load(&self, _: &Id) -> session_store::Result<Option<Record>> {
        Err(session_store::Error::Backend("down".to_owned()))
    }

    async fn delete(&self, _: &Id) -> session_store::Result<()> {
        Err(session_store::Error::Backend("down".to_owned()))
    }
}

#[tokio::test]
async fn failure_of_the_session_store_clears_no_cookie() {
    let service = signed();
    let cookie = start(&service.router).await;
    let write = |session: Session| async move {
        let inserted = session.insert("a", 1).await;
        inserted.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    let router = Router::new()
        .route("/", get(write))
        .layer(SessionManagerLayer::new(BrokenStore))
        .layer(CookieLayer::signed(&service.keys, ["id"]));
    let response = send(&router, "/", &[cookie.as_bytes()]).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!response.headers().contains_key(SET_COOKIE));
    assert_eq!(get_body(&service.router, "/peek", &cookie).await, "1");
}

#[tokio::test]
async fn name_is_protected_in_every_form_that_a_parser_reads_as_it() {
    for name in [" id", "%69d", "id\t"] {
        let memory = MemoryProvider::from_iter([("cookie_secret", OLD)]);
        let keys = lazy_keys(&memory);
        let sessions = SessionManagerLayer::new(MemoryStore::default());
        let router = routes()
            .layer(sessions)
            .layer(CookieLayer::signed(&keys, [name]));
        let cookie = start(&router).await;
        assert_eq!(get_body(&router, "/peek", &cookie).await, "1");
        let plain = format!("id={}", plain_id(&cookie));
        assert_eq!(get_body(&router, "/peek", &plain).await, "none", "{name:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn response_to_a_request_that_began_before_a_revocation_has_the_new_key() {
    let service = signed();
    let (memory, keys) = (service.memory.clone(), service.keys.clone());
    let rotate = get(move || async move {
        memory.set("cookie_secret", NEW).unwrap();
        keys.rebuild().await.unwrap();
        keys.revoke_previous().await.unwrap();
        [(SET_COOKIE, "id=plain; Path=/")]
    });
    let router = Router::new()
        .route("/", rotate)
        .layer(CookieLayer::signed(&service.keys, ["id"]));
    let response = send(&router, "/", &[]).await;
    let cookie = set_cookie(&response).split(';').next().unwrap().to_owned();
    assert_eq!(
        get_body(&service.router, "/cookies", &cookie).await,
        "id=plain"
    );
}

#[tokio::test]
async fn two_layers_protect_two_cookies_with_two_secrets() {
    let one = lazy_keys(&MemoryProvider::from_iter([("cookie_secret", OLD)]));
    let two = lazy_keys(&MemoryProvider::from_iter([("cookie_secret", NEW)]));
    let set = get(|| async { AppendHeaders([(SET_COOKIE, "a=1"), (SET_COOKIE, "b=2")]) });
    let router = Router::new()
        .route("/", set)
        .route("/cookies", get(cookies))
        .layer(CookieLayer::signed(&one, ["a"]))
        .layer(CookieLayer::signed(&two, ["b"]));
    let response = send(&router, "/", &[]).await;
    let values = response.headers().get_all(SET_COOKIE).iter();
    let [a, b] = &values.map(|it| it.to_str().unwrap()).collect::<Vec<_>>()[..] else {
        panic!("two cookies")
    };
    assert_eq!(
        get_body(&router, "/cookies", &format!("{b}; {a}")).await,
        "b=2; a=1"
    );
    // The signed value of one is not valid as the other.
    let swapped = format!("a={}; b={}", &b[2..], &a[2..]);
    assert_eq!(get_body(&router, "/cookies", &swapped).await, "");
}

#[tokio::test]
async fn cookies_are_those_of_the_signed_and_private_sessions_of_tower_sessions() {
    let key = Key::derive_from(OLD.as_bytes());
    let store = MemoryStore::default();
    let memory = MemoryProvider::from_iter([("cookie_secret", OLD)]);
    let keys = lazy_keys(&memory);
    let sessions = || SessionManagerLayer::new(store.clone());
    let theirs = [
        routes().layer(sessions().with_signed(key.clone())),
        routes().layer(sessions().with_private(key.clone())),
    ];
    let ours = [
        routes()
            .layer(sessions())
            .layer(CookieLayer::signed(&keys, ["id"])),
        routes()
            .layer(sessions())
            .layer(CookieLayer::private(&keys, ["id"])),
    ];
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let cookie = start(theirs).await;
        assert_eq!(get_body(ours, "/", &cookie).await, "2");
        let cookie = start(ours).await;
        assert_eq!(get_body(theirs, "/", &cookie).await, "2");
    }
}

/// The `Set-Cookie` headers after the layer, if the inner service has set these.
async fn after_layer(inner: &'static [&'static [u8]]) -> Vec<String> {
    let handler = get(move || async move {
        let header = |value: &&[u8]| (SET_COOKIE, HeaderValue::from_bytes(value).unwrap());
        AppendHeaders(inner.iter().map(header).collect::<Vec<_>>())
    });
    let keys = lazy_keys(&MemoryProvider::from_iter([("cookie_secret", OLD)]));
    let router = Router::new()
        .route("/", handler)
        .layer(CookieLayer::private(&keys, ["id"]));
    let response = send(&router, "/", &[]).await;
    let headers = response.headers().get_all(SET_COOKIE).iter();
    headers
        .map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned())
        .collect()
}

#[tokio::test]
async fn only_the_named_cookie_of_a_response_changes() {
    let [first, second, third, fourth] = &after_layer(&[
        b"theme=id; Path=/; id=x",
        b"id=plain; Path=/x;Secure ; Expires=Thu, 01 Jan 2090 00:00:00 GMT",
        b"ID=other",
        b" %69d = \"plain\"; Secure",
    ])
    .await[..] else {
        panic!("all cookies are kept")
    };
    assert_eq!(
        (first.as_str(), third.as_str()),
        ("theme=id; Path=/; id=x", "ID=other")
    );
    assert!(!second.contains("plain") && !fourth.contains("plain"));
    let attributes = "; Path=/x;Secure ; Expires=Thu, 01 Jan 2090 00:00:00 GMT";
    assert!(
        second.starts_with("id=") && second.ends_with(attributes),
        "{second}"
    );
    assert!(
        fourth.starts_with("id=") && fourth.ends_with("; Secure"),
        "{fourth}"
    );
}

#[tokio::test]
async fn value_that_cannot_be_protected_does_not_leave_as_plain_text() {
    assert_eq!(
        after_layer(&[b"id=plain\xff; Path=/", b"a=1"]).await,
        ["a=1"]
    );
}
