//! The way to the server: who asks, in which version of the API, and how often.

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

/// How long a new login is not tried again for a dead token after one was in vain: a client secret may be
/// good for so many logins only.
const BETWEEN_LOGINS: Duration = Duration::from_secs(5);

/// The requests of one provider.
pub(crate) struct Api {
    client: Client,
    session: TokenManager,
    pub(crate) settings: Settings,
    /// The version of the API, once it is known.
    version: OnceLock<ApiVersion>,
    project_id: OnceCell<String>,
    /// When a new login brought a token that was refused as well, unless one has helped since.
    in_vain: Mutex<Option<Instant>>,
    pause: Arc<Pause>,
    lists: Budget,
    singles: Budget,
}

impl Api {
    pub(crate) fn new(
        client: ClientConfig,
        auth: InfisicalAuth,
        settings: Settings,
        origin: &Origin,
    ) -> Result<Self, Error> {
        let pause = Arc::default();
        let infisical = wire::Infisical {
            pause: Arc::clone(&pause),
        };
        let client = Client::new(client, infisical, origin.clone())?;
        let login = InfisicalLogin::new(client.clone(), auth);
        let project_id = match &settings.project {
            Project::Id(id) => OnceCell::new_with(Some(id.clone())),
            Project::Slug(_) => OnceCell::new(),
        };
        Ok(Self {
            client,
            session: TokenManager::new(login, origin.clone()),
            version: settings.api.map_or_else(OnceLock::new, OnceLock::from),
            settings,
            project_id,
            in_vain: Mutex::default(),
            pause,
            lists: Budget::default(),
            singles: Budget::default(),
        })
    }

    /// The version of the API, if it is known.
    pub(crate) fn version(&self) -> Option<ApiVersion> {
        self.version.get().copied()
    }

    fn in_vain(&self) -> MutexGuard<'_, Option<Instant>> {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn server_time(&self) -> Result<SystemTime, Error> {
        self.client.server_time("/api/status").await
    }

    /// Asks with a token. One that turns out to be dead is replaced by a new login, once, unless that was in
    /// vain a moment ago.
    async fn call(&self, request: Request, budget: Option<&Budget>) -> Result<Response, Error> {
        let mut replaced = false;
        let began = Instant::now();
        loop {
            let token = self.session.token().await?;
            let with_token = request
                .clone()
                .secret_header(AUTHORIZATION, &bearer(token.value()))?;
            self.wait_for(budget, began).await?;
            let response = self.client.send(&with_token).await?;
            if let Some(budget) = budget {
                budget.note(&response.headers);
            }
            let is_dead = wire::is_dead_token(&response);
            if replaced {
                *self.in_vain() = is_dead.then(Instant::now);
            }
            if !is_dead {
                return Ok(response);
            }
            let lately = self
                .in_vain()
                .is_some_and(|at| at.elapsed() < BETWEEN_LOGINS);
            if replaced || lately {
                let message = "the server does not know the token of the login";
                return Err(Error::new(ErrorKind::Unauthenticated, message)
                    .with_hint("give another token; was the machine identity removed?"));
            }
            self.session.reject(&token);
            replaced = true;
        }
    }

    /// Waits for a place in what the server still allows, if that is in time for a call that `began` then.
    async fn wait_for(&self, budget: Option<&Budget>, began: Instant) -> Result<(), Error> {
        let most = self.client.deadline().saturating_sub(began.elapsed());
        let place = budget.map_or(Duration::ZERO, |budget| budget.take(most));
        let mut wait = place.max(self.pause.left());
        // Not for nothing: the timer is a millisecond late.
        while !wait.is_zero() {
            if began.elapsed() + wait > self.client.deadline() {
                let kind = ErrorKind::RateLimited {
                    retry_after: Some(wait),
                };
                return Err(
                    Error::new(kind, "the server's rate limit is all but reached")
                        .with_hint("raise the ttl, or the limit"),
                );
            }
            tokio::time::sleep(wait).await;
            wait = self.pause.left();
        }
        Ok(())
    }

    /// How long a call may take, with everything that belongs to it.
    pub(crate) fn deadline(&self) -> Duration {
        self.client.deadline()
    }

    /// Whether a list would be answered, as far as can be told without its body.
    pub(crate) async fn would_list(&self, query: &[(&str, &str)]) -> Result<bool, Error> {
        let Some(api) = self.version() else {
            return Ok(false);
        };
        let request = Request::new(Method::HEAD, self.path(api, None, query).await?);
        Ok(self.call(request, None).await?.status.is_success())
    }

    /// Asks the API for secrets, in the version that the server has: the newer one first, once.
    pub(crate) async fn secrets(
        &self,
        name: Option<&str>,
        query: &[(&str, &str)],
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        let known = self.version();
        let response = self.ask(known.unwrap_or(ApiVersion::V4), name, query, etag);
        let response = response.await?;
        if known.is_some() {
            return Ok(response);
        }
        // A failed look is never taken for a fact.
        if !wire::is_unknown_route(&response) {
            if response.status.is_success() {
                let _ = self.version.set(ApiVersion::V4);
            }
            return Ok(response);
        }
        let response = self.ask(ApiVersion::V3, name, query, etag).await?;
        if response.status.is_success() {
            let _ = self.version.set(ApiVersion::V3);
        }
        Ok(response)
    }

    async fn ask(
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
            None => &self.lists,
            Some(_) => &self.singles,
        };
        self.call(request, Some(budget)).await
    }

    /// Every flag is said every time: their defaults differ from version to version.
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

    /// The project's id. Where it was given by its slug, the server is asked, once.
    async fn project_id(&self) -> Result<&str, Error> {
        let ask = async |path: &str| {
            let slug = encode(self.settings.project.as_str());
            let request = Request::new(Method::GET, format!("{path}{slug}"));
            self.call(request, None).await
        };
        let find_out = async || {
            let response = ask("/api/v2/workspace/").await?;
            match wire::is_unknown_route(&response) {
                true => wire::project_id(&ask("/api/v1/projects/slug/").await?),
                false => wire::project_id(&response),
            }
        };
        self.project_id
            .get_or_try_init(find_out)
            .await
            .map(String::as_str)
    }

    /// The names of the folders in a folder.
    pub(crate) async fn folders_in(&self, path: &str) -> Result<Vec<String>, Error> {
        let place = format!(
            "/api/v1/folders?workspaceId={}&environment={}&path={}",
            encode(self.project_id().await?),
            encode(&self.settings.environment),
            encode(path)
        );
        wire::folder_names(&self.call(Request::new(Method::GET, place), None).await?)
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
    async fn what_a_login_took_is_no_longer_there_to_wait() {
        let wait = Duration::from_secs(15);
        for (login, fits) in [(0, true), (4, true), (6, false), (30, false)] {
            let (api, began) = (api(), Instant::now());
            tokio::time::advance(Duration::from_secs(login)).await;
            api.pause.note(wait);
            let waited = api.wait_for(None, began).await;
            assert_eq!(waited.is_ok(), fits, "{login}: {waited:?}");
            assert_eq!(began.elapsed() >= wait + Duration::from_secs(login), fits);
            if let Err(error) = waited {
                let kind = ErrorKind::RateLimited {
                    retry_after: Some(wait),
                };
                assert_eq!(error.kind(), kind, "{error}");
            }
        }
    }
}
