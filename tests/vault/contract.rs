//! The conformance tests, for both versions of the key-value engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_testkit::{
    CORRUPT_MARKER, Calls, Fault, FaultProxy, ForeignResponse, Harness, Supports, conformance_tests,
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;

use super::server::{Bao, ROOT, shared, unique};

conformance_tests!(kv2, Kv::new(KvVersion::V2).await);
conformance_tests!(kv1, Kv::new(KvVersion::V1).await);

/// A mount with its own policy and AppRole, behind a fault proxy.
struct Kv {
    bao: &'static Bao,
    proxy: FaultProxy,
    version: KvVersion,
    name: String,
    role_id: String,
    secret_id: NamedTempFile,
    provider: Arc<VaultProvider>,
    denied: Mutex<Vec<String>>,
}

impl Kv {
    async fn new(version: KvVersion) -> Self {
        let bao = shared().await;
        let name = unique("contract");
        bao.mount(&name, if version == KvVersion::V2 { 2 } else { 1 })
            .await;
        bao.root(
            "POST",
            &format!("sys/auth/{name}"),
            json!({"type": "approle"}),
        )
        .await;
        let role = format!("auth/{name}/role/app");
        bao.root("POST", &role, json!({"token_policies": name}))
            .await;
        let role_id = bao
            .root("GET", &format!("{role}/role-id"), Value::Null)
            .await;
        let role_id = role_id["data"]["role_id"].as_str().unwrap().to_owned();
        let secret_id = NamedTempFile::new().unwrap();

        let proxy = FaultProxy::start(bao.address).await;
        let kv = Self {
            provider: Arc::new(provider(&proxy, version, &name, &role_id, secret_id.path())),
            bao,
            proxy,
            version,
            name,
            role_id,
            secret_id,
            denied: Mutex::default(),
        };
        kv.write_policy().await;
        kv.write_secret_id().await;
        kv
    }

    /// Allows everything in the mount except the denied paths.
    async fn write_policy(&self) {
        let name = &self.name;
        let mut rules = format!("path \"{name}/*\" {{ capabilities = [\"read\", \"list\"] }}\n");
        for path in self.denied.lock().await.iter() {
            rules += &format!("path \"{path}\" {{ capabilities = [\"deny\"] }}\n");
        }
        self.bao.policy(name, &rules).await;
    }

    async fn write_secret_id(&self) {
        let path = format!("auth/{}/role/app/secret-id", self.name);
        let response = self.bao.root("POST", &path, json!({})).await;
        let secret_id = response["data"]["secret_id"].as_str().unwrap();
        std::fs::write(self.secret_id.path(), format!("{secret_id}\n")).unwrap();
    }

    /// Returns the path of the secret of `key`, as it is written in a policy.
    fn path(&self, key: &SecretKey) -> String {
        let data = if self.version == KvVersion::V2 {
            "/data"
        } else {
            ""
        };
        match key.prefix() {
            None => format!("{}{data}/app", self.name),
            Some(prefix) => format!("{}{data}/app/{prefix}", self.name),
        }
    }

    /// Returns the same path, percent-encoded for a URL.
    fn url_path(&self, key: &SecretKey) -> String {
        let escape = |segment: &str| segment.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = self.path(key);
        path.split('/')
            .map(escape)
            .collect::<Vec<String>>()
            .join("/")
    }

    /// Changes one field of the secret of `key`, and keeps the others.
    async fn change(&self, key: &SecretKey, value: Option<Value>) {
        let path = self.url_path(key);
        let (_, before) = self.bao.request(ROOT, "GET", &path, Value::Null).await;
        let fields = match self.version {
            KvVersion::V2 => before["data"]["data"].clone(),
            _ => before["data"].clone(),
        };
        let mut fields = fields.as_object().cloned().unwrap_or_default();
        match value {
            Some(value) => fields.insert(key.name().to_owned(), value),
            None => fields.remove(key.name()),
        };
        if fields.is_empty() {
            self.bao.root("DELETE", &path, Value::Null).await;
            return;
        }
        let body = match self.version {
            KvVersion::V2 => json!({"data": fields}),
            _ => Value::Object(fields),
        };
        self.bao.root("POST", &path, body).await;
    }
}

