//! The JavaScript programs of `docs/guides/better-auth.md`, taken from its text, and the processes that run them.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::authjs::site::{Browser, collect};
use crate::support::tool;

const GUIDE: &str = include_str!("../../docs/guides/better-auth.md");

/// A project with the files of the guide, beside the installed packages.
pub(super) struct Project(TempDir);

impl Project {
    /// Creates a project with all files of the guide.
    pub(super) fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("betterauth-")
            .tempdir_in(tool("clients"))
            .unwrap();
        let project = Self(directory);
        project.write("package.json", r#"{"type": "module"}"#);
        for (name, text) in files() {
            project.write(name, &text);
        }
        project
    }

    /// Creates a project that loads its secrets from this file instead of `infisical.js`.
    pub(super) fn with_source(file: &str) -> Self {
        let project = Self::new();
        project.replace("secret.js", "./infisical.js", &format!("./{file}"));
        project
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces a part of a file, which must contain it.
    pub(super) fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} must contain {from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Adds a server that handles its requests with another module than `auth.js`.
    pub(super) fn add_server(&self, file: &str, handler: &str) {
        let server = fs::read_to_string(self.path().join("server.js")).unwrap();
        assert!(server.contains("./auth.js"));
        self.write(file, &server.replace("./auth.js", handler));
    }

    /// Makes a package available under another name.
    pub(super) fn alias(&self, name: &str, package: &str) {
        let modules = self.path().join("node_modules");
        fs::create_dir_all(&modules).unwrap();
        let package = tool("clients/node_modules").join(package);
        std::os::unix::fs::symlink(package, modules.join(name)).unwrap();
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs a program of this project to its end. Returns its status, and its output with its errors.
    pub(super) async fn run(&self, file: &str, variables: &[(&str, &str)]) -> (ExitStatus, String) {
        let mut command = Command::new("node");
        command.arg(file).current_dir(self.path());
        let output = command
            .env_remove("NODE_ENV")
            .envs(variables.iter().copied())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8(text).unwrap())
    }
}

/// Returns the JavaScript files of the guide. The first line of each block is a comment with the name.
fn files() -> impl Iterator<Item = (&'static str, String)> {
    GUIDE.split("```js\n").skip(1).map(|block| {
        let (text, _) = block.split_once("\n```").unwrap();
        let name = text.lines().next().unwrap().strip_prefix("// ").unwrap();
        (name, format!("{text}\n"))
    })
}

/// Returns the text of a file of the guide.
pub(super) fn block(file: &str) -> String {
    let found = files().find(|(name, _)| *name == file);
    found.unwrap().1
}

/// Repeats a check of another process until it holds, for at most a minute.
pub(super) async fn until(mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !check().await {
        assert!(Instant::now() < deadline, "the check does not hold");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A running server of a project.
pub(super) struct Server {
    process: Child,
    pub(super) address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts `node FILE` in a project with `NODE_ENV`, and waits until it listens.
    pub(super) async fn start<V: AsRef<str>>(
        project: &Project,
        file: &str,
        mode: &str,
        variables: &[(&str, V)],
    ) -> Self {
        Self::start_by(Command::new("node"), project, file, mode, variables).await
    }

    /// Like [`start`](Self::start), with a command that runs node.
    pub(super) async fn start_by<V: AsRef<str>>(
        mut command: Command,
        project: &Project,
        file: &str,
        mode: &str,
        variables: &[(&str, V)],
    ) -> Self {
        command
            .arg(project.path().join(file))
            .env("PORT", "0")
            .env("NODE_ENV", mode);
        for (name, value) in variables {
            command.env(name, value.as_ref());
        }
        let (server, port) =
            Self::spawn(command, |line| Some(line.strip_prefix("port ")?.to_owned())).await;
        server.at(&format!("http://127.0.0.1:{port}"))
    }

    /// Spawns a command, and waits for a line of its output from which `address` takes the address.
    pub(super) async fn spawn(
        mut command: Command,
        address: impl Fn(&str) -> Option<String>,
    ) -> (Self, String) {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::default());
        let errors = BufReader::new(process.stderr.take().unwrap()).lines();
        tokio::spawn(collect(errors, log.clone()));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let found = loop {
            let line = lines.next_line().await.unwrap();
            let Some(line) = line else {
                panic!("the server exited: {}", log.lock().unwrap());
            };
            if let Some(found) = address(&line) {
                break found;
            }
        };
        tokio::spawn(collect(lines, log.clone()));
        let server = Self {
            process,
            address: String::new(),
            log,
        };
        (server, found)
    }

    pub(super) fn at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// Returns its output until now.
    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends a request to a route of Better Auth, and stores the cookies of the response. Returns the status and
    /// the body.
    pub(super) async fn send(
        &self,
        browser: &mut Browser,
        route: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        self.send_to(browser, &format!("/api/auth/{route}"), body)
            .await
    }

    pub(super) async fn send_to(
        &self,
        browser: &mut Browser,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.address);
        let request = match &body {
            Some(body) => Client::new().post(url).json(body),
            None => Client::new().get(url),
        };
        let request = request
            .header("origin", "http://localhost:3000")
            .header("cookie", browser.header());
        let request = request.timeout(Duration::from_secs(60));
        let response = request.send().await;
        let response = response.unwrap_or_else(|error| panic!("{error:?} {}", self.log()));
        for cookie in response.headers().get_all("set-cookie") {
            browser.receive(cookie.to_str().unwrap());
        }
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(json!(text)))
    }

    /// Signs up a user.
    pub(super) async fn sign_up(&self, name: &str) -> Browser {
        let mut browser = Browser::default();
        let user = json!({"name": name, "email": format!("{name}@example.test"), "password": "a password"});
        let (status, body) = self.send(&mut browser, "sign-up/email", Some(user)).await;
        assert_eq!(status, 200, "{body} {}", self.log());
        browser
    }

    /// Returns the name of the user who is logged in, and stores the cookies of the response.
    pub(super) async fn name(&self, browser: &mut Browser) -> Option<String> {
        let (status, body) = self.send(browser, "get-session", None).await;
        assert_eq!(status, 200, "{body} {}", self.log());
        body["user"]["name"].as_str().map(str::to_owned)
    }

    /// Returns the status of a request without a session.
    pub(super) async fn status(&self) -> u16 {
        self.send(&mut Browser::default(), "get-session", None)
            .await
            .0
    }
}

/// Ends the processes that a server has started as well, such as the one of `next dev`.
impl Drop for Server {
    fn drop(&mut self) {
        if let Some(id) = self.process.id() {
            let group = format!("-{id}");
            let kill = std::process::Command::new("kill")
                .args(["-KILL", "--", &group])
                .status();
            assert!(kill.is_ok());
        }
    }
}
