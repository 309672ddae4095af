//! A secret rotates, on one side before the other: nobody is logged out, until the old one is revoked.

use std::time::Duration;

use secretwell::auth::authjs::{Scheme, SessionCookie, Sessions};
use secretwell::auth::{LazyAuth, State};
use secretwell::infisical::ApiVersion;
use secretwell::{MemoryProvider, Resolver};
use serde_json::{Value, json};
use tokio::time;

use super::sessions;
use super::site::{Application, Browser, Packages, Site};
use crate::infisical::place::Place;
use crate::support::secs;

const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";

/// Our side of a shared login.
struct Service {
    memory: MemoryProvider,
    auth: LazyAuth<Sessions>,
}

/// How long its new secret only verifies.
const DELAY: Duration = Duration::from_secs(600);

impl Service {
    async fn new(cookie: SessionCookie) -> Self {
        let memory = MemoryProvider::from_iter([("AUTH_SECRET", OLD)]);
        let resolver = Resolver::new(memory.clone());
        let settings = LazyAuth::builder(resolver).activation_delay(DELAY);
        let auth = sessions(settings, cookie);
        auth.get().await.unwrap();
        Self { memory, auth }
    }

    /// Rotates, and waits until the new secret verifies.
    async fn rotate(&self) {
        let mut states = self.auth.watch_state();
        self.memory.set("AUTH_SECRET", NEW).unwrap();
        let rotated = |state: &State| state.generation() > Some(1);
        states.wait_for(rotated).await.unwrap();
    }

    /// Lets the time pass after which the new secret signs.
    async fn activate(&self) {
        let before = self.auth.state().generation();
        let mut states = self.auth.watch_state();
        time::pause();
        time::advance(DELAY).await;
        time::resume();
        let signs = |state: &State| state.generation() > before;
        states.wait_for(signs).await.unwrap();
    }

    async fn log_in(&self, name: &str) -> Browser {
        let sessions = self.auth.get().await.unwrap();
        Browser::sent(&sessions.start(&json!({"name": name}), "").unwrap())
    }

    async fn name(&self, browser: &Browser) -> Option<String> {
        let session = self
            .auth
            .get()
            .await
            .unwrap()
            .find::<Value>(&browser.header());
        Some(session?.claims["name"].as_str()?.to_owned())
    }
}

/// Everybody is logged in on both sides.
async fn all_are_in(service: &Service, site: &Site<'_>, people: &[(&str, &Browser)]) {
    for (name, browser) in people {
        assert_eq!(service.name(browser).await.as_deref(), Some(*name));
        assert_eq!(site.name(browser).await.as_deref(), Some(*name));
    }
}

/// Who shares the login, and takes a list of secrets.
enum Beside {
    Core(Packages),
    /// The application of Next.js, which reads its secrets from there for each request.
    Next5(Application, Place),
}

impl Beside {
    async fn all() -> [Self; 2] {
        let place = Place::fake(ApiVersion::V4).await;
        let application = Application::start(&place.for_clients()).await;
        [
            Self::Core(Packages::start()),
            Self::Next5(application, place),
        ]
    }

    /// It with these secrets from now on, the first of which encrypts.
    async fn with(&self, secrets: &[&str]) -> Site<'_> {
        match self {
            Self::Core(packages) => Site::Core(packages, json!(secrets)),
            Self::Next5(application, place) => {
                let other = secrets.last().unwrap();
                place.write(None, "AUTH_SECRET", secrets[0]).await;
                place.write(None, "OTHER_AUTH_SECRET", other).await;
                application.site("lazy/v5")
            }
        }
    }
}

#[tokio::test]
async fn the_service_first() {
    for beside in &Beside::all().await {
        let service = Service::new(SessionCookie::v5(Scheme::Http)).await;
        let site = beside.with(&[OLD]).await;
        let ada = site.log_in("Ada").await;
        let bob = service.log_in("Bob").await;
        all_are_in(&service, &site, &[("Ada", &ada), ("Bob", &bob)]).await;

        service.rotate().await;
        let cleo = service.log_in("Cleo").await;
        let old = [("Ada", &ada), ("Bob", &bob), ("Cleo", &cleo)];
        all_are_in(&service, &site, &old).await;

        let site = beside.with(&[NEW, OLD]).await;
        let dan = site.log_in("Dan").await;
        service.activate().await;
        let eve = service.log_in("Eve").await;
        let new = [("Dan", &dan), ("Eve", &eve)];
        all_are_in(&service, &site, &old).await;
        all_are_in(&service, &site, &new).await;
        all_but_the_new_are_out(&service, beside, &old, &new).await;
    }
}

