//! Random schedules: the settings of a resolver and of its sources, and the steps of a run.

use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The position of a key in [`NAMES`].
pub(super) type Key = usize;
/// The names of the keys.
pub(super) const NAMES: [&str; 3] = ["A", "B", "C"];
/// The maximum duration of one call to a single source.
pub(super) const DEADLINE: Duration = Duration::from_secs(3);
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(8);

/// The settings of a run, and its steps.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
}

/// The settings of the resolver.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// The settings of the sources. More than one of them form a chain.
    pub(super) links: Vec<LinkSetup>,
    /// Whether a source of a chain is also read if one before it has failed.
    pub(super) on_failure: bool,
    pub(super) max_stale: Duration,
}

/// The settings of one source.
#[derive(Debug, Clone)]
pub(super) struct LinkSetup {
    pub(super) ttl: Duration,
    pub(super) versions: bool,
    pub(super) batch: bool,
    pub(super) watch: bool,
    pub(super) lease: Option<Duration>,
    /// The keys that the source has at the start.
    pub(super) keys: KeySet,
}

/// A set of keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeySet(pub(super) u8);

/// One step of a run. A step for a source that does not exist is for the last one.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Starts a read in a task of its own.
    Read(Call, KeySet),
    /// Cancels the oldest read that has not returned.
    Cancel,
    Invalidate(Key),
    AcceptOlderVersions(Key),
    Watch(KeySet),
    Unwatch,
    /// Changes a key at a source.
    Change(usize, Key, Change),
    /// Sends a notification that these keys have changed.
    Notify(usize, KeySet),
    /// Ends the stream of notifications, or reports through it that some were lost.
    BreakStream(usize, StreamFault),
    /// Makes the next calls for these keys fail. With 0 calls, all calls until the source recovers.
    Fault(usize, Fault, KeySet, u8),
    Recover(usize),
    Latency(usize, Latency),
    /// Lets time pass. Timers fire in their order.
    Pass(Duration),
    /// Moves the clock at once, as if the process had been suspended.
    Jump(Duration),
    /// Continues on the other runtime. This one is not driven until the next switch.
    SwitchRuntime,
    /// Ends this runtime, and continues on another one.
    EndRuntime,
}

/// A call of the resolver that returns values. Calls for one key use the first one of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Get,
    WithCached,
    GetMany,
    Refresh,
    RefreshAfterWrite,
    ReportRejected,
}

/// A change of a key at its source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Writes another value.
    Write,
    /// Writes the same value as a new version.
    Touch,
    Delete,
    /// Brings back the revision before the current one, with its version.
    Restore,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum StreamFault {
    Failure,
    End,
}

/// What is wrong with a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Unavailable,
    RateLimited(Option<Duration>),
    Denied,
    /// The call never returns.
    Hang,
    Panic,
    /// The last result is missing.
    WrongCount,
    /// A replica that lags by this many changes responds.
    Lag(u8),
}

/// How long a call takes before and after it reads the value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latency {
    pub(super) before: Duration,
    pub(super) after: Duration,
    /// Whether every second call takes no time, so that it overtakes the one before it.
    pub(super) alternates: bool,
}

impl KeySet {
    pub(super) const ALL: Self = Self(0b111);

    pub(super) fn contains(self, key: Key) -> bool {
        self.0 & (1 << key) != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Key> {
        (0..NAMES.len()).filter(move |&key| self.contains(key))
    }

    pub(super) fn first(self) -> Option<Key> {
        self.iter().next()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|key| f.write_str(NAMES[key]))
    }
}

/// Generates schedules. Failing ones shrink to fewer steps, and to simpler steps: those that come first here.
pub(super) fn schedules() -> impl Strategy<Value = Schedule> {
    (setups(), vec(steps(), 1..50)).prop_map(|(setup, steps)| Schedule { setup, steps })
}

