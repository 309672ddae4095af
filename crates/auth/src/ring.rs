//! [`Rings`], the secrets of all keys with the times of their rotation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use secretwell_core::{SecretKey, SecretValue, Version};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::key_ring::KeyRing;

/// The settings of a rotation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) activation_delay: Duration,
    pub(crate) grace_period: Duration,
    /// The maximum number of previous secrets of one key.
    pub(crate) max_previous: usize,
}

impl Timing {
    /// Returns how long the previous secret verifies after a new secret was first read.
    pub(crate) fn overlap(self) -> Duration {
        self.activation_delay.saturating_add(self.grace_period)
    }
}

/// The timed rings of all keys. Only signing secrets have previous secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rings(BTreeMap<SecretKey, Ring>);

/// The secrets of one key, newest first. It is never empty.
#[derive(Debug, Clone)]
struct Ring(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    value: SecretValue,
    /// From this time on, the secret can sign. It is `None` if the secret was replaced before that
    /// time. Such a secret never signs, because another instance might never have read it.
    active_from: Option<Instant>,
    /// `None` for the newest secret.
    replaced: Option<Replaced>,
}

/// How a previous secret was replaced.
#[derive(Debug, Clone)]
struct Replaced {
    /// The end of the grace period.
    expires_at: Instant,
    /// The version of the next secret, if the source reports it.
    by: Option<Version>,
}

/// What a build sees of one ring: the fingerprints of the primary secret and of all secrets.
pub(crate) type RingFingerprint = (u64, Vec<u64>);

/// What was read of the version history of one key.
#[derive(Debug)]
pub(crate) struct KeyHistory {
    pub(crate) key: SecretKey,
    /// `None` if there are no previous secrets.
    pub(crate) history: Option<History>,
    /// Whether the read did not fail before the oldest version that is needed.
    pub(crate) is_complete: bool,
}

/// The rotation of one key, according to the version history of its source.
#[derive(Debug)]
pub(crate) struct History {
    /// The secret that was the current one when the history was read.
    pub(crate) current: SecretValue,
    /// The time from which the current secret can sign.
    pub(crate) active_from: Instant,
    /// The secrets before the current one, newest first.
    pub(crate) previous: Vec<PreviousSecret>,
}

/// A secret that was replaced, and whose grace period has not ended.
#[derive(Debug)]
pub(crate) struct PreviousSecret {
    pub(crate) value: SecretValue,
    /// Whether the secret might have signed. That is true if it lasted for the activation delay, or
    /// if it is the oldest known secret.
    pub(crate) was_active: bool,
    /// The end of the grace period.
    pub(crate) expires_at: Instant,
    /// The version of the next secret.
    pub(crate) replaced_by: Option<Version>,
}

impl Rings {
    /// Returns the rings after `secrets` were read at `now`. Drops the rings of all other keys, and
    /// the previous secrets of all keys that are not in `signing`.
    pub(crate) fn rotated(
        &self,
        secrets: &[(SecretKey, Resolved)],
        signing: &BTreeSet<SecretKey>,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let rotated = secrets.iter().map(|(key, secret)| {
            let active_from = self.active_from(&secret.value, timing, now);
            let ring = match self.0.get(key) {
                Some(ring) => ring.rotated(secret, active_from, timing, now),
                None => Ring(vec![Entry::newest(&secret.value, active_from)]),
            };
            (key.clone(), ring)
        });
        let mut rings = Self(rotated.collect());
        rings.keep_previous_of(signing);
        rings
    }

    /// Returns the time from which a secret that is new to its key can sign.
    ///
    /// That is `now` for the first secrets that are read, and for a value that is already active
    /// under any key, because every instance knows such a value. Otherwise the activation delay
    /// applies.
    fn active_from(&self, value: &SecretValue, timing: Timing, now: Instant) -> Instant {
        let was_active = |entry: &Entry| entry.value == *value && entry.is_active(now);
        match self.0.is_empty() || self.entries().any(|(_, entry)| was_active(entry)) {
            true => now,
            false => later(now, timing.activation_delay),
        }
    }

    /// Adds the version history of `key` after the secrets that its ring already has.
    pub(crate) fn add_history(&mut self, key: &SecretKey, history: &History, now: Instant) {
        let Some(ring) = self.0.get_mut(key) else {
            return;
        };
        if let Some(newest) = ring.0.first_mut()
            && newest.value == history.current
        {
            newest.active_from = newest.active_from.max(Some(history.active_from));
        }
        for previous in &history.previous {
            if ring.0.iter().all(|entry| entry.value != previous.value) {
                ring.0.push(Entry {
                    value: previous.value.clone(),
                    active_from: previous.was_active.then_some(now),
                    replaced: Some(Replaced {
                        expires_at: previous.expires_at,
                        by: previous.replaced_by.clone(),
                    }),
                });
            }
        }
        ring.0.retain(|entry| !entry.is_expired(now));
    }

