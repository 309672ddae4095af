//! The login methods, and the handling of tokens.

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
use crate::support::{key, remote_faults, response, secs};

/// A mount with one secret, a policy to read it, and a proxy that counts requests.
pub(super) struct Fixture {
    pub(super) bao: &'static Bao,
    pub(super) proxy: FaultProxy,
    pub(super) name: String,
}

impl Fixture {
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

    /// Starts an agent that adds its token to requests. Returns it with a provider that reads through it.
    pub(super) async fn agent(&self) -> (Proxy, VaultProvider) {
        let (role_id, secret_id) = self.app_role(json!({})).await;
        let proxy = Proxy::start(self.bao, &self.name, &role_id, &secret_id).await;
        let address = format!("unix://{}", proxy.socket.display());
        let provider = VaultProvider::builder([address], VaultAuth::agent())
            .unwrap()
            .mount(&self.name)
            .path("app")
            .build()
            .unwrap();
        // Until the proxy has started, reads fail with a temporary error. Until it has logged in, it forwards
        // requests without a token.
        let started = async {
            while let Err(error) = provider.get(&key("A")).await {
                let is_expected = error.is_temporary() || error.kind() == ErrorKind::Denied;
                assert!(is_expected, "{error}");
            }
        };
        tokio::time::timeout(secs(30), started).await.unwrap();
        (proxy, provider)
    }

    /// Enables a login method at the mount with the fixture's name.
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

    /// Creates an AppRole with these settings for its tokens, and returns its role id and secret id.
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

