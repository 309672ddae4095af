//! Test support for [Secretwell](https://docs.rs/secretwell): a conformance suite for secret
//! providers, a provider that fails on command, and a canary that finds leaked secrets.
//!
//! The crate is for two groups of developers:
//!
//! - Authors of backends run the conformance suite against their [`SecretProvider`].
//! - Authors of services test how their service behaves when a source is late, fails or rotates a
//!   secret.
//!
//! Add it to `[dev-dependencies]`. Its functions panic when a check fails. Its API can change with any
//! release.
//!
//! | task | item |
//! | --- | --- |
//! | test a service with secrets that it sets, rotates and makes unreachable | [`Fixture`], [`await_ready`] |
//! | check a provider against the whole contract | [`conformance_tests!`], [`conformance::run_all`] |
//! | make a source fail, hang or respond slowly, and count its calls | [`FaultyProvider`] |
//! | break the traffic between a client and an HTTP server | [`FaultProxy`] |
//! | respond like a gateway, a firewall or a sign-in page | [`gateway_responses`] |
//! | run a fake Infisical server (feature `infisical`) | `infisical::FakeInfisical` |
//! | check that errors, debug output and logs contain no secret | [`Canary`], [`CanaryLog`] |
//!
//! # Checking a backend
//! Implement [`Harness`]: it writes secrets to your source and deletes them. [`Supports`] lists what
//! else the harness can do, such as breaking the network. A test that needs an ability which the
//! harness does not have is reported as not applicable.
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use secretwell::{MemoryProvider, SecretKey, SecretProvider};
//! use secretwell_testkit::{Harness, Supports, conformance};
//!
//! struct Memory(Arc<MemoryProvider>);
//!
//! #[async_trait]
//! impl Harness for Memory {
//!     fn provider(&self) -> Arc<dyn SecretProvider> {
//!         self.0.clone()
//!     }
//!
//!     async fn seed(&self, key: &SecretKey, value: &[u8]) {
//!         self.0.set(key, value).unwrap();
//!     }
//!
//!     async fn delete(&self, key: &SecretKey) {
//!         self.0.remove(key).unwrap();
//!     }
//!
//!     fn supports(&self) -> Supports {
//!         Supports { binary_values: true, empty_values: true, ..Supports::default() }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let report = conformance::run_all(async || Memory(Arc::default())).await;
//! println!("{report}");
//! report.assert_passed();
//! # }
//! ```
//!
//! In a test file, [`conformance_tests!`] generates one `#[test]` for each item instead.
//!
//! # Why this shape
//! The contract is executable: each of its items is one public function. Third-party backends run the
//! same functions as the backends of Secretwell, so a [`Resolver`] can rely on all of them equally.
//!
//! [`Resolver`]: https://docs.rs/secretwell/latest/secretwell/struct.Resolver.html
//! [`SecretProvider`]: secretwell_core::SecretProvider

#![cfg_attr(secretwell_docs, feature(doc_cfg))]
// Test support reports failures by panicking and prints its results to the output of the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod canary;
pub mod conformance;
mod faulty;
mod fixture;
mod gateway;
mod harness;
#[cfg(feature = "infisical")]
pub mod infisical;
mod log;
#[cfg(test)]
mod memory_harness;
mod proxy;

pub use canary::Canary;
pub use faulty::{Action, FaultyProvider};
pub use fixture::{Fixture, await_ready};
pub use gateway::{ForeignResponse, gateway_responses};
pub use harness::{CORRUPT_MARKER, Calls, Harness, Supports};
pub use log::CanaryLog;
pub use proxy::{Fault, FaultProxy};

// Tests share these types between threads. A change that prevents this must not compile.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Canary>();
    assert_send_sync::<CanaryLog>();
    assert_send_sync::<Fixture>();
    assert_send_sync::<FaultProxy>();
    assert_send_sync::<FaultyProvider<secretwell_core::MemoryProvider>>();
    #[cfg(feature = "infisical")]
    assert_send_sync::<infisical::FakeInfisical>();
    #[cfg(feature = "infisical")]
    assert_send_sync::<infisical::FakeProject>();
};
