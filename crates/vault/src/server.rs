//! The connection to the servers of one cluster.

use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method};
use secretwell_core::Error;
use secretwell_http::{Client, Request, Response};
use tokio::time::{Instant, timeout};

use crate::header::with_headers;
use crate::wire::{self, Health, Index};

/// The longest time for a report about the cluster, and the share of the deadline of a call that it can use. A login is
/// sent without it.
const HEALTH_DEADLINE: (Duration, u32) = (Duration::from_secs(2), 4);

/// The servers of one cluster. Clones share the client and the highest known index.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    client: Client,
    index: Index,
    has_base_path: bool,
    /// The end of all requests. Without it, each request has its own deadline.
    deadline: Option<Instant>,
}

impl Server {
    /// `has_base_path` is whether an address has a path.
    pub(crate) fn new(client: Client, has_base_path: bool) -> Self {
        Self {
            has_base_path,
            client,
            index: Index::default(),
            deadline: None,
        }
    }

    /// Returns a connection to the same servers whose requests share the deadline of one call, which starts now.
    pub(crate) fn with_shared_deadline(&self) -> Self {
        Self {
            deadline: Some(Instant::now() + self.deadline()),
            ..self.clone()
        }
    }

    /// Returns the time of the server, which needs no login.
    pub(crate) async fn time(&self) -> Result<SystemTime, Error> {
        self.client.server_time(wire::SEAL_STATUS).await
    }

    /// Returns the maximum duration of one call.
    pub(crate) fn deadline(&self) -> Duration {
        self.client.deadline()
    }

    /// Returns why the last attempt of a request since `since` failed, unless a server has responded after it.
    pub(crate) fn failure_since(&self, since: Instant) -> Option<Error> {
        self.client.failure_since(since)
    }

    /// Returns the highest index that the servers have reported.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) async fn send(&self, request: &Request) -> Result<Response, Error> {
        let response = self.exchange(request).await?;
        self.index.record(&response.headers);
        Ok(response)
    }

    /// Sends a request that requires a server to have reached `index`. Only stale servers respond without it.
    pub(crate) async fn send_requiring(
        &self,
        request: Request,
        index: &HeaderValue,
    ) -> Result<Response, Error> {
        let request = request.consistency(wire::INDEX, index.clone());
        let response = self.exchange(&request).await?;
        match response.stale {
            true => self.index.record(&response.headers),
            false => self.index.record_reached(&response.headers, index),
        }
        Ok(response)
    }

    async fn exchange(&self, request: &Request) -> Result<Response, Error> {
        match self.send_in_time(request).await {
            Err(error) if wire::is_sealed(&error) => Err(self.explain_sealed(error).await),
            result => result,
        }
    }

    /// Returns a more specific error if the server was never initialized, because such a server also reports
    /// that it is sealed.
    async fn explain_sealed(&self, error: Error) -> Error {
        let status = request_without_token(wire::SEAL_STATUS);
        match self.send_in_time(&status).await {
            Ok(status) => wire::seal_status(&status).unwrap_or(error),
            Err(_) => error,
        }
    }

    /// Checks that `response` is from the API, if it could also be from outside of it. Outside of `/v1`, the
    /// server responds to every path as the API does to the path of a missing secret. This happens if a gateway
    /// does not remove the path of the configured address.
    pub(crate) async fn check_api(&self, response: &Response) -> Result<(), Error> {
        if !self.has_base_path || !wire::is_outside_of_api(response) {
            return Ok(());
        }
        let health = request_without_token(wire::HEALTH);
        let health = self.send_in_time(&health).await?;
        match wire::is_outside_of_api(&health) {
            true => Err(wire::no_api()),
            false => Ok(()),
        }
    }

    /// Returns what a server reports about its cluster. Returns `None` if no server does within 2 s
    /// or a quarter of the deadline.
    pub(crate) async fn health(&self) -> Option<Health> {
        let request = request_without_token(wire::HEALTH);
        let (longest, parts) = HEALTH_DEADLINE;
        let limit = longest.min(self.deadline() / parts);
        let health = timeout(limit, self.send_in_time(&request)).await;
        Health::parse(&health.ok()?.ok()?)
    }

    async fn send_in_time(&self, request: &Request) -> Result<Response, Error> {
        match self.deadline {
            Some(deadline) => self.client.send_until(request, deadline).await,
            None => self.client.send(request).await,
        }
    }
}

/// Creates a request for a path that needs no token. It has no namespace header, because the server rejects
/// such requests in a namespace.
fn request_without_token(path: &str) -> Request {
    with_headers(Request::new(Method::GET, path), None)
}
