//! `docs/deploy/procfile`: its lines, run by a shell as Procfile runners do.

use tempfile::TempDir;
use tokio::process::Command;

use super::super::text;
use super::{AppRole, ROTATED, STRONG, Server, binary, path, read};
use crate::vault::server::shared;

/// Returns the command of a process type.
fn process(name: &str) -> String {
    let content = read("procfile/Procfile");
    let mut processes = content
        .lines()
        .map(|line| line.split_once(": ").expect(line));
    let (_, command) = processes.find(|(known, _)| *known == name).unwrap();
    command.to_owned()
}

/// Returns a directory with the server and the configuration file. `change` edits the latter.
fn application(change: impl FnOnce(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::copy(path("docker/server.js"), file("server.js")).unwrap();
    std::fs::write(
        file("secretwell.toml"),
        change(read("procfile/secretwell.toml")),
    )
    .unwrap();
    folder
}

/// Runs the command of a process type.
fn run(application: &TempDir, name: &str, variables: &[(&str, &str)]) -> Command {
    let programs = binary().parent().unwrap().display().to_string();
    let mut command = Command::new("sh");
    command
        .args(["-c", &process(name)])
        .current_dir(application.path())
        .env_clear()
        .env(
            "PATH",
            format!("{programs}:{}", std::env::var("PATH").unwrap()),
        )
        .envs(variables.iter().copied());
    command
}

#[tokio::test]
async fn processes_run_with_variables_in_development() {
    let application = application(|profiles| profiles);
    let development = ("SECRETWELL_MODE", "development");
    for (secret, status) in [(Some(STRONG), 0), (None, 66)] {
        let mut release = run(&application, "release", &[development]);
        let output = release
            .envs(secret.map(|secret| ("AUTH_SECRET", secret)))
            .output()
            .await;
        let output = output.unwrap();
        assert_eq!(
            output.status.code(),
            Some(status),
            "{}",
            text(&output.stderr)
        );
    }
    let variables = [development, ("AUTH_SECRET", STRONG)];
    let mut server = Server::start(run(&application, "web", &variables));
    server.assert_signs_with(STRONG).await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_run_with_vault_in_production() {
    let role = AppRole::new(shared().await).await;
    role.write(STRONG).await;
    let url = "vault://vault.internal:8200/secret/app?auth=approle";
    let application = application(|profiles| {
        assert!(profiles.contains(url));
        profiles.replace(url, &role.url())
    });
    let credentials = [
        ("VAULT_ROLE_ID", &*role.role_id),
        ("VAULT_SECRET_ID", &*role.secret_id),
    ];
    let output = run(&application, "release", &credentials)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut server = Server::start(run(&application, "web", &credentials));
    server.assert_signs_with(STRONG).await;
    assert_eq!(server.terminate().await.code(), Some(0));

    // A weak secret stops the release.
    role.write("changeme").await;
    let output = run(&application, "release", &credentials)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(65), "{}", text(&output.stdout));
    role.write(ROTATED).await;
    let output = run(&application, "release", &credentials)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
