//! [`Place`]: the test folder of a test, on a fake or on the real server that the environment names.

use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::{Client, Method, StatusCode};
use secretwell::infisical::{
    ApiVersion, Credential, InfisicalAuth, InfisicalBuilder, InfisicalProvider,
};
use secretwell_testkit::infisical::{FakeInfisical, Identity, Personality, Role};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;

/// The path of changes to several secrets. Their names can be of any length.
const BATCH: &str = "/api/v3/secrets/batch/raw";

/// The location of a test's secrets, and an identity that can read and write them.
pub(crate) struct Place {
    pub(crate) fake: Option<FakeInfisical>,
    /// The version of the API: the requested one, or version 3 if the server does not have version 4.
    pub(crate) api: ApiVersion,
    url: String,
    pub(crate) project: String,
    pub(crate) environment: String,
    /// The folder of the test. No other test uses it.
    pub(crate) folder: String,
    /// The id of the identity on the fake. Empty on a real server.
    pub(crate) identity: String,
    client_id: String,
    client_secret: NamedTempFile,
    http: Client,
    token: Mutex<Option<String>>,
}

impl Place {
    /// Creates a folder on the real server if the environment names one, otherwise on a fake that has this
    /// version of the API.
    pub(crate) async fn new(api: ApiVersion) -> Self {
        let Some(url) = variable("URL") else {
            return Self::fake(api).await;
        };
        let required = |name| {
            variable(name).unwrap_or_else(|| panic!("`SECRETWELL_INFISICAL_{name}` is not set"))
        };
        let mut place = Self {
            fake: None,
            api,
            url: url.trim_end_matches('/').to_owned(),
            project: required("PROJECT_ID"),
            environment: required("ENVIRONMENT"),
            folder: unique_folder(),
            identity: String::new(),
            client_id: required("CLIENT_ID"),
            client_secret: file(&required("CLIENT_SECRET")),
            http: client(),
            token: Mutex::default(),
        };
        let (_, body) = place
            .request(Method::GET, "/api/v4/secrets", Value::Null)
            .await;
        if body["error"] == "Not Found" {
            place.api = ApiVersion::V3;
        }
        place.create_folder(&place.folder).await;
        place
    }

    /// Creates a folder on a fake, for tests that a real server does not support.
    pub(crate) async fn fake(api: ApiVersion) -> Self {
        Self::fake_with(api, |identity| identity).await
    }

    /// Creates a folder on a fake, with a changed identity.
    pub(crate) async fn fake_with(
        api: ApiVersion,
        change: impl FnOnce(Identity) -> Identity,
    ) -> Self {
        let personality = match api {
            ApiVersion::V3 => Personality::October2024,
            _ => Personality::Newest,
        };
        Self::fake_as(personality, change).await
    }

