//! Each way to log in, and what becomes of a token.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use secretwell::vault::{ClientConfig, Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::server::{Bao, Proxy, shared, unique};
use crate::support::{answer, key, remote_faults, secs};

/// A mount with one secret, a policy to read it, and a proxy that counts.
pub(super) struct Stage {
    pub(super) bao: &'static Bao,
    proxy: FaultProxy,
    pub(super) name: String,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let bao = shared().await;
        let name = unique("login");
        bao.mount(&name, 2).await;
        let secret = json!({"data": {"A": "value"}});
        bao.root("POST", &format!("{name}/data/app"), secret).await;
        let rules = format!("path \"{name}/data/*\" {{ capabilities = [\"read\"] }}");
        bao.policy(&name, &rules).await;
        Self {
            proxy: FaultProxy::start(bao.address).await,
            bao,
            name,
        }
    }

    /// Turns a login method on, at a mount of its own.
    pub(super) async fn method(&self, kind: &str) {
        let path = format!("sys/auth/{}", self.name);
        self.bao.root("POST", &path, json!({"type": kind})).await;
    }

    pub(super) async fn root(&self, path: &str, body: Value) -> Value {
        let path = format!("auth/{}/{path}", self.name);
        self.bao.root("POST", &path, body).await
    }

    pub(super) fn provider(&self, auth: VaultAuth) -> VaultProvider {
        self.provider_with(auth, |client| client)
    }

    fn provider_with(
        &self,
        auth: VaultAuth,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> VaultProvider {
        VaultProvider::builder([format!("http://{}", self.proxy.address())], auth)
            .unwrap()
            .mount(&self.name)
            .path("app")
            .kv_version(KvVersion::V2)
            .client(change)
            .build()
            .unwrap()
    }

    pub(super) fn logins(&self) -> usize {
        self.proxy.count("POST /v1/auth/") - self.renewals()
    }

    pub(super) fn renewals(&self) -> usize {
        self.proxy.count("POST /v1/auth/token/renew-self")
    }

    /// An AppRole whose tokens are made like this, and its ids.
    pub(super) async fn app_role(&self, settings: Value) -> (String, String) {
        self.method("approle").await;
        let mut settings = settings;
        settings["token_policies"] = json!([self.name]);
        self.root("role/app", settings).await;
        let path = format!("auth/{}/role/app/role-id", self.name);
        let role_id = self.bao.root("GET", &path, Value::Null).await;
        let secret_id = self.root("role/app/secret-id", json!({})).await;
        (text(&role_id, "role_id"), text(&secret_id, "secret_id"))
    }

    /// A token of its own, made like this.
    async fn token(&self, settings: Value) -> String {
        let mut settings = settings;
        settings["policies"] = json!([self.name]);
        let answer = self.bao.root("POST", "auth/token/create", settings).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }
}

fn text(answer: &Value, field: &str) -> String {
    answer["data"][field].as_str().unwrap().to_owned()
}

pub(super) async fn assert_reads(provider: &VaultProvider) {
    let secret = provider.get(&key("A")).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "value");
}

