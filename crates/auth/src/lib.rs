//! Authentication state that is built from secrets on first use and rebuilt when they rotate. Part
//! of [Secretwell](https://docs.rs/secretwell).
//!
//! This crate is for services that read their secrets at run time. A struct names the secrets, and
//! a closure builds a value from them: a JWT verifier, a cookie key, a session codec or a database
//! pool. [`LazyAuth`] calls the closure on first use and again after each rotation:
//!
//! ```
//! use secretwell::auth::{LazyAuth, Mode};
//! use secretwell::{MemoryProvider, Resolver, SecretString};
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
//! let memory = MemoryProvider::from_iter([(
//!     "AUTH_SECRET",
//!     "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
//! )]);
//! let auth = LazyAuth::new(Resolver::new(memory), |secrets: Secrets, _| async move {
//!     Ok(Signer(secrets.auth_secret))
//! });
//!
//! // Optional, at start-up or in CI: check the secrets without a build.
//! let report = auth.preflight(Mode::Production).await;
//! assert!(report.is_ready(), "{report}");
//!
//! // In a request handler: the first call starts the build, later calls return it.
//! let signer = auth.get().await?;
//! # let _: &Signer = &signer;
//! # Ok(())
//! # }
//! ```
//!
//! # Why this shape
//! A service that reads its secrets once at start-up fails if they arrive later, and it never uses
//! a rotated secret. Moving the read into the first request is not enough. If the secret is absent at
//! that time, the service stays broken. If it exists, it is stored and never rotates.
//!
//! A [`LazyAuth`] therefore stores how to build the value, and the current build. A background task
//! replaces the build when the value of a secret changes. Construction never fails. A use without a
//! build returns [`NotReady`] with every problem.
//!
//! Secrets are checked by each build, and earlier by [`LazyAuth::preflight`]. The [`Mode`] sets how
//! strict the checks are. The result is a [`State`]. Each change of the state is one event in the
//! log, which contains versions and origins but no secret values.
//!
//! | task | API |
//! | --- | --- |
//! | read the value in a request | [`LazyAuth::get`] |
//! | read the value without waiting | [`LazyAuth::try_get`], [`LazyAuth::with`], [`Reader`] |
//! | read the value without async code | `LazyAuth::blocking_get`, feature `blocking` |
//! | wait for the first build | [`LazyAuth::ready`] |
//! | authenticate in an axum handler | `Auth<T>` and `LazyAuth::provide`, feature `axum` |
//! | reject requests before the handler | `LazyAuth::require`, feature `tower` |
//! | respond to rejected requests in an own format | `map_rejections`, feature `tower` |
//! | sign and verify during a rotation | [`BuildContext::key_ring`], [`LazyAuthBuilder::signing`] |
//! | revoke secrets after a leak | [`LazyAuth::revoke_previous`], [`LazyAuthBuilder::revocation_key`] |
//! | observe the state | [`LazyAuth::state`], [`LazyAuth::watch_state`] |
//! | respond to the probes of an orchestrator | [`Probes`] |
//! | check the secrets in advance | [`LazyAuth::preflight`] |
//! | share the sessions of a JavaScript application | `sessions`, features `authjs` and `betterauth` |
//! | cookies with several keys | `cookies`, feature `cookies` |
//! | refuse known secrets | `LazyAuthBuilder::refuse_list`, feature `refuse-list` |
//!
//! This crate does not depend on a backend. It reads secrets through a
//! [`Resolver`](secretwell_resolver::Resolver).

#![cfg_attr(secretwell_docs, feature(doc_cfg))]

mod attempt_span;
#[cfg(feature = "axum")]
mod axum;
mod backoff;
#[cfg(feature = "blocking")]
mod blocking;
mod build;
mod built;
mod config;
mod context;
#[cfg(feature = "cookies")]
pub mod cookies;
mod decide;
mod hex;
mod history;
mod history_reads;
mod key_ring;
mod lazy;
#[cfg(feature = "tower")]
mod map_rejections;
mod mode;
mod newer;
mod panics;
mod policy;
mod preflight;
#[cfg(feature = "tower")]
mod principal;
#[cfg(feature = "tower")]
mod probe_service;
mod progress;
mod pulse;
mod reader;
mod readiness;
mod rebuilder;
mod refresh;
#[cfg(feature = "tower")]
mod rejection;
#[cfg(feature = "metrics")]
mod report;
mod revocation;
mod ring;
mod runtime;
mod scrub;
mod secret_list;
#[cfg(feature = "tower")]
mod session_use;
#[cfg(any(feature = "authjs", feature = "betterauth"))]
pub mod sessions;
mod shared;
mod source;
mod spec;
mod state;
mod strength;
#[cfg(feature = "tower")]
mod tower;

