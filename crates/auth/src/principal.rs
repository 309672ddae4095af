//! The trait [`Principal`], [`Auth`] with its principal, and the authentication of a request.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::Extensions;
use http::request::Parts;

use crate::built::Guard;
use crate::lazy::LazyAuth;
use crate::panics::{Panicked, catch};
use crate::rejection::Rejection;
use crate::session_use::{mark_result, mark_result_outside, mark_session_used};

/// The authenticated identity behind a request: a session, a user or a tenant.
///
/// An implementation names the authenticator for this kind of principal once. Handlers then take
/// [`Auth<T>`] as an argument and do not depend on the authenticator.
///
/// ```
/// use http::request::Parts;
/// use secretwell::auth::{Principal, Rejection};
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
///     async fn authenticate(key: &ApiKey, request: &Parts) -> Result<Self, Rejection> {
///         match request.headers.get("x-api-key") {
///             // Secret values are compared in constant time.
///             Some(given) if key.0 == SecretValue::from(given.as_bytes()) => Ok(Self),
///             _ => Err(Rejection::unauthorized()),
///         }
///     }
/// }
/// ```
///
/// A principal can also wait, for example for a session store:
///
/// ```
/// # use std::time::Duration;
/// # use http::request::Parts;
/// # use secretwell::auth::{Principal, Rejection};
/// # struct SessionStore;
/// # impl SessionStore {
/// #     async fn find(&self, _: &[u8]) -> Result<Option<User>, std::io::Error> {
/// #         Ok(Some(User))
/// #     }
/// # }
/// # struct User;
/// impl Principal for User {
///     type Authenticator = SessionStore;
///
///     async fn authenticate(store: &SessionStore, request: &Parts) -> Result<Self, Rejection> {
///         let id = request.headers.get("x-session").ok_or(Rejection::unauthorized())?;
///         match store.find(id.as_bytes()).await {
///             Ok(Some(user)) => Ok(user),
///             Ok(None) => Err(Rejection::unauthorized()),
///             // The store is down, so the session might be valid.
///             Err(_) => Err(Rejection::unavailable(Duration::from_secs(1))),
///         }
///     }
/// }
/// ```
pub trait Principal: Sized + Send + 'static {
    /// The type that a [`LazyAuth`] builds and that verifies the credentials of requests.
    type Authenticator: Send + Sync + 'static;

    /// Authenticates `request` with the current build. Implementations write it as an `async fn`.
    /// It is not called while there is no build.
    ///
    /// It can wait, for example for a session store. The build stays in memory until then, even if
    /// it is replaced meanwhile. If the client disconnects, the server usually drops the future at
    /// its next await.
    ///
    /// # Errors
    /// - [`Rejection::unauthorized`] if the credentials are missing or invalid. A handler that takes
    ///   `Option<Auth<T>>` receives `None`.
    /// - [`Rejection::forbidden`] if the credentials are valid, but this client may not act as `T`. A
    ///   handler that takes `Option<Auth<T>>` receives `None`.
    /// - [`Rejection::unknown_key`] if the credentials name a key that the build does not have. The
    ///   secrets are read again, and the request is authenticated once more with the build that follows.
    /// - [`Rejection::unavailable`] if the credentials cannot be checked now, for example because the
    ///   session store is down. Such a failure must not be reported as `unauthorized`, which would
    ///   turn a logged-in user into an anonymous one.
    /// - [`Rejection::misconfigured`] if the credentials can never be checked.
    ///
    /// # Panics
    /// A panic is caught. The request is rejected with 500, and the event `authenticate_panicked` is
    /// logged. The build stays in use for other requests.
    fn authenticate(
        authenticator: &Self::Authenticator,
        request: &Parts,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send;
}

