//! The mount and the path of a provider, and the reads of its secrets.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Version};
use secretwell_http::Response;
use tokio::time::{Instant, sleep, timeout_at};

use crate::detection::Detection;
use crate::error::unsupported;
use crate::location::{Listing, Location, Target, below, no_path};
use crate::lock::lock;
use crate::session::Session;
use crate::wire::{self, Document, KvVersion};

/// The maximum number of secrets whose state is remembered.
const MAX_SECRETS: usize = 10_000;
/// The maximum number of paths whose permissions are checked.
const MAX_CHECKED: usize = 16;
/// The first and the longest wait before another read, if only stale replicas respond.
const STALE_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The mount and the path of a provider. Keys begin below them.
pub(crate) struct Place {
    detection: Detection,
    /// What the reads of each path found so far.
    history: Mutex<HashMap<String, History>>,
    /// Whether a path of the API was logged.
    has_warned: AtomicBool,
}

/// What the reads of one path found.
#[derive(Default)]
struct History {
    /// The newest version of the secret.
    newest: Option<Version>,
    /// The error of the last read, if the policy denied it.
    denied: Option<Error>,
    /// Whether a read succeeded after the last one that found no secret.
    was_read: bool,
}

impl Place {
    pub(crate) fn new(
        mount: &str,
        is_mount_explicit: bool,
        path: &str,
        kv: Option<KvVersion>,
    ) -> Result<Self, Error> {
        Ok(Self {
            detection: Detection::new(mount, is_mount_explicit, path, kv)?,
            history: Mutex::default(),
            has_warned: AtomicBool::default(),
        })
    }

    /// Returns whether the provider might have old versions of secrets.
    pub(crate) fn has_old_versions(&self) -> bool {
        self.detection.configured_kv() != Some(KvVersion::V1)
    }

    /// Returns the version of the key-value engine, as far as it is known.
    pub(crate) fn known_kv(&self) -> Option<KvVersion> {
        self.detection.known_kv()
    }

    /// Returns an error if `below` cannot be the path of a secret below the path of this place.
    pub(crate) fn check(&self, below: &str) -> Result<(), Error> {
        match self.detection.path().is_empty() && below.is_empty() {
            true => Err(no_path()),
            false => Ok(()),
        }
    }

    /// Returns the paths of the next reads in the server's policies, as far as they can be known: those of some
    /// earlier reads, or else those of the provider's own path and of the secrets below it.
    pub(crate) async fn policy_paths(&self, session: &Session) -> Result<Vec<String>, Error> {
        let mut known: Vec<_> = {
            let history = lock(&self.history);
            let paths = history.iter();
            let paths = paths.map(|(path, history)| (history.denied.is_some(), path.clone()));
            paths.collect()
        };
        if known.is_empty() && self.detection.path().is_empty() {
            return Ok(Vec::new());
        }
        let location = self.detection.location(session).await?;
        if known.is_empty() {
            let path = location.policy_path(&location.base);
            return Ok(vec![path.clone(), format!("{path}/")]);
        }
        // Paths that can be read come first.
        known.sort();
        let known = known.iter().take(MAX_CHECKED);
        Ok(known.map(|(_, path)| location.policy_path(path)).collect())
    }

