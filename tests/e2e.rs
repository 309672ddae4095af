//! End-to-end tests: axum services on real sockets that authenticate with `LazyAuth`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use http::request::Parts;
use reqwest::{Client, StatusCode};
use secretwell::auth::{
    Auth, BuildError, LazyAuth, LazyService, Mode, Principal, Rejection, State,
};
use secretwell::file::FileProvider;
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_testkit::{Action, Canary, CanaryLog, FaultyProvider};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::support::{down, secs};

const KEY: &str = "the first secret, thirty-two bytes or more";
const NEXT: &str = "the second secret, thirty-two bytes or more";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    auth_secret: SecretString,
}

struct Checker(SecretString);

#[derive(Debug, Serialize)]
struct User {
    name: &'static str,
}

impl Principal for User {
    type Authenticator = Checker;

    async fn authenticate(checker: &Checker, request: &Parts) -> Result<Self, Rejection> {
        match request.headers.get("x-api-key") {
            Some(given) if given == checker.0.expose_secret() => Ok(Self { name: "ada" }),
            _ => Err(Rejection::unauthorized()),
        }
    }
}

async fn me(Auth(user): Auth<User>) -> Json<User> {
    Json(user)
}

async fn hello(user: Option<Auth<User>>) -> &'static str {
    user.map_or("hello guest", |Auth(user)| user.name)
}

fn lazy_auth(resolver: Resolver, mode: Mode) -> LazyAuth<Checker> {
    LazyAuth::builder(resolver)
        .mode(mode)
        .activation_delay(Duration::ZERO)
        .build(
            |secrets: Secrets, _| async move { Ok::<_, BuildError>(Checker(secrets.auth_secret)) },
        )
}

fn router() -> Router {
    Router::new()
        .route("/me", get(me))
        .route("/hello", get(hello))
}

/// Serves `router` in the background until the test ends.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn send(address: SocketAddr, path: &str, key: Option<&str>) -> reqwest::Response {
    let client = Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{address}{path}"));
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    request.send().await.unwrap()
}

async fn status(address: SocketAddr, path: &str, key: Option<&str>) -> StatusCode {
    send(address, path, key).await.status()
}

/// A service that does not handle late secrets. It reads its secret once at start-up, and in
/// development it replaces a missing secret. Auth.js issue 12053 describes this bug.
async fn eager_router(resolver: Resolver, mode: Mode) -> Router {
    let secrets = resolver.load::<Secrets>().await.ok();
    let secret = match (secrets, mode) {
        (Some(secrets), _) => Some(secrets.auth_secret),
        (None, Mode::Development) => Some("placeholder for development".to_owned().into()),
        (None, _) => None,
    };
    Router::new().route(
        "/me",
        get(async move || match secret {
            Some(_) => StatusCode::OK,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        }),
    )
}

#[tokio::test]
async fn eager_start_fails_in_production_and_hides_the_problem_in_development() {
    for (mode, expected) in [
        (Mode::Production, StatusCode::INTERNAL_SERVER_ERROR),
        (Mode::Development, StatusCode::OK),
    ] {
        let memory = MemoryProvider::new();
        let address = serve(eager_router(Resolver::new(memory.clone()), mode).await).await;
        // The secret arrives after the eager service has read it.
        memory.set("AUTH_SECRET", KEY).unwrap();
        assert_eq!(status(address, "/me", None).await, expected, "{mode}");
    }
}

