//! Rotation without logouts: which secrets verify, and which one signs.

use std::collections::HashMap;
use std::time::Duration;

use secretwell_core::{SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::history::History;

/// The secrets of one key at one moment of its rotation.
///
/// A new secret verifies at once, so that whatever other instances sign with it is accepted; it signs
/// only after the activation delay, when every instance has had the time to learn of it. The one
/// before it goes on verifying for the grace_period. Each build of the auth gets the ring as it is then, and
/// the auth is built anew when a secret becomes active or its grace_period ends: whoever uses a ring needs
/// no clock.
#[derive(Debug, Clone)]
pub struct KeyRing {
    primary: SecretValue,
    /// Whether every instance has had the time to learn of the signing one.
    is_active: bool,
    all: Vec<SecretValue>,
}

impl KeyRing {
    /// A ring of one secret, for what is built without a [`LazyAuth`](crate::LazyAuth).
    pub fn new(secret: impl Into<SecretValue>) -> Self {
        let secret = secret.into();
        Self {
            primary: secret.clone(),
            is_active: true,
            all: vec![secret],
        }
    }

    /// One ring of the rings of several keys, the first of which is the one to sign with: that is done
    /// by the first that every instance knows of. `None` without any ring.
    pub fn merge(rings: impl IntoIterator<Item = Self>) -> Option<Self> {
        let rings: Vec<Self> = rings.into_iter().collect();
        let active = rings.iter().find(|ring| ring.is_active);
        let first = active.or(rings.first())?;
        let mut joined = Self {
            primary: first.primary.clone(),
            is_active: first.is_active,
            all: Vec::new(),
        };
        // What each key has now comes before what it had: that is the list that others know.
        let depth = rings.iter().map(|ring| ring.all.len()).max()?;
        for age in 0..depth {
            for value in rings.iter().filter_map(|ring| ring.all.get(age)) {
                if !joined.all.contains(value) {
                    joined.all.push(value.clone());
                }
            }
        }
        Some(joined)
    }

    /// The same with an previous secret, which verifies after all others.
    #[must_use]
    pub fn with_previous(mut self, secret: impl Into<SecretValue>) -> Self {
        self.all.push(secret.into());
        self
    }

    /// The secret to sign and encrypt with.
    pub fn primary(&self) -> &SecretValue {
        &self.primary
    }

    /// The secrets to verify and decrypt with, the newest first. The signing one is among them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SecretValue> {
        self.all.iter()
    }

    /// The secret to sign with, and then the others in their order.
    #[cfg(feature = "authjs")]
    pub(crate) fn primary_first(&self) -> impl Iterator<Item = &SecretValue> {
        let others = self.iter().filter(|secret| **secret != self.primary);
        std::iter::once(&self.primary).chain(others)
    }
}

/// How rotation takes its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotationTiming {
    pub(crate) activation_delay: Duration,
    pub(crate) grace_period: Duration,
}

impl RotationTiming {
    /// For how long after a rotation its old secret verifies.
    pub(crate) fn overlap(self) -> Duration {
        self.activation_delay.saturating_add(self.grace_period)
    }
}

/// The rings of all keys, as they grow with each rotation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rings(HashMap<SecretKey, Ring>);

/// The secrets of one key, the newest first.
#[derive(Debug, Clone)]
struct Ring(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    value: SecretValue,
    /// When it may sign. A secret that was replaced before that time never does: an instance that
    /// was not looking in between has never heard of it.
    active_from: Option<Instant>,
    /// When it ceases to verify; `None` for the newest.
    until: Option<Instant>,
}

impl Rings {
    /// The rings after `secrets` were read at `now`. Keys that are not among them are gone.
    pub(crate) fn with(
        &self,
        secrets: &[(SecretKey, Resolved)],
        timing: RotationTiming,
        now: Instant,
    ) -> Self {
        let rotated = secrets.iter().map(|(key, secret)| {
            let ring = match self.0.get(key) {
                Some(ring) => {
                    let from = self.active_from(&secret.value, timing, now);
                    ring.rotated(&secret.value, from, timing, now)
                }
                None => Ring(vec![Entry {
                    value: secret.value.clone(),
                    active_from: Some(self.active_from(&secret.value, timing, now)),
                    until: None,
                }]),
            };
            (key.clone(), ring)
        });
        Self(rotated.collect())
    }

    /// From when a secret that is new to its key may sign: at once if it is among the first that are
    /// read, or if it has been active before, under whichever key: then everybody knows it.
    fn active_from(&self, value: &SecretValue, timing: RotationTiming, now: Instant) -> Instant {
        let entries = || self.0.values().flat_map(|ring| &ring.0);
        let was_active = |entry: &Entry| {
            entry.value == *value && entry.active_from.is_some_and(|from| from <= now)
        };
        match self.0.is_empty() || entries().any(was_active) {
            true => now,
            false => later(now, timing.activation_delay),
        }
    }