    /// Creates a folder on a fake of this version of the server, with a changed identity.
    pub(crate) async fn fake_as(
        personality: Personality,
        change: impl FnOnce(Identity) -> Identity,
    ) -> Self {
        let fake = FakeInfisical::start_as(personality).await;
        let api = match personality {
            Personality::Newest => ApiVersion::V4,
            _ => ApiVersion::V3,
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

    /// Returns the fake.
    ///
    /// # Panics
    /// Panics if the folder is on a real server.
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

    /// Returns the builder of a provider for the test folder.
    pub(crate) fn provider(&self) -> InfisicalBuilder {
        self.provider_at(&self.url)
    }

    /// Like [`provider`](Self::provider), through a proxy at `url`.
    pub(crate) fn provider_at(&self, url: &str) -> InfisicalBuilder {
        self.provider_with(url, self.auth())
    }

    /// Like [`provider_at`](Self::provider_at), with another login.
    pub(crate) fn provider_with(&self, url: &str, auth: InfisicalAuth) -> InfisicalBuilder {
        InfisicalProvider::builder(url, auth)
            .unwrap()
            .project(&self.project)
            .environment(&self.environment)
            .folder(&self.folder)
    }

    /// Returns the server's socket address, if its URL has an IP address and no TLS. Then a proxy can be
    /// placed in front of it.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.url.strip_prefix("http://")?.parse().ok()
    }

    /// Creates or updates a secret in the test folder, or in the folder `subfolder` below it.
    pub(crate) async fn write(&self, subfolder: Option<&str>, name: &str, value: &str) {
        let folder = self.folder_path(subfolder);
        self.create_folder(&folder).await;
        let mut body = self.body(&folder);
        if is_long(name) {
            return self.write_long(body, name, value).await;
        }
        body["secretValue"] = json!(value);
        body["type"] = json!("shared");
        let path = secret_path(name);
        let (status, _) = self.request(Method::PATCH, &path, body.clone()).await;
        if !status.is_success() {
            let (status, body) = self.request(Method::POST, &path, body).await;
            assert!(status.is_success(), "{status} {body}");
        }
    }

    /// Writes a secret whose name is too long for a route of its own.
    async fn write_long(&self, mut body: Value, name: &str, value: &str) {
        body["secrets"] = json!([{"secretKey": name, "secretValue": value}]);
        let (status, _) = self.request(Method::PATCH, BATCH, body.clone()).await;
        if !status.is_success() {
            let (status, body) = self.request(Method::POST, BATCH, body).await;
            assert!(status.is_success(), "{status} {body}");
        }
    }

    pub(crate) async fn delete(&self, subfolder: Option<&str>, name: &str) {
        let mut body = self.body(&self.folder_path(subfolder));
        let mut path = secret_path(name);
        if is_long(name) {
            body["secrets"] = json!([{"secretKey": name}]);
            path = BATCH.to_owned();
        }
        let (status, body) = self.request(Method::DELETE, &path, body).await;
        assert!(status.is_success(), "{status} {body}");
    }

    /// Makes the test folder import the folder `subfolder`, after its existing imports.
    pub(crate) async fn import(&self, subfolder: Option<&str>) {
        let from = json!({"environment": self.environment, "path": self.folder_path(subfolder)});
        let mut body = self.body(&self.folder);
        body["path"] = json!(self.folder);
        body["import"] = from;
        let (status, body) = self
            .request(Method::POST, "/api/v1/secret-imports", body)
            .await;
        assert!(status.is_success(), "{status} {body}");
    }

    /// Returns the environment variables for the scripts with the official clients.
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

    /// Returns the environment variables for the programs of the guides.
    pub(crate) fn for_guides(&self) -> Vec<(&'static str, String)> {
        let names = [
            "INFISICAL_URL",
            "INFISICAL_PROJECT",
            "INFISICAL_ENVIRONMENT",
            "INFISICAL_FOLDER",
            "INFISICAL_CLIENT_ID",
            "INFISICAL_CLIENT_SECRET",
        ];
        let values = self.for_clients().map(|(_, value)| value);
        names.into_iter().zip(values).collect()
    }

    /// Returns the path of the test folder, or of the folder `subfolder` below it.
    pub(crate) fn folder_path(&self, subfolder: Option<&str>) -> String {
        match subfolder {
            None => self.folder.clone(),
            Some(subfolder) => format!("{}/{subfolder}", self.folder),
        }
    }

    /// Creates a folder and its missing parents.
    async fn create_folder(&self, path: &str) {
        let mut parent = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let parent_path = if parent.is_empty() { "/" } else { &parent };
            let mut body = self.body(parent_path);
            body["path"] = json!(parent_path);
            body["name"] = json!(name);
            // If the folder exists, some server versions respond with an error, and others do not.
            self.request(Method::POST, "/api/v1/folders", body).await;
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

    /// Sends a request with a token. If the server rejects a cached token, logs in again.
    async fn request(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut token = self.token.lock().await;
        loop {
            let is_new = token.is_none();
            if is_new {
                *token = Some(self.log_in().await);
            }
            let url = format!("{}{path}", self.url);
            let request = self.http.request(method.clone(), url).json(&body);
            let request = request.bearer_auth(token.as_deref().unwrap_or_default());
            let response = request.send().await.unwrap();
            let status = response.status();
            assert!(
                status != StatusCode::TOO_MANY_REQUESTS,
                "the server's rate limit is too low for the tests; see docs/backends/infisical.md"
            );
            if !is_new && matches!(status.as_u16(), 401 | 403) {
                *token = None;
                continue;
            }
            return (status, response.json().await.unwrap_or(Value::Null));
        }
    }

    /// Logs in as the identity and returns the token.
    pub(crate) async fn token(&self) -> String {
        self.log_in().await
    }

    async fn log_in(&self) -> String {
        let url = format!("{}/api/v1/auth/universal-auth/login", self.url);
        let body = json!({"clientId": self.client_id, "clientSecret": self.client_secret().trim()});
        let response = self.http.post(url).json(&body).send().await.unwrap();
        let body: Value = response.json().await.unwrap();
        let token = body["accessToken"].as_str();
        token
            .unwrap_or_else(|| panic!("the login failed: {body}"))
            .to_owned()
    }
}

fn variable(name: &str) -> Option<String> {
    let value = env::var(format!("SECRETWELL_INFISICAL_{name}")).ok()?;
    (!value.is_empty()).then_some(value)
}

/// Returns a path that no other test uses, not even in another run on the same server.
fn unique_folder() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = tempfile::Builder::new().prefix("").rand_bytes(8).tempdir();
    let random = folder.unwrap().path().file_name().unwrap().to_owned();
    format!("/secretwell-{}-{number}", random.display())
}

/// Creates a client without a connection pool, because each test has its own runtime.
fn client() -> Client {
    Client::builder().pool_max_idle_per_host(0).build().unwrap()
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// Returns whether the server has no route for a secret with this name.
fn is_long(name: &str) -> bool {
    name.chars().count() > 100
}

/// Returns the URL path of a secret. Every byte of the name is escaped.
fn secret_path(name: &str) -> String {
    let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("/api/v3/secrets/raw/{escaped}")
}
