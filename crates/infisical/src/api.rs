//! Requests to the server: token, version of the API, and rate limits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use secretwell_core::{Error, ErrorKind, Origin};
use secretwell_http::{Client, ClientConfig, Expect, Request, Response, TokenManager, encode};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use crate::auth::{InfisicalAuth, InfisicalLogin, bearer};
use crate::budget::{Budget, Pause};
use crate::settings::{ApiVersion, Project, Settings};
use crate::wire::{self, ImportedFolder, View};

/// The id of a project that does not exist, for a request that only shows whether the server has a route.
const NO_PROJECT: &str = "00000000-0000-0000-0000-000000000000";
/// How long a version is used that only the response of another program has shown.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(5 * 60);
/// The maximum duration of the request that confirms such a version.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(2);
/// The beginning of a service token.
const SERVICE_TOKEN: &[u8] = b"st.";

/// A request for one secret or for a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecretsQuery<'a> {
    /// `None` for a list.
    name: Option<&'a str>,
    /// `None` for the environment in the settings.
    environment: Option<&'a str>,
    folder: &'a str,
    recursive: bool,
    version: Option<u64>,
    personal: bool,
    view: View,
}

impl<'a> SecretsQuery<'a> {
    pub(crate) fn list(folder: &'a str, recursive: bool) -> Self {
        Self {
            name: None,
            environment: None,
            folder,
            recursive,
            version: None,
            personal: false,
            view: View::Expanded,
        }
    }

    pub(crate) fn single(folder: &'a str, name: &'a str) -> Self {
        Self {
            name: Some(name),
            ..Self::list(folder, false)
        }
    }

    pub(crate) fn view(self, view: View) -> Self {
        Self { view, ..self }
    }

    pub(crate) fn environment(self, slug: &'a str) -> Self {
        Self {
            environment: Some(slug),
            ..self
        }
    }

    pub(crate) fn version(self, number: u64) -> Self {
        Self {
            version: Some(number),
            ..self
        }
    }

    /// Requests the login's own value of the secret.
    pub(crate) fn personal(self) -> Self {
        Self {
            personal: true,
            ..self
        }
    }
}

/// A configured or detected version of the API.
#[derive(Debug, Clone, Copy)]
struct KnownVersion {
    api: ApiVersion,
    /// When to check again. `None` if the version is configured, or if the server itself has shown it.
    confirm_at: Option<Instant>,
}

/// The sender of one provider's requests. It adds the token and respects the rate limits.
pub(crate) struct Api {
    client: Client,
    tokens: TokenManager,
    pub(crate) settings: Settings,
    /// The version of the API. `None` until it is configured or detected.
    version: Mutex<Option<KnownVersion>>,
    project_id: OnceCell<String>,
    pause: Arc<Pause>,
    list_budget: Budget,
    single_budget: Budget,
    /// Whether the last token was a service token.
    has_service_token: AtomicBool,
}

impl Api {
    pub(crate) fn new(
        client: ClientConfig,
        auth: InfisicalAuth,
        settings: Settings,
        origin: &Origin,
    ) -> Result<Self, Error> {
        let pause = Arc::default();
        let protocol = wire::InfisicalProtocol {
            pause: Arc::clone(&pause),
        };
        let client = Client::new(client, protocol, origin.clone())?;
        let login = InfisicalLogin::new(client.clone(), auth);
        let project_id = match &settings.project {
            Project::Id(id) => OnceCell::new_with(Some(id.clone())),
            Project::Slug(_) => OnceCell::new(),
        };
        Ok(Self {
            client,
            tokens: TokenManager::new(login, origin.clone()),
            version: Mutex::new(settings.api.map(|api| KnownVersion {
                api,
                confirm_at: None,
            })),
            settings,
            project_id,
            pause,
            list_budget: Budget::default(),
            single_budget: Budget::default(),
            has_service_token: AtomicBool::new(false),
        })
    }

    /// Returns the version of the API, if it is known.
    pub(crate) fn version(&self) -> Option<ApiVersion> {
        (*self.known_version()).map(|known| known.api)
    }

    fn known_version(&self) -> MutexGuard<'_, Option<KnownVersion>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the last request had a service token. The server then reads the folder of that token,
    /// whichever one is requested.
    pub(crate) fn has_service_token(&self) -> bool {
        self.has_service_token.load(Ordering::Relaxed)
    }