pub use built::Guard;
pub use config::LazyAuthBuilder;
pub use context::{BuildContext, BuildError};
pub use key_ring::KeyRing;
pub use lazy::{Get, LazyAuth};
#[cfg(feature = "tower")]
pub use map_rejections::{RejectionLayer, RejectionService, map_rejections};
pub use mode::Mode;
pub use policy::SecretPolicy;
pub use preflight::{Check, PreflightOptions, PreflightReport, Status};
#[cfg(feature = "tower")]
pub use principal::{Auth, Principal};
#[cfg(feature = "tower")]
pub use probe_service::ProbeService;
pub use progress::StateWatch;
pub use reader::Reader;
pub use readiness::{AuthReadiness, Probes, Problem, Readiness};
#[cfg(feature = "tower")]
pub use rejection::Rejection;
pub use state::{Generation, NotReady, State, VersionHistory};
#[cfg(feature = "refuse-list")]
pub use strength::RefuseList;
pub use strength::Weakness;
#[cfg(feature = "tower")]
pub use tower::{LazyService, ProvideLayer, ProvideService, RequireLayer, RequireService};

// Services share these types between threads, so they must stay `Send` and `Sync`.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<BuildContext>();
    assert_send_sync::<BuildError>();
    assert_send_sync::<Guard<()>>();
    assert_send_sync::<KeyRing>();
    assert_send_sync::<LazyAuth<()>>();
    assert_send_sync::<LazyAuthBuilder>();
    assert_send_sync::<NotReady>();
    assert_send_sync::<PreflightOptions>();
    assert_send_sync::<PreflightReport>();
    assert_send_sync::<Probes>();
    assert_send_sync::<Reader<()>>();
    assert_send_sync::<Readiness>();
    assert_send_sync::<State>();
    assert_send_sync::<StateWatch>();
    #[cfg(feature = "refuse-list")]
    assert_send_sync::<RefuseList>();
    #[cfg(feature = "tower")]
    {
        assert_send_sync::<LazyService<()>>();
        assert_send_sync::<ProbeService>();
        assert_send_sync::<ProvideLayer<()>>();
        assert_send_sync::<ProvideService<(), ()>>();
        assert_send_sync::<Rejection>();
        assert_send_sync::<RejectionLayer<()>>();
        assert_send_sync::<RejectionService<(), ()>>();
        assert_send_sync::<RequireLayer<(), ()>>();
        assert_send_sync::<RequireService<(), (), ()>>();
    }
    #[cfg(feature = "authjs")]
    {
        assert_send_sync::<sessions::authjs::CsrfTokens>();
        assert_send_sync::<sessions::authjs::Sessions>();
        assert_send_sync::<sessions::authjs::SessionTokens>();
    }
    #[cfg(feature = "betterauth")]
    {
        assert_send_sync::<sessions::betterauth::BetterAuthSecrets>();
        assert_send_sync::<sessions::betterauth::SessionCache>();
        assert_send_sync::<sessions::betterauth::Sessions>();
        assert_send_sync::<sessions::betterauth::TokenSigner>();
    }
    #[cfg(feature = "cookies")]
    {
        assert_send_sync::<cookies::CookieKeys>();
        assert_send_sync::<cookies::CookieLayer>();
        assert_send_sync::<cookies::CookieService<cookies::CookieKeys, ()>>();
    }
    #[cfg(all(feature = "cookies", feature = "axum"))]
    assert_send_sync::<cookies::RingJar<cookies::Signed>>();
    #[cfg(all(any(feature = "authjs", feature = "betterauth"), feature = "tower"))]
    {
        assert_send_sync::<sessions::SessionExchange<()>>();
        assert_send_sync::<sessions::SessionLayer<()>>();
        assert_send_sync::<sessions::SessionService<(), ()>>();
        assert_send_sync::<sessions::SignIn>();
    }
};
