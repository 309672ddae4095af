//! The provider.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, StatusCode};
use secretwell_core::{
    Capabilities, Error, ErrorKind, KeyPrefix, Secret, SecretKey, SecretProvider, Source, Version,
    join_bounded,
};
use secretwell_http::{Client, Reply, Request, Session, encode};
use tokio::sync::OnceCell;

use crate::auth::{InfisicalLogin, bearer};
use crate::budget::Budget;
use crate::config::{Project, Settings, process_variable};
use crate::folder::Folders;
use crate::wire::{self, ApiVersion, DeadToken, Entry, Listing};
use crate::{Auth, InfisicalBuilder};

/// How many requests are under way at a time.
const CONCURRENCY: usize = 8;
/// The longest name in characters that servers take in a path.
const LONGEST_NAME: usize = 100;
/// From how many folders on it is cheaper to list them together.
const TOGETHER: usize = 3;

/// Secrets from Infisical. See the [crate](crate) for how keys become folders and names.
#[derive(Clone)]
pub struct InfisicalProvider {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    client: Client,
    session: Session,
    settings: Settings,
    /// The version of the API, once it is known.
    api: OnceLock<ApiVersion>,
    project_id: OnceCell<String>,
    folders: Folders,
    lists: Budget,
    singles: Budget,
}

impl InfisicalProvider {
    /// Settings for the server at `address`: `https://app.infisical.com`, `https://eu.infisical.com`, or
    /// your own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: it is no address.
    pub fn builder(address: impl AsRef<str>, auth: Auth) -> Result<InfisicalBuilder, Error> {
        InfisicalBuilder::new(address.as_ref(), auth)
    }

    /// Settings from the conventional variables: `INFISICAL_TOKEN`, or
    /// `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID` and `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET` (also
    /// `INFISICAL_CLIENT_ID` and `INFISICAL_CLIENT_SECRET`; a secret's file is named by `…_FILE`);
    /// `INFISICAL_DOMAIN` or `INFISICAL_API_URL`; `INFISICAL_PROJECT_ID`; `INFISICAL_ENVIRONMENT`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: one of them makes no sense, or there is nothing to log in with.
    pub fn from_env() -> Result<InfisicalBuilder, Error> {
        InfisicalBuilder::from_variables(&process_variable)
    }

    /// Settings from a URL, and from the conventional variables where it says nothing:
    /// `infisical://host/PROJECT/ENVIRONMENT/folder?auth=universal`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: what in it is wrong. Credentials never belong in a URL, and one
    /// that holds any is refused.
    pub fn from_url(url: &str) -> Result<InfisicalBuilder, Error> {
        InfisicalBuilder::from_url(url, &process_variable)
    }

