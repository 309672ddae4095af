//! Benchmarks of reading an Infisical folder of 200 secrets, with the provider and the official client.
//!
//! The server runs in this process and responds from memory, so the figures are the cost of the client. The
//! folder either changes with each read or never.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use infisical::AuthMethod;
use infisical::secrets::ListSecretsRequest;
use secretwell::infisical::{ApiVersion, Credential, InfisicalAuth, InfisicalProvider};
use secretwell::{SecretKey, SecretProvider};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const KEYS: usize = 200;
const PROJECT: &str = "00000000-0000-4000-8000-000000000001";
const VALUE: &str = "a-secret-that-is-long-enough-to-be-accepted!";

/// A folder that changes with each read if `changes` is set.
#[derive(Clone)]
struct Folder {
    body: Arc<str>,
    changes: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
}

impl Folder {
    fn new() -> Self {
        let secret = |number: usize| {
            json!({
                "id": "00000000-0000-4000-8000-000000000002",
                "_id": "00000000-0000-4000-8000-000000000002",
                "workspace": PROJECT,
                "environment": "dev",
                "version": 1,
                "type": "shared",
                "secretKey": format!("SECRET_{number}"),
                "secretValue": VALUE,
                "secretComment": "",
                "secretReminderNote": null,
                "secretReminderRepeatDays": null,
                "skipMultilineEncoding": false,
                "metadata": null,
                "createdAt": "2026-01-01T00:00:00.000Z",
                "updatedAt": "2026-01-01T00:00:00.000Z",
                "secretPath": "/",
                "tags": [],
            })
        };
        let secrets: Vec<Value> = (0..KEYS).map(secret).collect();
        Self {
            body: json!({"secrets": secrets, "imports": []})
                .to_string()
                .into(),
            changes: Arc::default(),
            reads: Arc::default(),
        }
    }
}

async fn list(State(folder): State<Folder>, headers: HeaderMap) -> Response {
    let read = folder.reads.fetch_add(1, Ordering::Relaxed);
    let etag = match folder.changes.load(Ordering::Relaxed) {
        true => format!("\"{read}\""),
        false => "\"unchanged\"".to_owned(),
    };
    let cached_etag = headers.get(header::IF_NONE_MATCH);
    if cached_etag.is_some_and(|cached| cached.as_bytes() == etag.as_bytes()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let json = "application/json; charset=utf-8".to_owned();
    let headers = [(header::ETAG, etag), (header::CONTENT_TYPE, json)];
    (headers, folder.body.to_string()).into_response()
}

async fn log_in() -> Json<Value> {
    Json(json!({
        "accessToken": "token",
        "expiresIn": 2_592_000,
        "accessTokenMaxTTL": 2_592_000,
        "tokenType": "Bearer",
    }))
}

/// Starts a server on a new thread and returns its address.
fn serve(folder: Folder) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .set_nonblocking(true)
        .expect("the socket is non-blocking");
    let address = listener.local_addr().expect("the address is known");
    let router = Router::new()
        .route("/api/v3/secrets/raw", get(list))
        .route("/api/v1/auth/universal-auth/login", post(log_in))
        .with_state(folder);
    thread::spawn(move || {
        Runtime::new().expect("the runtime starts").block_on(async {
            let listener =
                tokio::net::TcpListener::from_std(listener).expect("the listener is registered");
            axum::serve(listener, router).await
        })
    });
    address
}

fn infisical(criterion: &mut Criterion) {
    let folder = Folder::new();
    let base = format!("http://{}", serve(folder.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime starts");

    let auth = InfisicalAuth::universal("id", Credential::value("secret"));
    let provider = InfisicalProvider::builder(&base, auth)
        .and_then(|builder| {
            let builder = builder.project(PROJECT).environment("dev");
            builder.api(ApiVersion::V3).build()
        })
        .expect("the provider is built");
    let keys: Vec<SecretKey> = (0..KEYS)
        .map(|number| format!("SECRET_{number}").parse().expect("a valid key"))
        .collect();
    let official = runtime.block_on(async {
        let client = infisical::Client::builder().base_url(&base).build();
        let mut client = client.await.expect("the client is built");
        let login = AuthMethod::new_universal_auth("id", "secret");
        client.login(login).await.expect("the login succeeds");
        client
    });

    let mut group = criterion.benchmark_group("200 secrets");
    for (name, changes) in [("changed", true), ("unchanged", false)] {
        folder.changes.store(changes, Ordering::Relaxed);
        group.bench_function(format!("{name}/secretwell"), |bencher| {
            bencher.iter(|| {
                let results = runtime.block_on(provider.get_many(&keys));
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            });
        });
        group.bench_function(format!("{name}/official"), |bencher| {
            bencher.iter(|| {
                let request = ListSecretsRequest::builder(PROJECT, "dev").build();
                let secrets = runtime.block_on(official.secrets().list(request));
                assert_eq!(secrets.expect("the list is read").len(), KEYS);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, infisical);
criterion_main!(benches);
