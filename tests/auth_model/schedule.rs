//! Random schedules: the settings of an auth and of its source, and the steps of a run.

use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The position of a key in [`NAMES`].
pub(super) type Key = usize;
/// The names of the keys. `A` is required, and `B` and `C` are optional. The builder can take the rings of `A`
/// and `B`. `R` has the revocation time.
pub(super) const NAMES: [&str; 4] = ["A", "B", "C", "R"];
pub(super) const A: Key = 0;
pub(super) const B: Key = 1;
pub(super) const C: Key = 2;
pub(super) const R: Key = 3;

/// The settings of a run, and its steps.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
}

/// The settings of the auth, and of its source.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) reports: Reports,
    pub(super) watch: bool,
    pub(super) ttl: Duration,
    /// The keys whose rings the builder takes.
    pub(super) rings: KeySet,
    /// Whether `A` and `B` are named as signing secrets.
    pub(super) named: bool,
    pub(super) activation_delay: Duration,
    pub(super) grace_period: Duration,
    pub(super) max_previous: usize,
    /// The ages of the versions of `A` at the start.
    pub(super) ages: &'static [u64],
}

/// What the source reports about versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reports {
    /// Numbered versions with creation times, and a version history.
    Times,
    /// Numbered versions without creation times.
    Numbers,
    /// Versions without an order.
    Nothing,
}

/// A set of keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeySet(pub(super) u8);

/// One step of a run.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Call(Call),
    /// Cancels the oldest call that has not returned.
    Cancel,
    Change(Key, Change),
    /// Writes the revocation time.
    Revoke(RevocationTime),
    /// Sends a notification that these keys have changed.
    Notify(KeySet),
    /// Makes the next calls of the source for these keys fail. With 0 calls, all calls until it recovers.
    Fault(Fault, KeySet, u8),
    /// Makes the next reads of previous versions fail. With 0 reads, all reads until the source recovers.
    HistoryFault(CodeFault, u8),
    /// Makes the next builds fail. With 0 builds, all builds until the builder recovers.
    BuilderFault(CodeFault, u8),
    /// Ends all faults.
    Recover,
    /// Sets the time that each call of the source, and each build, takes.
    Latency(Duration, Duration),
    /// Lets time pass. Timers fire in their order.
    Pass(Duration),
    /// Moves the clock at once, as if the process had been suspended.
    Jump(Duration),
    /// Continues on the other runtime. This one is not driven until the next switch.
    SwitchRuntime,
    /// Ends this runtime, and continues on another one.
    EndRuntime,
}

/// A call of the auth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Get,
    TryGet,
    Peek,
    With,
    Reader,
    Rebuild,
    RevokePrevious,
}

/// A change of a key at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Writes a new value.
    Write,
    /// Writes the value again that was current before the current one.
    Again,
    /// Writes a new value that is too weak to sign with.
    Weak,
    /// Writes a new value. The code of the type of `C` panics for it.
    Panicking,
    Delete,
}

/// A revocation time, relative to the time of its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RevocationTime {
    Now,
    Past,
    Future,
    Invalid,
    Absent,
}

/// What is wrong with the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Unavailable,
    Denied,
    /// The call never returns.
    Hang,
    Panic,
    /// A replica that lags by this many changes responds. It does not lag for `R`.
    Lag(u8),
}

/// What is wrong with the builder, or with the version history of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeFault {
    Failure,
    Hang,
    Panic,
}

impl KeySet {
    pub(super) const ALL: Self = Self(0b1111);

    pub(super) fn contains(self, key: Key) -> bool {
        self.0 & (1 << key) != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Key> {
        (0..NAMES.len()).filter(move |&key| self.contains(key))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        self.iter().try_for_each(|key| f.write_str(NAMES[key]))?;
        f.write_str("}")
    }
}

impl Setup {
    /// Returns whether the secret of `key` must be strong.
    pub(super) fn signs(&self, key: Key) -> bool {
        self.rings.contains(key) || self.named && key <= B
    }

