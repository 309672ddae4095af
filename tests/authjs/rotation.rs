//! Rotations that start on one side: no user is logged out before the old secret is revoked.

use std::time::Duration;

use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SessionCookie, Sessions};
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

/// The service that shares its login with a [`Peer`].
struct Service {
    memory: MemoryProvider,
    auth: LazyAuth<Sessions>,
}

/// The activation delay of the service.
const ACTIVATION_DELAY: Duration = Duration::from_secs(600);

impl Service {
    async fn new(cookie: SessionCookie) -> Self {
        let memory = MemoryProvider::from_iter([("AUTH_SECRET", OLD)]);
        let resolver = Resolver::new(memory.clone());
        let settings = LazyAuth::builder(resolver).activation_delay(ACTIVATION_DELAY);
        let auth = sessions(settings, cookie);
        auth.get().await.unwrap();
        Self { memory, auth }
    }

    /// Rotates the secret, and waits until the new one verifies.
    async fn rotate(&self) {
        let mut states = self.auth.watch_state();
        self.memory.set("AUTH_SECRET", NEW).unwrap();
        let rotated = |state: &State| state.generation() > Some(1);
        states.wait_for(rotated).await.unwrap();
    }

    /// Advances the clock by the activation delay, and waits until the new secret signs.
    async fn activate(&self) {
        let before = self.auth.state().generation();
        let mut states = self.auth.watch_state();
        time::pause();
        time::advance(ACTIVATION_DELAY).await;
        time::resume();
        let signs = |state: &State| state.generation() > before;
        states.wait_for(signs).await.unwrap();
    }

    async fn log_in(&self, name: &str) -> Browser {
        let sessions = self.auth.get().await.unwrap();
        Browser::with_cookies(&sessions.start(&json!({"name": name}), "").unwrap())
    }

    async fn name(&self, browser: &Browser) -> Option<String> {
        let sessions = self.auth.get().await.unwrap();
        let session = sessions.find::<Value>(&browser.header()).unwrap();
        Some(session?.claims["name"].as_str()?.to_owned())
    }
}

/// Asserts that all users are logged in on both sides.
async fn assert_logged_in(service: &Service, site: &Site<'_>, users: &[(&str, &Browser)]) {
    for (name, browser) in users {
        assert_eq!(service.name(browser).await.as_deref(), Some(*name));
        assert_eq!(site.name(browser).await.as_deref(), Some(*name));
    }
}

/// The other side of a shared login. It accepts a list of secrets.
enum Peer {
    Core(Packages),
    /// A Next.js application that reads its secrets from the place in each request.
    Next5(Application, Place),
}

impl Peer {
    async fn all() -> [Self; 2] {
        let place = Place::fake(ApiVersion::V4).await;
        let application = Application::start(&place.for_clients()).await;
        [
            Self::Core(Packages::start()),
            Self::Next5(application, place),
        ]
    }

