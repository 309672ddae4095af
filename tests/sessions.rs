//! Sessions that are shared with Auth.js, in a whole service on a real socket.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use reqwest::{Client, Response, redirect};
use secretwell::auth::authjs::{Scheme, SecretOrder, Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, BuildContext, BuildError, LazyAuth, State};
use secretwell::{MemoryProvider, Resolver, SecretString};
use serde::Deserialize;
use serde_json::json;

const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the ring holds it")]
    auth_secret: SecretString,
}

#[derive(Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

async fn greeting(Auth(session): Auth<Option<Session<User>>>) -> String {
    session.map_or_else(|| "stranger".to_owned(), |session| session.claims.name)
}

/// A page that caches may keep, by what its handler says.
async fn public() -> ([(&'static str, &'static str); 1], &'static str) {
    ([("cache-control", "public, max-age=600")], "for everybody")
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
                let ring = SecretOrder::AuthCore.ring(&context)?;
                let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?;
                Ok::<_, BuildError>(sessions.max_age(HOUR))
            },
        );
        let layer = auth.session_layer();
        let layer = layer
            .sign_in("/api/auth/signin")
            .renew_when_remaining(HOUR / 2);
        let app = Router::new()
            .route("/me", get(me))
            .route("/", get(greeting))
            .route("/public", get(public))
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

    async fn ask(&self, path: &str, cookies: &str) -> Response {
        let request = self.client.get(format!("{}{path}", self.address));
        request.header("cookie", cookies).send().await.unwrap()
    }

    /// The `Cookie` header of somebody who has logged in for so long.
    async fn log_in(&self, max_age: Duration) -> String {
        let token = {
            let ring = secretwell::auth::KeyRing::new(OLD);
            let cookie = SessionCookie::v5(Scheme::Http);
            let sessions = Sessions::new(cookie, &ring).unwrap().max_age(max_age);
            sessions.start(&json!({"name": "Ada"}), "").unwrap()
        };
        token[0].split(';').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn nobody_is_anonymous_or_logged_out_because_a_secret_is_late_or_rotates() {
    let service = Service::new().await;
    let ada = service.log_in(HOUR).await;
    for path in ["/me", "/"] {
        let late = service.ask(path, &ada).await;
        assert_eq!(late.status(), 500);
        assert!(late.headers().get("set-cookie").is_none());
    }
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    service.auth.rebuild().await.unwrap();
    for (path, cookies, status, body) in [
        ("/me", ada.as_str(), 200, "Ada"),
        ("/", &ada, 200, "Ada"),
        ("/me", "", 401, r#"{"error":"unauthorized"}"#),
        ("/", "", 200, "stranger"),
        ("/", "authjs.session-token=nonsense", 200, "stranger"),
    ] {
        let answer = service.ask(path, cookies).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["vary"], "cookie");
        assert!(
            answer.headers()["cache-control"]
                .to_str()
                .unwrap()
                .contains("no-store")
        );
        assert!(answer.headers().get("set-cookie").is_none());
        assert_eq!(answer.text().await.unwrap(), body);
    }

    let mut states = service.auth.watch_state();
    service.memory.set("AUTH_SECRET", NEW).unwrap();
    let rotated = |state: &State| state.generation() > Some(1);
    states.wait_for(rotated).await.unwrap();
    let graced = service.ask("/me", &ada).await;
    assert_eq!(graced.status(), 200, "within the grace");
    service.auth.revoke_previous().await.unwrap();
    let revoked = service.ask("/me", &ada).await;
    assert_eq!(revoked.status(), 401);
    assert!(revoked.headers().get("set-cookie").is_none());
}

#[tokio::test]
async fn a_session_slides_and_a_browser_is_sent_to_sign_in() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    let short = service.log_in(HOUR / 4).await;
    let answer = service.ask("/me", &short).await;
    let set = answer.headers()["set-cookie"].to_str().unwrap();
    let prolonged = set.split(';').next().unwrap();
    assert!(
        set.contains("Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    let answer = service.ask("/me", prolonged).await;
    assert_eq!(answer.status(), 200);
    assert!(
        answer.headers().get("set-cookie").is_none(),
        "it has the time"
    );

    let page = service
        .client
        .get(format!("{}/me?tab=1&x=%20", service.address));
    let answer = page.header("accept", "text/html,*/*").send().await.unwrap();
    assert_eq!(answer.status(), 303);
    assert_eq!(
        answer.headers()["location"],
        "/api/auth/signin?callbackUrl=%2Fme%3Ftab%3D1%26x%3D%2520"
    );
}

#[tokio::test]
async fn a_response_that_prolongs_a_session_is_kept_by_no_cache() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    service.auth.get().await.unwrap();
    let (short, long) = (service.log_in(HOUR / 4).await, service.log_in(HOUR).await);
    for (cookies, prolonged, caches) in [
        (short, true, "private, no-store"),
        (long, false, "public, max-age=600"),
    ] {
        let answer = service.ask("/public", &cookies).await;
        assert_eq!(answer.headers().contains_key("set-cookie"), prolonged);
        assert_eq!(answer.headers()["cache-control"], caches);
    }
}

#[tokio::test]
async fn a_cookie_that_is_no_text_costs_nobody_the_session() {
    let service = Service::new().await;
    service.memory.set("AUTH_SECRET", OLD).unwrap();
    let ada = service.log_in(HOUR).await;
    let beside = [&b"theme=\xe9\xff; "[..], ada.as_bytes()].concat();
    for headers in [vec![&beside[..]], vec![&b"theme=\xe9"[..], ada.as_bytes()]] {
        let mut request = service.client.get(format!("{}/me", service.address));
        for header in headers {
            request = request.header("cookie", header);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "Ada");
    }
}
