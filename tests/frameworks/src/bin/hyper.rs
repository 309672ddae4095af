//! A service with hyper, without a framework.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, Principal, Probes, Rejection};
use secretwell::{Resolver, SecretString, SecretValue};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower_service::Service;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the key ring contains it")]
    api_key: SecretString,
}

/// The value that is built from the secrets: the newest API key, and the previous one for its grace period.
struct ApiKeys(KeyRing);

/// A client that has presented an API key.
struct Caller;

impl Principal for Caller {
    type Authenticator = ApiKeys;

    async fn authenticate(keys: &ApiKeys, request: &Parts) -> Result<Self, Rejection> {
        let given = request.headers.get("x-api-key");
        match given.map(|given| SecretValue::from(given.as_bytes())) {
            // `SecretValue` compares in constant time.
            Some(given) if keys.0.iter().any(|key| *key == given) => Ok(Self),
            _ => Err(Rejection::unauthorized()),
        }
    }
}

async fn respond(
    auth: LazyAuth<ApiKeys>,
    probes: Probes,
    request: Request<Incoming>,
) -> Result<Response<String>, Infallible> {
    match request.uri().path() {
        "/me" => {
            let (head, _) = request.into_parts();
            Ok(match auth.authenticate::<Caller>(&head).await {
                Ok(Caller) => Response::new("hello".to_owned()),
                Err(rejection) => rejection.into_http(),
            })
        }
        "/ready" => probes.ready().call(request).await,
        "/live" => probes.live().call(request).await,
        _ => {
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let from = env::var("SECRETWELL_FROM").unwrap_or_else(|_| "env://".into());
    let resolver = Resolver::new(secretwell::from_url(&from)?);
    let auth = LazyAuth::new(resolver, |_: Secrets, context: BuildContext| async move {
        Ok::<_, BuildError>(ApiKeys(context.key_ring("API_KEY")?))
    });
    let probes = Probes::new().auth(&auth);

    let address = env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = TcpListener::bind(address).await?;
    tracing::info!("listening on {}", listener.local_addr()?);
    let mut end = signal(SignalKind::terminate())?;
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
            _ = end.recv() => break,
        };
        let (auth, probes) = (auth.clone(), probes.clone());
        let respond = move |request| respond(auth.clone(), probes.clone(), request);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service_fn(respond));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection has failed");
            }
        });
    }
    // Requests in progress get their response.
    drop(listener);
    let _ = tokio::time::timeout(Duration::from_secs(10), connections.shutdown()).await;
    Ok(())
}
