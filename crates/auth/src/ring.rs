//! [`Rings`], the secrets of all keys with the times of their rotation.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

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
    /// The version that was read last.
    version: Option<Version>,
    /// From this time on, the secret can sign. It is `None` if the secret was replaced before that
    /// time. Such a secret never signs, because another instance might never have read it.
    active_from: Option<Instant>,
    /// `None` for the newest secret.
    replaced: Option<Replaced>,
    /// Whether the secret is known only from the version history.
    is_from_history: bool,
}

/// How a previous secret was replaced.
#[derive(Debug, Clone)]
pub(crate) struct Replaced {
    /// When the next secret was read.
    pub(crate) at: Instant,
    /// The end of the grace period.
    expires_at: Instant,
    /// The version of the next secret, if the source reports it.
    pub(crate) by: Option<Version>,
    /// The earliest time of the replacement by the clock of the source. The next secret might have been
    /// written before `by`, if there is a version between them that was not read.
    pub(crate) earliest: Option<SystemTime>,
}

#[cfg(test)]
impl Replaced {
    pub(crate) fn new(at: Instant, by: Option<Version>, earliest: Option<SystemTime>) -> Self {
        Self {
            at,
            expires_at: at,
            by,
            earliest,
        }
    }
}

/// What a build sees of one ring: the fingerprints of the primary secret and of all secrets.
pub(crate) type RingFingerprint = (u64, Vec<u64>);

/// What was read of the version history of one key.
#[derive(Debug)]
pub(crate) struct KeyHistory {
    pub(crate) key: SecretKey,
    pub(crate) history: History,
    pub(crate) extent: Extent,
}

impl KeyHistory {
    /// Returns whether this is the history of `secret`, and not the one of an earlier or later version.
    pub(crate) fn is_of(&self, (key, secret): &(SecretKey, Resolved)) -> bool {
        let number = |version: Option<&Version>| version.and_then(Version::number);
        let newest = self.history.ring.0.first();
        newest.is_some_and(|newest| {
            self.key == *key
                && newest.value == secret.value
                && number(newest.version.as_ref()) == number(secret.version.as_ref())
        })
    }
}

/// How much of a version history was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything that can still verify.
    Complete,
    /// A part of it, because a read failed.
    Failed,
    /// A part of it, because there are too many versions.
    Limited,
}

/// The ring of a key according to the version history of its source.
#[derive(Debug)]
pub(crate) struct History {
    ring: Ring,
    /// The previous secrets that the rules refuse. They are not part of the ring.
    refused: Vec<RefusedVersion>,
}

/// A previous secret that would still verify if the rules accepted it.
#[derive(Debug)]
pub(crate) struct RefusedVersion {
    pub(crate) version: Option<Version>,
    /// Why it is refused.
    pub(crate) reason: Cow<'static, str>,
    /// The end of its grace period.
    expires_at: Instant,
}