    /// Returns how long a previous secret verifies after the next one was read.
    pub(super) fn overlap(&self) -> Duration {
        self.activation_delay + self.grace_period
    }
}

/// Generates schedules. Failing ones shrink to fewer steps, and to simpler steps: those that come first here.
pub(super) fn schedules() -> impl Strategy<Value = Schedule> {
    (setups(), first_steps(), vec(steps(), 1..45)).prop_map(|(setup, first, steps)| Schedule {
        setup,
        steps: [first, steps].concat(),
    })
}

/// Most schedules begin with the first build, some of them without the version history.
fn first_steps() -> impl Strategy<Value = Vec<Step>> {
    let build = || vec![Step::Call(Call::Get), Step::Pass(Duration::from_millis(1))];
    prop_oneof![
        3 => Just(build()),
        1 => (code_faults(), 1..4_u8).prop_map(move |(fault, reads)| {
            [vec![Step::HistoryFault(fault, reads)], build()].concat()
        }),
        1 => Just(vec![]),
    ]
}

fn setups() -> impl Strategy<Value = Setup> {
    const REPORTS: &[Reports] = &[Reports::Times, Reports::Numbers, Reports::Nothing];
    const RINGS: &[KeySet] = &[KeySet(0b01), KeySet(0b11), KeySet(0)];
    const AGES: &[&[u64]] = &[
        &[10_000],
        &[],
        &[1_000, 40],
        &[1_000, 3],
        &[1_000, 40, 3],
        &[1_000, 12, 3],
    ];
    (
        (select(REPORTS), any::<bool>(), select(RINGS)),
        (any::<bool>(), select(&[8_usize, 2, 1, 0][..])),
        (
            millis(&[10_000, 3_000, 30_000]),
            millis(&[20_000, 5_000, 0]),
            millis(&[60_000, 10_000, 600_000]),
        ),
        select(AGES),
    )
        .prop_map(
            |((reports, watch, rings), (named, max_previous), times, ages)| Setup {
                reports,
                watch,
                ttl: times.0,
                rings,
                named,
                activation_delay: times.1,
                grace_period: times.2,
                max_previous,
                ages,
            },
        )
}

fn steps() -> impl Strategy<Value = Step> {
    let calls = 0..4_u8;
    prop_oneof![
        20 => durations().prop_map(Step::Pass),
        18 => calls_of_auth().prop_map(Step::Call),
        16 => changes().prop_map(|(key, change)| Step::Change(key, change)),
        3 => revocation_times().prop_map(Step::Revoke),
        5 => key_sets().prop_map(Step::Notify),
        7 => (faults(), key_sets(), calls.clone())
            .prop_map(|(fault, keys, calls)| Step::Fault(fault, keys, calls)),
        3 => (code_faults(), calls.clone())
            .prop_map(|(fault, calls)| Step::HistoryFault(fault, calls)),
        4 => (code_faults(), calls).prop_map(|(fault, calls)| Step::BuilderFault(fault, calls)),
        4 => Just(Step::Recover),
        3 => (millis(&[0, 40, 700, 2_500]), millis(&[0, 40, 1_500]))
            .prop_map(|(source, builder)| Step::Latency(source, builder)),
        2 => Just(Step::Cancel),
        2 => durations().prop_map(Step::Jump),
        2 => Just(Step::SwitchRuntime),
        1 => Just(Step::EndRuntime),
    ]
}

fn calls_of_auth() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => Just(Call::Get),
        2 => Just(Call::TryGet),
        1 => Just(Call::Peek),
        1 => Just(Call::With),
        1 => Just(Call::Reader),
        2 => Just(Call::Rebuild),
        3 => Just(Call::RevokePrevious),
    ]
}

fn changes() -> impl Strategy<Value = (Key, Change)> {
    let changes = prop_oneof![
        8 => Just(Change::Write),
        3 => Just(Change::Again),
        1 => Just(Change::Weak),
        1 => Just(Change::Delete),
    ];
    prop_oneof![
        6 => changes.prop_map(|change| (A, change)),
        2 => select(&[Change::Write, Change::Again, Change::Delete][..]).prop_map(|change| (B, change)),
        2 => select(&[Change::Write, Change::Panicking, Change::Delete][..])
            .prop_map(|change| (C, change)),
    ]
}

fn revocation_times() -> impl Strategy<Value = RevocationTime> {
    use RevocationTime::{Absent, Future, Invalid, Now, Past};
    select(&[Now, Past, Absent, Future, Invalid][..])
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::Unavailable),
        4 => (1..3_u8).prop_map(Fault::Lag),
        3 => Just(Fault::Hang),
        1 => Just(Fault::Denied),
        1 => Just(Fault::Panic),
    ]
}

fn code_faults() -> impl Strategy<Value = CodeFault> {
    select(&[CodeFault::Failure, CodeFault::Hang, CodeFault::Panic][..])
}

fn durations() -> impl Strategy<Value = Duration> {
    millis(&[
        0, 1, 50, 300, 1_100, 4_000, 11_000, 21_000, 35_000, 70_000, 130_000,
    ])
}

fn millis(choices: &'static [u64]) -> impl Strategy<Value = Duration> {
    select(choices).prop_map(Duration::from_millis)
}

/// Sets with at least one key. Most have the first key, so that the steps of a schedule meet.
fn key_sets() -> impl Strategy<Value = KeySet> {
    prop_oneof![3 => Just(KeySet(1)), 2 => Just(KeySet::ALL), 2 => (1..16_u8).prop_map(KeySet)]
}