    /// Sets the secrets. The first one encrypts.
    async fn with_secrets(&self, secrets: &[&str]) -> Site<'_> {
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
async fn rotation_that_starts_in_the_service_logs_nobody_out() {
    for peer in &Peer::all().await {
        let service = Service::new(SessionCookie::v5(Scheme::Http)).await;
        let site = peer.with_secrets(&[OLD]).await;
        let ada = site.log_in("Ada").await;
        let bob = service.log_in("Bob").await;
        assert_logged_in(&service, &site, &[("Ada", &ada), ("Bob", &bob)]).await;

        service.rotate().await;
        let cleo = service.log_in("Cleo").await;
        let old = [("Ada", &ada), ("Bob", &bob), ("Cleo", &cleo)];
        assert_logged_in(&service, &site, &old).await;

        let site = peer.with_secrets(&[NEW, OLD]).await;
        let dan = site.log_in("Dan").await;
        service.activate().await;
        let eve = service.log_in("Eve").await;
        let new = [("Dan", &dan), ("Eve", &eve)];
        assert_logged_in(&service, &site, &old).await;
        assert_logged_in(&service, &site, &new).await;
        assert_only_new_sessions_after_revocation(&service, peer, &old, &new).await;
    }
}

#[tokio::test]
async fn rotation_that_starts_in_the_application_logs_nobody_out() {
    for peer in &Peer::all().await {
        let service = Service::new(SessionCookie::v5(Scheme::Http)).await;
        let bob = service.log_in("Bob").await;

        // The peer knows the new secret, but does not encrypt with it yet.
        let site = peer.with_secrets(&[OLD, NEW]).await;
        let ada = site.log_in("Ada").await;
        let old = [("Ada", &ada), ("Bob", &bob)];
        assert_logged_in(&service, &site, &old).await;
        service.rotate().await;
        service.activate().await;
        let cleo = service.log_in("Cleo").await;
        assert_logged_in(&service, &site, &old).await;
        assert_logged_in(&service, &site, &[("Cleo", &cleo)]).await;

        let site = peer.with_secrets(&[NEW, OLD]).await;
        let dan = site.log_in("Dan").await;
        let new = [("Cleo", &cleo), ("Dan", &dan)];
        assert_logged_in(&service, &site, &old).await;
        assert_logged_in(&service, &site, &new).await;
        assert_only_new_sessions_after_revocation(&service, peer, &old, &new).await;
    }
}

/// Revokes the old secret on both sides. Only sessions of the new secret must remain.
async fn assert_only_new_sessions_after_revocation(
    service: &Service,
    peer: &Peer,
    old: &[(&str, &Browser)],
    new: &[(&str, &Browser)],
) {
    service.auth.revoke_previous().await.unwrap();
    let site = peer.with_secrets(&[NEW]).await;
    assert_logged_in(service, &site, new).await;
    for (_, browser) in old {
        assert_eq!(service.name(browser).await, None);
        assert_eq!(site.name(browser).await, None);
    }
}

#[tokio::test]
async fn session_of_an_unknown_secret_becomes_valid_when_the_secret_is_known() {
    let packages = Packages::start();
    let site = Site::Core(&packages, json!([NEW, OLD]));
    let service = Service::new(SessionCookie::v5(Scheme::Http)).await;
    let ada = site.log_in("Ada").await;
    assert_eq!(
        service.name(&ada).await,
        None,
        "the service does not know the new secret yet"
    );
    service.rotate().await;
    assert_logged_in(&service, &site, &[("Ada", &ada)]).await;
}

/// next-auth 4 accepts one secret only, so a rotation ends its sessions. A session is kept if the service
/// renews it during the grace period.
#[tokio::test]
async fn sessions_of_next_auth_4_survive_a_rotation_if_the_service_renews_them() {
    let packages = Packages::start();
    let run = async |action: &str, secret: &str, token: Value| {
        let action = json!({"action": action, "by": "next-auth@4", "secret": secret, "token": token, "salt": ""});
        packages.run(action).await
    };
    let service = Service::new(SessionCookie::v4(Scheme::Http)).await;
    let browser = |token: &Value| {
        Browser::with_cookies(&[format!(
            "next-auth.session-token={}",
            token.as_str().unwrap()
        )])
    };
    let old = run("encode", OLD, json!({"name": "Ada"})).await.unwrap();
    service.rotate().await;
    let new = run("encode", NEW, json!({"name": "Bob"})).await.unwrap();
    assert_eq!(service.name(&browser(&old)).await.as_deref(), Some("Ada"));
    assert_eq!(service.name(&browser(&new)).await.as_deref(), Some("Bob"));
    run("decode", NEW, old.clone()).await.unwrap_err();

    service.activate().await;
    let mut ada = browser(&old);
    let sessions = service.auth.get().await.unwrap();
    for header in sessions.renew(&ada.header(), secs(u64::MAX)).unwrap() {
        ada.receive(&header);
    }
    let renewed = json!(ada.cookies_named("session-token")[0]);
    let decoded = run("decode", NEW, renewed).await.unwrap();
    assert_eq!(decoded["name"], "Ada");

    service.auth.revoke_previous().await.unwrap();
    assert_eq!(service.name(&browser(&old)).await, None);
    assert_eq!(service.name(&ada).await.as_deref(), Some("Ada"));
}