async fn assert_refused(provider: &VaultProvider) {
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn a_token_at_hand_or_in_a_file_that_is_replaced() {
    let stage = Stage::new().await;
    let first = stage.token(json!({})).await;
    assert_reads(&stage.provider(VaultAuth::token(Credential::value(first.as_str())))).await;
    let bad = stage.provider(VaultAuth::token(Credential::value("no-such-token")));
    assert_refused(&bad).await;

    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{first}\n")).unwrap();
    let provider = stage.provider(VaultAuth::token(Credential::file(file.path())));
    assert_reads(&provider).await;
    let revoke = json!({"token": first});
    stage.bao.root("POST", "auth/token/revoke", revoke).await;
    let second = stage.token(json!({})).await;
    std::fs::write(file.path(), second).unwrap();
    assert_reads(&provider).await;
}

#[tokio::test]
async fn a_token_that_may_not_ask_about_itself_is_good_all_the_same() {
    let stage = Stage::new().await;
    let token = stage.token(json!({"no_default_policy": true})).await;
    let provider = stage.provider(VaultAuth::token(Credential::value(token.as_str())));
    assert_reads(&provider).await;
    provider.health().await.unwrap();
}

#[tokio::test]
async fn app_role_with_a_secret_id_at_hand_in_a_file_or_wrapped() {
    let stage = Stage::new().await;
    let (role_id, secret_id) = stage.app_role(json!({})).await;
    let at_hand =
        VaultAuth::app_role(&role_id, Credential::value(secret_id.as_str())).mount(&stage.name);
    assert_reads(&stage.provider(at_hand)).await;

    // Not there yet, and then there.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret-id");
    let in_a_file = VaultAuth::app_role(&role_id, Credential::file(&path)).mount(&stage.name);
    let provider = stage.provider(in_a_file);
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(
        error.is_temporary() && error.to_string().contains("secret-id"),
        "{error}"
    );
    std::fs::write(&path, &secret_id).unwrap();
    assert_reads(&provider).await;

    let wrapped = wrapped_secret_id(&stage).await;
    let auth = VaultAuth::app_role_wrapped(&role_id, Credential::value(wrapped.as_str()));
    let provider = stage.provider(auth.clone().mount(&stage.name));
    assert_reads(&provider).await;
    // Its secret id is kept, so that a later login needs no wrapping token.
    let prefix = format!("sys/leases/revoke-prefix/auth/{}/login", stage.name);
    stage.bao.root("POST", &prefix, json!({"sync": true})).await;
    assert_reads(&provider).await;
    assert_eq!(stage.proxy.count("POST /v1/sys/wrapping/unwrap"), 1);
    // Another finds the token used, and says so.
    let thief = stage.provider(auth.mount(&stage.name));
    for _ in 0..5 {
        let error = thief.get(&key("A")).await.unwrap_err();
        let told = error.to_string();
        assert!(told.contains("somebody has used it"), "{error}");
    }
    // And does not try it at each read.
    assert_eq!(stage.proxy.count("POST /v1/sys/wrapping/unwrap"), 2);
}

async fn wrapped_secret_id(stage: &Stage) -> String {
    let url = format!(
        "http://{}/v1/auth/{}/role/app/secret-id",
        stage.bao.address, stage.name
    );
    let request = reqwest::Client::new()
        .post(url)
        .header("x-vault-token", super::server::ROOT)
        .header("x-vault-wrap-ttl", "60s");
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["wrap_info"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn user_name_and_password() {
    let stage = Stage::new().await;
    stage.method("userpass").await;
    let settings = json!({"password": "pass \"word\"", "token_policies": [stage.name]});
    stage.root("users/me", settings).await;
    let auth = |password| VaultAuth::userpass("me", Credential::value(password)).mount(&stage.name);
    assert_reads(&stage.provider(auth("pass \"word\""))).await;
    assert_refused(&stage.provider(auth("password"))).await;
}

const SIGNING_KEY: &[u8] = include_bytes!("../fixtures/es256.pem");
const VERIFYING_KEY: &str = include_str!("../fixtures/es256.pub.pem");

pub(super) fn signed(claims: Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_ec_pem(SIGNING_KEY).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// A JWT for the role `app`.
pub(super) fn claims(audience: &str, expires: i64) -> Value {
    json!({"iss": "tests", "sub": "service", "aud": audience, "exp": expires, "iat": 1})
}

impl Stage {
    /// A login by JWT whose tokens are made like this.
    pub(super) async fn jwt(&self, settings: Value) {
        self.method("jwt").await;
        let keys = json!({"jwt_validation_pubkeys": [VERIFYING_KEY], "bound_issuer": "tests"});
        self.root("config", keys).await;
        let mut role = settings;
        role["role_type"] = json!("jwt");
        role["bound_audiences"] = json!(["vault"]);
        role["user_claim"] = json!("sub");
        role["token_policies"] = json!([self.name]);
        self.root("role/app", role).await;
    }

    /// A login by Kubernetes whose tokens are made like this, with a cluster that serves until it is
    /// dropped.
    pub(super) async fn kubernetes(&self, settings: Value) -> JoinSet<()> {
        self.method("kubernetes").await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = listener.local_addr().unwrap();
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let router = Router::new().route(path, post(token_review));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let config = json!({
            "kubernetes_host": format!("http://{cluster}"),
            "token_reviewer_jwt": signed_by_the_cluster(),
            "disable_local_ca_jwt": true,
            "kubernetes_ca_cert": include_str!("../fixtures/ca.pem"),
        });
        self.root("config", config).await;
        let mut role = settings;
        role["bound_service_account_names"] = json!("app");
        role["bound_service_account_namespaces"] = json!("default");
        role["token_policies"] = json!([self.name]);
        self.root("role/app", role).await;
        serving
    }
}

#[tokio::test]
async fn a_jwt_that_is_read_anew_for_each_login() {
    let stage = Stage::new().await;
    stage.jwt(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), signed(claims("other", i64::from(i32::MAX)))).unwrap();
    let provider =
        stage.provider(VaultAuth::jwt("app", Credential::file(file.path())).mount(&stage.name));
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(error.to_string().contains("another audience"), "{error}");
    std::fs::write(file.path(), signed(claims("vault", 1_000))).unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    std::fs::write(file.path(), signed(claims("vault", i64::from(i32::MAX)))).unwrap();
    assert_reads(&provider).await;
}

/// The part of a cluster that Vault asks about service accounts.
async fn token_review(Json(review): Json<Value>) -> Json<Value> {
    let jwt = review["spec"]["token"].as_str().unwrap();
    let known = jwt.ends_with(signed_by_the_cluster().rsplit('.').next().unwrap());
    let status = json!({
        "authenticated": known,
        "user": {
            "username": "system:serviceaccount:default:app",
            "uid": "1",
            "groups": ["system:serviceaccounts"],
        },
    });
    Json(json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}))
}

pub(super) fn signed_by_the_cluster() -> &'static str {
    static JWT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    JWT.get_or_init(|| {
        signed(json!({
            "iss": "kubernetes/serviceaccount",
            "sub": "system:serviceaccount:default:app",
            "kubernetes.io/serviceaccount/namespace": "default",
            "kubernetes.io/serviceaccount/service-account.name": "app",
            "kubernetes.io/serviceaccount/service-account.uid": "1",
        }))
    })
}

