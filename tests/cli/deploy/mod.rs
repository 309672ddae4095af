//! The files of `docs/deploy`, run as far as a machine without containers and clusters can run them.

mod actions;
mod compose;
mod docker;
mod kubernetes;
mod procfile;
mod systemd;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Output, Stdio};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{binary, secretwell, text};
use crate::support::tool;
use crate::vault::server::{Bao, ROOT, unique};

const STRONG: &str = "6vN1pXq0bT9sYwZ3fKdL8hRj2cGm5uEa";
const ROTATED: &str = "Qz4kWn7tB1yHs9xVd3Lf6pJc0gRm8eUa";

/// Returns the path of a file or directory of `docs/deploy`.
fn path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/deploy");
    folder.canonicalize().unwrap().join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// Parses all documents of a YAML file.
fn yaml(name: &str) -> Vec<Value> {
    let script = "import json, sys, yaml
print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = StdCommand::new(tool("yaml/bin/python"))
        .args(["-c", script])
        .arg(path(name))
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the strings of a JSON list.
fn strings(list: &Value) -> Vec<String> {
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("not a list: {list}"));
    list.iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// Prints why a test does not run. The output of `println!` is hidden for a test that passes.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Returns the value of an option of a command line.
fn option<'a>(line: &'a [String], name: &str) -> Option<&'a str> {
    let index = line.iter().position(|word| word == name)?;
    line.get(index + 1).map(String::as_str)
}

/// Removes an option and its value from a command line.
fn remove_option(line: &mut Vec<String>, name: &str) {
    if let Some(index) = line.iter().position(|word| word == name) {
        line.drain(index..index + 2);
    }
}

/// Adds options after the name of the subcommand.
fn add_options(line: &mut Vec<String>, options: &[&str]) {
    line.splice(2..2, options.iter().map(|option| (*option).to_owned()));
}

/// Returns the command `secretwell` for a command line whose first word is its name.
fn command(line: &[String]) -> Command {
    assert!(line[0].ends_with("secretwell"), "{line:?}");
    let mut command = Command::from(secretwell(&line[1..]));
    command.current_dir(path("docker"));
    command
}

/// A process that starts the server of the guide, `docker/server.js`.
struct Server {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Waits until the server has been started once more. Returns its port.
    async fn port(&mut self) -> u16 {
        let line = timeout(Duration::from_secs(60), self.lines.next_line()).await;
        let line = line.unwrap().unwrap().expect("the server must not exit");
        let port = line.strip_prefix("listening on port ").expect(&line);
        port.parse().unwrap()
    }

    /// Waits for a start, and checks that the server uses this secret.
    async fn assert_signs_with(&mut self, secret: &str) {
        let port = self.port().await;
        assert_eq!(get(port, "/ready").await, "ok\n");
        assert_eq!(get(port, "/orders").await, sign(secret, "/orders"));
    }

    /// Sends TERM, as every platform does, and waits for the exit.
    async fn terminate(mut self) -> ExitStatus {
        terminate(&self.process.id().unwrap().to_string());
        let exit = timeout(Duration::from_secs(60), self.process.wait());
        exit.await.unwrap().unwrap()
    }
}

fn terminate(pid: &str) {
    let status = StdCommand::new("sh")
        .args(["-c", "kill -s TERM \"$0\"", pid])
        .status();
    assert!(status.unwrap().success());
}

async fn get(port: u16, target: &str) -> String {
    let response = reqwest::get(format!("http://127.0.0.1:{port}{target}")).await;
    response.unwrap().text().await.unwrap()
}

fn sign(secret: &str, path: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(path.as_bytes());
    let bytes = mac.finalize().into_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex + "\n"
}

