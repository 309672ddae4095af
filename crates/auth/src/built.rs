//! What is in service, laid out for reading.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Cache, Guard as SwapGuard};
use thread_local::ThreadLocal;

use crate::Generation;

/// One build.
pub(crate) struct Built<A> {
    pub(crate) value: A,
    pub(crate) generation: Generation,
}

/// Where the build in service stands. Empty until the first one.
pub(crate) struct Stage<A: Send + Sync>(OnceLock<Place<A>>);

struct Place<A: Send + Sync> {
    current: Arc<ArcSwap<Built<A>>>,
    /// What each thread saw last. Reading one's own costs no shared cache line but the pointer's.
    seen: ThreadLocal<RefCell<Seen<A>>>,
}

type Seen<A> = Cache<Arc<ArcSwap<Built<A>>>, Arc<Built<A>>>;

impl<A: Send + Sync> Stage<A> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn load(&self) -> Option<Guard<A>> {
        self.0.get().map(|place| Guard(place.current.load()))
    }

    pub(crate) fn handle(&self) -> Option<Handle<A>> {
        self.0.get().map(|place| Handle(place.look()))
    }
}

impl<A: Send + Sync> Stage<A> {
    /// Puts a build into service in place of what was there.
    pub(crate) fn publish(&self, value: A, generation: Generation) {
        let built = Arc::new(Built { value, generation });
        let place = self.0.get_or_init(|| Place {
            current: Arc::new(ArcSwap::new(built.clone())),
            seen: ThreadLocal::new(),
        });
        place.current.store(built);
    }

    /// Hands the build in service to `reader`.
    pub(crate) fn with<R>(&self, reader: impl FnOnce(&A) -> R) -> Option<R> {
        let place = self.0.get()?;
        let seen = place.seen.get_or(|| RefCell::new(place.look()));
        // A reader that reads again finds its thread's own taken.
        Some(match seen.try_borrow_mut() {
            Ok(mut seen) => reader(&seen.load().value),
            Err(_) => reader(&place.current.load().value),
        })
    }
}

impl<A: Send + Sync> Place<A> {
    fn look(&self) -> Seen<A> {
        Cache::new(self.current.clone())
    }
}

/// The build in service, lent out. It keeps that build alive, so hold it briefly and not across an
/// await; a [`Handle`] is for keeping.
pub struct Guard<A>(SwapGuard<Arc<Built<A>>>);

impl<A> Guard<A> {
    /// Which build it is.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }
}

impl<A> Deref for Guard<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0.value
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
pub struct Handle<A>(Seen<A>);

impl<A> Handle<A> {
    /// The build in service.
    pub fn get(&mut self) -> &A {
        &self.0.load().value
    }
}

impl<A> fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_read_sees_the_newest_build() {
        let stage = Stage::new();
        assert!(stage.load().is_none() && stage.handle().is_none());
        assert_eq!(stage.with(|value: &String| value.clone()), None);

        stage.publish("one".to_owned(), 1);
        let mut handle = stage.handle().unwrap();
        for (value, generation) in [("one", 1), ("two", 2)] {
            if generation > 1 {
                stage.publish(value.to_owned(), generation);
            }
            assert_eq!(&*stage.load().unwrap(), value);
            assert_eq!(stage.load().unwrap().generation(), generation);
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
