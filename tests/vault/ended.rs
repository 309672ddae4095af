//! Secrets that end early or change in an unusual way, with a scripted server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::{Json, Router};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultBuilder, VaultProvider};
use secretwell::{ErrorKind, SecretProvider, Version};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{key, secs};

/// What the server does.
#[derive(Default)]
struct Script {
    /// The tokens that the server refuses.
    refused: Vec<String>,
    /// Whether requests for dynamic secrets fail.
    is_database_down: bool,
    /// Whether the responses to revocations are lost.
    loses_revocations: bool,
    /// The number of reads that fail because the mount is being upgraded.
    upgrading: usize,
    logins: usize,
    leases: usize,
    /// The ids of the leases of all revocations.
    revoked: Vec<String>,
}

/// A server that follows a script.
struct Fake {
    address: String,
    script: Arc<Mutex<Script>>,
    _serving: JoinSet<()>,
}

fn error(status: u16, text: &str) -> (u16, Value) {
    (status, json!({"errors": [text]}))
}

impl Script {
    fn respond(&mut self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        if path.starts_with("/v1/auth/userpass/") {
            self.logins += 1;
            let token = format!("token-{}", self.logins);
            let auth = json!({"client_token": token, "lease_duration": 0});
            return (200, json!({"lease_id": "", "auth": auth}));
        }
        if path.starts_with("/v1/sys/health") {
            return error(404, "unsupported path");
        }
        if self.refused.iter().any(|refused| refused == token) {
            return error(403, "permission denied");
        }
        match path {
            "/v1/auth/token/lookup-self" => (
                200,
                json!({"lease_id": "", "data": {"ttl": 100, "renewable": false}}),
            ),
            "/v1/database/creds/app" if self.is_database_down => error(500, "no database"),
            "/v1/database/creds/app" => {
                self.leases += 1;
                let id = format!("lease-{}", self.leases);
                let data = json!({"username": id});
                (
                    200,
                    json!({"lease_id": id, "lease_duration": 86_400, "data": data}),
                )
            }
            "/v1/sys/leases/revoke" => {
                self.revoked
                    .push(body["lease_id"].as_str().unwrap().to_owned());
                match self.loses_revocations {
                    true => error(500, "context canceled"),
                    false => (200, json!({"lease_id": ""})),
                }
            }
            "/v1/secret/data/app" if self.upgrading > 0 => {
                self.upgrading -= 1;
                error(
                    400,
                    "Upgrading from non-versioned to versioned data. This backend will be \
                     unavailable for a brief period and will resume service shortly.",
                )
            }
            // The query of the request was lost.
            "/v1/secret/data/app" => {
                let data = json!({"data": {"A": "newest"}, "metadata": {"version": 7}});
                (200, json!({"lease_id": "", "data": data}))
            }
            _ => (404, json!({"errors": []})),
        }
    }
}

async fn respond(
    State(script): State<Arc<Mutex<Script>>>,
    request: Request,
) -> (StatusCode, Json<Value>) {
    let path = request.uri().path().to_owned();
    let token = request.headers().get("x-vault-token");
    let token = token.map_or("", |token| token.to_str().unwrap()).to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
    let body = serde_json::from_slice(&body.unwrap()).unwrap_or_default();
    let (status, body) = script.lock().unwrap().respond(&path, &token, &body);
    (StatusCode::from_u16(status).unwrap(), Json(body))
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::default();
        let router = Router::new()
            .fallback(respond)
            .with_state(Arc::clone(&script));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            script,
            _serving: serving,
        }
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    fn builder(&self, auth: VaultAuth) -> VaultBuilder {
        let builder = VaultProvider::builder([&self.address], auth).unwrap();
        builder.path("app").kv_version(KvVersion::V2)
    }

    fn provider(&self, auth: VaultAuth) -> VaultProvider {
        let builder = self.builder(auth).dynamic("db", "database/creds/app");
        builder.build().unwrap()
    }
}

fn password() -> VaultAuth {
    VaultAuth::userpass("me", Credential::value("pass"))
}

fn configured_token() -> VaultAuth {
    VaultAuth::token(Credential::value("configured"))
}

/// Reads the dynamic secret, and returns its user and its remaining lifetime.
async fn user(provider: &VaultProvider) -> Result<(String, Duration), secretwell::Error> {
    let secret = provider.get(&key("db/username")).await?;
    let name = secret.value.expose_text()?.to_owned();
    Ok((name, secret.valid_for.unwrap()))
}

#[tokio::test]
async fn lease_of_a_refused_token_is_not_returned() {
    let fake = Fake::start().await;
    let provider = fake.provider(password());
    assert_eq!(user(&provider).await.unwrap().0, "lease-1");
    provider.get(&key("A")).await.unwrap();
    // An operator revokes the token, and with it the lease. Another read notices it.
    fake.set(|script| {
        script.refused.push("token-1".into());
        script.is_database_down = true;
    });
    provider.get(&key("A")).await.unwrap();
    let error = user(&provider).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    fake.set(|script| script.is_database_down = false);
    assert_eq!(user(&provider).await.unwrap().0, "lease-2");
}

/// Advances the clock, and lets the background tasks run.
async fn advance(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(secs(seconds)).await;
    tokio::time::resume();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn lease_does_not_outlive_its_configured_token() {
    let fake = Fake::start().await;
    let provider = fake.provider(configured_token());
    let (first, lifetime) = user(&provider).await.unwrap();
    assert!(lifetime <= secs(100), "{lifetime:?}");
    // The token is read again before it expires, but has not changed.
    advance(95).await;
    let (name, lifetime) = user(&provider).await.unwrap();
    assert_eq!(name, first);
    assert!(lifetime <= secs(5), "{lifetime:?}");

    advance(10).await;
    fake.set(|script| script.refused.push("configured".into()));
    let error = user(&provider).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn secret_is_not_returned_after_a_revocation_whose_response_was_lost() {
    let fake = Fake::start().await;
    let provider = fake.provider(password());
    assert_eq!(user(&provider).await.unwrap().0, "lease-1");
    fake.set(|script| script.loses_revocations = true);
    provider.revoke_leases().await.unwrap_err();
    assert_eq!(user(&provider).await.unwrap().0, "lease-2");
    fake.set(|script| script.loses_revocations = false);
    provider.revoke_leases().await.unwrap();
    provider.revoke_leases().await.unwrap();
    let revoked = fake.script.lock().unwrap().revoked.clone();
    assert_eq!(revoked, ["lease-1", "lease-1", "lease-2"]);
}

#[tokio::test]
async fn other_version_than_the_requested_one_is_refused() {
    let fake = Fake::start().await;
    let provider = fake.provider(configured_token());
    let (name, seven) = (key("A"), Version::numbered(7));
    provider.get_version(&name, &seven).await.unwrap();
    let error = provider.get_version(&name, &Version::numbered(3)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
}

#[tokio::test]
async fn read_waits_for_the_upgrade_of_the_mount() {
    let fake = Fake::start().await;
    fake.set(|script| script.upgrading = 4);
    let provider = fake.provider(configured_token());
    provider.get(&key("A")).await.unwrap();
}
