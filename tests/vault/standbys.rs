//! Logins at standbys: none of them counts a wrong credential more than once.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::{Json, Router};
use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::replication::Fixture;
use super::server::Bao;
use crate::support::key;

#[tokio::test]
async fn wrong_credential_counts_once_if_standbys_of_openbao_forward_it() {
    let servers = Bao::cluster_with("disable_standby_reads = true").await;
    let fixture = Fixture::with(servers).await;
    let role_id = fixture.app_role().await;
    let secret_id = fixture.secret_id().await;
    fixture
        .root("sys/auth/userpass", json!({"type": "userpass"}))
        .await;
    let user = json!({"password": "right", "token_policies": ["app"]});
    fixture.root("auth/userpass/users/me", user).await;
    let counts_once = async |path: &str, right: &str, auth: &dyn Fn(&str) -> VaultAuth| {
        let read = async |text: &str| {
            let provider = fixture.provider(&[1], auth(text));
            provider.get(&key("none/A")).await.unwrap_err()
        };
        // The fifth wrong attempt would lock the login.
        for number in 0..4 {
            let error = read(&format!("wrong{number}")).await;
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
            assert_eq!(fixture.count(path), number + 1);
        }
        let absent = read(right).await;
        assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
    };
    counts_once("POST /v1/auth/approle/login", &secret_id, &|text| {
        VaultAuth::app_role(&role_id, Credential::value(text))
    })
    .await;
    counts_once("POST /v1/auth/userpass/login", "right", &|text| {
        VaultAuth::userpass("me", Credential::value(text))
    })
    .await;
}

/// A standby that refuses each login.
struct Standby {
    address: String,
    /// The paths of the logins, with the value of the header that forwards them.
    logins: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Standby {
    /// `health` is the server's report, and `forwarded` the error of a login that must be forwarded.
    async fn start(health: Value, forwarded: &'static str) -> Self {
        Self::start_with(health, forwarded, true).await
    }

    /// Without `reports_first`, the server has no report before a login.
    async fn start_with(health: Value, forwarded: &'static str, reports_first: bool) -> Self {
        let logins = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&logins);
        let respond = move |request: Request| {
            let path = request.uri().path().to_owned();
            let header = |name: &str| {
                let value = request.headers().get(name);
                value.map(|value| value.to_str().unwrap().to_owned())
            };
            let forward = header("x-vault-forward").or_else(|| header("x-vault-inconsistent"));
            let response = if path == "/v1/sys/health" {
                match reports_first || !log.lock().unwrap().is_empty() {
                    true => (StatusCode::OK, health.clone()),
                    false => (StatusCode::OK, json!({"errors": []})),
                }
            } else {
                let error = match &forward {
                    Some(_) => forwarded,
                    None => "invalid username or password",
                };
                let forward = forward.unwrap_or_default();
                log.lock().unwrap().push(format!("{path} {forward}"));
                (StatusCode::BAD_REQUEST, json!({"errors": [error]}))
            };
            async move { (response.0, Json(response.1)) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(respond);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            logins,
            _serving: serving,
        }
    }

    fn provider(&self, auth: VaultAuth) -> VaultProvider {
        let builder = VaultProvider::builder([&self.address], auth).unwrap();
        builder.build().unwrap()
    }

    /// Reads with a wrong credential, and returns the logins and the error.
    async fn log_in(&self, auth: VaultAuth) -> (Vec<String>, String) {
        let provider = self.provider(auth);
        let error = provider.get(&key("app/A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        (self.take_logins(), error.to_string())
    }

    fn take_logins(&self) -> Vec<String> {
        std::mem::take(&mut *self.logins.lock().unwrap())
    }
}

/// Creates the report of a standby. That of OpenBao does not contain `performance_standby`.
fn health(performance_standby: Option<bool>) -> Value {
    let mut health = json!({
        "initialized": true,
        "sealed": false,
        "standby": true,
        "cluster_id": "99b2fc01-f48f-a8d8-0c6f-65bd94a865b4",
    });
    if let Some(performance_standby) = performance_standby {
        health["performance_standby"] = json!(performance_standby);
    }
    health
}

#[tokio::test]
async fn login_without_a_report_is_not_held_back_because_of_a_standby() {
    let text = "invalid role or secret ID";
    let standby = Standby::start_with(health(None), text, false).await;
    let provider = standby.provider(VaultAuth::app_role("app", Credential::value("new")));
    let read = async || provider.get(&key("app/A")).await.unwrap_err().kind();
    assert_eq!(read().await, ErrorKind::Unavailable);
    assert_eq!(standby.take_logins(), ["/v1/auth/approle/login "]);
    assert_eq!(read().await, ErrorKind::Unauthenticated);
    let forwarded = "/v1/auth/approle/login forward-active-node";
    assert_eq!(standby.take_logins(), [forwarded]);
    // The active server has decided.
    assert_eq!(read().await, ErrorKind::Unauthenticated);
    assert!(standby.take_logins().is_empty());
}

#[tokio::test]
async fn refused_login_is_repeated_only_where_a_standby_can_be_stale() {
    let wrong = || Credential::value("wrong");
    let userpass = || VaultAuth::userpass("me", wrong());
    let plain = "/v1/auth/userpass/login/me ";

    // HashiCorp Vault: the standby forwards the login.
    let standby = Standby::start(health(Some(false)), "not reached").await;
    let (logins, error) = standby.log_in(userpass()).await;
    assert_eq!(logins, [plain]);
    assert!(error.contains("password is wrong"), "{error}");
    let (logins, _) = standby.log_in(VaultAuth::jwt("app", wrong())).await;
    assert_eq!(logins, ["/v1/auth/jwt/login "]);

    // A performance standby only does so with a header.
    let text = "invalid username or password";
    let standby = Standby::start(health(Some(true)), text).await;
    let (logins, _) = standby.log_in(userpass()).await;
    assert_eq!(logins, ["/v1/auth/userpass/login/me active-node"]);
    let custom = VaultAuth::custom("approle", async || Ok("{}".into()));
    let (logins, _) = standby.log_in(custom).await;
    assert_eq!(logins, ["/v1/auth/approle/login active-node"]);
    let (logins, _) = standby.log_in(VaultAuth::ldap("me", wrong())).await;
    assert_eq!(logins, ["/v1/auth/ldap/login/me active-node"]);
    let (logins, _) = standby.log_in(VaultAuth::jwt("app", wrong())).await;
    let expected = ["/v1/auth/jwt/login ", "/v1/auth/jwt/login active-node"];
    assert_eq!(logins, expected);

    // Its configuration can forbid the header. It executes the login then.
    let text = "forwarding via header X-Vault-Forward disabled in configuration";
    let standby = Standby::start(health(Some(true)), text).await;
    let (logins, error) = standby.log_in(userpass()).await;
    assert_eq!(logins.len(), 2);
    assert!(error.contains("password is wrong"), "{error}");

    // OpenBao: the active server gets the login, at once if it counts.
    let text = "invalid username or password";
    let standby = Standby::start(health(None), text).await;
    let (logins, _) = standby.log_in(userpass()).await;
    assert_eq!(logins, ["/v1/auth/userpass/login/me forward-active-node"]);
    let (logins, _) = standby.log_in(VaultAuth::jwt("app", wrong())).await;
    let expected = [
        "/v1/auth/jwt/login ",
        "/v1/auth/jwt/login forward-active-node",
    ];
    assert_eq!(logins, expected);

    // Without a report, nothing is repeated.
    let standby = Standby::start(json!({"errors": []}), text).await;
    let (logins, _) = standby.log_in(userpass()).await;
    assert_eq!(logins, [plain]);
}
