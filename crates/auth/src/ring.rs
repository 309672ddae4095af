//! Rotation without logouts: which secrets verify, and which one signs.

use std::collections::HashMap;
use std::time::Duration;

use secretwell_core::{Resolved, SecretKey, SecretValue};
use tokio::time::Instant;

use crate::history::History;

/// The secrets of one key at one moment of its rotation.
///
/// A new secret verifies at once, so that whatever other instances sign with it is accepted; it signs
/// only after the activation delay, when every instance has had the time to learn of it. The one
/// before it goes on verifying for the grace. Each build of the auth gets the ring as it is then, and
/// the auth is built anew when a secret becomes active or its grace ends: whoever uses a ring needs
/// no clock.
#[derive(Debug, Clone)]
pub struct KeyRing {
    signing: SecretValue,
    /// Whether every instance has had the time to learn of the signing one.
    is_active: bool,
    verifying: Vec<SecretValue>,
}

impl KeyRing {
    /// A ring of one secret, for what is built without a [`LazyAuth`](crate::LazyAuth).
    pub fn of(secret: impl Into<SecretValue>) -> Self {
        let secret = secret.into();
        Self {
            signing: secret.clone(),
            is_active: true,
            verifying: vec![secret],
        }
    }

    /// One ring of the rings of several keys, the first of which is the one to sign with: that is done
    /// by the first that every instance knows of. `None` without any ring.
    pub fn joined(rings: impl IntoIterator<Item = Self>) -> Option<Self> {
        let rings: Vec<Self> = rings.into_iter().collect();
        let active = rings.iter().find(|ring| ring.is_active);
        let first = active.or(rings.first())?;
        let mut joined = Self {
            signing: first.signing.clone(),
            is_active: first.is_active,
            verifying: Vec::new(),
        };
        // What each key has now comes before what it had: that is the list that others know.
        let depth = rings.iter().map(|ring| ring.verifying.len()).max()?;
        for age in 0..depth {
            for value in rings.iter().filter_map(|ring| ring.verifying.get(age)) {
                if !joined.verifying.contains(value) {
                    joined.verifying.push(value.clone());
                }
            }
        }
        Some(joined)
    }

    /// The same with an earlier secret, which verifies after all others.
    pub fn with_earlier(mut self, secret: impl Into<SecretValue>) -> Self {
        self.verifying.push(secret.into());
        self
    }

    /// The secret to sign and encrypt with.
    pub fn signing(&self) -> &SecretValue {
        &self.signing
    }

    /// The secrets to verify and decrypt with, the newest first. The signing one is among them.
    pub fn verifying(&self) -> impl ExactSizeIterator<Item = &SecretValue> {
        self.verifying.iter()
    }

    /// The secret to sign with, and then the others in their order.
    #[cfg(feature = "authjs")]
    pub(crate) fn signing_first(&self) -> impl Iterator<Item = &SecretValue> {
        let others = self.verifying().filter(|secret| **secret != self.signing);
        std::iter::once(&self.signing).chain(others)
    }
}

/// How rotation takes its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) activation_delay: Duration,
    pub(crate) grace: Duration,
}

