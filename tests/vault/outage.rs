//! The error of a read during an outage: it is the reason of the last attempt, whichever deadline ends the read.

use std::time::Duration;

use axum::http::StatusCode;
use axum::{Json, Router};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::key;

const DEADLINE: Duration = Duration::from_secs(1);

/// Reads in several rounds of an outage, each time with two callers at once and one that joins them later. Asserts that
/// every error has the same kind and contains `reason`.
async fn assert_reason(address: &str, reason: &str) {
    let mut outages = JoinSet::new();
    let app_role = || VaultAuth::app_role("role", Credential::value("secret"));
    let wrapped = || VaultAuth::app_role_wrapped("role", Credential::value("hvs.wrapping"));
    let token = || VaultAuth::token(Credential::value("token"));
    for auth in [app_role(), wrapped(), token()] {
        for kv in [None, Some(KvVersion::V2)] {
            let builder = VaultProvider::builder([address], auth.clone()).unwrap();
            let builder = builder.path("app").dynamic("db", "database/creds/app");
            let builder = match kv {
                Some(kv) => builder.kv_version(kv),
                None => builder,
            };
            let provider = builder.client(|client| client.deadline(DEADLINE)).build();
            let (provider, reason) = (provider.unwrap(), reason.to_owned());
            outages.spawn(async move {
                for round in 0..4 {
                    let read = async |name: &str, delay: Duration| {
                        tokio::time::sleep(delay).await;
                        let error = provider.get(&key(name)).await.unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{round}: {error}");
                        assert!(error.to_string().contains(&reason), "{round}: {error}");
                    };
                    tokio::join!(
                        read("A", Duration::ZERO),
                        read("db/username", Duration::ZERO),
                        read("A", DEADLINE * 2 / 3),
                    );
                }
                let error = provider.health().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            });
        }
    }
    outages.join_all().await;
}

#[tokio::test]
async fn each_read_of_a_server_that_refuses_connections_has_this_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_reason(&address, "refuses connections").await;
}

#[tokio::test]
async fn each_read_of_a_sealed_server_has_this_reason() {
    let sealed = || async {
        let body = Json(json!({"errors": ["Vault is sealed"]}));
        (StatusCode::SERVICE_UNAVAILABLE, body)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, Router::new().fallback(sealed)).await });
    assert_reason(&address, "the server is sealed").await;
}