    /// Returns whether requests wait for the server's rate limit.
    pub(crate) fn is_rate_limited(&self) -> bool {
        !self.pause.remaining().is_zero()
            || self.list_budget.is_nearly_exhausted()
            || self.single_budget.is_nearly_exhausted()
    }

    /// Returns why the last attempt of a request since `since` failed, unless a server has responded after it.
    pub(crate) fn failure_since(&self, since: Instant) -> Option<Error> {
        self.client.failure_since(since)
    }

    pub(crate) async fn server_time(&self) -> Result<SystemTime, Error> {
        self.client.server_time(wire::STATUS).await
    }

    /// Sends a request with a token. If the server rejects the token, logs in again and repeats the request
    /// once.
    async fn send(&self, request: Request, budget: Option<&Budget>) -> Result<Response, Error> {
        let mut is_retry = false;
        let started = Instant::now();
        loop {
            let token = self.tokens.token().await?;
            let is_service_token = token.value().expose_bytes().starts_with(SERVICE_TOKEN);
            self.has_service_token
                .store(is_service_token, Ordering::Relaxed);
            let with_token = request
                .clone()
                .secret_header(AUTHORIZATION, &bearer(token.value()))?;
            self.wait_for_slot(budget, started).await?;
            let response = self.client.send(&with_token).await?;
            if let Some(budget) = budget {
                budget.record(&response.headers);
            }
            // A response to `HEAD` has no body that shows who sent it.
            if !response.is_recognized() || request.method() == Method::HEAD {
                return Ok(response);
            }
            if !wire::is_token_rejected(&response) {
                self.tokens.accepted(&token);
                return Ok(response);
            }
            self.tokens.refused(&token)?;
            if is_retry {
                let message = "the server rejected the token, and a new login did not help";
                return Err(Error::new(ErrorKind::Unauthenticated, message)
                    .with_hint("use another token, or check that the machine identity exists"));
            }
            is_retry = true;
        }
    }

    /// Waits until the rate limit and the server's pause allow a request. `started` is the time when the
    /// call started.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`] if the wait would exceed the deadline of the call.
    async fn wait_for_slot(&self, budget: Option<&Budget>, started: Instant) -> Result<(), Error> {
        let max_wait = self.client.deadline().saturating_sub(started.elapsed());
        let slot = budget.map_or(Duration::ZERO, |budget| budget.reserve(max_wait));
        let mut wait = slot.max(self.pause.remaining());
        // A zero wait must not reach the timer, which is up to a millisecond late.
        while !wait.is_zero() {
            if started.elapsed() + wait > self.client.deadline() {
                let kind = ErrorKind::RateLimited {
                    retry_after: Some(wait),
                };
                return Err(
                    Error::new(kind, "the server's rate limit is nearly exhausted")
                        .with_hint(wire::RATE_LIMIT_HINT),
                );
            }
            tokio::time::sleep(wait).await;
            wait = self.pause.remaining();
        }
        Ok(())
    }

    /// Returns the maximum duration of a call, including its login and its waits.
    pub(crate) fn deadline(&self) -> Duration {
        self.client.deadline()
    }

    /// Returns whether a list request would succeed, as far as a `HEAD` request shows it. Returns `false`
    /// while the version of the API is unknown.
    pub(crate) async fn can_list(&self, query: &SecretsQuery<'_>) -> Result<bool, Error> {
        let Some(api) = self.version() else {
            return Ok(false);
        };
        let request = Request::new(Method::HEAD, self.path(api, query).await?);
        Ok(wire::is_list_head(&self.send(request, None).await?))
    }

    /// Requests one secret or a list. While the version of the API is unknown, tries version 4 first and then
    /// version 3.
    pub(crate) async fn fetch_secrets(
        &self,
        query: &SecretsQuery<'_>,
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        if self.version().is_none() {
            return self.detect_version(query, etag).await;
        }
        self.confirm_version().await;
        let api = self.version().unwrap_or(ApiVersion::V3);
        let request = self.secrets_request(api, query, etag).await?;
        let response = self.send_for(query, request).await?;
        let is_unknown = response.is_recognized() && wire::is_unknown_route(&response);
        if !is_unknown || self.settings.api.is_some() {
            return Ok(response);
        }
        // A server of another version has replaced the one for which the version was detected.
        *self.known_version() = None;
        self.detect_version(query, etag).await
    }

