//! The locks and the atomic integers that the resolver is built on.
//!
//! The concurrency test replaces them by those of shuttle, which tries many interleavings of the threads.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
