//! The HTTP client.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use secretwell_core::{Error, ErrorKind, Origin};
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::protocol::Protocol;
use crate::request::Request;
use crate::response::Response;
use crate::send::SendLoop;
use crate::servers::Servers;

/// An HTTP client for the addresses of one backend, with a retry loop. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Servers,
    protocol: Box<dyn Protocol>,
    origin: Origin,
}

impl Client {
    /// Creates a client without opening a connection. Its errors name `origin` as their origin.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if a certificate cannot be read, if a proxy is not valid, or if an
    /// address would receive tokens unencrypted over the network.
    pub fn new(
        config: ClientConfig,
        protocol: impl Protocol,
        origin: Origin,
    ) -> Result<Self, Error> {
        let unencrypted: Vec<_> = config.unencrypted().map(ToString::to_string).collect();
        let shared = Shared {
            servers: Servers::new(config).map_err(|error| error.with_origin(&origin))?,
            protocol: Box::new(protocol),
            origin,
        };
        if !unencrypted.is_empty() {
            tracing::warn!(target: "secretwell::http", event = "unencrypted", origin = %shared.origin, addresses = unencrypted.join(", "), "tokens and secrets cross the network unencrypted");
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Returns the maximum duration of a call, including all attempts and waits.
    pub fn deadline(&self) -> Duration {
        self.shared.servers.config().deadline
    }

    /// Sends `request` to the configured servers until one responds, within the configured deadline.
    ///
    /// - If a server cannot be reached or reports that it is unavailable, the next address is tried.
    /// - If a server does not respond within the [hedge delay](ClientConfig::hedge_delay), the next address
    ///   is tried in parallel.
    /// - A [non-idempotent](Request::non_idempotent) request is sent to one server, which can use the rest of
    ///   the deadline. It is sent to the next one only if the first has certainly not executed it. If no server
    ///   has responded within the last second, a [probe](Protocol::probe) finds one first.
    /// - If an HTTP/1.1 connection that was used before is silent for 6 s, an idempotent request is sent once
    ///   more on a new connection. Silent HTTP/2 connections are closed after 6 s.
    /// - If too many requests are [under way](ClientConfig::max_concurrent_requests), the request waits.
    /// - If all addresses have failed, the client backs off for up to 1 s and tries them again, at most 32
    ///   times.
    /// - If all addresses fail for an unknown reason, or if other programs respond in their place, they are
    ///   tried at most three times.
    /// - After a rate limit, no request is sent until the requested wait is over.
    ///
    /// # Errors
    /// Returns the error that the [`Protocol`] derived from the response. If no attempt succeeds before the
    /// deadline, returns the last failure. If the backend did not send the response, returns the error of
    /// [`foreign_response`](crate::foreign_response).
    ///
    /// # Cancellation
    /// Dropping the future cancels its in-flight requests. A server might already have received them.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        self.send_until(request, Instant::now() + self.deadline())
            .await
    }

    /// Like [`send`](Self::send), with a given deadline, which several requests can share.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_until(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, Error> {
        let Shared {
            servers,
            protocol,
            origin,
        } = &*self.shared;
        let mut send = SendLoop::new(servers, &**protocol, origin, request, deadline);
        let result = send.run().await;
        result.map_err(|error| error.with_origin(origin))
    }

    /// Returns why all servers failed to respond to the last attempt of any request since `since`. Returns
    /// `None` if there was no such attempt, or if a server has responded after it.
    ///
    /// A caller whose own deadline ends a request returns this error, which is more specific than a timeout.
    pub fn failure_since(&self, since: Instant) -> Option<Error> {
        let error = self.shared.servers.failure_since(since)?;
        Some(error.with_origin(&self.shared.origin))
    }

    /// Requests `path`, which must not need a login, and returns the time in the response's `Date` header.
    /// This shows whether the server can be reached and whether its clock agrees with the local one.
    ///
    /// # Errors
    /// - The errors of [`send`](Self::send).
    /// - [`ErrorKind::Malformed`] if the response has no valid date. RFC 9110 (section 6.6.1) requires one
    ///   from every server with a clock.
    pub async fn server_time(&self, path: &str) -> Result<SystemTime, Error> {
        let response = self.send(&Request::new(Method::GET, path)).await?;
        response.date().ok_or_else(|| {
            Error::new(
                ErrorKind::Malformed,
                "the response has no valid `Date` header",
            )
            .with_hint("check the address, and any proxy in front of the server")
            .with_origin(&self.shared.origin)
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.shared.origin)
            .field("addresses", &self.shared.servers.config().addresses)
            .finish_non_exhaustive()
    }
}