    /// Like [`fetch_secrets`](Self::fetch_secrets), while the version of the API is unknown. Only a success settles
    /// the version, because an error might have another cause.
    async fn detect_version(
        &self,
        query: &SecretsQuery<'_>,
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        // Version 4 needs the project's id, and version 3 does not.
        let mut probe = match self.project_id.initialized() {
            true => None,
            false => Some(self.probe_v4(Some(&self.list_budget)).await?),
        };
        if !probe.as_ref().is_some_and(wire::is_unknown_route) {
            let request = self.secrets_request(ApiVersion::V4, query, etag).await?;
            let response = self.send_for(query, request.expect(Expect::Probe)).await?;
            if !wire::is_unknown_route(&response) {
                if response.status.is_success() {
                    self.set_version(ApiVersion::V4, true);
                }
                return Ok(response);
            }
            probe = Some(response);
        }
        let request = self.secrets_request(ApiVersion::V3, query, etag).await?;
        let response = self.send_for(query, request).await?;
        if response.status.is_success() {
            let is_confirmed = probe.is_some_and(|probe| probe.is_recognized());
            self.set_version(ApiVersion::V3, is_confirmed);
        }
        Ok(response)
    }

    fn set_version(&self, api: ApiVersion, is_confirmed: bool) {
        let confirm_at = (!is_confirmed).then(|| Instant::now() + UNCONFIRMED_FOR);
        *self.known_version() = Some(KnownVersion { api, confirm_at });
    }

    /// Checks again whether the server has version 4, if only another program has denied it and some time has
    /// passed. The official image of 2024 responds like another program each time. A gateway does so for a while.
    async fn confirm_version(&self) {
        let is_due = |known: KnownVersion| known.confirm_at.is_some_and(|at| Instant::now() >= at);
        if !(*self.known_version()).is_some_and(is_due) {
            return;
        }
        // Other callers do not check as well. If the check fails, it is repeated later.
        self.set_version(ApiVersion::V3, false);
        if let Ok(Ok(response)) = timeout(CONFIRMATION_TIMEOUT, self.probe_v4(None)).await
            && response.is_recognized()
        {
            match wire::is_unknown_route(&response) {
                true => self.set_version(ApiVersion::V3, true),
                false => self.set_version(ApiVersion::V4, true),
            }
        }
    }

    /// Requests version 4 for a project that does not exist.
    async fn probe_v4(&self, budget: Option<&Budget>) -> Result<Response, Error> {
        let path = format!("/api/v4/secrets?projectId={NO_PROJECT}");
        let request = Request::new(Method::GET, path).expect(Expect::Probe);
        self.send(request, budget).await
    }

    async fn secrets_request(
        &self,
        api: ApiVersion,
        query: &SecretsQuery<'_>,
        etag: Option<&HeaderValue>,
    ) -> Result<Request, Error> {
        let request = Request::new(Method::GET, self.path(api, query).await?);
        Ok(match etag {
            Some(etag) => request.header(IF_NONE_MATCH, etag.clone()),
            None => request,
        })
    }

    async fn send_for(
        &self,
        query: &SecretsQuery<'_>,
        request: Request,
    ) -> Result<Response, Error> {
        let budget = match query.name {
            None => &self.list_budget,
            Some(_) => &self.single_budget,
        };
        self.send(request, Some(budget)).await
    }

