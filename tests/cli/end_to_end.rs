//! End-to-end tests of `secretwell run`: secrets from a real OpenBao and a fake Infisical, for a Next.js
//! application with next-auth in production mode, and for a program that uses Effect.

use std::process::Stdio;
use std::time::Duration;

use secretwell::auth::KeyRing;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SessionCookie, Sessions};
use secretwell::infisical::ApiVersion;
use secretwell_testkit::Canary;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::transcripts::check_transcript;
use super::{secretwell, text};
use crate::authjs::site::{Application, Browser};
use crate::infisical::place::Place;
use crate::support::tool;
use crate::vault::server::{Bao, shared, unique};
use crate::vault::tls::Authority;

const SECRET: &str = "the late secret, thirty-two bytes or more";

/// A mount of the shared OpenBao, and an AppRole whose policy grants `read` and `list` on it.
struct Vault {
    bao: &'static Bao,
    /// The name of the mount, of the policy and of the auth method.
    name: String,
    url: String,
    /// Keeps the file of the secret ID until the end of the test.
    _secret_id: NamedTempFile,
}

impl Vault {
    async fn new() -> Self {
        let bao = shared().await;
        let name = unique("cli");
        bao.mount(&name, 2).await;
        let rules = format!("path \"{name}/*\" {{ capabilities = [\"read\", \"list\"] }}");
        bao.policy(&name, &rules).await;
        let method = json!({"type": "approle"});
        bao.root("POST", &format!("sys/auth/{name}"), method).await;
        let role = format!("auth/{name}/role/app");
        let policies = json!({"token_policies": [name]});
        bao.root("POST", &role, policies).await;
        let request_id = async |method, kind: &str| {
            let response = bao.root(method, &format!("{role}/{kind}"), json!({})).await;
            let field = kind.replace('-', "_");
            response["data"][field].as_str().unwrap().to_owned()
        };
        let role_id = request_id("GET", "role-id").await;
        let secret_id = NamedTempFile::new().unwrap();
        std::fs::write(secret_id.path(), request_id("POST", "secret-id").await).unwrap();
        let url = format!(
            "vault+http://{}/{name}/app?auth=approle&auth_mount={name}&role={role_id}&secret_id_file={}",
            bao.address,
            secret_id.path().display(),
        );
        Self {
            bao,
            name,
            url,
            _secret_id: secret_id,
        }
    }

    async fn write(&self, data: Value) {
        let path = format!("{}/data/app", self.name);
        self.bao.root("POST", &path, json!({"data": data})).await;
    }
}

/// Returns the URL of the Infisical source, and the name and value of the variable with its client secret.
fn infisical_source(place: &Place) -> (String, (&'static str, String)) {
    let [server, project, environment, folder, id, secret] =
        place.for_clients().map(|(_, value)| value);
    let server = server.trim_start_matches("http://");
    let url = format!(
        "infisical+http://{server}/{project}/{environment}{folder}?auth=universal&client_id={id}"
    );
    (url, ("INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET", secret))
}

#[derive(Deserialize)]
struct User {
    name: String,
}

/// Runs the program that uses Effect. Returns whether it succeeded, and its standard output.
async fn run_effect_program(mut command: Command) -> (bool, String) {
    command.arg(tool("clients/effect.mjs")).arg("environment");
    let output = command.stderr(Stdio::piped()).output().await.unwrap();
    (output.status.success(), text(&output.stdout))
}

#[tokio::test]
async fn programs_fail_without_the_command_and_work_with_it() {
    let without_secret =
        Application::start_by(Command::new("node"), &[] as &[(&str, String)]).await;
    for route in ["eager/v4", "eager/v5"] {
        let mut browser = Browser::default();
        let (status, _) = without_secret
            .site(route)
            .get(&mut browser, "session")
            .await;
        assert_eq!(status, 500, "{route}");
    }
    let mut command = Command::new("node");
    command.env_remove("AUTH_SECRET");
    assert!(!run_effect_program(command).await.0);

    let vault = Vault::new().await;
    vault.write(json!({"AUTH_SECRET": SECRET})).await;
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "AUTH_SECRET", SECRET).await;
    let (infisical, client_secret) = infisical_source(&place);
    for (from, variables) in [
        (vault.url.clone(), vec![]),
        (infisical, vec![client_secret]),
    ] {
        for watch in [&[][..], &["--watch"]] {
            let arguments = [&["run", "--from", &from], watch, &["--", "node"]].concat();
            let command = || {
                let mut command = Command::from(secretwell(&arguments));
                command.envs(variables.iter().cloned());
                command
            };
            let application = Application::start_by(command(), &[] as &[(&str, String)]).await;
            for route in ["eager/v4", "eager/v5"] {
                let site = application.site(route);
                let ada = site.log_in("Ada").await;
                assert_eq!(site.name(&ada).await.as_deref(), Some("Ada"), "{route}");
            }
            let (succeeded, stdout) = run_effect_program(command()).await;
            assert!(succeeded);
            let token = stdout.lines().nth(1).unwrap();
            let ring = KeyRing::new(SECRET).unwrap();
            let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap();
            let cookies = format!("authjs.session-token={token}");
            let session = sessions.find::<User>(&cookies).unwrap();
            assert_eq!(session.unwrap().claims.name, "Ada");
        }
    }
}

