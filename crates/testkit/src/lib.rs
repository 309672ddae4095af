//! Tests for secret providers: a conformance suite, a provider that fails on command, and a canary
//! that finds leaked secrets.
//!
//! For authors of backends, who run the suite against their [`SecretProvider`], and for authors of
//! services, who want to see theirs survive trouble. It is test support: its functions panic when
//! something is wrong, and its API may change with any release.
//!
//! | to | use |
//! | --- | --- |
//! | check a provider against the whole contract | [`conformance_tests!`], [`conformance::run_all`] |
//! | let a source fail, hang, lie or be slow, and count its calls | [`FaultyProvider`] |
//! | stand between a remote source and its server, and break what passes | [`FaultProxy`] |
//! | read from Infisical without one, with the feature `infisical` | `infisical::FakeInfisical` |
//! | see that no secret shows in errors, debug output or logs | [`Canary`], [`CanaryLog`] |
//!
//! # Checking a backend
//! Write a [`Harness`]: how to write to the source and how to delete from it. Claim in
//! [`Supports`] what else it can do to the source, such as to break the network; what it cannot do is
//! reported as not applicable.
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use secretwell::{MemoryProvider, SecretKey, SecretProvider};
//! use secretwell_testkit::{Supports, Harness, conformance};
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
//! In a test file, [`conformance_tests!`] makes one test of each item instead.
//!
//! [`SecretProvider`]: secretwell_core::SecretProvider

// Test support: a panic is how it reports, and what it prints is read in a test's output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod canary;
pub mod conformance;
mod faulty;
mod harness;
#[cfg(feature = "infisical")]
pub mod infisical;
mod log;
#[cfg(test)]
mod memory_harness;
mod proxy;

pub use canary::Canary;
pub use faulty::{FaultyProvider, Step};
pub use harness::{Calls, GARBAGE, Harness, Supports};
pub use log::CanaryLog;
pub use proxy::{Fault, FaultProxy};
