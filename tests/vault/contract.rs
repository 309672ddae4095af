//! The contract of a provider, for both versions of the key-value engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{SecretKey, SecretProvider};
use secretwell_testkit::{Calls, Fault, FaultProxy, GARBAGE, Harness, Supports, conformance_tests};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;

use super::server::{Bao, ROOT, shared, unique};

conformance_tests!(kv2, Kv::new(KvVersion::V2).await);
conformance_tests!(kv1, Kv::new(KvVersion::V1).await);

/// A mount, a policy and an AppRole of its own, behind a proxy.
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

    /// Everything in the mount, but for what is denied.
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
        let answer = self.bao.root("POST", &path, json!({})).await;
        let secret_id = answer["data"]["secret_id"].as_str().unwrap();
        std::fs::write(self.secret_id.path(), format!("{secret_id}\n")).unwrap();
    }

    /// The path of the secret that holds `key`, as it stands in a policy.
    fn path(&self, key: &SecretKey) -> String {
        let data = if self.version == KvVersion::V2 {
            "/data"
        } else {
            ""
        };
        match key.prefix() {
            None => format!("{}{data}/app", self.name),
            Some(directory) => format!("{}{data}/app/{directory}", self.name),
        }
    }

    /// The same path, as it stands in a URL.
    fn url_path(&self, key: &SecretKey) -> String {
        let escape = |segment: &str| segment.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = self.path(key);
        path.split('/')
            .map(escape)
            .collect::<Vec<String>>()
            .join("/")
    }

    /// Changes one field of the secret that holds `key`, and leaves the others.
    async fn change(&self, key: &SecretKey, value: Option<Value>) {
        let path = self.url_path(key);
        let (_, before) = self.bao.ask(ROOT, "GET", &path, Value::Null).await;
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

    fn another(&self) -> Option<Arc<dyn SecretProvider>> {
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
            expire: true,
            throttle: true,
            garble: true,
            stall: true,
            calls: true,
            float_numbers: true,
            ..Supports::default()
        }
    }

    async fn seed_json(&self, key: &SecretKey, json: &str) {
        let value = serde_json::from_str(json).unwrap();
        self.change(key, Some(value)).await;
    }

    async fn break_network(&self) {
        self.proxy.set(Fault::Cut);
    }

    async fn heal(&self) {
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

    async fn fix_login(&self) {
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

    async fn throttle(&self, wait: Duration) {
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: {}\r\nconnection: close\r\n\r\n\
             {{\"errors\":[\"request path: rate limit quota exceeded\"]}}",
            wait.as_secs()
        );
        self.proxy.set(Fault::Respond(answer.into()));
    }

    async fn garble(&self) {
        let body = format!("<html>{GARBAGE}</html>");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        self.proxy.set(Fault::Respond(answer.into()));
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

    /// Each in a secret of its own: the server allows or denies secrets, not fields.
    fn good_keys(&self) -> Vec<&'static str> {
        vec![
            "one/A",
            "two/AUTH_SECRET",
            "db/PASSWORD",
            "odd + näme/a.b-c",
        ]
    }
}