    /// Whether `key` has a ring.
    pub(crate) fn holds(&self, key: &SecretKey) -> bool {
        self.0.contains_key(key)
    }

    /// Puts what the source remembers of `key` behind its current secret.
    pub(crate) fn remember(&mut self, key: &SecretKey, history: History, now: Instant) {
        let Some(Ring(entries)) = self.0.get_mut(key) else {
            return;
        };
        for newest in entries.iter_mut() {
            newest.active_from = Some(later(now, history.wait));
        }
        entries.extend(history.previous.into_iter().map(|previous| Entry {
            value: previous.value,
            active_from: previous.was_active.then_some(now),
            until: Some(later(now, previous.left)),
        }));
    }

    /// Leaves the newest secret of each key, which signs from now on.
    pub(crate) fn revoke_previous(&mut self, now: Instant) {
        for Ring(entries) in self.0.values_mut() {
            entries.truncate(1);
            for newest in entries {
                newest.active_from = newest.active_from.map(|from| from.min(now));
            }
        }
    }

    /// When the next secret becomes active or the next grace_period ends.
    pub(crate) fn next_transition(&self, now: Instant) -> Option<Instant> {
        let entries = self.0.values().flat_map(|ring| &ring.0);
        let transitions =
            entries.flat_map(|entry| entry.active_from.into_iter().chain(entry.until));
        transitions.filter(|transition| *transition > now).min()
    }

    pub(crate) fn snapshot(&self, key: &str, now: Instant) -> Option<KeyRing> {
        let ring = self.0.get(key)?;
        let live = || {
            ring.0
                .iter()
                .filter(|entry| entry.until.is_none_or(|until| until > now))
        };
        let active = |entry: &&Entry| entry.active_from.is_some_and(|from| from <= now);
        let ready = live().find(active);
        let primary = ready.or(ring.0.first())?;
        Some(KeyRing {
            primary: primary.value.clone(),
            is_active: ready.is_some(),
            all: live().map(|entry| entry.value.clone()).collect(),
        })
    }

    pub(crate) fn snapshots(&self, now: Instant) -> HashMap<SecretKey, KeyRing> {
        let rings = self.0.keys();
        rings
            .filter_map(|key| Some((key.clone(), self.snapshot(key.as_str(), now)?)))
            .collect()
    }

    /// Equal at two moments exactly if nothing has changed that a build could see.
    pub(crate) fn fingerprint(&self, now: Instant) -> HashMap<SecretKey, (u64, Vec<u64>)> {
        let prints = |ring: KeyRing| {
            (
                ring.primary.fingerprint(),
                ring.all.iter().map(SecretValue::fingerprint).collect(),
            )
        };
        self.snapshots(now)
            .into_iter()
            .map(|(key, ring)| (key, prints(ring)))
            .collect()
    }
}

impl Ring {
    /// The ring with `value` in front, which may sign from `active_from` on.
    fn rotated(
        &self,
        value: &SecretValue,
        active_from: Instant,
        timing: RotationTiming,
        now: Instant,
    ) -> Self {
        let mut entries = self.0.clone();
        entries.retain(|entry| entry.until.is_none_or(|until| until > now));
        if entries.first().is_some_and(|newest| newest.value == *value) {
            return Self(entries);
        }
        entries.retain(|entry| entry.value != *value);
        for entry in &mut entries {
            entry.active_from = entry.active_from.filter(|from| *from <= now);
            entry.until = entry
                .until
                .or(Some(later(active_from.max(now), timing.grace_period)));
        }
        entries.insert(
            0,
            Entry {
                value: value.clone(),
                active_from: Some(active_from),
                until: None,
            },
        );
        Self(entries)
    }
}

