//! A service with actix-web.

use std::env;
use std::error::Error;
use std::net::TcpListener;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::error::{ErrorInternalServerError, ErrorServiceUnavailable, ErrorUnauthorized};
use actix_web::web::{self, Data};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer};
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, Probes};
use secretwell::{Resolver, SecretString, SecretValue};
use serde::Deserialize;

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

impl FromRequest for Caller {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let auth: Option<&Data<LazyAuth<ApiKeys>>> = request.app_data();
            let auth = auth.ok_or_else(|| ErrorInternalServerError("misconfigured"))?;
            // The reason is in the log.
            let keys = auth.get().await;
            let keys = keys.map_err(|_| ErrorServiceUnavailable("temporarily unavailable"))?;
            let given = request.headers().get("x-api-key");
            match given.map(|given| SecretValue::from(given.as_bytes())) {
                // `SecretValue` compares in constant time.
                Some(given) if keys.0.iter().any(|key| *key == given) => Ok(Self),
                _ => Err(ErrorUnauthorized("unauthorized")),
            }
        })
    }
}

async fn me(_: Caller) -> &'static str {
    "hello"
}

async fn ready(probes: Data<Probes>) -> HttpResponse {
    let readiness = probes.readiness();
    match readiness.ready {
        true => HttpResponse::Ok().json(readiness),
        false => HttpResponse::ServiceUnavailable().json(readiness),
    }
}

async fn live() -> &'static str {
    "live"
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let from = env::var("SECRETWELL_FROM").unwrap_or_else(|_| "env://".into());
    let resolver = Resolver::new(secretwell::from_url(&from)?);
    let auth = LazyAuth::new(resolver, |_: Secrets, context: BuildContext| async move {
        Ok::<_, BuildError>(ApiKeys(context.key_ring("API_KEY")?))
    });
    let probes = Probes::new().auth(&auth);

    let address = env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = TcpListener::bind(address)?;
    tracing::info!("listening on {}", listener.local_addr()?);
    // All worker threads share one auth. The server ends by itself on SIGTERM.
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(auth.clone()))
            .app_data(Data::new(probes.clone()))
            .route("/me", web::get().to(me))
            .route("/ready", web::get().to(ready))
            .route("/live", web::get().to(live))
    });
    server.listen(listener)?.run().await?;
    Ok(())
}
