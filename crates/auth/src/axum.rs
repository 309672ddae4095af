//! The extractors of axum: [`Auth<T>`](Auth) and `Option<Auth<T>>`.

use std::sync::Once;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::lazy::LazyAuth;
use crate::principal::{Auth, Principal, authenticate};
use crate::rejection::Rejection;
use crate::session_use::mark_result_outside;
use crate::state::print_without_subscriber;

impl<T: Principal, S: Sync> FromRequestParts<S> for Auth<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        match parts.extensions.get::<LazyAuth<T::Authenticator>>() {
            Some(auth) => {
                let result = authenticate(auth, parts).await;
                // The argument might be that of a middleware.
                let extensions = &mut parts.extensions;
                mark_result_outside::<T::Authenticator, T>(extensions, result.as_ref());
                result.map(Self)
            }
            None => {
                let authenticator = std::any::type_name::<T::Authenticator>();
                Err(layer_missing(std::any::type_name::<Self>(), authenticator))
            }
        }
    }
}

/// Returns `None` only for a request without valid credentials, or whose client is not allowed.
impl<T: Principal, S: Sync> OptionalFromRequestParts<S> for Auth<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Rejection> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(auth) => Ok(Some(auth)),
            Err(rejection) => match rejection.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(None),
                _ => Err(rejection),
            },
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.into_http()
    }
}

/// Reports that no layer provides the auth of an extractor. `authenticator` is the type that it builds.
#[cold]
pub(crate) fn layer_missing(extractor: &str, authenticator: &str) -> Rejection {
    static PRINTED: Once = Once::new();
    tracing::error!(
        target: "secretwell::auth",
        event = "layer_missing",
        extractor,
        authenticator,
        "no layer provides auth for this route; add `.layer(auth.provide())` after the routes, or \
         `.layer(auth.session_layer())` for sessions",
    );
    print_without_subscriber(
        &PRINTED,
        format_args!(
            "no layer provides `LazyAuth<{authenticator}>` for a handler with `{extractor}`; \
             add `.layer(auth.provide())` after the routes, or `.layer(auth.session_layer())` for sessions"
        ),
    );
    Rejection::misconfigured()
}
