//! Locks of short critical sections.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. No code panics between two writes that belong together, so a panic leaves the data valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
