//! The scenario of a late, rotated and revoked secret, on a real server.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Client, StatusCode};
use secretwell::auth::{LazyAuth, Mode, State};
use secretwell::file::FileProvider;
use secretwell::{ErrorKind, Resolver};
use secretwell_testkit::{Action, FaultyProvider};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::service::{self, Library};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const ACTIVATION_DELAY: Duration = Duration::from_millis(500);
const GRACE_PERIOD: Duration = Duration::from_secs(2);
/// Maximum wait for a state. No step takes this long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One running instance of the service.
struct Instance<L: Library> {
    source: FaultyProvider<FileProvider>,
    auth: LazyAuth<L::Sessions>,
    builds: Arc<AtomicUsize>,
    url: String,
    client: Client,
    /// Stops the server when the instance is dropped.
    _server: JoinSet<()>,
}

impl<L: Library> Instance<L> {
    async fn start(secrets: &Path) -> Result<Self> {
        let source = FaultyProvider::new(FileProvider::directory(secrets));
        let settings = LazyAuth::builder(Resolver::new(source.clone()))
            .mode(Mode::Production)
            .activation_delay(ACTIVATION_DELAY)
            .grace_period(GRACE_PERIOD);
        let (auth, builds) = service::auth::<L>(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = service::router::<L>(&auth);
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self {
            source,
            auth,
            builds,
            url,
            client: Client::builder().no_proxy().build()?,
            _server: server,
        })
    }

    async fn me(&self, session: &str) -> Result<(StatusCode, String)> {
        self.get("/me", session).await
    }

