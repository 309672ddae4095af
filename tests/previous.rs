//! Rotations with files and environment variables, which keep no version history: the service restarts at
//! every moment of a rotation.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{
    SecretOrder, Session, SessionCookie, SessionTokens, Sessions,
};
use secretwell::auth::{Auth, BuildContext, BuildError, KeyRing, LazyAuth, Mode};
use secretwell::env::{EnvProvider, Environment};
use secretwell::file::FileProvider;
use secretwell::{Resolver, SecretProvider, SecretString};
use secretwell_testkit::CanaryLog;
use serde::Deserialize;
use serde_json::json;
use tower_service::Service as _;

use crate::support::replace;

const OLDER: &str = "the older secret, thirty-two bytes or more";
const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the builds take the key ring")]
struct Secrets {
    auth_secret: SecretString,
    auth_secret_previous: Option<SecretString>,
    revoked_at: Option<SecretString>,
}

#[derive(Clone, Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

/// A process of the service.
struct Process {
    auth: LazyAuth<Sessions>,
    router: Router,
}

impl Process {
    fn start(source: impl SecretProvider, mode: Mode) -> Self {
        let auth = LazyAuth::builder(Resolver::new(source))
            .mode(mode)
            .revocation_key("REVOKED_AT")
            .unwrap()
            .build(|_: Secrets, context: BuildContext| async move {
                let ring = SecretOrder::NextAuth5.key_ring(&context)?;
                let cookie = SessionCookie::v5(Scheme::Http);
                Ok::<_, BuildError>(Sessions::new(cookie, &ring)?)
            });
        let router = Router::new()
            .route("/me", get(me))
            .layer(auth.session_layer());
        Self { auth, router }
    }

    /// Reads the source again, as the resolver does when the file changes. A read is repeated if the file
    /// changes during the read.
    async fn read_again(&self) {
        for _ in 0..30 {
            match self.auth.rebuild().await {
                Ok(_) => return,
                Err(failure) => assert!(failure.is_temporary(), "{failure}"),
            }
        }
        panic!("the source does not come to rest");
    }

    async fn accepts(&self, cookie: &str) -> bool {
        let request = Request::get("/me").header("cookie", cookie);
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().call(request).await.unwrap();
        // A session that is not valid here might be valid elsewhere, so it is never cleared.
        assert!(!response.headers().contains_key("set-cookie"));
        match response.status() {
            StatusCode::OK => true,
            StatusCode::UNAUTHORIZED => false,
            other => panic!("{other}"),
        }
    }

    /// The cookie of a session that this process starts.
    async fn log_in(&self) -> String {
        start_session(&self.auth.get().await.unwrap())
    }
}

fn start_session(sessions: &Sessions) -> String {
    let set_cookie = sessions.start(&json!({"name": "Ada"}), "").unwrap();
    set_cookie[0].split(';').next().unwrap().to_owned()
}

/// The cookie of a session that the application starts with `secret`.
fn session_of(secret: &str) -> String {
    let ring = KeyRing::new(secret).unwrap();
    start_session(&Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap())
}

/// The process signs with `secret`.
async fn assert_signs_with(process: &Process, secret: &str) {
    let cookie = process.log_in().await;
    let (name, token) = cookie.split_once('=').unwrap();
    let tokens = SessionTokens::v5(name, &KeyRing::new(secret).unwrap()).unwrap();
    assert!(tokens.decode::<User>(token).is_ok(), "{secret}");
}

/// A directory of secrets.
struct Files(tempfile::TempDir);

impl Files {
    fn new(secrets: &[(&str, &str)]) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        for (name, value) in secrets {
            files.write(name, value);
        }
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, value: &str) {
        replace(&self.path().join(name), value.as_bytes());
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
    }

    fn start(&self) -> Process {
        self.start_in(Mode::Production)
    }

    fn start_in(&self, mode: Mode) -> Process {
        Process::start(FileProvider::directory(self.path()), mode)
    }
}

const CURRENT: &str = "AUTH_SECRET";
const PREVIOUS: &str = "AUTH_SECRET_PREVIOUS";

