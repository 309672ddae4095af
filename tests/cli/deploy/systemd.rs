//! `docs/deploy/systemd`: the units, as `systemd-analyze` reads them, and their commands.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command as StdCommand;

use tokio::process::Command;

use super::super::{Secrets, text};
use super::{
    AppRole, ROTATED, STRONG, Server, add_options, command, option, path, read, remove_option,
    skip, words,
};
use crate::vault::server::shared;

const UNITS: [&str; 2] = ["systemd/app.service", "systemd/app-vault.service"];

/// Returns the settings of a unit. A setting can occur several times.
fn settings(unit: &str) -> HashMap<String, Vec<String>> {
    let mut settings: HashMap<String, Vec<String>> = HashMap::new();
    for line in read(unit).lines() {
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let (name, value) = line.split_once('=').expect(line);
        assert!(!value.ends_with('\\'), "{line}");
        settings.entry(name.into()).or_default().push(value.into());
    }
    settings
}

/// Returns the only value of a setting.
fn setting(unit: &str, name: &str) -> String {
    let values = settings(unit).remove(name).unwrap_or_default();
    assert_eq!(values.len(), 1, "{unit}: {name}: {values:?}");
    values[0].clone()
}

/// Returns the command of a unit, with an edited command line. `credentials` is the directory that systemd creates
/// from `LoadCredential`.
fn start(unit: &str, credentials: &Path, edit: impl Fn(&mut Vec<String>)) -> Command {
    let credentials = credentials.to_str().unwrap();
    let replaced = |text: &str| text.replace("%d", credentials);
    let mut line = words(&replaced(&setting(unit, "ExecStart")));
    let server = path("docker/server.js").display().to_string();
    let program = ["/usr/bin/node", "/opt/app/server.js"];
    assert!(line.ends_with(&program.map(str::to_owned)), "{line:?}");
    line.truncate(line.len() - program.len());
    line.extend(["node".to_owned(), server]);
    edit(&mut line);
    let mut command = command(&line);
    for variables in &settings(unit)["Environment"] {
        for variable in words(&replaced(variables)) {
            let (name, value) = variable.split_once('=').unwrap();
            command.env(name, value);
        }
    }
    command.env("CREDENTIALS_DIRECTORY", credentials);
    command
}

/// Makes the directory and its files readable for their user only, as systemd does.
fn protect(credentials: &Path) {
    for entry in std::fs::read_dir(credentials).unwrap() {
        let mode = std::fs::Permissions::from_mode(0o400);
        std::fs::set_permissions(entry.unwrap().path(), mode).unwrap();
    }
    let mode = std::fs::Permissions::from_mode(0o500);
    std::fs::set_permissions(credentials, mode).unwrap();
}

#[test]
fn systemd_accepts_the_units_and_rates_them_as_protected() {
    let analyze = |arguments: &[&str]| StdCommand::new("systemd-analyze").args(arguments).output();
    let Ok(version) = analyze(&["--version"]) else {
        return skip("the check of the units, because `systemd-analyze` is not installed");
    };
    let version = text(&version.stdout);
    let version = version
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok());
    if version.is_none_or(|version: u32| version < 250) {
        return skip("the check of the units, because systemd is older than 250");
    }
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        // The check requires that the programs exist.
        let content = read(unit).replace("/usr/local/bin/secretwell", "/bin/sh");
        let copy = folder.path().join(Path::new(unit).file_name().unwrap());
        std::fs::write(&copy, content).unwrap();
        let copy = copy.to_str().unwrap();
        let output = analyze(&["verify", "--man=no", copy]).unwrap();
        let stderr = text(&output.stderr);
        // Problems of other units on this machine are reported, too.
        let name = Path::new(unit).file_name().unwrap().to_str().unwrap();
        let problems: Vec<&str> = stderr.lines().filter(|line| line.contains(name)).collect();
        assert_eq!(problems, [] as [&str; 0]);
        assert!(output.status.success(), "{stderr}");
        // 100 is an exposure of 10.0, as of a unit without protection.
        let output = analyze(&["security", "--offline=true", "--threshold=20", copy]).unwrap();
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
    let mistyped = folder.path().join("mistyped.service");
    let content = read(UNITS[0]).replace("/usr/local/bin/secretwell", "/bin/sh");
    std::fs::write(
        &mistyped,
        content.replace("LoadCredential=", "LoadCredentials="),
    )
    .unwrap();
    let output = analyze(&["verify", "--man=no", mistyped.to_str().unwrap()]).unwrap();
    assert!(text(&output.stderr).contains("LoadCredentials"));
}

