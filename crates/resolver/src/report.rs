//! Reports of the numbers of a resolver through the facade `metrics`.
//!
//! The recorder is code of others, so it is called without a lock, and its panics are caught.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::Duration;

use metrics::{Label, Unit, counter, gauge, histogram};

use crate::clock::{self, Time};
use crate::counters::Count;
use crate::shared::{CHUNK, Shared};
use crate::source::Source;
use crate::sync::atomic::Ordering;

/// A label beside `source`.
type OtherLabel = Option<(&'static str, &'static str)>;

/// The counters: what is counted, the name of the metric, and its other label.
const COUNTERS: [(Count, &str, OtherLabel); 14] = [
    (Count::Hit, READS, Some(("outcome", "hit"))),
    (Count::Stale, READS, Some(("outcome", "stale"))),
    (Count::Miss, READS, Some(("outcome", "miss"))),
    (Count::Absent, READS, Some(("outcome", "absent"))),
    (Count::Failed, READS, Some(("outcome", "failed"))),
    (Count::FetchedValue, FETCHED, Some(("outcome", "found"))),
    (Count::FetchedAbsence, FETCHED, Some(("outcome", "absent"))),
    (Count::FetchedRefusal, FETCHED, Some(("outcome", "refused"))),
    (Count::FetchedInvalid, FETCHED, Some(("outcome", "invalid"))),
    (
        Count::FetchedUnavailable,
        FETCHED,
        Some(("outcome", "unavailable")),
    ),
    (Count::Rotation, ROTATIONS, None),
    (Count::ChangedKeys, NOTIFICATIONS, Some(("type", "keys"))),
    (Count::ChangedAll, NOTIFICATIONS, Some(("type", "all"))),
    (Count::LostChanges, NOTIFICATIONS, Some(("type", "lost"))),
];

const READS: &str = "secretwell_cache_reads_total";
const FETCHED: &str = "secretwell_fetched_keys_total";
const ROTATIONS: &str = "secretwell_rotations_total";
const NOTIFICATIONS: &str = "secretwell_change_notifications_total";

fn description(counter: &str) -> &'static str {
    match counter {
        READS => "Reads of keys by the service.",
        FETCHED => "Keys that were fetched from the source.",
        ROTATIONS => "Cached values that a fetch has replaced by another value.",
        _ => "Change notifications of the source.",
    }
}

/// Reports a call to a source that took `took`. `failed` of its `keys` have failed, without those that are absent.
pub(crate) fn fetched(source: &Source, took: Duration, keys: usize, failed: usize) {
    let outcome = match failed {
        0 => "success",
        failed if failed < keys => "partial",
        _ => "failure",
    };
    let labels = labels(&source.label, Some(("outcome", outcome)));
    call(|| {
        histogram!(
            description: "Calls to the source.",
            unit: Unit::Seconds,
            "secretwell_fetch_duration_seconds",
            labels
        )
        .record(took);
    });
}

impl Shared {
    /// Reports the counters and the gauges of all sources.
    pub(crate) async fn report(&self) {
        self.plan_report();
        self.has_gauges.store(true, Ordering::Relaxed);
        let mut all: Vec<(&str, Gauges)> = Vec::new();
        for source in &self.sources {
            report_counters(source);
            let gauges = Gauges::of(source).await;
            let same = all.iter_mut().find(|(label, _)| **label == *source.label);
            match same {
                Some((_, worst)) => *worst = worst.worst(gauges),
                None => all.push((&source.label, gauges)),
            }
        }
        for (label, gauges) in all {
            gauges.report(label);
        }
    }

