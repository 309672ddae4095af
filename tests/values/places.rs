//! A chain whose stronger source is a misplaced file, and the command with such a source.

use std::path::Path;
use std::process::{Command, Output};

use secretwell::{ErrorKind, Resolver, SecretProvider, from_url};
use tempfile::TempDir;

use crate::cli::{secretwell, text};
use crate::support::key;

/// A folder with misplaced sources and a weaker, good source.
struct Places {
    folder: TempDir,
    weaker: String,
}

impl Places {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            crate::support::replace(&path, content.as_bytes());
        };
        write("env.list", "A=STRONG\n");
        write("directory.env/A", "STRONG");
        write("fallback.env", "A=WEAK\n");
        let weaker = format!("file://{}", folder.path().join("fallback.env").display());
        Self { folder, weaker }
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}/{name}", self.folder.path().display())
    }
}

/// The path of each misplaced source, and a part of its error.
const MISPLACED: [(&str, &str); 4] = [
    ("env.list", "add `?format=env`"),
    ("directory.env", "add `?format=directory`"),
    ("env.list/secrets", "is a regular file, not a directory"),
    ("env.list/.env", "is a regular file, not a directory"),
];

#[tokio::test]
async fn chain_does_not_pass_a_misplaced_file() {
    let places = Places::new();
    for (name, message) in MISPLACED {
        let chain = from_url(&format!("{},{}", places.url(name), places.weaker)).unwrap();
        for error in [
            chain.get(&key("A")).await.unwrap_err(),
            chain.get_many(&[key("A")]).await.remove(0).unwrap_err(),
            Resolver::new(chain.clone()).get("A").await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
    // A place that does not exist yet is an absence.
    for name in ["later", "later/.env"] {
        let chain = from_url(&format!("{},{}", places.url(name), places.weaker)).unwrap();
        let secret = chain.get(&key("A")).await.unwrap();
        assert_eq!(secret.value.expose_bytes(), b"WEAK");
    }
}

#[test]
fn command_reports_a_misplaced_file_as_a_misconfiguration() {
    let places = Places::new();
    for (name, message) in MISPLACED {
        let url = places.url(name);
        let chain = ["--from", &url, "--from", &places.weaker];
        let run = |arguments: &[&str]| -> Output {
            secretwell(arguments.iter().chain(&chain)).output().unwrap()
        };
        for command in [
            run(&["get", "A"]),
            run(&["check", "--require", "A"]),
            run(&["list"]),
            run(&["doctor"]),
        ] {
            let output = text(&command.stdout) + &text(&command.stderr);
            assert_eq!(command.status.code(), Some(78), "{output}");
            assert!(output.contains(message), "{output}");
            assert!(
                !output.contains("STRONG") && !output.contains("WEAK"),
                "{output}"
            );
        }
    }
}

/// Runs a shell script in a mount namespace of its own. Returns `None` if this process must not create one.
#[expect(clippy::print_stdout, reason = "shows why the test is skipped")]
fn in_mount_namespace(script: &str, folder: &Path) -> Option<Output> {
    let unshare = |arguments: &[&str]| Command::new("unshare").args(arguments).output();
    if !unshare(&["-m", "true"]).is_ok_and(|it| it.status.success()) {
        println!("skipped: this process must not create a mount namespace");
        return None;
    }
    let command = secretwell(["get", "A"]);
    let arguments = command.get_args().map(|it| it.to_str().unwrap());
    // The script calls the command as `"$@"`.
    let shell = [
        "-m",
        "sh",
        "-euc",
        script,
        "sh",
        command.get_program().to_str().unwrap(),
    ];
    let arguments: Vec<&str> = shell.into_iter().chain(arguments).collect();
    let output = Command::new("unshare")
        .args(arguments)
        .current_dir(folder)
        .output();
    Some(output.unwrap())
}

#[test]
fn read_only_mount_does_not_warn_about_permission_to_read() {
    for (mode, option, is_accepted) in [
        ("0444", "ro", true),
        ("0644", "ro", true),
        ("0664", "ro", false),
        ("0444", "rw", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "mkdir secrets; mount -t tmpfs secrets secrets; printf value > secrets/A; chmod {mode} secrets/A
            mount -o remount,{option} secrets
            \"$@\" --from \"file://$PWD/secrets\"
            exec \"$@\" --from \"file://$PWD/secrets?permissions=strict\""
        );
        let Some(output) = in_mount_namespace(&script, folder.path()) else {
            return;
        };
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(stdout.starts_with("value"), "{stdout}{stderr}");
        assert_eq!(
            output.status.success(),
            is_accepted,
            "{mode} {option}: {stderr}"
        );
        assert_eq!(
            !stderr.contains("other users"),
            is_accepted,
            "{mode} {option}: {stderr}"
        );
    }
}
