//! The packages at work: in a process that does with them what it is asked, and in an application of
//! Next.js. Both end with what stands for them here.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex as StdMutex};

use reqwest::{Client, redirect};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::support::tool;

/// A process with the packages, `tests/clients/authjs.mjs`.
pub(crate) struct Packages {
    _process: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

impl Packages {
    pub(super) fn start() -> Self {
        let mut process = Command::new("node")
            .arg(tool("clients/authjs.mjs"))
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

    /// What comes of an action: a value, or why there is none.
    pub(super) async fn ask(&self, question: Value) -> Result<Value, String> {
        let mut pipes = self.pipes.lock().await;
        let (input, output) = &mut *pipes;
        let line = format!("{question}\n");
        input.write_all(line.as_bytes()).await.unwrap();
        let answer = output.next_line().await.unwrap();
        let mut answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
        match &answer["error"] {
            Value::String(error) => Err(error.clone()),
            _ => Ok(answer["value"].take()),
        }
    }
}

/// An application of Next.js in production, `tests/clients/app`.
pub(crate) struct Application {
    _process: Child,
    address: String,
    log: Arc<StdMutex<String>>,
}

impl Application {
    /// Starts it with these variables, and waits until it listens.
    pub(super) async fn start<N: AsRef<str>>(variables: &[(N, String)]) -> Self {
        Self::start_by(Command::new("node"), variables).await
    }

    /// The same by a command that runs node.
    pub(crate) async fn start_by<N: AsRef<str>>(
        mut command: Command,
        variables: &[(N, String)],
    ) -> Self {
        let home = tool("clients");
        command
            .arg("--max-http-header-size=100000")
            .arg(home.join("node_modules/next/dist/bin/next"))
            .args(["start", "--hostname", "127.0.0.1", "--port", "0"])
            .arg(home)
            .env_remove("AUTH_SECRET")
            .env("NEXT_TELEMETRY_DISABLED", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, value) in variables {
            command.env(name.as_ref(), value);
        }
        let mut process = command.spawn().unwrap();
        let log = Arc::new(StdMutex::default());
        let errors = BufReader::new(process.stderr.take().unwrap()).lines();
        tokio::spawn(keep(errors, log.clone()));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.expect("it ends before it listens");
            if let Some((_, address)) = line.split_once("Local:") {
                break address.trim().to_owned();
            }
        };
        while let Some(line) = lines.next_line().await.unwrap()
            && !line.contains("Ready")
        {}
        tokio::spawn(keep(lines, log.clone()));
        Self {
            _process: process,
            address,
            log,
        }
    }

    /// One of its routes, such as `eager/v5`.
    pub(crate) fn site(&self, route: &str) -> Site<'static> {
        Site::Served(format!("{}/{route}", self.address))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

async fn keep(
    mut lines: Lines<BufReader<impl tokio::io::AsyncRead + Unpin>>,
    log: Arc<StdMutex<String>>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        *log.lock().unwrap() += &format!("{line}\n");
    }
}

/// Where people log in.
pub(crate) enum Site<'a> {
    /// A server's address.
    Served(String),
    /// `@auth/core` alone, with its secrets, the first of which encrypts.
    Core(&'a Packages, Value),
}

/// An answer: its status, and its body.
pub(crate) type PageResponse = (u64, String);

impl Site<'_> {
    pub(crate) async fn get(&self, browser: &mut Browser, action: &str) -> PageResponse {
        self.ask(browser, action, None).await
    }

    /// Logs in by a name, with this CSRF token.
    pub(super) async fn post_name(
        &self,
        browser: &mut Browser,
        csrf: &str,
        name: &str,
    ) -> PageResponse {
        let form = format!("csrfToken={csrf}&name={name}&json=true");
        self.ask(browser, "callback/credentials", Some(form)).await
    }

    /// Logs in by a name, as a page of the site does.
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

    /// Who is logged in; the browser stays as it is.
    pub(crate) async fn name(&self, browser: &Browser) -> Option<String> {
        let (status, body) = self.get(&mut browser.clone(), "session").await;
        assert_eq!(status, 200, "{body}");
        let session: Value = serde_json::from_str(&body).unwrap();
        session["user"]["name"].as_str().map(str::to_owned)
    }

    async fn ask(&self, browser: &mut Browser, action: &str, form: Option<String>) -> PageResponse {
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
                let answer = request.body(form.unwrap_or_default()).send().await.unwrap();
                for cookie in answer.headers().get_all("set-cookie") {
                    browser.take(cookie.to_str().unwrap());
                }
                let status = answer.status().as_u16().into();
                (status, answer.text().await.unwrap())
            }
            Self::Core(packages, secret) => {
                let headers: BTreeMap<_, _> = headers.into();
                let answer = packages
                    .ask(json!({
                        "action": "request", "secret": secret, "method": method, "body": form,
                        "url": format!("http://127.0.0.1/auth/{action}"), "headers": headers,
                    }))
                    .await
                    .unwrap();
                for header in answer["headers"].as_array().unwrap() {
                    if header[0] == "set-cookie" {
                        browser.take(header[1].as_str().unwrap());
                    }
                }
                let body = answer["body"].as_str().unwrap().to_owned();
                (answer["status"].as_u64().unwrap(), body)
            }
        }
    }
}

/// Somebody's cookies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Browser {
    cookies: BTreeMap<String, String>,
    /// By which header each was set last.
    headers: BTreeMap<String, String>,
}

impl Browser {
    /// One that was sent these `Set-Cookie` headers.
    pub(super) fn sent(headers: &[String]) -> Self {
        let mut browser = Self::default();
        for header in headers {
            browser.take(header);
        }
        browser
    }

    pub(super) fn take(&mut self, header: &str) {
        let pair = header.split(';').next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        self.headers.insert(name.to_owned(), header.to_owned());
        if value.is_empty() {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }

    /// What it sends.
    pub(super) fn header(&self) -> String {
        let pairs = self.cookies.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("; ")
    }

    /// The `Set-Cookie` header that it has a cookie by.
    pub(super) fn header_of(&self, name: &str) -> &str {
        &self.headers[name]
    }

    /// The cookies whose names have this in them.
    pub(super) fn cookies_named(&self, part: &str) -> Vec<&str> {
        let named = self.cookies.iter().filter(|(name, _)| name.contains(part));
        named.map(|(_, value)| value.as_str()).collect()
    }
}
