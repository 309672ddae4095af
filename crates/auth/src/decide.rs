//! Decides what an attempt does with the secrets that it has read. This file contains only data and
//! pure functions of that data and the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::revocation::{Epoch, Revocations};
use crate::ring::{Extent, KeyHistory, Replaced, RingFingerprint, Rings, Timing, later};

/// The longest time between the reads of a new secret and of a revocation time that were written
/// together.
const MAX_DISTANCE: Duration = Duration::from_secs(300);

/// Decides what follows from a read.
pub(crate) fn decide(
    current: &Rotation,
    snapshot: &Snapshot<'_>,
    rules: &Rules,
    now: Instant,
) -> Decision {
    let problem = |(key, secret): &(SecretKey, Resolved)| current.check_revoked(key, secret);
    let problems: Vec<Error> = snapshot.secrets.iter().filter_map(problem).collect();
    if !problems.is_empty() {
        return Decision::Fail(problems);
    }
    let mut next = current.clone();
    next.rotate(snapshot, rules, now);
    let revoked = next.revoke(current, snapshot, rules, now);
    next.end_call(snapshot, rules, now);
    // Afterwards, because a secret that the limit removes can be a revoked one.
    let dropped = next.limit_previous(rules, now);
    let inputs = next.inputs(snapshot.secrets, now);
    let is_changed = snapshot.forced || current.built_from.as_ref() != Some(&inputs);
    let next = Next {
        rotation: next,
        revoked,
        dropped,
    };
    match is_changed {
        true => Decision::Build(next),
        false => Decision::Keep(next),
    }
}

/// Returns what follows from memory and time alone, without a read: previous secrets expire, secrets
/// become active, and the known revocation time revokes. Returns `None` if nothing changes.
///
/// [`Rotation::needs_build`] returns whether the next rotation needs a build.
pub(crate) fn advance(current: &Rotation, rules: &Rules, now: Instant) -> Option<Next> {
    let next = current.clone().advanced(current, rules, now);
    let is_changed = next.rotation.rings.len() != current.rings.len();
    (is_changed || next.rotation.needs_build(now)).then_some(next)
}

/// Returns what follows from memory, time and a revocation time that was read, if the secrets that were
/// read with it cannot be used. Returns `None` if nothing changes.
pub(crate) fn advance_with_epoch(
    current: &Rotation,
    epoch: Option<Epoch>,
    rules: &Rules,
    now: Instant,
) -> Option<Next> {
    if current.epoch_is_known && current.revocations.epoch == epoch {
        return advance(current, rules, now);
    }
    let mut next = current.clone();
    next.learn_epoch(epoch, now);
    Some(next.advanced(current, rules, now))
}

/// What an attempt does.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Build, and store the rotation if the build succeeds.
    Build(Next),
    /// Keep the current build, because none of its inputs has changed. Store the rotation.
    Keep(Next),
    /// Keep the current build. The secrets must not be used.
    Fail(Vec<Error>),
}

/// The rotation after an attempt.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) rotation: Rotation,
    /// The keys of the previous secrets that this attempt has revoked, one for each secret.
    pub(crate) revoked: Vec<SecretKey>,
    /// The keys of the previous secrets that this attempt has dropped, because there are too many.
    pub(crate) dropped: Vec<SecretKey>,
}

/// What an attempt has read.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) secrets: &'a [(SecretKey, Resolved)],
    /// When the read started.
    pub(crate) read_from: Instant,
    /// The revocation time of the source, or an error if it could not be read.
    pub(crate) epoch: Result<Option<Epoch>, Error>,
    /// The version histories that were read and are not part of the rotation yet.
    pub(crate) histories: &'a [KeyHistory],
    /// Whether to build even if nothing has changed.
    pub(crate) forced: bool,
    /// Whether the read started at the source after the last call of `revoke_previous`.
    pub(crate) follows_revocation: bool,
}

/// The settings that decisions depend on.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) timing: Timing,
    /// How long a secret counts as fresh after it was read. For a chain, it is the longest time.
    pub(crate) ttl: Duration,
    /// The keys that are named as signing secrets.
    pub(crate) named: BTreeSet<SecretKey>,
    /// The keys that might be signing secrets. They count as such before the first build.
    pub(crate) candidates: BTreeSet<SecretKey>,
}

