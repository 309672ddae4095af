//! A late secret: it appears after the application has started, in production and in development mode.

use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::guide::{Project, Server, until};
use super::{FIRST, PUBLISHED, SECOND};
use crate::authjs::site::{Browser, Packages};
use crate::cli::secretwell;
use crate::infisical::place::Place;
use crate::support::replace;
use secretwell::infisical::ApiVersion;

const NOTHING: [(&str, &str); 0] = [];

/// Returns a project with a server for the eager form.
fn eager() -> Project {
    let project = Project::new();
    project.add_server("eager-server.js", "./eager.js");
    project
}

#[tokio::test]
async fn eager_application_exits_without_the_secret_in_production() {
    let project = eager();
    let variables = [("NODE_ENV", "production"), ("PORT", "0")];
    let (status, output) = project.run("eager-server.js", &variables).await;
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("You are using the default secret"),
        "{output}"
    );
}

#[tokio::test]
async fn eager_application_uses_the_published_secret_in_development_without_a_log_line() {
    let packages = Packages::start_script("betterauth.mjs");
    let project = eager();
    for (mode, test) in [("development", "false"), ("", "false"), ("production", "1")] {
        let server = Server::start(&project, "eager-server.js", mode, &[("TEST", test)]).await;
        let ada = server.sign_up("Ada").await;
        let read = json!({
            "action": "read", "name": "better-auth.session_token",
            "cookies": ada.header(), "secret": PUBLISHED,
        });
        let token = packages.run(read).await.unwrap();
        assert!(token.is_string(), "{mode}: {token}");
        assert!(!server.log().contains("secret"), "{}", server.log());
    }
}

#[tokio::test]
async fn application_of_the_guide_starts_without_the_secret_and_works_once_it_exists() {
    for source in ["infisical.js", "effect3.js", "effect4.js"] {
        for mode in ["production", "development"] {
            let place = Place::fake(ApiVersion::V4).await;
            let project = Project::with_source(source);
            if source == "effect4.js" {
                project.alias("effect", "effect-4");
            }
            let server = Server::start(&project, "server.js", mode, &place.for_guides()).await;
            let mut early = Browser::default();
            early.receive("better-auth.session_token=early.signature; Path=/");
            let (status, _) = server.send(&mut early, "get-session", None).await;
            assert_eq!(status, 503, "{source} {mode}");
            assert_eq!(
                early.header(),
                "better-auth.session_token=early.signature",
                "a missing secret clears no cookie"
            );
            for (name, unusable) in [
                ("BETTER_AUTH_SECRET", PUBLISHED),
                ("BETTER_AUTH_SECRETS", "1"),
            ] {
                place.write(None, name, unusable).await;
                assert_eq!(server.status().await, 503, "{source} {mode} {name}");
                place.delete(None, name).await;
            }

            place
                .write(None, "BETTER_AUTH_SECRETS", &format!("1:{FIRST}"))
                .await;
            let mut ada = server.sign_up("Ada").await;
            assert_eq!(server.name(&mut ada).await.as_deref(), Some("Ada"));
            for secret in [FIRST, PUBLISHED] {
                assert!(!server.log().contains(secret), "{}", server.log());
            }
        }
    }
}

/// An instance that is created in the first request and kept.
const KEPT: &str = r#"
import { betterAuth } from "better-auth";
import { options } from "./options.js";
import { load } from "./source.js";
let kept;
export async function handle(request) {
  kept ??= betterAuth({ ...options, secret: (await load()).BETTER_AUTH_SECRET });
  return kept.handler(request).catch(() => new Response(null, { status: 500 }));
}
"#;

/// An instance per request.
const PER_REQUEST: &str = r#"
import { betterAuth } from "better-auth";
import { options } from "./options.js";
import { load } from "./source.js";
export const handle = async (request) =>
  betterAuth({ ...options, secret: (await load()).BETTER_AUTH_SECRET })
    .handler(request)
    .catch(() => new Response(null, { status: 500 }));
