//! Case S1 in a real browser: an application with next-auth 5 at `app.example.test` and a service at
//! `api.example.test` share one session cookie. Both agree on who the user is after each sequence of steps.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, LazyAuth};
use secretwell::{MemoryProvider, Resolver};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::Command;

use super::site::{Application, NextMode};
use crate::chromium::{Chromium, Page, User};
use crate::subdomains::{From, Subdomains, cookies, set};

const SECRET: &str = "the secret of both, thirty-two bytes or more";

#[derive(Serialize, Deserialize)]
struct Claims {
    name: String,
}

async fn me(session: Option<Auth<Session<Claims>>>) -> String {
    session.map_or_else(|| "nobody".into(), |Auth(session)| session.claims.name)
}

/// Logs in at the service.
async fn start(State(auth): State<LazyAuth<Sessions>>, request: Request) -> impl IntoResponse {
    let cookies = cookies(request.headers());
    let name = request.uri().query().unwrap().to_owned();
    let sessions = auth.get().await.unwrap();
    set(sessions.start(&Claims { name }, &cookies).unwrap())
}

async fn end(State(auth): State<LazyAuth<Sessions>>, headers: HeaderMap) -> impl IntoResponse {
    set(auth.get().await.unwrap().end(&cookies(&headers)))
}

/// The page of the application whose scripts send requests.
const PAGE: &str = "/api/auth/csrf";

/// The application and the service on two subdomains.
struct Sites {
    _application: Application,
    origins: Subdomains,
}

impl Sites {
    /// Starts both. They use `cookie` for their sessions.
    async fn start(scheme: Scheme, cookie: SessionCookie) -> Self {
        let mut origins = Subdomains::new(scheme).await;
        let variables = [
            ("GUIDE", "next-auth-5-subdomains".to_owned()),
            ("AUTH_SECRET", SECRET.to_owned()),
            ("AUTH_URL", origins.app.clone()),
        ];
        let application =
            Application::start_with(Command::new("node"), NextMode::Production, &variables).await;
        origins.set_application(&application.address);

        let memory = MemoryProvider::from_iter([("AUTH_SECRET", SECRET)]);
        let auth = super::sessions(LazyAuth::builder(Resolver::new(memory)), cookie);
        let layer = auth.session_layer().renew_when_remaining(Duration::MAX);
        let service = Router::new()
            .route("/me", get(me))
            .layer(layer)
            .route("/start", post(start))
            .route("/end", post(end))
            .with_state(auth);
        origins.start_service(service).await;
        Self {
            _application: application,
            origins,
        }
    }

    /// Sends a request to the routes of next-auth, by a script of the application.
    async fn next_auth(&self, user: &User<'_>, action: &str, form: Option<String>) -> Page {
        let init = form.map_or(json!({}), |body| {
            let content_type = "application/x-www-form-urlencoded";
            json!({"method": "POST", "body": body, "headers": {"content-type": content_type}})
        });
        let path = format!("/api/auth/{action}");
        self.origins
            .send_to_application(user, PAGE, &path, init)
            .await
    }

    /// Sends a form of next-auth, with its CSRF token.
    async fn submit(&self, user: &User<'_>, action: &str, fields: &str) {
        let csrf = self.next_auth(user, "csrf", None).await.json();
        let token = csrf["csrfToken"].as_str().unwrap();
        let form = format!("csrfToken={token}&{fields}");
        let page = self.next_auth(user, action, Some(form)).await;
        assert!(page.status < 400 && !page.url.contains("error"), "{page:?}");
    }

    /// Sends a request to the service by a script of this page.
    async fn service(&self, user: &User<'_>, from: From, method: &str, path: &str) -> String {
        let from = (from, PAGE);
        self.origins.send_to_service(user, from, method, path).await
    }

    async fn run(&self, user: &User<'_>, step: &Step) {
        match step {
            Step::LogInAtNext(name) => {
                let fields = format!("name={name}");
                self.submit(user, "callback/credentials", &fields).await;
            }
            Step::LogInAtRust(name) => {
                let path = format!("/start?{name}");
                self.service(user, From::Service, "POST", &path).await;
            }
            Step::ReadAtNext => drop(self.next_auth(user, "session", None).await),
            Step::ReadAtRust(from) => drop(self.service(user, *from, "GET", "/me").await),
            Step::VisitRust => drop(user.visit(&format!("{}/me", self.origins.api)).await),
            Step::SignOutAtNext => self.submit(user, "signout", "").await,
            Step::SignOutAtRust(from) => drop(self.service(user, *from, "POST", "/end").await),
        }
    }

