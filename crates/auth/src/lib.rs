//! Authentication built lazily from secrets, and built anew when they rotate; part of
//! [Secretwell](https://docs.rs/secretwell).
//!
//! For services whose secrets arrive at run time. Whatever they authenticate with, a JWT verifier, a
//! cookie key, a session codec, a database pool, is described once, by a struct of secrets and a closure,
//! and is there when it is needed:
//!
//! ```
//! use secrecy::SecretString;
//! use secretwell::auth::{LazyAuth, Mode};
//! use secretwell::{MemoryProvider, Resolver};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
//! struct Secrets {
//!     auth_secret: SecretString,
//! }
//!
//! struct Signer(SecretString);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = MemoryProvider::from_iter([("AUTH_SECRET", "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=")]);
//! let auth = LazyAuth::infallible(Resolver::new(memory), |s: Secrets, _| Signer(s.auth_secret));
//!
//! // At start-up, in a test, in CI: what would a start find?
//! let report = auth.preflight(Mode::Production).await;
//! assert!(report.is_ready(), "{report}");
//!
//! // In a request: the first one starts it, the others find it there.
//! let signer = auth.get().await?;
//! # let _: &Signer = &signer;
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! An eager start fails when the secrets are late, and where it runs at load time it fails for the life of
//! the process. Deferring the call is half a cure: what captured an absent secret stays broken, and what
//! captured a present one never sees the next. So a [`LazyAuth`] holds the *spec*, keeps what was made by
//! it in one place that readers borrow from, and has one task that makes it anew when a secret's value
//! changes. Construction cannot fail; use can, and says why.
//!
//! Critical configuration is checked twice: by [`LazyAuth::preflight`] as early as you like, and at each
//! build. [`Mode`] says how strictly. Where it stands is one [`State`], and each change of it one event in
//! the log, with the secrets' versions and sources and never their values.
//!
//! | to | use |
//! | --- | --- |
//! | use it in a request | [`LazyAuth::get`], or [`LazyAuth::with`] where nanoseconds count |
//! | guard an axum handler | `Auth<T>` and `LazyAuth::layer`, features `axum` and `tower` |
//! | sign and verify over a rotation | [`BuildContext::key_ring`], [`LazyAuth::revoke_previous`] |
//! | know how it stands | [`LazyAuth::state`], [`LazyAuth::watch_state`] |
//! | know beforehand | [`LazyAuth::preflight`] |
//!
//! This crate knows no backend: it takes a [`Resolver`](secretwell_resolver::Resolver).

#[cfg(feature = "authjs")]
pub mod authjs;
#[cfg(feature = "axum")]
mod axum;
mod built;
mod config;
mod context;
mod hex;
mod history;
mod lazy;
mod mode;
mod policy;
mod preflight;
mod rebuilder;
#[cfg(feature = "tower")]
mod rejection;
mod ring;
mod scrub;
mod spec;
mod state;
#[cfg(feature = "tower")]
mod tower;

#[cfg(feature = "axum")]
pub use axum::{Auth, Principal};
pub use built::{Guard, Reader};
pub use config::LazyAuthBuilder;
pub use context::{BuildContext, BuildError};
pub use lazy::{Get, LazyAuth, StateWatch};
pub use mode::Mode;
pub use policy::SecretPolicy;
pub use preflight::{Check, PreflightReport, Status};
#[cfg(feature = "tower")]
pub use rejection::Rejection;
pub use ring::KeyRing;
pub use state::{Generation, NotReady, State};
#[cfg(feature = "tower")]
pub use tower::{AuthLayer, AuthService, LazyService};

// A service shares these types between threads, so a change that makes one of them thread-bound must not
// compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<BuildContext>();
    assert_send_sync::<BuildError>();
    assert_send_sync::<Guard<()>>();
    assert_send_sync::<KeyRing>();
    assert_send_sync::<LazyAuth<()>>();
    assert_send_sync::<LazyAuthBuilder>();
    assert_send_sync::<NotReady>();
    assert_send_sync::<PreflightReport>();
    assert_send_sync::<Reader<()>>();
    assert_send_sync::<State>();
    assert_send_sync::<StateWatch>();
};
