//! The applications of the guide `docs/guides/nextjs.md`, in both modes of Next.js. `tests/clients/guide.mjs` writes
//! its blocks as files.

use reqwest::{Client, redirect};
use secretwell::Resolver;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SessionCookie, Sessions};
use secretwell::auth::{KeyRing, LazyAuth};
use secretwell::infisical::ApiVersion;
use serde_json::Value;
use tokio::process::Command;

use super::site::{Application, Browser, NextMode, Site};
use crate::infisical::place::Place;
use crate::support::tool;

const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";
const MODES: [NextMode; 2] = [NextMode::Production, NextMode::Development];

/// An application of the guide.
struct GuideApp {
    application: Application,
}

impl GuideApp {
    async fn start(mode: NextMode, name: &str, variables: &[(&str, String)]) -> Self {
        let mut all = vec![("GUIDE", name.to_owned())];
        all.extend(variables.iter().cloned());
        let application = Application::start_with(Command::new("node"), mode, &all).await;
        Self { application }
    }

    fn site(&self) -> Site<'static> {
        self.application.site("api/auth")
    }

    /// Returns the status of a request for the session.
    async fn session_status(&self) -> u64 {
        self.site().get(&mut Browser::default(), "session").await.0
    }

    /// Returns the status, the `Location` header and the body of a page.
    async fn get(&self, browser: &Browser, path: &str) -> (u16, String, String) {
        let client = Client::builder().redirect(redirect::Policy::none());
        let request = client
            .build()
            .unwrap()
            .get(format!("{}{path}", self.application.address));
        let response = request.header("cookie", browser.header()).send().await;
        let response = response.unwrap();
        let location = response.headers().get("location");
        let location = location.map_or("", |location| location.to_str().unwrap());
        let (status, location) = (response.status().as_u16(), location.to_owned());
        (status, location, response.text().await.unwrap())
    }

    /// Asserts that this user is logged in: for the package, a page, the proxy and a route behind it.
    async fn assert_logged_in(&self, browser: &Browser, name: &str) {
        assert_eq!(self.site().name(browser).await.as_deref(), Some(name));
        let (status, _, page) = self.get(browser, "/").await;
        assert_eq!(status, 200, "{page}");
        assert!(page.contains(name), "{page}");
        let (status, _, page) = self.get(browser, "/private").await;
        assert_eq!((status, page.contains("a guarded page")), (200, true));
        let (status, _, body) = self.get(browser, "/private/api").await;
        assert_eq!(
            (status, body),
            (200, format!("{{\"user\":\"{name}\"}}")),
            "{}",
            self.application.log()
        );
    }

    /// Asserts that the guarded pages redirect a visitor to the page for logging in.
    async fn assert_guarded(&self) {
        for path in ["/private", "/private/api"] {
            let (status, location, body) = self.get(&Browser::default(), path).await;
            assert_eq!(status, 307, "{body} {}", self.application.log());
            assert!(location.contains("/api/auth/signin?callbackUrl=%2Fprivate"));
        }
    }
}

fn environment(secret: &str, previous: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AUTH_SECRET", secret.to_owned()),
        ("AUTH_SECRET_PREVIOUS", previous.to_owned()),
    ]
}

/// The service of the guide, which reads the secrets of the application.
fn service(place: &Place, cookie: SessionCookie) -> LazyAuth<Sessions> {
    let resolver = Resolver::new(place.provider().build().unwrap());
    super::sessions(LazyAuth::builder(resolver), cookie)
}

async fn name_in_service(service: &LazyAuth<Sessions>, browser: &Browser) -> Option<String> {
    let sessions = service.rebuild().await.unwrap();
    let session = sessions.find::<Value>(&browser.header()).unwrap()?;
    Some(session.claims["name"].as_str()?.to_owned())
}

