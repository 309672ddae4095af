//! [`Reader`], which reads the current build repeatedly.

use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::Cache;

use crate::built::{Current, View, expect_built};
use crate::rebuilder::restart;
use crate::shared::Shared;

/// Long-lived access to the current build, for a task or a connection. Created by
/// [`LazyAuth::reader`](crate::LazyAuth::reader).
///
/// This is the fastest way to read, and every call of [`get`](Self::get) returns the newest build.
/// The reader keeps the build that it returned last alive until the next call. It does not keep the
/// auth alive: after the last clone of the `LazyAuth` is dropped, it returns the last build.
pub struct Reader<A> {
    view: View<A>,
    current: Current<A>,
    shared: Weak<Shared<A>>,
}

impl<A: Send + Sync + 'static> Reader<A> {
    pub(crate) fn new(shared: &Arc<Shared<A>>) -> Option<Self> {
        let current = shared.current.clone();
        let mut view = Cache::new(current.clone());
        view.load().is_some().then_some(Self {
            view,
            current,
            shared: Arc::downgrade(shared),
        })
    }

    /// Returns the current build.
    ///
    /// If the background task of the auth is late, because its runtime is not running, this starts
    /// another one on the runtime of the caller. It does not wait for it.
    pub fn get(&mut self) -> &A {
        if self.current.is_overdue_awake() {
            self.restart();
        }
        &expect_built(self.view.load()).value
    }

    #[cold]
    fn restart(&self) {
        if let Some(shared) = self.shared.upgrade() {
            restart(&shared);
        }
    }
}

impl<A> Clone for Reader<A> {
    fn clone(&self) -> Self {
        Self {
            view: self.view.clone(),
            current: self.current.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<A> fmt::Debug for Reader<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}