impl Pace {
    /// For how long after a rotation its old secret verifies.
    pub(crate) fn overlap(self) -> Duration {
        self.activation_delay.saturating_add(self.grace)
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
    pub(crate) fn with(&self, secrets: &[(SecretKey, Resolved)], pace: Pace, now: Instant) -> Self {
        let turned = secrets.iter().map(|(key, secret)| {
            let ring = match self.0.get(key) {
                Some(ring) => {
                    let from = self.active_from(&secret.value, pace, now);
                    ring.turned(&secret.value, from, pace, now)
                }
                None => Ring(vec![Entry {
                    value: secret.value.clone(),
                    active_from: Some(self.active_from(&secret.value, pace, now)),
                    until: None,
                }]),
            };
            (key.clone(), ring)
        });
        Self(turned.collect())
    }

    /// From when a secret that is new to its key may sign: at once if it is among the first that are
    /// read, or if it has been active before, under whichever key: then everybody knows it.
    fn active_from(&self, value: &SecretValue, pace: Pace, now: Instant) -> Instant {
        let entries = || self.0.values().flat_map(|ring| &ring.0);
        let was_active = |entry: &Entry| {
            entry.value == *value && entry.active_from.is_some_and(|from| from <= now)
        };
        match self.0.is_empty() || entries().any(was_active) {
            true => now,
            false => later(now, pace.activation_delay),
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
        entries.extend(history.earlier.into_iter().map(|earlier| Entry {
            value: earlier.value,
            active_from: earlier.was_active.then_some(now),
            until: Some(later(now, earlier.left)),
        }));
    }

    /// Leaves the newest secret of each key, which signs from now on.
    pub(crate) fn revoke_earlier(&mut self, now: Instant) {
        for Ring(entries) in self.0.values_mut() {
            entries.truncate(1);
            for newest in entries {
                newest.active_from = newest.active_from.map(|from| from.min(now));
            }
        }
    }

    /// When the next secret becomes active or the next grace ends.
    pub(crate) fn next_turn(&self, now: Instant) -> Option<Instant> {
        let entries = self.0.values().flat_map(|ring| &ring.0);
        let turns = entries.flat_map(|entry| entry.active_from.into_iter().chain(entry.until));
        turns.filter(|turn| *turn > now).min()
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
        let signing = ready.or(ring.0.first())?;
        Some(KeyRing {
            signing: signing.value.clone(),
            is_active: ready.is_some(),
            verifying: live().map(|entry| entry.value.clone()).collect(),
        })
    }

    pub(crate) fn snapshots(&self, now: Instant) -> HashMap<SecretKey, KeyRing> {
        let rings = self.0.keys();
        rings
            .filter_map(|key| Some((key.clone(), self.snapshot(key.as_str(), now)?)))
            .collect()
    }

    /// Equal at two moments exactly if nothing has changed that a build could see.
    pub(crate) fn sight(&self, now: Instant) -> HashMap<SecretKey, (u64, Vec<u64>)> {
        let prints = |ring: KeyRing| {
            (
                ring.signing.fingerprint(),
                ring.verifying
                    .iter()
                    .map(SecretValue::fingerprint)
                    .collect(),
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
    fn turned(&self, value: &SecretValue, active_from: Instant, pace: Pace, now: Instant) -> Self {
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
                .or(Some(later(active_from.max(now), pace.grace)));
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
    use crate::history::Earlier;

    const PACE: Pace = Pace {
        activation_delay: Duration::from_secs(10),
        grace: Duration::from_secs(100),
    };

    #[tokio::test(start_paused = true)]
    async fn a_new_secret_verifies_at_once_signs_later_and_outlives_the_old() {
        let resolver = secretwell_core::Resolver::new(secretwell_core::MemoryProvider::from_iter(
            [("K", "one")],
        ));
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
                text(ring.signing()),
                ring.verifying().map(text).collect::<Vec<_>>().join(","),
            )
        };
        let pair = |signing: &str, verifying: &str| (signing.to_owned(), verifying.to_owned());

        let rings = Rings::default().with(&read("one"), PACE, start);
        assert_eq!(seen(&rings, start), pair("one", "one"));
        assert_eq!(rings.next_turn(start), None);

        let rings = rings.with(&read("two"), PACE, at(1));
        assert_eq!(seen(&rings, at(1)), pair("one", "two,one"));
        assert_eq!(rings.next_turn(at(1)), Some(at(11)));
        assert_eq!(seen(&rings, at(11)), pair("two", "two,one"));
        assert_eq!(rings.next_turn(at(11)), Some(at(111)));
        assert_eq!(seen(&rings, at(111)), pair("two", "two"));

        // Two rotations within the grace, then back to the first.
        let rings = rings.with(&read("three"), PACE, at(50));
        assert_eq!(seen(&rings, at(70)), pair("three", "three,two,one"));
        let rings = rings.with(&read("one"), PACE, at(80));
        assert_eq!(seen(&rings, at(80)), pair("one", "one,three,two"));
        assert_eq!(seen(&rings, at(95)), pair("one", "one,three,two"));

        // What is replaced before it was active never signs, whatever replaces it.
        let rings = Rings::default().with(&read("one"), PACE, start);
        let rings = rings.with(&read("two"), PACE, at(1));
        let back = rings.with(&read("one"), PACE, at(5));
        assert_eq!(seen(&back, at(5)), pair("one", "one,two"));
        assert_eq!(seen(&back, at(20)), pair("one", "one,two"));
        let on = rings.with(&read("three"), PACE, at(5));
        assert_eq!(seen(&on, at(12)), pair("one", "three,two,one"));
        assert_eq!(seen(&on, at(15)), pair("three", "three,two,one"));

        let for_ever = Pace {
            grace: Duration::MAX,
            ..PACE
        };
        let rings = Rings::default().with(&read("one"), for_ever, start);
        let rings = rings.with(&read("two"), for_ever, at(1));
        assert_eq!(seen(&rings, at(1_000_000)), pair("two", "two,one"));
    }
    fn text(value: &SecretValue) -> String {
        value.expose_text().unwrap().to_owned()
    }

    fn verifying(ring: &KeyRing) -> String {
        ring.verifying().map(text).collect::<Vec<_>>().join(",")
    }

    #[tokio::test(start_paused = true)]
    async fn numbered_keys_rotate_as_one_ring() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let read = |pairs: &[(&str, &str)]| -> Vec<(SecretKey, Resolved)> {
            let source = || secretwell_core::Source::new("test", "");
            let secret = |(key, value): &(&str, &str)| {
                let value = Resolved::fixed((*value).into(), source());
                (SecretKey::parse(key).unwrap(), value)
            };
            pairs.iter().map(secret).collect()
        };
        let seen = |rings: &Rings, now| {
            let parts = ["K_1", "K"].map(|key| rings.snapshot(key, now));
            let ring = KeyRing::joined(parts.into_iter().flatten()).unwrap();
            (text(ring.signing()), verifying(&ring))
        };
        let pair = |signing: &str, verifying: &str| (signing.to_owned(), verifying.to_owned());

        let rings = Rings::default().with(&read(&[("K", "old")]), PACE, start);
        let rings = rings.with(&read(&[("K", "old"), ("K_1", "new")]), PACE, at(1));
        assert_eq!(seen(&rings, at(1)), pair("old", "new,old"));
        assert_eq!(seen(&rings, at(11)), pair("new", "new,old"));
        // Everybody knows the new one, so it does not wait again when it moves to the other key.
        let rings = rings.with(&read(&[("K", "new")]), PACE, at(20));
        assert_eq!(seen(&rings, at(20)), pair("new", "new,old"));
        assert!(KeyRing::joined([]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_source_remembers_lives_out_its_grace_and_what_is_revoked_does_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let key = SecretKey::parse("K").unwrap();
        let source = secretwell_core::Source::new("test", "");
        let read = [(key.clone(), Resolved::fixed("new".into(), source))];
        let mut rings = Rings::default().with(&read, PACE, start);
        let history = History {
            wait: Duration::from_secs(4),
            earlier: vec![Earlier {
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
                (text(ring.signing()).as_str(), verifying(&ring).as_str()),
                (signing, all)
            );
        }
        rings.revoke_earlier(start);
        let ring = rings.snapshot("K", start).unwrap();
        assert_eq!(
            (text(ring.signing()).as_str(), verifying(&ring).as_str()),
            ("new", "new")
        );
    }
}
