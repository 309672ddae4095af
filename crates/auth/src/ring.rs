//! Rotation without logouts: which secrets verify, and which one signs.

use std::collections::HashMap;
use std::time::Duration;

use secretwell_core::{Resolved, SecretKey, SecretValue};
use tokio::time::Instant;

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
    verifying: Vec<SecretValue>,
}

impl KeyRing {
    /// The secret to sign and encrypt with.
    pub fn signing(&self) -> &SecretValue {
        &self.signing
    }

    /// The secrets to verify and decrypt with, the newest first. The signing one is among them.
    pub fn verifying(&self) -> impl ExactSizeIterator<Item = &SecretValue> {
        self.verifying.iter()
    }
}

/// How rotation takes its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) activation_delay: Duration,
    pub(crate) grace: Duration,
}

/// The rings of all keys, as they grow with each rotation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rings(HashMap<SecretKey, Ring>);

#[derive(Debug, Clone)]
struct Ring {
    newest: SecretValue,
    active_from: Instant,
    /// The secrets before, the latest first, each with the end of its grace.
    earlier: Vec<(SecretValue, Instant)>,
}

impl Rings {
    /// The rings after `secrets` were read at `now`. Keys that are not among them are gone.
    pub(crate) fn with(&self, secrets: &[(SecretKey, Resolved)], pace: Pace, now: Instant) -> Self {
        let turned = secrets.iter().map(|(key, secret)| {
            let ring = match self.0.get(key) {
                Some(ring) => ring.turned(&secret.value, pace, now),
                None => Ring {
                    newest: secret.value.clone(),
                    active_from: now,
                    earlier: Vec::new(),
                },
            };
            (key.clone(), ring)
        });
        Self(turned.collect())
    }

    /// When the next secret becomes active or the next grace ends.
    pub(crate) fn next_turn(&self, now: Instant) -> Option<Instant> {
        let turns = self.0.values().flat_map(|ring| {
            ring.earlier
                .iter()
                .map(|(_, until)| *until)
                .chain([ring.active_from])
        });
        turns.filter(|turn| *turn > now).min()
    }

    pub(crate) fn snapshot(&self, key: &str, now: Instant) -> Option<KeyRing> {
        let ring = self.0.get(key)?;
        let live = || {
            ring.earlier
                .iter()
                .filter(|(_, until)| *until > now)
                .map(|(value, _)| value)
        };
        let signing = match live().next() {
            Some(before) if now < ring.active_from => before,
            _ => &ring.newest,
        };
        let verifying = std::iter::once(&ring.newest)
            .chain(live())
            .cloned()
            .collect();
        Some(KeyRing {
            signing: signing.clone(),
            verifying,
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
    fn turned(&self, value: &SecretValue, pace: Pace, now: Instant) -> Self {
        let mut ring = self.clone();
        ring.earlier.retain(|(_, until)| *until > now);
        if ring.newest != *value {
            let active_from = now + pace.activation_delay;
            let before = std::mem::replace(&mut ring.newest, value.clone());
            // Rotating back to an earlier secret takes it out of the earlier ones.
            ring.earlier.retain(|(earlier, _)| earlier != value);
            ring.earlier.insert(0, (before, active_from + pace.grace));
            ring.active_from = active_from;
        }
        ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(seen(&rings, at(95)), pair("one", "one,three,two"));
    }
}
