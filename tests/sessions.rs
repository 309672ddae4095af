//! Auth.js sessions in a complete service on a real socket.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use reqwest::{Client, Response, redirect};
use secretwell::auth::sessions::authjs::{
    SecretOrder, Session, SessionCookie, SessionTokens, Sessions,
};
use secretwell::auth::sessions::{HasSessions, Scheme, SignIn};
use secretwell::auth::{Auth, BuildContext, BuildError, KeyRing, LazyAuth, State};
use secretwell::{MemoryProvider, Resolver, SecretString};
use secretwell_testkit::CanaryLog;
use serde::Deserialize;
use serde_json::json;
use tower_service::Service as _;

mod better_diagnosis;
mod diagnosis;

const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "read through the key ring")]
    auth_secret: SecretString,
}

#[derive(Clone, Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

async fn greeting(session: Option<Auth<Session<User>>>) -> String {
    session.map_or_else(
        || "anonymous".to_owned(),
        |Auth(session)| session.claims.name,
    )
}

/// A page whose handler allows shared caching.
async fn public(
    _: Option<Auth<Session<User>>>,
) -> ([(&'static str, &'static str); 1], &'static str) {
    ([("cache-control", "public, max-age=600")], "for all users")
}

struct Service {
    memory: MemoryProvider,
    auth: LazyAuth<Sessions>,
    address: String,
    client: Client,
}

impl Service {
    async fn new() -> Self {
        let memory = MemoryProvider::new();
        let auth = LazyAuth::new(
            Resolver::new(memory.clone()),
            |_: Secrets, context: BuildContext| async move {
                let ring = SecretOrder::AuthCore.key_ring(&context)?;
                let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?;
                Ok::<_, BuildError>(sessions.max_age(HOUR).accept_bearer())
            },
        );
        let layer = auth.session_layer();
        let layer = layer
            .sign_in(SignIn::page("/api/auth/signin").unwrap())
            .renew_when_remaining(HOUR / 2);
        let guarded = get("for users").route_layer(auth.require::<Session<User>>());
        let app = Router::new()
            .route("/guarded", guarded)
            .route("/me", get(me))
            .route("/", get(greeting))
            .route("/public", get(public))
            .route("/static", get("a script"))
            .nest("/nested", Router::new().route("/me", get(me)))
            .layer(layer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, app).await });
        let client = Client::builder().redirect(redirect::Policy::none());
        Self {
            memory,
            auth,
            address,
            client: client.build().unwrap(),
        }
    }

    async fn get(&self, path: &str, cookies: &str) -> Response {
        let request = self.client.get(format!("{}{path}", self.address));
        request.header("cookie", cookies).send().await.unwrap()
    }

    /// Returns the `Cookie` header of a session of one hour that ends after `remaining`. It is encrypted with the
    /// old secret.
    async fn log_in(&self, remaining: Duration) -> String {
        let ring = KeyRing::new(OLD).unwrap();
        let cookie = SessionCookie::v5(Scheme::Http);
        let tokens = SessionTokens::v5(cookie.name(), &ring).unwrap();
        let start = SystemTime::now() - (HOUR - remaining);
        let token = tokens
            .encode_at(&json!({"name": "Ada"}), HOUR, start)
            .unwrap();
        format!("{}={token}", cookie.name())
    }
}

#[tokio::test]
async fn late_or_rotated_secret_makes_no_user_anonymous_and_logs_nobody_out() {
    let service = Service::new().await;
    let ada = service.log_in(HOUR).await;
    for path in ["/me", "/"] {
        let response = service.get(path, &ada).await;
        assert_eq!(response.status(), 500);
        assert!(response.headers().get("set-cookie").is_none());
    }
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    service.auth.rebuild().await.unwrap();
    for (path, cookies, status, body) in [
        ("/me", ada.as_str(), 200, "Ada"),
        ("/", &ada, 200, "Ada"),
        ("/me", "", 401, r#"{"error":"unauthorized"}"#),
        ("/", "", 200, "anonymous"),
        ("/", "authjs.session-token=nonsense", 200, "anonymous"),
    ] {
        let response = service.get(path, cookies).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["vary"], "cookie, authorization");
        assert!(
            response.headers()["cache-control"]
                .to_str()
                .unwrap()
                .contains("no-store")
        );
        assert!(response.headers().get("set-cookie").is_none());
        assert_eq!(response.text().await.unwrap(), body);
    }

    let mut states = service.auth.watch_state();
    service.memory.set("AUTH_SECRET", NEW).unwrap();
    let rotated = |state: &State| state.generation() > Some(1);
    states.wait_for(rotated).await.unwrap();
    let response = service.get("/me", &ada).await;
    assert_eq!(response.status(), 200, "within the grace period");
    service.auth.revoke_previous().await.unwrap();
    let revoked = service.get("/me", &ada).await;
    assert_eq!(revoked.status(), 401);
    assert!(revoked.headers().get("set-cookie").is_none());
}

