//! Benchmarks of `secretwell run`: how much time it adds to the program that it starts.
//!
//! Whole processes are measured. The secrets come from variables, from files, or from an OpenBao server on
//! this machine. `bao agent` and a shell script with curl and jq do the same for comparison.
//!
//! `cargo xtask bench command` builds the command and installs OpenBao first.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use secretwell_bench::clock::wall_time;
use secretwell_bench::turns::{Turns, Unit};

const ROUNDS: usize = 60;
const AGENT_ROUNDS: usize = 5;
const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";

fn main() {
    let folder = std::env::temp_dir().join(format!("secretwell-bench-{}", std::process::id()));
    let secrets = folder.join("secrets");
    fs::create_dir_all(&secrets).expect("the folder is created");
    fs::write(secrets.join("AUTH_SECRET"), SECRET).expect("the secret is written");
    let from_files = format!("file://{}", secrets.display());
    let server = Server::start(&folder);

    let mut turns = Turns::new(ROUNDS, Duration::ZERO);
    add(&mut turns, "true", || Command::new("true"));
    add(&mut turns, "secretwell_env", || secretwell("env://"));
    add(&mut turns, "secretwell_file", || secretwell(&from_files));
    if let Some(server) = &server {
        let from_vault = format!("vault+http://{}/secret/app?kv=2", server.address);
        add(&mut turns, "secretwell_vault", move || {
            let mut command = secretwell(&from_vault);
            command.env("VAULT_TOKEN", "root");
            command
        });
        add(&mut turns, "curl_and_jq", || {
            let mut command = Command::new("sh");
            command.args(["-c", SCRIPT, "sh", &server.address]);
            command
        });
    }
    turns.measure().report("command", Unit::Milliseconds);
    if let Some(server) = &server {
        let agent = server.agent(&folder);
        // It takes seconds, so it has no turns.
        let mut turns = Turns::new(AGENT_ROUNDS, Duration::ZERO);
        add(&mut turns, "bao_agent", || {
            let mut command = Command::new(bao());
            command.arg("agent").arg("-config").arg(&agent);
            command
        });
        turns.measure().report("command", Unit::Milliseconds);
    }
    let _ = fs::remove_dir_all(folder);
}

/// Adds a command, of which each batch is one process.
fn add<'a>(turns: &mut Turns<'a>, name: &str, command: impl Fn() -> Command + 'a) {
    turns.add(name, move |calls| {
        wall_time(calls, || run_to_success(command()))
    });
}

/// A handwritten script that reads one secret with curl and jq, and starts `true` with it.
const SCRIPT: &str = "
    AUTH_SECRET=$(curl -s -H 'X-Vault-Token: root' http://$1/v1/secret/data/app | jq -r .data.data.AUTH_SECRET)
    export AUTH_SECRET
    test -n \"$AUTH_SECRET\" && exec true";

fn secretwell(from: &str) -> Command {
    let mut command = Command::new(target().join("release/secretwell"));
    command.args(["run", "--from", from, "--", "true"]);
    command
}

fn bao() -> PathBuf {
    target().join("tools/bao")
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

fn run_to_success(mut command: Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?}");
}

/// An OpenBao server that stores the secret, stopped on drop.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(folder: &Path) -> Option<Self> {
        if !bao().exists() {
            println!("OpenBao is not installed: run `cargo xtask bench command`");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener
            .local_addr()
            .expect("the address is known")
            .to_string();
        drop(listener);
        let process = Command::new(bao())
            .args(["server", "-dev", "-dev-root-token-id=root"])
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("OpenBao starts");
        let server = Self { process, address };
        let write = format!(
            "for i in $(seq 100); do
                curl -sf -H 'X-Vault-Token: root' -d '{{\"data\": {{\"AUTH_SECRET\": \"{SECRET}\"}}}}' \
                    http://{}/v1/secret/data/app && exit 0; sleep 0.1
            done; exit 1",
            server.address
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &write]);
        run_to_success(shell);
        Some(server)
    }

    /// Writes the configuration of an agent that starts `true` with the secret, and returns its path.
    fn agent(&self, folder: &Path) -> PathBuf {
        let (file, token) = (folder.join("agent.hcl"), folder.join("token"));
        fs::write(&token, "root").expect("the token file is written");
        let configuration = format!(
            r#"
            vault {{ address = "http://{}" }}
            auto_auth {{
              method {{
                type = "token_file"
                config = {{ token_file_path = "{}" }}
              }}
            }}
            env_template "AUTH_SECRET" {{
              contents = "{{{{ with secret \"secret/data/app\" }}}}{{{{ .Data.data.AUTH_SECRET }}}}{{{{ end }}}}"
              error_on_missing_key = true
            }}
            exec {{ command = ["true"] }}
            "#,
            self.address,
            token.display(),
        );
        fs::write(&file, configuration).expect("the configuration file is written");
        file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