#[test]
fn credentials_of_the_units_are_those_that_their_commands_read() {
    for unit in UNITS {
        let settings = settings(unit);
        let names: Vec<&str> = settings["LoadCredential"]
            .iter()
            .map(|credential| {
                let (name, file) = credential.split_once(':').unwrap();
                assert!(file.starts_with("/etc/app/"), "{file}");
                name
            })
            .collect();
        let line = words(&setting(unit, "ExecStart"));
        let used: Vec<String> = match option(&line, "--from") {
            Some("file://%d") => vec![option(&line, "--only").unwrap().to_owned()],
            None => {
                let environment = settings["Environment"].join(" ");
                let files = environment
                    .split_whitespace()
                    .filter_map(|variable| variable.split_once("=%d/"));
                files.map(|(_, file)| file.to_owned()).collect()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(names, used, "{unit}");
        assert_eq!(setting(unit, "Type"), "exec");
        let stop = humantime::parse_duration(&setting(unit, "TimeoutStopSec")).unwrap();
        if let Some(timeout) = option(&line, "--stop-timeout") {
            assert!(stop > humantime::parse_duration(timeout).unwrap());
            assert_eq!(setting(unit, "KillMode"), "mixed");
        }
    }
}

#[tokio::test]
async fn unit_passes_its_credentials_to_the_program() {
    let credentials = Secrets::new(&[("AUTH_SECRET", STRONG)]);
    protect(credentials.path());
    let mut server = Server::start(start(UNITS[0], credentials.path(), |_| ()));
    // Without --watch, the main process of the unit is the program.
    let pid = server.process.id().unwrap();
    server.assert_signs_with(STRONG).await;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "node");
    assert_eq!(server.terminate().await.code(), Some(0));

    let empty = Secrets::new::<&str>(&[]);
    let output = start(UNITS[0], empty.path(), |_| ())
        .output()
        .await
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(66), "{stderr}");
    assert!(stderr.contains("AUTH_SECRET"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_logs_in_with_its_credentials_and_restarts_the_program_on_rotation() {
    let role = AppRole::new(shared().await).await;
    role.write(STRONG).await;
    let credentials = Secrets::new(&[("role-id", &role.role_id), ("secret-id", &role.secret_id)]);
    protect(credentials.path());
    // The ttl makes the test short.
    let start_with = |credentials: &Path, edit: &dyn Fn(&mut Vec<String>)| {
        let mut run = start(UNITS[1], credentials, edit);
        run.env("SECRETWELL_FROM", role.url()); // from the EnvironmentFile
        run
    };
    let run = start_with(credentials.path(), &|line| {
        add_options(line, &["--ttl", "1s"])
    });
    let mut server = Server::start(run);
    server.assert_signs_with(STRONG).await;
    role.write(ROTATED).await;
    server.assert_signs_with(ROTATED).await;
    assert_eq!(server.terminate().await.code(), Some(0));

    // Without the file of the environment, systemd does not start the unit. Without its content, the command ends with
    // a status that prevents further starts.
    let output = start(UNITS[1], credentials.path(), |_| ())
        .output()
        .await
        .unwrap();
    let status = output.status.code().unwrap().to_string();
    let prevented = setting(UNITS[1], "RestartPreventExitStatus");
    assert!(
        prevented.split(' ').any(|prevented| prevented == status),
        "{status}"
    );
    assert!(!settings(UNITS[1])["EnvironmentFile"][0].starts_with('-'));

    // A wrong secret id is refused, and the error does not show it.
    let wrong = Secrets::new(&[
        ("role-id", &*role.role_id),
        ("secret-id", "no-such-secret-id"),
    ]);
    let mut run = start_with(wrong.path(), &|line| remove_option(line, "--wait"));
    let output = run.output().await.unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{stderr}");
    assert!(!stderr.contains("no-such-secret-id"), "{stderr}");
}
