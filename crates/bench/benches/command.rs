//! What `secretwell run` adds to the program that it starts, as whole processes: from variables, from files,
//! and from an OpenBao on this machine, beside `bao agent` and a shell script with curl that do the same.
//!
//! Wants `cargo build --release --package secretwell-cli`, and the server of `cargo xtask test vault`.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";

fn commands(criterion: &mut Criterion) {
    let folder = std::env::temp_dir().join(format!("secretwell-bench-{}", std::process::id()));
    let secrets = folder.join("secrets");
    fs::create_dir_all(&secrets).expect("a folder");
    fs::write(secrets.join("AUTH_SECRET"), SECRET).expect("a secret");
    let from_files = format!("file://{}", secrets.display());

    let mut group = criterion.benchmark_group("command");
    group
        .sample_size(50)
        .measurement_time(Duration::from_secs(5));
    let mut time = |name: &str, command: &dyn Fn() -> Command| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| succeed(command()));
        });
    };
    time("true", &|| Command::new("true"));
    time("secretwell, env", &|| secretwell("env://"));
    time("secretwell, file", &|| secretwell(&from_files));
    if let Some(server) = Server::start(&folder) {
        let from_vault = format!("vault+http://{}/secret/app?kv=2", server.address);
        time("secretwell, vault", &|| {
            let mut command = secretwell(&from_vault);
            command.env("VAULT_TOKEN", "root");
            command
        });
        time("curl and jq", &|| {
            let mut command = Command::new("sh");
            command.args(["-c", SCRIPT, "sh", &server.address]);
            command
        });
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(25));
        let agent = server.agent(&folder);
        group.bench_function("bao agent", |bencher| {
            bencher.iter(|| {
                let mut command = Command::new(bao());
                command.arg("agent").arg("-config").arg(&agent);
                succeed(command);
            });
        });
    }
    group.finish();
    let _ = fs::remove_dir_all(folder);
}

/// What people write by hand.
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

fn succeed(mut command: Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?}");
}

/// An OpenBao with the secret.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(folder: &Path) -> Option<Self> {
        if !bao().exists() {
            println!("without OpenBao: `cargo xtask test vault` installs it");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let process = Command::new(bao())
            .args(["server", "-dev", "-dev-root-token-id=root"])
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("OpenBao");
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
        succeed(shell);
        Some(server)
    }

    /// The configuration of an agent that starts `true` with the secret.
    fn agent(&self, folder: &Path) -> PathBuf {
        let (file, token) = (folder.join("agent.hcl"), folder.join("token"));
        fs::write(&token, "root").expect("a token");
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
        fs::write(&file, configuration).expect("a configuration");
        file
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

criterion_group!(benches, commands);
criterion_main!(benches);
