//! Standbys that have not reached the index of earlier responses, while no active server exists. The server is a fake one,
//! because real standbys catch up.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, Secret, SecretProvider, Version};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{key, keys, secs};

/// What a server knows.
#[derive(Clone)]
struct Data {
    /// The number of its last write. A request can require a higher one.
    index: u64,
    version: u64,
    /// When the version was written, in seconds after the begin of a minute.
    created: u64,
    fields: Value,
}

impl Data {
    fn new(index: u64, version: u64, fields: Value) -> Self {
        Self {
            index,
            version,
            created: version,
            fields,
        }
    }

    fn respond(&self, request: &Request) -> Response {
        let header = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
        let error = |status: u16, text: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            (status, Json(json!({"errors": [text]}))).into_response()
        };
        if header("x-vault-inconsistent").is_some() {
            let text = "local node not active but active cluster node not found";
            return error(500, text);
        }
        let required = header("x-vault-index").map(|value| {
            let position: Value = serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap();
            position["value"].as_str().unwrap().parse::<u64>().unwrap()
        });
        if required.is_some_and(|required| required > self.index) {
            return error(412, "required index state not present");
        }
        let position = json!({"cluster": "a", "value": self.index.to_string()});
        let metadata = json!({
            "version": self.version,
            "created_time": format!("2026-01-01T00:00:{:02}Z", self.created),
            "deletion_time": "",
        });
        let body =
            json!({"lease_id": "", "data": {"data": self.fields.clone(), "metadata": metadata}});
        let position = STANDARD.encode(position.to_string());
        ([("x-vault-index", position)], Json(body)).into_response()
    }
}

/// A standby whose data the test sets.
struct Standby {
    data: Arc<Mutex<Data>>,
    provider: VaultProvider,
    _serving: JoinSet<()>,
}

impl Standby {
    async fn start(data: Data) -> Self {
        let data = Arc::new(Mutex::new(data));
        let served = Arc::clone(&data);
        let respond = move |request: Request| {
            let response = served.lock().unwrap().respond(&request);
            async move { response }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(respond);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let token = VaultAuth::token(Credential::value("token"));
        let provider = VaultProvider::builder([address], token).unwrap();
        let provider = provider
            .path("app")
            .kv_version(KvVersion::V2)
            .client(|client| client.deadline(secs(2)))
            .build()
            .unwrap();
        Self {
            data,
            provider,
            _serving: serving,
        }
    }

    fn set(&self, data: Data) {
        *self.data.lock().unwrap() = data;
    }
}

fn text(result: &Result<Secret, Error>) -> &str {
    result.as_ref().unwrap().value.expose_text().unwrap()
}

fn version(result: &Result<Secret, Error>) -> Option<u64> {
    let version = result.as_ref().unwrap().version.as_ref();
    version.and_then(Version::number)
}

#[tokio::test]
async fn older_version_of_a_stale_standby_is_never_returned() {
    let current = Data::new(10, 3, json!({"A": "newest"}));
    let older = Data::new(5, 2, json!({"A": "older"}));
    let standby = Standby::start(current.clone()).await;
    let get = async || standby.provider.get(&key("A")).await;
    assert_eq!(version(&get().await), Some(3));

    standby.set(older.clone());
    let error = get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.is_temporary() && error.to_string().contains("stale"),
        "{error}"
    );

    // It has not reached the index, but has the newest version of this secret.
    standby.set(Data {
        index: 9,
        ..current.clone()
    });
    assert_eq!(text(&get().await), "newest");

    // A read that waits gets the version as soon as a server has it.
    standby.set(older);
    let catch_up = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        standby.set(current);
    };
    let (result, ()) = tokio::join!(get(), catch_up);
    assert_eq!(text(&result), "newest");
}

/// The secret was deleted and created again after a snapshot was restored, which restarts its numbers.
#[tokio::test]
async fn lower_version_with_a_later_time_is_not_older() {
    let standby = Standby::start(Data::new(10, 3, json!({"A": "before"}))).await;
    let get = async || standby.provider.get(&key("A")).await;
    assert_eq!(text(&get().await), "before");
    standby.set(Data {
        created: 30,
        ..Data::new(9, 1, json!({"A": "after"}))
    });
    let secret = get().await;
    assert_eq!((text(&secret), version(&secret)), ("after", Some(1)));
}

#[tokio::test]
async fn field_that_a_standby_lacks_is_absent_only_if_the_active_server_confirms_it() {
    let standby = Standby::start(Data::new(10, 1, json!({"A": "a"}))).await;
    let requested = keys(&["A", "B"]);
    let results = standby.provider.get_many(&requested).await;
    assert_eq!(text(&results[0]), "a");
    let error = results[1].as_ref().unwrap_err();
    // A chain does not continue after this error, and typed loading uses no default.
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_temporary(), "{error}");
    assert_eq!(error.key(), Some(&requested[1]));
}
