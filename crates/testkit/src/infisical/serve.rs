//! The HTTP server of the fake.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Response;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The maximum size of a request body in bytes. A real server has the same limit.
const MAX_BODY: usize = 1 << 20;

/// Serves `state` on a free port. The server stops when the returned tasks are dropped.
pub(super) async fn start(state: Arc<Mutex<super::State>>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(respond).with_state(state);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        axum::serve(listener, router).await.unwrap();
    });
    (address, tasks)
}

async fn respond(
    State(state): State<Arc<Mutex<super::State>>>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let headers: Vec<(&str, &str)> = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let fake_response = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.respond(parts.method.as_str(), target, &headers, &body)
    };
    let mut response = Response::builder().status(fake_response.status);
    for (name, value) in &fake_response.headers {
        response = response.header(*name, value);
    }
    response.body(fake_response.body.into()).unwrap()
}
