//! Integration with tower: [`ProvideLayer`] makes a [`LazyAuth`] available to handlers,
//! [`RequireLayer`] rejects requests that it cannot authenticate, and [`LazyService`] builds a whole
//! service from secrets.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::lazy::LazyAuth;
use crate::principal::{self, Principal};
use crate::rejection::Rejection;

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Returns a layer that adds this auth to the extensions of each request, for the extractor
    /// [`Auth`](crate::Auth).
    ///
    /// The layer does not authenticate. It passes every request to the inner service, so a handler
    /// without the extractor is open to everyone. [`require`](Self::require) returns a layer that
    /// rejects requests.
    ///
    /// In axum, a layer applies to the routes that were added before it.
    pub fn provide(&self) -> ProvideLayer<A> {
        ProvideLayer { auth: self.clone() }
    }

    /// Returns a layer that authenticates each request as the principal `T`, and rejects requests
    /// that are not authenticated. The inner service is called for authenticated requests only.
    ///
    /// | request | response |
    /// | --- | --- |
    /// | without valid credentials | 401 |
    /// | of a client that is not allowed ([`Rejection::forbidden`]) | 403 |
    /// | while the source of the secrets is unreachable | 503 with `Retry-After` |
    /// | while a secret is absent or invalid | 500 |
    /// | with valid credentials | response of the inner service |
    ///
    /// The extractor [`Auth<T>`](crate::Auth) behind this layer does not authenticate again. Other
    /// services call [`Auth::from_extensions`](crate::Auth::from_extensions).
    ///
    /// In axum, a layer applies to the routes that were added before it. With `.layer(..)`, requests
    /// for unknown paths are rejected as well. With `.route_layer(..)`, their response is still 404. A
    /// layer that responds to CORS preflight requests, which have no credentials, must be added after
    /// this layer.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::http::request::Parts;
    /// use axum::routing::get;
    /// use secretwell::auth::{Auth, LazyAuth, Principal, Rejection};
    /// use secretwell::{Resolver, SecretValue};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Secrets {
    ///     admin_token: SecretValue,
    /// }
    ///
    /// struct AdminToken(SecretValue);
    ///
    /// #[derive(Clone)]
    /// struct Admin;
    ///
    /// impl Principal for Admin {
    ///     type Authenticator = AdminToken;
    ///
    ///     async fn authenticate(token: &AdminToken, request: &Parts) -> Result<Self, Rejection> {
    ///         match request.headers.get("x-admin-token") {
    ///             Some(given) if token.0 == SecretValue::from(given.as_bytes()) => Ok(Self),
    ///             _ => Err(Rejection::unauthorized()),
    ///         }
    ///     }
    /// }
    ///
    /// async fn whoami(_: Auth<Admin>) -> &'static str {
    ///     "the admin"
    /// }
    ///
    /// # fn router(resolver: Resolver) -> Router {
    /// let auth = LazyAuth::infallible(resolver, |secrets: Secrets, _| AdminToken(secrets.admin_token));
    /// let app = Router::new()
    ///     .route("/admin", get("for the admin only"))
    ///     .route("/admin/whoami", get(whoami))
    ///     .route_layer(auth.require::<Admin>())
    ///     .route("/", get("for everyone")); // added after the layer
    /// # app
    /// # }
    /// ```
    pub fn require<T>(&self) -> RequireLayer<T, A>
    where
        T: Principal<Authenticator = A> + Clone + Sync,
    {
        RequireLayer {
            auth: self.clone(),
            principal: PhantomData,
        }
    }

    /// Authenticates one request as the principal `T`, for services without extractors.
    ///
    /// It does not read the body. [`Auth<T>`](crate::Auth) and [`require`](Self::require) do the same.
    ///
    /// # Errors
    /// Returns [`Rejection`] for a request that cannot be authenticated.
    /// [`Rejection::into_http`] converts it into a response.
    pub async fn authenticate<T>(&self, request: &Parts) -> Result<T, Rejection>
    where
        T: Principal<Authenticator = A>,
    {
        principal::authenticate(self, request).await
    }
}

/// Layer that adds a [`LazyAuth`] to the extensions of each request and rejects none. Created by
/// [`LazyAuth::provide`].
pub struct ProvideLayer<A> {
    auth: LazyAuth<A>,
}

/// Service that adds a [`LazyAuth`] to the extensions of each request and calls an inner service.
/// Created by [`ProvideLayer`].
pub struct ProvideService<A, S> {
    auth: LazyAuth<A>,
    inner: S,
}

impl<A, S> Layer<S> for ProvideLayer<A> {
    type Service = ProvideService<A, S>;

    fn layer(&self, inner: S) -> ProvideService<A, S> {
        ProvideService {
            auth: self.auth.clone(),
            inner,
        }
    }
}

