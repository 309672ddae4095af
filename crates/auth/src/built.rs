//! Storage of the current build, and the types that read it without a lock: [`Guard`] and
//! [`Reader`].

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Cache, Guard as SwapGuard};
use thread_local::ThreadLocal;

use crate::Generation;

/// A successful build together with its generation.
pub(crate) struct Built<A> {
    pub(crate) value: A,
    pub(crate) generation: Generation,
}

/// The slot of the current build. It is empty until the first successful build and never becomes
/// empty again.
pub(crate) type Current<A> = Arc<ArcSwapOption<Built<A>>>;

/// A cached view of the current build, owned by one task or thread. It caches the build that it read
/// last.
type View<A> = Cache<Current<A>, Option<Arc<Built<A>>>>;

/// Replaces the current build.
pub(crate) fn publish<A>(current: &Current<A>, value: A, generation: Generation) {
    current.store(Some(Arc::new(Built { value, generation })));
}

/// One [`View`] for each thread. A thread that reads its own view shares only the pointer with other
/// threads.
///
/// The views are type-erased: `ThreadLocal` requires `Send` of its parameter, and a struct that names
/// `View<A>` there would have to require it of `A`.
#[derive(Default)]
pub(crate) struct ThreadViews(ThreadLocal<RefCell<Box<dyn Any + Send>>>);

impl ThreadViews {
    /// Calls `reader` with the current value, or returns `None` before the first build.
    pub(crate) fn with<A, R>(&self, current: &Current<A>, reader: impl FnOnce(&A) -> R) -> Option<R>
    where
        A: Send + Sync + 'static,
    {
        let view = self
            .0
            .get_or(|| RefCell::new(Box::new(View::new(current.clone()))));
        let mut view = view.try_borrow_mut().ok();
        match view
            .as_mut()
            .and_then(|view| view.downcast_mut::<View<A>>())
        {
            Some(view) => view.load().as_ref().map(|built| reader(&built.value)),
            // A reader that calls `with` again finds the view of its thread in use.
            None => Guard::new(current).map(|guard| reader(&guard)),
        }
    }
}

fn expect_built<A>(loaded: &Option<Arc<Built<A>>>) -> &Built<A> {
    match loaded {
        Some(built) => built,
        None => unreachable!("the current build is replaced but never removed"),
    }
}

/// A borrow of the current build. It dereferences to the built value.
///
/// A guard keeps its build alive after a rotation. Drop it soon, and do not keep it across an
/// await. For long-lived access, use a [`Reader`].
pub struct Guard<A>(SwapGuard<Option<Arc<Built<A>>>>);

impl<A> Guard<A> {
    #[inline]
    pub(crate) fn new(current: &Current<A>) -> Option<Self> {
        let loaded = current.load();
        loaded.is_some().then_some(Self(loaded))
    }

    /// Returns the generation of this build.
    pub fn generation(&self) -> Generation {
        expect_built(&self.0).generation
    }
}

impl<A> Deref for Guard<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &expect_built(&self.0).value
    }
}

impl<A> fmt::Debug for Guard<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Long-lived access to the current build, for a task or a connection. Created by
/// [`LazyAuth::reader`](crate::LazyAuth::reader).
///
/// This is the fastest way to read, and every call of [`get`](Self::get) returns the newest build.
/// The reader keeps the build that it returned last alive until the next call.
#[derive(Clone)]
pub struct Reader<A>(View<A>);

impl<A> Reader<A> {
    pub(crate) fn new(current: &Current<A>) -> Option<Self> {
        let mut view = Cache::new(current.clone());
        view.load().is_some().then_some(Self(view))
    }

    /// Returns the current build.
    pub fn get(&mut self) -> &A {
        &expect_built(self.0.load()).value
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
    fn guards_and_readers_return_the_newest_build() {
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

    #[test]
    fn thread_view_follows_the_newest_build() {
        let (current, views) = (Current::default(), ThreadViews::default());
        for (generation, value) in (1..).zip(["one", "two", "three"]) {
            publish(&current, value.to_owned(), generation);
            for _ in 0..2 {
                let read = views.with(&current, |value: &String| value.clone());
                assert_eq!(read.as_deref(), Some(value));
            }
        }
    }

    #[test]
    fn nested_reads_on_one_thread_work_for_many_values() {
        let slots: Vec<(Current<usize>, ThreadViews)> =
            (0..10).map(|_| Default::default()).collect();
        assert_eq!(slots[0].1.with(&slots[0].0, |value| *value), None);
        for (index, (current, _)) in slots.iter().enumerate() {
            publish(current, index, 1);
        }
        for _ in 0..3 {
            for (index, (current, views)) in slots.iter().enumerate() {
                let (other, other_views) = &slots[9 - index];
                let nested = views.with(current, |outer| {
                    let same = views.with(current, |again| *again);
                    (*outer, same, other_views.with(other, |inner| *inner))
                });
                assert_eq!(nested, Some((index, Some(index), Some(9 - index))));
            }
        }
    }
}
