//! What is in service, laid out for reading.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Cache, Guard as SwapGuard};
use thread_local::ThreadLocal;

use crate::Generation;

/// One build.
pub(crate) struct Built<A> {
    pub(crate) value: A,
    pub(crate) generation: Generation,
}

/// Where the build in service stands. Empty until the first one, and never again.
pub(crate) type Current<A> = Arc<ArcSwapOption<Built<A>>>;

/// A thread's or a task's own look at it, with what was seen last.
type Look<A> = Cache<Current<A>, Option<Arc<Built<A>>>>;

/// The build in service, and what each thread saw of it last: reading one's own costs no shared
/// cache line but the pointer's.
pub(crate) struct Stage<A: Send + Sync> {
    pub(crate) current: Current<A>,
    looks: ThreadLocal<RefCell<Look<A>>>,
}

impl<A: Send + Sync> Stage<A> {
    pub(crate) fn new() -> Self {
        Self {
            current: Arc::default(),
            looks: ThreadLocal::new(),
        }
    }

    /// Puts a build into service in place of what was there.
    pub(crate) fn publish(&self, value: A, generation: Generation) {
        self.current
            .store(Some(Arc::new(Built { value, generation })));
    }

    /// Hands the build in service to `reader`.
    pub(crate) fn with<R>(&self, reader: impl FnOnce(&A) -> R) -> Option<R> {
        let own = || RefCell::new(Cache::new(self.current.clone()));
        match self.looks.get_or(own).try_borrow_mut() {
            Ok(mut look) => look.load().as_ref().map(|built| reader(&built.value)),
            // A reader that reads again finds its thread's own taken.
            Err(_) => Guard::new(&self.current).map(|guard| reader(&guard)),
        }
    }
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
pub struct Reader<A>(Look<A>);

impl<A> Reader<A> {
    pub(crate) fn new(current: &Current<A>) -> Option<Self> {
        let mut look = Cache::new(current.clone());
        look.load().is_some().then_some(Self(look))
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
    fn every_way_to_read_sees_the_newest_build() {
        let stage = Stage::new();
        assert!(Guard::new(&stage.current).is_none() && Reader::new(&stage.current).is_none());
        assert_eq!(stage.with(|value: &String| value.clone()), None);

        stage.publish("one".to_owned(), 1);
        let mut handle = Reader::new(&stage.current).unwrap();
        for (value, generation) in [("one", 1), ("two", 2)] {
            if generation > 1 {
                stage.publish(value.to_owned(), generation);
            }
            assert_eq!(&*Guard::new(&stage.current).unwrap(), value);
            assert_eq!(Guard::new(&stage.current).unwrap().generation(), generation);
            assert_eq!(stage.with(|v| v.clone()).as_deref(), Some(value));
            assert_eq!(
                stage.with(|v| v.clone()).as_deref(),
                Some(value),
                "from the copy"
            );
            assert_eq!(handle.get(), value);
        }
    }

    #[test]
    fn readers_nest_and_many_auths_share_a_thread() {
        let stages: Vec<Stage<usize>> = (0..10).map(|_| Stage::new()).collect();
        for (index, stage) in stages.iter().enumerate() {
            stage.publish(index, 1);
        }
        for _ in 0..3 {
            for (index, stage) in stages.iter().enumerate() {
                let nested = stage.with(|outer| stages[9 - index].with(|inner| (*outer, *inner)));
                assert_eq!(nested.flatten(), Some((index, 9 - index)));
            }
        }
    }
}