#[tokio::test]
async fn the_application_first() {
    for beside in &Beside::all().await {
        let service = Service::new(SessionCookie::v5(Scheme::Http)).await;
        let bob = service.log_in("Bob").await;

        // It knows the new secret, and does not sign with it yet.
        let site = beside.with(&[OLD, NEW]).await;
        let ada = site.log_in("Ada").await;
        let old = [("Ada", &ada), ("Bob", &bob)];
        all_are_in(&service, &site, &old).await;
        service.rotate().await;
        service.activate().await;
        let cleo = service.log_in("Cleo").await;
        all_are_in(&service, &site, &old).await;
        all_are_in(&service, &site, &[("Cleo", &cleo)]).await;

        let site = beside.with(&[NEW, OLD]).await;
        let dan = site.log_in("Dan").await;
        let new = [("Cleo", &cleo), ("Dan", &dan)];
        all_are_in(&service, &site, &old).await;
        all_are_in(&service, &site, &new).await;
        all_but_the_new_are_out(&service, beside, &old, &new).await;
    }
}

/// Revokes the old secret on both sides.
async fn all_but_the_new_are_out(
    service: &Service,
    beside: &Beside,
    old: &[(&str, &Browser)],
    new: &[(&str, &Browser)],
) {
    service.auth.revoke_previous().await.unwrap();
    let site = beside.with(&[NEW]).await;
    all_are_in(service, &site, new).await;
    for (_, browser) in old {
        assert_eq!(service.name(browser).await, None);
        assert_eq!(site.name(browser).await, None);
    }
}

#[tokio::test]
async fn a_session_of_a_secret_that_is_not_known_yet_is_kept_until_it_is() {
    let packages = Packages::start();
    let site = Site::Core(&packages, json!([NEW, OLD]));
    let service = Service::new(SessionCookie::v5(Scheme::Http)).await;
    let ada = site.log_in("Ada").await;
    assert_eq!(service.name(&ada).await, None, "it has not rotated yet");
    service.rotate().await;
    all_are_in(&service, &site, &[("Ada", &ada)]).await;
}

/// next-auth 4 has one secret only, so a rotation ends its sessions. Whoever comes to the service meanwhile
/// keeps theirs.
#[tokio::test]
async fn the_service_carries_sessions_of_next_auth_4_over() {
    let packages = Packages::start();
    let ask = async |action: &str, secret: &str, token: Value| {
        let question = json!({"action": action, "by": "next-auth@4", "secret": secret, "token": token, "salt": ""});
        packages.ask(question).await
    };
    let service = Service::new(SessionCookie::v4(Scheme::Http)).await;
    let set = |token: &Value| {
        Browser::sent(&[format!(
            "next-auth.session-token={}",
            token.as_str().unwrap()
        )])
    };
    let old = ask("encode", OLD, json!({"name": "Ada"})).await.unwrap();
    service.rotate().await;
    let new = ask("encode", NEW, json!({"name": "Bob"})).await.unwrap();
    assert_eq!(service.name(&set(&old)).await.as_deref(), Some("Ada"));
    assert_eq!(service.name(&set(&new)).await.as_deref(), Some("Bob"));
    ask("decode", NEW, old.clone()).await.unwrap_err();

    service.activate().await;
    let mut ada = set(&old);
    let sessions = service.auth.get().await.unwrap();
    for header in sessions.renew(&ada.header(), secs(u64::MAX)).unwrap() {
        ada.take(&header);
    }
    let carried = json!(ada.cookies_named("session-token")[0]);
    let read = ask("decode", NEW, carried).await.unwrap();
    assert_eq!(read["name"], "Ada");

    service.auth.revoke_previous().await.unwrap();
    assert_eq!(service.name(&set(&old)).await, None);
    assert_eq!(service.name(&ada).await.as_deref(), Some("Ada"));
}
