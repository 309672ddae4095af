//! The mount and the path of a provider, and the reads of its secrets.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Version};
use secretwell_http::{Response, encode_path};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{invalid, unsupported};
use crate::session::Session;
use crate::wire::{self, Document, KvVersion, Mount};

/// The maximum number of secrets in a listing, and of secrets whose state is remembered.
const MAX_SECRETS: usize = 10_000;
/// The maximum depth of folders in a listing. Deeper folders are skipped.
const MAX_DEPTH: usize = 16;
/// The first and the longest wait before another read, if only stale replicas respond.
const STALE_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The mount and the path of a provider. Keys begin below them.
pub(crate) struct Place {
    mount: String,
    is_mount_explicit: bool,
    path: String,
    kv: Option<KvVersion>,
    /// Where the secrets are, from the settings or from the server.
    location: OnceCell<Location>,
    /// Where the secrets are according to the server, requested only if the settings might be wrong.
    described: OnceCell<Result<Location, Error>>,
    /// What the reads of each path found so far.
    history: Mutex<HashMap<String, History>>,
}

/// Where the secrets of a provider are.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    /// The name of the mount, without slashes at its ends.
    mount: String,
    /// The path below the mount at which keys begin. It can be empty.
    base: String,
    kv: KvVersion,
}

/// What the reads of one path found.
#[derive(Default)]
struct History {
    /// The newest version of the secret.
    newest: Option<Version>,
    /// The error of the last read, if the policy denied it.
    denied: Option<Error>,
}

/// The secrets below a path.
#[derive(Default)]
pub(crate) struct Listing {
    /// The paths of the secrets, relative to the path of the provider.
    pub(crate) paths: Vec<String>,
    /// The errors of folders that this login must not list.
    pub(crate) denied: Vec<Error>,
}

/// A secret, with the path of its requests.
struct Target {
    kv: KvVersion,
    /// The path below the mount.
    path: String,
    /// The path of the request.
    url: String,
    /// The path in the server's policies.
    policy: String,
}

impl Place {
    pub(crate) fn new(
        mount: &str,
        is_mount_explicit: bool,
        path: &str,
        kv: Option<KvVersion>,
    ) -> Result<Self, Error> {
        encode_path(mount)?;
        let path = path.trim_matches('/');
        if !path.is_empty() {
            encode_path(path)?;
        }
        Ok(Self {
            mount: mount.trim_matches('/').to_owned(),
            is_mount_explicit,
            path: path.to_owned(),
            kv,
            location: OnceCell::new(),
            described: OnceCell::new(),
            history: Mutex::default(),
        })
    }

    /// Returns whether the provider might have old versions of secrets.
    pub(crate) fn has_old_versions(&self) -> bool {
        self.kv != Some(KvVersion::V1)
    }

    /// Returns the version of the key-value engine, as far as it is known.
    pub(crate) fn known_kv(&self) -> Option<KvVersion> {
        self.kv.or(self.location.get().map(|location| location.kv))
    }

    /// Returns an error if `below` cannot be the path of a secret below the path of this place.
    pub(crate) fn check(&self, below: &str) -> Result<(), Error> {
        match self.path.is_empty() && below.is_empty() {
            true => Err(no_path()),
            false => Ok(()),
        }
    }

    /// Returns the error of a denied read if the last read of every path was denied.
    pub(crate) fn check_permissions(&self) -> Result<(), Error> {
        let history = self.history();
        let mut last = history.values().map(|history| history.denied.as_ref());
        let first = last.next().flatten();
        match first.filter(|_| last.all(|denied| denied.is_some())) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
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
        let location = self.location(session).await?;
        let result = self.read_at(session, location, below, fields).await;
        match self
            .correction(session, location, result.as_ref().err())
            .await?
        {
            Some(other) => self.read_at(session, other, below, fields).await,
            None => result,
        }
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
        self.update(&target.path, |history| history.denied = denied.cloned());
        result.map_err(|error| target.with_hint(error))
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
        let location = self.location(session).await?;
        if location.kv == KvVersion::V1 {
            return Err(unsupported("KV version 1 does not store earlier versions"));
        }
        let Target { url, policy, .. } = location.secret(below)?;
        let response = session.get(&format!("{url}?version={version}")).await?;
        wire::read_v2(&response, &policy)
    }