/// The documented order of writes: the old secret is stored before it is replaced.
#[tokio::test]
async fn restart_at_every_moment_of_a_rotation_logs_nobody_out() {
    for mode in [Mode::Production, Mode::Development] {
        let files = Files::new(&[(CURRENT, OLD)]);
        let old = session_of(OLD);
        let mut processes = vec![files.start_in(mode)];
        assert!(processes[0].accepts(&old).await);
        let mut sessions = vec![old.clone()];
        for (step, (name, value)) in [(PREVIOUS, OLD), (CURRENT, NEW)].into_iter().enumerate() {
            files.write(name, value);
            if step == 1 {
                // The application encrypts with the new secret at once.
                sessions.push(session_of(NEW));
            }
            processes.push(files.start_in(mode));
            for process in &processes {
                process.read_again().await;
                for session in &sessions {
                    assert!(process.accepts(session).await, "step {step}");
                }
            }
            // So does a process that starts. All processes accept its sessions.
            let started = processes.last().unwrap();
            let current = [OLD, NEW][step];
            assert_signs_with(started, current).await;
            sessions.push(started.log_in().await);
            for process in &processes {
                for session in &sessions {
                    assert!(process.accepts(session).await, "step {step}");
                }
            }
        }
        // The end of the grace period of the operator.
        files.remove(PREVIOUS);
        let started = files.start_in(mode);
        assert!(!started.accepts(&old).await);
        assert!(started.accepts(&session_of(NEW)).await);
    }
}

/// With the other order, a process that starts between the two writes cannot know the old secret.
#[tokio::test]
async fn old_secret_that_is_stored_late_is_accepted_from_then_on_without_a_restart() {
    let files = Files::new(&[(CURRENT, OLD)]);
    let (old, running) = (session_of(OLD), files.start());
    assert!(running.accepts(&old).await);
    files.write(CURRENT, NEW);
    running.read_again().await;
    let started = files.start();
    assert!(running.accepts(&old).await);
    assert!(!started.accepts(&old).await);
    files.write(PREVIOUS, OLD);
    for process in [&running, &started, &files.start()] {
        process.read_again().await;
        assert!(process.accepts(&old).await);
        assert!(process.accepts(&session_of(NEW)).await);
    }
    assert_signs_with(&started, NEW).await;
}

#[tokio::test]
async fn second_rotation_within_the_grace_period_keeps_the_last_previous_secret() {
    let files = Files::new(&[(CURRENT, OLDER)]);
    let running = files.start();
    running.read_again().await;
    for (previous, current) in [(OLDER, OLD), (OLD, NEW)] {
        files.write(PREVIOUS, previous);
        running.read_again().await;
        files.write(CURRENT, current);
        running.read_again().await;
    }
    for secret in [OLDER, OLD, NEW] {
        assert!(running.accepts(&session_of(secret)).await, "{secret}");
    }
    let started = files.start();
    assert!(started.accepts(&session_of(OLD)).await);
    assert!(!started.accepts(&session_of(OLDER)).await);
}

