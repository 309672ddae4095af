//! A folder for a test: on a fake, or on the real server that the environment names.

use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::{Client, Method, StatusCode};
use secretwell::infisical::{
    ApiVersion, Credential, InfisicalAuth, InfisicalBuilder, InfisicalProvider,
};
use secretwell_testkit::infisical::{FakeInfisical, Identity, Role};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;

/// Where a test's secrets are, and who may read and write them.
pub(crate) struct Place {
    pub(crate) fake: Option<FakeInfisical>,
    /// The version of the API that is wanted, if the server has it.
    pub(crate) api: ApiVersion,
    url: String,
    pub(crate) project: String,
    pub(crate) environment: String,
    /// The folder of the test, where nobody else is.
    pub(crate) folder: String,
    pub(crate) identity: String,
    client_id: String,
    client_secret: NamedTempFile,
    http: Client,
    token: Mutex<Option<String>>,
}

impl Place {
    /// On the real server if there is one, else on a fake of this version.
    pub(crate) async fn new(wanted: ApiVersion) -> Self {
        let Some(url) = variable("URL") else {
            return Self::fake(wanted).await;
        };
        let needed = |name| {
            variable(name).unwrap_or_else(|| panic!("`SECRETWELL_INFISICAL_{name}` is not set"))
        };
        let mut place = Self {
            fake: None,
            api: wanted,
            url: url.trim_end_matches('/').to_owned(),
            project: needed("PROJECT_ID"),
            environment: needed("ENVIRONMENT"),
            folder: unique_folder(),
            identity: String::new(),
            client_id: needed("CLIENT_ID"),
            client_secret: file(&needed("CLIENT_SECRET")),
            http: client(),
            token: Mutex::default(),
        };
        let (_, answer) = place.ask(Method::GET, "/api/v4/secrets", Value::Null).await;
        if answer["error"] == "Not Found" {
            place.api = ApiVersion::V3;
        }
        place.make_folder(&place.folder).await;
        place
    }

    /// On a fake, for what no real server does on command.
    pub(crate) async fn fake(api: ApiVersion) -> Self {
        Self::fake_with(api, |identity| identity).await
    }

    /// On a fake, with an identity of this kind.
    pub(crate) async fn fake_with(
        api: ApiVersion,
        change: impl FnOnce(Identity) -> Identity,
    ) -> Self {
        let fake = match api {
            ApiVersion::V3 => FakeInfisical::start_v3().await,
            _ => FakeInfisical::start().await,
        };
        let project = fake.project("demo");
        fake.environment(&project, "dev");
        let identity = fake.identity(change(Identity::new().member(&project, Role::Admin)));
        let folder = unique_folder();
        fake.folder(&project, "dev", &folder);
        Self {
            api,
            url: fake.url(),
            project,
            environment: "dev".into(),
            folder,
            identity: identity.identity_id,
            client_id: identity.client_id,
            client_secret: file(&identity.client_secret),
            http: client(),
            token: Mutex::default(),
            fake: Some(fake),
        }
    }

    /// The fake; a test that needs one has made one.
    pub(crate) fn as_fake(&self) -> &FakeInfisical {
        self.fake.as_ref().unwrap()
    }

    pub(crate) fn auth(&self) -> InfisicalAuth {
        let client_secret = Credential::file(self.client_secret.path());
        InfisicalAuth::universal(&self.client_id, client_secret)
    }

    pub(crate) fn client_secret(&self) -> String {
        std::fs::read_to_string(self.client_secret.path()).unwrap()
    }

    pub(crate) fn write_client_secret(&self, secret: &str) {
        std::fs::write(self.client_secret.path(), secret).unwrap();
    }

    /// A provider of the test's folder.
    pub(crate) fn provider(&self) -> InfisicalBuilder {
        self.provider_at(&self.url)
    }

    /// The same through something that stands before the server.
    pub(crate) fn provider_at(&self, url: &str) -> InfisicalBuilder {
        InfisicalProvider::builder(url, self.auth())
            .unwrap()
            .project(&self.project)
            .environment(&self.environment)
            .folder(&self.folder)
    }

