//! `docs/deploy/docker-compose`: the project as Docker Compose reads it, and its command.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::super::{Secrets, text};
use super::{ROTATED, STRONG, Server, command, option, path, strings};
use crate::support::tool;

/// Returns the service `app` as Docker Compose understands it.
fn service() -> Value {
    let output = std::process::Command::new(tool("compose/bin/docker-compose"))
        .args(["--env-file", "/dev/null", "config", "--format", "json"])
        .current_dir(path("docker-compose"))
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    // The wrapper of the Python package always succeeds.
    let project: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    project["services"]["app"].clone()
}

#[test]
fn compose_reads_the_project() {
    let service = service();
    assert_eq!(
        service["build"]["context"],
        path("docker").to_str().unwrap()
    );
    let mount = &service["volumes"][0];
    assert_eq!(
        mount["source"],
        path("docker-compose/secrets").to_str().unwrap()
    );
    assert_eq!(mount["type"], "bind");
    assert_eq!(mount["read_only"], true);
    // A directory that does not exist must be an error. Compose omits `false` from its output.
    assert_ne!(mount["bind"]["create_host_path"], true);
    let source = service["environment"]["SECRETWELL_FROM"].as_str().unwrap();
    assert_eq!(
        source,
        format!("file://{}", mount["target"].as_str().unwrap())
    );
    let line = strings(&service["entrypoint"]);
    let time = |text: &str| humantime::parse_duration(text).unwrap();
    let grace = time(service["stop_grace_period"].as_str().unwrap());
    assert!(grace > time(option(&line, "--stop-timeout").unwrap()));
    let start_period = time(service["healthcheck"]["start_period"].as_str().unwrap());
    assert!(start_period > time(option(&line, "--wait").unwrap()));
    // The directory of the secrets is neither committed nor part of the guide.
    assert!(!path("docker-compose/secrets").exists());
    let ignored = std::fs::read_to_string(path("docker-compose/.gitignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "secrets/"));
}

#[tokio::test]
async fn service_starts_with_a_late_secret_and_becomes_healthy() {
    let service = service();
    let secrets = Secrets::new::<&str>(&[]);
    let line = [
        strings(&service["entrypoint"]),
        strings(&service["command"]),
    ]
    .concat();
    let mut run = command(&line);
    run.env("SECRETWELL_FROM", secrets.url());
    let mut server = Server::start(run);
    secrets.write("AUTH_SECRET", STRONG.as_bytes());
    let port = server.port().await;
    let healthy = async |port: u16| {
        let check = strings(&service["healthcheck"]["test"]);
        assert_eq!(check[..2], ["CMD", "node"]);
        let script = check[3].replace("8080", &port.to_string());
        let status = Command::new("node")
            .arg(&check[2])
            .arg(script)
            .stderr(Stdio::null())
            .status();
        status.await.unwrap().success()
    };
    assert!(healthy(port).await);
    secrets.write("AUTH_SECRET", ROTATED.as_bytes());
    server.assert_signs_with(ROTATED).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(!healthy(port).await);
}