    async fn get(&self, path: &str, session: &str) -> Result<(StatusCode, String)> {
        let request = self
            .client
            .get(format!("{}{path}", self.url))
            .header(COOKIE, session);
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Requires that `/ready` has this status, and that `/live` succeeds.
    async fn check_probes(&self, status: StatusCode) -> Result {
        let (actual, body) = self.get("/ready", "").await?;
        print(format!("GET /ready -> {actual} {body}"));
        check(
            actual == status,
            "the service must be ready exactly if it has a build",
        )?;
        let (live, _) = self.get("/live", "").await?;
        check(
            live == StatusCode::OK,
            "the liveness must not depend on secrets",
        )
    }

    /// Logs in, and returns the session cookies.
    async fn login(&self) -> Result<String> {
        let response = self
            .client
            .post(format!("{}/login", self.url))
            .send()
            .await?;
        let response = response.error_for_status()?;
        let mut cookies = Vec::new();
        for cookie in response.headers().get_all(SET_COOKIE) {
            cookies.extend(cookie.to_str()?.split(';').next());
        }
        check(!cookies.is_empty(), "a login must set cookies")?;
        Ok(cookies.join("; "))
    }

    /// Waits for a state that satisfies `condition`.
    async fn wait_for(&self, description: &str, condition: impl FnMut(&State) -> bool) -> Result {
        let mut states = self.auth.watch_state();
        let reached = tokio::time::timeout(TIMEOUT, states.wait_for(condition)).await;
        reached.map_err(|_| {
            format!(
                "timed out while waiting for {description}; the state is {:?}",
                self.auth.state()
            )
        })?;
        Ok(())
    }
}

pub(crate) async fn run<L: Library>() -> Result {
    let directory = tempfile::tempdir()?;
    let secrets = SecretDirectory {
        path: directory.path().join("secrets"),
        key: L::KEY,
    };
    std::fs::create_dir(&secrets.path)?;
    let instance = Instance::<L>::start(&secrets.path).await?;

    heading("1. The service starts before its secret exists");
    let (status, body) = instance.me("session=any").await?;
    print(format!(
        "GET /me -> {status} {body}   (the reason is only in the log)"
    ));
    check(
        status == StatusCode::INTERNAL_SERVER_ERROR,
        "a missing secret must not make users anonymous",
    )?;
    check(
        !body.contains(L::KEY),
        "the reason must not reach the client",
    )?;
    instance
        .check_probes(StatusCode::SERVICE_UNAVAILABLE)
        .await?;

    heading("2. The secret is written");
    secrets.write("the first secret, thirty-two bytes or more")?;
    instance
        .wait_for("ready", |state| matches!(state, State::Ready { .. }))
        .await?;
    let first_session = instance.login().await?;
    let (status, body) = instance.me(&first_session).await?;
    print(format!("GET /me -> {status} {body}"));
    check(
        status == StatusCode::OK,
        "the service must accept the session",
    )?;
    instance.check_probes(StatusCode::OK).await?;

    heading("3. Another instance starts and receives 1,000 requests at once");
    let second = Arc::new(Instance::<L>::start(&secrets.path).await?);
    let mut clients = JoinSet::new();
    for _ in 0..1000 {
        let (second, session) = (second.clone(), first_session.clone());
        clients.spawn(async move { second.me(&session).await.map(|(status, _)| status).ok() });
    }
    let served = clients
        .join_all()
        .await
        .iter()
        .filter(|s| **s == Some(StatusCode::OK))
        .count();
    let builds = second.builds.load(Ordering::SeqCst);
    print(format!(
        "{served} of 1,000 requests succeeded with {builds} build"
    ));
    check(
        (served, builds) == (1000, 1),
        "one build must serve all requests",
    )?;
    drop(second);

    heading("4. The secret is rotated under load");
    let load = Load::start(&instance, &first_session);
    secrets.write("the second secret, no less than thirty-two bytes")?;
    instance
        .wait_for("generation 2", |state| state.generation() == Some(2))
        .await?;
    print("the new secret is known: it verifies, and the old secret still signs");
    instance
        .wait_for("generation 3", |state| state.generation() == Some(3))
        .await?;
    let second_session = instance.login().await?;
    print("the new secret is active: it signs, and the old secret still verifies");
    check(
        instance.me(&second_session).await?.0 == StatusCode::OK,
        "the new session must be valid",
    )?;
    check(
        instance.me(&first_session).await?.0 == StatusCode::OK,
        "the old session must be valid in the grace period",
    )?;
    let (requests, failures) = load.stop().await;
    print(format!(
        "{requests} requests used the old session during the rotation, and {failures} failed"
    ));
    check(
        requests > 0 && failures == 0,
        "a rotation must not cause failed requests",
    )?;
    instance
        .wait_for("generation 4", |state| state.generation() == Some(4))
        .await?;
    let (status, _) = instance.me(&first_session).await?;
    print(format!(
        "after the grace period: GET /me with the old session -> {status}"
    ));
    check(
        status == StatusCode::UNAUTHORIZED,
        "the old session must end with the grace period",
    )?;

    heading("5. A faulty rotation empties the file");
    secrets.write("")?;
    instance
        .wait_for("degraded", |state| matches!(state, State::Degraded { .. }))
        .await?;
    let (status, _) = instance.me(&second_session).await?;
    print(format!(
        "GET /me -> {status}: the last valid secret is still used"
    ));
    check(
        status == StatusCode::OK,
        "an invalid secret must not interrupt the service",
    )?;
    instance.check_probes(StatusCode::OK).await?;

    heading("6. The rotation is repaired");
    secrets.write("the third secret, also thirty-two bytes or more")?;
    instance
        .wait_for("the repaired generation", |state| {
            state.generation() > Some(4)
        })
        .await?;
    let (status, _) = instance.me(&second_session).await?;
    print(format!("GET /me -> {status}, and no user was logged out"));
    check(
        status == StatusCode::OK,
        "the repair must not log users out",
    )?;

    heading("7. The previous secret leaks, and is revoked while the source is down");
    let outage = secretwell::Error::new(ErrorKind::Unavailable, "connection refused");
    instance.source.always(Action::Fail(outage));
    instance.auth.revoke_previous().await?;
    let (status, _) = instance.me(&second_session).await?;
    print(format!("GET /me with the previous session -> {status}"));
    check(
        status == StatusCode::UNAUTHORIZED,
        "a revoked secret must not verify",
    )?;
    let third_session = instance.login().await?;
    let (status, _) = instance.me(&third_session).await?;
    print(format!("GET /me with a new session -> {status}"));
    check(
        status == StatusCode::OK,
        "the newest secret must sign and verify",
    )?;
    Ok(())
}

/// Clients that send requests until they are stopped.
struct Load {
    stopping: Arc<AtomicBool>,
    clients: JoinSet<(usize, usize)>,
}

impl Load {
    fn start<L: Library>(instance: &Instance<L>, session: &str) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let request = instance
                .client
                .get(format!("{}/me", instance.url))
                .header(COOKIE, session);
            let stopping = stopping.clone();
            clients.spawn(async move {
                let (mut requests, mut failures) = (0, 0);
                while !stopping.load(Ordering::Relaxed) {
                    let Some(request) = request.try_clone() else {
                        break;
                    };
                    let succeeded = request
                        .send()
                        .await
                        .is_ok_and(|response| response.status().is_success());
                    requests += 1;
                    failures += usize::from(!succeeded);
                }
                (requests, failures)
            });
        }
        Self { stopping, clients }
    }

    async fn stop(self) -> (usize, usize) {
        self.stopping.store(true, Ordering::Relaxed);
        let counts = self.clients.join_all().await;
        counts
            .iter()
            .fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }
}

/// The directory of the secret, which an orchestrator would write.
struct SecretDirectory {
    path: PathBuf,
    key: &'static str,
}

impl SecretDirectory {
    /// Replaces the secret atomically. Only the owner can read the file.
    fn write(&self, value: &str) -> Result {
        use std::io::Write;

        let mut file = tempfile::NamedTempFile::new_in(self.path.parent().unwrap_or(&self.path))?;
        file.write_all(value.as_bytes())?;
        file.persist(self.path.join(self.key))?;
        Ok(())
    }
}

fn check(condition: bool, requirement: &str) -> Result {
    if condition {
        Ok(())
    } else {
        Err(requirement.into())
    }
}

fn heading(title: &str) {
    println!("\n{title}");
}

fn print(line: impl std::fmt::Display) {
    println!("   {line}");
}