#[tokio::test]
async fn lazy_start_finds_a_late_secret_and_preflight_is_correct_in_both_modes() {
    for mode in [Mode::Production, Mode::Development] {
        let memory = MemoryProvider::new();
        let auth = lazy_auth(Resolver::new(memory.clone()), mode);
        let address = serve(router().layer(auth.provide())).await;
        let ready = auth.preflight(mode).await.is_ready();
        assert_eq!(
            ready,
            mode == Mode::Development,
            "preflight before the secret exists, {mode}"
        );
        memory.set("AUTH_SECRET", KEY).unwrap();
        tokio::time::timeout(secs(10), async {
            while status(address, "/me", Some(KEY)).await != StatusCode::OK {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the service finds the late secret within 10 s");
        assert!(auth.preflight(mode).await.is_ready(), "{mode}");
        assert_eq!(status(address, "/me", None).await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn missing_auth_rejects_every_request_and_logs_the_reason() {
    let log = CanaryLog::install();
    let memory = MemoryProvider::new();
    let faulty = FaultyProvider::new(memory.clone());
    let auth = lazy_auth(Resolver::new(faulty.clone()), Mode::Production);
    let address = serve(router().layer(auth.provide())).await;

    for path in ["/me", "/hello"] {
        let response = send(address, path, None).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(!response.headers().contains_key("set-cookie"));
        assert_eq!(
            response.text().await.unwrap(),
            r#"{"error":"server configuration"}"#
        );
    }
    assert!(!log.lines_with("AUTH_SECRET").is_empty(), "{}", log.text());

    faulty.always(Action::Fail(down()));
    let outage = lazy_auth(Resolver::new(faulty.clone()), Mode::Production);
    let address = serve(router().layer(outage.provide())).await;
    for path in ["/me", "/hello"] {
        let response = send(address, path, None).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let wait: u64 = response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=10).contains(&wait));
        assert_eq!(
            response.text().await.unwrap(),
            r#"{"error":"temporarily unavailable"}"#
        );
    }

    faulty.clear_faults();
    memory.set("AUTH_SECRET", KEY).unwrap();
    outage.rebuild().await.unwrap();
    assert_eq!(
        send(address, "/hello", None).await.text().await.unwrap(),
        "hello guest"
    );
    assert_eq!(
        send(address, "/hello", Some(KEY))
            .await
            .text()
            .await
            .unwrap(),
        "ada"
    );
    assert_eq!(
        status(address, "/me", Some("wrong")).await,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn lazy_service_is_built_after_its_secret_arrives() {
    let memory = MemoryProvider::new();
    let inner = LazyAuth::infallible(Resolver::new(memory.clone()), |secrets: Secrets, _| {
        let length = secrets.auth_secret.expose_secret().len().to_string();
        Router::new().route("/", get(move || std::future::ready(length.clone())))
    });
    let address = serve(Router::new().fallback_service(LazyService::new(inner.clone()))).await;
    assert_eq!(
        status(address, "/", None).await,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    memory.set("AUTH_SECRET", KEY).unwrap();
    inner.rebuild().await.unwrap();
    assert_eq!(
        send(address, "/", None).await.text().await.unwrap(),
        KEY.len().to_string()
    );
}

#[tokio::test]
async fn rotation_of_a_file_drops_no_request() {
    let directory = tempfile::tempdir().unwrap();
    write_secret(directory.path(), KEY);
    let auth = lazy_auth(
        Resolver::new(FileProvider::directory(directory.path())),
        Mode::Production,
    );
    let address = serve(router().layer(auth.provide())).await;
    assert_eq!(status(address, "/me", Some(KEY)).await, StatusCode::OK);
    let load = tokio::spawn(async move {
        let (mut succeeded, mut failed) = (0, 0);
        for _ in 0..400 {
            // A request without credentials succeeds with any build, and fails without a build.
            match status(address, "/hello", None).await {
                StatusCode::OK => succeeded += 1,
                _ => failed += 1,
            }
        }
        (succeeded, failed)
    });
    write_secret(directory.path(), NEXT);
    let mut states = auth.watch_state();
    let rotated = states.wait_for(|state| matches!(state, State::Ready { generation: 2, .. }));
    tokio::time::timeout(secs(30), rotated)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status(address, "/me", Some(NEXT)).await, StatusCode::OK);
    assert_eq!(load.await.unwrap(), (400, 0));
}

/// Replaces the secret atomically.
fn write_secret(directory: &Path, value: &str) {
    let file = tempfile::NamedTempFile::new_in(directory.parent().unwrap()).unwrap();
    std::fs::write(file.path(), value).unwrap();
    file.persist(directory.join("AUTH_SECRET")).unwrap();
}

#[tokio::test]
async fn secret_does_not_leak_into_responses_reports_or_logs() {
    let (log, canary) = (
        CanaryLog::install(),
        Canary::from_text(Canary::new("secret").text().replace(['"', '\\'], "x")),
    );
    let memory = MemoryProvider::new();
    let auth = lazy_auth(Resolver::new(memory.clone()), Mode::Production);
    let address = serve(router().layer(auth.provide())).await;
    let mut output = String::new();
    for value in [None, Some(canary.text()), Some(""), Some(canary.text())] {
        match value {
            Some(value) => memory.set("AUTH_SECRET", value).unwrap(),
            None => memory.remove("AUTH_SECRET").unwrap(),
        }
        let _ = auth.rebuild().await;
        for path in ["/me", "/hello"] {
            let response = send(address, path, None).await;
            output += &format!("{response:?}");
            output += &response.text().await.unwrap();
        }
        output += &auth.preflight(Mode::Production).await.to_string();
        canary.assert_hidden(&auth);
    }
    canary.assert_not_in(&output, "a response or report");
    log.assert_clean(&[&canary]);
}
