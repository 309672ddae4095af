//! The packages in a helper process and in a Next.js application.
//!
//! The processes are killed when [`Packages`] and [`Application`] are dropped.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use reqwest::{Client, redirect};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time;

use crate::support::tool;

/// A helper process that runs packages: `tests/clients/authjs.mjs`, or another script of this kind.
pub(crate) struct Packages {
    _process: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl Packages {
    pub(super) fn start() -> Self {
        Self::start_script("authjs.mjs")
    }

    /// Starts a script of `tests/clients`.
    pub(crate) fn start_script(name: &str) -> Self {
        let mut process = Command::new("node")
            .arg(tool("clients").join(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            _process: process,
            pipes: Mutex::new((input, output)),
        }
    }

    /// Runs an action, and returns its value or its error message.
    pub(crate) async fn run(&self, action: Value) -> Result<Value, String> {
        let mut pipes = self.pipes.lock().await;
        let (input, output) = &mut *pipes;
        let line = format!("{action}\n");
        input.write_all(line.as_bytes()).await.unwrap();
        let line = output.next_line().await.unwrap();
        let mut result: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match &result["error"] {
            Value::String(error) => Err(error.clone()),
            _ => Ok(result["value"].take()),
        }
    }
}

/// A Next.js application, `tests/clients/app`.
pub(crate) struct Application {
    process: Child,
    pub(crate) address: String,
    log: Arc<StdMutex<String>>,
    /// Development mode: only one process at a time can use the directory.
    development: Option<MutexGuard<'static, ()>>,
}

/// A mode of Next.js.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NextMode {
    /// `next start`
    Production,
    /// `next dev`
    Development,
}

impl Application {
    /// Starts the application in production mode with these environment variables, and waits until it listens. `PORT`
    /// sets its port, which is free by default.
    pub(super) async fn start<N: AsRef<str>>(variables: &[(N, String)]) -> Self {
        Self::start_by(Command::new("node"), variables).await
    }

    /// Like [`start`](Self::start), with a command that runs node.
    pub(crate) async fn start_by<N: AsRef<str>>(
        command: Command,
        variables: &[(N, String)],
    ) -> Self {
        Self::start_with(command, NextMode::Production, variables).await
    }

    /// Like [`start_by`](Self::start_by), in this mode.
    pub(crate) async fn start_with<N: AsRef<str>>(
        mut command: Command,
        mode: NextMode,
        variables: &[(N, String)],
    ) -> Self {
        static DEVELOPMENT: Mutex<()> = Mutex::const_new(());
        let home = tool("clients");
        let (action, development) = match mode {
            NextMode::Production => ("start", None),
            NextMode::Development => ("dev", Some(DEVELOPMENT.lock().await)),
        };
        if development.is_some() {
            // The server is a child of the process, and must be killed with it.
            command.process_group(0);
        }
        command
            .arg("--max-http-header-size=100000")
            .arg(home.join("node_modules/next/dist/bin/next"))
            .args([action, "--hostname", "127.0.0.1"])
            .arg(home)
            .env_remove("AUTH_SECRET")
            .env("NEXT_TELEMETRY_DISABLED", "1")
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, value) in variables {
            command.env(name.as_ref(), value);
        }
        let mut process = command.spawn().unwrap();
        let log = Arc::new(StdMutex::default());
        let errors = BufReader::new(process.stderr.take().unwrap()).lines();
        tokio::spawn(collect(errors, log.clone()));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.expect("the application must not exit before it listens");
            if let Some((_, address)) = line.split_once("Local:") {
                break address.trim().to_owned();
            }
        };
        while let Some(line) = lines.next_line().await.unwrap()
            && !line.contains("Ready")
        {}
        tokio::spawn(collect(lines, log.clone()));
        Self {
            process,
            address,
            log,
            development,
        }
    }

    /// Returns one of its routes, such as `eager/v5`.
    pub(crate) fn site(&self, route: &str) -> Site<'static> {
        Site::Served(format!("{}/{route}", self.address))
    }

    /// Waits until the command that runs the application has started it again, and follows it to its new address.
    pub(crate) async fn wait_for_restart(&mut self) {
        self.address = loop {
            {
                let mut log = self.log.lock().unwrap();
                if let Some((_, rest)) = log.split_once("Local:")
                    && rest.contains("Ready")
                {
                    let address = rest.lines().next().unwrap().trim().to_owned();
                    log.clear();
                    break address;
                }
            }
            time::sleep(Duration::from_millis(20)).await;
        };
    }

    /// Returns its log output until now.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if let (Some(_), Some(id)) = (&self.development, self.process.id()) {
            let group = format!("-{id}");
            let _ = std::process::Command::new("kill")
                .args(["-KILL", "--", &group])
                .status();
        }
    }
}

/// Appends lines to a log until they end.
pub(crate) async fn collect(
    mut lines: Lines<BufReader<impl tokio::io::AsyncRead + Unpin>>,
    log: Arc<StdMutex<String>>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        *log.lock().unwrap() += &format!("{line}\n");
    }
}

