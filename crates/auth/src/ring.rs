//! [`KeyRing`], and the rotation of key rings: which secrets verify, and which one signs.

use std::collections::HashMap;
use std::time::Duration;

use secretwell_core::{SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::history::History;

/// The secrets of one key at one point of a rotation.
///
/// - A new secret verifies immediately, because another instance might already sign with it.
/// - It signs only after the activation delay, when every instance has had time to read it.
/// - The previous secret verifies until its grace period ends.
///
/// A ring does not change. [`LazyAuth`](crate::LazyAuth) rebuilds with a new ring when a secret
/// becomes active and when a grace period ends.
///
/// ```
/// use secretwell::auth::{BuildContext, KeyRing, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     #[expect(dead_code, reason = "the build uses its key ring")]
///     auth_secret: SecretString,
/// }
///
/// struct Sessions {
///     keys: KeyRing,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([(
///     "AUTH_SECRET",
///     "correct horse battery staple, at length",
/// )]);
/// let sessions = LazyAuth::new(
///     Resolver::new(memory),
///     |_: Secrets, context: BuildContext| async move {
///         let keys = context.key_ring("AUTH_SECRET")?;
///         Ok(Sessions { keys })
///     },
/// );
///
/// let sessions = sessions.get().await?;
/// let signs_with = sessions.keys.primary();
/// assert!(sessions.keys.iter().any(|verifies_with| verifies_with == signs_with));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct KeyRing {
    primary: SecretValue,
    /// Whether the activation delay of the primary secret is over.
    is_active: bool,
    all: Vec<SecretValue>,
}

impl KeyRing {
    /// Creates a ring of one secret, for use without a [`LazyAuth`](crate::LazyAuth).
    pub fn new(secret: impl Into<SecretValue>) -> Self {
        let secret = secret.into();
        Self {
            primary: secret.clone(),
            is_active: true,
            all: vec![secret],
        }
    }

    /// Merges the rings of several keys, in order of preference, into one. Returns `None` if there
    /// are no rings.
    ///
    /// The primary secret is that of the first ring whose primary secret is active, or that of the
    /// first ring if no primary secret is active.
    pub fn merge(rings: impl IntoIterator<Item = Self>) -> Option<Self> {
        let rings: Vec<Self> = rings.into_iter().collect();
        let active = rings.iter().find(|ring| ring.is_active);
        let first = active.or(rings.first())?;
        let mut merged = Self {
            primary: first.primary.clone(),
            is_active: first.is_active,
            all: Vec::new(),
        };
        // The current secrets of all keys come before the previous ones, because other programs
        // that read the same keys have the current secrets in this order.
        let depth = rings.iter().map(|ring| ring.all.len()).max()?;
        for age in 0..depth {
            for value in rings.iter().filter_map(|ring| ring.all.get(age)) {
                if !merged.all.contains(value) {
                    merged.all.push(value.clone());
                }
            }
        }
        Some(merged)
    }

    /// Adds a previous secret as the last one of the ring. It only verifies.
    #[must_use]
    pub fn with_previous(mut self, secret: impl Into<SecretValue>) -> Self {
        self.all.push(secret.into());
        self
    }

    /// Returns the secret to sign and encrypt with.
    pub fn primary(&self) -> &SecretValue {
        &self.primary
    }

    /// Returns all secrets to verify and decrypt with, newest first. They include the primary
    /// secret.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SecretValue> {
        self.all.iter()
    }

    /// Returns the primary secret, followed by the other secrets in their order.
    #[cfg(feature = "authjs")]
    pub(crate) fn primary_first(&self) -> impl Iterator<Item = &SecretValue> {
        let others = self.iter().filter(|secret| **secret != self.primary);
        std::iter::once(&self.primary).chain(others)
    }
}

/// The two time spans of a rotation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotationTiming {
    pub(crate) activation_delay: Duration,
    pub(crate) grace_period: Duration,
}

impl RotationTiming {
    /// Returns how long the previous secret verifies after a new secret was first read.
    pub(crate) fn overlap(self) -> Duration {
        self.activation_delay.saturating_add(self.grace_period)
    }
}

/// The timed rings of all keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rings(HashMap<SecretKey, Ring>);

/// The secrets of one key, newest first.
#[derive(Debug, Clone)]
struct Ring(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    value: SecretValue,
    /// From this time on, the secret can sign. It is `None` if the secret was replaced before that
    /// time. Such a secret never signs, because another instance might never have read it.
    active_from: Option<Instant>,
    /// End of the grace period, or `None` for the newest secret.
    expires_at: Option<Instant>,
}