#[tokio::test]
async fn previous_secret_without_a_current_one_does_not_start_the_service() {
    let files = Files::new(&[(PREVIOUS, OLD)]);
    let process = files.start();
    let failure = process.auth.get().await.unwrap_err();
    assert!(failure.to_string().contains("AUTH_SECRET"), "{failure}");
    let request = Request::get("/me").header("cookie", session_of(OLD));
    let request = request.body(Body::empty()).unwrap();
    let response = process.router.clone().call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn empty_file_of_the_previous_secret_is_a_problem_and_not_an_absent_secret() {
    let files = Files::new(&[(CURRENT, NEW), (PREVIOUS, "")]);
    let failure = files.start().auth.get().await.unwrap_err();
    assert_eq!(failure.problems()[0].key().unwrap().as_str(), PREVIOUS);
}

#[tokio::test]
async fn revoked_secret_does_not_verify_although_it_is_stored_as_previous() {
    let files = Files::new(&[(CURRENT, NEW), (PREVIOUS, OLD)]);
    let (leaked, process) = (session_of(OLD), files.start());
    assert!(process.accepts(&leaked).await);
    process.auth.revoke_previous().await.unwrap();
    assert!(!process.accepts(&leaked).await);
    process.read_again().await;
    assert!(!process.accepts(&leaked).await);
    assert!(process.accepts(&session_of(NEW)).await);
    assert_eq!(process.auth.state().name(), "ready");

    // A revocation time holds in every process, whenever it starts.
    files.write("REVOKED_AT", "1000");
    assert!(!files.start().accepts(&leaked).await);
    files.remove("REVOKED_AT");
    assert!(files.start().accepts(&leaked).await);
    files.remove(PREVIOUS);
    assert!(!files.start().accepts(&leaked).await);
}

/// Without a creation time, nobody knows that the previous secret is newer than an old revocation time.
#[tokio::test]
async fn previous_secret_that_an_old_revocation_time_revokes_is_reported() {
    let (unused, name) = ("previous_secret_unused", "AUTH_SECRET_PREVIOUS");
    let files = Files::new(&[(CURRENT, NEW), (PREVIOUS, OLD), ("REVOKED_AT", "1000")]);
    let log = CanaryLog::install();
    let process = files.start();
    assert!(!process.accepts(&session_of(OLD)).await);
    let lines = log.lines_with(unused);
    assert!(lines.len() == 1 && lines[0].contains(name), "{lines:?}");
    // Not if it verifies, or is absent.
    files.remove("REVOKED_AT");
    assert!(files.start().accepts(&session_of(OLD)).await);
    files.write("REVOKED_AT", "1000");
    files.write(PREVIOUS, NEW);
    assert!(files.start().accepts(&session_of(NEW)).await);
    files.remove(PREVIOUS);
    assert!(files.start().accepts(&session_of(NEW)).await);
    assert_eq!(log.lines_with(unused).len(), 1);
}

#[tokio::test]
async fn previous_secret_that_was_revoked_is_reported_and_no_problem() {
    let files = Files::new(&[(CURRENT, OLD)]);
    let log = CanaryLog::install();
    let process = files.start();
    process.read_again().await;
    files.write(CURRENT, NEW);
    process.read_again().await;
    process.auth.revoke_previous().await.unwrap();
    files.write(PREVIOUS, OLD);
    process.read_again().await;
    assert!(!process.accepts(&session_of(OLD)).await);
    assert!(process.accepts(&session_of(NEW)).await);
    assert_eq!(process.auth.state().name(), "ready");
    assert!(!log.lines_with("previous_secret_unused").is_empty());
    // As the current one, it is refused, and the last build stays.
    files.write(CURRENT, OLD);
    let failure = process.auth.rebuild().await.unwrap_err();
    assert!(failure.to_string().contains("revoked"), "{failure}");
    assert!(!process.accepts(&session_of(OLD)).await);
    assert!(process.accepts(&session_of(NEW)).await);
}

/// The environment of one process.
struct Variables(HashMap<OsString, OsString>);

impl Environment for Variables {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<OsString> {
        self.0.keys().cloned().collect()
    }
}

fn start_with_variables(variables: &[(&str, &str)]) -> Process {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    let environment = Variables(variables.collect());
    let source = EnvProvider::with_environment(environment, "");
    Process::start(source, Mode::Production)
}

#[tokio::test]
async fn restart_with_new_variables_logs_nobody_out() {
    let (old, new) = (session_of(OLD), session_of(NEW));
    let before = start_with_variables(&[(CURRENT, OLD), (PREVIOUS, "")]);
    assert!(before.accepts(&old).await, "an empty variable is absent");
    let rotated = start_with_variables(&[(CURRENT, NEW), (PREVIOUS, OLD)]);
    assert!(rotated.accepts(&old).await && rotated.accepts(&new).await);
    assert_signs_with(&rotated, NEW).await;
    let same = start_with_variables(&[(CURRENT, NEW), (PREVIOUS, NEW)]);
    assert!(same.accepts(&new).await && !same.accepts(&old).await);
    let after = start_with_variables(&[(CURRENT, NEW)]);
    assert!(after.accepts(&new).await && !after.accepts(&old).await);
}
