//! Decides what an attempt does with the secrets that it has read. This file contains only data and
//! pure functions of that data and the time.

use std::collections::BTreeSet;
use std::time::SystemTime;

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue, Version};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::revocation::{Epoch, Revocations};
use crate::ring::{KeyHistory, RingFingerprint, Rings, Timing};

/// Decides what follows from a read.
pub(crate) fn decide(
    current: &Rotation,
    snapshot: &Snapshot<'_>,
    rules: &Rules,
    now: Instant,
) -> Decision {
    let is_revoked =
        |(_, secret): &&(SecretKey, Resolved)| current.revocations.contains(&secret.value);
    let revoked = snapshot.secrets.iter().filter(is_revoked);
    let problems: Vec<Error> = revoked.map(|(key, secret)| returned(key, secret)).collect();
    if !problems.is_empty() {
        return Decision::Fail(problems);
    }
    let mut next = current.clone();
    next.rotate(snapshot, rules, now);
    let revoked = next.revoke(current, snapshot, rules, now);
    // Afterwards, because a secret that the limit removes can be a revoked one.
    next.rings.limit_previous(rules.timing.max_previous, now);
    let inputs = next.inputs(snapshot.secrets, now);
    let is_changed = snapshot.forced || current.built_from.as_ref() != Some(&inputs);
    let next = Next {
        rotation: next,
        revoked,
    };
    match is_changed {
        true => Decision::Build(next),
        false => Decision::Keep(next),
    }
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
}

/// What an attempt has read.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) secrets: &'a [(SecretKey, Resolved)],
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
    /// The keys of the rings that the current build has requested.
    requested: BTreeSet<SecretKey>,
    /// The keys whose version history was read.
    history_read: BTreeSet<SecretKey>,
    /// The inputs of the current build, or `None` before the first build.
    built_from: Option<Inputs>,
    /// Whether the source must still be read after a call of `revoke_previous`.
    pub(crate) unconfirmed: bool,
    /// The number of calls of `revoke_previous`. An attempt that started before the last call is
    /// discarded.
    pub(crate) revision: u64,
}

/// Fingerprints of everything that a builder sees.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inputs {
    values: Vec<(SecretKey, u64)>,
    /// The rings that the builder takes.
    rings: Vec<(SecretKey, RingFingerprint)>,
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
    /// revocation time that is not known yet.
    pub(crate) fn accepts_history(&self) -> bool {
        self.epoch_is_known
    }

    /// Revokes all previous secrets at the request of the operator. Returns the keys of the revoked
    /// secrets.
    pub(crate) fn revoke_previous(&mut self, now: Instant, wall: SystemTime) -> Vec<SecretKey> {
        self.revision += 1;
        self.unconfirmed = true;
        self.revocations.called(wall);
        let removed = self.rings.remove_previous(now, |_, _| true);
        self.rings.activate_newest(now);
        self.remember(removed)
    }

    /// Records a successful build from `secrets` that took the rings of `requested`. Removes all
    /// previous secrets that no build needs.
    pub(crate) fn built(
        &mut self,
        secrets: &[(SecretKey, Resolved)],
        requested: BTreeSet<SecretKey>,
        rules: &Rules,
        now: Instant,
    ) {
        self.requested = requested;
        self.built_from = Some(self.inputs(secrets, now));
        let signing = self.signing(rules);
        self.rings.keep_previous_of(&signing);
        self.history_read.retain(|key| signing.contains(key));
    }

    /// Rotates the rings and adds version histories.
    fn rotate(&mut self, snapshot: &Snapshot<'_>, rules: &Rules, now: Instant) {
        let signing = self.signing(rules);
        self.rings = self
            .rings
            .rotated(snapshot.secrets, &signing, rules.timing, now);
        if let Ok(epoch) = &snapshot.epoch {
            self.epoch_is_known = true;
            self.revocations.epoch.clone_from(epoch);
        }
        for read in snapshot
            .histories
            .iter()
            .filter(|read| signing.contains(&read.key))
        {
            let key = &read.key;
            match &read.history {
                // A secret from the history might be a revoked one.
                Some(_) if !self.epoch_is_known => continue,
                Some(history) => self.rings.add_history(key, history, now),
                None => {}
            }
            if read.is_complete {
                self.history_read.insert(key.clone());
            }
        }
        let rings = &self.rings;
        self.history_read.retain(|key| rings.contains(key));
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
        let signing = self.signing(rules);
        let is_confirmed = |(key, secret): &(SecretKey, Resolved)| {
            !signing.contains(key) || !secret.freshness.is_stale()
        };
        // If a secret is newer than the one in memory, it was written before the call.
        let by_call = self.unconfirmed
            && snapshot.follows_revocation
            && snapshot.secrets.iter().all(is_confirmed);
        let revocations = &self.revocations;
        let time = |rotation: &Self| rotation.revocations.epoch.as_ref().map(|epoch| epoch.time);
        let new_epoch = revocations
            .epoch
            .as_ref()
            .filter(|_| time(self) != time(before));
        // With a new revocation time, a secret is also revoked if the source does not report when it was
        // replaced. A document has one version for all of its fields. If the secret and the revocation
        // time have changed together, the version does not show which of them changed first.
        let is_unknown = |value: &SecretValue, next: Option<&Version>| {
            new_epoch.is_some_and(|epoch| match next {
                Some(next) if next.created_at().is_some() => {
                    epoch.version.as_ref() == Some(next) && before.rings.is_newest(value)
                }
                _ => true,
            })
        };
        let removed = self.rings.remove_previous(now, |value, next| {
            by_call
                || revocations.contains(value)
                || revocations.covers(next)
                || is_unknown(value, next)
        });
        if by_call {
            self.rings.activate_newest(now);
            self.unconfirmed = false;
        }
        self.remember(removed)
    }

    /// Remembers revoked secrets, so that they are never accepted again. A secret that is still the
    /// newest one of another key stays valid.
    fn remember(&mut self, removed: Vec<(SecretKey, SecretValue)>) -> Vec<SecretKey> {
        let removed = removed.into_iter().map(|(key, value)| {
            if !self.rings.is_newest(&value) {
                self.revocations.revoke(&value);
            }
            key
        });
        removed.collect()
    }

    /// Returns the inputs of a build from `secrets` at `now`.
    fn inputs(&self, secrets: &[(SecretKey, Resolved)], now: Instant) -> Inputs {
        let value =
            |(key, secret): &(SecretKey, Resolved)| (key.clone(), secret.value.fingerprint());
        let ring = |key: &SecretKey| Some((key.clone(), self.rings.fingerprint(key, now)?));
        Inputs {
            values: secrets.iter().map(value).collect(),
            rings: self.requested.iter().filter_map(ring).collect(),
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
