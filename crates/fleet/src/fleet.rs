//! The instances, and the requests of their users: tokens that random instances sign and others verify.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secretwell::SecretKey;
use secretwell::auth::sessions::TokenError;
use secretwell::auth::{Guard, KeyRing};
use secretwell_resolver::clock;
use tokio::time::{Instant, sleep, sleep_until};

use crate::instance::{Instance, Sessions};
use crate::server::Server;

/// How many other instances verify a new token at once.
const VERIFIERS: usize = 4;
/// How many tokens are kept and verified later.
const KEPT: usize = 256;
/// The time between two tokens that all instances verify.
pub(crate) const SWEEP: Duration = Duration::from_secs(60);
/// That time while a secret rotates or is revoked.
const CLOSE_SWEEP: Duration = Duration::from_secs(10);

/// All instances of a service and its server.
pub(crate) struct Fleet {
    pub(crate) server: Arc<Server>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) random: fastrand::Rng,
    pub(crate) counts: Counts,
    secret_key: SecretKey,
    revocation_key: SecretKey,
    /// All secrets, oldest first.
    secrets: Vec<String>,
    /// The number of secrets that are revoked. Their tokens are not verified any more.
    revoked: usize,
    kept: VecDeque<Token>,
    users: u64,
    swept_at: Instant,
}

/// What happened to tokens and requests in one phase.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) signed: u64,
    pub(crate) verified: u64,
    /// Tokens that an instance did not verify at first. It then reads the secret again.
    pub(crate) unverified: u64,
    /// How many of these it has verified after that.
    pub(crate) verified_later: Arc<AtomicU64>,
    /// Requests to an instance that had been ready, and that had no build.
    pub(crate) unserved: u64,
    /// Instances that were started.
    pub(crate) started: u64,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    user: u64,
    /// The index of the secret that has signed it.
    secret: usize,
}

/// A state that all instances reach, with the time of the first and of the last one.
pub(crate) struct Reached {
    pub(crate) first: Option<Duration>,
    pub(crate) last: Option<Duration>,
}

/// A check of an instance.
pub(crate) type Check<'a> = &'a dyn Fn(&Instance) -> bool;