fn provider(
    proxy: &FaultProxy,
    version: KvVersion,
    name: &str,
    role_id: &str,
    secret_id: &Path,
) -> VaultProvider {
    let auth = VaultAuth::app_role(role_id, Credential::file(secret_id)).mount(name);
    VaultProvider::builder([format!("http://{}", proxy.address())], auth)
        .unwrap()
        .mount(name)
        .path("app")
        .kv_version(version)
        .client(|client| {
            client
                .deadline(Duration::from_millis(2500))
                .attempt_timeout(Duration::from_secs(2))
        })
        .build()
        .unwrap()
}

#[async_trait]
impl Harness for Kv {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.provider.clone()
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap();
        self.change(key, Some(json!(text))).await;
    }

    async fn delete(&self, key: &SecretKey) {
        self.change(key, None).await;
    }

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        let (role_id, secret_id) = (&self.role_id, self.secret_id.path());
        let another = provider(&self.proxy, self.version, &self.name, role_id, secret_id);
        Some(Arc::new(another))
    }

    fn supports(&self) -> Supports {
        Supports {
            empty_values: true,
            json_values: true,
            network: true,
            deny: true,
            login: true,
            token_expiry: true,
            rate_limit: true,
            corrupt_responses: true,
            foreign_responses: true,
            stall: true,
            call_counts: true,
            float_numbers: true,
            ..Supports::default()
        }
    }

    async fn seed_json(&self, key: &SecretKey, json: &str) {
        let value = serde_json::from_str(json).unwrap();
        self.change(key, Some(value)).await;
    }

    async fn break_network(&self) {
        self.proxy.set(Fault::Close);
    }

    async fn clear_faults(&self) {
        self.proxy.set(Fault::None);
    }

    async fn deny(&self, key: &SecretKey) {
        self.denied.lock().await.push(self.path(key));
        self.write_policy().await;
    }

    async fn revoke_login(&self) {
        let role = format!("auth/{}/role/app", self.name);
        self.bao.root("DELETE", &role, Value::Null).await;
        self.expire_token().await;
    }

    async fn restore_login(&self) {
        let role = format!("auth/{}/role/app", self.name);
        let body = json!({"token_policies": self.name});
        self.bao.root("POST", &role, body).await;
        let body = json!({"role_id": self.role_id});
        self.bao
            .root("POST", &format!("{role}/role-id"), body)
            .await;
        self.write_secret_id().await;
    }

    async fn expire_token(&self) {
        let prefix = format!("sys/leases/revoke-prefix/auth/{}/login", self.name);
        self.bao.root("POST", &prefix, json!({"sync": true})).await;
    }

    async fn rate_limit(&self, wait: Duration) {
        let response = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: {}\r\nconnection: close\r\n\r\n\
             {{\"errors\":[\"request path: rate limit quota exceeded\"]}}",
            wait.as_secs()
        );
        self.proxy.set(Fault::Respond(response.into()));
    }

    /// Corrupts only reads, because a login has a response of another shape.
    async fn corrupt_responses(&self) {
        let body =
            format!("{{\"request_id\":\"\",\"lease_id\":\"\",\"data\":\"{CORRUPT_MARKER}\"}}");
        let response = ForeignResponse::new("corrupt", 200, body)
            .with_header("content-type", "application/json");
        self.proxy.set_for("GET ", Fault::Foreign(response));
    }

    async fn respond_with(&self, response: &ForeignResponse) {
        self.proxy.set(Fault::Foreign(response.clone()));
    }

    async fn stall(&self) {
        self.proxy.set(Fault::Stall);
    }

    fn calls(&self) -> Calls {
        Calls {
            reads: self.proxy.count(&format!("GET /v1/{}/", self.name)),
            logins: self.proxy.count("POST /v1/auth/"),
        }
    }

    fn tokens(&self) -> Vec<String> {
        let secret_id = std::fs::read_to_string(self.secret_id.path()).unwrap();
        vec![secret_id.trim().to_owned()]
    }

    /// Returns keys of different secrets, because a policy allows or denies whole secrets, not fields.
    fn valid_keys(&self) -> Vec<&'static str> {
        vec![
            "one/A",
            "two/AUTH_SECRET",
            "db/PASSWORD",
            "odd + näme/a.b-c",
        ]
    }
}
