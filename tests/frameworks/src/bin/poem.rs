//! A service with poem.

use std::env;
use std::error::Error;
use std::time::Duration;

use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json};
use poem::{
    EndpointExt, FromRequest, IntoResponse, Request, RequestBody, Route, Server, get, handler,
};
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, Probes};
use secretwell::{Resolver, SecretString, SecretValue};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the key ring contains it")]
    api_key: SecretString,
}

/// The value that is built from the secrets: the newest API key, and the previous one for its grace period.
struct ApiKeys(KeyRing);

/// A client that has presented an API key. Handlers take it as an argument.
struct Caller;

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let auth: Option<&LazyAuth<ApiKeys>> = request.data();
        let auth = auth.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        // The reason is in the log.
        let keys = auth
            .get()
            .await
            .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        let given = request.headers().get("x-api-key");
        match given.map(|given| SecretValue::from(given.as_bytes())) {
            // `SecretValue` compares in constant time.
            Some(given) if keys.0.iter().any(|key| *key == given) => Ok(Self),
            _ => Err(StatusCode::UNAUTHORIZED.into()),
        }
    }
}

#[handler]
fn me(_: Caller) -> &'static str {
    "hello"
}

#[handler]
fn ready(Data(probes): Data<&Probes>) -> impl IntoResponse + use<> {
    let readiness = probes.readiness();
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Json(readiness).with_status(status)
}

#[handler]
fn live() -> &'static str {
    "live"
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
    let app = Route::new()
        .at("/me", get(me))
        .at("/ready", get(ready))
        .at("/live", get(live))
        .data(auth)
        .data(probes);

    let address = env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let acceptor = TcpListener::bind(address).into_acceptor().await?;
    for address in acceptor.local_addr() {
        tracing::info!("listening on {}", address.as_socket_addr().ok_or("no TCP")?);
    }
    let mut end = signal(SignalKind::terminate())?;
    let end = async move {
        end.recv().await;
    };
    let server = Server::new_with_acceptor(acceptor);
    server
        .run_with_graceful_shutdown(app, end, Some(Duration::from_secs(10)))
        .await?;
    Ok(())
}