/// At first, the file of the login does not exist. Then the server is sealed.
#[tokio::test]
async fn program_starts_as_soon_as_the_login_and_the_server_are_ready() {
    let bao = Bao::on_disk().await;
    bao.mount("secret", 2).await;
    let data = json!({"data": {"AUTH_SECRET": SECRET}});
    bao.root("POST", "secret/data/app", data).await;
    bao.root("POST", "sys/seal", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let url = format!(
        "vault+http://{}/secret/app?token_file={}",
        bao.address,
        file.display()
    );
    let options = ["--only", "AUTH_SECRET", "--wait", "5m", "-v"];
    let arguments = [&["run", "--from", &url][..], &options, &["--", "env"]].concat();
    let mut process = Command::from(secretwell(arguments))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = tokio::io::BufReader::new(process.stderr.take().unwrap());
    let mut log = tokio::io::AsyncBufReadExt::lines(log);
    let mut wait_for = async |text: &str| {
        let found = async { while !log.next_line().await.unwrap().unwrap().contains(text) {} };
        let found = tokio::time::timeout(Duration::from_secs(60), found).await;
        found.unwrap_or_else(|_| panic!("no log line contains {text:?}"));
    };
    wait_for("cannot be read; check that the file exists").await;
    std::fs::write(&file, bao.root_token()).unwrap();
    wait_for("the server is sealed").await;
    bao.unseal().await;
    let output = process.wait_with_output().await.unwrap();
    assert!(text(&output.stdout).contains(SECRET));
}

#[tokio::test]
async fn application_starts_with_the_late_secret_and_restarts_on_rotation() {
    let vault = Vault::new().await;
    let options = [
        "--only",
        "AUTH_SECRET",
        "--wait",
        "2m",
        "--watch",
        "--ttl",
        "1s",
    ];
    let from = ["run", "--from", &vault.url];
    let arguments = [&from[..], &options, &["--", "node"]].concat();
    let mut command = Command::from(secretwell(arguments));
    command
        .arg("-e")
        .arg("console.log(process.env.AUTH_SECRET); setInterval(() => {}, 1000)");
    let mut process = command
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = process.stdout.take().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(output));
    vault.write(json!({"OTHER": "x"})).await;
    vault.write(json!({"AUTH_SECRET": "first"})).await;
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "first");
    vault.write(json!({"AUTH_SECRET": "second"})).await;
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "second");
}

#[tokio::test]
async fn policy_that_grants_single_paths_is_sufficient_for_only_and_get() {
    let vault = Vault::new().await;
    vault.write(json!({"A": "one", "B": "two"})).await;
    for path in ["app/db", "app/hidden"] {
        let path = format!("{}/data/{path}", vault.name);
        let body = json!({"data": {"PASSWORD": "pw"}});
        vault.bao.root("POST", &path, body).await;
    }
    let policy = format!("{}-least", vault.name);
    let rules = ["app", "app/db"].map(|path| {
        let path = format!("{}/data/{path}", vault.name);
        format!("path \"{path}\" {{ capabilities = [\"read\"] }}")
    });
    vault.bao.policy(&policy, &rules.join("\n")).await;
    let body = json!({"policies": [policy], "no_default_policy": true});
    let token = vault.bao.root("POST", "auth/token/create", body).await;
    let token = token["auth"]["client_token"].as_str().unwrap();
    let url = format!("vault+http://{}/{}/app", vault.bao.address, vault.name);
    let run = async |arguments: &[&str]| {
        let mut command = Command::from(secretwell(arguments));
        command.env("VAULT_TOKEN", token);
        let output = command.output().await.unwrap();
        let status = output.status.code();
        (status, text(&output.stdout), text(&output.stderr))
    };
    let script = "echo $B,$db_PASSWORD";
    let program = ["--", "sh", "-c", script];
    let only = ["run", "--from", &url, "--only", "B,db/PASSWORD"];
    let expected = (Some(0), "two,pw\n".into(), String::new());
    assert_eq!(run(&[&only[..], &program].concat()).await, expected);
    let expected = (Some(0), "pw".into(), String::new());
    let arguments = ["get", "db/PASSWORD", "--from", &url];
    assert_eq!(run(&arguments).await, expected);
    // A denied path is named.
    let denied = format!(
        "denied: the policy does not allow reading `{}/data/app/hidden`",
        vault.name
    );
    let only = ["run", "--from", &url, "--only", "B,hidden/PASSWORD"];
    for arguments in [
        [&only[..], &program].concat(),
        vec!["get", "hidden/PASSWORD", "--from", &url],
        vec!["check", "--require", "B,hidden/PASSWORD", "--from", &url],
        vec!["doctor", "--require", "B,hidden/PASSWORD", "--from", &url],
    ] {
        let (status, stdout, stderr) = run(&arguments).await;
        assert_eq!(status, Some(77), "{arguments:?}: {stdout}{stderr}");
        assert!(
            format!("{stdout}{stderr}").contains(&denied),
            "{stdout}{stderr}"
        );
    }
}

