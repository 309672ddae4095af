//! `docs/deploy/docker`: the image, and the static binary in an empty root directory.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::super::{Secrets, binary, text};
use super::{
    ROTATED, STRONG, Server, add_options, command, path, read, remove_option, skip, strings,
    terminate, write,
};
use crate::vault::server::Bao;
use crate::vault::tls::Authority;

/// Returns the instructions of the Dockerfile and their arguments.
fn instructions() -> Vec<(String, String)> {
    let content = read("docker/Dockerfile");
    let lines = content.lines().filter(|line| !line.starts_with('#'));
    let content = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = content.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(name, arguments)| (name.to_owned(), arguments.trim().to_owned()))
        .collect()
}

fn arguments(instruction: &str) -> Vec<String> {
    let found = instructions()
        .into_iter()
        .filter(|(name, _)| name == instruction);
    found.map(|(_, arguments)| arguments).collect()
}

/// Returns the words of `ENTRYPOINT`, followed by those of `CMD`.
fn entry_point() -> (Vec<String>, Vec<String>) {
    let parse = |name| {
        let all = arguments(name);
        assert_eq!(all.len(), 1, "{name}");
        strings(&serde_json::from_str(&all[0]).unwrap())
    };
    (parse("ENTRYPOINT"), parse("CMD"))
}

#[test]
fn dockerfile_refers_to_existing_stages_and_files() {
    let known = [
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "RUN",
        "USER",
        "WORKDIR",
    ];
    for (name, _) in instructions() {
        assert!(known.contains(&&*name), "{name}");
    }
    let froms = arguments("FROM");
    let stages: Vec<&str> = froms
        .iter()
        .filter_map(|from| Some(from.split_once(" AS ")?.1))
        .collect();
    assert_eq!(stages, ["gnu", "musl", "command"]);
    let builder = arguments("ARG").into_iter().find_map(|argument| {
        let default = argument.strip_prefix("BUILDER=")?;
        Some(default.to_owned())
    });
    assert!(stages.contains(&&*builder.unwrap()));
    assert!(froms.contains(&"${BUILDER} AS command".to_owned()));
    let ignore = read("docker/.dockerignore");
    assert!(ignore.lines().any(|line| line == "*"));
    for copy in arguments("COPY") {
        let words: Vec<&str> = copy.split_whitespace().collect();
        if let Some(stage) = words[0].strip_prefix("--from=") {
            assert!(stages.contains(&stage), "{copy}");
        } else {
            assert!(path("docker").join(words[0]).is_file(), "{copy}");
            let entry = format!("!{}", words[0]);
            assert!(ignore.lines().any(|line| line == entry), "{copy}");
        }
    }
    // Variables of an image are readable for everyone who has the image.
    let environment = arguments("ENV").join(" ");
    assert!(!environment.contains("SECRET") && !environment.contains("TOKEN"));
    assert_ne!(arguments("USER"), [] as [String; 0]);
}

#[test]
fn image_builds_the_command_as_the_tests_do() {
    let toolchain = include_str!("../../../rust-toolchain.toml");
    for from in arguments("FROM") {
        if let Some(version) = from.strip_prefix("rust:") {
            let (version, _) = version.split_once('-').unwrap();
            assert!(
                toolchain.contains(&format!("channel = \"{version}.")),
                "{from}"
            );
        }
    }
    let install = include_str!("../../../crates/xtask/src/install.rs");
    let flag = "-C target-feature=+crt-static";
    assert!(install.contains(flag));
    let runs = arguments("RUN");
    assert!(
        runs[0].contains(&format!("RUSTFLAGS=\"{flag}\"")),
        "{runs:?}"
    );
}

#[tokio::test]
async fn entry_point_restarts_the_server_on_rotation_and_exits_on_term() {
    let secrets = Secrets::new(&[("AUTH_SECRET", STRONG)]);
    let (entry_point, program) = entry_point();
    let mut run = command(&[entry_point, program].concat());
    run.env("SECRETWELL_FROM", secrets.url());
    let mut server = Server::start(run);
    server.assert_signs_with(STRONG).await;
    secrets.write("AUTH_SECRET", ROTATED.as_bytes());
    server.assert_signs_with(ROTATED).await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn image_without_a_source_fails_at_once() {
    let (entry_point, program) = entry_point();
    let output = command(&[entry_point, program].concat())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("no source is configured"));
    assert_eq!(text(&output.stdout), "");
}

/// Returns the path of the static binary, which `cargo xtask test cli` builds.
fn static_binary() -> PathBuf {
    let target = binary().ancestors().nth(2).unwrap().to_owned();
    let binary = target.join("static/secretwell");
    assert!(
        binary.exists(),
        "{} does not exist: run `cargo xtask test cli`",
        binary.display()
    );
    binary
}

/// A root directory that contains the static binary, and nothing else. The processes in it have process IDs of their
/// own, as in a container, so the command is the first process.
struct EmptyRoot(TempDir);

