//! End to end: from a real OpenBao and from Infisical, by `secretwell run`, into a real next-auth in
//! production and a real program by Effect.

use std::process::Stdio;

use secretwell::auth::KeyRing;
use secretwell::auth::authjs::{Scheme, SessionCookie, Sessions};
use secretwell::infisical::ApiVersion;
use secretwell_testkit::Canary;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::transcripts::play;
use super::{secretwell, text};
use crate::authjs::site::{Application, Browser};
use crate::infisical::place::Place;
use crate::support::tool;
use crate::vault::server::{Bao, shared, unique};
use crate::vault::tls::Authority;

const SECRET: &str = "the late secret, thirty-two bytes or more";

/// A place in OpenBao that an AppRole may read, and the secret id's file.
struct Vault {
    bao: &'static Bao,
    name: String,
    url: String,
    _secret_id: NamedTempFile,
}

impl Vault {
    async fn new() -> Self {
        let bao = shared().await;
        let name = unique("cli");
        bao.mount(&name, 2).await;
        let path = format!("path \"{name}/*\"");
        let rules = format!("{path} {{ capabilities = [\"read\", \"list\"] }}");
        bao.policy(&name, &rules).await;
        let method = json!({"type": "approle"});
        bao.root("POST", &format!("sys/auth/{name}"), method).await;
        let role = format!("auth/{name}/role/app");
        let policies = json!({"token_policies": [name]});
        bao.root("POST", &role, policies).await;
        let ask = async |method, what: &str| {
            let answer = bao.root(method, &format!("{role}/{what}"), json!({})).await;
            let field = what.replace('-', "_");
            answer["data"][field].as_str().unwrap().to_owned()
        };
        let role_id = ask("GET", "role-id").await;
        let secret_id = NamedTempFile::new().unwrap();
        std::fs::write(secret_id.path(), ask("POST", "secret-id").await).unwrap();
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

/// Infisical as a source, and the variable that its client secret is in.
fn infisical(place: &Place) -> (String, (&'static str, String)) {
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

/// What the program by Effect says when it is run so.
async fn effect(mut command: Command) -> (bool, String) {
    command.arg(tool("clients/effect.mjs")).arg("environment");
    let output = command.stderr(Stdio::piped()).output().await.unwrap();
    (output.status.success(), text(&output.stdout))
}

#[tokio::test]
async fn what_fails_without_the_command_works_with_it() {
    // Without it: no secret, and nobody to bring it.
    let without = Application::start_by(Command::new("node"), &[] as &[(&str, String)]).await;
    for route in ["eager/v4", "eager/v5"] {
        let mut nobody = Browser::default();
        let (status, _) = without.site(route).get(&mut nobody, "session").await;
        assert_eq!(status, 500, "{route}");
    }
    let mut command = Command::new("node");
    command.env_remove("AUTH_SECRET");
    assert!(!effect(command).await.0);

    let vault = Vault::new().await;
    vault.write(json!({"AUTH_SECRET": SECRET})).await;
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "AUTH_SECRET", SECRET).await;
    let (infisical, client_secret) = infisical(&place);
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
            let (good, said) = effect(command()).await;
            assert!(good);
            let token = said.lines().nth(1).unwrap();
            let ring = KeyRing::new(SECRET);
            let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap();
            let cookies = format!("authjs.session-token={token}");
            let session = sessions.find::<User>(&cookies).unwrap();
            assert_eq!(session.claims.name, "Ada");
        }
    }
}

#[tokio::test]
async fn the_late_secret_is_waited_for_and_a_rotation_restarts_the_application() {
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

#[tokio::test(flavor = "multi_thread")]
async fn transcripts_of_remote_sources() {
    let canary = Canary::new("AUTH_SECRET");
    let vault = Vault::new().await;
    vault.write(json!({"AUTH_SECRET": canary.text()})).await;
    let bad = format!("{}&namespace=nowhere", vault.url);
    let elsewhere = vault.url.replace("/app?", "/nowhere?");
    let policies = json!({"policies": ["default"]});
    let nobody = vault.bao.root("POST", "auth/token/create", policies).await;
    let nobody = nobody["auth"]["client_token"].as_str().unwrap();
    let authority = Authority::new("Test");
    let server = authority.sign(&["127.0.0.1"], |_| ());
    let secure = Bao::with_tls(&server).await;
    let mut variables = [
        ("NOBODY", nobody),
        ("SECURE", &secure.address.to_string()),
        ("VAULT", vault.url.as_str()),
        ("BAD", &bad),
        ("ELSEWHERE", &elsewhere),
        ("MOUNT", &vault.name),
        ("ADDRESS", &vault.bao.address.to_string()),
    ];
    // Longer values first, so that they are told by their own names.
    variables.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    tokio::task::block_in_place(|| play("vault", &variables));

    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "AUTH_SECRET", canary.text()).await;
    let (url, (name, secret)) = infisical(&place);
    let elsewhere = url.replace("?", "/nowhere?");
    let address = place.address().unwrap().to_string();
    let variables = [
        ("ELSEWHERE", elsewhere.as_str()),
        ("INFISICAL", &url),
        (name, &secret),
        ("FOLDER", &place.folder),
        ("PROJECT", &place.project),
        ("ADDRESS", &address),
    ];
    tokio::task::block_in_place(|| play("infisical", &variables));
}