    /// Returns the error of a denied read if the last read of every path was denied, and one of them still is.
    pub(crate) async fn check_last_reads(&self, session: &Session) -> Result<(), Error> {
        let denied = {
            let history = lock(&self.history);
            let path = history.keys().min().cloned();
            path.filter(|_| history.values().all(|history| history.denied.is_some()))
        };
        let Some(path) = denied else {
            return Ok(());
        };
        let location = self.detection.location(session).await?;
        let Some(below) = below(&path, &location.base) else {
            return Ok(());
        };
        match self.read(session, below, &[]).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads the current version of the secret at `below`. If one of `fields` is missing, the active server
    /// must confirm that. If it cannot, the absence of the field is uncertain.
    pub(crate) async fn read(
        &self,
        session: &Session,
        below: &str,
        fields: &[Option<&str>],
    ) -> Result<Document, Error> {
        self.check(below)?;
        let location = self.detection.location(session).await?;
        let result = self.read_at(session, &location, below, fields).await;
        let Err(error) = &result else {
            return result;
        };
        let was_read = error.is_not_found() && self.forget_read(&location, below)?;
        let detection = &self.detection;
        let correction = detection.correction(session, &location, error, was_read);
        match correction.await? {
            Some(other) => self.read_at(session, &other, below, fields).await,
            None => result,
        }
    }

    /// Returns whether the secret at `below` was read, and forgets that.
    fn forget_read(&self, location: &Location, below: &str) -> Result<bool, Error> {
        let path = location.secret(below)?.path;
        let mut history = lock(&self.history);
        let known = history.get_mut(&path);
        Ok(known.is_some_and(|known| std::mem::take(&mut known.was_read)))
    }

    async fn read_at(
        &self,
        session: &Session,
        location: &Location,
        below: &str,
        fields: &[Option<&str>],
    ) -> Result<Document, Error> {
        let target = location.secret(below)?;
        let result = self.read_current(session, &target, fields).await;
        let denied = result.as_ref().err();
        let denied = denied.filter(|error| error.kind() == ErrorKind::Denied);
        self.update(&target.path, |history| {
            history.denied = denied.cloned();
            history.was_read |= result.is_ok();
        });
        result.map_err(|error| {
            if error.is_not_found() {
                self.warn_of_api_path(session, &target);
            }
            target.with_hint(error)
        })
    }

    /// Logs once that a path that does not exist was copied from an API request. A chain continues after such an error.
    fn warn_of_api_path(&self, session: &Session, target: &Target) {
        if target.api_segment().is_some() && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "secretwell::vault", event = "path_of_api", origin = %session.origin(), path = %target.policy.escape_debug(), "no secret exists at the path; leave out `data/` or `metadata/` after the mount, which only the API uses");
        }
    }

    /// Reads a secret, and repeats that while only stale replicas respond with an earlier version.
    async fn read_current(
        &self,
        session: &Session,
        target: &Target,
        fields: &[Option<&str>],
    ) -> Result<Document, Error> {
        let deadline = Instant::now() + session.deadline();
        let mut current = self.read_once(session, target, fields).await?;
        let mut wait = STALE_BACKOFF.0;
        loop {
            if let Some(document) = current {
                return Ok(document);
            }
            if Instant::now() + wait >= deadline {
                return Err(only_stale_replicas());
            }
            sleep(wait).await;
            wait = (wait * 2).min(STALE_BACKOFF.1);
            current = match timeout_at(deadline, self.read_once(session, target, fields)).await {
                Ok(result) => result?,
                Err(_) => return Err(only_stale_replicas()),
            };
        }
    }

    /// Reads a secret. Returns `None` if only a stale replica responded, with an earlier version.
    async fn read_once(
        &self,
        session: &Session,
        target: &Target,
        fields: &[Option<&str>],
    ) -> Result<Option<Document>, Error> {
        let response = session.get(&target.url).await?;
        let Some(document) = self.parse(target, &response)? else {
            return Ok(None);
        };
        if !document.lacks(fields) {
            return Ok(Some(document));
        }
        let confirmed = match session.get_from_active(&target.url).await {
            Ok(None) => return Ok(Some(document)),
            Ok(Some(response)) => self.parse(target, &response),
            Err(error) => Err(error),
        };
        let uncertain = match confirmed {
            Ok(Some(confirmed)) => return Ok(Some(confirmed)),
            Ok(None) => only_stale_replicas(),
            Err(error) if error.is_temporary() => error,
            Err(error) => return Err(error),
        };
        Ok(Some(document.with_uncertain_absence(uncertain)))
    }

    /// Reads a given version of the secret at `below`.
    pub(crate) async fn read_version(
        &self,
        session: &Session,
        below: &str,
        version: u64,
    ) -> Result<Document, Error> {
        self.check(below)?;
        let location = self.detection.location(session).await?;
        let result = read_version_at(session, &location, below, version).await;
        let Err(error) = &result else {
            return result;
        };
        let correction = self.detection.correction(session, &location, error, false);
        match correction.await? {
            Some(other) => read_version_at(session, &other, below, version).await,
            None => result,
        }
    }

    /// Lists the secrets below the folder `prefix`, up to a depth of 16 folders, and the secret with the same
    /// path as the folder. A secret in the list might not exist any more.
    pub(crate) async fn list(&self, session: &Session, prefix: &str) -> Result<Listing, Error> {
        let location = self.detection.location(session).await?;
        let result = location.list(session, prefix).await;
        let error = match &result {
            Err(error) => Some(error),
            // The policies also deny a path of the wrong mount.
            Ok(listing) => listing.denied_root(),
        };
        let Some(error) = error else {
            return result;
        };
        let correction = self.detection.correction(session, &location, error, false);
        match correction.await? {
            Some(other) => other.list(session, prefix).await,
            None => result,
        }
    }

    /// Parses the response to a read. Returns `None` if it is from a stale replica and older than a version
    /// that was already read.
    fn parse(&self, target: &Target, response: &Response) -> Result<Option<Document>, Error> {
        let document = match target.kv {
            KvVersion::V1 => return wire::read_v1(response, &target.policy).map(Some),
            KvVersion::V2 => wire::read_v2(response, &target.policy)?,
        };
        let mut is_older = false;
        self.update(&target.path, |history| {
            let (Some(version), newest) = (&document.version, &mut history.newest) else {
                return;
            };
            is_older = newest
                .as_ref()
                .is_some_and(|newest| version.is_older_than(newest));
            if !is_older {
                *newest = Some(version.clone());
            }
        });
        Ok((!is_older || !response.stale).then_some(document))
    }

    /// Changes what is remembered about a path.
    fn update(&self, path: &str, change: impl FnOnce(&mut History)) {
        let mut history = lock(&self.history);
        if let Some(known) = history.get_mut(path) {
            return change(known);
        }
        if history.len() >= MAX_SECRETS {
            history.clear();
        }
        change(history.entry(path.to_owned()).or_default());
    }
}

async fn read_version_at(
    session: &Session,
    location: &Location,
    below: &str,
    version: u64,
) -> Result<Document, Error> {
    if location.kv == KvVersion::V1 {
        return Err(unsupported("KV version 1 does not store earlier versions"));
    }
    let Target { url, policy, .. } = location.secret(below)?;
    let response = session.get(&format!("{url}?version={version}")).await?;
    let document = wire::read_v2(&response, &policy)?;
    let returned = document.version.as_ref().and_then(Version::number);
    match returned == Some(version) {
        true => Ok(document),
        false => Err(wire::other_version()),
    }
}

fn only_stale_replicas() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "only stale replicas respond, with an earlier version",
    )
    .with_hint("check that the cluster has an active server")
}
