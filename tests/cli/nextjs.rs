//! The rotation of the guide `docs/guides/nextjs.md` with `run --watch`: no user is logged out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Secrets;
use crate::authjs::site::{Application, Browser};
use crate::vault::server::free_address;

const OLD: &str = "the old secret, thirty-two bytes or more";
const NEW: &str = "the new secret, thirty-two bytes or more";

#[tokio::test]
async fn rotation_by_the_command_logs_nobody_out_of_the_application_of_the_guide() {
    // Both secrets exist, so that each step is one restart.
    let secrets = Secrets::new(&[("AUTH_SECRET", OLD), ("AUTH_SECRET_PREVIOUS", OLD)]);
    let command = Command::from(secrets.run(&["--watch"], &["node"]));
    let variables = [("GUIDE", "next-auth-5-await".to_owned())];
    let mut application = Application::start_by(command, &variables).await;
    let ada = application.site("api/auth").log_in("Ada").await;

    secrets.write("AUTH_SECRET_PREVIOUS", NEW.as_bytes());
    application.wait_for_restart().await;
    let site = application.site("api/auth");
    assert_eq!(site.name(&ada).await.as_deref(), Some("Ada"));
    let bob = site.log_in("Bob").await;

    // The command waits until no secret has changed for half a second.
    secrets.write("AUTH_SECRET_PREVIOUS", OLD.as_bytes());
    secrets.write("AUTH_SECRET", NEW.as_bytes());
    application.wait_for_restart().await;
    let site = application.site("api/auth");
    let cleo = site.log_in("Cleo").await;
    for (browser, name) in [(&ada, "Ada"), (&bob, "Bob"), (&cleo, "Cleo")] {
        assert_eq!(site.name(browser).await.as_deref(), Some(name));
    }

    // A deleted secret would be kept for one day, so the new secret replaces the old one.
    secrets.write("AUTH_SECRET_PREVIOUS", NEW.as_bytes());
    application.wait_for_restart().await;
    let site = application.site("api/auth");
    assert_eq!(site.name(&ada).await, None);
    assert_eq!(site.name(&cleo).await.as_deref(), Some("Cleo"));
}

/// What the users of an application see while it is restarted.
#[derive(Debug, Default)]
struct Seen {
    sessions: AtomicUsize,
    logged_out: AtomicUsize,
    /// Connections that no process accepted.
    refused: AtomicUsize,
    /// Requests without a complete response, on a connection that was accepted.
    broken: AtomicUsize,
    end: AtomicBool,
}

impl Seen {
    fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Asks for the session of a user again and again, each time with a new connection.
    async fn keep_asking(self: Arc<Self>, address: String, mut browser: Browser) {
        let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
        while !self.end.load(Ordering::Relaxed) {
            let url = format!("{address}/api/auth/session");
            let request = client.get(url).header("cookie", browser.header());
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => {
                    count(match error.is_connect() {
                        true => &self.refused,
                        false => &self.broken,
                    });
                    sleep(Duration::from_millis(5)).await;
                    continue;
                }
            };
            assert_eq!(response.status(), 200);
            // The application encrypts the session with the newest secret.
            for cookie in response.headers().get_all("set-cookie") {
                browser.receive(cookie.to_str().unwrap());
            }
            match response.json::<Value>().await {
                Err(_) => count(&self.broken),
                Ok(session) if session["user"]["name"].is_string() => count(&self.sessions),
                Ok(_) => count(&self.logged_out),
            };
        }
    }

    /// Waits until the users have asked for `count` more sessions, or until one of them is logged out.
    async fn wait_for(&self, count: usize) {
        let expected = self.sessions() + count;
        let served = async {
            while self.sessions() < expected && self.logged_out.load(Ordering::Relaxed) == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), served).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_rotations_under_load_log_nobody_out() {
    const USERS: usize = 4;
    let secrets = Secrets::new(&[("AUTH_SECRET", OLD)]);
    let options = ["--watch", "--previous", "AUTH_SECRET=AUTH_SECRET_PREVIOUS"];
    let command = Command::from(secrets.run(&options, &["node"]));
    let port = free_address().port().to_string();
    let variables = [("GUIDE", "next-auth-5-await".to_owned()), ("PORT", port)];
    let mut application = Application::start_by(command, &variables).await;
    let seen = Arc::new(Seen::default());
    let mut users = JoinSet::new();
    for user in 0..USERS {
        let site = application.site("api/auth");
        let browser = site.log_in(&format!("user-{user}")).await;
        let address = application.address.clone();
        users.spawn(seen.clone().keep_asking(address, browser));
    }
    for rotation in 1..=20 {
        // Each user has asked at least once since the last restart: one previous secret is known at a time.
        seen.wait_for(USERS * 10).await;
        let secret = format!("secret number {rotation}, thirty-two bytes or more");
        secrets.write("AUTH_SECRET", secret.as_bytes());
        application.wait_for_restart().await;
    }
    seen.wait_for(USERS * 10).await;
    seen.end.store(true, Ordering::Relaxed);
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    println!("{seen:?}");
    assert_eq!(seen.logged_out.load(Ordering::Relaxed), 0, "{seen:?}");
    // No process listens between the end of the program and its next start.
    assert!(seen.refused.load(Ordering::Relaxed) >= 20, "{seen:?}");
    // The application responds to the requests that it has accepted before it exits. A connection that still waits to
    // be accepted at that moment is reset.
    assert!(
        seen.broken.load(Ordering::Relaxed) <= 20 * USERS,
        "{seen:?}"
    );
}