    /// Creates a token with these settings.
    pub(super) async fn token(&self, settings: Value) -> String {
        let mut settings = settings;
        settings["policies"] = json!([self.name]);
        let response = self.bao.root("POST", "auth/token/create", settings).await;
        response["auth"]["client_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn text(response: &Value, field: &str) -> String {
    response["data"][field].as_str().unwrap().to_owned()
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
async fn token_login_from_a_value_or_a_replaced_file() {
    let fixture = Fixture::new().await;
    let first = fixture.token(json!({})).await;
    assert_reads(&fixture.provider(VaultAuth::token(Credential::value(first.as_str())))).await;
    let bad = fixture.provider(VaultAuth::token(Credential::value("no-such-token")));
    assert_refused(&bad).await;

    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{first}\n")).unwrap();
    let provider = fixture.provider(VaultAuth::token(Credential::file(file.path())));
    assert_reads(&provider).await;
    let revoke = json!({"token": first});
    fixture.bao.root("POST", "auth/token/revoke", revoke).await;
    let second = fixture.token(json!({})).await;
    std::fs::write(file.path(), second).unwrap();
    assert_reads(&provider).await;
}

#[tokio::test]
async fn token_without_permission_to_look_itself_up_is_accepted() {
    let fixture = Fixture::new().await;
    let token = fixture.token(json!({"no_default_policy": true})).await;
    let provider = fixture.provider(VaultAuth::token(Credential::value(token.as_str())));
    assert_reads(&provider).await;
    provider.health().await.unwrap();
}

#[tokio::test]
async fn app_role_login_from_a_value_a_file_or_a_wrapped_secret_id() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let from_value =
        VaultAuth::app_role(&role_id, Credential::value(secret_id.as_str())).mount(&fixture.name);
    assert_reads(&fixture.provider(from_value)).await;

    // The file is created after the first read.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret-id");
    let from_file = VaultAuth::app_role(&role_id, Credential::file(&path)).mount(&fixture.name);
    let provider = fixture.provider(from_file);
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(
        error.is_temporary() && error.to_string().contains("secret-id"),
        "{error}"
    );
    std::fs::write(&path, &secret_id).unwrap();
    assert_reads(&provider).await;

    let wrapped = wrapped_secret_id(&fixture).await;
    let auth = VaultAuth::app_role_wrapped(&role_id, Credential::value(wrapped.as_str()));
    let provider = fixture.provider(auth.clone().mount(&fixture.name));
    assert_reads(&provider).await;
    // The secret id stays in memory, so that a later login needs no wrapping token.
    let prefix = format!("sys/leases/revoke-prefix/auth/{}/login", fixture.name);
    fixture
        .bao
        .root("POST", &prefix, json!({"sync": true}))
        .await;
    assert_reads(&provider).await;
    assert_eq!(fixture.proxy.count("POST /v1/sys/wrapping/unwrap"), 1);
    // Another provider reports that the token was used.
    let second = fixture.provider(auth.mount(&fixture.name));
    for _ in 0..5 {
        let error = second.get(&key("A")).await.unwrap_err();
        assert!(error.to_string().contains("was used already"), "{error}");
    }
    // It does not repeat the attempt at each read.
    assert_eq!(fixture.proxy.count("POST /v1/sys/wrapping/unwrap"), 2);
}

pub(super) async fn wrapped_secret_id(fixture: &Fixture) -> String {
    let url = format!(
        "http://{}/v1/auth/{}/role/app/secret-id",
        fixture.bao.address, fixture.name
    );
    let request = reqwest::Client::new()
        .post(url)
        .header("x-vault-token", super::server::ROOT)
        .header("x-vault-wrap-ttl", "60s");
    let response: Value = request.send().await.unwrap().json().await.unwrap();
    response["wrap_info"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn userpass_login() {
    let fixture = Fixture::new().await;
    fixture.method("userpass").await;
    let settings = json!({"password": "pass \"word\"", "token_policies": [fixture.name]});
    fixture.root("users/me", settings).await;
    let auth =
        |password| VaultAuth::userpass("me", Credential::value(password)).mount(&fixture.name);
    assert_reads(&fixture.provider(auth("pass \"word\""))).await;
    assert_refused(&fixture.provider(auth("password"))).await;
}

const SIGNING_KEY: &[u8] = include_bytes!("../fixtures/es256.pem");
const VERIFYING_KEY: &str = include_str!("../fixtures/es256.pub.pem");

pub(crate) fn signed(claims: Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_ec_pem(SIGNING_KEY).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// Returns the claims of a JWT for the role `app`.
pub(super) fn claims(audience: &str, expires: i64) -> Value {
    json!({"iss": "tests", "sub": "service", "aud": audience, "exp": expires, "iat": 1})
}

impl Fixture {
    /// Enables the JWT login with these settings for its tokens.
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

    /// Enables the Kubernetes login with these settings for its tokens. Dropping the returned task stops the
    /// fake Kubernetes API.
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
async fn jwt_login_reads_the_file_again_for_each_login() {
    let fixture = Fixture::new().await;
    fixture.jwt(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), signed(claims("other", i64::from(i32::MAX)))).unwrap();
    let provider =
        fixture.provider(VaultAuth::jwt("app", Credential::file(file.path())).mount(&fixture.name));
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(error.to_string().contains("another audience"), "{error}");
    std::fs::write(file.path(), signed(claims("vault", 1_000))).unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    std::fs::write(file.path(), signed(claims("vault", i64::from(i32::MAX)))).unwrap();
    assert_reads(&provider).await;
}

/// The Kubernetes endpoint that Vault calls to check the token of a service account.
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
async fn kubernetes_login_treats_an_api_outage_as_temporary() {
    let fixture = Fixture::new().await;
    let mut cluster = fixture.kubernetes(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), signed_by_the_cluster()).unwrap();
    let auth =
        VaultAuth::kubernetes_with("app", Credential::file(file.path())).mount(&fixture.name);
    assert_reads(&fixture.provider(auth.clone())).await;

    // Vault responds with 403 if the Kubernetes API is down. The error is temporary at first.
    cluster.shutdown().await;
    let error = fixture.provider(auth).get(&key("A")).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(error.to_string().contains("cluster"), "{error}");
}

#[tokio::test]
async fn agent_adds_the_token_without_a_login() {
    let fixture = Fixture::new().await;
    // Without an agent, the request has no token.
    let provider = fixture.provider(VaultAuth::agent());
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(fixture.logins(), 0);

    let (_proxy, provider) = fixture.agent().await;
    assert_reads(&provider).await;
}

#[tokio::test]
async fn concurrent_callers_with_a_revoked_token_share_one_login() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = Arc::new(fixture.provider(auth));
    assert_reads(&provider).await;
    let prefix = format!("sys/leases/revoke-prefix/auth/{}/login", fixture.name);
    fixture
        .bao
        .root("POST", &prefix, json!({"sync": true}))
        .await;

    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let provider = provider.clone();
        callers.spawn(async move { assert_reads(&provider).await });
    }
    callers.join_all().await;
    assert_eq!(fixture.logins(), 2);
}

#[tokio::test]
async fn wrong_secret_id_is_not_sent_again_until_it_changes() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong").unwrap();
    let auth = VaultAuth::app_role(&role_id, Credential::file(file.path())).mount(&fixture.name);
    let provider = fixture.provider(auth);
    for _ in 0..20 {
        assert_refused(&provider).await;
    }
    assert_eq!(fixture.logins(), 1);
    std::fs::write(file.path(), secret_id).unwrap();
    assert_reads(&provider).await;
    assert_eq!(fixture.logins(), 2);
}

#[tokio::test]
async fn missing_permission_does_not_cause_a_login() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = fixture.provider(auth);
    assert_reads(&provider).await;
    fixture
        .bao
        .policy(&fixture.name, "path \"none\" { capabilities = [\"read\"] }")
        .await;
    for _ in 0..10 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(fixture.logins(), 1);
}