    /// Asserts that both sides know this user, or that nobody is logged in.
    async fn assert_user(&self, user: &User<'_>, name: Option<&str>, steps: &str) {
        let cookies = user.cookies_named("session-token").await;
        let domains: Vec<_> = cookies.iter().map(|cookie| &cookie.domain).collect();
        assert!(
            domains.iter().all(|domain| *domain == ".example.test"),
            "{steps}: {cookies:?}"
        );
        assert_eq!(cookies.is_empty(), name.is_none(), "{steps}: {cookies:?}");
        let session = self.next_auth(user, "session", None).await.json();
        assert_eq!(session["user"]["name"].as_str(), name, "next: {steps}");
        let me = self.service(user, From::Service, "GET", "/me").await;
        assert_eq!(me, name.unwrap_or("nobody"), "rust: {steps}");
        let page = user.visit(&format!("{}/", self.origins.app)).await;
        let expected = format!("user: {}", name.unwrap_or("nobody"));
        assert_eq!(page.body, expected, "page: {steps}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    LogInAtNext(String),
    LogInAtRust(String),
    ReadAtNext,
    ReadAtRust(From),
    VisitRust,
    SignOutAtNext,
    SignOutAtRust(From),
}

impl Step {
    fn random(random: &mut fastrand::Rng) -> Self {
        // A name of several thousand characters needs several cookies.
        let length = *random.choice(&[0, 0, 4_000, 7_000]).unwrap();
        let name = format!("{}{}", random.u32(..), "x".repeat(length));
        let from = *random.choice(&[From::Service, From::Application]).unwrap();
        match random.u8(..10) {
            0..3 => Self::LogInAtNext(name),
            3 => Self::LogInAtRust(name),
            4 => Self::ReadAtNext,
            5 => Self::ReadAtRust(from),
            6 => Self::VisitRust,
            7 | 8 => Self::SignOutAtNext,
            _ => Self::SignOutAtRust(from),
        }
    }

    /// Returns the user after this step.
    fn apply(&self, before: Option<String>) -> Option<String> {
        match self {
            Self::LogInAtNext(name) | Self::LogInAtRust(name) => Some(name.clone()),
            Self::ReadAtNext | Self::ReadAtRust(_) | Self::VisitRust => before,
            Self::SignOutAtNext | Self::SignOutAtRust(_) => None,
        }
    }
}

fn cookie(scheme: Scheme) -> SessionCookie {
    SessionCookie::v5(scheme).domain("example.test").unwrap()
}

#[tokio::test]
async fn sign_out_at_either_side_ends_the_session_at_both() {
    let Some(browser) = Chromium::start().await else {
        return;
    };
    for scheme in [Scheme::Http, Scheme::Https] {
        let sites = Sites::start(scheme, cookie(scheme)).await;
        let ada = browser.user().await;
        let bob = browser.user().await;
        let log_in = |name: &str| Step::LogInAtNext(name.to_owned());
        sites.run(&bob, &log_in("Bob")).await;
        for (log_in, end) in [
            (log_in("Ada"), Step::SignOutAtNext),
            (log_in("Cleo"), Step::SignOutAtRust(From::Service)),
            (Step::LogInAtRust("Dan".to_owned()), Step::SignOutAtNext),
            (log_in("Eve"), Step::SignOutAtRust(From::Application)),
        ] {
            let renew = [Step::VisitRust, Step::ReadAtRust(From::Application)];
            let steps = format!("{log_in:?}, {renew:?}");
            sites.run(&ada, &log_in).await;
            for step in &renew {
                sites.run(&ada, step).await;
            }
            let name = log_in.apply(None);
            sites.assert_user(&ada, name.as_deref(), &steps).await;
            sites.run(&ada, &end).await;
            let steps = format!("{steps}, {end:?}");
            sites.assert_user(&ada, None, &steps).await;
            sites.assert_user(&bob, Some("Bob"), &steps).await;
        }
    }
}

#[tokio::test]
async fn both_sides_agree_on_the_user_after_random_steps() {
    const STEPS: usize = 40;
    let Some(browser) = Chromium::start().await else {
        return;
    };
    let sites = Sites::start(Scheme::Https, cookie(Scheme::Https)).await;
    let user = browser.user().await;
    let mut random = fastrand::Rng::with_seed(18);
    let mut name = None;
    let mut done: Vec<String> = Vec::new();
    for _ in 0..STEPS {
        let step = Step::random(&mut random);
        sites.run(&user, &step).await;
        name = step.apply(name);
        done.push(format!("{step:?}").replace(&"x".repeat(1_000), "X"));
        if random.bool() {
            sites
                .assert_user(&user, name.as_deref(), &done.join(", "))
                .await;
        }
    }
    sites
        .assert_user(&user, name.as_deref(), &done.join(", "))
        .await;
}

/// Without the domain of the application's cookie, the service writes a second cookie that the application does not
/// clear. The guide and the documentation of the cookie therefore require the domain.
#[tokio::test]
async fn service_without_the_domain_of_the_cookie_keeps_its_own_session() {
    let Some(browser) = Chromium::start().await else {
        return;
    };
    let sites = Sites::start(Scheme::Http, SessionCookie::v5(Scheme::Http)).await;
    let user = browser.user().await;
    for step in [
        Step::LogInAtNext("Ada".to_owned()),
        Step::VisitRust,
        Step::SignOutAtNext,
    ] {
        sites.run(&user, &step).await;
    }
    let me = sites.service(&user, From::Service, "GET", "/me").await;
    assert_eq!(me, "Ada");
}