    /// Returns the path and query of a request for secrets. Every flag is set explicitly, because the
    /// defaults differ between server versions.
    async fn path(&self, api: ApiVersion, query: &SecretsQuery<'_>) -> Result<String, Error> {
        let flag = |set: bool| if set { "true" } else { "false" };
        let settings = &self.settings;
        let mut path = match api {
            ApiVersion::V3 => "/api/v3/secrets/raw".to_owned(),
            ApiVersion::V4 => "/api/v4/secrets".to_owned(),
        };
        if let Some(name) = query.name {
            path += &format!("/{}", encode(name));
        }
        let environment = query.environment.unwrap_or(&settings.environment);
        let mut all = vec![("environment", environment)];
        match (&settings.project, api) {
            (Project::Slug(slug), ApiVersion::V3) => all.push(("workspaceSlug", slug)),
            (_, ApiVersion::V3) => all.push(("workspaceId", self.project_id().await?)),
            (_, ApiVersion::V4) => all.push(("projectId", self.project_id().await?)),
        }
        let imports = flag(settings.imports);
        let expand = flag(settings.expand && query.view == View::Expanded);
        all.extend([
            ("viewSecretValue", flag(query.view != View::Names)),
            ("expandSecretReferences", expand),
            ("include_imports", imports),
        ]);
        if api == ApiVersion::V4 {
            // The spelling of the imports flag also differs between versions, so both are sent.
            all.push(("includeImports", imports));
            all.push(("includePersonalOverrides", flag(settings.personal)));
        }
        all.push(("secretPath", query.folder));
        let tags = settings.tags.join(",");
        let version = query.version.map(|number| number.to_string());
        if query.name.is_none() {
            all.push(("recursive", flag(query.recursive)));
            if !tags.is_empty() {
                all.push(("tagSlugs", &tags));
            }
        }
        if query.personal {
            all.push(("type", "personal"));
        }
        if let Some(version) = &version {
            all.push(("version", version));
        }
        let pairs = all
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)));
        Ok(format!("{path}?{}", pairs.collect::<Vec<_>>().join("&")))
    }

    /// Returns the project's id. If only the slug is configured, fetches the id from the server once.
    async fn project_id(&self) -> Result<&str, Error> {
        let request = |path: &str| {
            let slug = encode(self.settings.project.as_str());
            Request::new(Method::GET, format!("{path}{slug}"))
        };
        let fetch_id = async || {
            let probe = request("/api/v2/workspace/").expect(Expect::Probe);
            let response = self.send(probe, None).await?;
            match wire::is_unknown_route(&response) {
                true => {
                    let request = request("/api/v1/projects/slug/");
                    wire::project_id(&self.send(request, None).await?)
                }
                false => wire::project_id(&response),
            }
        };
        self.project_id
            .get_or_try_init(fetch_id)
            .await
            .map(String::as_str)
    }

    /// Returns the names of the folders directly below the folder `path`.
    pub(crate) async fn child_folders(&self, path: &str) -> Result<Vec<String>, Error> {
        wire::folder_names(&self.fetch_for_folder("/api/v1/folders", path).await?)
    }

    /// Returns the folders that the folder `path` imports.
    pub(crate) async fn imports(&self, path: &str) -> Result<Vec<ImportedFolder>, Error> {
        wire::imports(
            &self
                .fetch_for_folder("/api/v1/secret-imports", path)
                .await?,
        )
    }

    async fn fetch_for_folder(&self, route: &str, path: &str) -> Result<Response, Error> {
        let target = format!(
            "{route}?workspaceId={}&environment={}&path={}",
            encode(self.project_id().await?),
            encode(&self.settings.environment),
            encode(path)
        );
        self.send(Request::new(Method::GET, target), None).await
    }
}

#[cfg(test)]
mod tests {
    use secretwell_http::Credential;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn api() -> Api {
        let client = ClientConfig::new(["http://127.0.0.1:1"]).unwrap();
        let auth = InfisicalAuth::token(Credential::value("token"));
        let settings = Settings {
            project: Project::Slug("demo".into()),
            environment: "dev".into(),
            ..Settings::new()
        };
        let origin = Origin::new("infisical", "test");
        Api::new(client.deadline(DEADLINE), auth, settings, &origin).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn login_time_counts_against_the_deadline_of_the_wait() {
        let wait = Duration::from_secs(15);
        for (login, fits) in [(0, true), (4, true), (6, false), (30, false)] {
            let (api, started) = (api(), Instant::now());
            tokio::time::advance(Duration::from_secs(login)).await;
            api.pause.extend(wait);
            let waited = api.wait_for_slot(None, started).await;
            assert_eq!(waited.is_ok(), fits, "{login}: {waited:?}");
            assert_eq!(started.elapsed() >= wait + Duration::from_secs(login), fits);
            if let Err(error) = waited {
                let kind = ErrorKind::RateLimited {
                    retry_after: Some(wait),
                };
                assert_eq!(error.kind(), kind, "{error}");
            }
        }
    }
}