impl Fleet {
    /// Creates a fleet without instances, and a server with one old secret.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = Server::new(random.u64(..));
        let mut fleet = Self {
            server,
            instances: Vec::new(),
            secret_key: SecretKey::parse("AUTH_SECRET").unwrap(),
            revocation_key: SecretKey::parse("AUTH_SECRET_REVOKED_AT").unwrap(),
            secrets: Vec::new(),
            revoked: 0,
            kept: VecDeque::new(),
            users: 0,
            swept_at: Instant::now(),
            counts: Counts::default(),
            random,
        };
        let age = Duration::from_secs(30 * 24 * 3600);
        let secret = fleet.new_secret();
        let revoked_at = time_text(clock::wall() - age);
        fleet.server.seed(
            &[
                (&fleet.secret_key, &secret),
                (&fleet.revocation_key, &revoked_at),
            ],
            age,
        );
        fleet
    }

    fn new_secret(&mut self) -> String {
        let digit = |_| self.random.digit(16);
        let secret: String = (0..64).map(digit).collect();
        self.secrets.push(secret.clone());
        secret
    }

    /// Returns the newest secret.
    pub(crate) fn newest(&self) -> String {
        self.secrets.last().cloned().unwrap_or_default()
    }

    /// Returns the secret before the newest one.
    pub(crate) fn previous(&self) -> String {
        let previous = self.secrets.iter().rev().nth(1);
        previous.cloned().unwrap_or_default()
    }

    /// Starts another instance.
    pub(crate) fn start(&mut self) -> Instance {
        self.counts.started += 1;
        Instance::start(&self.server, &self.revocation_key)
    }

    /// Replaces the instance at `index` with a new one.
    pub(crate) fn replace(&mut self, index: usize) {
        self.instances[index] = self.start();
    }

    /// Writes a new secret.
    pub(crate) fn rotate(&mut self) {
        let secret = self.new_secret();
        self.server.write(&[(&self.secret_key, &secret)]);
    }

    /// Writes the current time as the revocation time. All secrets but the newest are revoked.
    pub(crate) fn revoke_previous(&mut self) {
        self.forget_previous();
        let now = time_text(clock::wall());
        self.server.write(&[(&self.revocation_key, &now)]);
    }

    /// Writes a new secret and the revocation time of all previous ones.
    pub(crate) fn rotate_and_revoke(&mut self) {
        let secret = self.new_secret();
        self.forget_previous();
        let now = time_text(clock::wall());
        let secrets: [(&SecretKey, &str); 2] =
            [(&self.secret_key, &secret), (&self.revocation_key, &now)];
        self.server.write(&secrets);
    }

    fn forget_previous(&mut self) {
        self.revoked = self.secrets.len() - 1;
        self.kept.clear();
    }

    /// Lets `time` pass, in which users send requests.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let tokens = u32::try_from(self.instances.len() / 1000).unwrap_or(u32::MAX);
        let pause = Duration::from_secs(1) / tokens.max(1);
        while Instant::now() < end {
            sleep_until(end.min(Instant::now() + pause)).await;
            self.serve_users();
            if self.swept_at.elapsed() >= SWEEP {
                self.sweep();
            }
        }
    }

    /// Lets `time` pass, and checks each second which instances have reached the states. Returns earlier if all
    /// instances have reached all states and `ends_early` is set.
    pub(crate) async fn observe<const N: usize>(
        &mut self,
        time: Duration,
        ends_early: bool,
        checks: [Check<'_>; N],
    ) -> [Reached; N] {
        let started = Instant::now();
        let mut pending = checks.map(|_| (0..self.instances.len()).collect::<Vec<_>>());
        let mut reached = checks.map(|_| Reached {
            first: None,
            last: None,
        });
        while started.elapsed() < time {
            for ((check, pending), reached) in checks.iter().zip(&mut pending).zip(&mut reached) {
                if pending.is_empty() {
                    continue;
                }
                let before = pending.len();
                pending.retain(|index| !check(&self.instances[*index]));
                if pending.len() < before {
                    reached.first.get_or_insert(started.elapsed());
                }
                if pending.is_empty() {
                    reached.last = Some(started.elapsed());
                }
            }
            if ends_early && pending.iter().all(Vec::is_empty) {
                break;
            }
            if self.swept_at.elapsed() >= CLOSE_SWEEP {
                self.sweep();
            }
            self.pass(Duration::from_secs(1)).await;
        }
        reached
    }

    /// Returns how many instances pass the check.
    pub(crate) fn count(&self, check: Check<'_>) -> usize {
        let instances = self.instances.iter();
        instances.filter(|instance| check(instance)).count()
    }

    /// A random instance signs a token. Others verify it, and a token that was signed earlier.
    fn serve_users(&mut self) {
        let Some(token) = self.sign() else { return };
        for _ in 0..VERIFIERS {
            self.verify_somewhere(&token);
        }
        if let Some(earlier) = self.random.choice(&self.kept).cloned() {
            self.verify_somewhere(&earlier);
        }
        if self.kept.len() == KEPT {
            let index = self.random.usize(..KEPT);
            self.kept.swap_remove_back(index);
        }
        self.kept.push_back(token);
    }

    /// All instances verify a token that a random one has signed.
    fn sweep(&mut self) {
        self.swept_at = Instant::now();
        let Some(token) = self.sign() else { return };
        for index in 0..self.instances.len() {
            if let Some(sessions) = self.sessions(index) {
                self.verify(index, &sessions, &token);
            }
        }
    }

    fn sign(&mut self) -> Option<Token> {
        let index = self.random.usize(..self.instances.len());
        let sessions = self.sessions(index)?;
        let newest_first = self.secrets.iter().enumerate().rev();
        let mut signing = newest_first.filter(|(_, secret)| sessions.signs_with(secret));
        let (secret, _) = signing.next()?;
        self.users += 1;
        self.counts.signed += 1;
        Some(Token {
            text: sessions.sign(self.users),
            user: self.users,
            secret,
        })
    }

    fn verify_somewhere(&mut self, token: &Token) {
        let index = self.random.usize(..self.instances.len());
        if let Some(sessions) = self.sessions(index) {
            self.verify(index, &sessions, token);
        }
    }

    /// Returns what an instance has built. `None` if it has not started yet.
    fn sessions(&mut self, index: usize) -> Option<Guard<Sessions>> {
        let instance = &self.instances[index];
        let sessions = instance.sessions();
        if sessions.is_none() && instance.is_started() {
            self.counts.unserved += 1;
        }
        sessions
    }

    /// Verifies a token, unless its secret was revoked. If it names an unknown key, the instance reads the secret
    /// again, as `Rejection::unknown_key` does.
    fn verify(&mut self, index: usize, sessions: &Guard<Sessions>, token: &Token) {
        if token.secret < self.revoked {
            return;
        }
        let Err(error) = sessions.verify(&token.text, token.user) else {
            self.counts.verified += 1;
            return;
        };
        self.counts.unverified += 1;
        if error == TokenError::UnknownKey {
            let auth = self.instances[index].auth.clone();
            let (used, token) = (Guard::generation(sessions), token.clone());
            let verified_later = self.counts.verified_later.clone();
            tokio::spawn(async move {
                if let Some(newer) = auth.refresh_if_used(used).await
                    && newer.verify(&token.text, token.user).is_ok()
                {
                    verified_later.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    /// Returns a token that `secret` has signed, and its user.
    pub(crate) fn forge(&mut self, secret: &str) -> (String, u64) {
        self.users += 1;
        let sessions = Sessions::new(KeyRing::new(secret).unwrap()).unwrap();
        (sessions.sign(self.users), self.users)
    }

    /// Waits until all instances are ready, at most `limit`. Returns the longest time that a start took, or `None` if
    /// an instance is not ready.
    pub(crate) async fn await_starts(&mut self, limit: Duration) -> Option<Duration> {
        let end = Instant::now() + limit;
        while !self.instances.iter().all(Instance::is_started) && Instant::now() < end {
            sleep(Duration::from_millis(100)).await;
        }
        let times = self.instances.iter();
        let times: Option<Vec<_>> = times.map(|it| it.ready_after.get().copied()).collect();
        times?.into_iter().max()
    }
}

fn time_text(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}