/// `wait` from `now`, or in effect never where the clock cannot hold that.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now + wait.min(AGES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::PreviousSecret;

    const TIMING: RotationTiming = RotationTiming {
        activation_delay: Duration::from_secs(10),
        grace_period: Duration::from_secs(100),
    };

    #[tokio::test(start_paused = true)]
    async fn a_new_secret_verifies_at_once_signs_later_and_outlives_the_old() {
        let resolver = secretwell_resolver::Resolver::new(
            secretwell_core::MemoryProvider::from_iter([("K", "one")]),
        );
        let secret = resolver.get("K").await.unwrap();
        let (key, start) = (SecretKey::parse("K").unwrap(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let read = |text: &str| {
            let mut secret = secret.clone();
            secret.value = text.into();
            vec![(key.clone(), secret)]
        };
        let seen = |rings: &Rings, now| {
            let ring = rings.snapshot("K", now).unwrap();
            let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
            (
                text(ring.primary()),
                ring.iter().map(text).collect::<Vec<_>>().join(","),
            )
        };
        let pair = |primary: &str, all: &str| (primary.to_owned(), all.to_owned());

        let rings = Rings::default().with(&read("one"), TIMING, start);
        assert_eq!(seen(&rings, start), pair("one", "one"));
        assert_eq!(rings.next_transition(start), None);

        let rings = rings.with(&read("two"), TIMING, at(1));
        assert_eq!(seen(&rings, at(1)), pair("one", "two,one"));
        assert_eq!(rings.next_transition(at(1)), Some(at(11)));
        assert_eq!(seen(&rings, at(11)), pair("two", "two,one"));
        assert_eq!(rings.next_transition(at(11)), Some(at(111)));
        assert_eq!(seen(&rings, at(111)), pair("two", "two"));

        // Two rotations within the grace_period, then back to the first.
        let rings = rings.with(&read("three"), TIMING, at(50));
        assert_eq!(seen(&rings, at(70)), pair("three", "three,two,one"));
        let rings = rings.with(&read("one"), TIMING, at(80));
        assert_eq!(seen(&rings, at(80)), pair("one", "one,three,two"));
        assert_eq!(seen(&rings, at(95)), pair("one", "one,three,two"));

        // What is replaced before it was active never signs, whatever replaces it.
        let rings = Rings::default().with(&read("one"), TIMING, start);
        let rings = rings.with(&read("two"), TIMING, at(1));
        let back = rings.with(&read("one"), TIMING, at(5));
        assert_eq!(seen(&back, at(5)), pair("one", "one,two"));
        assert_eq!(seen(&back, at(20)), pair("one", "one,two"));
        let on = rings.with(&read("three"), TIMING, at(5));
        assert_eq!(seen(&on, at(12)), pair("one", "three,two,one"));
        assert_eq!(seen(&on, at(15)), pair("three", "three,two,one"));

        let for_ever = RotationTiming {
            grace_period: Duration::MAX,
            ..TIMING
        };
        let rings = Rings::default().with(&read("one"), for_ever, start);
        let rings = rings.with(&read("two"), for_ever, at(1));
        assert_eq!(seen(&rings, at(1_000_000)), pair("two", "two,one"));
    }
    fn text(value: &SecretValue) -> String {
        value.expose_text().unwrap().to_owned()
    }

    fn verifying(ring: &KeyRing) -> String {
        ring.iter().map(text).collect::<Vec<_>>().join(",")
    }

    #[tokio::test(start_paused = true)]
    async fn numbered_keys_rotate_as_one_ring() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let read = |pairs: &[(&str, &str)]| -> Vec<(SecretKey, Resolved)> {
            let origin = || secretwell_core::Origin::new("test", "");
            let secret = |(key, value): &(&str, &str)| {
                let value = Resolved::fixed((*value).into(), origin());
                (SecretKey::parse(key).unwrap(), value)
            };
            pairs.iter().map(secret).collect()
        };
        let seen = |rings: &Rings, now| {
            let parts = ["K_1", "K"].map(|key| rings.snapshot(key, now));
            let ring = KeyRing::merge(parts.into_iter().flatten()).unwrap();
            (text(ring.primary()), verifying(&ring))
        };
        let pair = |primary: &str, all: &str| (primary.to_owned(), all.to_owned());

        let rings = Rings::default().with(&read(&[("K", "old")]), TIMING, start);
        let rings = rings.with(&read(&[("K", "old"), ("K_1", "new")]), TIMING, at(1));
        assert_eq!(seen(&rings, at(1)), pair("old", "new,old"));
        assert_eq!(seen(&rings, at(11)), pair("new", "new,old"));
        // Everybody knows the new one, so it does not wait again when it moves to the other key.
        let rings = rings.with(&read(&[("K", "new")]), TIMING, at(20));
        assert_eq!(seen(&rings, at(20)), pair("new", "new,old"));
        assert!(KeyRing::merge([]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_source_remembers_lives_out_its_grace_and_what_is_revoked_does_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let key = SecretKey::parse("K").unwrap();
        let origin = secretwell_core::Origin::new("test", "");
        let read = [(key.clone(), Resolved::fixed("new".into(), origin))];
        let mut rings = Rings::default().with(&read, TIMING, start);
        let history = History {
            wait: Duration::from_secs(4),
            previous: vec![PreviousSecret {
                value: "old".into(),
                left: Duration::from_secs(50),
                was_active: true,
            }],
        };
        rings.remember(&key, history, start);
        for (seconds, signing, all) in [
            (0, "old", "new,old"),
            (4, "new", "new,old"),
            (50, "new", "new"),
        ] {
            let ring = rings.snapshot("K", at(seconds)).unwrap();
            assert_eq!(
                (text(ring.primary()).as_str(), verifying(&ring).as_str()),
                (signing, all)
            );
        }
        rings.revoke_previous(start);
        let ring = rings.snapshot("K", start).unwrap();
        assert_eq!(
            (text(ring.primary()).as_str(), verifying(&ring).as_str()),
            ("new", "new")
        );
    }
}
