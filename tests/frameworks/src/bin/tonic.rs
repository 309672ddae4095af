//! A gRPC service with tonic.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use http::request::Parts;
use http::{Request, Response};
use secretwell::auth::{
    Auth, BuildContext, BuildError, KeyRing, LazyAuth, Principal, Probes, Rejection, map_rejections,
};
use secretwell::{Resolver, SecretString, SecretValue};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the key ring contains it")]
    api_key: SecretString,
}

/// The value that is built from the secrets: the newest API key, and the previous one for its grace period.
struct ApiKeys(KeyRing);

/// A client that has presented an API key.
#[derive(Clone)]
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

async fn greet(request: tonic::Request<()>) -> Result<tonic::Response<String>, Status> {
    match Auth::<Caller>::from_extensions(request.extensions()) {
        Some(Auth(Caller)) => Ok(tonic::Response::new("hello".to_owned())),
        None => Err(Status::unauthenticated("the call has no API key")),
    }
}

/// The response to a rejected call: a gRPC status instead of JSON.
fn status(rejection: &Rejection, _: &Parts) -> Response<axum::body::Body> {
    let code = match rejection.status().as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        503 => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, rejection.to_string()).into_http()
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
    let router: Router = Routes::new(Greeter)
        .into_axum_router()
        .layer(auth.require::<Caller>())
        .layer(map_rejections(status))
        .route_service("/ready", probes.ready())
        .route_service("/live", probes.live());

    let address = env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = TcpListener::bind(address).await?;
    tracing::info!("listening on {}", listener.local_addr()?);
    let (mut end, mut limit) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::terminate())?,
    );
    let end = async move {
        end.recv().await;
    };
    // The probes of Kubernetes use HTTP/1.1.
    let server = Server::builder()
        .accept_http1(true)
        .add_routes(Routes::from(router));
    tokio::select! {
        served = server.serve_with_incoming_shutdown(TcpIncoming::from(listener), end) => served?,
        // A client can keep its connection open.
        () = async { limit.recv().await; tokio::time::sleep(Duration::from_secs(10)).await } => {}
    }
    Ok(())
}

/// What `tonic-prost-build` generates from
/// `service Greeter { rpc Greet(google.protobuf.Empty) returns (google.protobuf.StringValue); }`.
#[derive(Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "hello.Greeter";
}

impl Service<Request<Body>> for Greeter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/hello.Greeter/Greet" => {
                    let mut grpc = Grpc::new(ProstCodec::<String, ()>::default());
                    grpc.unary(service_fn(greet), request).await
                }
                _ => Status::unimplemented("the method does not exist").into_http(),
            })
        })
    }
}
