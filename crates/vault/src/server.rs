//! The servers, as one that is asked.

use std::time::SystemTime;

use http::{HeaderValue, Method};
use secretwell_core::Error;
use secretwell_http::{Client, Request, Response};

use crate::auth::REQUEST;
use crate::wire::{self, Index};

/// Whoever answers. Clones share what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    client: Client,
    index: Index,
}

impl Server {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            index: Index::default(),
        }
    }

    /// What time it is there, which it tells whoever asks.
    pub(crate) async fn time(&self) -> Result<SystemTime, Error> {
        self.client.server_time(wire::SEAL_STATUS).await
    }

    /// How far the data goes of those who have answered.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) async fn send(&self, request: &Request) -> Result<Response, Error> {
        match self.client.send(request).await {
            Ok(response) => {
                self.index.note(&response.headers);
                Ok(response)
            }
            Err(error) if wire::is_sealed(&error) => Err(self.why_sealed(error).await),
            Err(error) => Err(error),
        }
    }

    /// A server that was never initialized says that it is sealed, too.
    async fn why_sealed(&self, error: Error) -> Error {
        match self.client.send(&plain(wire::SEAL_STATUS)).await {
            Ok(status) => wire::seal_status(&status).unwrap_or(error),
            Err(_) => error,
        }
    }

    /// What passes a request on to the active server, if it is a standby that answers now.
    pub(crate) async fn past_a_standby(&self) -> Option<HeaderValue> {
        let health = self.client.send(&plain(wire::HEALTH)).await.ok()?;
        wire::ahead_of_standby(&health)
    }
}

/// A request that needs no login, and that is refused in a namespace.
fn plain(path: &str) -> Request {
    Request::new(Method::GET, path).header(REQUEST, HeaderValue::from_static("true"))
}