fn setups() -> impl Strategy<Value = Setup> {
    let links = prop_oneof![3 => vec(links(), 1), 2 => vec(links(), 2)];
    (links, any::<bool>(), millis(&[20_000, 0, 300_000])).prop_map(
        |(links, on_failure, max_stale)| Setup {
            links,
            on_failure,
            max_stale,
        },
    )
}

fn links() -> impl Strategy<Value = LinkSetup> {
    let lease = prop_oneof![4 => Just(None), 1 => millis(&[2_000, 20_000]).prop_map(Some)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let all = (millis(&[5_000, 1_000, 30_000]), flags, lease, key_sets());
    all.prop_map(
        |(ttl, (unversioned, batch, watch), lease, keys)| LinkSetup {
            ttl,
            versions: !unversioned,
            batch,
            watch,
            lease,
            keys,
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => durations().prop_map(Step::Pass),
        20 => (calls(), key_sets()).prop_map(|(call, keys)| Step::Read(call, keys)),
        7 => (0..2usize, keys(), changes()).prop_map(|(link, key, change)| Step::Change(link, key, change)),
        5 => (0..2usize, key_sets()).prop_map(|(link, keys)| Step::Notify(link, keys)),
        8 => (0..2usize, faults(), key_sets(), 0..4u8)
            .prop_map(|(link, fault, keys, calls)| Step::Fault(link, fault, keys, calls)),
        3 => (0..2usize).prop_map(Step::Recover),
        6 => (0..2usize, latencies()).prop_map(|(link, latency)| Step::Latency(link, latency)),
        2 => Just(Step::Cancel),
        2 => keys().prop_map(Step::Invalidate),
        1 => keys().prop_map(Step::AcceptOlderVersions),
        3 => key_sets().prop_map(Step::Watch),
        1 => Just(Step::Unwatch),
        1 => (0..2usize, select(&[StreamFault::Failure, StreamFault::End][..]))
            .prop_map(|(link, fault)| Step::BreakStream(link, fault)),
        2 => durations().prop_map(Step::Jump),
        2 => Just(Step::SwitchRuntime),
        1 => Just(Step::EndRuntime),
    ]
}

fn calls() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => Just(Call::Get),
        2 => Just(Call::WithCached),
        4 => Just(Call::GetMany),
        2 => Just(Call::Refresh),
        1 => Just(Call::RefreshAfterWrite),
        2 => Just(Call::ReportRejected),
    ]
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => Just(Change::Write),
        1 => Just(Change::Touch),
        1 => Just(Change::Delete),
        2 => Just(Change::Restore),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::Unavailable),
        4 => (1..3u8).prop_map(Fault::Lag),
        2 => Just(Fault::Hang),
        1 => Just(Fault::Denied),
        1 => Just(Fault::Panic),
        1 => Just(Fault::WrongCount),
        1 => Just(Fault::RateLimited(None)),
        2 => millis(&[2_000, 15_000]).prop_map(|wait| Fault::RateLimited(Some(wait))),
    ]
}

fn latencies() -> impl Strategy<Value = Latency> {
    let part = || millis(&[0, 1, 40, 300, 1_200, 2_500]);
    (part(), part(), any::<bool>()).prop_map(|(before, after, alternates)| Latency {
        before,
        after,
        alternates,
    })
}

fn durations() -> impl Strategy<Value = Duration> {
    millis(&[0, 1, 50, 110, 300, 1_100, 4_000, 11_000, 35_000, 70_000])
}

fn millis(choices: &'static [u64]) -> impl Strategy<Value = Duration> {
    select(choices).prop_map(Duration::from_millis)
}

fn keys() -> impl Strategy<Value = Key> {
    prop_oneof![3 => Just(0usize), 1 => Just(1), 1 => Just(2)]
}

/// Sets with at least one key. Most have the first key, so that the steps of a schedule meet.
fn key_sets() -> impl Strategy<Value = KeySet> {
    prop_oneof![4 => Just(KeySet(1)), 3 => (1..8u8).prop_map(KeySet), 1 => Just(KeySet::ALL)]
}
