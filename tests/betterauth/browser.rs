//! An application of the guide at `app.example.test` and a service at `api.example.test` share a session in a real
//! browser. Both agree on who the user is after each sequence of steps.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, Remember, Session, SessionCookies, SessionRow, Sessions,
};
use secretwell::auth::{Auth, BuildContext, BuildError, LazyAuth};
use secretwell::{MemoryProvider, Resolver, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::FIRST;
use super::guide::{Project, Server};
use crate::chromium::{Chromium, Page, User};
use crate::subdomains::{From, Subdomains, cookies, set};

/// Where the application stores its sessions.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Storage {
    /// In a database, with the cookie cache.
    Database,
    /// In cookies only.
    Cookies,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the build uses its key ring")]
    better_auth_secret: SecretString,
}

#[derive(Serialize, Deserialize)]
struct Account {
    name: String,
}

async fn me(session: Option<Auth<Session<Account>>>) -> String {
    session.map_or_else(
        || "nobody".into(),
        |Auth(session)| session.user.name.clone(),
    )
}

/// Logs in at the service, which is possible without a database.
async fn start(State(auth): State<LazyAuth<Sessions>>, request: Request) -> impl IntoResponse {
    let name = request.uri().query().unwrap();
    let end = SystemTime::now() + Duration::from_secs(60 * 60);
    let id = format!("id-{}", name.len());
    let row = SessionRow::new("session-1", &id, format!("token-of-{id}"), end);
    let user = json!({
        "id": id, "email": format!("{id}@example.test"), "name": name, "emailVerified": true,
        "createdAt": "2027-01-15T07:59:55.000Z", "updatedAt": "2027-01-15T07:59:55.000Z",
    });
    let sessions = auth.get().await.unwrap();
    let cookies = cookies(request.headers());
    let start = sessions.start(&row, &user, Remember::UntilExpiry, &cookies);
    set(start.unwrap())
}

async fn end(State(auth): State<LazyAuth<Sessions>>, headers: HeaderMap) -> impl IntoResponse {
    set(auth.get().await.unwrap().end(&cookies(&headers)))
}

fn service(scheme: Scheme, storage: Storage) -> Router {
    let memory = MemoryProvider::from_iter([("BETTER_AUTH_SECRET", FIRST)]);
    let build = move |_: Secrets, context: BuildContext| async move {
        let secrets = BetterAuthSecrets::from_context(&context)?;
        let cookies = SessionCookies::new(scheme).domain("example.test")?;
        let sessions = match storage {
            Storage::Database => Sessions::with_cache(cookies, &secrets, CacheStrategy::Compact),
            Storage::Cookies => Sessions::stateless(cookies, &secrets),
        };
        Ok::<_, BuildError>(sessions?)
    };
    let auth = LazyAuth::new(Resolver::new(memory), build);
    let layer = auth.session_layer().renew_when_remaining(Duration::MAX);
    Router::new()
        .route("/me", get(me))
        .layer(layer)
        .route("/start", post(start))
        .route("/end", post(end))
        .with_state(auth)
}

/// The page of the application whose scripts send requests.
const PAGE: &str = "/api/auth/ok";

/// The application and the service on two subdomains.
struct Sites {
    _application: Server,
    _project: Project,
    origins: Subdomains,
}

impl Sites {
    async fn start(scheme: Scheme, storage: Storage) -> Self {
        let mut origins = Subdomains::new(scheme).await;
        let project = Project::with_source("environment.js");
        let options = r#"options = {
  advanced: { crossSubDomainCookies: { enabled: true, domain: ".example.test" } },
  rateLimit: { enabled: false },
"#;
        project.replace("options.js", "options = {\n", options);
        match storage {
            Storage::Database => project.replace(
                "options.js",
                "  rateLimit",
                "  session: { cookieCache: { enabled: true } },\n  rateLimit",
            ),
            Storage::Cookies => project.replace("options.js", "  database: ", "  unused: "),
        }
        let variables = [
            ("BETTER_AUTH_SECRET", FIRST),
            ("BETTER_AUTH_URL", &origins.app),
        ];
        let application = Server::start(&project, "server.js", "production", &variables).await;
        origins.set_application(&application.address);
        origins.start_service(service(scheme, storage)).await;
        Self {
            _application: application,
            _project: project,
            origins,
        }
    }

    /// Sends a request to a route of Better Auth, by a script of the application.
    async fn better_auth(&self, user: &User<'_>, route: &str, body: Option<Value>) -> Page {
        let init = body.map_or(json!({}), |body| {
            let headers = json!({"content-type": "application/json"});
            json!({"method": "POST", "body": body.to_string(), "headers": headers})
        });
        let path = format!("/api/auth/{route}");
        let page = self
            .origins
            .send_to_application(user, PAGE, &path, init)
            .await;
        assert_eq!(page.status, 200, "{page:?}");
        page
    }

    /// Sends a request to the service by a script of this page.
    async fn service(&self, user: &User<'_>, from: From, method: &str, path: &str) -> String {
        let from = (from, PAGE);
        self.origins.send_to_service(user, from, method, path).await
    }