impl EmptyRoot {
    /// Returns `None` and prints the reason if this user must not change the root directory.
    fn new() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        for folder in ["proc", "etc", "run/secrets", "usr/local/bin"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let program = root.path().join("usr/local/bin/secretwell");
        std::fs::copy(static_binary(), program).unwrap();
        let root = Self(root);
        let version = ["secretwell", "--version"].map(str::to_owned);
        let Ok(output) = root.command(&version).output() else {
            skip(
                "the static binary in an empty root directory, because `unshare` is not installed",
            );
            return None;
        };
        let stderr = text(&output.stderr);
        if stderr.contains("ermitted") || stderr.contains("denied") {
            skip(&format!(
                "the static binary in an empty root directory: {}",
                stderr.trim()
            ));
            return None;
        }
        assert!(output.status.success(), "{stderr}");
        Some(root)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.0.path().join(name), content).unwrap();
    }

    fn command(&self, line: &[String]) -> StdCommand {
        let enter = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
        let mut command = StdCommand::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--",
                "sh",
                "-c",
                enter,
            ])
            .arg(self.0.path())
            .args(line)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// Returns a command line of the static binary. It prints the secret that the program gets.
fn print_secret() -> Vec<String> {
    let words = ["secretwell", "get", "AUTH_SECRET", "--from", "env://"];
    words.map(str::to_owned).to_vec()
}

#[test]
fn static_binary_is_the_first_process_in_an_empty_root() {
    let Some(root) = EmptyRoot::new() else {
        return;
    };
    root.write("run/secrets/AUTH_SECRET", STRONG);
    let (supervised, _) = entry_point();
    let replaced: Vec<String> = supervised
        .iter()
        .filter(|word| *word != "--watch")
        .cloned()
        .collect();
    for entry_point in [supervised, replaced] {
        let mut run = root.command(&[entry_point.clone(), print_secret()].concat());
        let output = run
            .env("SECRETWELL_FROM", "file:///run/secrets")
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(text(&output.stdout), STRONG, "{entry_point:?}: {stderr}");
        assert_eq!(output.status.code(), Some(0), "{stderr}");
    }
}

/// As in the image, with the root directory of this machine, because Node is not a static binary.
#[tokio::test]
async fn first_process_restarts_the_server_and_exits_on_term() {
    if EmptyRoot::new().is_none() {
        return;
    }
    let secrets = Secrets::new(&[("AUTH_SECRET", STRONG)]);
    let (entry_point, program) = entry_point();
    let run = command(&[entry_point, program].concat());
    let mut container = Command::new("unshare");
    container
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(run.as_std().get_program())
        .args(run.as_std().get_args())
        .current_dir(path("docker"))
        .env("SECRETWELL_FROM", secrets.url());
    let mut server = Server::start(container);
    server.assert_signs_with(STRONG).await;
    secrets.write("AUTH_SECRET", ROTATED.as_bytes());
    server.assert_signs_with(ROTATED).await;
    let unshare = server.process.id().unwrap();
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    terminate(std::fs::read_to_string(children).unwrap().trim());
    let exit = tokio::time::timeout(Duration::from_secs(60), server.process.wait()).await;
    assert_eq!(exit.unwrap().unwrap().code(), Some(0));
}

/// The kernel discards TERM for the first process of a container, unless that process handles it.
#[test]
fn first_process_that_waits_for_a_secret_exits_on_term() {
    let Some(root) = EmptyRoot::new() else {
        return;
    };
    let (mut entry_point, _) = entry_point();
    add_options(&mut entry_point, &["-v", "--only", "AUTH_SECRET"]);
    let mut process = root
        .command(&[entry_point, print_secret()].concat())
        .env("SECRETWELL_FROM", "file:///run/secrets")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("AUTH_SECRET")));
    let children = format!("/proc/{0}/task/{0}/children", process.id());
    terminate(std::fs::read_to_string(children).unwrap().trim());
    assert_eq!(process.wait().unwrap().code(), Some(128 + 15));
}

/// A static binary resolves names without the libraries of the system, and has no certificate authorities.
#[tokio::test(flavor = "multi_thread")]
async fn static_binary_resolves_names_and_checks_certificates() {
    let Some(root) = EmptyRoot::new() else {
        return;
    };
    let authority = Authority::new("Test");
    let bao = Bao::with_tls(&authority.sign(&["vault.test"], |_| ())).await;
    bao.mount("kv", 2).await;
    write(&bao, "kv/data/app", json!({"AUTH_SECRET": STRONG})).await;
    let token = bao.root("POST", "auth/token/create", json!({})).await;
    let token = token["auth"]["client_token"].as_str().unwrap();
    root.write("etc/hosts", "127.0.0.1 vault.test\n");
    root.write("etc/ca.pem", &authority.pem());
    let (mut entry_point, _) = entry_point();
    add_options(&mut entry_point, &["--only", "AUTH_SECRET"]);
    remove_option(&mut entry_point, "--wait");
    let line = [entry_point, print_secret()].concat();
    let url = format!("vault://vault.test:{}/kv/app", bao.address.port());
    let run = |authorities: Option<&str>| {
        let mut run = root.command(&line);
        run.env("SECRETWELL_FROM", &url).env("VAULT_TOKEN", token);
        run.envs(authorities.map(|file| ("VAULT_CACERT", file)));
        let output = run.output().unwrap();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (status, stdout, stderr) = run(Some("/etc/ca.pem"));
    assert_eq!((status, &*stdout), (Some(0), STRONG), "{stderr}");
    let (status, stdout, stderr) = run(None);
    assert_eq!((status, &*stdout), (Some(78), ""), "{stderr}");
    assert!(stderr.contains("install them"), "{stderr}");
    // Another authority is trusted, as in the image of the guide.
    root.write("etc/other.pem", &Authority::new("Other").pem());
    let (status, stdout, stderr) = run(Some("/etc/other.pem"));
    assert_eq!((status, &*stdout), (Some(69), ""), "{stderr}");
    assert!(stderr.contains("certificate"), "{stderr}");
}