/// A version of a key in its source.
#[derive(Debug, Clone)]
pub(crate) struct StoredVersion {
    pub(crate) value: SecretValue,
    pub(crate) version: Option<Version>,
    /// The time since the version was written, or `None` if the source does not report it.
    pub(crate) age: Option<Duration>,
    /// Why the rules refuse the value as a previous secret, or `None` if they accept it.
    pub(crate) refused: Option<Cow<'static, str>>,
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
            let known = self.entries().map(|(_, entry)| entry);
            let active_from = active_from(known, &secret.value, timing, now);
            let ring = match self.0.get(key) {
                Some(ring) => ring.rotated(secret.into(), active_from, timing, now),
                None => Ring(vec![Entry::newest(secret.into(), active_from)]),
            };
            (key.clone(), ring)
        });
        let mut rings = Self(rotated.collect());
        rings.keep_previous_of(signing);
        rings
    }

    /// Adds the version history of `key`. What this process has read itself stays. A complete history
    /// replaces an incomplete one.
    pub(crate) fn add_history(
        &mut self,
        key: &SecretKey,
        history: &History,
        extent: Extent,
        timing: Timing,
        now: Instant,
    ) {
        if let Some(ring) = self.0.get_mut(key) {
            ring.add_history(history, extent, timing);
            ring.remove_expired(now);
        }
    }

    /// Lets the newest secrets sign that are active under another key, because every instance knows
    /// them.
    pub(crate) fn activate_known(&mut self, now: Instant) {
        let active = self.entries().filter(|(_, entry)| entry.is_active(now));
        let active: Vec<SecretValue> = active.map(|(_, entry)| entry.value.clone()).collect();
        for newest in self.newest_mut() {
            if active.contains(&newest.value) {
                newest.active_from = newest.active_from.min(Some(now));
            }
        }
    }

    /// Removes the oldest previous secrets of each key until at most `limit` of them are left. Returns the
    /// key of each removed secret and the end of its grace period. The result is empty
    /// if `limit` is 0, because the removal is wanted then.
    pub(crate) fn limit_previous(
        &mut self,
        limit: usize,
        now: Instant,
    ) -> Vec<(SecretKey, Instant)> {
        let mut removed = Vec::new();
        for (key, ring) in &mut self.0 {
            let ends = ring.truncate(limit, now);
            removed.extend(ends.into_iter().map(|end| (key.clone(), end)));
        }
        removed
    }

    /// Removes the previous secrets whose grace period has ended.
    pub(crate) fn remove_expired(&mut self, now: Instant) {
        for ring in self.0.values_mut() {
            ring.remove_expired(now);
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

    /// Removes the previous secrets for which `is_revoked` returns true, and returns them. If no active
    /// secret of a ring is left, its newest one signs immediately, because no instance may sign with a
    /// revoked secret.
    pub(crate) fn remove_previous(
        &mut self,
        now: Instant,
        is_revoked: impl Fn(&SecretKey, &SecretValue, &Replaced) -> bool,
    ) -> Vec<(SecretKey, SecretValue)> {
        let mut removed = Vec::new();
        for (key, Ring(entries)) in &mut self.0 {
            let before = removed.len();
            entries.retain(|entry| match &entry.replaced {
                Some(replaced) if is_revoked(key, &entry.value, replaced) => {
                    removed.push((key.clone(), entry.value.clone()));
                    false
                }
                _ => true,
            });
            if removed.len() > before
                && !entries.iter().any(|entry| entry.is_active(now))
                && let Some(newest) = entries.first_mut()
            {
                newest.active_from = Some(now);
            }
        }
        removed
    }

    /// Lets the newest secret of each key sign from `now` on.
    pub(crate) fn activate_newest(&mut self, now: Instant) {
        for newest in self.newest_mut() {
            newest.active_from = newest.active_from.min(Some(now));
        }
    }

    fn newest_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.values_mut().filter_map(|ring| ring.0.first_mut())
    }

    /// Returns whether `value` is the newest secret of `key`.
    pub(crate) fn is_newest(&self, key: &SecretKey, value: &SecretValue) -> bool {
        self.newest(key).is_some_and(|(newest, _)| newest == value)
    }

    /// Returns the newest secret of `key` and its version.
    pub(crate) fn newest(&self, key: &SecretKey) -> Option<(&SecretValue, Option<&Version>)> {
        let newest = self.0.get(key)?.0.first()?;
        Some((&newest.value, newest.version.as_ref()))
    }

    /// Returns the keys of the rings.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &SecretKey> {
        self.0.keys()
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
        self.keys()
            .filter_map(|key| Some((key.clone(), self.snapshot(key, now)?)))
            .collect()
    }

    /// Returns the ring of `key` at `now`.
    pub(crate) fn snapshot(&self, key: &SecretKey, now: Instant) -> Option<KeyRing> {
        let ring = self.0.get(key)?;
        let unexpired = ring.0.iter().filter(|entry| !entry.is_expired(now));
        let primary = ring.signs(now)?;
        Some(KeyRing {
            primary: primary.value.clone(),
            is_active: primary.is_active(now),
            all: unexpired.map(|entry| entry.value.clone()).collect(),
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
    pub(crate) fn len(&self) -> usize {
        self.entries().count()
    }
}

/// Returns the time from which a secret that is new to its key can sign.
///
/// That is `now` for the first secrets that are read, and for a value that is already active among the
/// `known` ones, because every instance knows such a value. Otherwise the activation delay applies.
fn active_from<'a>(
    known: impl Iterator<Item = &'a Entry>,
    value: &SecretValue,
    timing: Timing,
    now: Instant,
) -> Instant {
    let mut known = known.peekable();
    let is_first = known.peek().is_none();
    match is_first || known.any(|entry| entry.value == *value && entry.is_active(now)) {
        true => now,
        false => later(now, timing.activation_delay),
    }
}

impl Ring {
    /// Returns the ring with `secret` as its newest secret, which can sign from `active_from` on.
    fn rotated(
        &self,
        secret: Read<'_>,
        active_from: Instant,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let value = secret.value;
        let mut ring = self.clone();
        ring.remove_expired(now);
        if let Some(newest) = ring.0.first_mut()
            && newest.value == *value
        {
            newest.version = secret.version.cloned();
            return ring;
        }
        let signs = ring.signs(now).map(|entry| entry.value.clone());
        ring.0.retain(|entry| entry.value != *value);
        let expires_at = later(active_from.max(now), timing.grace_period);
        for entry in &mut ring.0 {
            entry.active_from = entry.active_from.filter(|from| *from <= now);
            let replaced = entry.replaced.get_or_insert_with(|| Replaced {
                at: now,
                expires_at,
                by: secret.version.cloned(),
                earliest: earliest_replacement(entry.version.as_ref(), secret.version),
            });
            // A secret signs until a newer one is active, also if the first newer one never was.
            if signs.as_ref() == Some(&entry.value) {
                replaced.expires_at = replaced.expires_at.max(expires_at);
            }
        }
        ring.0.insert(0, Entry::newest(secret, active_from));
        ring
    }

    fn add_history(&mut self, history: &History, extent: Extent, timing: Timing) {
        let Some((current, previous)) = history.ring.0.split_first() else {
            return;
        };
        let is_known = |added: &Entry| self.0.iter().any(|known| known.value == added.value);
        match extent {
            Extent::Complete => self.0.retain(|entry| !entry.is_from_history),
            Extent::Failed | Extent::Limited if previous.iter().all(is_known) => return,
            Extent::Failed | Extent::Limited => {}
        }
        let position = self.0.iter().position(|it| it.value == current.value);
        let position = position.unwrap_or(self.0.len());
        let (newer, rest) = self.0.split_at_mut(position);
        let mut signs_longer = None;
        if let Some(entry) = rest.first_mut() {
            let replaced_at = entry.replaced.as_ref().map(|replaced| replaced.at);
            let is_active = |from: &Instant| replaced_at.is_none_or(|at| *from <= at);
            entry.active_from = current.active_from.filter(is_active);
            if entry.active_from.is_none() {
                // It was replaced before it was active, so the secret before it signs until a newer one does.
                let active_from = newer.iter().filter_map(|newer| newer.active_from);
                signs_longer = active_from.min();
            }
        }
        let mut added = previous.to_vec();
        if let Some(until) = signs_longer
            && let Some(signs) = added.iter_mut().find(|it| it.active_from.is_some())
            && let Some(replaced) = &mut signs.replaced
        {
            let expires_at = later(until, timing.grace_period);
            replaced.expires_at = replaced.expires_at.max(expires_at);
        }
        added.retain(|added| self.0.iter().all(|known| known.value != added.value));
        self.0.extend(added);
    }

    /// Returns the secret that signs at `now`: the newest one that is active. Before any of them is, it is
    /// the oldest one, because most instances know it.
    fn signs(&self, now: Instant) -> Option<&Entry> {
        let mut unexpired = self.0.iter().filter(|entry| !entry.is_expired(now));
        let active = unexpired.clone().find(|entry| entry.is_active(now));
        active.or_else(|| unexpired.next_back())
    }

    /// Removes the previous secrets that are refused among `versions`, and returns them.
    fn remove_refused(&mut self, versions: &[StoredVersion]) -> Vec<RefusedVersion> {
        let mut refused = Vec::new();
        self.0.retain(|entry| {
            let stored = versions.iter().find(|stored| stored.value == entry.value);
            let reason = stored.and_then(|stored| stored.refused.clone());
            let (Some(replaced), Some(reason)) = (&entry.replaced, reason) else {
                return true;
            };
            refused.push(RefusedVersion {
                version: entry.version.clone(),
                reason,
                expires_at: replaced.expires_at,
            });
            false
        });
        refused
    }

    fn remove_expired(&mut self, now: Instant) {
        self.0.retain(|entry| !entry.is_expired(now));
    }

    /// Removes the oldest previous secrets until `limit` of them are left. The secret that signs is
    /// kept, because the next one might not be known to every instance yet. Returns the ends of the grace
    /// periods of the removed secrets, unless `limit` is 0.
    fn truncate(&mut self, limit: usize, now: Instant) -> Vec<Instant> {
        if limit == 0 {
            self.0.truncate(1);
        }
        let mut ends = Vec::new();
        while self.0.len() > limit.saturating_add(1) {
            let oldest = self.0.len() - 1;
            let signs = self.signs(now).map(|entry| &entry.value);
            let is_oldest = signs == Some(&self.0[oldest].value);
            let removed = self.0.remove(oldest - usize::from(is_oldest));
            ends.extend(removed.replaced.map(|replaced| replaced.expires_at));
        }
        ends
    }
}

impl History {
    /// Derives the ring of a key from its versions, oldest first. It is the one of a process that has
    /// read each version when it was written. The oldest version counts as active.
    ///
    /// Versions without an age count as old as the oldest one with an age.
    ///
    /// A refused version replaces the secrets before it like any other version, so that it does not
    /// extend their grace periods. It is removed afterwards.
    pub(crate) fn replay(versions: &[StoredVersion], timing: Timing, now: Instant) -> Self {
        let ages = || versions.iter().filter_map(|stored| stored.age);
        // There might be no instants before the start of the system. Therefore, the versions are replayed
        // as if the oldest one was written now. Afterwards, all times are moved back.
        let shift = ages().max().unwrap_or_default().min(MAX_DELAY);
        let mut ring = Ring(Vec::new());
        let mut time = now;
        for stored in versions.iter().filter(|stored| !stored.value.is_empty()) {
            if let Some(age) = stored.age {
                time = time.max(now + shift.saturating_sub(age));
            }
            let secret = Read {
                value: &stored.value,
                version: stored.version.as_ref(),
            };
            let active_from = active_from(ring.0.iter(), &stored.value, timing, time);
            ring = ring.rotated(secret, active_from, timing, time);
        }
        ring.remove_expired(now + shift);
        let moved = |time: Instant| time.checked_sub(shift).unwrap_or(now);
        for entry in &mut ring.0 {
            entry.is_from_history = true;
            entry.active_from = entry.active_from.map(moved);
            if let Some(replaced) = &mut entry.replaced {
                replaced.at = moved(replaced.at);
                replaced.expires_at = moved(replaced.expires_at);
            }
        }
        let refused = ring.remove_refused(versions);
        Self { ring, refused }
    }

    /// Returns the previous secrets that are left out.
    pub(crate) fn refused(&self) -> &[RefusedVersion] {
        &self.refused
    }

    /// Returns the time when the last of the previous secrets has expired that are left out.
    pub(crate) fn refused_until(&self) -> Option<Instant> {
        self.refused.iter().map(|refused| refused.expires_at).max()
    }
}

/// A secret that was read.
#[derive(Debug, Clone, Copy)]
struct Read<'a> {
    value: &'a SecretValue,
    version: Option<&'a Version>,
}

