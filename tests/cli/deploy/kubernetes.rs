//! `docs/deploy/kubernetes`: the manifests, with a real OpenBao, a fake Infisical and a fake Kubernetes API.

use axum::routing::post;
use axum::{Json, Router};
use secretwell_testkit::infisical::{FakeInfisical, Identity, Role};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::super::{secretwell, text};
use super::{STRONG, Server, command, option, path, read, set_up, strings, write, yaml};
use crate::vault::login::signed;
use crate::vault::server::shared;

const MANIFESTS: [&str; 2] = ["kubernetes/vault.yaml", "kubernetes/infisical.yaml"];

/// Returns the pod template of the Deployment in a manifest.
fn pod(manifest: &str) -> Value {
    let documents = yaml(manifest);
    let deployment = documents
        .iter()
        .find(|document| document["kind"] == "Deployment");
    deployment.unwrap()["spec"]["template"]["spec"].clone()
}

fn containers(pod: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers"].into_iter();
    lists
        .flat_map(|list| pod[list].as_array().unwrap())
        .collect()
}

/// Returns the plain values of a container's variables. `$(NAME)` is replaced as Kubernetes does it.
fn environment(container: &Value, config: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for entry in container["env"].as_array().unwrap() {
        let value = match entry["value"].as_str() {
            Some(value) => variables
                .iter()
                .fold(value.to_owned(), |value, (name, known)| {
                    value.replace(&format!("$({name})"), known)
                }),
            None => {
                let key = entry["valueFrom"]["configMapKeyRef"]["key"]
                    .as_str()
                    .unwrap();
                let (_, value) = config.iter().find(|(name, _)| *name == key).unwrap();
                (*value).to_owned()
            }
        };
        assert!(!value.contains("$("), "{value}");
        variables.push((entry["name"].as_str().unwrap().to_owned(), value));
    }
    variables
}

/// Runs a container's command with these variables, and these changes of `SECRETWELL_FROM`.
fn run_container(
    container: &Value,
    variables: &[(String, String)],
    changes: &[(&str, &str)],
) -> Command {
    let mut line = strings(&container["command"]);
    if let Some(arguments) = container["args"].as_array() {
        line.extend(
            arguments
                .iter()
                .map(|word| word.as_str().unwrap().to_owned()),
        );
    }
    let mut command = command(&line);
    for (name, value) in variables {
        let mut value = value.clone();
        if name == "SECRETWELL_FROM" {
            for (from, to) in changes {
                assert!(value.contains(from), "{value} does not contain {from}");
                value = value.replace(from, to);
            }
        }
        command.env(name, value);
    }
    command
}

/// Runs the init container. Returns its exit status and its output.
async fn check(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().await.unwrap();
    let output = (
        output.status.code(),
        text(&output.stdout) + &text(&output.stderr),
    );
    assert!(!output.1.contains(STRONG), "{}", output.1);
    output
}