#[tokio::test]
async fn keys_of_one_secret_share_one_read() {
    let fixture = Fixture::new().await;
    let mut keys = Vec::new();
    for secret in 0..10 {
        let fields: serde_json::Map<String, Value> = (0..10)
            .map(|field| (format!("F{field}"), json!(format!("{secret}.{field}"))))
            .collect();
        let path = format!("{}/data/app/s{secret}", fixture.name);
        fixture
            .bao
            .root("POST", &path, json!({"data": fields}))
            .await;
        keys.extend((0..10).map(|field| key(&format!("s{secret}/F{field}"))));
    }
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = fixture.provider(auth);
    for (key, result) in keys.iter().zip(provider.get_many(&keys).await) {
        let value = result.unwrap().value;
        let expected = key.as_str().replace("/F", ".").replace('s', "");
        assert_eq!(value.expose_text().unwrap(), expected);
    }
    let reads = format!("GET /v1/{}/data/", fixture.name);
    assert_eq!((fixture.logins(), fixture.proxy.count(&reads)), (1, 10));
    // The login needs the id of the cluster.
    assert_eq!(fixture.proxy.count("GET /v1/sys/health"), 1);
    assert_eq!(fixture.proxy.requests().len(), 12);
}

#[tokio::test]
async fn faults_cause_the_expected_error_kind_within_the_deadline() {
    let fixture = Fixture::new().await;
    let token = fixture.token(json!({})).await;
    let provider = fixture.provider_with(
        VaultAuth::token(Credential::value(token.as_str())),
        |client| {
            client
                .deadline(Duration::from_millis(2500))
                .attempt_timeout(Duration::from_secs(2))
                .max_bytes(1 << 20)
        },
    );
    assert_reads(&provider).await;
    let other = FaultProxy::start(fixture.bao.address).await;
    let redirect = format!("http://{}/v1/{}/data/app", other.address(), fixture.name);
    let duplicate = r#"{"lease_id":"","data":{"data":{"A":"1","A":"2"},"metadata":{"version":1}}}"#;
    let vault_faults = [
        (
            "bad chunk",
            response("200 OK\r\ntransfer-encoding: chunked", "zz\r\n"),
            ErrorKind::Unavailable,
        ),
        (
            "sealed",
            response("503 No", r#"{"errors":["Vault is sealed"]}"#),
            ErrorKind::Unavailable,
        ),
    ];
    let faults = remote_faults("data", duplicate, &redirect, 300);
    for (name, fault, kind) in faults.into_iter().chain(vault_faults) {
        fixture.proxy.set(fault);
        let started = Instant::now();
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(
            started.elapsed() < secs(5),
            "{name}: {:?}",
            started.elapsed()
        );
        fixture.proxy.set(Fault::None);
        assert_reads(&provider).await;
    }
    assert!(
        other.requests().is_empty(),
        "a token must not be sent to a server that is not configured"
    );
}