/// The provider reads whole folders, so an identity needs the permission to read the folders of the keys only.
#[tokio::test]
async fn identity_that_reads_some_folders_is_sufficient_for_only_and_get() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(None, "B", "two").await;
        for folder in ["db", "hidden"] {
            place.write(Some(folder), "PASSWORD", "pw").await;
        }
        let fake = place.as_fake();
        let hidden = place.folder_path(Some("hidden"));
        fake.deny(&place.identity, "dev", &hidden);
        let (url, (name, secret)) = infisical_source(&place);
        let run = async |arguments: &[&str]| {
            let mut command = Command::from(secretwell(arguments));
            let output = command.env(name, &secret).output().await.unwrap();
            let status = output.status.code();
            (status, text(&output.stdout), text(&output.stderr))
        };
        let program = ["--", "sh", "-c", "echo $B,$db_PASSWORD"];
        let only = ["run", "--from", &url, "--only", "B,db/PASSWORD"];
        let expected = (Some(0), "two,pw\n".into(), String::new());
        assert_eq!(run(&[&only[..], &program].concat()).await, expected);
        let expected = (Some(0), "pw".into(), String::new());
        let arguments = ["get", "db/PASSWORD", "--from", &url];
        assert_eq!(run(&arguments).await, expected);
        // The denied secret is named.
        let only = ["run", "--from", &url, "--only", "B,hidden/PASSWORD"];
        for arguments in [
            [&only[..], &program].concat(),
            vec!["get", "hidden/PASSWORD", "--from", &url],
            vec!["check", "--require", "B,hidden/PASSWORD", "--from", &url],
            vec!["doctor", "--require", "B,hidden/PASSWORD", "--from", &url],
        ] {
            let (status, stdout, stderr) = run(&arguments).await;
            let output = format!("{stdout}{stderr}");
            assert_eq!(status, Some(77), "{arguments:?}: {output}");
            assert!(
                output.contains("hidden/PASSWORD"),
                "{arguments:?}: {output}"
            );
            assert!(output.contains("denied"), "{arguments:?}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transcripts_of_remote_sources() {
    let canary = Canary::new("AUTH_SECRET");
    let vault = Vault::new().await;
    vault.write(json!({"AUTH_SECRET": canary.text()})).await;
    let wrong_namespace = format!("{}&namespace=nowhere", vault.url);
    let wrong_path = vault.url.replace("/app?", "/nowhere?");
    let policies = json!({"policies": ["default"]});
    let token = vault.bao.root("POST", "auth/token/create", policies).await;
    let unprivileged_token = token["auth"]["client_token"].as_str().unwrap();
    let authority = Authority::new("Test");
    let server = authority.sign(&["127.0.0.1"], |_| ());
    let tls_server = Bao::with_tls(&server).await;
    let mut variables = [
        ("UNPRIVILEGED_TOKEN", unprivileged_token),
        ("TLS_ADDRESS", &tls_server.address.to_string()),
        ("VAULT", vault.url.as_str()),
        ("WRONG_NAMESPACE", &wrong_namespace),
        ("WRONG_PATH", &wrong_path),
        ("MOUNT", &vault.name),
        ("ADDRESS", &vault.bao.address.to_string()),
    ];
    // Longer values are replaced first, because they can contain shorter ones.
    variables.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    tokio::task::block_in_place(|| check_transcript("vault", &variables));

    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "AUTH_SECRET", canary.text()).await;
    let (url, (name, secret)) = infisical_source(&place);
    let wrong_path = url.replace("?", "/nowhere?");
    let wrong_environment = url.replace("/dev/", "/qa/");
    let address = place.address().unwrap().to_string();
    let variables = [
        ("WRONG_PATH", wrong_path.as_str()),
        ("WRONG_ENVIRONMENT", &wrong_environment),
        ("INFISICAL", &url),
        (name, &secret),
        ("FOLDER", &place.folder),
        ("PROJECT", &place.project),
        ("ADDRESS", &address),
    ];
    tokio::task::block_in_place(|| check_transcript("infisical", &variables));
}

/// Each field whose name cannot be a key is reported by all commands that list secrets.
#[tokio::test(flavor = "multi_thread")]
async fn transcript_of_field_names_that_are_not_keys() {
    let vault = Vault::new().await;
    let fields = json!({
        "ok": "1", "DOM\\user": "c4n4ry", "with/slash": "c4n4ry", " lead": "c4n4ry", "tab\tx": "c4n4ry",
        "tls.crt": "2",
    });
    vault.write(fields).await;
    let address = vault.bao.address.to_string();
    let variables = [
        ("VAULT", vault.url.as_str()),
        ("MOUNT", &vault.name),
        ("ADDRESS", &address),
    ];
    tokio::task::block_in_place(|| check_transcript("vault_names", &variables));
}
