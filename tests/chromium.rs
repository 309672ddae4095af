//! A real browser: headless Chromium, controlled by `tests/clients/browser.mjs`.
//!
//! Every name below `example.test` is this machine. Certificates are not checked.

use std::env;
use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authjs::site::Packages;

/// A browser. It is killed when it is dropped.
pub(crate) struct Chromium {
    script: Packages,
    /// The directory of its profile.
    profile: TempDir,
}

impl Chromium {
    /// Starts the browser. Returns `None` and prints the reason if Chromium is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = installed() else {
            // Not by `println!`, whose output is hidden for a test that passes.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: a test with a real browser, because `chromium` is not installed"
            );
            return None;
        };
        let browser = Self {
            script: Packages::start_script("browser.mjs"),
            profile: tempfile::tempdir().unwrap(),
        };
        let profile = browser.profile.path();
        let action = json!({"action": "start", "program": program, "profile": profile});
        browser.run(action).await;
        Some(browser)
    }

    /// Returns a new user, who has no cookies.
    pub(crate) async fn user(&self) -> User<'_> {
        let id = self.run(json!({"action": "open"})).await;
        User { browser: self, id }
    }

    async fn run(&self, action: Value) -> Value {
        self.script.run(action).await.unwrap()
    }
}

fn installed() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let programs = env::split_paths(&path).map(|directory| directory.join("chromium"));
    programs.into_iter().find(|program| program.is_file())
}

/// A user of a [`Chromium`], with an own set of cookies.
pub(crate) struct User<'a> {
    browser: &'a Chromium,
    id: Value,
}

/// The end of a visit or of a request, after redirects.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) url: String,
    /// The text that a visitor sees, or the body of a response.
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A cookie that the browser has stored.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StoredCookie {
    pub(crate) name: String,
    /// Begins with a dot if the cookie is sent to subdomains too.
    pub(crate) domain: String,
}

impl User<'_> {
    /// Opens a page, as by the address bar.
    pub(crate) async fn visit(&self, url: &str) -> Page {
        let action = json!({"action": "visit", "user": self.id, "url": url});
        serde_json::from_value(self.browser.run(action).await).unwrap()
    }

    /// Sends a request by a script of `page`, which the browser opens before. `init` is the second argument of the
    /// JavaScript function `fetch`. Cookies are included.
    pub(crate) async fn fetch(&self, page: &str, url: &str, init: Value) -> Page {
        let action =
            json!({"action": "fetch", "user": self.id, "page": page, "url": url, "init": init});
        serde_json::from_value(self.browser.run(action).await).unwrap()
    }

    /// Returns all cookies of the user whose names contain `part`.
    pub(crate) async fn cookies_named(&self, part: &str) -> Vec<StoredCookie> {
        let action = json!({"action": "cookies", "user": self.id});
        let all = self.browser.run(action).await;
        let mut all: Vec<StoredCookie> = serde_json::from_value(all).unwrap();
        all.retain(|cookie| cookie.name.contains(part));
        all
    }
}