/// A place where users log in.
pub(crate) enum Site<'a> {
    /// The base URL of a route of an [`Application`].
    Served(String),
    /// `@auth/core` without a server, with its secrets. The first secret encrypts.
    Core(&'a Packages, Value),
}

/// The status and the body of a response.
pub(crate) type PageResponse = (u64, String);

impl Site<'_> {
    pub(crate) async fn get(&self, browser: &mut Browser, action: &str) -> PageResponse {
        self.send(browser, action, None).await
    }

    /// Posts the login form with a name and a CSRF token.
    pub(super) async fn post_name(
        &self,
        browser: &mut Browser,
        csrf: &str,
        name: &str,
    ) -> PageResponse {
        let form = format!("csrfToken={csrf}&name={name}&json=true");
        self.send(browser, "callback/credentials", Some(form)).await
    }

    /// Logs in with a name, as the login page does.
    pub(crate) async fn log_in(&self, name: &str) -> Browser {
        let mut browser = Browser::default();
        let token = self.csrf_token(&mut browser).await;
        let (status, body) = self.post_name(&mut browser, &token, name).await;
        assert!(status < 400, "{status} {body}");
        browser
    }

    pub(super) async fn csrf_token(&self, browser: &mut Browser) -> String {
        let (_, body) = self.get(browser, "csrf").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        body["csrfToken"].as_str().unwrap().to_owned()
    }

    /// Returns the name of the user who is logged in. The cookies of `browser` do not change.
    pub(crate) async fn name(&self, browser: &Browser) -> Option<String> {
        let (status, body) = self.get(&mut browser.clone(), "session").await;
        assert_eq!(status, 200, "{body}");
        let session: Value = serde_json::from_str(&body).unwrap();
        session["user"]["name"].as_str().map(str::to_owned)
    }

    async fn send(
        &self,
        browser: &mut Browser,
        action: &str,
        form: Option<String>,
    ) -> PageResponse {
        let method = if form.is_some() { "POST" } else { "GET" };
        let headers = [
            ("cookie", browser.header()),
            (
                "content-type",
                "application/x-www-form-urlencoded".to_owned(),
            ),
        ];
        match self {
            Self::Served(base) => {
                let client = Client::builder().redirect(redirect::Policy::none());
                let url = format!("{base}/{action}");
                let method = method.parse().unwrap();
                let mut request = client.build().unwrap().request(method, url);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let response = request.body(form.unwrap_or_default()).send().await.unwrap();
                for cookie in response.headers().get_all("set-cookie") {
                    browser.receive(cookie.to_str().unwrap());
                }
                let status = response.status().as_u16().into();
                (status, response.text().await.unwrap())
            }
            Self::Core(packages, secret) => {
                let headers: BTreeMap<_, _> = headers.into();
                let response = packages
                    .run(json!({
                        "action": "request", "secret": secret, "method": method, "body": form,
                        "url": format!("http://127.0.0.1/auth/{action}"), "headers": headers,
                    }))
                    .await
                    .unwrap();
                browser.receive_from(&response);
                let body = response["body"].as_str().unwrap().to_owned();
                (response["status"].as_u64().unwrap(), body)
            }
        }
    }
}

/// The cookies of one user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Browser {
    cookies: BTreeMap<String, String>,
    /// The last `Set-Cookie` header for each name.
    set_cookies: BTreeMap<String, String>,
}

impl Browser {
    /// Creates a browser that received these `Set-Cookie` headers.
    pub(crate) fn with_cookies(headers: &[String]) -> Self {
        let mut browser = Self::default();
        for header in headers {
            browser.receive(header);
        }
        browser
    }

    /// Stores the cookie of a `Set-Cookie` header.
    pub(crate) fn receive(&mut self, header: &str) {
        let pair = header.split(';').next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        self.set_cookies.insert(name.to_owned(), header.to_owned());
        if value.is_empty() {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Stores the cookies of a response that a script has printed.
    pub(crate) fn receive_from(&mut self, response: &Value) {
        for header in response["headers"].as_array().unwrap() {
            if header[0] == "set-cookie" {
                self.receive(header[1].as_str().unwrap());
            }
        }
    }

    /// Returns the `Cookie` header that the browser sends.
    pub(crate) fn header(&self) -> String {
        let pairs = self.cookies.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("; ")
    }

    /// Returns the last `Set-Cookie` header for a cookie.
    pub(crate) fn set_cookie_header(&self, name: &str) -> &str {
        &self.set_cookies[name]
    }

    /// Returns the values of the cookies whose names contain `part`.
    pub(crate) fn cookies_named(&self, part: &str) -> Vec<&str> {
        let named = self.cookies.iter().filter(|(name, _)| name.contains(part));
        named.map(|(_, value)| value.as_str()).collect()
    }
}
