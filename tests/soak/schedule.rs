//! The order of the events of one part of a run. It depends on nothing but the seed.

use std::time::Duration;

use fastrand::Rng;

/// The pauses between two events, and the lengths of faults. The longest one exceeds `max_stale`.
const PAUSES: [u64; 4] = [500, 1_500, 3_000, 6_000];
const LENGTHS: [u64; 6] = [2_000, 4_000, 4_000, 8_000, 12_000, 42_000];

/// A random sequence of events, in which each kind occurs equally often.
pub(super) struct Schedule {
    rng: Rng,
    remaining: Vec<usize>,
    counts: Vec<usize>,
}

/// An event of a schedule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<K> {
    pub(super) kind: K,
    pub(super) pause: Duration,
    pub(super) length: Duration,
    /// Selects one of several variants.
    pub(super) variant: usize,
}

impl Schedule {
    /// Creates the schedule of the part with this number.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(number)),
            remaining: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// Returns the next event.
    pub(super) fn next<K: Copy>(&mut self, kinds: &[K]) -> Event<K> {
        if self.remaining.is_empty() {
            self.remaining = (0..kinds.len()).collect();
            self.rng.shuffle(&mut self.remaining);
        }
        self.counts.resize(kinds.len(), 0);
        let index = self.remaining.pop().unwrap();
        self.counts[index] += 1;
        let mut one_of = |choices: &[u64]| choices[self.rng.usize(..choices.len())];
        Event {
            kind: kinds[index],
            pause: Duration::from_millis(one_of(&PAUSES)),
            length: Duration::from_millis(one_of(&LENGTHS)),
            variant: self.rng.usize(..1_000_000),
        }
    }

    /// Returns how often each kind has occurred.
    pub(super) fn counts<K: std::fmt::Debug>(
        &self,
        name: &'static str,
        kinds: &[K],
    ) -> super::Kinds {
        let kinds = kinds.iter().map(|kind| format!("{kind:?}"));
        let count = |index| self.counts.get(index).copied().unwrap_or_default();
        kinds
            .enumerate()
            .map(|(index, kind)| (name, kind, count(index)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_has_the_same_schedule() {
        let sequence = |seed, number| {
            let mut schedule = Schedule::new(seed, number);
            let event = |_| format!("{:?}", schedule.next(&["a", "b", "c"]));
            (0..30).map(event).collect::<Vec<_>>()
        };
        assert_eq!(sequence(7, 1), sequence(7, 1));
        assert_ne!(sequence(7, 1), sequence(8, 1));
        assert_ne!(sequence(7, 1), sequence(7, 2));
    }

    #[test]
    fn each_kind_occurs_equally_often() {
        let kinds = ["a", "b", "c"];
        let mut schedule = Schedule::new(1, 0);
        for _ in 0..30 {
            schedule.next(&kinds);
        }
        let counts = schedule.counts("x", &kinds);
        assert!(
            counts.iter().all(|(_, _, count)| *count == 10),
            "{counts:?}"
        );
    }
}