    /// Where the server listens, if it is on this machine and without TLS, so that a proxy can stand
    /// before it.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.url.strip_prefix("http://")?.parse().ok()
    }

    /// Writes a secret of the test's folder, or of one below it.
    pub(crate) async fn write(&self, directory: Option<&str>, name: &str, value: &str) {
        let folder = self.folder_path(directory);
        self.make_folder(&folder).await;
        let mut body = self.body(&folder);
        body["secretValue"] = json!(value);
        body["type"] = json!("shared");
        let path = secret(name);
        let (status, _) = self.ask(Method::PATCH, &path, body.clone()).await;
        if !status.is_success() {
            let (status, answer) = self.ask(Method::POST, &path, body).await;
            assert!(status.is_success(), "{status} {answer}");
        }
    }

    pub(crate) async fn delete(&self, directory: Option<&str>, name: &str) {
        let body = self.body(&self.folder_path(directory));
        let (status, answer) = self.ask(Method::DELETE, &secret(name), body).await;
        assert!(status.is_success(), "{status} {answer}");
    }

    /// Has the test's folder import one below it, after what it imports already.
    pub(crate) async fn import(&self, directory: Option<&str>) {
        let from = json!({"environment": self.environment, "path": self.folder_path(directory)});
        let mut body = self.body(&self.folder);
        body["path"] = json!(self.folder);
        body["import"] = from;
        let (status, answer) = self.ask(Method::POST, "/api/v1/secret-imports", body).await;
        assert!(status.is_success(), "{status} {answer}");
    }

    /// What the official clients need to know, as environment variables.
    pub(crate) fn for_clients(&self) -> [(&'static str, String); 6] {
        [
            ("URL", self.url.clone()),
            ("PROJECT", self.project.clone()),
            ("ENVIRONMENT", self.environment.clone()),
            ("FOLDER", self.folder.clone()),
            ("CLIENT_ID", self.client_id.clone()),
            ("CLIENT_SECRET", self.client_secret().trim().to_owned()),
        ]
    }

    pub(crate) fn folder_path(&self, directory: Option<&str>) -> String {
        match directory {
            None => self.folder.clone(),
            Some(directory) => format!("{}/{directory}", self.folder),
        }
    }

    /// Makes a folder and those above it, unless they are there.
    async fn make_folder(&self, path: &str) {
        let mut parent = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let above = if parent.is_empty() { "/" } else { &parent };
            let mut body = self.body(above);
            body["path"] = json!(above);
            body["name"] = json!(name);
            // It may be there already, which is an error in some versions and none in others.
            self.ask(Method::POST, "/api/v1/folders", body).await;
            parent = format!("{parent}/{name}");
        }
    }

    fn body(&self, folder: &str) -> Value {
        json!({
            "workspaceId": self.project,
            "environment": self.environment,
            "secretPath": folder,
        })
    }

    /// Asks the server, logged in. A token that does not work any more is replaced.
    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut token = self.token.lock().await;
        loop {
            let is_fresh = token.is_none();
            if is_fresh {
                *token = Some(self.log_in().await);
            }
            let url = format!("{}{path}", self.url);
            let request = self.http.request(method.clone(), url).json(&body);
            let request = request.bearer_auth(token.as_deref().unwrap_or_default());
            let reply = request.send().await.unwrap();
            let status = reply.status();
            assert!(
                status != StatusCode::TOO_MANY_REQUESTS,
                "the server's rate limit is too low for tests: see docs/backends/infisical.md"
            );
            if !is_fresh && matches!(status.as_u16(), 401 | 403) {
                *token = None;
                continue;
            }
            return (status, reply.json().await.unwrap_or(Value::Null));
        }
    }

    /// A token of the identity, from a login of our own.
    pub(crate) async fn token(&self) -> String {
        self.log_in().await
    }

    async fn log_in(&self) -> String {
        let url = format!("{}/api/v1/auth/universal-auth/login", self.url);
        let body = json!({"clientId": self.client_id, "clientSecret": self.client_secret().trim()});
        let reply = self.http.post(url).json(&body).send().await.unwrap();
        let answer: Value = reply.json().await.unwrap();
        let token = answer["accessToken"].as_str();
        token
            .unwrap_or_else(|| panic!("no login: {answer}"))
            .to_owned()
    }
}

fn variable(name: &str) -> Option<String> {
    let value = env::var(format!("SECRETWELL_INFISICAL_{name}")).ok()?;
    (!value.is_empty()).then_some(value)
}

/// A name that no other test has, nor an earlier run on the same server.
fn unique_folder() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = tempfile::Builder::new().prefix("").rand_bytes(8).tempdir();
    let random = folder.unwrap().path().file_name().unwrap().to_owned();
    format!("/secretwell-{}-{number}", random.display())
}

/// Keeps no connections, because each test has a runtime of its own.
fn client() -> Client {
    Client::builder().pool_max_idle_per_host(0).build().unwrap()
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// The path of a secret, escaped in full.
fn secret(name: &str) -> String {
    let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("/api/v3/secrets/raw/{escaped}")
}