#[tokio::test]
async fn session_is_renewed_and_a_browser_is_redirected_to_the_sign_in_page() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    let short = service.log_in(HOUR / 4).await;
    let response = service.get("/me", &short).await;
    let set = response.headers()["set-cookie"].to_str().unwrap();
    let renewed = set.split(';').next().unwrap();
    assert!(
        set.contains("Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    let response = service.get("/me", renewed).await;
    assert_eq!(response.status(), 200);
    assert!(
        response.headers().get("set-cookie").is_none(),
        "a session with enough remaining time must not be renewed"
    );

    assert_eq!(service.get("/guarded", renewed).await.status(), 200);

    for page in ["me", "guarded", "nested/me"] {
        let request = service
            .client
            .get(format!("{}/{page}?tab=1&x=%20", service.address));
        let request = request.header("accept", "text/html,*/*");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 303);
        assert_eq!(
            response.headers()["location"],
            format!(
                "/api/auth/signin?callbackUrl=%2F{}%3Ftab%3D1%26x%3D%2520",
                page.replace('/', "%2F")
            )
        );
    }
}

#[tokio::test]
async fn response_that_renews_a_session_is_not_cacheable() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    service.auth.get().await.unwrap();
    let (short, long) = (service.log_in(HOUR / 4).await, service.log_in(HOUR).await);
    for (cookies, renewed, cache_control) in [
        (short, true, "private, no-store"),
        (long, false, "public, max-age=600"),
    ] {
        let response = service.get("/public", &cookies).await;
        assert_eq!(response.headers().contains_key("set-cookie"), renewed);
        assert_eq!(response.headers()["cache-control"], cache_control);
    }
}

#[tokio::test]
async fn session_is_found_beside_a_cookie_that_is_not_utf_8() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    let ada = service.log_in(HOUR).await;
    let combined = [&b"theme=\xe9\xff; "[..], ada.as_bytes()].concat();
    for headers in [
        vec![&combined[..]],
        vec![&b"theme=\xe9"[..], ada.as_bytes()],
    ] {
        let mut request = service.client.get(format!("{}/me", service.address));
        for header in headers {
            request = request.header("cookie", header);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.text().await.unwrap(), "Ada");
    }
}

#[tokio::test]
async fn static_file_is_cacheable_and_renews_no_session() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    service.auth.get().await.unwrap();
    let short = service.log_in(HOUR / 4).await;
    for (path, status) in [("/static", 200), ("/unknown", 404)] {
        let response = service.get(path, &short).await;
        assert_eq!(response.status(), status);
        for name in ["set-cookie", "vary", "cache-control"] {
            assert!(!response.headers().contains_key(name), "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn client_without_cookies_sends_its_session_token_as_bearer_token() {
    let service = Service::new().await;
    let ada = service.log_in(HOUR / 4).await;
    let (_, token) = ada.split_once('=').unwrap();
    let send = async |token: &str| {
        let request = service.client.get(format!("{}/me", service.address));
        request.bearer_auth(token).send().await.unwrap()
    };
    // A secret that is late is not an invalid token.
    assert_eq!(send(token).await.status(), 500);
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    service.auth.rebuild().await.unwrap();
    let response = send(token).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("set-cookie"));
    assert_eq!(response.text().await.unwrap(), "Ada");
    let response = send("nonsense").await;
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()["www-authenticate"],
        "Bearer error=\"invalid_token\""
    );
}

/// The sessions of a second application.
struct Staff(Sessions);

impl HasSessions for Staff {
    type Sessions = Sessions;

    fn sessions(&self) -> &Sessions {
        &self.0
    }
}

#[tokio::test]
async fn second_layer_of_one_type_is_reported_once() {
    fn auth<A: Send + Sync + 'static>(name: &str, build: fn(Sessions) -> A) -> LazyAuth<A> {
        let resolver = Resolver::new(MemoryProvider::from_iter([("AUTH_SECRET", OLD)]));
        LazyAuth::builder(resolver).name(name).build(
            move |_: Secrets, context: BuildContext| async move {
                let ring = SecretOrder::AuthCore.key_ring(&context)?;
                let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?;
                Ok::<_, BuildError>(build(sessions))
            },
        )
    }
    async fn status(app: &Router) -> u16 {
        let request = axum::extract::Request::get("/me")
            .body(Body::empty())
            .unwrap();
        let Ok(response) = app.clone().call(request).await;
        response.status().as_u16()
    }
    let log = CanaryLog::install();
    let (first, second) = (
        auth("first", |sessions| sessions),
        auth("second", |sessions| sessions),
    );
    let staff = auth("staff", Staff);
    let routes = Router::new().route("/me", get(me));
    let other_type = routes
        .clone()
        .layer(first.session_layer())
        .layer(staff.session_layer());
    let same_auth = routes
        .clone()
        .layer(first.session_layer())
        .layer(first.session_layer());
    for app in [other_type, same_auth] {
        assert_eq!(status(&app).await, 401);
        assert!(log.lines_with("session_layer_shadowed").is_empty());
    }
    let shadowed = routes
        .layer(first.session_layer())
        .layer(second.session_layer());
    for _ in 0..3 {
        assert_eq!(status(&shadowed).await, 401);
    }
    let events = log.lines_with("session_layer_shadowed");
    assert_eq!(events.len(), 1, "{events:?}");
    for part in ["first", "second", "Sessions", "HasSessions"] {
        assert!(events[0].contains(part), "{events:?}");
    }
}
