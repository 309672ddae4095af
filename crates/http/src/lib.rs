//! What [Secretwell](https://docs.rs/secretwell)'s remote backends share.
//!
//! For authors of backends that speak HTTP. A [`Client`] carries a request to one of several addresses
//! and has the only retry loop; a [`Session`] keeps the token of a login and has the only place that logs
//! in; what a status means is the backend's to say, by a [`Protocol`].
//!
//! ```
//! use http::Method;
//! use secretwell_core::{Error, ErrorKind, Origin};
//! use secretwell_http::{Client, ClientConfig, Protocol, Response, Request, Outcome};
//!
//! /// A server that says everything by its status.
//! #[derive(Debug)]
//! struct Plain;
//!
//! impl Protocol for Plain {
//!     fn classify(&self, response: &Response) -> Outcome {
//!         match response.status.as_u16() {
//!             200 | 404 => Outcome::Success,
//!             503 => Outcome::NextEndpoint(Error::new(ErrorKind::Unavailable, "it is starting")),
//!             _ => Outcome::Fatal(Error::new(ErrorKind::Malformed, "an unknown status")),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let config = ClientConfig::new(["http://127.0.0.1:8200"])?;
//! let client = Client::new(config, Plain, Origin::new("plain", "127.0.0.1:8200"))?;
//! let request = Request::new(Method::GET, "/v1/secret");
//! # let _ = client.send(&request);
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A provider reads and says what it saw. Within one call somebody must choose the address, wait as told,
//! bound what is read, and log in once for a hundred callers: that is here, once, with the deadline over
//! all of it. Whatever spans calls, what is kept and when it is asked for again, is the resolver's.
//!
//! # Limits
//! Bodies are read into buffers that are wiped. The copies that TLS and HTTP made on the way are not ours
//! to wipe.

mod body;
mod client;
mod config;
mod credential;
mod failure;
mod retry;
mod sending;
mod session;
mod tls;
mod url;

pub use client::{Client, Outcome, Protocol, Request, Response};
pub use config::{Address, ClientConfig};
pub use credential::{Credential, json_object};
pub use retry::retry_after;
pub use session::{Login, Token, TokenLease, TokenManager};
pub use url::{UrlOptions, decode, encode, encode_path};

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Client>();
    assert_send_sync::<ClientConfig>();
    assert_send_sync::<Credential>();
    assert_send_sync::<TokenManager>();
};
