//! [`HistoryReads`]: the version histories that the rebuild task reads in the background.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use secretwell_core::backend::join_bounded;
use secretwell_core::{Error, SecretKey, Version};
use secretwell_resolver::{Resolved, Resolver};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::decide::{Rotation, Rules};
use crate::history::{PreviousRules, has_history, read_history};
use crate::mode::Mode;
use crate::policy::Policies;
use crate::ring::{KeyHistory, later};

/// How many version histories are read at a time.
const CONCURRENT: usize = 16;

/// Version histories that are read, and those that were read and are not stored yet.
#[derive(Default)]
pub(crate) struct HistoryReads {
    read: Vec<KeyHistory>,
    running: JoinSet<Reads>,
    failures: Backoff,
    /// The time of the next read, after a failure.
    due: Option<Instant>,
    /// The refused versions that are logged.
    refused: BTreeSet<(SecretKey, Option<u64>)>,
}

/// The results of reads, with the version that could not be read.
pub(crate) type Reads = Vec<(KeyHistory, Option<(Version, Error)>)>;

/// Where the histories are read.
pub(crate) struct HistorySource<'a> {
    pub(crate) resolver: &'a Resolver,
    pub(crate) rules: &'a Rules,
    pub(crate) policies: &'a Arc<Policies>,
    pub(crate) mode: Mode,
    /// The longest duration of the reads.
    pub(crate) deadline: Duration,
    /// The name of the auth, for its log.
    pub(crate) name: Option<&'a str>,
}

impl HistoryReads {
    /// Returns the histories that were read and are not stored yet.
    pub(crate) fn histories(&self) -> &[KeyHistory] {
        &self.read
    }

    /// Drops the histories that were read.
    pub(crate) fn clear(&mut self) {
        self.read.clear();
    }

    /// Logs the refused versions of the `signing` secrets in the histories that were read, each of them once.
    pub(crate) fn log_refused(&mut self, signing: &BTreeSet<SecretKey>, name: Option<&str>) {
        for KeyHistory { key, history, .. } in &self.read {
            for refused in history.refused().iter().filter(|_| signing.contains(key)) {
                let version = refused.version.as_ref();
                let is_new = self
                    .refused
                    .insert((key.clone(), version.and_then(Version::number)));
                if is_new {
                    let (version, reason) = (version.map(tracing::field::display), &refused.reason);
                    tracing::warn!(target: "secretwell::auth", event = "previous_version_refused", name, %key, version, %reason, "a previous version of the secret is refused; what it has signed does not verify");
                }
            }
        }
    }

    /// Returns the time of the next read after `now`. One that is overdue starts with the next rotation
    /// that is stored.
    pub(crate) fn due_after(&self, now: Instant) -> Option<Instant> {
        self.due.filter(|due| *due > now)
    }

    /// Reads the version histories that the first build needs. The start must not depend on them, so
    /// a source that hangs or fails here only delays it until the deadline. If the build fails, the
    /// next attempt reads only the histories of the secrets that were replaced in the meantime.
    pub(crate) async fn read_first(
        &mut self,
        source: &HistorySource<'_>,
        rotation: &Rotation,
        secrets: &[(SecretKey, Resolved)],
    ) {
        self.read
            .retain(|read| secrets.iter().any(|it| read.is_of(it)));
        if self.running.is_empty() && self.failures.is_empty() {
            let mut missing = source.missing(&mut rotation.clone(), secrets);
            missing.retain(|it| !self.read.iter().any(|read| read.is_of(it)));
            self.start(source, missing);
        }
        while let Some(reads) = self.next().await {
            self.finish(source, reads);
        }
    }

    /// Starts to read the histories of `missing` in the background, if such a read is due.
    pub(crate) fn start_if_due(
        &mut self,
        source: &HistorySource<'_>,
        missing: Vec<(SecretKey, Resolved)>,
    ) {
        let is_due = self.due.is_none_or(|due| due <= Instant::now());
        if is_due && self.running.is_empty() {
            self.start(source, missing);
        }
    }

    fn start(&mut self, source: &HistorySource<'_>, missing: Vec<(SecretKey, Resolved)>) {
        if missing.is_empty() {
            return;
        }
        self.due = None;
        let deadline = later(Instant::now(), source.deadline);
        let rules = PreviousRules {
            timing: source.rules.timing,
            policies: source.policies.clone(),
            mode: source.mode,
            accepts_encrypted: false,
        };
        let resolver = source.resolver.clone();
        // It is a task of its own, so that reads of the secrets never wait for it.
        self.running.spawn(async move {
            let reads = missing.into_iter().map(|(key, secret)| {
                let provider = resolver.provider_of(&key, &secret).clone();
                let rules = PreviousRules {
                    accepts_encrypted: resolver.accepts_encrypted(&key),
                    ..rules.clone()
                };
                async move { read_history(provider, key, secret, &rules, deadline).await }
            });
            join_bounded(CONCURRENT, reads).await
        });
    }

    /// Returns the result of the next read that ends, or `None` if none is running.
    pub(crate) async fn next(&mut self) -> Option<Result<Reads, JoinError>> {
        self.running.join_next().await
    }

    /// Keeps what was read, and plans a retry of what could not be read.
    pub(crate) fn finish(&mut self, source: &HistorySource<'_>, reads: Result<Reads, JoinError>) {
        let is_first_failure = self.failures.is_empty();
        let mut failed = reads.is_err();
        for (read, failure) in reads.unwrap_or_default() {
            if let Some((version, error)) = failure {
                failed = true;
                if is_first_failure {
                    tracing::warn!(target: "secretwell::auth", event = "history_incomplete", name = source.name, key = %read.key, %version, %error, "cannot read a previous version of the secret; older secrets do not verify");
                }
            }
            self.read.push(read);
        }
        match failed {
            true => self.due = Some(self.failures.retry_at(Instant::now())),
            false => self.failures = Backoff::default(),
        }
    }
}

impl HistorySource<'_> {
    /// Returns the secrets whose version history must be read. Records the keys without one.
    pub(crate) fn missing(
        &self,
        rotation: &mut Rotation,
        secrets: &[(SecretKey, Resolved)],
    ) -> Vec<(SecretKey, Resolved)> {
        let missing = rotation.missing_histories(secrets, self.rules);
        let (missing, without): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|(key, secret)| {
                let provider = self.resolver.provider_of(key, secret);
                has_history(provider.as_ref(), secret, self.rules.timing)
            });
        for (key, _) in without {
            rotation.has_no_history(key);
        }
        missing.into_iter().cloned().collect()
    }
}
