//! [`ProbeService`], which responds to the probes of an orchestrator.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tower_service::Service;

use crate::readiness::Probes;

/// A tower service for the probes of an orchestrator. Created by [`Probes::ready`] and [`Probes::live`].
///
/// It responds to every path and method, and to `HEAD` without a body, so mount it at one path. It needs no credentials, so add it after the layers
/// that require some.
#[derive(Debug, Clone)]
pub struct ProbeService(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Ready(Probes),
    Live,
}

impl Probes {
    /// Returns the service for `/ready`. Its body is the [`Readiness`](crate::Readiness) as JSON. The status is 200 if
    /// the service is ready, and 503 otherwise.
    ///
    /// The body names the keys of secrets that cannot be used. If clients must not see them, do not expose the
    /// path outside of the cluster.
    pub fn ready(&self) -> ProbeService {
        ProbeService(Kind::Ready(self.clone()))
    }

    /// Returns the service for `/live`, which always responds with 200. It does not depend on the secrets, because a
    /// restart repairs neither a source nor a secret, and the current builds would be lost.
    pub fn live(&self) -> ProbeService {
        ProbeService(Kind::Live)
    }
}

impl<B> Service<Request<B>> for ProbeService {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (is_ok, mut body) = match &self.0 {
            Kind::Ready(probes) => {
                let readiness = probes.readiness();
                // Serialization of such a type does not fail.
                let body = serde_json::to_string(&readiness).unwrap_or_default();
                (readiness.ready, body)
            }
            Kind::Live => (true, r#"{"live":true}"#.to_owned()),
        };
        let length = HeaderValue::from(body.len());
        if request.method() == Method::HEAD {
            // Routers do not remove the body of a service.
            body.clear();
        }
        let mut response = Response::new(body);
        if !is_ok {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        ready(Ok(response))
    }
}
