//! For axum: the extractor that guards a handler.

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use crate::lazy::LazyAuth;
use crate::rejection::Rejection;

/// Who a request comes from, as an authenticator tells it: a session, a user, a tenant.
///
/// Implementing it names, once, what authenticates such a principal; handlers then ask for
/// [`Auth<T>`] and need not know.
///
/// ```
/// use http::request::Parts;
/// use secretwell::auth::Principal;
/// use secretwell::SecretValue;
///
/// /// Knows the one key that the service accepts.
/// struct ApiKey(SecretValue);
///
/// /// Somebody who has the key.
/// struct Holder;
///
/// impl Principal for Holder {
///     type Authenticator = ApiKey;
///
///     fn authenticate(key: &ApiKey, request: &Parts) -> Option<Self> {
///         let given = SecretValue::from(request.headers.get("x-api-key")?.as_bytes());
///         // In constant time, as secret values are compared.
///         (key.0 == given).then_some(Self)
///     }
/// }
/// ```
pub trait Principal: Sized + Send + 'static {
    /// What is built lazily, and knows how to authenticate.
    type Authenticator: Send + Sync + 'static;

    /// The principal of `request`; `None` when it shows no credentials, or none that are good.
    ///
    /// Called with what is in service at that moment, and only when something is.
    fn authenticate(authenticator: &Self::Authenticator, request: &Parts) -> Option<Self>;
}

/// The principal that a handler asks for.
///
/// - `Auth<T>`: without good credentials the answer is 401.
/// - `Auth<Option<T>>`: `None` without good credentials.
///
/// Either way, while there is nothing to authenticate with, the answer is 503 or 500 and never
/// `None`: nobody is taken for anonymous by accident. The router needs [`LazyAuth::layer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a handler takes it apart with the pattern `Auth(user)`"
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
            "the router has no auth for this principal; add `.layer(auth.layer())`",
        );
        return Err(Rejection::misconfigured());
    };
    match auth.get().await {
        Ok(authenticator) => Ok(T::authenticate(&authenticator, parts)),
        Err(failure) => {
            tracing::debug!(target: "secretwell::auth", event = "request_rejected", %failure, "the request was rejected because auth is not ready");
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
