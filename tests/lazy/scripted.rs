//! A provider whose versions, creation times and version history the tests set.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use secretwell::backend::Capabilities;
use secretwell::{Error, ErrorKind, Origin, Secret, SecretKey, SecretProvider, Version};

/// What a source reports about versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reports {
    /// Numbered versions with creation times, and a version history.
    Times,
    /// Numbered versions without creation times.
    Numbers,
    /// Versions without an order.
    Nothing,
}

/// What a read of a previous version does.
#[derive(Debug, Clone)]
pub(super) enum Old {
    Fail(Error),
    Hang,
    Panic,
}

/// Clones share the secrets.
#[derive(Debug, Clone)]
pub(super) struct Scripted {
    origin: Origin,
    reports: Reports,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The versions of each key, oldest first.
    versions: BTreeMap<SecretKey, Vec<Secret>>,
    /// The number of the version that a lagging replica returns.
    lagging: BTreeMap<SecretKey, usize>,
    script: VecDeque<Old>,
    always: Option<Old>,
    /// A previous version, and how many of its next reads fail.
    failing_version: Option<(u64, usize)>,
    /// How much the clock of the source is ahead.
    ahead: Duration,
    reads_of_old_versions: usize,
}

impl Scripted {
    pub(super) fn new(reports: Reports) -> Self {
        Self {
            origin: Origin::new("scripted", ""),
            reports,
            state: Arc::default(),
        }
    }

    /// Writes a version that is `age` old.
    pub(super) fn write(&self, name: &str, value: &str, age: Duration) {
        let mut state = self.lock();
        let written = SystemTime::now() + state.ahead - age;
        let versions = state.versions.entry(key(name)).or_default();
        let number = versions.len() as u64 + 1;
        let version = match self.reports {
            Reports::Times => Version::numbered(number).with_created_at(written),
            Reports::Numbers => Version::numbered(number),
            Reports::Nothing => Version::from_content(value.as_bytes()),
        };
        versions.push(Secret::new(value).with_version(version));
    }

    /// Lets all reads return the version `number`, or the newest version.
    pub(super) fn lag(&self, name: &str, number: Option<usize>) {
        let mut state = self.lock();
        match number {
            Some(number) => drop(state.lagging.insert(key(name), number)),
            None => drop(state.lagging.remove(&key(name))),
        }
    }

    /// Sets what the next read of a previous version does.
    pub(super) fn push_old(&self, old: Old) {
        self.lock().script.push_back(old);
    }

    /// Sets what every read of a previous version does after that.
    pub(super) fn always_old(&self, old: Option<Old>) {
        self.lock().always = old;
    }

    /// Lets the next reads of this previous version fail.
    pub(super) fn fail_version(&self, number: u64, reads: usize) {
        self.lock().failing_version = Some((number, reads));
    }

    /// Moves the clock of the source ahead.
    pub(super) fn set_clock_ahead(&self, by: Duration) {
        self.lock().ahead = by;
    }

    pub(super) fn reads_of_old_versions(&self) -> usize {
        self.lock().reads_of_old_versions
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn absent(&self, key: &SecretKey) -> Error {
        Error::new(ErrorKind::NotFound, "it was never written")
            .with_origin(&self.origin)
            .with_key(key)
    }
}

fn key(name: &str) -> SecretKey {
    SecretKey::parse(name).unwrap()
}

#[async_trait]
impl SecretProvider for Scripted {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::none().with_batch().with_versions();
        match self.reports {
            Reports::Times => capabilities.with_old_versions(),
            Reports::Numbers | Reports::Nothing => capabilities,
        }
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let state = self.lock();
        let versions = state.versions.get(key);
        let secret = versions.and_then(|versions| match state.lagging.get(key) {
            Some(number) => versions.get(number - 1),
            None => versions.last(),
        });
        secret.cloned().ok_or_else(|| self.absent(key))
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let old = {
            let mut state = self.lock();
            state.reads_of_old_versions += 1;
            match &mut state.failing_version {
                Some((number, reads)) if version.number() == Some(*number) && *reads > 0 => {
                    *reads -= 1;
                    Some(Old::Fail(Error::new(ErrorKind::Unavailable, "down")))
                }
                _ => state.script.pop_front().or_else(|| state.always.clone()),
            }
        };
        match old {
            Some(Old::Fail(error)) => return Err(error.with_origin(&self.origin).with_key(key)),
            Some(Old::Hang) => std::future::pending().await,
            Some(Old::Panic) => panic!("a read of a previous version panics"),
            None => {}
        }
        let index = usize::try_from(version.number().unwrap()).unwrap() - 1;
        let state = self.lock();
        let secret = state
            .versions
            .get(key)
            .and_then(|versions| versions.get(index));
        secret.cloned().ok_or_else(|| self.absent(key))
    }
}
