//! A model of the server: replicas that lag, outages, change notifications, and a count of all requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use secretwell::backend::{Capabilities, Change, ChangeSender, ChangeStream};
use secretwell::{Error, ErrorKind, Origin, Secret, SecretKey, SecretProvider, Version};
use secretwell_resolver::clock;
use tokio::time::{Instant, sleep};

/// The number of replicas. Each request reaches a random one.
const REPLICAS: usize = 3;
/// A write reaches each replica after a random time up to this one.
pub(crate) const MAX_LAG: Duration = Duration::from_secs(5);
/// The shortest and the longest time of a request.
const LATENCY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// A change notification reaches each instance after a random time up to this one.
pub(crate) const MAX_NOTIFICATION_DELAY: Duration = Duration::from_secs(1);

/// The source that all instances share.
#[derive(Debug)]
pub(crate) struct Server {
    origin: Origin,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    versions: BTreeMap<SecretKey, Vec<Written>>,
    is_down: bool,
    /// The number of requests in each second.
    requests: Vec<u32>,
    listeners: Vec<ChangeSender>,
}

/// A version of a secret.
#[derive(Debug)]
struct Written {
    value: String,
    created_at: SystemTime,
    /// The times at which the replicas have the version.
    visible_at: [Instant; REPLICAS],
}

impl Server {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            origin: Origin::new("fleet", ""),
            started: Instant::now(),
            state: Mutex::new(State {
                random: fastrand::Rng::with_seed(seed),
                versions: BTreeMap::new(),
                is_down: false,
                requests: Vec::new(),
                listeners: Vec::new(),
            }),
        })
    }

    /// Writes versions that all replicas have had for `age`.
    pub(crate) fn seed(&self, secrets: &[(&SecretKey, &str)], age: Duration) {
        let visible_at = [Instant::now(); REPLICAS];
        self.insert(secrets, clock::wall() - age, visible_at);
    }

    /// Writes one document. Each replica has all of its secrets at the same time.
    pub(crate) fn write(&self, secrets: &[(&SecretKey, &str)]) {
        let visible_at = {
            let random = &mut self.lock().random;
            let mut lag = || Instant::now() + MAX_LAG.mul_f64(random.f64());
            std::array::from_fn(|_| lag())
        };
        self.insert(secrets, clock::wall(), visible_at);
    }

    fn insert(
        &self,
        secrets: &[(&SecretKey, &str)],
        created_at: SystemTime,
        visible_at: [Instant; REPLICAS],
    ) {
        let mut state = self.lock();
        for (key, value) in secrets {
            state
                .versions
                .entry((*key).clone())
                .or_default()
                .push(Written {
                    value: (*value).to_owned(),
                    created_at,
                    visible_at,
                });
        }
    }

    /// Starts or ends an outage, in which each request fails.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// Sends a change notification to each instance.
    pub(crate) fn notify(&self) {
        let mut state = self.lock();
        let listeners: Vec<ChangeSender> = state.listeners.drain(..).collect();
        let delays: Vec<Duration> = listeners
            .iter()
            .map(|_| MAX_NOTIFICATION_DELAY.mul_f64(state.random.f64()))
            .collect();
        state.listeners = listeners.clone();
        drop(state);
        for (listener, delay) in listeners.into_iter().zip(delays) {
            tokio::spawn(async move {
                sleep(delay).await;
                listener.send(Change::All);
            });
        }
    }

    /// Returns the number of requests in each second since the start.
    pub(crate) fn requests(&self) -> Vec<u32> {
        let mut requests = self.lock().requests.clone();
        requests.resize(self.second(), 0);
        requests
    }

    /// Returns the number of requests so far.
    pub(crate) fn total(&self) -> u64 {
        let requests = &self.lock().requests;
        requests.iter().map(|requests| u64::from(*requests)).sum()
    }

    /// Returns the number of whole seconds since the start.
    pub(crate) fn second(&self) -> usize {
        usize::try_from(self.started.elapsed().as_secs()).unwrap_or(usize::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to a random replica, and returns what `read` finds there.
    async fn request<T>(
        &self,
        read: impl FnOnce(&State, usize) -> Vec<Result<T, Error>>,
        keys: usize,
    ) -> Vec<Result<T, Error>> {
        let (latency, replica) = {
            let second = self.second();
            let mut state = self.lock();
            if state.requests.len() <= second {
                state.requests.resize(second + 1, 0);
            }
            state.requests[second] += 1;
            let random = &mut state.random;
            let latency = LATENCY.0 + (LATENCY.1 - LATENCY.0).mul_f64(random.f64());
            (latency, random.usize(..REPLICAS))
        };
        sleep(latency / 2).await;
        let results = {
            let state = self.lock();
            match state.is_down {
                true => (0..keys).map(|_| Err(self.down())).collect(),
                false => read(&state, replica),
            }
        };
        sleep(latency / 2).await;
        results
    }

    fn down(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "the server is down").with_origin(&self.origin)
    }
}

impl State {
    /// Returns the newest version of `key` that `replica` has, or the version with the number `number`.
    fn read(&self, key: &SecretKey, number: Option<u64>, replica: usize) -> Result<Secret, Error> {
        let now = Instant::now();
        let versions = self.versions.get(key).map_or(&[][..], Vec::as_slice);
        let visible = (1_u64..)
            .zip(versions)
            .filter(|(_, written)| written.visible_at[replica] <= now);
        let found = match number {
            Some(number) => visible.into_iter().find(|(found, _)| *found == number),
            None => visible.last(),
        };
        let (number, written) = found
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "it was never written").with_key(key))?;
        let version = Version::numbered(number).with_created_at(written.created_at);
        Ok(Secret::new(written.value.as_str()).with_version(version))
    }
}

/// The provider of one instance.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) Arc<Server>);

#[async_trait]
impl SecretProvider for Client {
    fn origin(&self) -> &Origin {
        &self.0.origin
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
            .with_batch()
            .with_versions()
            .with_old_versions()
            .with_watch()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let read = |state: &State, replica| vec![state.read(key, None, replica)];
        one(self.0.request(read, 1).await)
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let read = |state: &State, replica| {
            let keys = keys.iter();
            keys.map(|key| state.read(key, None, replica)).collect()
        };
        self.0.request(read, keys.len()).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let read = |state: &State, replica| vec![state.read(key, version.number(), replica)];
        one(self.0.request(read, 1).await)
    }

    fn watch(&self) -> Option<ChangeStream> {
        let (sender, stream) = ChangeStream::channel();
        self.0.lock().listeners.push(sender);
        Some(stream)
    }
}

fn one<T>(results: Vec<Result<T, Error>>) -> Result<T, Error> {
    let missing = || Error::new(ErrorKind::Unavailable, "the model returned no result");
    results.into_iter().next().unwrap_or_else(|| Err(missing()))
}