#[test]
fn references_inside_of_the_manifests_are_consistent() {
    for manifest in MANIFESTS {
        let documents = yaml(manifest);
        let kinds: Vec<&str> = documents
            .iter()
            .map(|document| document["kind"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["ServiceAccount", "Deployment", "Service"],
            "{manifest}"
        );
        let [account, deployment, service] = [&documents[0], &documents[1], &documents[2]];
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
        assert_eq!(&service["spec"]["selector"], labels);
        let pod = pod(manifest);
        assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let volumes = pod["volumes"].as_array().unwrap();
        for container in containers(&pod) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
            let mounts = container["volumeMounts"].as_array().unwrap();
            assert_eq!(mounts.len(), volumes.len());
            for mount in mounts {
                assert!(
                    volumes.iter().any(|volume| volume["name"] == mount["name"]),
                    "{mount}"
                );
                assert!(
                    mount["subPath"].is_null(),
                    "a mount with subPath is never updated"
                );
            }
            // The file in the URL is the projected token.
            let token = volumes
                .iter()
                .find(|volume| volume["projected"].is_object())
                .unwrap();
            let mount = mounts
                .iter()
                .find(|mount| mount["name"] == token["name"])
                .unwrap();
            let source = &token["projected"]["sources"][0]["serviceAccountToken"];
            let file = format!(
                "{}/{}",
                mount["mountPath"].as_str().unwrap(),
                source["path"].as_str().unwrap()
            );
            let config = [("identity", "x"), ("project", "x")];
            let variables = environment(container, &config);
            let (_, url) = variables
                .iter()
                .find(|(name, _)| name == "SECRETWELL_FROM")
                .unwrap();
            assert!(url.ends_with(&format!("jwt_file={file}")), "{url} {file}");
        }
    }
    let audience = &pod(MANIFESTS[0])["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]
        ["audience"];
    let role = format!("audience={}", audience.as_str().unwrap());
    assert!(read("kubernetes/vault-setup.sh").contains(&role));
}

/// A probe that fails too early restarts a pod whose secrets are late, or whose program restarts.
#[test]
fn probes_are_longer_than_the_waits_of_the_command() {
    for manifest in MANIFESTS {
        let pod = pod(manifest);
        let container = &pod["containers"][0];
        let line = strings(&container["command"]);
        let time = |name| {
            humantime::parse_duration(option(&line, name).unwrap())
                .unwrap()
                .as_secs()
        };
        let limit = |probe: &str| {
            let probe = &container[probe];
            probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap()
        };
        assert!(limit("startupProbe") > time("--wait") + 30);
        assert!(limit("livenessProbe") > time("--stop-timeout") + 30);
        let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            .as_u64()
            .unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > pause + time("--stop-timeout"));
    }
}

/// A Kubernetes API that accepts one token, as long as the audience of the review is that of the token.
async fn fake_kubernetes(jwt: String, audience: &'static str) -> (JoinSet<()>, String) {
    let review = move |Json(review): Json<Value>| {
        let spec = &review["spec"];
        let authenticated = spec["token"] == jwt && spec["audiences"] == json!([audience]);
        let user = json!({"username": "system:serviceaccount:app:app", "uid": "1", "groups": []});
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "status": {"authenticated": authenticated, "user": user, "audiences": [audience]},
        });
        async move { Json(review) }
    };
    let router = Router::new().route("/apis/authentication.k8s.io/v1/tokenreviews", post(review));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (serving, address)
}

/// Returns a token of the service account `app` in this namespace.
fn service_account_token(namespace: &str, audience: &str) -> String {
    signed(json!({
        "iss": "https://kubernetes.default.svc",
        "sub": format!("system:serviceaccount:{namespace}:app"),
        "aud": [audience],
        "nbf": 1,
        "iat": 1,
        "exp": i32::MAX,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": "app", "uid": "1"}},
    }))
}