/// The [`Principal`] of a request. With the feature `axum`, it is an extractor.
///
/// | argument of the handler | without valid credentials | not allowed | while authentication is not possible |
/// | --- | --- | --- | --- |
/// | `Auth<T>` | 401 | 403 | 503 or 500 |
/// | `Option<Auth<T>>` | `None` | `None` | 503 or 500 |
/// | `Result<Auth<T>, Rejection>` | `Err` with status 401 | `Err` with status 403 | `Err` with status 503 or 500 |
///
/// `Option<Auth<T>>` is never `None` because of an outage, so an outage does not turn a logged-in
/// user into an anonymous one.
///
/// The router needs [`LazyAuth::provide`] or [`LazyAuth::require`] as a layer, added after the
/// routes. Without it, the extractor responds with 500 and logs the event `layer_missing`. Each
/// extractor authenticates the request, unless a layer of [`LazyAuth::require`] has done so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "handlers destructure it with the pattern `Auth(user)`"
)]
pub struct Auth<T>(pub T);

impl<T: Principal> Auth<T> {
    /// Returns the principal that a layer of [`LazyAuth::require`] has authenticated, or `None`
    /// without such a layer. Services that are not axum handlers use it.
    ///
    /// Returns `None` as well if an inner layer has provided another [`LazyAuth`] for `T`.
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
        mark_session_used::<T::Authenticator>(extensions);
        authenticated_by(extensions.get()?, extensions).map(Self)
    }
}

/// Authenticates `request` with the current build of `auth`, unless `auth` has already done so.
pub(crate) async fn authenticate<T: Principal>(
    auth: &LazyAuth<T::Authenticator>,
    request: &Parts,
) -> Result<T, Rejection> {
    mark_session_used::<T::Authenticator>(&request.extensions);
    if let Some(principal) = authenticated_by(auth, &request.extensions) {
        return Ok(principal);
    }
    let authenticator = auth.get().await.map_err(Rejection::log_not_ready)?;
    let used = Guard::generation(&authenticator);
    let mut result = authenticate_with::<T>(&authenticator, request).await;
    // The guard keeps its build in memory.
    drop(authenticator);
    if result.as_ref().is_err_and(Rejection::is_unknown_key)
        && let Some(newer) = auth.refresh_if_used(used).await
    {
        result = authenticate_with::<T>(&newer, request).await;
    }
    mark_result::<T::Authenticator, T>(&request.extensions, &result);
    result.map_err(Rejection::concluded)
}

async fn authenticate_with<T: Principal>(
    authenticator: &T::Authenticator,
    request: &Parts,
) -> Result<T, Rejection> {
    let result = catch_panic(async { T::authenticate(authenticator, request).await }).await;
    result.unwrap_or_else(|Panicked| {
        tracing::error!(
            target: "secretwell::auth",
            event = "authenticate_panicked",
            principal = std::any::type_name::<T>(),
            "rejected the request because `Principal::authenticate` panicked",
        );
        Err(Rejection::misconfigured())
    })
}

/// Inserts `principal`, which `auth` has authenticated, and `auth` itself.
pub(crate) fn insert<T>(extensions: &mut Extensions, auth: LazyAuth<T::Authenticator>, principal: T)
where
    T: Principal + Clone + Sync,
{
    mark_result_outside::<T::Authenticator, T>(extensions, Ok(&principal));
    extensions.insert(auth.clone());
    extensions.insert(Authenticated {
        auth,
        principal: Arc::new(move || principal.clone()),
    });
}

/// A principal in the extensions of a request.
struct Authenticated<T, A> {
    /// The auth that has authenticated the principal. A route behind several layers must not accept
    /// the principal of another auth.
    auth: LazyAuth<A>,
    /// Clones the principal. With a closure, only principals behind [`LazyAuth::require`] need to
    /// implement `Clone`.
    principal: Arc<dyn Fn() -> T + Send + Sync>,
}

impl<T, A> Clone for Authenticated<T, A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            principal: self.principal.clone(),
        }
    }
}

/// Returns the principal of a request if `auth` has authenticated it.
fn authenticated_by<T: Principal>(
    auth: &LazyAuth<T::Authenticator>,
    extensions: &Extensions,
) -> Option<T> {
    let found: &Authenticated<T, T::Authenticator> = extensions.get()?;
    Arc::ptr_eq(&found.auth.inner, &auth.inner).then(|| (found.principal)())
}

/// Waits for `future` and catches its panic, without an allocation for each request.
async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|context| match catch(|| future.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        // The future is dropped without another poll.
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}