impl<A, S, B> Service<Request<B>> for ProvideService<A, S>
where
    A: Send + Sync + 'static,
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.auth.clone());
        self.inner.call(request)
    }
}

/// Layer that authenticates each request as the principal `T` with a `LazyAuth<A>`, and rejects
/// requests that are not authenticated. Created by [`LazyAuth::require`].
pub struct RequireLayer<T, A> {
    auth: LazyAuth<A>,
    principal: PhantomData<fn() -> T>,
}

/// Service that calls an inner service for authenticated requests only. Created by
/// [`RequireLayer`].
pub struct RequireService<T, A, S> {
    layer: RequireLayer<T, A>,
    inner: S,
}

impl<T, A, S> Layer<S> for RequireLayer<T, A> {
    type Service = RequireService<T, A, S>;

    fn layer(&self, inner: S) -> RequireService<T, A, S> {
        RequireService {
            layer: self.clone(),
            inner,
        }
    }
}

impl<T, A, S, B, R> Service<Request<B>> for RequireService<T, A, S>
where
    T: Principal<Authenticator = A> + Clone + Sync,
    A: Send + Sync + 'static,
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let auth = self.layer.auth.clone();
        // `poll_ready` has prepared `self.inner`. The clone might not be ready.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match principal::authenticate::<T>(&auth, &parts).await {
                Ok(principal) => {
                    principal::insert(&mut parts.extensions, auth, principal);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(rejection) => Ok(rejection.into_http()),
            }
        })
    }
}

/// Service that is built from secrets on its first call and rebuilt when they rotate.
///
/// It is always ready. A call without a build gets a [`Rejection`]: 503 while the source is
/// unreachable, and 500 if the secrets are absent or invalid.
///
/// Each call uses a clone of the built service. If the clone panics, the panic reaches the caller and
/// the next call uses another clone.
///
/// ```
/// use std::convert::Infallible;
/// use std::future::Ready;
/// use std::task::{Context, Poll};
///
/// use http::{Request, Response};
/// use secretwell::auth::{LazyAuth, LazyService};
/// use secretwell::{MemoryProvider, Resolver};
/// use serde::Deserialize;
/// use tower_service::Service;
///
/// #[derive(Deserialize)]
/// struct Secrets {
///     greeting: String,
/// }
///
/// /// Responds to each request with the same text.
/// #[derive(Clone)]
/// struct Greeter(String);
///
/// impl Service<Request<()>> for Greeter {
///     type Response = Response<String>;
///     type Error = Infallible;
///     type Future = Ready<Result<Response<String>, Infallible>>;
///
///     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
///         Poll::Ready(Ok(()))
///     }
///
///     fn call(&mut self, _: Request<()>) -> Self::Future {
///         std::future::ready(Ok(Response::new(self.0.clone())))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([("greeting", "hello")]);
/// let greeter = LazyAuth::infallible(Resolver::new(memory), |s: Secrets, _| Greeter(s.greeting));
/// let mut service = LazyService::new(greeter);
/// assert_eq!(service.call(Request::new(())).await?.body(), "hello");
/// # Ok(())
/// # }
/// ```
pub struct LazyService<S> {
    service: LazyAuth<S>,
}

impl<S: Send + Sync + 'static> LazyService<S> {
    /// Creates a service that forwards each call to the current build of `service`.
    pub fn new(service: LazyAuth<S>) -> Self {
        Self { service }
    }
}

impl<S, B, R> Service<Request<B>> for LazyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.service.clone();
        Box::pin(async move {
            let built = service.get().await.map(|built| S::clone(&built));
            match built {
                Ok(mut inner) => {
                    poll_fn(|context| inner.poll_ready(context)).await?;
                    inner.call(request).await
                }
                Err(failure) => Ok(Rejection::log_not_ready(failure).into_http()),
            }
        })
    }
}

impl<A> Clone for ProvideLayer<A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
        }
    }
}

impl<A, S: Clone> Clone for ProvideService<A, S> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<T, A> Clone for RequireLayer<T, A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            principal: PhantomData,
        }
    }
}

impl<T, A, S: Clone> Clone for RequireService<T, A, S> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S> Clone for LazyService<S> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<A> fmt::Debug for ProvideLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvideLayer")
            .field("auth", &self.auth)
            .finish()
    }
}

impl<A, S> fmt::Debug for ProvideService<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvideService")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl<T, A> fmt::Debug for RequireLayer<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer")
            .field("auth", &self.auth)
            .field("principal", &std::any::type_name::<T>())
            .finish()
    }
}

impl<T, A, S> fmt::Debug for RequireService<T, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireService")
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for LazyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyService")
            .field("service", &self.service)
            .finish()
    }
}
