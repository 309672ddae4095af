//! What errors and the log advise after a mistake in the configuration. The server is a fake one.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::{Json, Router};
use secretwell::vault::{Credential, VaultAuth, VaultBuilder, VaultProvider};
use secretwell::{ErrorKind, MemoryProvider, SecretProvider, SecretProviderExt};
use secretwell_testkit::CanaryLog;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{key, secs};

/// A server that responds to each path with the status and the body that a function returns.
struct Fake {
    address: String,
    _serving: JoinSet<()>,
}

impl Fake {
    async fn start(respond: impl Fn(&str) -> (u16, Value) + Copy + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(move |request: Request| async move {
            let (status, mut body) = respond(request.uri().path());
            if status == 200 {
                body["lease_id"] = json!("");
            }
            (StatusCode::from_u16(status).unwrap(), Json(body))
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            _serving: serving,
        }
    }

    fn builder(&self, auth: VaultAuth) -> VaultBuilder {
        let builder = VaultProvider::builder([&self.address], auth).unwrap();
        builder.path("app")
    }
}

fn token() -> VaultAuth {
    VaultAuth::token(Credential::value("token").from_setting("BAO_TOKEN"))
}

fn denied() -> (u16, Value) {
    let reason = "1 error occurred:\n\t* permission denied\n\n";
    (403, json!({"errors": [reason]}))
}

fn kv(version: &str) -> (u16, Value) {
    let mount = json!({"path": "secret/", "type": "kv", "options": {"version": version}});
    (200, json!({"data": mount}))
}

#[tokio::test]
async fn denied_write_of_a_dynamic_secret_names_the_capability_update() {
    let fake = Fake::start(|_| denied()).await;
    let provider = fake.builder(token()).dynamic("db", "database/creds/app");
    let provider = provider.dynamic_with("tls", "pki/issue/app", "{}").build();
    let provider = provider.unwrap();
    for (name, capability) in [("db/a", "grant `read`"), ("tls/a", "grant `update`")] {
        let error = provider.get(&key(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(capability), "{error}");
    }
}

#[tokio::test]
async fn refused_login_names_its_mount() {
    let fake = Fake::start(|path| match path {
        "/v1/sys/health" => (200, json!({"errors": []})),
        _ => (403, json!({"errors": ["permission denied"]})),
    })
    .await;
    let auth = VaultAuth::app_role("role", Credential::value("secret")).mount("approle-prod");
    let provider = fake.builder(auth).build().unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(error.to_string().contains("`auth/approle-prod`"), "{error}");
}

#[tokio::test]
async fn path_of_the_api_is_named_where_a_mount_is_missing() {
    let fake = Fake::start(|_| denied()).await;
    for (mount, hint) in [("v1", "leave out `v1/`"), ("ui", "address of its page")] {
        let provider = fake.builder(token()).mount(mount).build().unwrap();
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn path_of_the_api_in_a_chain_is_logged_once_and_is_in_the_error() {
    let fake = Fake::start(|path| match path.contains("/mounts/") {
        true => kv("2"),
        false => (404, json!({"errors": []})),
    })
    .await;
    let provider = fake.builder(token()).path("data/app").build().unwrap();
    let chain = provider.or_else(MemoryProvider::from_iter([("A", "a")]));
    let log = CanaryLog::install();
    for _ in 0..2 {
        chain.get(&key("A")).await.unwrap();
    }
    let lines = log.lines_with("path_of_api");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("secret/data/data/app"),
        "{lines:?}"
    );
    let error = chain.get(&key("B")).await.unwrap_err();
    assert!(error.to_string().contains("leave out `data/`"), "{error}");
}

#[tokio::test]
async fn denied_path_of_the_wrong_version_is_a_wrong_version() {
    let fake = Fake::start(|path| match path.contains("/mounts/") {
        true => kv("2"),
        false => denied(),
    })
    .await;
    let provider = fake
        .builder(token())
        .kv_version(secretwell::vault::KvVersion::V1);
    let provider = provider.build().unwrap();
    let read = provider.get(&key("A")).await.unwrap_err();
    let list = provider
        .list(&secretwell::KeyPrefix::root())
        .await
        .unwrap_err();
    for error in [read, list] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains("set `kv=2`"), "{error}");
    }
}

#[tokio::test]
async fn configured_token_that_expires_is_logged_once_and_not_as_a_login() {
    let fake = Fake::start(|path| match path {
        "/v1/auth/token/lookup-self" => (200, json!({"data": {"ttl": 90, "renewable": false}})),
        _ if path.contains("/mounts/") => kv("1"),
        _ => (200, json!({"data": {"A": "a"}})),
    })
    .await;
    let log = CanaryLog::install();
    let provider = fake.builder(token()).build().unwrap();
    provider.get(&key("A")).await.unwrap();
    let expiry = async {
        while log.lines_with("token_expires").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(secs(10), expiry).await.unwrap();
    provider.get(&key("A")).await.unwrap();
    let lines = log.lines_with("token_expires");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("expires_in"),
        "{lines:?}"
    );
    assert!(log.lines_with("logged_in").is_empty());
}

#[tokio::test]
async fn refused_configured_token_names_its_place_and_no_login() {
    let fake = Fake::start(|_| {
        (
            403,
            json!({"errors": ["permission denied", "invalid token"]}),
        )
    })
    .await;
    let log = CanaryLog::install();
    let provider = fake.builder(token()).build().unwrap();
    for _ in 0..3 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(
            error.to_string().contains("this one is from `BAO_TOKEN`"),
            "{error}"
        );
    }
    for text in ["logged in", "the login failed", "a new login"] {
        assert_eq!(log.lines_with(text), [""; 0], "{text}");
    }
    assert!(log.contains("the configured token"));
}

#[tokio::test]
async fn mount_of_another_engine_is_an_invalid_configuration() {
    let fake = Fake::start(|path| match path.contains("/mounts/") {
        true => (200, json!({"data": {"path": "secret/", "type": "pki"}})),
        false => (200, json!({"data": {"A": "a"}})),
    })
    .await;
    let provider = fake.builder(token()).build().unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(
        error.to_string().contains("a mount of type `kv`"),
        "{error}"
    );
}

#[tokio::test]
async fn status_that_explains_nothing_about_a_secret_is_not_an_absence() {
    const REASON: &str = r#"{"errors": ["reason"]}"#;
    for (status, kind) in [
        (413, ErrorKind::TooLarge),
        (600, ErrorKind::Malformed),
        (999, ErrorKind::Malformed),
    ] {
        let respond = move |_: &str| (status, serde_json::from_str(REASON).unwrap());
        let fake = Fake::start(respond).await;
        let provider = fake.builder(token()).build().unwrap();
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn key_without_a_path_is_an_invalid_key() {
    let fake = Fake::start(|path| match path.contains("/mounts/") {
        true => kv("2"),
        false => (404, json!({"errors": []})),
    })
    .await;
    let provider = fake.builder(token()).path("").build().unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidKey, "{error}");
    assert!(error.to_string().contains("`app/NAME`"), "{error}");
    let error = provider.get(&key("app/A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    for prefix in ["", "a//b", "../db"] {
        let builder = fake.builder(token()).dynamic(prefix, "database/creds/app");
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(
            error.to_string().contains("a prefix such as `db`"),
            "{error}"
        );
    }
}