    /// Reports the last counts. The gauges no longer show a problem, because nobody keeps them up to date. A resolver
    /// that has not reported gauges does not change those of others with the same label.
    pub(crate) fn report_end(&self) {
        for source in &self.sources {
            report_counters(source);
            if self.has_gauges.load(Ordering::Relaxed) {
                Gauges::default().report(&source.label);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.report_end();
    }
}

fn report_counters(source: &Source) {
    let counted = source.counts.read();
    let new = {
        let reported = source.reported.lock();
        let mut reported = reported.unwrap_or_else(PoisonError::into_inner);
        reported.advance(counted)
    };
    call(|| {
        for (count, name, label) in COUNTERS {
            let labels = labels(&source.label, label);
            counter!(description: description(name), name, labels).increment(new.get(count));
        }
    });
}

/// The gauges of the sources with one label.
#[derive(Debug, Clone, Copy)]
struct Gauges {
    stale_age: Duration,
    is_open: bool,
    budget: f64,
    lease: Option<Duration>,
}

/// The gauges of a source that was not read.
impl Default for Gauges {
    fn default() -> Self {
        Self {
            stale_age: Duration::ZERO,
            is_open: false,
            budget: 1.0,
            lease: None,
        }
    }
}

impl Gauges {
    async fn of(source: &Source) -> Self {
        let now = clock::now();
        let stale_age = stale_age(source, now).await;
        let mut state = source.state();
        let ends = state.leases.values().min();
        Self {
            stale_age,
            is_open: state.breaker.open_until().is_some(),
            lease: ends.map(|ends| ends.since(now)),
            budget: state.budget.remaining(now),
        }
    }

    /// Returns the worse of each two gauges.
    fn worst(self, other: Self) -> Self {
        let leases = [self.lease, other.lease];
        Self {
            stale_age: self.stale_age.max(other.stale_age),
            is_open: self.is_open || other.is_open,
            budget: self.budget.min(other.budget),
            lease: leases.into_iter().flatten().min(),
        }
    }

    fn report(&self, label: &str) {
        let lease = self.lease.map_or(f64::NAN, |lease| lease.as_secs_f64());
        call(|| {
            gauge!(
                description: "Time since the source has confirmed the oldest value that is stale because its refresh failed.",
                unit: Unit::Seconds,
                "secretwell_stale_age_seconds",
                labels(label, None)
            )
            .set(self.stale_age);
            gauge!(
                description: "1 from the time at which calls to the source are blocked until it responds.",
                "secretwell_breaker_open",
                labels(label, None)
            )
            .set(f64::from(u8::from(self.is_open)));
            gauge!(
                description: "Remaining part of the retry budget.",
                "secretwell_retry_budget_remaining_ratio",
                labels(label, None)
            )
            .set(self.budget);
            gauge!(
                description: "Remaining lease time of the value whose lease ends first.",
                unit: Unit::Seconds,
                "secretwell_lease_remaining_seconds",
                labels(label, None)
            )
            .set(lease);
        });
    }
}

/// Returns the age of the oldest cached value that is stale because its refresh has failed.
async fn stale_age(source: &Source, now: Time) -> Duration {
    let mut oldest = Duration::ZERO;
    let mut numbers = 0..source.state().failures.next_number();
    loop {
        let failed = source.state().failures.keys(numbers.clone(), CHUNK);
        let Some((last, _)) = failed.last() else {
            return oldest;
        };
        numbers.start = last + 1;
        for (_, key) in &failed {
            let age = source.cache.peek(key, |entry| {
                let is_stale = entry.is_usable(now) && !entry.is_fresh(now);
                (is_stale && entry.value().is_some()).then(|| entry.age(now))
            });
            oldest = oldest.max(age.flatten().unwrap_or_default());
        }
        tokio::task::yield_now().await;
    }
}

fn labels(source: &str, other: OtherLabel) -> Vec<Label> {
    let other = other.map(|(name, value)| Label::from_static_parts(name, value));
    let source = Label::new("source", source.to_owned());
    std::iter::once(source).chain(other).collect()
}

/// Calls the recorder. A panic of it is reported by the panic hook.
fn call(recorder: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(recorder));
}
