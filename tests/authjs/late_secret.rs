//! A late secret: it appears in Infisical after a Next.js application, an Effect program and a service have
//! started.

use std::net::SocketAddr;
use std::process::Stdio;

use axum::Router;
use axum::routing::get;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, KeyRing, LazyAuth, Mode};
use secretwell::infisical::ApiVersion;
use secretwell::{Resolver, SecretProvider};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

use super::sessions;
use super::site::{Application, Browser, Site};
use crate::infisical::place::Place;
use crate::support::{key, tool};

const SECRET: &str = "the late secret, thirty-two bytes or more";

/// Returns the versions of next-auth in the application, and the session cookie of each.
fn versions() -> [(&'static str, SessionCookie); 2] {
    [
        ("v4", SessionCookie::v4(Scheme::Http)),
        ("v5", SessionCookie::v5(Scheme::Http)),
    ]
}

#[derive(Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

/// A service that shares the sessions of the application.
struct Service {
    auth: LazyAuth<Sessions>,
    address: SocketAddr,
}

impl Service {
    async fn start(place: &Place, cookie: SessionCookie) -> Self {
        let resolver = Resolver::new(place.provider().build().unwrap());
        let auth = sessions(LazyAuth::builder(resolver).mode(Mode::Production), cookie);
        let app = Router::new().route("/me", get(me));
        let app = app.layer(auth.session_layer());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, app).await });
        Self { auth, address }
    }

    async fn me(&self, browser: &Browser) -> (u16, String) {
        let request = reqwest::Client::new().get(format!("http://{}/me", self.address));
        let request = request.header("cookie", browser.header());
        let response = request.send().await.unwrap();
        assert!(response.headers().get("set-cookie").is_none());
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

/// Returns the status of a request without a session.
async fn status(site: &Site<'_>) -> u64 {
    site.get(&mut Browser::default(), "session").await.0
}

#[tokio::test]
async fn eager_application_never_recovers_and_lazy_ones_do() {
    let place = Place::fake(ApiVersion::V4).await;
    let application = Application::start(&place.for_clients()).await;
    let mut services = Vec::new();
    for (version, cookie) in versions() {
        let service = Service::start(&place, cookie.clone()).await;
        services.push((version, cookie, service));
    }
    for (version, cookie, service) in &services {
        for start in ["eager", "lazy"] {
            let site = application.site(&format!("{start}/{version}"));
            let (status, body) = site.get(&mut Browser::default(), "session").await;
            assert_eq!(status, 500);
            assert!(
                body.contains("problem with the server configuration"),
                "{body}"
            );
        }
        let sessions = Sessions::new(cookie.clone(), &KeyRing::new(SECRET).unwrap()).unwrap();
        let early = Browser::with_cookies(&sessions.start(&json!({"name": "Ada"}), "").unwrap());
        assert_eq!(
            service.me(&early).await.0,
            500,
            "a missing secret must not look like a logout"
        );
    }
    let log = application.log();
    for reason in ["[NO_SECRET]", "MissingSecret"] {
        assert!(log.contains(reason), "{log}");
    }

    place.write(None, "AUTH_SECRET", SECRET).await;
    for (version, cookie, service) in &services {
        service.auth.rebuild().await.unwrap();
        let eager = application.site(&format!("eager/{version}"));
        let lazy = application.site(&format!("lazy/{version}"));
        assert_eq!((status(&eager).await, status(&lazy).await), (500, 200));

        let ada = lazy.log_in("Ada").await;
        assert_eq!(service.me(&ada).await, (200, "Ada".to_owned()));
        let sessions = Sessions::new(cookie.clone(), &KeyRing::new(SECRET).unwrap()).unwrap();
        let bob = Browser::with_cookies(&sessions.start(&json!({"name": "Bob"}), "").unwrap());
        assert_eq!(lazy.name(&bob).await.as_deref(), Some("Bob"));
        assert_eq!(service.me(&bob).await, (200, "Bob".to_owned()));
        assert_eq!(service.me(&Browser::default()).await.0, 401);
    }
    assert!(!application.log().contains(SECRET));
}

#[tokio::test]
async fn eager_application_works_if_the_secret_exists_at_start() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "AUTH_SECRET", SECRET).await;
    let provider = place.provider().build().unwrap();
    let secret = provider.get(&key("AUTH_SECRET")).await.unwrap().value;
    let environment = [("AUTH_SECRET", secret.expose_text().unwrap().to_owned())];
    for application in [
        Application::start(&environment).await,
        Application::start(&place.for_clients()).await,
    ] {
        for (version, cookie) in versions() {
            let service = Service::start(&place, cookie.clone()).await;
            let eager = application.site(&format!("eager/{version}"));
            let ada = eager.log_in("Ada").await;
            assert_eq!(eager.name(&ada).await.as_deref(), Some("Ada"));
            assert_eq!(service.me(&ada).await, (200, "Ada".to_owned()));
        }
    }
}

/// A program that uses Effect, `tests/clients/effect.mjs`.
struct Program {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(mode: &str, variables: &[(&str, String)]) -> Self {
        let mut process = Command::new("node")
            .arg(tool("clients/effect.mjs"))
            .arg(mode)
            .env_remove("AUTH_SECRET")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    async fn line(&mut self) -> Option<String> {
        self.lines.next_line().await.unwrap()
    }

    /// Returns the name in the session that the program creates.
    async fn name(mut self, sessions: &Sessions) -> String {
        let token = self.line().await.unwrap();
        let cookies = format!("authjs.session-token={token}");
        let session = sessions.find::<User>(&cookies).unwrap();
        session.unwrap().claims.name
    }

    /// Returns the error output after the program has failed.
    async fn failure(self) -> String {
        let output = self.process.wait_with_output().await.unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

#[tokio::test]
async fn effect_program_reads_the_secret_once_it_exists() {
    const FROM_ENVIRONMENT: [&str; 2] = ["environment", "environment, Effect 4"];
    const FROM_INFISICAL: [&str; 2] = ["infisical", "infisical, Effect 4"];
    for mode in FROM_ENVIRONMENT {
        let failure = Program::start(mode, &[]).failure().await;
        assert!(failure.contains("AUTH_SECRET"), "{failure}");
    }

    let place = Place::fake(ApiVersion::V4).await;
    let mut waiting = FROM_INFISICAL.map(|mode| Program::start(mode, &place.for_clients()));
    for program in &mut waiting {
        assert_eq!(program.line().await.as_deref(), Some("started"));
    }
    let service = Service::start(&place, SessionCookie::v5(Scheme::Http)).await;
    service.auth.get().await.unwrap_err();
    place.write(None, "AUTH_SECRET", SECRET).await;
    let sessions = service.auth.rebuild().await.unwrap();
    for program in waiting {
        assert_eq!(program.name(&sessions).await, "Ada");
    }

    let secret = service.auth.resolver().get("AUTH_SECRET").await.unwrap();
    let variables = [(
        "AUTH_SECRET",
        secret.value.expose_text().unwrap().to_owned(),
    )];
    for mode in FROM_ENVIRONMENT {
        let mut program = Program::start(mode, &variables);
        assert_eq!(program.line().await.as_deref(), Some("started"));
        assert_eq!(program.name(&sessions).await, "Ada");
    }
}