impl Rings {
    /// Returns the rings after `secrets` were read at `now`. Drops the rings of all other keys.
    pub(crate) fn rotated(
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
                    expires_at: None,
                }]),
            };
            (key.clone(), ring)
        });
        Self(rotated.collect())
    }

    /// Returns the time from which a secret that is new to its key can sign.
    ///
    /// That is `now` for the first secrets that are read, and for a value that is already active
    /// under any key, because every instance knows such a value. Otherwise the activation delay
    /// applies.
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

    /// Returns whether `key` has a ring.
    pub(crate) fn contains(&self, key: &SecretKey) -> bool {
        self.0.contains_key(key)
    }

    /// Adds the version history of `key` after its current secret.
    pub(crate) fn add_history(&mut self, key: &SecretKey, history: History, now: Instant) {
        let Some(Ring(entries)) = self.0.get_mut(key) else {
            return;
        };
        for newest in entries.iter_mut() {
            newest.active_from = Some(later(now, history.activates_in));
        }
        entries.extend(history.previous.into_iter().map(|previous| Entry {
            value: previous.value,
            active_from: previous.was_active.then_some(now),
            expires_at: Some(later(now, previous.expires_in)),
        }));
    }

    /// Removes all secrets but the newest of each key, and activates the newest.
    pub(crate) fn revoke_previous(&mut self, now: Instant) {
        for Ring(entries) in self.0.values_mut() {
            entries.truncate(1);
            for newest in entries {
                newest.active_from = newest.active_from.map(|from| from.min(now));
            }
        }
    }

    /// Returns the time when the next secret becomes active or the next grace period ends.
    pub(crate) fn next_transition(&self, now: Instant) -> Option<Instant> {
        let entries = self.0.values().flat_map(|ring| &ring.0);
        let transitions =
            entries.flat_map(|entry| entry.active_from.into_iter().chain(entry.expires_at));
        transitions.filter(|transition| *transition > now).min()
    }

    /// Returns the ring of `key` at `now`.
    pub(crate) fn snapshot(&self, key: &str, now: Instant) -> Option<KeyRing> {
        let ring = self.0.get(key)?;
        let unexpired = || ring.0.iter().filter(|entry| !entry.is_expired(now));
        let is_active = |entry: &&Entry| entry.active_from.is_some_and(|from| from <= now);
        let active = unexpired().find(is_active);
        let primary = active.or(ring.0.first())?;
        Some(KeyRing {
            primary: primary.value.clone(),
            is_active: active.is_some(),
            all: unexpired().map(|entry| entry.value.clone()).collect(),
        })
    }

    /// Returns the rings of all keys at `now`.
    pub(crate) fn snapshots(&self, now: Instant) -> HashMap<SecretKey, KeyRing> {
        let rings = self.0.keys();
        rings
            .filter_map(|key| Some((key.clone(), self.snapshot(key.as_str(), now)?)))
            .collect()
    }

    /// Returns a fingerprint of [`snapshots`](Self::snapshots). Two fingerprints are equal exactly
    /// if a build would get equal rings.
    pub(crate) fn fingerprint(&self, now: Instant) -> HashMap<SecretKey, (u64, Vec<u64>)> {
        let fingerprints = |ring: KeyRing| {
            (
                ring.primary.fingerprint(),
                ring.all.iter().map(SecretValue::fingerprint).collect(),
            )
        };
        self.snapshots(now)
            .into_iter()
            .map(|(key, ring)| (key, fingerprints(ring)))
            .collect()
    }
}

impl Ring {
    /// Returns the ring with `value` as its newest secret, which can sign from `active_from` on.
    fn rotated(
        &self,
        value: &SecretValue,
        active_from: Instant,
        timing: RotationTiming,
        now: Instant,
    ) -> Self {
        let mut entries = self.0.clone();
        entries.retain(|entry| !entry.is_expired(now));
        if entries.first().is_some_and(|newest| newest.value == *value) {
            return Self(entries);
        }
        entries.retain(|entry| entry.value != *value);
        for entry in &mut entries {
            entry.active_from = entry.active_from.filter(|from| *from <= now);
            entry.expires_at = entry
                .expires_at
                .or(Some(later(active_from.max(now), timing.grace_period)));
        }
        entries.insert(
            0,
            Entry {
                value: value.clone(),
                active_from: Some(active_from),
                expires_at: None,
            },
        );
        Self(entries)
    }
}

impl Entry {
    fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
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
    use super::*;
    use crate::history::PreviousSecret;

    const TIMING: RotationTiming = RotationTiming {
        activation_delay: Duration::from_secs(10),
        grace_period: Duration::from_secs(100),
    };

    fn text(value: &SecretValue) -> String {
        value.expose_text().unwrap().to_owned()
    }

