//! An AWS Lambda function that responds to HTTP requests.

use std::env;
use std::time::Duration;

use lambda_http::http::request::Parts;
use lambda_http::{Error, Request, Response, service_fn};
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, Principal, Rejection};
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

async fn respond(auth: &LazyAuth<ApiKeys>, request: Request) -> Response<String> {
    let (head, _) = request.into_parts();
    // The first invocation of a process waits for the secrets here.
    match auth.authenticate::<Caller>(&head).await {
        Ok(Caller) => Response::new("hello".to_owned()),
        Err(rejection) => rejection.into_http(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt::init();
    let from = env::var("SECRETWELL_FROM").unwrap_or_else(|_| "env://".into());
    let ttl = env::var("SECRETS_TTL_SECONDS").unwrap_or_else(|_| "300".into());
    let resolver = Resolver::builder(secretwell::from_url(&from)?)
        .ttl(Duration::from_secs(ttl.parse()?))
        .build();
    let auth = LazyAuth::new(resolver, |_: Secrets, context: BuildContext| async move {
        Ok::<_, BuildError>(ApiKeys(context.key_ring("API_KEY")?))
    });
    let respond = async |request| Ok::<_, Error>(respond(&auth, request).await);
    lambda_http::run(service_fn(respond)).await
}
