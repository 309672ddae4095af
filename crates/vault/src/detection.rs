//! The detection of the mount of a provider, and of its version.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use secretwell_http::encode_path;
use tokio::time::Instant;

use crate::error::invalid;
use crate::location::{Location, below, join};
use crate::lock::lock;
use crate::session::Session;
use crate::turns::Turns;
use crate::wire::{self, KvVersion, Mount};

/// How long a description of the mount counts after a response that contradicts it.
const DOUBTED: Duration = Duration::from_secs(5);
/// How long a description of the mount counts after a response that agrees with it, but also with another one.
const CONFIRMED: Duration = Duration::from_secs(60);

/// What the settings and the server state about the mount of a provider.
///
/// The server's description is requested if the settings do not contain the version. It is requested again after
/// a response that the known description does not explain, because an operator can create a mount or change its
/// version at any time.
pub(crate) struct Detection {
    mount: String,
    is_mount_explicit: bool,
    path: String,
    /// The location according to the settings, if they contain the version.
    configured: Option<Arc<Location>>,
    last: Mutex<Option<Description>>,
    turns: Turns,
}

/// Where the secrets are according to the server.
#[derive(Clone)]
struct Description {
    requested: Instant,
    result: Result<Arc<Location>, Error>,
}

impl Detection {
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
        let mount = mount.trim_matches('/').to_owned();
        let location = |kv| Location {
            mount: mount.clone(),
            base: path.to_owned(),
            kv,
        };
        Ok(Self {
            configured: kv.map(location).map(Arc::new),
            mount,
            is_mount_explicit,
            path: path.to_owned(),
            last: Mutex::default(),
            turns: Turns::default(),
        })
    }

    /// Returns the path of the settings. It can begin with a part of the mount's name.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the version of the settings.
    pub(crate) fn configured_kv(&self) -> Option<KvVersion> {
        self.configured.as_ref().map(|location| location.kv)
    }

    /// Returns the version of the key-value engine, as far as it is known.
    pub(crate) fn known_kv(&self) -> Option<KvVersion> {
        self.known().map(|location| location.kv)
    }

    /// Returns where the secrets are. Without a version in the settings, the server describes the mount.
    pub(crate) async fn location(&self, session: &Session) -> Result<Arc<Location>, Error> {
        match self.known() {
            Some(location) => Ok(location),
            None => self.description(session, Duration::ZERO).await,
        }
    }

    /// Returns another location if `error`, the result of a request at `location`, might be caused by a wrong
    /// one. If the request succeeded before, the mount is described again at once.
    ///
    /// # Errors
    /// Returns an error if the description of the mount shows which setting is wrong, or cannot be requested.
    pub(crate) async fn correction(
        &self,
        session: &Session,
        location: &Arc<Location>,
        error: &Error,
        succeeded_before: bool,
    ) -> Result<Option<Arc<Location>>, Error> {
        let might_be_version_1 = error.is_not_found() && location.kv == KvVersion::V2;
        let might_be_nested = wire::is_missing_mount(error)
            || error.kind() == ErrorKind::Denied && !self.path.is_empty();
        let is_contradiction =
            self.configured.is_none() && error.kind() == ErrorKind::InvalidConfig;
        if !might_be_version_1 && !might_be_nested && !is_contradiction {
            return Ok(None);
        }
        let is_explained = error.kind() != ErrorKind::InvalidConfig && self.agrees_with(location);
        let max_age = match is_explained {
            _ if succeeded_before => Duration::ZERO,
            true => CONFIRMED,
            false => DOUBTED,
        };
        match (self.description(session, max_age).await, &self.configured) {
            (Ok(described), None) => Ok((described != *location).then_some(described)),
            (Ok(described), Some(_)) if might_be_version_1 && described.kv == KvVersion::V1 => {
                Err(wire::wrong_version_2())
            }
            // The policies allow the paths of the other version.
            (Ok(described), Some(configured)) if described.kv != configured.kv => {
                match (error.kind(), configured.kv) {
                    (ErrorKind::Denied, KvVersion::V1) => Err(wire::wrong_version_1()),
                    (ErrorKind::Denied, KvVersion::V2) => Err(wire::wrong_version_2()),
                    _ => Ok(None),
                }
            }
            (Ok(described), Some(_)) => Ok((described != *location).then_some(described)),
            (Err(error), _) if error.is_temporary() => Err(error),
            (Err(error), _) if error.kind() == ErrorKind::InvalidConfig => Err(error),
            (Err(_), _) => Ok(None),
        }
    }

    /// Returns the location to use without another request: the described one, if it does not contradict the
    /// settings, or else the one of the settings.
    fn known(&self) -> Option<Arc<Location>> {
        let kv = self.configured_kv();
        let described = lock(&self.last).clone().and_then(|last| last.result.ok());
        described
            .filter(|location| kv.is_none_or(|kv| kv == location.kv))
            .or_else(|| self.configured.clone())
    }

    /// Returns whether the last description is `location`.
    fn agrees_with(&self, location: &Location) -> bool {
        let last = lock(&self.last);
        let described = last.as_ref().and_then(|last| last.result.as_ref().ok());
        described.is_some_and(|described| **described == *location)
    }

    /// Returns the last description of the mount, or requests another one if it is older than `max_age`.
    async fn description(
        &self,
        session: &Session,
        max_age: Duration,
    ) -> Result<Arc<Location>, Error> {
        let called = Instant::now();
        let is_recent = |requested: Instant| requested + max_age > called;
        if let Some(last) = lock(&self.last)
            .clone()
            .filter(|last| is_recent(last.requested))
        {
            return last.result;
        }
        let attempt = async {
            let requested = Instant::now();
            // Another caller has requested it meanwhile.
            if let Some(last) = lock(&self.last)
                .clone()
                .filter(|last| last.requested >= called)
            {
                return Ok(last.result);
            }
            let result = self.describe(session).await.map(Arc::new);
            if let Err(error) = &result
                && error.is_temporary()
            {
                return Err(error.clone());
            }
            let last = Description { requested, result };
            *lock(&self.last) = Some(last.clone());
            Ok(last.result)
        };
        let timed_out = |since| session.timed_out(since, session.deadline());
        // Boxed, because this is rare, and the future of every read would contain it.
        Box::pin(self.turns.take(session.deadline(), timed_out, attempt)).await?
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
        // A description without a name describes the configured mount.
        let name = Some(&mount.name).filter(|name| !name.is_empty());
        let (mount, base, kv) = match name.and_then(|name| below(&full_path, name)) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_the_mount_is_taken_from_the_server() {
        let locate = |mount: &str, is_explicit, path: &str, name: &str| {
            let detection = Detection::new(mount, is_explicit, path, None).unwrap();
            let (name, kv) = (name.to_owned(), KvVersion::V2);
            let location = detection.locate(Mount { name, kv });
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
        for is_explicit in [true, false] {
            assert_eq!(
                locate("kv", is_explicit, "app", "").unwrap(),
                found("kv", "app")
            );
        }
        for (mount, path, name) in [("team", "kv/app", "team/kv"), ("kv/app", "", "kv")] {
            let error = locate(mount, true, path, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }
}