#[tokio::test]
async fn the_service_account_of_a_pod() {
    let stage = Stage::new().await;
    let mut cluster = stage.kubernetes(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), signed_by_the_cluster()).unwrap();
    let auth = VaultAuth::kubernetes_with("app", Credential::file(file.path())).mount(&stage.name);
    assert_reads(&stage.provider(auth.clone())).await;

    // The cluster's API is down: Vault says 403, and it is no refusal yet.
    cluster.shutdown().await;
    let error = stage.provider(auth).get(&key("A")).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(error.to_string().contains("cluster"), "{error}");
}

#[tokio::test]
async fn an_agent_in_front_needs_no_login_of_ours() {
    let stage = Stage::new().await;
    // Without an agent there is nobody who adds a token.
    let provider = stage.provider(VaultAuth::agent());
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(stage.logins(), 0);

    let (role_id, secret_id) = stage.app_role(json!({})).await;
    let proxy = Proxy::start(stage.bao, &stage.name, &role_id, &secret_id).await;
    let address = format!("unix://{}", proxy.socket.display());
    let provider = VaultProvider::builder([address], VaultAuth::agent())
        .unwrap()
        .mount(&stage.name)
        .path("app")
        .build()
        .unwrap();
    // It takes a moment to start, which is like any outage.
    while let Err(error) = provider.get(&key("A")).await {
        assert!(error.is_temporary(), "{error}");
    }
    assert_reads(&provider).await;
}

#[tokio::test]
async fn a_hundred_callers_with_a_token_that_was_revoked_cause_one_login() {
    let stage = Stage::new().await;
    let (role_id, secret_id) = stage.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&stage.name);
    let provider = Arc::new(stage.provider(auth));
    assert_reads(&provider).await;
    let prefix = format!("sys/leases/revoke-prefix/auth/{}/login", stage.name);
    stage.bao.root("POST", &prefix, json!({"sync": true})).await;

    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let provider = provider.clone();
        callers.spawn(async move { assert_reads(&provider).await });
    }
    callers.join_all().await;
    assert_eq!(stage.logins(), 2);
}