    pub(crate) fn new(
        client: secretwell_http::ClientConfig,
        auth: Auth,
        settings: Settings,
    ) -> Result<Self, Error> {
        let authorities = client.addresses().iter();
        let authority: Vec<String> = authorities.map(|address| address.authority()).collect();
        let place = format!(
            "{}/{}/{}{}",
            authority.join(","),
            settings.project,
            settings.environment,
            settings.folder.trim_end_matches('/'),
        );
        let source = Source::new("infisical", place.escape_debug());
        let client = Client::new(client, wire::Infisical, source.clone())?;
        let login = InfisicalLogin::new(client.clone(), auth);
        let project_id = match &settings.project {
            Project::Id(id) => OnceCell::new_with(Some(id.clone())),
            Project::Slug(_) => OnceCell::new(),
        };
        let inner = Inner {
            session: Session::new(login, source.clone()),
            source,
            client,
            api: settings.api.map_or_else(OnceLock::new, OnceLock::from),
            settings,
            project_id,
            folders: Folders::default(),
            lists: Budget::default(),
            singles: Budget::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// Asks with a token. One that turns out to be dead is replaced by a new login, once.
    async fn call(&self, request: Request, budget: Option<&Budget>) -> Result<Reply, Error> {
        let mut replaced = false;
        loop {
            let token = self.session.token().await?;
            let with_token = request
                .clone()
                .secret_header(AUTHORIZATION, &bearer(token.value()))?;
            if let Some(budget) = budget {
                self.wait_for(budget).await?;
            }
            let reply = self.client.send(&with_token).await?;
            if let Some(budget) = budget {
                budget.note(&reply.headers);
            }
            match wire::dead_token(&reply) {
                None => return Ok(reply),
                Some(DeadToken::Spent) if !replaced => self.session.reject(&token),
                Some(DeadToken::Unknown) if !replaced && self.session.suspect(&token) => {}
                Some(_) => {
                    let message = "the server does not know the token of the login";
                    return Err(Error::new(ErrorKind::Unauthenticated, message)
                        .hint("give another token; was the machine identity removed?"));
                }
            }
            replaced = true;
        }
    }

    /// Waits for a place in what the server still allows.
    async fn wait_for(&self, budget: &Budget) -> Result<(), Error> {
        let wait = budget.take();
        if wait > self.client.deadline() {
            let kind = ErrorKind::RateLimited {
                retry_after: Some(wait),
            };
            return Err(
                Error::new(kind, "the server's rate limit is all but reached")
                    .hint("raise the ttl, or the limit"),
            );
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Asks the API for secrets, in the version that the server has: the newer one first, once.
    async fn secrets(
        &self,
        name: Option<&str>,
        query: &[(&str, &str)],
        etag: Option<&HeaderValue>,
    ) -> Result<Reply, Error> {
        let known = self.api.get().copied();
        let reply = self.ask(known.unwrap_or(ApiVersion::V4), name, query, etag);
        let reply = reply.await?;
        if known.is_some() {
            return Ok(reply);
        }
        // A failed look is never taken for a fact.
        if !wire::is_unknown_route(&reply) {
            if reply.status.is_success() {
                let _ = self.api.set(ApiVersion::V4);
            }
            return Ok(reply);
        }
        let reply = self.ask(ApiVersion::V3, name, query, etag).await?;
        if reply.status.is_success() {
            let _ = self.api.set(ApiVersion::V3);
        }
        Ok(reply)
    }

    async fn ask(
        &self,
        api: ApiVersion,
        name: Option<&str>,
        query: &[(&str, &str)],
        etag: Option<&HeaderValue>,
    ) -> Result<Reply, Error> {
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
        let find_out = async || {
            let slug = encode(self.settings.project.as_str());
            let mut last = None;
            for path in ["/api/v2/workspace/", "/api/v1/projects/slug/"] {
                let request = Request::new(Method::GET, format!("{path}{slug}"));
                let reply = self.call(request, None).await?;
                if !wire::is_unknown_route(&reply) {
                    return wire::project_id(&reply);
                }
                last = Some(reply);
            }
            last.map_or_else(|| Ok(String::new()), |reply| wire::project_id(&reply))
        };
        self.project_id
            .get_or_try_init(find_out)
            .await
            .map(String::as_str)
    }

    /// What a folder holds, alone or with all below it. Callers share a list that sets out after they
    /// came.
    async fn list(&self, path: &str, recursive: bool) -> Result<Arc<Listing>, Error> {
        let caller = self.folders.arrive();
        let folder = self.folders.get(path, recursive);
        let mut last = folder.0.lock().await;
        if let Some(outcome) = last.good_for(caller) {
            return outcome;
        }
        let sent_at = self.folders.arrived();
        let outcome = self.list_now(path, recursive, &mut last).await;
        last.keep(sent_at, outcome.clone());
        outcome
    }

    async fn list_now(
        &self,
        path: &str,
        recursive: bool,
        last: &mut crate::folder::Last,
    ) -> Result<Arc<Listing>, Error> {
        let flag = if recursive { "true" } else { "false" };
        let query = [("secretPath", path), ("recursive", flag)];
        let etag = last.kept.as_ref().map(|(etag, _)| etag.clone());
        let reply = self.secrets(None, &query, etag.as_ref()).await?;
        if let (StatusCode::NOT_MODIFIED, Some((_, listing))) = (reply.status, &last.kept) {
            return Ok(listing.clone());
        }
        let listing = Arc::new(Listing::of(&reply, self.settings.personal)?);
        let etag = reply.headers.get(ETAG).cloned();
        last.kept = etag.map(|etag| (etag, listing.clone()));
        last.checked = None;
        Ok(listing)
    }

    /// Why there is nothing in a folder: the server lists one that there is none of as empty.
    async fn check(&self, path: &str) -> Result<(), Error> {
        let folder = self.folders.get(path, false);
        let mut last = folder.0.lock().await;
        if let Some(checked) = &last.checked {
            return checked.clone();
        }
        let checked = self.check_now(path).await;
        match &checked {
            Err(error) if error.is_temporary() => {}
            _ => last.checked = Some(checked.clone()),
        }
        checked
    }

    async fn check_now(&self, path: &str) -> Result<(), Error> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let names = match self.folders_in(parent).await {
            Ok(names) => names,
            // Whoever may read secrets need not be allowed to see folders.
            Err(error) if error.kind() == ErrorKind::Denied => return Ok(()),
            Err(error) => return Err(error),
        };
        match name.is_empty() || names.iter().any(|known| known == name) {
            true => Ok(()),
            false => Err(wire::no_such_folder()),
        }
    }

    /// The names of the folders in a folder.
    async fn folders_in(&self, path: &str) -> Result<Vec<String>, Error> {
        let place = format!(
            "/api/v1/folders?workspaceId={}&environment={}&path={}",
            encode(self.project_id().await?),
            encode(&self.settings.environment),
            encode(path)
        );
        wire::folder_names(&self.call(Request::new(Method::GET, place), None).await?)
    }

    /// The folder that all keys are below.
    fn base(&self) -> &str {
        &self.settings.folder
    }

    /// The folder of a key, and its name in it.
    fn locate<'a>(&self, key: &'a SecretKey) -> Result<(String, &'a str), Error> {
        let path = match key.directory() {
            None => self.base().to_owned(),
            Some(directory) => format!("{}/{directory}", self.base().trim_end_matches('/')),
        };
        if key.name().chars().count() > LONGEST_NAME {
            let message = "the server cannot have so long a name";
            return Err(Error::new(ErrorKind::InvalidKey, message)
                .hint(format!("names have {LONGEST_NAME} characters at most")));
        }
        // The server answers such a path with an error of its own.
        if path.contains(['*', '%']) || path.contains("..") {
            return Err(Error::new(
                ErrorKind::InvalidKey,
                "the server cannot have such a folder",
            )
            .hint("folders have letters, digits, `-` and `_`"));
        }
        Ok((path, key.name()))
    }

    /// The secrets of `places`, each a folder and a name.
    async fn read(&self, places: &[(String, &str)]) -> Vec<Result<Secret, Error>> {
        let folders: BTreeSet<&str> = places.iter().map(|(folder, _)| folder.as_str()).collect();
        let together = match folders.len() >= TOGETHER {
            true => self.list(self.base(), true).await.ok(),
            false => None,
        };
        // What a folder itself holds stands before what it imports, so it needs no list of its own.
        let found = |folder: &str, name: &str| together.as_ref()?.own_of(folder, name).cloned();
        let missing = places
            .iter()
            .filter(|(folder, name)| found(folder, name).is_none());
        let missing: BTreeSet<&str> = missing.map(|(folder, _)| folder.as_str()).collect();
        let lists = missing
            .into_iter()
            .map(async |folder| (folder, self.list(folder, false).await));
        let lists: HashMap<&str, _> = join_bounded(CONCURRENCY, lists).await.into_iter().collect();

        let reads = places.iter().map(async |(folder, name)| {
            let entry = match (found(folder, name), lists.get(folder.as_str())) {
                (Some(entry), _) => entry,
                (None, Some(Ok(listing))) => match listing.get(folder, name) {
                    Some(entry) => entry.clone(),
                    None => return Err(self.absent(folder, listing).await),
                },
                (None, Some(Err(error))) => return Err(error.clone()),
                (None, None) => return Err(wire::no_such_secret()),
            };
            self.finish(folder, name, &entry).await
        });
        join_bounded(CONCURRENCY, reads).await
    }

    /// Why a secret is not in a listing.
    async fn absent(&self, folder: &str, listing: &Listing) -> Error {
        match listing.is_empty() {
            true => self.check(folder).await.err(),
            false => None,
        }
        .unwrap_or_else(wire::no_such_secret)
    }

    /// What a listing has of a secret, as a secret.
    async fn finish(&self, folder: &str, name: &str, entry: &Entry) -> Result<Secret, Error> {
        let secret = entry.secret()?;
        let text = secret.value.expose_text()?;
        match wire::leftover(text).filter(|_| self.settings.expand) {
            None => Ok(secret),
            Some(reference) => self.confirm(folder, name, reference).await,
        }
    }

    /// Reads one secret in whose listed value a reference is left. Lists of older servers come back half
    /// expanded now and then; a single read does not.
    async fn confirm(&self, folder: &str, name: &str, reference: &str) -> Result<Secret, Error> {
        let unresolved = |reference: &str| {
            Error::new(
                ErrorKind::Invalid,
                format!("its reference `{reference}` leads to no secret"),
            )
            .hint("correct the reference, or read without expanding references")
        };
        let reply = match self
            .secrets(Some(name), &[("secretPath", folder)], None)
            .await
        {
            Ok(reply) => reply,
            // What the server says of a reference into an environment or folder that there is none of.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                return Err(unresolved(reference).with_temporary(true));
            }
            Err(error) => return Err(error),
        };
        let secret = wire::single(&reply)?.secret()?;
        match wire::leftover(secret.value.expose_text()?) {
            None => Ok(secret),
            Some(reference) => Err(unresolved(reference)),
        }
    }
}

#[async_trait]
impl SecretProvider for InfisicalProvider {
    fn source(&self) -> &Source {
        &self.inner.source
    }

