//! Benchmarks of reading an Infisical folder of 200 secrets, with the provider and the official client.
//!
//! The server runs in this process and responds from memory. The figures are the CPU time of the client's thread.
//! The folder either changes with each read or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use infisical::AuthMethod;
use infisical::secrets::ListSecretsRequest;
use secretwell::infisical::{ApiVersion, Credential, InfisicalAuth, InfisicalProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_bench::clock::client_time;
use secretwell_bench::fakes::{PROJECT, infisical_list, infisical_login};
use secretwell_bench::server::serve;
use secretwell_bench::turns::{Turns, Unit};

const KEYS: usize = 200;
const ROUNDS: usize = 200;
const BATCH: Duration = Duration::from_millis(4);
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
        let names = (0..KEYS).map(|number| format!("SECRET_{number}"));
        Self {
            body: infisical_list(names, VALUE).to_string().into(),
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

fn main() {
    let folder = Folder::new();
    let router = Router::new()
        .route("/api/v3/secrets/raw", get(list))
        .route("/api/v1/auth/universal-auth/login", post(infisical_login))
        .with_state(folder.clone());
    let base = format!("http://{}", serve(router));
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

    for (name, changes) in [("changed", true), ("unchanged", false)] {
        folder.changes.store(changes, Ordering::Relaxed);
        let mut turns = Turns::new(ROUNDS, BATCH);
        turns.add("secretwell", |calls| {
            client_time(calls, || {
                let results = runtime.block_on(provider.get_many(&keys));
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            })
        });
        turns.add("sdk", |calls| {
            client_time(calls, || {
                let request = ListSecretsRequest::builder(PROJECT, "dev").build();
                let secrets = runtime.block_on(official.secrets().list(request));
                assert_eq!(secrets.expect("the list is read").len(), KEYS);
            })
        });
        let times = turns.measure();
        let prefix = format!("infisical_{name}");
        times.report(&prefix, Unit::Microseconds);
        times.report_ratio(
            &format!("{prefix}_secretwell_over_sdk"),
            "secretwell",
            "sdk",
        );
    }
}
