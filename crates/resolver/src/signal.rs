//! The signal from the resolver to one watch.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::task::Waker;

use crate::sync::{Mutex, MutexGuard};

/// Notifies a watch which of its keys might have changed.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changed: BTreeSet<usize>,
    waker: Option<Waker>,
}

impl Signal {
    /// Reports that the key at `position` might have changed, and wakes the watch.
    ///
    /// Must be called without a lock, because a waker is code of the runtime.
    pub(crate) fn send(&self, position: usize) {
        let waker = {
            let mut state = self.lock();
            state.changed.insert(position);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the watch, which then checks the resolver again.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns the positions of the keys that might have changed since the last call. The next signal wakes
    /// `waker`.
    pub(crate) fn take(&self, waker: &Waker) -> BTreeSet<usize> {
        let mut state = self.lock();
        let replaced = state.waker.replace(waker.clone());
        let changed = std::mem::take(&mut state.changed);
        drop(state);
        drop(replaced);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
