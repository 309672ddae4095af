//! `docs/deploy/github-actions`: the steps of the workflow in a shell, with a fake GitHub and a real OpenBao.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::super::text;
use super::{STRONG, binary, path, read, set_up, write, yaml};
use crate::vault::login::signed;
use crate::vault::server::shared;

const ISSUER: &str = "https://token.actions.githubusercontent.com";
const REQUEST_TOKEN: &str = "the request token of the job";

fn job() -> Value {
    let workflow = yaml("github-actions/deploy.yml").remove(0);
    // A reader of YAML 1.1 reads the name `on` as `true`.
    assert_eq!(workflow["true"]["push"]["branches"], json!(["main"]));
    assert_eq!(workflow["permissions"], json!({}));
    workflow["jobs"]["deploy"].clone()
}

/// The endpoint at which a job requests its identity. It returns a token with this subject.
async fn fake_github(subject: &'static str) -> (JoinSet<()>, String) {
    let identity = move |headers: HeaderMap, uri: Uri| async move {
        if headers["authorization"] != format!("bearer {REQUEST_TOKEN}") {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let (_, audience) = uri.query().unwrap().split_once("&audience=").unwrap();
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": audience, "iat": 1, "exp": i32::MAX,
        });
        Ok(Json(json!({"count": 1, "value": signed(claims)})))
    };
    let router = Router::new().route("/token", get(identity));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/token?api-version=2.0",
        listener.local_addr().unwrap()
    );
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (serving, url)
}

/// The machine of a job, with its working directory.
struct Runner {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Runner {
    fn new(source: &str, github: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\nprintf '%s,%s' \"$DATABASE_URL\" \"$DEPLOY_TOKEN\" > deployed\n";
        let deploy = folder.path().join("deploy.sh");
        std::fs::write(&deploy, script).unwrap();
        std::fs::set_permissions(&deploy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let jwt = folder.path().join("identity.jwt").display().to_string();
        let programs = binary().parent().unwrap().display().to_string();
        let variables = vec![
            ("PATH", format!("{programs}:/usr/bin:/bin")),
            ("HOME", folder.path().display().to_string()),
            ("SECRETWELL_FROM", source.to_owned()),
            ("VAULT_JWT_FILE", jwt),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN.to_owned()),
            ("ACTIONS_ID_TOKEN_REQUEST_URL", github.to_owned()),
        ];
        Self { folder, variables }
    }

    /// Runs a script as GitHub does.
    fn run(&self, script: &str) -> Output {
        Command::new("bash")
            .args(["-e", "-c", script])
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap()
    }

    /// Runs all steps except the installation, as far as they succeed. Returns the name and the output of the failed
    /// step, and the output of all steps.
    fn run_steps(&self) -> (Option<(String, Output)>, String) {
        let (mut failed, mut log) = (None, String::new());
        for step in job()["steps"].as_array().unwrap() {
            let Some(script) = step["run"].as_str() else {
                continue;
            };
            let always = step["if"] == "always()";
            if script.starts_with("cargo install") || (failed.is_some() && !always) {
                continue;
            }
            let output = self.run(script);
            log += &(text(&output.stdout) + &text(&output.stderr));
            if !output.status.success() && failed.is_none() {
                failed = Some((step["name"].as_str().unwrap().to_owned(), output));
            }
        }
        (failed, log)
    }

    fn deployed(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("deployed")).ok()
    }

    fn has_identity(&self) -> bool {
        self.folder.path().join("identity.jwt").exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_deploys_with_the_identity_of_its_environment_only() {
    let bao = shared().await;
    let key = path("../../tests/fixtures/es256.pub.pem")
        .display()
        .to_string();
    let keys = [format!("jwt_validation_pubkeys=@{key}")];
    let script = "github-actions/vault-setup.sh";
    set_up(bao, script, ("GITHUB_REPOSITORY", "owner/name"), &keys);
    let token = "the token of the deployment, which is not a word";
    write(
        bao,
        "secret/data/deploy",
        json!({"DATABASE_URL": STRONG, "DEPLOY_TOKEN": token}),
    )
    .await;

    let workflow = read("github-actions/deploy.yml");
    let example = workflow
        .lines()
        .find_map(|line| line.split_once("such as vault://host:8200"));
    let source = format!("vault+http://{}{}", bao.address, example.unwrap().1);
    let (_github, url) = fake_github("repo:owner/name:environment:production").await;
    let runner = Runner::new(&source, &url);
    let (failed, log) = runner.run_steps();
    assert!(failed.is_none(), "{log}");
    assert_eq!(runner.deployed(), Some(format!("{STRONG},{token}")));
    assert!(!log.contains(STRONG) && !log.contains(token), "{log}");
    assert!(!runner.has_identity());

    // The identity of a pull request has another subject.
    let (_github, url) = fake_github("repo:owner/name:pull_request").await;
    let runner = Runner::new(&source, &url);
    let (failed, log) = runner.run_steps();
    let (step, output) = failed.unwrap();
    assert_eq!(
        (&*step, output.status.code()),
        ("Check the secrets", Some(77)),
        "{log}"
    );
    assert_eq!(runner.deployed(), None);
    assert!(!runner.has_identity());

    // If GitHub refuses the request, the job ends before it logs in.
    let mut runner = Runner::new(&source, &url);
    runner
        .variables
        .push(("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong".into()));
    let (failed, _) = runner.run_steps();
    assert_ne!(failed.unwrap().1.status.code(), Some(0));
    assert_eq!(runner.deployed(), None);
}

#[test]
fn job_has_only_the_permissions_that_it_needs() {
    let job = job();
    let permissions = json!({"contents": "read", "id-token": "write"});
    assert_eq!(job["permissions"], permissions);
    for step in job["steps"].as_array().unwrap() {
        let text = step.to_string();
        // A value in a step's environment file or output is visible to all later steps.
        assert!(
            !text.contains("GITHUB_ENV") && !text.contains("GITHUB_OUTPUT"),
            "{text}"
        );
        // An expression in a script is expanded before the shell reads it.
        let script = step["run"].as_str().unwrap_or_default();
        assert!(!script.contains("${{"), "{script}");
    }
}