    fn texts(ring: &KeyRing) -> String {
        ring.iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// The primary secret, and all secrets joined by commas.
    fn pair(primary: &str, all: &str) -> (String, String) {
        (primary.to_owned(), all.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn new_secret_verifies_immediately_and_signs_after_the_activation_delay() {
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
        let snapshot = |rings: &Rings, now| {
            let ring = rings.snapshot("K", now).unwrap();
            (text(ring.primary()), texts(&ring))
        };

        let rings = Rings::default().rotated(&read("one"), TIMING, start);
        assert_eq!(snapshot(&rings, start), pair("one", "one"));
        assert_eq!(rings.next_transition(start), None);

        let rings = rings.rotated(&read("two"), TIMING, at(1));
        assert_eq!(snapshot(&rings, at(1)), pair("one", "two,one"));
        assert_eq!(rings.next_transition(at(1)), Some(at(11)));
        assert_eq!(snapshot(&rings, at(11)), pair("two", "two,one"));
        assert_eq!(rings.next_transition(at(11)), Some(at(111)));
        assert_eq!(snapshot(&rings, at(111)), pair("two", "two"));

        // Two rotations within the grace period, then a rotation back to the first secret.
        let rings = rings.rotated(&read("three"), TIMING, at(50));
        assert_eq!(snapshot(&rings, at(70)), pair("three", "three,two,one"));
        let rings = rings.rotated(&read("one"), TIMING, at(80));
        assert_eq!(snapshot(&rings, at(80)), pair("one", "one,three,two"));
        assert_eq!(snapshot(&rings, at(95)), pair("one", "one,three,two"));

        // A secret that is replaced before it is active never signs.
        let rings = Rings::default().rotated(&read("one"), TIMING, start);
        let rings = rings.rotated(&read("two"), TIMING, at(1));
        let back = rings.rotated(&read("one"), TIMING, at(5));
        assert_eq!(snapshot(&back, at(5)), pair("one", "one,two"));
        assert_eq!(snapshot(&back, at(20)), pair("one", "one,two"));
        let forward = rings.rotated(&read("three"), TIMING, at(5));
        assert_eq!(snapshot(&forward, at(12)), pair("one", "three,two,one"));
        assert_eq!(snapshot(&forward, at(15)), pair("three", "three,two,one"));

        let no_expiry = RotationTiming {
            grace_period: Duration::MAX,
            ..TIMING
        };
        let rings = Rings::default().rotated(&read("one"), no_expiry, start);
        let rings = rings.rotated(&read("two"), no_expiry, at(1));
        assert_eq!(snapshot(&rings, at(1_000_000)), pair("two", "two,one"));
    }

    #[tokio::test(start_paused = true)]
    async fn numbered_keys_merge_into_one_ring() {
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
        let snapshot = |rings: &Rings, now| {
            let parts = ["K_1", "K"].map(|key| rings.snapshot(key, now));
            let ring = KeyRing::merge(parts.into_iter().flatten()).unwrap();
            (text(ring.primary()), texts(&ring))
        };

        let rings = Rings::default().rotated(&read(&[("K", "old")]), TIMING, start);
        let rings = rings.rotated(&read(&[("K", "old"), ("K_1", "new")]), TIMING, at(1));
        assert_eq!(snapshot(&rings, at(1)), pair("old", "new,old"));
        assert_eq!(snapshot(&rings, at(11)), pair("new", "new,old"));
        // The new secret is active already, so it stays active when it moves to the other key.
        let rings = rings.rotated(&read(&[("K", "new")]), TIMING, at(20));
        assert_eq!(snapshot(&rings, at(20)), pair("new", "new,old"));
        assert!(KeyRing::merge([]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn previous_secret_from_the_history_verifies_until_it_expires_or_is_revoked() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let key = SecretKey::parse("K").unwrap();
        let origin = secretwell_core::Origin::new("test", "");
        let read = [(key.clone(), Resolved::fixed("new".into(), origin))];
        let mut rings = Rings::default().rotated(&read, TIMING, start);
        let history = History {
            activates_in: Duration::from_secs(4),
            previous: vec![PreviousSecret {
                value: "old".into(),
                expires_in: Duration::from_secs(50),
                was_active: true,
            }],
        };
        rings.add_history(&key, history, start);
        for (seconds, primary, all) in [
            (0, "old", "new,old"),
            (4, "new", "new,old"),
            (50, "new", "new"),
        ] {
            let ring = rings.snapshot("K", at(seconds)).unwrap();
            assert_eq!((text(ring.primary()), texts(&ring)), pair(primary, all));
        }
        rings.revoke_previous(start);
        let ring = rings.snapshot("K", start).unwrap();
        assert_eq!((text(ring.primary()), texts(&ring)), pair("new", "new"));
    }
}
