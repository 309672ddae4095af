//! What is in service, laid out for reading.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Cache, Guard as SwapGuard};

use crate::Generation;

/// One build.
pub(crate) struct Built<A> {
    pub(crate) value: A,
    pub(crate) generation: Generation,
}

/// Where the build in service stands. Empty until the first one, and never again.
pub(crate) type Current<A> = Arc<ArcSwapOption<Built<A>>>;

/// A task's own view of the current build, with the build that it saw last.
type View<A> = Cache<Current<A>, Option<Arc<Built<A>>>>;

/// Puts a build into service in place of the one before.
pub(crate) fn publish<A>(current: &Current<A>, value: A, generation: Generation) {
    current.store(Some(Arc::new(Built { value, generation })));
}

fn in_service<A>(seen: &Option<Arc<Built<A>>>) -> &Built<A> {
    match seen {
        Some(built) => built,
        None => unreachable!("what is in service is only ever replaced"),
    }
}

/// The build in service, lent out. It keeps that build alive, so hold it briefly and not across an
/// await; a [`Reader`] is for keeping.
pub struct Guard<A>(SwapGuard<Option<Arc<Built<A>>>>);

impl<A> Guard<A> {
    #[inline]
    pub(crate) fn new(current: &Current<A>) -> Option<Self> {
        let seen = current.load();
        seen.is_some().then_some(Self(seen))
    }

    /// Which build it is.
    pub fn generation(&self) -> Generation {
        in_service(&self.0).generation
    }
}

impl<A> Deref for Guard<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &in_service(&self.0).value
    }
}

impl<A> fmt::Debug for Guard<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Access to what is in service for a task or a connection that keeps it: the fastest way to read,
/// and always the newest build. It holds the build that it saw last until it looks again.
#[derive(Clone)]
pub struct Reader<A>(View<A>);

impl<A> Reader<A> {
    pub(crate) fn new(current: &Current<A>) -> Option<Self> {
        let mut view = Cache::new(current.clone());
        view.load().is_some().then_some(Self(view))
    }

    /// The build in service.
    pub fn get(&mut self) -> &A {
        &in_service(self.0.load()).value
    }
}

impl<A> fmt::Debug for Reader<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_and_readers_see_the_newest_build() {
        let current = Current::default();
        assert!(Guard::new(&current).is_none() && Reader::new(&current).is_none());

        publish(&current, "one".to_owned(), 1);
        let mut reader = Reader::new(&current).unwrap();
        for (value, generation) in [("one", 1), ("two", 2)] {
            if generation > 1 {
                publish(&current, value.to_owned(), generation);
            }
            let guard = Guard::new(&current).unwrap();
            assert_eq!((guard.as_str(), guard.generation()), (value, generation));
            assert_eq!(reader.get(), value);
        }
    }
}
