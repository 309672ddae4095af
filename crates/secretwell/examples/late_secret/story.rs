//! The story of the late secret, played on a real server.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Client, StatusCode};
use secretwell::Resolver;
use secretwell::auth::authjs::Sessions;
use secretwell::auth::{LazyAuth, Mode, State};
use secretwell::file::FileProvider;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::service;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const ACTIVATION_DELAY: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_secs(2);
/// Nothing in the story takes this long; a story that hangs fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// One running instance of the service.
struct Instance {
    auth: LazyAuth<Sessions>,
    builds: Arc<AtomicUsize>,
    url: String,
    client: Client,
    /// Ends with the instance.
    _server: JoinSet<()>,
}

impl Instance {
    async fn start(secrets: &Path) -> Outcome<Self> {
        let resolver = Resolver::new(FileProvider::directory(secrets));
        let settings = LazyAuth::builder(resolver)
            .mode(Mode::Production)
            .activation_delay(ACTIVATION_DELAY)
            .grace_period(GRACE);
        let (auth, builds) = service::auth(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = service::router(&auth);
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self {
            auth,
            builds,
            url,
            client: Client::builder().no_proxy().build()?,
            _server: server,
        })
    }

    async fn me(&self, session: &str) -> Outcome<(StatusCode, String)> {
        let request = self
            .client
            .get(format!("{}/me", self.url))
            .header(COOKIE, session);
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Logs in, and returns the cookie of the session.
    async fn login(&self) -> Outcome<String> {
        let response = self
            .client
            .post(format!("{}/login", self.url))
            .send()
            .await?;
        let response = response.error_for_status()?;
        let cookie = response.headers().get(SET_COOKIE).ok_or("no cookie")?;
        let cookie = cookie.to_str()?.split(';').next();
        Ok(cookie.unwrap_or_default().to_owned())
    }

    async fn until(&self, what: &str, wanted: impl FnMut(&State) -> bool) -> Outcome {
        let mut states = self.auth.watch_state();
        let reached = tokio::time::timeout(PATIENCE, states.wait_for(wanted)).await;
        reached.map_err(|_| format!("never became {what}: {:?}", self.auth.state()))?;
        Ok(())
    }
}

pub(crate) async fn play() -> Outcome {
    let folder = tempfile::tempdir()?;
    let secrets = Folder(folder.path().join("secrets"));
    std::fs::create_dir(&secrets.0)?;
    let instance = Instance::start(&secrets.0).await?;

    chapter("1. The service is up, and its secret is not there yet");
    let (status, body) = instance.me("authjs.session-token=any").await?;
    tell(format!(
        "GET /me -> {status} {body}   (the reason is in the log only)"
    ));
    check(
        status == StatusCode::INTERNAL_SERVER_ERROR,
        "no secret must not mean anonymous",
    )?;
    check(
        !body.contains("AUTH_SECRET"),
        "the reason must not reach the client",
    )?;

    chapter("2. The secret arrives");
    secrets.put("the first secret, thirty-two bytes or more")?;
    instance
        .until("ready", |state| matches!(state, State::Ready { .. }))
        .await?;
    let first_session = instance.login().await?;
    let (status, body) = instance.me(&first_session).await?;
    tell(format!("GET /me -> {status} {body}"));
    check(status == StatusCode::OK, "the service must work now")?;

    chapter("3. Another instance starts, and 1,000 clients are there already");
    let second = Arc::new(Instance::start(&secrets.0).await?);
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
    tell(format!(
        "{served} of 1,000 first requests served by {builds} build"
    ));
    check(
        (served, builds) == (1000, 1),
        "all must be served by one build",
    )?;
    drop(second);

    chapter("4. The secret is rotated under load");
    let load = Load::start(&instance, &first_session);
    secrets.put("the second secret, no less than thirty-two bytes")?;
    instance
        .until("generation 2", |state| state.generation() == Some(2))
        .await?;
    tell("new secret known: it verifies already, the old one still signs");
    instance
        .until("generation 3", |state| state.generation() == Some(3))
        .await?;
    let second_session = instance.login().await?;
    tell("new secret active: it signs now, the old one still verifies");
    check(
        instance.me(&second_session).await?.0 == StatusCode::OK,
        "the new session must be good",
    )?;
    check(
        instance.me(&first_session).await?.0 == StatusCode::OK,
        "the old session must be good in the grace",
    )?;
    let (requests, failures) = load.stop().await;
    tell(format!(
        "{requests} requests with the old session meanwhile, {failures} failed"
    ));
    check(
        requests > 0 && failures == 0,
        "no request may fail for a rotation",
    )?;
    instance
        .until("generation 4", |state| state.generation() == Some(4))
        .await?;
    let (status, _) = instance.me(&first_session).await?;
    tell(format!(
        "the grace is over: the old session -> {status}, the new one goes on"
    ));
    check(
        status == StatusCode::UNAUTHORIZED,
        "the old session must end with the grace",
    )?;

    chapter("5. A bad rotation: the file is emptied");
    secrets.put("")?;
    instance
        .until("degraded", |state| matches!(state, State::Degraded { .. }))
        .await?;
    let (status, _) = instance.me(&second_session).await?;
    tell(format!(
        "GET /me -> {status}: the last good secret goes on serving"
    ));
    check(
        status == StatusCode::OK,
        "a bad secret must not end the service",
    )?;

    chapter("6. The rotation is repaired");
    secrets.put("the third secret, also thirty-two bytes or more")?;
    instance
        .until("repaired", |state| state.generation() > Some(4))
        .await?;
    let (status, _) = instance.me(&second_session).await?;
    tell(format!("GET /me -> {status}, and nobody was logged out"));
    check(status == StatusCode::OK, "repair must not log anybody out")?;
    tell("the end");
    Ok(())
}

/// Some clients who never stop asking.
struct Load {
    stopping: Arc<AtomicBool>,
    clients: JoinSet<(usize, usize)>,
}

impl Load {
    fn start(instance: &Instance, session: &str) -> Self {
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
                    let served = request
                        .send()
                        .await
                        .is_ok_and(|answer| answer.status().is_success());
                    requests += 1;
                    failures += usize::from(!served);
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

/// The directory that the secret is put into, as an orchestrator would.
struct Folder(PathBuf);

impl Folder {
    /// Replaces the secret in one step, readable by its owner only.
    fn put(&self, value: &str) -> Outcome {
        use std::io::Write;

        let mut file = tempfile::NamedTempFile::new_in(self.0.parent().unwrap_or(&self.0))?;
        file.write_all(value.as_bytes())?;
        file.persist(self.0.join("AUTH_SECRET"))?;
        Ok(())
    }
}

fn check(good: bool, rule: &str) -> Outcome {
    if good { Ok(()) } else { Err(rule.into()) }
}

fn chapter(title: &str) {
    println!("\n{title}");
}

fn tell(line: impl std::fmt::Display) {
    println!("   {line}");
}
