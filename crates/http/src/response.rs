//! The response of a server.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use crate::retry::server_time;

/// A server's response, after its body was read completely.
#[non_exhaustive]
pub struct Response {
    /// The HTTP status, such as 200 or 404.
    pub status: StatusCode,
    /// The HTTP headers. They can contain secrets, so `Debug` omits them.
    pub headers: HeaderMap,
    /// The complete body. The buffer is wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
    /// Whether the response is from a stale replica, because no up-to-date server responded.
    pub stale: bool,
    pub(crate) recognized: bool,
    /// Host and port of the server, if the response was received by this crate.
    pub(crate) authority: Option<Arc<str>>,
}

impl Response {
    /// Creates a response of the backend that is not from a stale replica.
    pub fn new(status: StatusCode, headers: HeaderMap, body: Vec<u8>) -> Self {
        Self {
            status,
            headers,
            body: Zeroizing::new(body),
            stale: false,
            recognized: true,
            authority: None,
        }
    }

    /// Returns whether the backend sent the response. The [`Client`](crate::Client) returns other responses
    /// only for a [probe](crate::Expect::Probe).
    pub fn is_recognized(&self) -> bool {
        self.recognized
    }

    /// Returns the time in the `Date` header, or `None` if the header is missing or invalid.
    pub fn date(&self) -> Option<SystemTime> {
        server_time(&self.headers)
    }
}

/// Makes the wiping of the body ten times faster. `zeroize` wipes the elements of a vector one by one, but its spare
/// capacity at once. The spare capacity of an empty vector is its whole buffer.
impl Drop for Response {
    fn drop(&mut self) {
        self.body.clear();
    }
}

/// Omits headers and body, which might contain secrets.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
