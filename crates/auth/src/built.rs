//! What is in service, laid out for reading.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Cache, Guard as SwapGuard};

use crate::Generation;

/// How many different auths a thread keeps a copy of.
const COPIES: usize = 4;

/// One build.
pub(crate) struct Built<A> {
    pub(crate) value: A,
    pub(crate) generation: Generation,
    /// Tells this build from every other of the process.
    stamp: u64,
}

impl<A> Built<A> {
    pub(crate) fn new(value: A, generation: Generation) -> Self {
        static STAMPS: AtomicU64 = AtomicU64::new(1);
        Self {
            value,
            generation,
            stamp: STAMPS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Where the build in service stands.
pub(crate) struct Stage<A> {
    /// Empty until the first build.
    current: OnceLock<Arc<ArcSwap<Built<A>>>>,
    /// The stamp of the current build, 0 before there is one.
    stamp: AtomicU64,
    /// Where each thread keeps its copy.
    place: usize,
}

impl<A> Stage<A> {
    pub(crate) fn new() -> Self {
        static STAGES: AtomicUsize = AtomicUsize::new(0);
        let place = STAGES.fetch_add(1, Ordering::Relaxed) % COPIES;
        Self {
            current: OnceLock::new(),
            stamp: AtomicU64::new(0),
            place,
        }
    }

    pub(crate) fn load(&self) -> Option<Guard<A>> {
        self.current.get().map(|current| Guard(current.load()))
    }

    pub(crate) fn handle(&self) -> Option<Handle<A>> {
        self.current
            .get()
            .map(|current| Handle(Cache::new(current.clone())))
    }
}

impl<A: Send + Sync + 'static> Stage<A> {
    /// Puts `built` into service in place of what was there.
    pub(crate) fn publish(&self, built: Built<A>) {
        let (stamp, built) = (built.stamp, Arc::new(built));
        let first = self
            .current
            .get_or_init(|| Arc::new(ArcSwap::new(built.clone())));
        first.store(built);
        self.stamp.store(stamp, Ordering::Release);
    }

    /// Hands the build in service to `reader`, from the thread's own copy where that is current.
    pub(crate) fn with<R>(&self, reader: impl FnOnce(&A) -> R) -> Option<R> {
        let stamp = self.stamp.load(Ordering::Acquire);
        if stamp == 0 {
            return None;
        }
        let mut reader = Some(reader);
        let read = with_copy(self.place, stamp, |built| {
            reader.take().map(|reader| reader(built))
        });
        if let Some(Some(result)) = read {
            return Some(result);
        }
        let reader = reader?;
        let built = self.current.get()?.load_full();
        keep_copy(self.place, built.stamp, built.clone());
        Some(reader(&built.value))
    }
}

type Copies = [Option<(u64, Arc<dyn Any + Send + Sync>)>; COPIES];

thread_local! {
    /// Copies of what is in service. Reading one costs no shared cache line but the stamp's.
    static THREAD: RefCell<Copies> = const { RefCell::new([const { None }; COPIES]) };
}

/// Hands the thread's copy to `reader`, if there is one with that stamp and it is not being replaced.
fn with_copy<A: 'static, R>(place: usize, stamp: u64, reader: impl FnOnce(&A) -> R) -> Option<R> {
    THREAD
        .try_with(|copies| {
            let copies = copies.try_borrow().ok()?;
            let (kept, copy) = copies[place].as_ref()?;
            let built: &Built<A> = copy.downcast_ref().filter(|_| *kept == stamp)?;
            Some(reader(&built.value))
        })
        .ok()
        .flatten()
}

fn keep_copy(place: usize, stamp: u64, built: Arc<dyn Any + Send + Sync>) {
    let before = THREAD.try_with(|copies| {
        let mut copies = copies.try_borrow_mut().ok()?;
        copies[place].replace((stamp, built))
    });
    // Dropped here, outside of the borrow: the last copy may run any code as it goes.
    drop(before);
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
pub struct Handle<A>(Cache<Arc<ArcSwap<Built<A>>>, Arc<Built<A>>>);

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

        stage.publish(Built::new("one".to_owned(), 1));
        let mut handle = stage.handle().unwrap();
        for (value, generation) in [("one", 1), ("two", 2)] {
            if generation > 1 {
                stage.publish(Built::new(value.to_owned(), generation));
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
            stage.publish(Built::new(index, 1));
        }
        for _ in 0..3 {
            for (index, stage) in stages.iter().enumerate() {
                let nested = stage.with(|outer| stages[9 - index].with(|inner| (*outer, *inner)));
                assert_eq!(nested.flatten(), Some((index, 9 - index)));
            }
        }
    }
}
