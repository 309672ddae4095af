//! The axum extractor [`Auth`] and the trait [`Principal`] that it authenticates with.

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use crate::lazy::LazyAuth;
use crate::rejection::Rejection;

/// The authenticated identity behind a request: a session, a user or a tenant.
///
/// An implementation names the authenticator for this kind of principal once. Handlers then take
/// [`Auth<T>`] as an argument and do not depend on the authenticator.
///
/// ```
/// use http::request::Parts;
/// use secretwell::auth::Principal;
/// use secretwell::SecretValue;
///
/// /// The API key that the service accepts.
/// struct ApiKey(SecretValue);
///
/// /// A client that presented the API key.
/// struct ApiClient;
///
/// impl Principal for ApiClient {
///     type Authenticator = ApiKey;
///
///     fn authenticate(key: &ApiKey, request: &Parts) -> Option<Self> {
///         let presented = SecretValue::from(request.headers.get("x-api-key")?.as_bytes());
///         // Secret values are compared in constant time.
///         (key.0 == presented).then_some(Self)
///     }
/// }
/// ```
pub trait Principal: Sized + Send + 'static {
    /// The type that a [`LazyAuth`] builds and that verifies the credentials of requests.
    type Authenticator: Send + Sync + 'static;

    /// Returns the principal of `request`, or `None` if its credentials are missing or invalid.
    ///
    /// The extractor calls this with the current build. It does not call it while there is no
    /// build.
    fn authenticate(authenticator: &Self::Authenticator, request: &Parts) -> Option<Self>;
}

/// Extractor for the [`Principal`] of a request.
///
/// - `Auth<T>` rejects a request without valid credentials with 401.
/// - `Auth<Option<T>>` yields `None` for a request without valid credentials.
///
/// While there is no build to authenticate with, both forms respond with 503 or 500. They never
/// yield `None` in that case, so an outage does not turn a logged-in user into an anonymous one.
///
/// The router needs the layer of the [`LazyAuth`]: `.layer(auth.layer())`, see [`LazyAuth::layer`].
/// Without it, the extractor responds with 500 and logs the event `layer_missing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "handlers destructure it with the pattern `Auth(user)`"
)]
pub struct Auth<T>(pub T);

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.into_http()
    }
}

async fn authenticate<T: Principal>(parts: &Parts) -> Result<Option<T>, Rejection> {
    let Some(auth) = parts.extensions.get::<LazyAuth<T::Authenticator>>() else {
        tracing::error!(
            target: "secretwell::auth",
            event = "layer_missing",
            principal = std::any::type_name::<T>(),
            authenticator = std::any::type_name::<T::Authenticator>(),
            "the router has no auth layer for this principal; add `.layer(auth.layer())`",
        );
        return Err(Rejection::misconfigured());
    };
    match auth.get().await {
        Ok(authenticator) => Ok(T::authenticate(&authenticator, parts)),
        Err(failure) => {
            tracing::debug!(target: "secretwell::auth", event = "request_rejected", %failure, "rejected the request because auth is not ready");
            Err(Rejection::from(&failure))
        }
    }
}

impl<T: Principal, S: Sync> FromRequestParts<S> for Auth<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        authenticate(parts)
            .await?
            .map(Auth)
            .ok_or_else(Rejection::unauthorized)
    }
}

impl<T: Principal, S: Sync> FromRequestParts<S> for Auth<Option<T>> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        authenticate(parts).await.map(Auth)
    }
}
