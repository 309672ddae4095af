//! The rule about older versions.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rules::{Model, require};
use super::trace::{At, Event, Outcome, Read, Returned, Value};

/// The confirmations that make an older version acceptable, and the time that they must span.
const CONFIRMATIONS: (usize, Duration) = (3, Duration::from_secs(60));

impl Model<'_> {
    /// No value is older than one that was returned before, unless the source has confirmed it repeatedly, or
    /// the application has accepted it. A fresh value is not even older than one that the resolver has got.
    pub(super) fn check_version(
        &self,
        read: &Read,
        end: At,
        returned: &Returned,
    ) -> Result<(), String> {
        let value = returned.value;
        let reads = self.trace.reads.iter().filter_map(|earlier| {
            earlier.end.filter(|seen| seen.order < read.start.order)?;
            // A read of several keys decides about each of them at some time after its start.
            Some((earlier.start, earlier.result?.ok()?.value))
        });
        let calls =
            self.calls(value.link, value.key)
                .filter_map(|call| match call.outcome(value.key)? {
                    Outcome::Value(got) if call.has_ended_before(read.start) => {
                        Some((call.started, got))
                    }
                    _ => None,
                });
        // A lease can have expired when it arrives. Then its version is not remembered.
        let has_lease = self.setup.links[value.link].lease.is_some();
        let calls = calls.filter(|_| returned.stale.is_none() && !has_lease);
        for (seen, newer) in reads.chain(calls) {
            let same_key = (newer.link, newer.key) == (value.link, value.key);
            if same_key && value.version < newer.version {
                let is_accepted = self.is_accepted(value, seen, end);
                require(is_accepted, || {
                    format!("{newer:?} was known from {seen:?} on")
                })?;
            }
        }
        Ok(())
    }

    /// Returns whether `value`, or a version before it, was accepted between the two events.
    fn is_accepted(&self, value: Value, seen: At, end: At) -> bool {
        let between = |at: At| seen.order < at.order && at.order < end.order;
        let explicitly = self.trace.events.iter().any(|(at, event)| {
            matches!(event, Event::AcceptedOlder(key) if *key == value.key) && between(*at)
        });
        let outcomes = self.outcomes(value.link, value.key);
        let versions = outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Value(it) if it.version <= value.version => Some(it.version),
            _ => None,
        });
        let versions: BTreeSet<_> = versions.collect();
        let mut accepted_at = versions
            .into_iter()
            .flat_map(|version| confirmations(&outcomes, version));
        explicitly || accepted_at.any(between)
    }
}

/// Returns the times at which `version` was confirmed often enough.
fn confirmations(outcomes: &[(At, Outcome)], version: Option<u32>) -> Vec<At> {
    let (mut confirmed, mut accepted_at): (Vec<At>, Vec<At>) = (Vec::new(), Vec::new());
    for (at, outcome) in outcomes {
        match outcome {
            Outcome::Value(other) if other.version == version => {
                confirmed.push(*at);
                let spans = at.time.saturating_sub(confirmed[0].time);
                if confirmed.len() >= CONFIRMATIONS.0 && spans >= CONFIRMATIONS.1 {
                    accepted_at.push(*at);
                }
            }
            Outcome::Value(other) if other.version > version => confirmed.clear(),
            // A superseded call can return an even older version.
            Outcome::Value(_) | Outcome::Failed(_) => {}
        }
    }
    accepted_at
}