    /// Lists the secrets below the folder `prefix`, up to a depth of 16 folders, and the secret with the same
    /// path as the folder. A secret in the list might not exist any more.
    pub(crate) async fn list(&self, session: &Session, prefix: &str) -> Result<Listing, Error> {
        let location = self.location(session).await?;
        let result = location.list(session, prefix).await;
        match self
            .correction(session, location, result.as_ref().err())
            .await?
        {
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

    async fn location(&self, session: &Session) -> Result<&Location, Error> {
        if let Some(Ok(location)) = self.described.get()
            && self.kv == Some(location.kv)
        {
            return Ok(location);
        }
        let locate = async || match self.kv {
            None => self.describe(session).await,
            Some(kv) => Ok(Location {
                mount: self.mount.clone(),
                base: self.path.clone(),
                kv,
            }),
        };
        self.location.get_or_try_init(locate).await
    }

    /// Requests the description of the mount, which contains its name and its version.
    async fn describe(&self, session: &Session) -> Result<Location, Error> {
        let path = join(&self.mount, &self.path);
        let url = format!("/v1/sys/internal/ui/mounts/{}", encode_path(&path)?);
        let mount = wire::mount(&session.get(&url).await?, &self.mount)?;
        self.locate(mount)
    }

    /// Returns the location in a mount that the server has described.
    fn locate(&self, mount: Mount) -> Result<Location, Error> {
        let full_path = join(&self.mount, &self.path);
        let (mount, base, kv) = match below(&full_path, &mount.name) {
            // A server can prefix the name with that of the namespace.
            None => (self.mount.clone(), self.path.clone(), mount.kv),
            Some(_) if self.is_mount_explicit && mount.name != self.mount => {
                let name = mount.name.escape_debug();
                return Err(invalid(format!("the name of the mount is `{name}`"))
                    .with_hint(format!("set the mount to `{name}`")));
            }
            Some(base) => (mount.name.clone(), base.to_owned(), mount.kv),
        };
        Ok(Location { mount, base, kv })
    }

    /// Returns another location if the settings are wrong in a way that explains `error`. The description of
    /// the mount is requested at most once.
    ///
    /// # Errors
    /// Returns an error if the description shows which setting is wrong.
    async fn correction(
        &self,
        session: &Session,
        location: &Location,
        error: Option<&Error>,
    ) -> Result<Option<&Location>, Error> {
        let (Some(error), Some(kv)) = (error, self.kv) else {
            return Ok(None);
        };
        let might_be_version_1 = error.is_not_found() && kv == KvVersion::V2;
        let might_be_nested = wire::is_missing_mount(error)
            || error.kind() == ErrorKind::Denied && !self.path.is_empty();
        if !might_be_version_1 && !might_be_nested {
            return Ok(None);
        }
        let describe = async || match self.describe(session).await {
            Err(error) if error.is_temporary() => Err(error),
            result => Ok(result),
        };
        match self.described.get_or_try_init(describe).await {
            Ok(Ok(described)) if might_be_version_1 && described.kv == KvVersion::V1 => {
                Err(wire::wrong_version_2())
            }
            Ok(Ok(described)) if described.kv != kv => Ok(None),
            Ok(Ok(described)) if described != location => Ok(Some(described)),
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidConfig => Err(error.clone()),
            _ => Ok(None),
        }
    }

    /// Changes what is remembered about a path.
    fn update(&self, path: &str, change: impl FnOnce(&mut History)) {
        let mut history = self.history();
        if let Some(known) = history.get_mut(path) {
            return change(known);
        }
        if history.len() >= MAX_SECRETS {
            history.clear();
        }
        change(history.entry(path.to_owned()).or_default());
    }

    fn history(&self) -> MutexGuard<'_, HashMap<String, History>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Location {
    /// Returns the secret at `below`.
    fn secret(&self, below: &str) -> Result<Target, Error> {
        let path = join(&self.base, below);
        if path.is_empty() {
            return Err(no_path());
        }
        let kind = match self.kv {
            KvVersion::V1 => "",
            KvVersion::V2 => "/data",
        };
        let mount = encode_path(&self.mount)?;
        Ok(Target {
            kv: self.kv,
            url: ["/v1/", &mount, kind, "/", &encode_path(&path)?].concat(),
            policy: [&self.mount, kind, "/", &path].concat(),
            path,
        })
    }

    /// Lists the secrets below the folder `prefix`, as [`Place::list`] does.
    async fn list(&self, session: &Session, prefix: &str) -> Result<Listing, Error> {
        let root = join(&self.base, prefix);
        let mut listing = Listing::default();
        let mut folders = vec![(root.clone(), 0)];
        let mut paths = Vec::new();
        while let Some((folder, depth)) = folders.pop() {
            let names = match self.names(session, &folder).await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    log_denied(session, &error);
                    listing.denied.push(error);
                    continue;
                }
                names => names?,
            };
            for name in names {
                let path = join(&folder, name.trim_end_matches('/'));
                match name.ends_with('/') {
                    true if depth < MAX_DEPTH => folders.push((path, depth + 1)),
                    true => {}
                    false => paths.push(path),
                }
            }
            if paths.len() > MAX_SECRETS {
                let message = format!("the listing has more than {MAX_SECRETS} secrets");
                return Err(
                    Error::new(ErrorKind::TooLarge, message).with_hint("list a longer prefix")
                );
            }
        }
        if !root.is_empty() {
            paths.push(root);
        }
        let relative = |path: String| below(&path, &self.base).map(str::to_owned);
        listing.paths = paths.into_iter().filter_map(relative).collect();
        Ok(listing)
    }