/// S15, S16 and S18: a late secret, an outage and a rotation, for both versions of next-auth and Effect.
#[tokio::test]
async fn application_of_the_guide_starts_without_a_secret_and_follows_a_rotation() {
    for (name, cookie) in [
        ("next-auth-4", SessionCookie::v4(Scheme::Http)),
        ("next-auth-5", SessionCookie::v5(Scheme::Http)),
    ] {
        for mode in MODES {
            let place = Place::fake(ApiVersion::V4).await;
            let mut variables = place.for_guides();
            // Each request reads the secret, and the next one uses it.
            variables.push(("AUTH_SECRET_TTL", "0".to_owned()));
            let app = GuideApp::start(mode, name, &variables).await;
            assert_eq!(app.session_status().await, 500);
            assert_eq!(app.get(&Browser::default(), "/").await.0, 500);
            let (status, _, page) = app.get(&Browser::default(), "/private").await;
            assert!(status >= 400 && !page.contains("a guarded page"), "{page}");

            place.write(None, "AUTH_SECRET", OLD).await;
            let service = service(&place, cookie.clone());
            let ada = app.site().log_in("Ada").await;
            app.assert_logged_in(&ada, "Ada").await;
            app.assert_guarded().await;
            assert_eq!(
                name_in_service(&service, &ada).await.as_deref(),
                Some("Ada")
            );

            // Both sides know the new secret, but nobody encrypts with it.
            place.write(None, "AUTH_SECRET_PREVIOUS", NEW).await;
            app.session_status().await;
            let bob = app.site().log_in("Bob").await;
            assert!(is_encrypted_with(OLD, &cookie, &bob));
            place.write(None, "AUTH_SECRET_PREVIOUS", OLD).await;
            place.write(None, "AUTH_SECRET", NEW).await;
            app.session_status().await;
            let cleo = app.site().log_in("Cleo").await;
            assert!(is_encrypted_with(NEW, &cookie, &cleo));
            for (browser, name) in [(&ada, "Ada"), (&bob, "Bob"), (&cleo, "Cleo")] {
                app.assert_logged_in(browser, name).await;
                assert_eq!(
                    name_in_service(&service, browser).await.as_deref(),
                    Some(name)
                );
            }

            let fake = place.as_fake();
            for request in ["GET", "POST"] {
                fake.fail_requests(request, 503, "ServiceUnavailable", "down");
            }
            for _ in 0..3 {
                app.assert_logged_in(&ada, "Ada").await;
            }
            fake.clear_failures();

            place.delete(None, "AUTH_SECRET_PREVIOUS").await;
            app.session_status().await;
            assert_eq!(app.site().name(&ada).await, None, "the old secret has left");
            assert_eq!(app.site().name(&cleo).await.as_deref(), Some("Cleo"));
            for secret in [OLD, NEW] {
                assert!(!app.application.log().contains(secret));
            }
        }
    }
}

fn is_encrypted_with(secret: &str, cookie: &SessionCookie, browser: &Browser) -> bool {
    let sessions = Sessions::new(cookie.clone(), &KeyRing::new(secret).unwrap()).unwrap();
    sessions.find::<Value>(&browser.header()).unwrap().is_some()
}

/// S15: in the lazy form of next-auth 5, `auth(handler)` is a promise.
#[tokio::test]
async fn proxy_that_is_a_promise_fails_each_request_and_the_form_with_await_works() {
    for mode in MODES {
        let app = GuideApp::start(mode, "next-auth-5-promise", &environment(NEW, OLD)).await;
        let paths: &[&str] = match mode {
            NextMode::Production => &["/", "/api/auth/session", "/private", "/private/api"],
            NextMode::Development => &["/private", "/private/api"],
        };
        for path in paths {
            let (status, _, body) = app.get(&Browser::default(), path).await;
            assert_eq!(status, 500, "{mode:?} {path} {body}");
        }
        let log = app.application.log();
        assert!(log.contains("must export a function"), "{log}");
        drop(app);

        let app = GuideApp::start(mode, "next-auth-5-await", &environment(NEW, OLD)).await;
        app.assert_guarded().await;
        let ada = app.site().log_in("Ada").await;
        let (status, _, body) = app.get(&ada, "/private/api").await;
        assert_eq!((status, body.as_str()), (200, "{\"user\":\"Ada\"}"));
    }
}

/// S17: production and development fail in different ways.
#[tokio::test]
async fn eager_application_without_a_secret_fails_in_the_modes_that_the_guide_names() {
    for (name, status) in [("next-auth-4-eager", 200), ("next-auth-5-eager", 500)] {
        for (mode, status) in [(MODES[0], 500), (MODES[1], status)] {
            let app = GuideApp::start(mode, name, &[]).await;
            assert_eq!(app.session_status().await, status, "{name} {mode:?}");
        }
    }
}

/// The file `instrumentation.js` of the guide delays the first request until the secret exists.
#[tokio::test]
async fn eager_application_waits_for_a_late_secret_in_its_instrumentation() {
    for (name, mode) in [
        ("next-auth-4-once", NextMode::Production),
        ("next-auth-5-once", NextMode::Production),
        ("next-auth-5-once", NextMode::Development),
    ] {
        let place = Place::fake(ApiVersion::V4).await;
        let app = GuideApp::start(mode, name, &place.for_guides()).await;
        let site = app.site();
        let log_in = site.log_in("Ada");
        let write = async {
            // The application has read its folder before the secret exists.
            while place.as_fake().count("GET ", 200) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            place.write(None, "AUTH_SECRET", OLD).await;
        };
        let (ada, ()) = tokio::join!(log_in, write);
        assert_eq!(site.name(&ada).await.as_deref(), Some("Ada"));
    }
}

/// S18: the function `cachedSecret` of the guide.
#[tokio::test]
async fn cached_secret_of_the_guide_reads_its_source_as_often_as_the_guide_says() {
    let output = Command::new("node")
        .arg(tool("clients/cached-secret.mjs"))
        .output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("all checks passed\n"));
}