/// What an auth remembers between two attempts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rotation {
    pub(crate) rings: Rings,
    revocations: Revocations,
    /// Whether the revocation time was read at least once.
    epoch_is_known: bool,
    /// When another revocation time was read last.
    epoch_changed_at: Option<Instant>,
    /// The keys of the rings that the current build has requested, the ones in `previous_keys` included.
    requested: BTreeSet<SecretKey>,
    /// The keys that store previous secrets, according to the current build.
    previous_keys: BTreeSet<SecretKey>,
    /// The keys in `previous_keys` whose own ring the current build has not requested.
    only_previous: BTreeSet<SecretKey>,
    /// The keys whose version history is not needed any more.
    history_read: BTreeSet<SecretKey>,
    /// The keys with previous secrets that are left out, and the time when all of those have expired. The
    /// version history has too many versions, there are more than
    /// [`max_previous`](Timing::max_previous), or the rules refuse them.
    history_is_cut: BTreeMap<SecretKey, Instant>,
    /// The inputs of the current build, or `None` before the first build.
    built_from: Option<Inputs>,
    /// Whether the source must still be read after a call of `revoke_previous`.
    pub(crate) unconfirmed: bool,
    /// The number of calls of `revoke_previous`.
    pub(crate) revision: u64,
}

/// Fingerprints of everything that a builder sees.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inputs {
    values: Vec<(SecretKey, u64)>,
    rings: RequestedRings,
}

/// Fingerprints of the rings that the builder takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RequestedRings {
    rings: Vec<(SecretKey, RingFingerprint)>,
    /// The secrets of the keys that store previous secrets.
    stored_previous: BTreeMap<SecretKey, Vec<u64>>,
}

impl Rotation {
    /// Returns the keys whose previous secrets are kept: the ones that the current build takes a ring
    /// for, and the named ones.
    pub(crate) fn signing(&self, rules: &Rules) -> BTreeSet<SecretKey> {
        match self.built_from {
            None => &rules.candidates | &rules.named,
            Some(_) => &self.requested | &rules.named,
        }
    }

    /// Returns the keys of the rings that the current build has requested.
    pub(crate) fn requested(&self) -> &BTreeSet<SecretKey> {
        &self.requested
    }

