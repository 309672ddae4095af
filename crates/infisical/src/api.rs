//! Requests to the server: token, version of the API, and rate limits.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use secretwell_core::{Error, ErrorKind, Origin};
use secretwell_http::{Client, ClientConfig, Request, Response, TokenManager, encode};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::InfisicalAuth;
use crate::auth::{InfisicalLogin, bearer};
use crate::budget::{Budget, Pause};
use crate::config::{Project, Settings};
use crate::wire::{self, ApiVersion};

/// The time without further logins after the server has rejected the token of a new login. Each login
/// can use up one of a limited number of uses of the client secret.
const RELOGIN_INTERVAL: Duration = Duration::from_secs(5);

/// The sender of one provider's requests. It adds the token and respects the rate limits.
pub(crate) struct Api {
    client: Client,
    tokens: TokenManager,
    pub(crate) settings: Settings,
    /// The version of the API. Empty until it is configured or detected.
    version: OnceLock<ApiVersion>,
    project_id: OnceCell<String>,
    /// The time when the server rejected the token of a new login. `None` if it accepted the last new one.
    relogin_failed_at: Mutex<Option<Instant>>,
    pause: Arc<Pause>,
    list_budget: Budget,
    single_budget: Budget,
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
            version: settings.api.map_or_else(OnceLock::new, OnceLock::from),
            settings,
            project_id,
            relogin_failed_at: Mutex::default(),
            pause,
            list_budget: Budget::default(),
            single_budget: Budget::default(),
        })
    }

    /// Returns the version of the API, if it is known.
    pub(crate) fn version(&self) -> Option<ApiVersion> {
        self.version.get().copied()
    }

    fn relogin_failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.relogin_failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn server_time(&self) -> Result<SystemTime, Error> {
        self.client.server_time("/api/status").await
    }

    /// Sends a request with a token. If the server rejects the token, logs in again and repeats the request
    /// once. Does not log in again if that failed within the last [`RELOGIN_INTERVAL`].
    async fn send(&self, request: Request, budget: Option<&Budget>) -> Result<Response, Error> {
        let mut is_retry = false;
        let started = Instant::now();
        loop {
            let token = self.tokens.token().await?;
            let with_token = request
                .clone()
                .secret_header(AUTHORIZATION, &bearer(token.value()))?;
            self.wait_for_slot(budget, started).await?;
            let response = self.client.send(&with_token).await?;
            if let Some(budget) = budget {
                budget.record(&response.headers);
            }
            let is_rejected = wire::is_token_rejected(&response);
            if is_retry {
                *self.relogin_failed_at() = is_rejected.then(Instant::now);
            }
            if !is_rejected {
                return Ok(response);
            }
            let failed_recently = self
                .relogin_failed_at()
                .is_some_and(|at| at.elapsed() < RELOGIN_INTERVAL);
            if is_retry || failed_recently {
                let message = "the server rejected the token, and a new login did not help";
                return Err(Error::new(ErrorKind::Unauthenticated, message)
                    .with_hint("use another token, or check that the machine identity exists"));
            }
            self.tokens.reject(&token);
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
    pub(crate) async fn can_list(&self, query: &[(&str, &str)]) -> Result<bool, Error> {
        let Some(api) = self.version() else {
            return Ok(false);
        };
        let request = Request::new(Method::HEAD, self.path(api, None, query).await?);
        Ok(self.send(request, None).await?.status.is_success())
    }

    /// Requests one secret, or a list if `name` is `None`. While the version of the API is unknown, tries
    /// version 4 first and then version 3.
    pub(crate) async fn fetch_secrets(
        &self,
        name: Option<&str>,
        query: &[(&str, &str)],
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        let known = self.version();
        let api = known.unwrap_or(ApiVersion::V4);
        let response = self.fetch_with(api, name, query, etag).await?;
        if known.is_some() {
            return Ok(response);
        }
        // Only a success settles the version, because an error might have another cause.
        if !wire::is_unknown_route(&response) {
            if response.status.is_success() {
                let _ = self.version.set(ApiVersion::V4);
            }
            return Ok(response);
        }
        let response = self.fetch_with(ApiVersion::V3, name, query, etag).await?;
        if response.status.is_success() {
            let _ = self.version.set(ApiVersion::V3);
        }
        Ok(response)
    }

    async fn fetch_with(
        &self,
        api: ApiVersion,
        name: Option<&str>,
        query: &[(&str, &str)],
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        let mut request = Request::new(Method::GET, self.path(api, name, query).await?);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag.clone());
        }
        let budget = match name {
            None => &self.list_budget,
            Some(_) => &self.single_budget,
        };
        self.send(request, Some(budget)).await
    }

    /// Returns the path and query of a request for secrets. Every flag is set explicitly, because the
    /// defaults differ between server versions.
    async fn path(
        &self,
        api: ApiVersion,
        name: Option<&str>,
        query: &[(&str, &str)],
    ) -> Result<String, Error> {
        let flag = |set: bool| if set { "true" } else { "false" };
        let settings = &self.settings;
        let mut path = match api {
            ApiVersion::V3 => "/api/v3/secrets/raw".to_owned(),
            ApiVersion::V4 => "/api/v4/secrets".to_owned(),
        };
        if let Some(name) = name {
            path += &format!("/{}", encode(name));
        }
        let mut all = vec![("environment", settings.environment.as_str())];
        match (&settings.project, api) {
            (Project::Slug(slug), ApiVersion::V3) => all.push(("workspaceSlug", slug)),
            (_, ApiVersion::V3) => all.push(("workspaceId", self.project_id().await?)),
            (_, ApiVersion::V4) => all.push(("projectId", self.project_id().await?)),
        }
        let (imports, expand) = (flag(settings.imports), flag(settings.expand));
        all.extend([
            ("viewSecretValue", "true"),
            ("expandSecretReferences", expand),
            ("include_imports", imports),
        ]);
        if api == ApiVersion::V4 {
            // The spelling of the imports flag also differs between versions, so both are sent.
            all.push(("includeImports", imports));
            all.push(("includePersonalOverrides", flag(settings.personal)));
        }
        let tags = settings.tags.join(",");
        if name.is_none() && !tags.is_empty() {
            all.push(("tagSlugs", &tags));
        }
        all.extend(query);
        let pairs = all
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)));
        Ok(format!("{path}?{}", pairs.collect::<Vec<_>>().join("&")))
    }

    /// Returns the project's id. If only the slug is configured, fetches the id from the server once.
    async fn project_id(&self) -> Result<&str, Error> {
        let request = async |path: &str| {
            let slug = encode(self.settings.project.as_str());
            let request = Request::new(Method::GET, format!("{path}{slug}"));
            self.send(request, None).await
        };
        let fetch_id = async || {
            let response = request("/api/v2/workspace/").await?;
            match wire::is_unknown_route(&response) {
                true => wire::project_id(&request("/api/v1/projects/slug/").await?),
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
        let target = format!(
            "/api/v1/folders?workspaceId={}&environment={}&path={}",
            encode(self.project_id().await?),
            encode(&self.settings.environment),
            encode(path)
        );
        wire::folder_names(&self.send(Request::new(Method::GET, target), None).await?)
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
            folder: "/".into(),
            api: None,
            imports: true,
            expand: true,
            personal: false,
            tags: Vec::new(),
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