    async fn run(&self, user: &User<'_>, step: &Step) {
        match step {
            Step::LogInAtApplication(name) => {
                let email = format!("user{}@example.test", fastrand::u64(..));
                let account = json!({"name": name, "email": email, "password": "a password"});
                self.better_auth(user, "sign-up/email", Some(account)).await;
            }
            Step::LogInAtService(name) => {
                let path = format!("/start?{name}");
                self.service(user, From::Service, "POST", &path).await;
            }
            Step::ReadAtApplication => {
                self.better_auth(user, "get-session", None).await;
            }
            Step::ReadAtService(from) => drop(self.service(user, *from, "GET", "/me").await),
            Step::VisitService => drop(user.visit(&format!("{}/me", self.origins.api)).await),
            Step::SignOutAtApplication => {
                self.better_auth(user, "sign-out", Some(json!({}))).await;
            }
            Step::SignOutAtService(from) => drop(self.service(user, *from, "POST", "/end").await),
        }
    }

    /// Asserts that both sides know this user, or that nobody is logged in.
    async fn assert_user(&self, user: &User<'_>, name: Option<&str>, steps: &str) {
        for part in ["session_token", "session_data"] {
            let cookies = user.cookies_named(part).await;
            let domains: Vec<_> = cookies.iter().map(|cookie| &cookie.domain).collect();
            assert!(
                domains.iter().all(|domain| *domain == ".example.test"),
                "{steps}: {cookies:?}"
            );
            assert_eq!(cookies.is_empty(), name.is_none(), "{steps}: {cookies:?}");
        }
        let me = self.service(user, From::Service, "GET", "/me").await;
        assert_eq!(me, name.unwrap_or("nobody"), "service: {steps}");
        let session = self.better_auth(user, "get-session", None).await.json();
        assert_eq!(session["user"]["name"].as_str(), name, "package: {steps}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    LogInAtApplication(String),
    LogInAtService(String),
    ReadAtApplication,
    ReadAtService(From),
    VisitService,
    SignOutAtApplication,
    SignOutAtService(From),
}

impl Step {
    fn random(random: &mut fastrand::Rng, storage: Storage) -> Self {
        // A name of several thousand characters needs several cookies.
        let length = *random.choice(&[0, 0, 4_000, 6_000]).unwrap();
        let name = format!("{}{}", random.u32(..), "x".repeat(length));
        let from = *random.choice(&[From::Service, From::Application]).unwrap();
        match random.u8(..10) {
            3 if storage == Storage::Cookies => Self::LogInAtService(name),
            0..4 => Self::LogInAtApplication(name),
            4 => Self::ReadAtApplication,
            5 => Self::ReadAtService(from),
            6 => Self::VisitService,
            7 | 8 => Self::SignOutAtApplication,
            _ => Self::SignOutAtService(from),
        }
    }

    /// Returns the user after this step.
    fn apply(&self, before: Option<String>) -> Option<String> {
        match self {
            Self::LogInAtApplication(name) | Self::LogInAtService(name) => Some(name.clone()),
            Self::ReadAtApplication | Self::ReadAtService(_) | Self::VisitService => before,
            Self::SignOutAtApplication | Self::SignOutAtService(_) => None,
        }
    }
}

#[tokio::test]
async fn sign_out_at_either_side_ends_the_session_at_both() {
    let Some(browser) = Chromium::start().await else {
        return;
    };
    for (scheme, storage) in [
        (Scheme::Http, Storage::Database),
        (Scheme::Https, Storage::Cookies),
    ] {
        let sites = Sites::start(scheme, storage).await;
        let ada = browser.user().await;
        let bob = browser.user().await;
        let log_in = |name: &str| Step::LogInAtApplication(name.to_owned());
        sites.run(&bob, &log_in("Bob")).await;
        for (name, end) in [
            ("Ada", Step::SignOutAtApplication),
            ("Cleo", Step::SignOutAtService(From::Service)),
            ("Eve", Step::SignOutAtService(From::Application)),
        ] {
            let steps = format!("{storage:?}: {name}, {end:?}");
            sites.run(&ada, &log_in(name)).await;
            for step in [Step::VisitService, Step::ReadAtService(From::Application)] {
                sites.run(&ada, &step).await;
            }
            sites.assert_user(&ada, Some(name), &steps).await;
            sites.run(&ada, &end).await;
            sites.assert_user(&ada, None, &steps).await;
            sites.assert_user(&bob, Some("Bob"), &steps).await;
        }
    }
}

#[tokio::test]
async fn both_sides_agree_on_the_user_after_random_steps() {
    const STEPS: usize = 30;
    let Some(browser) = Chromium::start().await else {
        return;
    };
    for (scheme, storage) in [
        (Scheme::Https, Storage::Database),
        (Scheme::Http, Storage::Cookies),
    ] {
        let sites = Sites::start(scheme, storage).await;
        let user = browser.user().await;
        let mut random = fastrand::Rng::with_seed(18);
        let mut name = None;
        let mut done: Vec<String> = vec![format!("{storage:?}")];
        for _ in 0..STEPS {
            let step = Step::random(&mut random, storage);
            sites.run(&user, &step).await;
            name = step.apply(name);
            done.push(format!("{step:?}").replace(&"x".repeat(1_000), "X"));
            let steps = done.join(", ");
            sites.assert_user(&user, name.as_deref(), &steps).await;
        }
    }
}
