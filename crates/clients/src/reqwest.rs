//! HTTP requests with reqwest: [`client_with_header`], which sends a secret in a header of each request.
//!
//! ```
//! use http::HeaderValue;
//! use http::header::AUTHORIZATION;
//! use secretwell::auth::LazyAuth;
//! use secretwell::clients::reqwest::client_with_header;
//! use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Secrets {
//!     api_token: SecretString,
//! }
//!
//! # fn main() -> Result<(), reqwest::Error> {
//! let resolver = Resolver::new(MemoryProvider::new());
//! let token = LazyAuth::new(resolver, |secrets: Secrets, _| async move {
//!     Ok(HeaderValue::try_from(format!("Bearer {}", secrets.api_token.expose_secret()))?)
//! });
//! let client = client_with_header(reqwest::Client::builder(), AUTHORIZATION, token)?.build();
//! # let _: reqwest_middleware::ClientWithMiddleware = client;
//! # Ok(())
//! # }
//! ```
//!
//! - **Each request has the newest secret.** Before the first build, a request waits for it, for at most the deadline of
//!   the `LazyAuth`. Without a build, the request fails with [`NotReady`](secretwell_auth::NotReady) and is not sent.
//! - **A response 401 is reported.** [`LazyAuth::report_rejected`] reads the secret again. If it has changed, the
//!   request is repeated once. A request whose body is a stream cannot be repeated.
//! - **The secret stays at the origin of the request.** A redirect to another scheme, host or port is not followed. The
//!   response is the redirect itself. Other redirects are followed at most ten times.
//! - **The secret is not printed.** The header is marked as sensitive.

use async_trait::async_trait;
use http::{Extensions, HeaderName, HeaderValue, StatusCode};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use secretwell_auth::{Generation, Guard, LazyAuth};

/// Returns the builder of a client that sends the newest build of `value` in the header `name` of each request.
///
/// The header replaces one of the same name that a request has. The redirect policy of `client` is replaced.
///
/// Middlewares that are added to the builder run after this one, so they see the header.
///
/// # Errors
/// Returns an error if reqwest cannot create the client, such as without a root certificate.
pub fn client_with_header(
    client: reqwest::ClientBuilder,
    name: HeaderName,
    value: LazyAuth<HeaderValue>,
) -> reqwest::Result<reqwest_middleware::ClientBuilder> {
    let client = client.redirect(Policy::custom(same_origin)).build()?;
    Ok(reqwest_middleware::ClientBuilder::new(client).with(SecretHeader { name, value }))
}

/// Follows a redirect to the origin of the request, and returns all others as they are.
fn same_origin(attempt: Attempt<'_>) -> Action {
    let origin = attempt.url().origin();
    if attempt.previous().iter().any(|url| url.origin() != origin) {
        return attempt.stop();
    }
    Policy::default().redirect(attempt)
}

struct SecretHeader {
    name: HeaderName,
    value: LazyAuth<HeaderValue>,
}

impl SecretHeader {
    /// Adds the header to `request`. Returns the generation of its value.
    fn add(&self, guard: &Guard<HeaderValue>, request: &mut Request) -> Generation {
        let mut value = HeaderValue::clone(guard);
        value.set_sensitive(true);
        request.headers_mut().insert(self.name.clone(), value);
        Guard::generation(guard)
    }
}

#[async_trait]
impl Middleware for SecretHeader {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let newest = self.value.get().await.map_err(Error::middleware)?;
        let repeated = request.try_clone();
        let used = self.add(&newest, &mut request);
        drop(newest);
        let response = next.clone().run(request, extensions).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let newer = self.value.report_rejected(used).await;
        match (newer, repeated) {
            (Some(newer), Some(mut request)) => {
                self.add(&newer, &mut request);
                drop(newer);
                next.run(request, extensions).await
            }
            _ => Ok(response),
        }
    }
}

#[cfg(test)]
#[path = "reqwest_tests.rs"]
mod tests;
