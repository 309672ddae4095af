//! One instance of the service: a real [`Resolver`] and a real [`LazyAuth`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secretwell::auth::sessions::TokenError;
use secretwell::auth::sessions::authjs::SessionTokens;
use secretwell::auth::{BuildContext, BuildError, Guard, KeyRing, LazyAuth, Mode};
use secretwell::{Resolver, SecretKey, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::server::{Client, Server};

/// The ttl of the resolver, and so the activation delay.
pub(crate) const TTL: Duration = Duration::from_secs(300);
/// The lifetime of a token.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    /// Only its key ring is used.
    #[expect(dead_code, reason = "the field names the key")]
    auth_secret: SecretString,
}

/// What an instance builds from its secrets.
pub(crate) struct Sessions {
    pub(crate) ring: KeyRing,
    tokens: SessionTokens,
}

impl Sessions {
    pub(crate) fn new(ring: KeyRing) -> Result<Self, BuildError> {
        let tokens = SessionTokens::v5("authjs.session-token", &ring)?;
        Ok(Self { ring, tokens })
    }

    /// Signs a token for the user with this number.
    pub(crate) fn sign(&self, user: u64) -> String {
        let claims = json!({"sub": user.to_string()});
        self.tokens.encode(&claims, MAX_AGE).unwrap()
    }

    /// Returns whether `token` is accepted for the user with this number.
    ///
    /// # Errors
    /// Returns the error of a token that is not accepted.
    pub(crate) fn verify(&self, token: &str, user: u64) -> Result<(), TokenError> {
        let session = self.tokens.decode::<Value>(token)?;
        assert_eq!(session.claims["sub"], user.to_string(), "another user");
        Ok(())
    }

    /// Returns whether `secret` signs.
    pub(crate) fn signs_with(&self, secret: &str) -> bool {
        self.ring.primary().expose_bytes() == secret.as_bytes()
    }

    /// Returns whether `secret` signs or verifies.
    pub(crate) fn accepts(&self, secret: &str) -> bool {
        let mut values = self.ring.iter();
        values.any(|value| value.expose_bytes() == secret.as_bytes())
    }
}

/// A running instance. Dropping it stops it.
pub(crate) struct Instance {
    pub(crate) auth: LazyAuth<Sessions>,
    /// The time until the instance was ready.
    pub(crate) ready_after: Arc<OnceLock<Duration>>,
    task: AbortHandle,
}

impl Instance {
    /// Starts an instance, which waits for its secrets like a readiness probe.
    pub(crate) fn start(server: &Arc<Server>, revocation_key: &SecretKey) -> Self {
        let resolver = Resolver::builder(Client(server.clone())).ttl(TTL).build();
        let auth = LazyAuth::builder(resolver)
            .mode(Mode::Production)
            .revocation_key(revocation_key.as_str())
            .unwrap()
            .build(|_: Secrets, context: BuildContext| async move {
                Sessions::new(context.key_ring("AUTH_SECRET")?)
            });
        let ready_after = Arc::new(OnceLock::new());
        let (starting, ready) = (auth.clone(), ready_after.clone());
        let task = tokio::spawn(async move {
            let started = Instant::now();
            while starting.get().await.is_err() {
                sleep(Duration::from_secs(1)).await;
            }
            let _ = ready.set(started.elapsed());
        });
        Self {
            auth,
            ready_after,
            task: task.abort_handle(),
        }
    }

    /// Returns whether the instance has been ready.
    pub(crate) fn is_started(&self) -> bool {
        self.ready_after.get().is_some()
    }

    /// Returns whether the instance is ready, and its source has confirmed its secrets within the ttl.
    pub(crate) fn is_fresh(&self) -> bool {
        self.auth.state().name() == "ready"
    }

    /// Returns what the instance has built, if it can serve requests.
    pub(crate) fn sessions(&self) -> Option<Guard<Sessions>> {
        self.auth.try_get().ok()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}