    /// Removes the oldest previous secrets of each key until at most `limit` of them are left.
    pub(crate) fn limit_previous(&mut self, limit: usize, now: Instant) {
        for ring in self.0.values_mut() {
            ring.truncate(limit, now);
        }
    }

    /// Removes the previous secrets of all keys that are not in `signing`.
    pub(crate) fn keep_previous_of(&mut self, signing: &BTreeSet<SecretKey>) {
        for (key, ring) in &mut self.0 {
            if !signing.contains(key) {
                ring.0.truncate(1);
            }
        }
    }

    /// Removes the previous secrets for which `is_revoked` returns true, and returns them. It receives
    /// the version of the next secret. The newest secret of an affected ring signs immediately,
    /// because no instance may sign with a revoked secret.
    pub(crate) fn remove_previous(
        &mut self,
        now: Instant,
        is_revoked: impl Fn(&SecretValue, Option<&Version>) -> bool,
    ) -> Vec<(SecretKey, SecretValue)> {
        let mut removed = Vec::new();
        for (key, Ring(entries)) in &mut self.0 {
            let before = removed.len();
            entries.retain(|entry| match &entry.replaced {
                Some(replaced) if is_revoked(&entry.value, replaced.by.as_ref()) => {
                    removed.push((key.clone(), entry.value.clone()));
                    false
                }
                _ => true,
            });
            if removed.len() > before
                && let Some(newest) = entries.first_mut()
            {
                newest.active_from = newest.active_from.min(Some(now));
            }
        }
        removed
    }

    /// Lets the newest secret of each key sign from `now` on.
    pub(crate) fn activate_newest(&mut self, now: Instant) {
        for newest in self.0.values_mut().filter_map(|ring| ring.0.first_mut()) {
            newest.active_from = newest.active_from.min(Some(now));
        }
    }

    /// Returns whether `value` is the newest secret of any key.
    pub(crate) fn is_newest(&self, value: &SecretValue) -> bool {
        let mut newest = self.0.values().filter_map(|ring| ring.0.first());
        newest.any(|entry| entry.value == *value)
    }

    /// Returns whether `key` has a ring.
    pub(crate) fn contains(&self, key: &SecretKey) -> bool {
        self.0.contains_key(key)
    }

    /// Returns the time when the next secret becomes active or the next grace period ends.
    pub(crate) fn next_transition(&self, now: Instant) -> Option<Instant> {
        let transitions = self.entries().flat_map(|(_, entry)| {
            let expires_at = entry.replaced.as_ref().map(|replaced| replaced.expires_at);
            entry.active_from.into_iter().chain(expires_at)
        });
        transitions.filter(|transition| *transition > now).min()
    }

    /// Returns the rings of all keys at `now`.
    pub(crate) fn snapshots(&self, now: Instant) -> HashMap<SecretKey, KeyRing> {
        let rings = self.0.keys();
        rings
            .filter_map(|key| Some((key.clone(), self.snapshot(key, now)?)))
            .collect()
    }

    /// Returns the ring of `key` at `now`.
    pub(crate) fn snapshot(&self, key: &SecretKey, now: Instant) -> Option<KeyRing> {
        let ring = self.0.get(key)?;
        let unexpired = || ring.0.iter().filter(|entry| !entry.is_expired(now));
        let active = unexpired().find(|entry| entry.is_active(now));
        let primary = active.or(ring.0.first())?;
        Some(KeyRing {
            primary: primary.value.clone(),
            is_active: active.is_some(),
            all: unexpired().map(|entry| entry.value.clone()).collect(),
        })
    }

    /// Returns a fingerprint of the [`snapshot`](Self::snapshot) of `key`.
    pub(crate) fn fingerprint(&self, key: &SecretKey, now: Instant) -> Option<RingFingerprint> {
        let ring = self.snapshot(key, now)?;
        let all = ring.all.iter().map(SecretValue::fingerprint).collect();
        Some((ring.primary.fingerprint(), all))
    }

    fn entries(&self) -> impl Iterator<Item = (&SecretKey, &Entry)> {
        let rings = self.0.iter();
        rings.flat_map(|(key, ring)| ring.0.iter().map(move |entry| (key, entry)))
    }

    /// Returns the number of secrets of all keys.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries().count()
    }
}

