//! Reads of a [`LazyAuth`] that block the calling thread.

use secretwell_core::ErrorKind;
use secretwell_resolver::blocking::block_on_within;

use crate::built::Guard;
use crate::lazy::{LazyAuth, MAX_WAIT_FOR_TASK};
use crate::shared::first_build_in_progress;
use crate::state::NotReady;

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Like [`get`](Self::get), for programs without async code: blocks the calling thread until there is a build,
    /// within the configured deadline.
    ///
    /// The build and its rebuilds run in the
    /// [runtime of blocking calls](secretwell_resolver::blocking#runtime). If the closure of the builder blocks,
    /// wrap its blocking code in `tokio::task::block_in_place`. For other async methods, such as
    /// [`ready`](Self::ready), use [`block_on`](secretwell_resolver::blocking::block_on).
    ///
    /// # Errors
    /// The same as for [`get`](Self::get). Also returns [`NotReady`] within async code, even if there is a build:
    /// use [`get`](Self::get) there.
    pub fn blocking_get(&self) -> Result<Guard<A>, NotReady> {
        let deadline = self.shared().settings.deadline;
        let limit = match self.loaded() {
            Some(_) => deadline.min(MAX_WAIT_FOR_TASK),
            None => deadline,
        };
        block_on_within(limit, self.get_within(deadline)).unwrap_or_else(|error| {
            match error.kind() {
                ErrorKind::Timeout => self.loaded().ok_or_else(first_build_in_progress),
                _ => Err(NotReady::new(vec![error], None)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