    /// Returns the names in a folder. Those of folders end with a slash.
    async fn names(&self, session: &Session, folder: &str) -> Result<Vec<String>, Error> {
        let kind = match self.kv {
            KvVersion::V1 => "",
            KvVersion::V2 => "/metadata",
        };
        let mount = encode_path(&self.mount)?;
        let url = match folder {
            "" => format!("/v1/{mount}{kind}/?list=true"),
            _ => format!("/v1/{mount}{kind}/{}/?list=true", encode_path(folder)?),
        };
        let policy = join(&format!("{}{kind}", self.mount), folder);
        wire::listed(&session.get(&url).await?, &policy)
    }
}

impl Target {
    /// Adds a hint to the error of a path that was copied from an API request.
    fn with_hint(&self, error: Error) -> Error {
        let is_missing = error.is_not_found() || error.kind() == ErrorKind::Denied;
        let first = self.path.split('/').next();
        match first.filter(|_| is_missing && self.kv == KvVersion::V2) {
            Some(first @ ("data" | "metadata")) => {
                error.with_hint(format!("leave out `{first}/`, which only the API uses"))
            }
            _ => error,
        }
    }
}

/// Logs that this login must not read or list a path, which an operation therefore leaves out.
pub(crate) fn log_denied(session: &Session, error: &Error) {
    tracing::warn!(target: "secretwell::vault", event = "path_denied", origin = %session.origin(), %error, "the login must not read a path; its secrets are not listed");
}

/// Joins two paths, each of which can be empty.
fn join(first: &str, second: &str) -> String {
    let parts = [first, second].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("/")
}

/// Returns the part of `path` below `folder`, or `None` if the path is not in the folder. A folder ends at a
/// slash.
pub(crate) fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(folder)?;
    match rest.is_empty() {
        true => Some(rest),
        false => rest.strip_prefix('/'),
    }
}

fn no_path() -> Error {
    Error::new(
        ErrorKind::InvalidKey,
        "the key has no prefix, and the provider has no path below the mount",
    )
    .with_hint("set a path, or write the key like `app/NAME`")
}

fn only_stale_replicas() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "only stale replicas respond, with an earlier version",
    )
    .with_hint("check that the cluster has an active server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_of_a_path_ends_at_a_slash() {
        assert_eq!(below("kv/app", "kv"), Some("app"));
        assert_eq!(below("kv", "kv"), Some(""));
        assert_eq!(below("kv/app", ""), Some("kv/app"));
        assert_eq!(below("kvops/app", "kv"), None);
        assert_eq!(below("kv", "kv/app"), None);
    }

    #[test]
    fn name_of_the_mount_is_taken_from_the_server() {
        let locate = |mount: &str, is_explicit, path: &str, name: &str| {
            let place = Place::new(mount, is_explicit, path, None).unwrap();
            let (name, kv) = (name.to_owned(), KvVersion::V2);
            let location = place.locate(Mount { name, kv });
            location.map(|location| (location.mount, location.base))
        };
        let found = |mount: &str, base: &str| (mount.to_owned(), base.to_owned());
        assert_eq!(
            locate("kv", false, "app", "kv").unwrap(),
            found("kv", "app")
        );
        assert_eq!(
            locate("team", false, "kv/app", "team/kv").unwrap(),
            found("team/kv", "app")
        );
        assert_eq!(
            locate("team", false, "kv", "team/kv").unwrap(),
            found("team/kv", "")
        );
        // For example, a name with a namespace.
        assert_eq!(
            locate("kv", true, "app", "team1/kv").unwrap(),
            found("kv", "app")
        );
        for (mount, path, name) in [("team", "kv/app", "team/kv"), ("kv/app", "", "kv")] {
            let error = locate(mount, true, path, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }
}