    /// Old versions are claimed unless the server is known to have the older API, which ignores them.
    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list();
        match self.inner.api.get() {
            Some(ApiVersion::V3) => capabilities,
            _ => capabilities.with_old_versions(),
        }
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut answers = self.get_many(std::slice::from_ref(key)).await;
        answers
            .pop()
            .unwrap_or_else(|| Err(wire::no_such_secret().at(&self.inner.source).for_key(key)))
    }

    /// One list for each folder that holds any of the keys; where they are in three folders or more, one
    /// for all of them first.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let located: Vec<_> = keys.iter().map(|key| self.inner.locate(key)).collect();
        let places: Vec<_> = located.iter().flatten().cloned().collect();
        let mut read = self.inner.read(&places).await.into_iter();
        let answers = located.into_iter().zip(keys).map(|(place, key)| {
            let answer = place.and_then(|_| read.next().unwrap_or(Err(wire::no_such_secret())));
            answer.map_err(|error| error.at(&self.inner.source).for_key(key))
        });
        answers.collect()
    }

    /// Servers of 2024 answer with the current version whatever is asked for: then this fails.
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let inner = &self.inner;
        let named = |error: Error| error.at(&inner.source).for_key(key);
        let (folder, name) = inner.locate(key).map_err(named)?;
        let Some(number) = version.number().filter(|number| *number > 0) else {
            let message = "versions here are numbers from 1 on";
            return Err(named(Error::new(ErrorKind::NotFound, message)));
        };
        let number = number.to_string();
        let query = [("secretPath", folder.as_str()), ("version", &number)];
        let reply = inner
            .secrets(Some(name), &query, None)
            .await
            .map_err(named)?;
        let entry = wire::single(&reply).map_err(named)?;
        if entry.version().number() != version.number() {
            let message = "the server answers with another version than was asked for";
            return Err(named(Error::new(ErrorKind::Unsupported, message).hint(
                "earlier versions take a newer server, and one that has this version",
            )));
        }
        let secret = entry.secret().map_err(named)?;
        Ok(secret.with_version(version.clone()))
    }

    /// Where imports count, each folder with secrets is listed; one that only imports is not found.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let inner = &self.inner;
        let at = |error: Error| error.at(&inner.source);
        let base = match prefix.as_str() {
            "" => inner.base().to_owned(),
            prefix => format!("{}/{prefix}", inner.base().trim_end_matches('/')),
        };
        let all = inner.list(&base, true).await.map_err(at)?;
        let mut names: BTreeSet<(String, String)> = BTreeSet::new();
        let mut folders = BTreeSet::from([base.clone()]);
        for (folder, found) in all.folders() {
            folders.insert(folder.to_owned());
            names.extend(found.map(|name| (folder.to_owned(), name.to_owned())));
        }
        if inner.settings.imports {
            let lists = folders
                .iter()
                .map(async |folder| (folder, inner.list(folder, false).await));
            for (folder, listed) in join_bounded(CONCURRENCY, lists).await {
                let listed = listed.map_err(at)?;
                names.extend(
                    listed
                        .imported()
                        .map(|name| (folder.clone(), name.to_owned())),
                );
            }
        }
        if names.is_empty() {
            match inner.check(&base).await {
                Err(error) if !error.is_not_found() => return Err(at(error)),
                _ => {}
            }
        }
        let below = |folder: &str| {
            let rest = folder.strip_prefix(inner.base()).unwrap_or(folder);
            rest.trim_matches('/').to_owned()
        };
        let keys = names
            .into_iter()
            .map(|(folder, name)| match below(&folder) {
                directory if directory.is_empty() => name,
                directory => format!("{directory}/{name}"),
            });
        let mut keys: Vec<_> = keys.filter_map(|key| SecretKey::parse(key).ok()).collect();
        keys.sort();
        Ok(keys)
    }

    /// Asks for the folders of the environment, which takes login, project and environment, and no
    /// secret.
    async fn health(&self) -> Result<(), Error> {
        let asked = self.inner.folders_in("/").await;
        asked
            .map(drop)
            .map_err(|error| error.at(&self.inner.source))
    }
}

impl fmt::Debug for InfisicalProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfisicalProvider")
            .field("source", &self.inner.source)
            .field("api", &self.inner.api.get())
            .finish_non_exhaustive()
    }
}
