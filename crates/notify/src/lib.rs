//! Change notifications over the network, for [Secretwell](https://docs.rs/secretwell).
//!
//! The crate is for services whose secrets must be read again as soon as they have changed, not only after the
//! ttl. A sender notifies the service with a signed HTTP request:
//!
//! - [Infisical](NotifyService::infisical), by a webhook
//! - [any other sender](NotifyService::signed) that can compute an HMAC, such as a CI pipeline that writes to
//!   Vault, or a cloud function that is triggered by EventBridge or Pub/Sub
//!
//! ```
//! use axum::Router;
//! use secretwell::notify::{NotifyHub, NotifyService};
//! use secretwell::{MemoryProvider, Resolver};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), secretwell::Error> {
//! let secrets = MemoryProvider::from_iter([("API_KEY", "k-1"), ("NOTIFY_SECRET", "not a real secret")]);
//! let hub = NotifyHub::new();
//! let resolver = Resolver::new(hub.wrap(secrets));
//!
//! let secret = resolver.get("NOTIFY_SECRET").await?.value;
//! let app: Router = Router::new().route_service("/notify", NotifyService::signed(hub, secret));
//! # Ok(())
//! # }
//! ```
//!
//! A sender in a shell script:
//!
//! ```sh
//! body='{"keys":["API_KEY"]}' time=$(date +%s)
//! code=$(printf '%s.%s' "$time" "$body" | openssl dgst -sha256 -hmac "$NOTIFY_SECRET" -r | cut -d' ' -f1)
//! curl --fail -d "$body" -H "x-secretwell-signature: t=$time,v1=$code" https://service.example/notify
//! ```
//!
//! # Why this shape
//! A notification never carries a value. It only triggers a read, so a forged one could not change a secret,
//! and a lost one delays a change until the ttl. Requests are signed nevertheless, because reads cost the
//! source something.
//!
//! The [`NotifyHub`] lies between both sides. Its [`wrap`](NotifyHub::wrap) returns a
//! [provider](Notified) whose `watch` reports the notifications, so that resolvers need no change. Its
//! [`notify`](NotifyHub::notify) serves senders that do not use HTTP.
//!
//! # Limits
//! - A notification is accepted within 5 minutes of its time, and once. Other processes, and a process that was
//!   restarted, do not know what was received before. A replay there causes one more read.
//! - Each process receives its own notifications. Behind a load balancer, a request reaches only one of them. The
//!   others see the change after the ttl.
//! - Notifications are merged, so that the source is read at most 10 times per second, whatever is sent. The
//!   number of connections is limited by the server that the service runs in.

mod hub;
mod infisical;
mod marks;
mod notified;
mod rejection;
mod replay;
mod secret;
mod service;
mod signature;
mod signed;

pub use hub::NotifyHub;
pub use infisical::InfisicalScope;
pub use notified::Notified;
pub use secret::NotifySecret;
pub use service::NotifyService;

// Services share these types between threads. A change that removes `Send` or `Sync` from one of them must
// not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<InfisicalScope>();
    assert_send_sync::<Notified<secretwell_core::MemoryProvider>>();
    assert_send_sync::<NotifyHub>();
    assert_send_sync::<NotifySecret>();
    assert_send_sync::<NotifyService>();
};

#[cfg(test)]
mod tests {
    //! Helpers of the unit tests.

    use http::{HeaderMap, HeaderName};

    use crate::rejection::Rejection;

    /// The secret of the fixed signatures.
    pub(crate) const SECRET: &str = "notify-signing-secret-0123456789";

    pub(crate) fn headers(name: &str, values: &[&str]) -> HeaderMap {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let values = values
            .iter()
            .map(|value| (name.clone(), value.parse().unwrap()));
        values.collect()
    }

    /// Returns the result with the status of its rejection.
    pub(crate) fn status<T>(result: Result<T, Rejection>) -> Result<T, u16> {
        result.map_err(|rejection| rejection.status.as_u16())
    }
}