/// The mount of a token, as a directory.
fn token_file(token: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let file = file.display().to_string();
    (folder, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_logs_in_to_a_real_server_with_its_projected_token() {
    let bao = shared().await;
    let token = service_account_token("app", "vault");
    let (_serving, api) = fake_kubernetes(token.clone(), "vault").await;
    let certificate = path("../../tests/fixtures/ca.pem").display().to_string();
    let outside = [
        format!("kubernetes_ca_cert=@{certificate}"),
        format!("token_reviewer_jwt={token}"),
        "disable_local_ca_jwt=true".to_owned(),
    ];
    set_up(
        bao,
        "kubernetes/vault-setup.sh",
        ("KUBERNETES_HOST", &api),
        &outside,
    );

    let (_folder, file) = token_file(&token);
    let address = format!("vault+http://{}", bao.address);
    let changes = [
        ("vault://vault.vault.svc:8200", &*address),
        ("/var/run/secrets/tokens/vault", &*file),
    ];
    let pod = pod("kubernetes/vault.yaml");
    // The test server has no TLS.
    let variables = |container| {
        let mut variables = environment(container, &[]);
        variables.retain(|(name, _)| name != "VAULT_CACERT");
        variables
    };
    let (init, app) = (&pod["initContainers"][0], &pod["containers"][0]);
    let init = || run_container(init, &variables(init), &changes);

    // Nothing is stored yet, and then a weak secret. The init container stops the rollout and names the reason.
    let (status, output) = check(init()).await;
    assert_eq!(status, Some(66), "{output}");
    write(bao, "secret/data/app", json!({"AUTH_SECRET": "changeme"})).await;
    let (status, output) = check(init()).await;
    assert_eq!(status, Some(65), "{output}");
    assert!(output.contains("AUTH_SECRET"), "{output}");

    write(
        bao,
        "secret/data/app",
        json!({"AUTH_SECRET": STRONG, "OTHER": "x"}),
    )
    .await;
    let (status, output) = check(init()).await;
    assert_eq!(status, Some(0), "{output}");
    let mut server = Server::start(run_container(app, &variables(app), &changes));
    server.assert_signs_with(STRONG).await;
    assert_eq!(server.terminate().await.code(), Some(0));

    // The policy allows nothing else.
    let (_, url) = variables(app)
        .into_iter()
        .find(|(name, _)| name == "SECRETWELL_FROM")
        .unwrap();
    let url = changes
        .iter()
        .fold(url, |url, (from, to)| url.replace(from, to));
    let other = url.replace("/secret/app?", "/secret/other?");
    write(bao, "secret/data/other", json!({"AUTH_SECRET": STRONG})).await;
    let output = secretwell(["get", "AUTH_SECRET", "--from", &other])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", text(&output.stderr));

    // Neither the token of another namespace nor one for another audience logs in.
    for token in [
        service_account_token("other", "vault"),
        service_account_token("app", "other"),
    ] {
        std::fs::write(&file, token).unwrap();
        let output = secretwell(["get", "AUTH_SECRET", "--from", &url])
            // A refusal is temporary at first, because the Kubernetes API might be down.
            .env("VAULT_CLIENT_TIMEOUT", "3s")
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(69 | 77)), "{stderr}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_logs_in_to_infisical_with_its_projected_token() {
    let fake = FakeInfisical::start().await;
    let project = fake.project("demo");
    fake.environment(&project, "prod");
    fake.folder(&project, "prod", "/app");
    let identity = fake.identity(Identity::new().member(&project, Role::Admin));
    let token = service_account_token("app", "infisical");
    fake.accept_jwt(&identity.identity_id, "kubernetes-auth", &token);
    let (_folder, file) = token_file(&token);
    let address = fake.url().replace("http://", "infisical+http://");
    let changes = [
        ("infisical://app.infisical.com", &*address),
        ("/var/run/secrets/tokens/infisical", &*file),
    ];
    let pod = pod("kubernetes/infisical.yaml");
    let (init, app) = (&pod["initContainers"][0], &pod["containers"][0]);
    let variables = |container, project| {
        environment(
            container,
            &[("identity", &identity.identity_id), ("project", project)],
        )
    };
    let (status, output) = check(run_container(init, &variables(init, "demo"), &changes)).await;
    assert_eq!(status, Some(66), "{output}");
    let (status, output) = check(run_container(
        init,
        &variables(init, "no-such-project"),
        &changes,
    ))
    .await;
    assert_eq!(status, Some(78), "{output}");

    fake.set(&project, "prod", "/app", "AUTH_SECRET", STRONG);
    let (status, output) = check(run_container(init, &variables(init, "demo"), &changes)).await;
    assert_eq!(status, Some(0), "{output}");
    let mut server = Server::start(run_container(app, &variables(app, "demo"), &changes));
    server.assert_signs_with(STRONG).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    std::fs::write(&file, service_account_token("app", "other")).unwrap();
    let (status, output) = check(run_container(init, &variables(init, "demo"), &changes)).await;
    assert_eq!(status, Some(77), "{output}");
}