/// Runs a setup script of the guide as an administrator of this server. OpenBao has the same command line as Vault.
fn set_up(bao: &Bao, script: &str, variable: (&str, &str), arguments: &[String]) {
    let programs = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(tool("bao"), programs.path().join("vault")).unwrap();
    let search_path = format!("{}:/usr/bin:/bin", programs.path().display());
    // The second run must not fail because everything exists.
    for _ in 0..2 {
        let output = StdCommand::new("sh")
            .arg(path(script))
            .args(arguments)
            .env_clear()
            .envs([
                ("PATH", &*search_path),
                ("HOME", programs.path().to_str().unwrap()),
                ("VAULT_ADDR", &format!("http://{}", bao.address)),
                ("VAULT_TOKEN", ROOT),
                variable,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

/// An AppRole whose policy allows reading the secret `app` of a mount, and nothing else.
struct AppRole {
    bao: &'static Bao,
    /// The name of the mount, of the policy and of the login method.
    name: String,
    role_id: String,
    secret_id: String,
}

impl AppRole {
    async fn new(bao: &'static Bao) -> Self {
        let name = unique("deploy");
        bao.mount(&name, 2).await;
        let rules =
            read("kubernetes/policy.hcl").replace("secret/data/app", &format!("{name}/data/app"));
        bao.policy(&name, &rules).await;
        bao.root(
            "POST",
            &format!("sys/auth/{name}"),
            json!({"type": "approle"}),
        )
        .await;
        let role = format!("auth/{name}/role/app");
        bao.root("POST", &role, json!({"token_policies": [name]}))
            .await;
        let role_id = bao
            .root("GET", &format!("{role}/role-id"), Value::Null)
            .await;
        let secret_id = bao
            .root("POST", &format!("{role}/secret-id"), json!({}))
            .await;
        let text =
            |response: &Value, name: &str| response["data"][name].as_str().unwrap().to_owned();
        Self {
            bao,
            role_id: text(&role_id, "role_id"),
            secret_id: text(&secret_id, "secret_id"),
            name,
        }
    }

    fn url(&self) -> String {
        let Self { bao, name, .. } = self;
        format!(
            "vault+http://{}/{name}/app?auth=approle&auth_mount={name}",
            bao.address
        )
    }

    async fn write(&self, secret: &str) {
        write(
            self.bao,
            &format!("{}/data/app", self.name),
            json!({"AUTH_SECRET": secret}),
        )
        .await;
    }
}

async fn write(bao: &Bao, path: &str, data: Value) {
    bao.root("POST", path, json!({"data": data})).await;
}

/// Returns all command lines of `secretwell` in a text: in code of Markdown, and in each kind of file of the guides.
fn command_lines(file: &str, content: &str) -> Vec<Vec<String>> {
    const PREFIXES: [&str; 6] = [
        "ExecStart=/usr/local/bin/",
        "release: ",
        "web: ",
        "run: ",
        "command: ",
        "entrypoint: ",
    ];
    let mut in_code = !file.ends_with(".md");
    let content = content.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in content.lines().map(str::trim) {
        if line.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        if let Some(list) = line.strip_prefix("ENTRYPOINT ") {
            found.push(strings(&serde_json::from_str(list).unwrap()));
            continue;
        }
        let line = PREFIXES
            .iter()
            .find_map(|prefix| line.strip_prefix(prefix))
            .unwrap_or(line);
        let line = line.strip_prefix("exec ").unwrap_or(line);
        if let Some(list) = line.strip_prefix("[secretwell, ") {
            let list = list.strip_suffix(']').unwrap();
            let words = list.split(", ").map(str::to_owned);
            found.push(
                std::iter::once("secretwell".to_owned())
                    .chain(words)
                    .collect(),
            );
        } else if in_code && line.starts_with("secretwell ") {
            found.push(words(line));
        }
    }
    found
}

/// Splits a line as a shell does. The guides use no quotes inside of a word, and no expansions.
fn words(line: &str) -> Vec<String> {
    assert!(!line.contains(['"', '$', '\\']), "{line}");
    let words = line.split_whitespace();
    words
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

/// Returns the text files below `docs/deploy`, by their names relative to it.
fn files() -> Vec<String> {
    fn collect(folder: &Path, files: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_dir() {
                collect(&entry, files);
            } else {
                let name = entry.strip_prefix(path("")).unwrap();
                files.push(name.to_str().unwrap().to_owned());
            }
        }
    }
    let mut files = Vec::new();
    collect(&path(""), &mut files);
    files
}

/// Runs a command line with a source that does not exist. It fails after its options are accepted.
fn run_without_source(line: &[String]) -> Output {
    let mut arguments = line[1..].to_vec();
    remove_option(&mut arguments, "--from");
    if arguments.last().is_some_and(|word| word == "--") {
        arguments.push("true".into());
    }
    let empty = tempfile::tempdir().unwrap();
    secretwell(arguments)
        .current_dir(empty.path())
        .env("SECRETWELL_FROM", "nowhere://source")
        .output()
        .unwrap()
}

#[test]
fn each_command_line_of_the_guides_is_accepted() {
    let mut count = 0;
    for file in files() {
        for line in command_lines(&file, &read(&file)) {
            count += 1;
            let output = run_without_source(&line);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{file}: {line:?}: {stderr}");
            assert!(
                stderr.contains("unknown scheme"),
                "{file}: {line:?}: {stderr}"
            );
        }
    }
    assert!(count >= 12, "only {count} command lines were found");
    let mistyped = words("secretwell run --wach -- true");
    assert_eq!(run_without_source(&mistyped).status.code(), Some(64));
}

#[test]
fn shell_scripts_of_the_guides_are_valid() {
    let scripts: Vec<String> = files()
        .into_iter()
        .filter(|file| file.ends_with(".sh"))
        .collect();
    assert_eq!(scripts.len(), 2, "{scripts:?}");
    for script in scripts {
        let output = StdCommand::new("sh")
            .arg("-n")
            .arg(path(&script))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{script}: {}",
            text(&output.stderr)
        );
        // Without its variable, a script fails before it changes anything.
        let output = StdCommand::new("sh")
            .arg(path(&script))
            .env_clear()
            .output()
            .unwrap();
        assert!(text(&output.stderr).contains("must be"), "{script}");
        assert!(!output.status.success(), "{script}");
    }
}

/// Parses the shell commands of each page, without running them.
#[test]
fn shell_commands_of_the_pages_are_valid() {
    let mut count = 0;
    for page in files().iter().filter(|file| file.ends_with(".md")) {
        let content = read(page);
        for block in content.split("```sh\n").skip(1) {
            let (script, _) = block.split_once("```").unwrap();
            let output = StdCommand::new("sh").args(["-n", "-c", script]).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{page}: {}", text(&output.stderr));
            count += 1;
        }
    }
    assert!(count >= 4, "only {count} blocks were found");
}

/// Each version in the guides is the one of this workspace.
#[test]
fn guides_install_the_version_of_the_workspace() {
    let version = env!("CARGO_PKG_VERSION");
    let mut count = 0;
    for file in files() {
        for line in read(&file).lines() {
            for marker in ["SECRETWELL_VERSION=", "--version ", "key: secretwell-"] {
                if let Some((_, rest)) = line.split_once(marker)
                    && !rest.starts_with('"')
                {
                    assert!(rest.starts_with(version), "{file}: {line}");
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 4, "only {count} versions were found");
}
