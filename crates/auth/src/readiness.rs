//! [`Readiness`] of a service, for the probes of an orchestrator.

use std::fmt;
use std::sync::Arc;

use secretwell_core::{Error, ErrorKind, SecretKey};
use serde::Serialize;

use crate::built::Guard;
use crate::lazy::LazyAuth;
use crate::state::{Generation, NotReady, State};

/// Whether a service can serve requests, with the state of each of its auths. Created by [`Probes::readiness`].
///
/// It contains keys and kinds of errors, but no values, messages or addresses.
///
/// ```json
/// {"ready":true,"auths":[{"name":"sessions","state":"degraded","generation":2,"age_seconds":3600.5,
///  "problems":[{"key":"AUTH_SECRET","kind":"unavailable"}]}]}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Readiness {
    /// Whether each auth has a build.
    pub ready: bool,
    /// The auths, in the order of [`Probes::auth`].
    pub auths: Vec<AuthReadiness>,
}

/// The readiness of one [`LazyAuth`]. Created by [`LazyAuth::readiness`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AuthReadiness {
    /// The [name](crate::LazyAuthBuilder::name) of the auth.
    pub name: Option<String>,
    /// The [name of the state](State::name).
    pub state: &'static str,
    /// The number of the current build.
    pub generation: Option<Generation>,
    /// The time since the current build replaced the previous one, in seconds.
    pub age_seconds: Option<f64>,
    /// The problems of the last attempt. They are empty if it succeeded.
    pub problems: Vec<Problem>,
}

/// A problem in an [`AuthReadiness`]. Its message is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The key of the secret, unless the problem concerns all of them.
    pub key: Option<SecretKey>,
    /// The kind of the error.
    pub kind: ErrorKind,
}

impl AuthReadiness {
    /// Returns whether there is a build.
    pub fn is_ready(&self) -> bool {
        self.generation.is_some()
    }
}

impl<A: Send + Sync + 'static> LazyAuth<A> {
    /// Returns the readiness of this auth, without waiting. Starts the first build: a service that is not ready gets
    /// no requests, which would start it.
    ///
    /// Outside of a tokio runtime, the first build is not started.
    pub fn readiness(&self) -> AuthReadiness {
        let current = self.try_get().ok();
        let state = self.state();
        let failure = match &state {
            State::Failed { failure } | State::Degraded { failure, .. } => Some(failure.clone()),
            // The next attempt is in progress.
            _ => self.shared().progress.borrow().failure.clone(),
        };
        let problems = failure.as_ref().map(NotReady::problems).unwrap_or_default();
        AuthReadiness {
            name: self.name().map(str::to_owned),
            state: state.name(),
            generation: state.generation(),
            age_seconds: current.map(|build| Guard::age(&build).as_secs_f64()),
            problems: problems.iter().map(Problem::new).collect(),
        }
    }
}

impl Problem {
    fn new(error: &Error) -> Self {
        Self {
            key: error.key().cloned(),
            kind: error.kind(),
        }
    }
}

/// The probes of a service: whether it is ready, from the states of its auths.
///
/// A service is ready as soon as each auth has a build. It stays ready during an outage of the source, because the
/// current builds stay in use. A probe starts the first builds, and does not wait for them.
///
/// ```
/// use axum::Router;
/// use secretwell::auth::{LazyAuth, Probes};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Secrets {
///     api_key: SecretString,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let memory = MemoryProvider::from_iter([("api_key", "s3cr3t")]);
/// let auth = LazyAuth::infallible(Resolver::new(memory), |secrets: Secrets, _| secrets.api_key);
///
/// let probes = Probes::new().auth(&auth); // further calls add further auths
/// let app: Router = Router::new()
///     .route_service("/ready", probes.ready())
///     .route_service("/live", probes.live());
/// # let _ = app;
/// // In other frameworks, a handler returns the readiness as JSON, with 503 if it is not ready.
/// assert!(!probes.readiness().ready, "this call has started the build");
/// auth.get().await.unwrap();
/// assert!(probes.readiness().ready);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Probes {
    auths: Vec<Arc<dyn Fn() -> AuthReadiness + Send + Sync>>,
}

impl Probes {
    /// Creates probes without an auth, which are always ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an auth that the service needs.
    #[must_use]
    pub fn auth<A: Send + Sync + 'static>(mut self, auth: &LazyAuth<A>) -> Self {
        let auth = auth.clone();
        self.auths.push(Arc::new(move || auth.readiness()));
        self
    }

    /// Returns the readiness of the service, without waiting. Starts the first builds.
    pub fn readiness(&self) -> Readiness {
        let auths: Vec<AuthReadiness> = self.auths.iter().map(|auth| auth()).collect();
        Readiness {
            ready: auths.iter().all(AuthReadiness::is_ready),
            auths,
        }
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes")
            .field("auths", &self.auths.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