impl<'a> From<&'a Resolved> for Read<'a> {
    fn from(secret: &'a Resolved) -> Self {
        Self {
            value: &secret.value,
            version: secret.version.as_ref(),
        }
    }
}

impl Entry {
    fn newest(secret: Read<'_>, active_from: Instant) -> Self {
        Self {
            value: secret.value.clone(),
            version: secret.version.cloned(),
            active_from: Some(active_from),
            replaced: None,
            is_from_history: false,
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

/// Returns the earliest time at which the secret with the version `last` might have been replaced, if
/// the next one was read with the version `next`.
fn earliest_replacement(last: Option<&Version>, next: Option<&Version>) -> Option<SystemTime> {
    let (last, next) = (last?, next?);
    let following = last.number().and_then(|number| number.checked_add(1));
    let is_following = last.is_older_than(next) && following == next.number();
    match is_following {
        true => next.created_at(),
        false => last.created_at(),
    }
}

/// 100 years.
const MAX_DELAY: Duration = Duration::from_secs(3_153_600_000);

/// Returns `now` plus `delay`. Limits the delay to 100 years, so that the addition does not
/// overflow.
pub(crate) fn later(now: Instant, delay: Duration) -> Instant {
    now + delay.min(MAX_DELAY)
}

#[cfg(test)]
mod tests;
