//! The Lambda function, with a fake of the API that Lambda offers to its processes.

use std::process::Command;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secretwell_testkit::infisical::{FakeInfisical, FakeProject};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::process::{PATIENCE, Process};
use crate::{FIRST, SECOND};

/// The ttl of the secrets. The background task must act within twice this time.
const TTL: Duration = Duration::from_secs(1);

/// The API that a Lambda process gets its invocations from.
struct Runtime {
    address: String,
    events: mpsc::Sender<Value>,
    responses: mpsc::Receiver<Value>,
    /// One message for each request for an invocation.
    requests: mpsc::Receiver<()>,
}

struct Api {
    events: Mutex<mpsc::Receiver<Value>>,
    responses: mpsc::Sender<Value>,
    requests: mpsc::Sender<()>,
}

impl Runtime {
    async fn start() -> Self {
        let (event_sender, events) = mpsc::channel(1);
        let (response_sender, responses) = mpsc::channel(1);
        let (request_sender, requests) = mpsc::channel(8);
        let api = Api {
            events: Mutex::new(events),
            responses: response_sender,
            requests: request_sender,
        };
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route(
                "/2018-06-01/runtime/invocation/{id}/{outcome}",
                post(respond),
            )
            .with_state(std::sync::Arc::new(api));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, app).await });
        Self {
            address,
            events: event_sender,
            responses,
            requests,
        }
    }

    /// Waits until the process requests an invocation.
    async fn await_idle(&mut self) {
        tokio::time::timeout(PATIENCE, self.requests.recv())
            .await
            .unwrap()
            .unwrap();
    }

    /// Returns the status of the response to a request with this API key.
    async fn invoke(&mut self, key: &str) -> Value {
        self.events.send(event(key)).await.unwrap();
        let response = tokio::time::timeout(PATIENCE, self.responses.recv()).await;
        response.unwrap().unwrap()["statusCode"].clone()
    }
}

async fn next(State(api): State<std::sync::Arc<Api>>) -> Response {
    api.requests.send(()).await.unwrap();
    let Some(event) = api.events.lock().await.recv().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let deadline = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        + PATIENCE;
    let headers = [
        ("lambda-runtime-aws-request-id", "request".to_owned()),
        (
            "lambda-runtime-deadline-ms",
            deadline.as_millis().to_string(),
        ),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:local:0:function:hello".to_owned(),
        ),
    ];
    (headers, event.to_string()).into_response()
}

async fn respond(
    State(api): State<std::sync::Arc<Api>>,
    Path((_, outcome)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    assert_eq!(outcome, "response", "{body:?}");
    api.responses
        .send(serde_json::from_slice(&body).unwrap())
        .await
        .unwrap();
    StatusCode::ACCEPTED
}

/// An event of an HTTP API of API Gateway.
fn event(key: &str) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/me",
        "rawQueryString": "",
        "headers": { "host": "localhost", "x-api-key": key },
        "requestContext": {
            "accountId": "0", "apiId": "api", "domainName": "localhost", "domainPrefix": "api",
            "http": {
                "method": "GET", "path": "/me", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test",
            },
            "requestId": "request", "routeKey": "$default", "stage": "$default",
            "time": "27/Nov/2026:00:00:00 +0000", "timeEpoch": 0,
        },
        "isBase64Encoded": false,
    })
}

/// Starts the function.
fn start(runtime: &Runtime, project: &FakeProject, ttl: Duration) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lambda"));
    command
        .env("AWS_LAMBDA_RUNTIME_API", &runtime.address)
        .env("AWS_LAMBDA_FUNCTION_NAME", "hello")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "stream")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", "group")
        .env("SECRETWELL_FROM", project.source_url())
        .env("SECRETS_TTL_SECONDS", ttl.as_secs().to_string());
    let mut process = Process::start(&mut command);
    let stdout = process.stdout();
    process.collect(stdout);
    process
}

#[tokio::test]
async fn first_invocation_after_a_freeze_uses_the_rotated_secret() {
    let mut runtime = Runtime::start().await;
    let project = FakeInfisical::with([("OTHER", "value")]).await;
    let process = start(&runtime, &project, TTL);

    // The secret does not exist at the cold start.
    runtime.await_idle().await;
    assert_eq!(runtime.invoke(FIRST).await, 500, "{}", process.log());
    project.set("API_KEY", FIRST);
    let started = tokio::time::Instant::now();
    loop {
        runtime.await_idle().await;
        match runtime.invoke(FIRST).await {
            status if status == 200 => break,
            status => assert_eq!(status, 500),
        }
        assert!(started.elapsed() < PATIENCE, "{}", process.log());
    }
    runtime.await_idle().await;
    assert_eq!(runtime.invoke(SECOND).await, 401);

    // The process stands still between two invocations, for longer than the ttl.
    for round in 0..4 {
        runtime.await_idle().await;
        process.signal("STOP");
        let key = format!("{SECOND}{round}");
        project.set("API_KEY", &key);
        tokio::time::sleep(TTL * 5 / 2).await;
        // The invocation is there before the process runs again.
        runtime.events.send(event(&key)).await.unwrap();
        process.signal("CONT");
        let response = tokio::time::timeout(PATIENCE, runtime.responses.recv()).await;
        let status = response.unwrap().unwrap()["statusCode"].clone();
        assert_eq!(status, 200, "round {round}: {}", process.log());
        assert!(!process.log().contains(&key));
    }
}

#[tokio::test]
async fn cold_start_waits_for_the_secret() {
    let mut runtime = Runtime::start().await;
    let project = FakeInfisical::with([("API_KEY", FIRST)]).await;
    let process = start(&runtime, &project, TTL * 300);
    runtime.await_idle().await;
    assert_eq!(runtime.invoke(FIRST).await, 200, "{}", process.log());
    runtime.await_idle().await;
    assert_eq!(runtime.invoke(SECOND).await, 401);
    assert_eq!(
        project.server().count("POST /api/v1/auth", 200),
        1,
        "one login"
    );
}
