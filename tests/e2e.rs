//! Whole services on real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use http::request::Parts;
use reqwest::{Client, StatusCode};
use secretwell::auth::{Auth, BuildError, LazyAuth, LazyService, Mode, Principal, State};
use secretwell::file::FileProvider;
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_testkit::{Canary, CanaryLog, FaultyProvider, Step};
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

    fn authenticate(checker: &Checker, request: &Parts) -> Option<Self> {
        let given = request.headers.get("x-api-key")?;
        (given.as_bytes() == checker.0.expose_secret().as_bytes()).then_some(Self { name: "ada" })
    }
}

async fn me(Auth(user): Auth<User>) -> Json<User> {
    Json(user)
}

async fn hello(Auth(user): Auth<Option<User>>) -> &'static str {
    user.map_or("hello stranger", |user| user.name)
}

fn lazy(resolver: Resolver, mode: Mode) -> LazyAuth<Checker> {
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

/// Serves in the background until the test ends.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn ask(address: SocketAddr, path: &str, key: Option<&str>) -> reqwest::Response {
    let client = Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{address}{path}"));
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    request.send().await.unwrap()
}

async fn status(address: SocketAddr, path: &str, key: Option<&str>) -> StatusCode {
    ask(address, path, key).await.status()
}

/// The service as it is written when nobody thinks of late secrets: what it needs is read once, when
/// it starts, and in development a missing secret is made up. Auth.js issue 12053 in Rust.
async fn eager(resolver: Resolver, mode: Mode) -> Router {
    let secrets = resolver.load::<Secrets>().await.ok();
    let secret = match (secrets, mode) {
        (Some(secrets), _) => Some(secrets.auth_secret),
        (None, Mode::Development) => Some("made up for development".to_owned().into()),
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
async fn an_eager_start_fails_in_production_and_hides_it_in_development() {
    for (mode, expected) in [
        (Mode::Production, StatusCode::INTERNAL_SERVER_ERROR),
        (Mode::Development, StatusCode::OK),
    ] {
        let memory = MemoryProvider::new();
        let address = serve(eager(Resolver::new(memory.clone()), mode).await).await;
        // The secret arrives, too late for a service that has looked already.
        memory.set("AUTH_SECRET", KEY).unwrap();
        assert_eq!(status(address, "/me", None).await, expected, "{mode}");
    }
}

#[tokio::test]
async fn a_lazy_start_works_in_both_and_preflight_tells_the_truth_in_both() {
    for mode in [Mode::Production, Mode::Development] {
        let memory = MemoryProvider::new();
        let auth = lazy(Resolver::new(memory.clone()), mode);
        let address = serve(router().layer(auth.layer())).await;
        let ready = auth.preflight(mode).await.is_ready();
        assert_eq!(
            ready,
            mode == Mode::Development,
            "before the secret is there"
        );
        memory.set("AUTH_SECRET", KEY).unwrap();
        tokio::time::timeout(secs(10), async {
            while status(address, "/me", Some(KEY)).await != StatusCode::OK {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the late secret is found");
        assert!(auth.preflight(mode).await.is_ready(), "{mode}");
        assert_eq!(status(address, "/me", None).await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn nobody_is_anonymous_by_accident_and_the_reason_stays_in_the_log() {
    let log = CanaryLog::install();
    let memory = MemoryProvider::new();
    let faulty = FaultyProvider::new(memory.clone());
    let auth = lazy(Resolver::new(faulty.clone()), Mode::Production);
    let address = serve(router().layer(auth.layer())).await;

    for path in ["/me", "/hello"] {
        let answer = ask(address, path, None).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert!(!answer.headers().contains_key("set-cookie"));
        assert_eq!(
            answer.text().await.unwrap(),
            r#"{"error":"server configuration"}"#
        );
    }
    assert!(!log.lines_with("AUTH_SECRET").is_empty(), "{}", log.text());

    faulty.always(Step::Fail(down()));
    let outage = lazy(Resolver::new(faulty.clone()), Mode::Production);
    let address = serve(router().layer(outage.layer())).await;
    for path in ["/me", "/hello"] {
        let answer = ask(address, path, None).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let wait: u64 = answer.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=10).contains(&wait));
        assert_eq!(
            answer.text().await.unwrap(),
            r#"{"error":"temporarily unavailable"}"#
        );
    }

    faulty.heal();
    memory.set("AUTH_SECRET", KEY).unwrap();
    outage.rebuild().await.unwrap();
    assert_eq!(
        ask(address, "/hello", None).await.text().await.unwrap(),
        "hello stranger"
    );
    assert_eq!(
        ask(address, "/hello", Some(KEY))
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
async fn a_forgotten_layer_is_an_error_that_names_it() {
    let log = CanaryLog::install();
    let address = serve(router()).await;
    assert_eq!(
        status(address, "/hello", None).await,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    assert!(log.lines_with("auth.layer()")[0].contains("Checker"));
}

#[tokio::test]
async fn a_whole_service_is_built_lazily() {
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
        ask(address, "/", None).await.text().await.unwrap(),
        KEY.len().to_string()
    );
}

#[tokio::test]
async fn a_rotation_by_file_loses_no_request() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), KEY);
    let auth = lazy(
        Resolver::new(FileProvider::directory(folder.path())),
        Mode::Production,
    );
    let address = serve(router().layer(auth.layer())).await;
    assert_eq!(status(address, "/me", Some(KEY)).await, StatusCode::OK);
    let load = tokio::spawn(async move {
        let (mut served, mut lost) = (0, 0);
        for _ in 0..400 {
            // A stranger is greeted by whatever is in service, unless nothing is.
            match status(address, "/hello", None).await {
                StatusCode::OK => served += 1,
                _ => lost += 1,
            }
        }
        (served, lost)
    });
    put(folder.path(), NEXT);
    let mut states = auth.watch_state();
    let rotated = states.wait_for(|state| *state == State::Ready { generation: 2 });
    tokio::time::timeout(secs(30), rotated)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status(address, "/me", Some(NEXT)).await, StatusCode::OK);
    assert_eq!(load.await.unwrap(), (400, 0));
}

fn put(folder: &Path, value: &str) {
    let file = tempfile::NamedTempFile::new_in(folder.parent().unwrap()).unwrap();
    std::fs::write(file.path(), value).unwrap();
    file.persist(folder.join("AUTH_SECRET")).unwrap();
}

#[tokio::test]
async fn the_canary_is_nowhere_on_the_way_through_a_whole_service() {
    let (log, canary) = (
        CanaryLog::install(),
        Canary::from_text(Canary::new("secret").text().replace(['"', '\\'], "x")),
    );
    let memory = MemoryProvider::new();
    let auth = lazy(Resolver::new(memory.clone()), Mode::Production);
    let address = serve(router().layer(auth.layer())).await;
    let mut seen = String::new();
    for value in [None, Some(canary.text()), Some(""), Some(canary.text())] {
        match value {
            Some(value) => memory.set("AUTH_SECRET", value).unwrap(),
            None => memory.remove("AUTH_SECRET").unwrap(),
        }
        let _ = auth.rebuild().await;
        for path in ["/me", "/hello"] {
            let answer = ask(address, path, None).await;
            seen += &format!("{answer:?}");
            seen += &answer.text().await.unwrap();
        }
        seen += &auth.preflight(Mode::Production).await.to_string();
        canary.assert_hidden(&auth);
    }
    canary.assert_not_in(&seen, "an answer");
    log.assert_clean(&[&canary]);
}