impl Ring {
    /// Returns the ring with `secret` as its newest secret, which can sign from `active_from` on.
    fn rotated(
        &self,
        secret: &Resolved,
        active_from: Instant,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let value = &secret.value;
        let mut entries = self.0.clone();
        entries.retain(|entry| !entry.is_expired(now));
        if entries.first().is_some_and(|newest| newest.value == *value) {
            return Self(entries);
        }
        entries.retain(|entry| entry.value != *value);
        let expires_at = later(active_from.max(now), timing.grace_period);
        let signs = entries.iter().position(|entry| entry.is_active(now));
        for (position, entry) in entries.iter_mut().enumerate() {
            entry.active_from = entry.active_from.filter(|from| *from <= now);
            let replaced = entry.replaced.get_or_insert_with(|| Replaced {
                expires_at,
                by: secret.version.clone(),
            });
            // A secret signs until a newer one is active, also if the first newer one never was.
            if Some(position) == signs {
                replaced.expires_at = replaced.expires_at.max(expires_at);
            }
        }
        entries.insert(0, Entry::newest(value, active_from));
        Self(entries)
    }

    /// Removes the oldest previous secrets until `limit` of them are left. The secret that signs is
    /// kept, because the next one might not be known to every instance yet.
    fn truncate(&mut self, limit: usize, now: Instant) {
        if limit == 0 {
            self.0.truncate(1);
        }
        while self.0.len() > limit.saturating_add(1) {
            let signs = self.0.iter().position(|entry| entry.is_active(now));
            let oldest = self.0.len() - 1;
            self.0.remove(oldest - usize::from(signs == Some(oldest)));
        }
    }
}

impl Entry {
    fn newest(value: &SecretValue, active_from: Instant) -> Self {
        Self {
            value: value.clone(),
            active_from: Some(active_from),
            replaced: None,
        }
    }

    fn is_active(&self, now: Instant) -> bool {
        self.active_from.is_some_and(|from| from <= now)
    }

    fn is_expired(&self, now: Instant) -> bool {
        let replaced = self.replaced.as_ref();
        replaced.is_some_and(|replaced| replaced.expires_at <= now)
    }
}

