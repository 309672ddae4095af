//! The HTTP client, retry loop and login handling that
//! [Secretwell](https://docs.rs/secretwell)'s remote backends share.
//!
//! This crate is for authors of backends that speak HTTP.
//!
//! - A [`Client`] sends a request to one of several addresses. It contains the only retry loop.
//! - A [`TokenManager`] caches and renews the token of a login. It is the only place that logs in.
//! - A [`Protocol`] is implemented by the backend. It decides which responses are from the backend, and what
//!   they mean. A response of a gateway is never a success, an absence or a refusal.
//!
//! ```
//! use http::Method;
//! use secretwell_core::{Error, ErrorKind, Origin};
//! use secretwell_http::{Client, ClientConfig, Outcome, Protocol, Request, Response, has_member};
//!
//! /// A server whose responses are JSON objects with a secret or an error.
//! #[derive(Debug)]
//! struct Example;
//!
//! impl Protocol for Example {
//!     fn server(&self) -> &'static str {
//!         "the example server"
//!     }
//!
//!     fn recognizes(&self, _: &Request, response: &Response) -> bool {
//!         has_member(&response.body, &["secret", "error"])
//!     }
//!
//!     fn classify(&self, _: &Request, response: &Response) -> Outcome {
//!         match response.status.as_u16() {
//!             200 | 404 => Outcome::Success,
//!             503 => Outcome::NextEndpoint(Error::new(ErrorKind::Unavailable, "it is starting")),
//!             _ => Outcome::Fatal(Error::new(ErrorKind::Malformed, "an unknown status")),
//!         }
//!     }
//! }
//!
//! # async fn example() -> Result<(), Error> {
//! let config = ClientConfig::new(["http://127.0.0.1:8200"])?;
//! let client = Client::new(config, Example, Origin::new("plain", "127.0.0.1:8200"))?;
//! let request = Request::new(Method::GET, "/v1/secret");
//! let response = client.send(&request).await?;
//! println!("{}", response.status);
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A provider makes single calls and returns what the server reported. Each call needs the same work:
//! choose an address, honour `Retry-After`, limit the size of the response, and share one login between
//! concurrent callers. This crate does that work once, under one deadline per call. Work that spans
//! several calls, such as caching and refreshing, belongs to the resolver.
//!
//! # Limits
//! Response bodies are read into buffers that are wiped on drop. The TLS and HTTP libraries make copies
//! of their own, which this crate cannot wipe.

mod aws;
mod body;
mod client;
mod config;
mod credential;
mod endpoint;
mod error;
mod failure;
mod json;
mod login_body;
mod names;
mod protocol;
mod proxy;
mod recognition;
#[cfg(test)]
mod redaction;
mod request;
mod response;
mod retry;
mod send;
mod servers;
mod tls;
mod token;
mod url;

pub use aws::{AwsCredentials, AwsIdentity, AwsKeys, AwsProof, AwsSigner};
pub use client::Client;
pub use config::{Address, CLIENT_OPTIONS, ClientConfig};
pub use credential::{Credential, trim_setting};
pub use json::json_object;
pub use login_body::LoginBody;
pub use protocol::{Outcome, Protocol};
pub use recognition::{foreign_response, has_member, parse_object};
pub use request::{Expect, Request};
pub use response::Response;
pub use retry::retry_after;
pub use token::{Login, LoginFailure, Token, TokenLease, TokenManager};
pub use url::{UrlOptions, decode, encode, encode_path, parse_flag};

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them must
// not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Client>();
    assert_send_sync::<ClientConfig>();
    assert_send_sync::<Credential>();
    assert_send_sync::<TokenManager>();
};