#[tokio::test]
async fn a_wrong_secret_id_costs_one_login_until_it_changes() {
    let stage = Stage::new().await;
    let (role_id, secret_id) = stage.app_role(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong").unwrap();
    let auth = VaultAuth::app_role(&role_id, Credential::file(file.path())).mount(&stage.name);
    let provider = stage.provider(auth);
    for _ in 0..20 {
        assert_refused(&provider).await;
    }
    assert_eq!(stage.logins(), 1);
    std::fs::write(file.path(), secret_id).unwrap();
    assert_reads(&provider).await;
    assert_eq!(stage.logins(), 2);
}

#[tokio::test]
async fn a_missing_permission_is_no_bad_token() {
    let stage = Stage::new().await;
    let (role_id, secret_id) = stage.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&stage.name);
    let provider = stage.provider(auth);
    assert_reads(&provider).await;
    stage
        .bao
        .policy(&stage.name, "path \"none\" { capabilities = [\"read\"] }")
        .await;
    for _ in 0..10 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(stage.logins(), 1);
}

#[tokio::test]
async fn many_keys_of_few_secrets_cost_one_read_each_after_one_login() {
    let stage = Stage::new().await;
    let mut keys = Vec::new();
    for secret in 0..10 {
        let fields: serde_json::Map<String, Value> = (0..10)
            .map(|field| (format!("F{field}"), json!(format!("{secret}.{field}"))))
            .collect();
        let path = format!("{}/data/app/s{secret}", stage.name);
        stage.bao.root("POST", &path, json!({"data": fields})).await;
        keys.extend((0..10).map(|field| key(&format!("s{secret}/F{field}"))));
    }
    let (role_id, secret_id) = stage.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&stage.name);
    let provider = stage.provider(auth);
    for (key, answer) in keys.iter().zip(provider.get_many(&keys).await) {
        let value = answer.unwrap().value;
        let expected = key.as_str().replace("/F", ".").replace('s', "");
        assert_eq!(value.expose_text().unwrap(), expected);
    }
    let reads = format!("GET /v1/{}/data/", stage.name);
    assert_eq!((stage.logins(), stage.proxy.count(&reads)), (1, 10));
    assert_eq!(stage.proxy.requests().len(), 11);
}

#[tokio::test]
async fn faults_are_typed_within_the_deadline_and_leave_nothing_behind() {
    let stage = Stage::new().await;
    let token = stage.token(json!({})).await;
    let provider = stage.provider_with(
        VaultAuth::token(Credential::value(token.as_str())),
        |client| {
            client
                .deadline(Duration::from_millis(2500))
                .attempt_timeout(Duration::from_secs(2))
                .max_bytes(1 << 20)
        },
    );
    assert_reads(&provider).await;
    let elsewhere = FaultProxy::start(stage.bao.address).await;
    let redirect = format!("http://{}/v1/{}/data/app", elsewhere.address(), stage.name);
    let twice = r#"{"data":{"data":{"A":"1","A":"2"},"metadata":{"version":1}}}"#;
    let of_vault = [
        (
            "bad chunk",
            answer("200 OK\r\ntransfer-encoding: chunked", "zz\r\n"),
            ErrorKind::Unavailable,
        ),
        (
            "sealed",
            answer("503 No", r#"{"errors":["Vault is sealed"]}"#),
            ErrorKind::Unavailable,
        ),
    ];
    let faults = remote_faults("data", twice, &redirect, 300);
    for (name, fault, kind) in faults.into_iter().chain(of_vault) {
        stage.proxy.set(fault);
        let started = Instant::now();
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(
            started.elapsed() < secs(5),
            "{name}: {:?}",
            started.elapsed()
        );
        stage.proxy.set(Fault::None);
        assert_reads(&provider).await;
    }
    assert!(
        elsewhere.requests().is_empty(),
        "no token leaves the configured servers"
    );
}