/// Returns `now` plus `delay`. Limits the delay to 100 years, so that the addition does not
/// overflow.
pub(crate) fn later(now: Instant, delay: Duration) -> Instant {
    const MAX_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + delay.min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use secretwell_core::Origin;

    use super::*;

    const TIMING: Timing = Timing {
        activation_delay: Duration::from_secs(10),
        grace_period: Duration::from_secs(100),
        max_previous: 8,
    };

    /// Rings whose keys are all signing secrets.
    #[derive(Default, Clone)]
    struct Test(Rings);

    impl Test {
        fn read(&self, secrets: &[(&str, &str)], timing: Timing, now: Instant) -> Self {
            let secrets: Vec<(SecretKey, Resolved)> = secrets
                .iter()
                .map(|(name, value)| {
                    let secret = Resolved::fixed((*value).into(), Origin::new("test", ""));
                    (key(name), secret)
                })
                .collect();
            let signing = secrets.iter().map(|(key, _)| key.clone()).collect();
            let mut rotated = self.0.rotated(&secrets, &signing, timing, now);
            rotated.limit_previous(timing.max_previous, now);
            Self(rotated)
        }

        /// The primary secret of `K`, and all of its secrets joined by commas.
        fn ring(&self, now: Instant) -> (String, String) {
            texts(&self.0.snapshot(&key("K"), now).unwrap())
        }
    }

    fn key(name: &str) -> SecretKey {
        SecretKey::parse(name).unwrap()
    }

    fn texts(ring: &KeyRing) -> (String, String) {
        let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
        let all: Vec<String> = ring.iter().map(text).collect();
        (text(ring.primary()), all.join(","))
    }

    fn pair(primary: &str, all: &str) -> (String, String) {
        (primary.to_owned(), all.to_owned())
    }

    #[test]
    fn new_secret_verifies_immediately_and_signs_after_the_activation_delay() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);

        let one = Test::default().read(&[("K", "one")], TIMING, start);
        assert_eq!(one.ring(start), pair("one", "one"));
        assert_eq!(one.0.next_transition(start), None);

        let two = one.read(&[("K", "two")], TIMING, at(1));
        assert_eq!(two.ring(at(1)), pair("one", "two,one"));
        assert_eq!(two.0.next_transition(at(1)), Some(at(11)));
        assert_eq!(two.ring(at(11)), pair("two", "two,one"));
        assert_eq!(two.0.next_transition(at(11)), Some(at(111)));
        assert_eq!(two.ring(at(111)), pair("two", "two"));

        // Two rotations within the grace period, then a rotation back to the first secret.
        let three = two.read(&[("K", "three")], TIMING, at(50));
        assert_eq!(three.ring(at(70)), pair("three", "three,two,one"));
        let back = three.read(&[("K", "one")], TIMING, at(80));
        assert_eq!(back.ring(at(80)), pair("one", "one,three,two"));
        assert_eq!(back.ring(at(95)), pair("one", "one,three,two"));

        // A secret that is replaced before it is active never signs.
        let back = two.read(&[("K", "one")], TIMING, at(5));
        assert_eq!(back.ring(at(5)), pair("one", "one,two"));
        assert_eq!(back.ring(at(20)), pair("one", "one,two"));
        let forward = two.read(&[("K", "three")], TIMING, at(5));
        assert_eq!(forward.ring(at(12)), pair("one", "three,two,one"));
        assert_eq!(forward.ring(at(15)), pair("three", "three,two,one"));

        let no_expiry = Timing {
            grace_period: Duration::MAX,
            ..TIMING
        };
        let rings = Test::default().read(&[("K", "one")], no_expiry, start);
        let rings = rings.read(&[("K", "two")], no_expiry, at(1));
        assert_eq!(rings.ring(at(1_000_000)), pair("two", "two,one"));
    }

    #[test]
    fn secret_of_another_key_stays_active_when_it_moves() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let merged = |test: &Test, now| {
            let parts = ["K_1", "K"].map(|name| test.0.snapshot(&key(name), now));
            texts(&KeyRing::merge(parts.into_iter().flatten()).unwrap())
        };
        let one = Test::default().read(&[("K", "old")], TIMING, start);
        let two = one.read(&[("K", "old"), ("K_1", "new")], TIMING, at(1));
        assert_eq!(merged(&two, at(1)), pair("old", "new,old"));
        assert_eq!(merged(&two, at(11)), pair("new", "new,old"));
        let moved = two.read(&[("K", "new")], TIMING, at(20));
        assert_eq!(merged(&moved, at(20)), pair("new", "new,old"));
        assert!(KeyRing::merge([]).is_none());
    }

    #[test]
    fn number_of_previous_secrets_is_bounded_and_the_signing_secret_is_kept() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let bounded = |max_previous| Timing {
            max_previous,
            ..TIMING
        };
        let rotate = |max_previous, values: [(&str, u64); 4]| {
            let first = Test::default();
            let last = values.iter().fold(first, |test, (value, seconds)| {
                test.read(&[("K", value)], bounded(max_previous), at(*seconds))
            });
            last.ring(at(values[3].1))
        };
        let slow = [("a", 0), ("b", 20), ("c", 40), ("d", 60)];
        assert_eq!(rotate(2, slow), pair("c", "d,c,b"));
        assert_eq!(rotate(1, slow), pair("c", "d,c"));
        assert_eq!(rotate(0, slow), pair("d", "d"));
        // None but the first secret is active.
        let fast = [("a", 0), ("b", 1), ("c", 2), ("d", 3)];
        assert_eq!(rotate(2, fast), pair("a", "d,c,a"));
        assert_eq!(rotate(1, fast), pair("a", "d,a"));
    }

    #[test]
    fn previous_secrets_of_other_keys_are_not_kept() {
        let start = Instant::now();
        let read = |rings: &Rings, value: &str| {
            let secret = Resolved::fixed(value.into(), Origin::new("test", ""));
            rings.rotated(&[(key("K"), secret)], &BTreeSet::new(), TIMING, start)
        };
        let mut rings = Rings::default();
        for number in 0..1000 {
            rings = read(&rings, &number.to_string());
            assert_eq!(rings.len(), 1);
        }
        assert_eq!(Test(rings).ring(start), pair("999", "999"));
    }

    #[test]
    fn previous_secret_from_the_history_verifies_until_it_expires_or_is_revoked() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut test = Test::default().read(&[("K", "new")], TIMING, start);
        let history = History {
            current: "new".into(),
            active_from: at(4),
            previous: vec![PreviousSecret {
                value: "old".into(),
                was_active: true,
                expires_at: at(50),
                replaced_by: None,
            }],
        };
        for _ in 0..2 {
            // A history that is added again changes nothing.
            test.0.add_history(&key("K"), &history, start);
            for (seconds, primary, all) in [
                (0, "old", "new,old"),
                (4, "new", "new,old"),
                (50, "new", "new"),
            ] {
                assert_eq!(test.ring(at(seconds)), pair(primary, all));
            }
        }
        let removed = test.0.remove_previous(start, |_, _| true);
        assert_eq!(removed, [(key("K"), "old".into())]);
        assert_eq!(test.ring(start), pair("new", "new"));
    }
}
