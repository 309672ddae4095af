//! Storage of the current build, and [`Guard`], which reads it without a lock.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Cache, Guard as SwapGuard};
use secretwell_resolver::clock::{self, Time};
use thread_local::ThreadLocal;
use tokio::time::Instant;

use crate::state::Generation;

/// A successful build together with its generation.
pub(crate) struct Built<A> {
    pub(crate) value: A,
    pub(crate) generation: Generation,
    built_at: Instant,
}

/// The slot of the current build, with the time by which the rebuild task acts.
///
/// The slot is empty until the first successful build and never becomes empty again. Clones share it.
pub(crate) struct Current<A>(Arc<Slot<A>>);

/// The build and the time are in one allocation, because every read needs both.
struct Slot<A> {
    build: ArcSwapOption<Built<A>>,
    /// The time of the coarse clock at which the rebuild task is overdue.
    due: AtomicI64,
}

/// A cached view of the current build, owned by one task or thread. It caches the build that it read
/// last.
pub(crate) type View<A> = Cache<Current<A>, Option<Arc<Built<A>>>>;

impl<A> Current<A> {
    /// Replaces the current build and returns the previous one. Dropping it can run user code, so the
    /// caller must not hold a lock.
    #[must_use = "the previous build must be dropped without a lock"]
    pub(crate) fn replace(&self, value: A, generation: Generation) -> Option<Arc<Built<A>>> {
        self.0.build.swap(Some(Arc::new(Built {
            value,
            generation,
            built_at: Instant::now(),
        })))
    }

    /// Returns the generation of the current build, or 0 before the first build.
    pub(crate) fn generation(&self) -> Generation {
        let build = self.0.build.load();
        build.as_ref().map_or(0, |built| built.generation)
    }

    /// Returns whether the rebuild task has ended or is late, because its runtime is not running or because the
    /// machine was suspended.
    #[inline]
    pub(crate) fn is_overdue(&self) -> bool {
        clock::coarse_and_suspension() > self.due()
    }

    /// Like [`is_overdue`](Self::is_overdue), but does not notice a suspension of the machine, which saves 5 ns.
    #[inline]
    pub(crate) fn is_overdue_awake(&self) -> bool {
        clock::coarse() > self.due()
    }

    #[inline]
    fn due(&self) -> Time {
        Time::from_nanos(self.0.due.load(Ordering::Relaxed))
    }

    /// Records that the rebuild task acts within `time`, or that no reader needs to start it.
    pub(crate) fn expect_within(&self, time: Duration) {
        let due = clock::coarse().after(time);
        self.0.due.store(due.to_nanos(), Ordering::Relaxed);
    }

    /// Records that a caller needs the rebuild task within `time`, unless it acts earlier anyway.
    pub(crate) fn expect_at_most(&self, time: Duration) {
        let due = clock::coarse().after(time);
        self.0.due.fetch_min(due.to_nanos(), Ordering::Relaxed);
    }

    /// Returns the time until the rebuild task is overdue.
    pub(crate) fn due_in(&self) -> Duration {
        self.due().since(clock::coarse())
    }

    /// Records that the rebuild task has ended, so that the next reader starts another one.
    pub(crate) fn expect_now(&self) {
        self.0.due.store(Time::MIN.to_nanos(), Ordering::Relaxed);
    }
}

/// Whether the rebuild task of an auth is late, for code that does not know the type of the build.
pub(crate) trait Lateness {
    fn is_overdue(&self) -> bool;
}

impl<A> Lateness for Current<A> {
    fn is_overdue(&self) -> bool {
        Current::is_overdue(self)
    }
}

impl<A> Deref for Current<A> {
    type Target = ArcSwapOption<Built<A>>;

    fn deref(&self) -> &Self::Target {
        &self.0.build
    }
}

impl<A> Clone for Current<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> Default for Current<A> {
    fn default() -> Self {
        Self(Arc::new(Slot {
            build: ArcSwapOption::empty(),
            due: AtomicI64::new(i64::MAX),
        }))
    }
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

pub(crate) fn expect_built<A>(loaded: &Option<Arc<Built<A>>>) -> &Built<A> {
    match loaded {
        Some(built) => built,
        None => unreachable!("the current build is replaced but never removed"),
    }
}

/// A borrow of the current build. It dereferences to the built value.
///
/// A guard keeps its build alive after a rotation. Drop it soon, and do not keep it across an
/// await. For long-lived access, use a [`Reader`](crate::Reader).
///
/// A guard has no methods of its own, so that it hides none of the built value.
pub struct Guard<A>(SwapGuard<Option<Arc<Built<A>>>>);

impl<A> Guard<A> {
    #[inline]
    pub(crate) fn new(current: &Current<A>) -> Option<Self> {
        let loaded = current.load();
        loaded.is_some().then_some(Self(loaded))
    }

    /// Returns the generation of the build of `guard`.
    ///
    /// This is an associated function. Call it as `Guard::generation(&guard)`.
    pub fn generation(guard: &Self) -> Generation {
        expect_built(&guard.0).generation
    }

    /// Returns the time since the build of `guard` replaced the previous one.
    pub(crate) fn age(guard: &Self) -> Duration {
        expect_built(&guard.0).built_at.elapsed()
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
            .field("generation", &Self::generation(self))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish<A>(current: &Current<A>, value: A, generation: Generation) {
        drop(current.replace(value, generation));
    }

    #[test]
    fn guard_returns_the_newest_build_and_hides_no_method() {
        struct Counter(Generation);

        impl Counter {
            fn generation(&self) -> Generation {
                self.0
            }
        }

        let current = Current::default();
        assert!(Guard::new(&current).is_none());
        assert_eq!(current.generation(), 0);
        for generation in [1, 2] {
            publish(&current, Counter(generation + 100), generation);
            let guard = Guard::new(&current).unwrap();
            assert_eq!(guard.generation(), generation + 100);
            assert_eq!(Guard::generation(&guard), generation);
            assert_eq!(current.generation(), generation);
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
