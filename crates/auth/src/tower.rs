//! Integration with tower: [`AuthLayer`] makes a [`LazyAuth`] available to handlers, and
//! [`LazyService`] builds a whole service from secrets.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::lazy::LazyAuth;
use crate::rejection::Rejection;

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Returns a layer that adds this auth to the extensions of each request, for the extractor
    /// `Auth`.
    ///
    /// The layer does not authenticate. It passes every request to the inner service.
    pub fn layer(&self) -> AuthLayer<A> {
        AuthLayer { auth: self.clone() }
    }
}

/// Layer that adds a [`LazyAuth`] to the extensions of each request. Created by [`LazyAuth::layer`].
pub struct AuthLayer<A> {
    auth: LazyAuth<A>,
}

/// Service that adds a [`LazyAuth`] to the extensions of each request and calls an inner service. Created
/// by [`AuthLayer`].
pub struct AuthService<A, S> {
    auth: LazyAuth<A>,
    inner: S,
}

impl<A, S> Layer<S> for AuthLayer<A> {
    type Service = AuthService<A, S>;

    fn layer(&self, inner: S) -> AuthService<A, S> {
        AuthService {
            auth: self.auth.clone(),
            inner,
        }
    }
}

impl<A, S, B> Service<Request<B>> for AuthService<A, S>
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

/// Service that is built from secrets on its first call and rebuilt when they rotate.
///
/// It is always ready. A call without a build gets a [`Rejection`]: 503 while the source is
/// unreachable, and 500 if the secrets are absent or invalid.
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
                Err(failure) => {
                    tracing::debug!(target: "secretwell::auth", event = "request_rejected", %failure, "rejected the request because the service is not ready");
                    Ok(Rejection::from(&failure).into_http())
                }
            }
        })
    }
}

impl<A> Clone for AuthLayer<A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
        }
    }
}

impl<A, S: Clone> Clone for AuthService<A, S> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
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

impl<A> fmt::Debug for AuthLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer")
            .field("auth", &self.auth)
            .finish()
    }
}

impl<A, S> fmt::Debug for AuthService<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("auth", &self.auth)
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