    /// Returns the signing secrets in `secrets` whose version history was not read yet.
    pub(crate) fn missing_histories<'a>(
        &self,
        secrets: &'a [(SecretKey, Resolved)],
        rules: &Rules,
    ) -> Vec<&'a (SecretKey, Resolved)> {
        let signing = self.signing(rules);
        let is_missing = |(key, _): &&(SecretKey, Resolved)| {
            signing.contains(key) && !self.history_read.contains(key)
        };
        secrets.iter().filter(is_missing).collect()
    }

    /// Records that the source has no version history of `key`.
    pub(crate) fn has_no_history(&mut self, key: &SecretKey) {
        self.history_read.insert(key.clone());
    }

    /// Returns whether the version history can be used. A secret from it might be revoked by a
    /// revocation time that is not known yet, or by a call that the source must still confirm.
    pub(crate) fn accepts_history(&self) -> bool {
        self.epoch_is_known && !self.unconfirmed
    }

    /// Returns whether previous secrets are left out at `now`, because there are too many or because the
    /// rules refuse some of them.
    pub(crate) fn history_is_cut(&self, now: Instant) -> bool {
        self.history_is_cut.values().any(|expired| *expired > now)
    }

    /// Returns the next time after `now` when all secrets of a key have expired that are left out.
    pub(crate) fn next_complete_history(&self, now: Instant) -> Option<Instant> {
        let times = self.history_is_cut.values().copied();
        times.filter(|expired| *expired > now).min()
    }

    /// Returns the problem that the source has returned a revoked secret. A secret that was revoked as
    /// the previous one of another key stays valid for `key` until it is replaced there. One that is stored
    /// only as a previous secret is not a problem, because no build uses it.
    pub(crate) fn check_revoked(&self, key: &SecretKey, secret: &Resolved) -> Option<Error> {
        let value = &secret.value;
        let is_revoked = self.revocations.contains(value)
            && !self.rings.is_newest(key, value)
            && !self.only_previous.contains(key);
        is_revoked.then(|| returned(key, secret))
    }

    /// Revokes all previous secrets at the request of the operator. Returns the keys of the revoked
    /// secrets.
    pub(crate) fn revoke_previous(&mut self, now: Instant, wall: SystemTime) -> Vec<SecretKey> {
        self.revision += 1;
        self.unconfirmed = true;
        self.revocations.called(now, wall);
        let removed = self.remove_previous(now);
        self.remember(removed)
    }

    /// Removes all previous secrets from the rings. Returns them, and the secrets that are stored as
    /// previous ones.
    fn remove_previous(&mut self, now: Instant) -> Vec<(SecretKey, SecretValue)> {
        let mut removed = self.rings.remove_previous(now, |_, _, _| true);
        self.rings.activate_newest(now);
        removed.extend(self.unrevoked_stored_previous());
        removed
    }

    /// Returns the newest secret of each key that only stores previous secrets, unless it is revoked or the
    /// current secret of another key.
    fn unrevoked_stored_previous(&self) -> Vec<(SecretKey, SecretValue)> {
        let newest = |key: &SecretKey| Some((key.clone(), self.rings.newest(key)?.0.clone()));
        let is_current = |value: &SecretValue| {
            let mut keys = self.rings.keys();
            keys.any(|key| !self.only_previous.contains(key) && self.rings.is_newest(key, value))
        };
        let stored = self.only_previous.iter().filter_map(newest);
        stored
            .filter(|(_, value)| !self.revocations.contains(value) && !is_current(value))
            .collect()
    }

    /// Returns the secrets of each key that can verify at `now` if the key stores previous secrets.
    ///
    /// The result is empty before the first build if `revoke_previous` was called, because the keys that store
    /// previous secrets are not known until then.
    pub(crate) fn stored_previous(&self, now: Instant) -> HashMap<SecretKey, Vec<SecretValue>> {
        let is_revoked_unseen = self.built_from.is_none() && self.revision > 0;
        if !self.epoch_is_known || is_revoked_unseen {
            return HashMap::new();
        }
        let accepted = |key: &SecretKey| {
            let (_, version) = self.rings.newest(key)?;
            let mut secrets: Vec<SecretValue> = match self.revocations.covers_stored(version) {
                true => Vec::new(),
                false => self.rings.snapshot(key, now)?.all,
            };
            secrets.retain(|value| !self.revocations.contains(value));
            Some((key.clone(), secrets))
        };
        self.rings.keys().filter_map(accepted).collect()
    }

    /// Remembers what `next` revokes, before it is known whether a build of `next` succeeds.
    pub(crate) fn keep_revoked(&mut self, next: &Self) {
        self.revocations.add_all(&next.revocations);
    }

    /// Records a successful build from `secrets` that took the rings of `requested`, and the secrets of
    /// `previous_keys` as previous ones. Removes all previous secrets that no build needs.
    pub(crate) fn built(
        &mut self,
        secrets: &[(SecretKey, Resolved)],
        requested: BTreeSet<SecretKey>,
        previous_keys: BTreeSet<SecretKey>,
        rules: &Rules,
        now: Instant,
    ) {
        self.only_previous = &previous_keys - &requested;
        self.requested = &requested | &previous_keys;
        self.previous_keys = previous_keys;
        if self.built_from.is_none() && self.revision > 0 {
            let unseen = self.unrevoked_stored_previous();
            self.remember(unseen);
        }
        self.built_from = Some(self.inputs(secrets, now));
        let signing = self.signing(rules);
        self.rings.keep_previous_of(&signing);
        self.history_read.retain(|key| signing.contains(key));
        self.history_is_cut.retain(|key, _| signing.contains(key));
    }

    /// Returns whether a ring that the current build has requested is another one at `now`.
    pub(crate) fn needs_build(&self, now: Instant) -> bool {
        let built_from = self.built_from.as_ref();
        built_from.is_some_and(|built_from| built_from.rings != self.requested_rings(now))
    }

    /// Returns the rotation at `now`. `before` is the rotation before this attempt.
    fn advanced(mut self, before: &Self, rules: &Rules, now: Instant) -> Next {
        self.rings.remove_expired(now);
        let revoked = self.revoke_by_time(before, now);
        let dropped = self.limit_previous(rules, now);
        Next {
            rotation: self,
            revoked,
            dropped,
        }
    }

    /// Drops the oldest previous secrets of each key beyond the limit. Returns the key of each.
    fn limit_previous(&mut self, rules: &Rules, now: Instant) -> Vec<SecretKey> {
        let dropped = self.rings.limit_previous(rules.timing.max_previous, now);
        for (key, expires_at) in &dropped {
            let cut = self.history_is_cut.entry(key.clone());
            let until = cut.or_insert(*expires_at);
            *until = (*until).max(*expires_at);
        }
        dropped.into_iter().map(|(key, _)| key).collect()
    }

    fn learn_epoch(&mut self, epoch: Option<Epoch>, now: Instant) {
        let time = epoch.as_ref().map(|epoch| epoch.time);
        if time != self.epoch_time() {
            self.epoch_changed_at = Some(now);
        }
        self.epoch_is_known = true;
        self.revocations.epoch = epoch;
    }

    fn epoch_time(&self) -> Option<SystemTime> {
        let epoch = self.revocations.epoch.as_ref();
        epoch.map(|epoch| epoch.time)
    }

    /// Rotates the rings and adds version histories.
    fn rotate(&mut self, snapshot: &Snapshot<'_>, rules: &Rules, now: Instant) {
        let signing = self.signing(rules);
        self.rings = self
            .rings
            .rotated(snapshot.secrets, &signing, rules.timing, now);
        if let Ok(epoch) = &snapshot.epoch {
            self.learn_epoch(epoch.clone(), now);
        }
        let is_needed = |read: &&KeyHistory| {
            signing.contains(&read.key) && !self.history_read.contains(&read.key)
        };
        let histories: Vec<&KeyHistory> = snapshot.histories.iter().filter(is_needed).collect();
        if self.accepts_history() {
            for read in histories {
                self.add_history(read, rules.timing, now);
            }
        }
        let rings = &self.rings;
        self.history_read.retain(|key| rings.contains(key));
        self.history_is_cut.retain(|key, _| rings.contains(key));
    }

    fn add_history(&mut self, read: &KeyHistory, timing: Timing, now: Instant) {
        let KeyHistory {
            key,
            history,
            extent,
        } = read;
        self.rings.add_history(key, history, *extent, timing, now);
        self.rings.activate_known(now);
        if *extent != Extent::Failed {
            self.history_read.insert(key.clone());
        }
        let limited = (*extent == Extent::Limited).then(|| later(now, timing.overlap()));
        match limited.max(history.refused_until()) {
            Some(expired) => drop(self.history_is_cut.insert(key.clone(), expired)),
            None => drop(self.history_is_cut.remove(key)),
        }
    }

    /// Removes the previous secrets that are revoked. `before` is the rotation before this attempt.
    /// Returns the keys of the removed secrets.
    fn revoke(
        &mut self,
        before: &Self,
        snapshot: &Snapshot<'_>,
        rules: &Rules,
        now: Instant,
    ) -> Vec<SecretKey> {
        // If a secret is newer than the one in memory, it was written before the call.
        let by_call =
            self.unconfirmed && snapshot.follows_revocation && self.is_confirmed(snapshot, rules);
        let mut removed = Vec::new();
        if by_call {
            removed = self.remove_previous(now);
            self.unconfirmed = false;
            // All secrets in the histories are revoked, whatever the clocks say.
            let keys = snapshot.secrets.iter().map(|(key, _)| key.clone());
            self.history_read.extend(keys);
            self.history_is_cut.clear();
        }
        let mut revoked = self.remember(removed);
        revoked.extend(self.revoke_by_time(before, now));
        revoked
    }

    /// Ends the last call of `revoke_previous` if its time has come and no signing secret is stale. It does
    /// not wait for keys that begin to sign later.
    fn end_call(&mut self, snapshot: &Snapshot<'_>, rules: &Rules, now: Instant) {
        let end = self.call_ends_at(rules);
        if end.is_some_and(|end| snapshot.read_from >= end) && self.is_confirmed(snapshot, rules) {
            self.revocations.end_call(now);
        }
    }

    /// Returns whether no signing secret in `snapshot` is stale.
    fn is_confirmed(&self, snapshot: &Snapshot<'_>, rules: &Rules) -> bool {
        let signing = self.signing(rules);
        let mut secrets = snapshot.secrets.iter();
        secrets.all(|(key, secret)| !signing.contains(key) || !secret.freshness.is_stale())
    }

    /// Returns the time from which an attempt with fresh secrets ends the last call of `revoke_previous`.
    pub(crate) fn call_ends_at(&self, rules: &Rules) -> Option<Instant> {
        self.revocations.call_ends_at(rules.ttl)
    }

    /// Removes the previous secrets that the revocation time covers, and those that were revoked before.
    fn revoke_by_time(&mut self, before: &Self, now: Instant) -> Vec<SecretKey> {
        let revocations = &self.revocations;
        let epoch = revocations.epoch.as_ref();
        let is_new = self.epoch_time() != before.epoch_time();
        // The new secret and the revocation time can have been written in this order, and read in the
        // other one.
        let changed_at = self.epoch_changed_at;
        let uncertain_until = changed_at.map(|changed_at| changed_at + MAX_DISTANCE);
        let is_uncertain = |replaced: &Replaced| {
            is_new || uncertain_until.is_some_and(|until| replaced.at <= until)
        };
        // A secret is also revoked if it is not known whether it was replaced before a new revocation
        // time. A document has one version for all of its fields. If the secret and the revocation time
        // have changed together, the version does not show which of them changed first.
        let is_unknown = |key: &SecretKey, value: &SecretValue, replaced: &Replaced| {
            epoch.is_some_and(|epoch| match &replaced.by {
                Some(next) if next.created_at().is_some() => {
                    let is_before = replaced.earliest.is_none_or(|it| it <= epoch.time);
                    let is_same_version = is_new && epoch.version.as_ref() == Some(next);
                    is_before && is_uncertain(replaced)
                        || is_same_version && before.rings.is_newest(key, value)
                }
                _ => is_new,
            })
        };
        let removed = self.rings.remove_previous(now, |key, value, replaced| {
            revocations.contains(value)
                || revocations.covers(replaced)
                || is_unknown(key, value, replaced)
        });
        self.remember(removed)
    }

    /// Remembers revoked secrets, so that they are never accepted again. Returns their keys.
    fn remember(&mut self, removed: Vec<(SecretKey, SecretValue)>) -> Vec<SecretKey> {
        let removed = removed.into_iter().map(|(key, value)| {
            self.revocations.revoke(&value);
            key
        });
        removed.collect()
    }

    /// Returns the inputs of a build from `secrets` at `now`.
    fn inputs(&self, secrets: &[(SecretKey, Resolved)], now: Instant) -> Inputs {
        let value =
            |(key, secret): &(SecretKey, Resolved)| (key.clone(), secret.value.fingerprint());
        Inputs {
            values: secrets.iter().map(value).collect(),
            rings: self.requested_rings(now),
        }
    }

    fn requested_rings(&self, now: Instant) -> RequestedRings {
        let ring = |key: &SecretKey| Some((key.clone(), self.rings.fingerprint(key, now)?));
        let mut stored_previous = BTreeMap::new();
        if !self.previous_keys.is_empty() {
            for (key, secrets) in self.stored_previous(now) {
                if self.previous_keys.contains(&key) {
                    let secrets = secrets.iter().map(SecretValue::fingerprint).collect();
                    stored_previous.insert(key, secrets);
                }
            }
        }
        RequestedRings {
            rings: self.requested.iter().filter_map(ring).collect(),
            stored_previous,
        }
    }
}

/// The problem that the source returned a revoked secret.
fn returned(key: &SecretKey, secret: &Resolved) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the source returned a secret that was revoked in this process",
    )
    .with_origin(&secret.origin)
    .with_key(key)
    .with_hint("check that all replicas of the source have the newest secret, or write a new one")
}

#[cfg(test)]
mod tests;
