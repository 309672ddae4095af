//! Rotations of an application that uses the programs of the guide.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, Remember, SessionCookies, SessionRow, Sessions,
};
use secretwell::auth::{BuildContext, BuildError, LazyAuth};
use secretwell::{MemoryProvider, Resolver, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guide::{Project, Server, until};
use super::{FIRST, SECOND};
use crate::authjs::site::{Browser, Packages};
use crate::support::replace;

/// A secret that no side knows.
const UNKNOWN: &str = "an unknown secret: 0246813579 acegikmoqsuwy";

/// Reads the list from a file, so that a test can change it.
const SOURCE: &str = r#"
import { readFile } from "node:fs/promises";
export const load = async () => JSON.parse(await readFile("PATH", "utf8"));
"#;

/// The handler of the instance itself, which `handle` wraps.
const UNWRAPPED: &str = r#"
import { renewed } from "./auth.js";
export const handle = async (request) => (await renewed(new Headers())).auth.handler(request);
"#;

/// An application whose secrets are in a file.
struct Application {
    server: Server,
    file: PathBuf,
    /// A user who is logged in.
    probe: Browser,
    packages: Packages,
    _project: Project,
}

impl Application {
    /// Starts `server.js`, or `unwrapped-server.js`, after some replacements in `options.js`.
    async fn start(file: &str, replacements: &[(&str, &str)]) -> Self {
        let project = Project::with_source("source.js");
        let secrets = project.path().join("secrets.json");
        let source = SOURCE.replace("PATH", &secrets.display().to_string());
        project.write("source.js", &source);
        project.write("unwrapped.js", UNWRAPPED);
        project.add_server("unwrapped-server.js", "./unwrapped.js");
        project.replace("cached-secret.js", "ttl = 60_000", "ttl = 0");
        project.replace(
            "options.js",
            "options = {",
            "options = {\n  rateLimit: { enabled: false },",
        );
        for (from, to) in replacements {
            project.replace("options.js", from, to);
        }
        list(&secrets, &[(1, FIRST)]);
        let none: [(&str, &str); 0] = [];
        let server = Server::start(&project, file, "production", &none).await;
        let probe = server.sign_up("Probe").await;
        Self {
            server,
            file: secrets,
            probe,
            packages: Packages::start_script("betterauth.mjs"),
            _project: project,
        }
    }

    /// Replaces the list of secrets, and waits until the application signs with the first one.
    async fn rotate(&self, secrets: &[(u32, &str)]) {
        list(&self.file, secrets);
        let mut signed = self.probe.clone();
        signed.receive(&signed_cookie(&self.packages, &self.probe, secrets[0].1).await);
        until(async || {
            let mut browser = signed.clone();
            let known = self.name(&mut browser).await.is_some();
            known && session_cookie(&browser) == session_cookie(&signed)
        })
        .await;
    }

    async fn name(&self, browser: &mut Browser) -> Option<String> {
        self.server.name(browser).await
    }
}

/// Writes a list of secrets.
fn list(file: &std::path::Path, secrets: &[(u32, &str)]) {
    let entries = secrets
        .iter()
        .map(|(version, value)| format!("{version}:{value}"));
    let list = entries.collect::<Vec<_>>().join(",");
    replace(
        file,
        json!({"BETTER_AUTH_SECRETS": list}).to_string().as_bytes(),
    );
}

/// Returns whether the session cookie is signed with this secret, according to the package.
async fn is_signed(packages: &Packages, browser: &Browser, secret: &str) -> bool {
    let name = session_name(browser);
    let read =
        json!({"action": "read", "cookies": browser.header(), "name": name, "secret": secret});
    packages.run(read).await.unwrap().is_string()
}

/// Returns the session cookie of a user, signed with this secret by the package.
async fn signed_cookie(packages: &Packages, browser: &Browser, secret: &str) -> String {
    let (token, _) = session_cookie(browser).split_once('.').unwrap();
    let sign = json!({
        "action": "sign", "name": session_name(browser), "value": token, "secret": secret,
    });
    let cookie = packages.run(sign).await.unwrap();
    cookie.as_str().unwrap().to_owned()
}

fn session_cookie(browser: &Browser) -> &str {
    browser.cookies_named("session_token")[0]
}

/// Returns the name of the session cookie, which some tests change.
fn session_name(browser: &Browser) -> String {
    let header = browser.header();
    let mut names = header
        .split("; ")
        .map(|pair| pair.split('=').next().unwrap());
    names
        .find(|name| name.ends_with("session_token"))
        .unwrap()
        .to_owned()
}

/// Returns the attributes of the session cookie.
fn attributes(browser: &Browser) -> Vec<String> {
    let header = browser
        .set_cookie_header(&session_name(browser))
        .to_lowercase();
    let mut attributes: Vec<_> = header.split("; ").skip(1).map(str::to_owned).collect();
    attributes.sort();
    attributes
}

#[tokio::test]
async fn rotation_logs_everybody_out_without_the_wrapper_and_nobody_with_it() {
    for (file, survives) in [("unwrapped-server.js", false), ("server.js", true)] {
        let application = Application::start(file, &[]).await;
        let mut ada = application.server.sign_up("Ada").await;
        let before = ada.clone();
        application.rotate(&[(2, SECOND), (1, FIRST)]).await;
        let name = application.name(&mut ada).await;
        assert_eq!(name.is_some(), survives, "{file}");
        let kept = ada.header() == before.header();
        assert_eq!(
            kept, !survives,
            "{file}: a session of another secret is not cleared"
        );
        if survives {
            // The browser has a new cookie, so the previous secret can be removed.
            assert_eq!(attributes(&ada), attributes(&before));
            application.rotate(&[(2, SECOND)]).await;
            assert_eq!(application.name(&mut ada).await.as_deref(), Some("Ada"));
            let mut late = before;
            assert_eq!(application.name(&mut late).await, None);
        }
    }
}

#[tokio::test]
async fn wrapper_keeps_the_attributes_and_the_lifetime_of_the_session_cookie() {
    let options = |added: &str| {
        let added = format!("emailAndPassword: {{ enabled: true }}, {added}");
        [("emailAndPassword: { enabled: true },".to_owned(), added)]
    };
    let cases = [
        "",
        "advanced: { crossSubDomainCookies: { enabled: true, domain: \"example.test\" } },",
        "advanced: { useSecureCookies: true, cookiePrefix: \"shop\" },",
        "advanced: { defaultCookieAttributes: { sameSite: \"none\", secure: true, partitioned: true } },",
        "advanced: { cookies: { session_token: { name: \"my-session_token\", attributes: { path: \"/api\" } } } },",
        "session: { expiresIn: 60 * 60 },",
        "session: { cookieCache: { enabled: true } },",
    ];
    for added in cases {
        let options = options(added);
        let replacements = options
            .each_ref()
            .map(|(from, to)| (from.as_str(), to.as_str()));
        let application = Application::start("server.js", &replacements).await;
        let mut ada = application.server.sign_up("Ada").await;
        let temporary = json!({
            "email": "Ada@example.test", "password": "a password", "rememberMe": false,
        });
        let mut bob = Browser::default();
        let (status, _) = application
            .server
            .send(&mut bob, "sign-in/email", Some(temporary))
            .await;
        assert_eq!(status, 200);
        let expected = [attributes(&ada), attributes(&bob)];
        assert!(expected[0].iter().any(|part| part.starts_with("max-age")));
        assert!(
            !expected[1].iter().any(|part| part.starts_with("max-age")),
            "{expected:?}"
        );

        application.rotate(&[(2, SECOND), (1, FIRST)]).await;
        let packages = &application.packages;
        for (browser, expected) in [&mut ada, &mut bob].into_iter().zip(expected) {
            assert_eq!(
                application.name(browser).await.as_deref(),
                Some("Ada"),
                "{added}"
            );
            assert_eq!(attributes(browser), expected, "{added}");
            assert!(is_signed(packages, browser, SECOND).await, "{added}");
        }
        // The mark of a temporary session is signed again as well.
        let mark = bob.cookies_named("dont_remember")[0].to_owned();
        let read = json!({
            "action": "read", "cookies": format!("mark={mark}"), "name": "mark", "secret": SECOND,
        });
        assert_eq!(packages.run(read).await.unwrap(), "true", "{added}");
    }
}

#[tokio::test]
async fn secret_that_is_added_at_the_end_verifies_before_it_signs() {
    let first = Application::start("server.js", &[]).await;
    let mut ada = first.server.sign_up("Ada").await;
    // The other instance has rotated already: it signs with the new secret.
    list(&first.file, &[(1, FIRST), (2, SECOND)]);
    let signed = signed_cookie(&first.packages, &ada, SECOND).await;
    let mut elsewhere = Browser::with_cookies(&[signed]);
    until(async || first.name(&mut elsewhere).await.as_deref() == Some("Ada")).await;
    assert!(is_signed(&first.packages, &elsewhere, FIRST).await);
    assert_eq!(first.name(&mut ada).await.as_deref(), Some("Ada"));
}

#[tokio::test]
async fn sessions_without_a_database_survive_a_rotation() {
    let application = Application::start("server.js", &[("  database: ", "  unused: ")]).await;
    let mut ada = application.server.sign_up("Ada").await;
    assert!(!ada.cookies_named("session_data").is_empty());
    application.rotate(&[(2, SECOND), (1, FIRST)]).await;
    assert_eq!(application.name(&mut ada).await.as_deref(), Some("Ada"));
}

#[tokio::test]
async fn sign_out_after_a_rotation_ends_the_session() {
    let application = Application::start("server.js", &[]).await;
    let mut ada = application.server.sign_up("Ada").await;
    let stolen = ada.clone();
    application.rotate(&[(2, SECOND), (1, FIRST)]).await;
    let (status, _) = application
        .server
        .send(&mut ada, "sign-out", Some(json!({})))
        .await;
    assert_eq!(status, 200);
    assert!(ada.cookies_named("session_token").is_empty(), "{ada:?}");
    assert_eq!(application.name(&mut ada).await, None);
    let mut stolen = stolen;
    assert_eq!(application.name(&mut stolen).await, None);
    assert!(stolen.cookies_named("session_token").is_empty());
}

#[tokio::test]
async fn forged_and_malformed_cookies_are_not_signed() {
    let application = Application::start("server.js", &[]).await;
    let ada = application.server.sign_up("Ada").await;
    application.rotate(&[(2, SECOND), (1, FIRST)]).await;
    let good = session_cookie(&ada).to_owned();
    let (token, signature) = good.split_once('.').unwrap();
    let forged = signed_cookie(&application.packages, &ada, UNKNOWN).await;
    let forged = forged.split(['=', ';']).nth(1).unwrap();
    let other = token.replace(&token[..1], if token.starts_with('a') { "b" } else { "a" });
    let client = reqwest::Client::new();
    for value in [
        forged,
        "",
        ".",
        "%",
        "%zz.%",
        "\"",
        "a.b",
        &format!(".{signature}"),
        &format!("{token}."),
        &format!("{other}.{signature}"),
        &format!("{token}.{}", signature.replace("%3D", "")),
        &format!("{token}.{}", &signature.to_lowercase()),
        &good.replace('%', "%25"),
        &"x".repeat(9_000),
    ] {
        let url = format!("{}/api/auth/get-session", application.server.address);
        let cookie = format!("=; x; better-auth.session_token={value}; better-auth.dont_remember");
        let response = client
            .get(url)
            .header("cookie", cookie)
            .send()
            .await
            .unwrap();
        let set: Vec<_> = response
            .headers()
            .get_all("set-cookie")
            .iter()
            .cloned()
            .collect();
        assert!(set.is_empty(), "{value}: {set:?}");
        assert_eq!(response.status(), 200, "{value}");
        assert_eq!(
            response.json::<Value>().await.unwrap(),
            Value::Null,
            "{value}"
        );
    }
    // The same session as other encodings of its cookie.
    for value in [
        good.clone(),
        format!("\"{good}\""),
        good.replace("%3D", "="),
    ] {
        let mut browser = Browser::default();
        browser.receive(&format!("better-auth.session_token={value}; Path=/"));
        assert_eq!(
            application.name(&mut browser).await.as_deref(),
            Some("Ada"),
            "{value}"
        );
    }
}

#[tokio::test]
async fn no_request_fails_during_a_rotation() {
    let application = Application::start("server.js", &[]).await;
    let ada = application.server.sign_up("Ada").await;
    let rotation = async {
        for secrets in [
            &[(2, SECOND), (1, FIRST)][..],
            &[(1, FIRST), (2, SECOND)],
            &[(3, UNKNOWN), (1, FIRST), (2, SECOND)],
        ] {
            application.rotate(secrets).await;
        }
    };
    let requests = async {
        for _ in 0..300 {
            // The browser of another tab might send its previous cookie.
            let mut browser = ada.clone();
            assert_eq!(application.name(&mut browser).await.as_deref(), Some("Ada"));
        }
    };
    tokio::join!(rotation, requests);
    let log = application.server.log();
    for secret in [FIRST, SECOND, UNKNOWN] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Secrets of a service beside the application.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the build uses its key ring")]
    better_auth_secrets: SecretString,
}

/// A service whose secrets are in a memory, so that the test decides when it knows them.
struct Service {
    memory: MemoryProvider,
    auth: LazyAuth<Sessions>,
}

impl Service {
    fn new(list: &str) -> Self {
        let memory = MemoryProvider::from_iter([("BETTER_AUTH_SECRETS", list)]);
        let auth = LazyAuth::new(
            Resolver::new(memory.clone()),
            |_: Secrets, context: BuildContext| async move {
                let secrets = BetterAuthSecrets::from_context(&context)?;
                let cookies = SessionCookies::new(Scheme::Http);
                let sessions = Sessions::stateless(cookies, &secrets)?;
                Ok::<_, BuildError>(sessions.accept_previous_tokens())
            },
        );
        Self { memory, auth }
    }

    async fn set(&self, list: &str) {
        self.memory.set("BETTER_AUTH_SECRETS", list).unwrap();
        self.auth.rebuild().await.unwrap();
    }

    async fn name(&self, browser: &Browser) -> Option<String> {
        let sessions = self.auth.get().await.unwrap();
        let session = sessions.find::<Value>(&browser.header()).unwrap();
        Some(session?.user["name"].as_str()?.to_owned())
    }

    async fn log_in(&self, name: &str) -> Browser {
        let end = SystemTime::now() + Duration::from_secs(60 * 60);
        let row = SessionRow::new("session", "user", format!("token-of-{name}"), end);
        let user = json!({"id": "user", "name": name, "email": "user@example.test"});
        let sessions = self.auth.get().await.unwrap();
        Browser::with_cookies(
            &sessions
                .start(&row, &user, Remember::UntilExpiry, "")
                .unwrap(),
        )
    }
}

#[tokio::test]
async fn rotation_that_starts_on_either_side_logs_nobody_out() {
    let before = format!("1:{FIRST}");
    let added = format!("1:{FIRST},2:{SECOND}");
    let moved = format!("2:{SECOND},1:{FIRST}");
    for service_is_first in [true, false] {
        let application = Application::start("server.js", &[("  database: ", "  unused: ")]).await;
        let service = Service::new(&before);
        let mut users = Vec::new();
        for (step, (list, entries)) in [
            (&before, &[(1, FIRST)][..]),
            (&added, &[(1, FIRST), (2, SECOND)]),
            (&moved, &[(2, SECOND), (1, FIRST)]),
        ]
        .into_iter()
        .enumerate()
        {
            // In each step, one side is ahead of the other. People log in on both sides in between.
            for service_moves in [service_is_first, !service_is_first] {
                match service_moves {
                    true => service.set(list).await,
                    false => application.rotate(entries).await,
                }
                let name = format!("{step}{service_moves}");
                users.push((name.clone(), application.server.sign_up(&name).await));
                let name = format!("service{name}");
                users.push((name.clone(), service.log_in(&name).await));
                for (name, browser) in &users {
                    // The browser keeps its old cookies, as that of a user who does nothing.
                    let mut copy = browser.clone();
                    assert_eq!(application.name(&mut copy).await.as_ref(), Some(name));
                    assert_eq!(service.name(&copy).await.as_ref(), Some(name));
                    assert_eq!(service.name(browser).await.as_ref(), Some(name));
                }
            }
        }
        // All browsers have the new cookies before the old secret is removed.
        for (_, browser) in &mut users {
            application.name(browser).await.unwrap();
        }
        service.set(&format!("2:{SECOND}")).await;
        service.auth.revoke_previous().await.unwrap();
        application.rotate(&[(2, SECOND), (1, FIRST)]).await;
        for (name, browser) in &users {
            let token = signed_cookie(&application.packages, browser, SECOND).await;
            assert_eq!(
                token.split(';').next(),
                session_pair(browser).as_deref(),
                "{name}"
            );
        }
    }
}

/// Returns the pair of the session cookie.
fn session_pair(browser: &Browser) -> Option<String> {
    let header = browser.header();
    let mut pairs = header.split("; ");
    pairs
        .find(|pair| pair.contains("session_token="))
        .map(str::to_owned)
}