"#;

/// Reads the variable from a file, so that a test can change it.
const SOURCE: &str = r#"
import { readFile } from "node:fs/promises";
export const load = async () => ({ BETTER_AUTH_SECRET: await readFile("SECRET", "utf8").catch(() => undefined) });
"#;

#[tokio::test]
async fn other_lazy_forms_do_what_the_table_of_the_guide_states() {
    let project = Project::new();
    let secret = project.path().join("SECRET");
    project.write(
        "source.js",
        &SOURCE.replace("SECRET\"", &format!("{}\"", secret.display())),
    );
    for (form, text) in [("kept", KEPT), ("request", PER_REQUEST)] {
        project.write(&format!("{form}.js"), text);
        project.add_server(&format!("{form}-server.js"), &format!("./{form}.js"));
    }
    let flags = [("NODE_OPTIONS", "--unhandled-rejections=warn")];
    for form in ["kept", "request"] {
        let file = format!("{form}-server.js");
        // A request came before the secret.
        let early = Server::start(&project, &file, "production", &flags).await;
        assert_eq!(early.status().await, 500, "{form}");
        let undemanded = Server::start(&project, &file, "production", &flags).await;
        replace(&secret, FIRST.as_bytes());
        assert_eq!(early.status().await == 200, form == "request", "{form}");

        let mut ada = undemanded.sign_up("Ada").await;
        assert_eq!(undemanded.name(&mut ada).await.as_deref(), Some("Ada"));
        replace(&secret, SECOND.as_bytes());
        let kept = undemanded.name(&mut ada).await.is_some();
        assert_eq!(
            kept,
            form == "kept",
            "{form}: the first secret stays in use"
        );
        std::fs::remove_file(&secret).unwrap();
    }
}

/// Returns a port that is free now, for a server that restarts at the same address.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Returns `secretwell run` for a directory of secrets.
fn command(secrets: &TempDir) -> Command {
    let from = format!("file://{}", secrets.path().display());
    let options = ["--wait", "2m", "--watch", "--ttl", "1s", "--", "node"];
    Command::from(secretwell(
        [&["run", "--from", &from][..], &options].concat(),
    ))
}

#[tokio::test]
async fn command_waits_for_the_secret_and_restarts_the_application_on_rotation() {
    for (file, survives) in [("eager-server.js", false), ("server.js", true)] {
        let secrets = tempfile::tempdir().unwrap();
        let write = |list: String| {
            replace(&secrets.path().join("BETTER_AUTH_SECRETS"), list.as_bytes());
        };
        let project = Project::with_source("environment.js");
        // The package reads the list from the environment. Without a database, sessions survive a restart.
        project.replace("eager.js", ", secret: process.env.BETTER_AUTH_SECRET", "");
        project.replace("options.js", "  database: ", "  unused: ");
        project.add_server("eager-server.js", "./eager.js");
        let port = free_port().to_string();
        project.replace("server.js", "process.env.PORT ?? 3000", &port);
        project.replace("eager-server.js", "process.env.PORT ?? 3000", &port);

        replace(&secrets.path().join("OTHER"), b"x");
        let start = async {
            Server::start_by(command(&secrets), &project, file, "production", &NOTHING).await
        };
        let late = async { write(format!("1:{FIRST}")) };
        let (server, ()) = tokio::join!(start, late);
        let mut ada = server.sign_up("Ada").await;
        assert_eq!(server.name(&mut ada).await.as_deref(), Some("Ada"));

        write(format!("2:{SECOND},1:{FIRST}"));
        until(async || server.log().contains(&format!("port {port}"))).await;
        let survived = server.name(&mut ada).await.as_deref() == Some("Ada");
        assert_eq!(survived, survives, "{file}");
        let mut bob = server.sign_up("Bob").await;
        assert_eq!(server.name(&mut bob).await.as_deref(), Some("Bob"));
    }
}
