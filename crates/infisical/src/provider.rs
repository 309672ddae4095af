//! The provider.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use http::StatusCode;
use http::header::ETAG;
use secretwell_core::backend::{Capabilities, join_bounded};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version,
};
use tokio::time::{Instant, timeout_at};

use crate::api::Api;
use crate::config::Settings;
use crate::folder::{Folders, Last};
use crate::wire::{self, ApiVersion, Entry, Listing};
use crate::{InfisicalAuth, InfisicalBuilder};

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
    origin: Origin,
    api: Api,
    folders: Folders,
}

impl InfisicalProvider {
    /// Settings for the server at `address`: `https://app.infisical.com`, `https://eu.infisical.com`, or
    /// your own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: it is no address.
    pub fn builder(
        address: impl AsRef<str>,
        auth: InfisicalAuth,
    ) -> Result<InfisicalBuilder, Error> {
        InfisicalBuilder::new(address.as_ref(), auth)
    }

    /// Creates a provider from the conventional variables that [`InfisicalBuilder::from_env`] reads.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if a variable is invalid or a required one is missing.
    pub fn from_env() -> Result<Self, Error> {
        InfisicalBuilder::from_env()?.build()
    }

    /// Creates a provider from a URL, as [`InfisicalBuilder::from_url`] reads it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the part of the URL that is invalid.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        InfisicalBuilder::from_url(url)?.build()
    }

    /// What time the server says it is. Takes no login: it tells whether the server can be reached.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn server_time(&self) -> Result<SystemTime, Error> {
        self.inner.api.server_time().await
    }

    pub(crate) fn new(
        client: secretwell_http::ClientConfig,
        auth: InfisicalAuth,
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
        let origin = Origin::new("infisical", place.escape_debug());
        let inner = Inner {
            api: Api::new(client, auth, settings, &origin)?,
            origin,
            folders: Folders::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// When a call that begins now is given up. A single request ends a little before, and says more.
    fn end(&self) -> Instant {
        Instant::now() + self.api.deadline().mul_f64(1.1)
    }

    /// What comes of `work`, with its login, its waits and all its requests, if that is by `end`.
    async fn by<T>(
        &self,
        end: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let done = timeout_at(end, work).await;
        done.unwrap_or_else(|_| {
            let deadline = self.api.deadline();
            let message = format!("login, waits and requests took longer than {deadline:?}");
            Err(Error::new(ErrorKind::Timeout, message).with_hint("is the server overloaded?"))
        })
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
        last: &mut Last,
    ) -> Result<Arc<Listing>, Error> {
        let query = list_query(path, recursive);
        let etag = last.kept.as_ref().map(|(etag, _)| etag.clone());
        let response = self.api.secrets(None, &query, etag.as_ref()).await?;
        if response.status.is_success() || response.status == StatusCode::NOT_MODIFIED {
            self.folders.note(path, recursive);
        }
        if let (StatusCode::NOT_MODIFIED, Some((_, listing))) = (response.status, &last.kept) {
            return Ok(listing.clone());
        }
        let listing = Arc::new(Listing::of(&response, self.api.settings.personal)?);
        let etag = response.headers.get(ETAG).cloned();
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
        let names = match self.api.folders_in(parent).await {
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

    /// The folder that all keys are below.
    fn base(&self) -> &str {
        &self.api.settings.folder
    }

    /// The folder of a key, and its name in it.
    fn locate<'a>(&self, key: &'a SecretKey) -> Result<(String, &'a str), Error> {
        let path = match key.prefix() {
            None => self.base().to_owned(),
            Some(directory) => format!("{}/{directory}", self.base().trim_end_matches('/')),
        };
        if key.name().chars().count() > LONGEST_NAME {
            let message = "the server cannot have so long a name";
            return Err(Error::new(ErrorKind::InvalidKey, message)
                .with_hint(format!("names have {LONGEST_NAME} characters at most")));
        }
        // The server answers such a path with an error of its own.
        if path.contains(['*', '%']) || path.contains("..") {
            return Err(Error::new(
                ErrorKind::InvalidKey,
                "the server cannot have such a folder",
            )
            .with_hint("folders have letters, digits, `-` and `_`"));
        }
        Ok((path, key.name()))
    }

    /// The secrets of `places`, each a folder and a name.
    async fn read(&self, places: &[&(String, &str)]) -> Vec<Result<Secret, Error>> {
        let end = self.end();
        let folders: BTreeSet<&str> = places.iter().map(|(folder, _)| folder.as_str()).collect();
        let together = match folders.len() >= TOGETHER {
            true => match self.by(end, self.list(self.base(), true)).await {
                Ok(listing) => Some(listing),
                Err(error) if error.is_temporary() => {
                    return places.iter().map(|_| Err(error.clone())).collect();
                }
                // Not allowed for all, and perhaps for some.
                Err(_) => None,
            },
            false => None,
        };
        // What a folder itself holds stands before what it imports, so it needs no list of its own.
        let found = |folder: &str, name: &str| together.as_ref()?.own_of(folder, name);
        let missing = places
            .iter()
            .filter(|(folder, name)| found(folder, name).is_none());
        let missing: BTreeSet<&str> = missing.map(|(folder, _)| folder.as_str()).collect();
        let lists = missing
            .into_iter()
            .map(async |folder| (folder, self.by(end, self.list(folder, false)).await));
        let lists: HashMap<&str, _> = join_bounded(CONCURRENCY, lists).await.into_iter().collect();

        let reads = places.iter().map(async |(folder, name)| {
            let entry = match (found(folder, name), lists.get(folder.as_str())) {
                (Some(entry), _) => entry,
                (None, Some(Ok(listing))) => match listing.get(folder, name) {
                    Some(entry) => entry,
                    None => return self.by(end, self.absent(folder, listing)).await,
                },
                (None, Some(Err(error))) => return Err(error.clone()),
                (None, None) => return Err(wire::no_such_secret()),
            };
            self.by(end, self.finish(folder, name, entry)).await
        });
        join_bounded(CONCURRENCY, reads).await
    }

    /// Why a secret is not in a listing.
    async fn absent(&self, folder: &str, listing: &Listing) -> Result<Secret, Error> {
        if listing.is_empty() {
            self.check(folder).await?;
        }
        Err(wire::no_such_secret())
    }

    /// What a listing has of a secret, as a secret. Lists of older servers come back half expanded now and
    /// then; a single read does not.
    async fn finish(&self, folder: &str, name: &str, entry: &Entry) -> Result<Secret, Error> {
        let secret = entry.secret()?;
        let Some(reference) = self.leftover(&secret)? else {
            return Ok(secret);
        };
        if let Some(said) = entry.confirmed() {
            return said;
        }
        let said = self.confirm(folder, name, &reference).await;
        entry.note(&reference, &said);
        said
    }

    /// Reads one secret in whose listed value a reference is left.
    async fn confirm(&self, folder: &str, name: &str, reference: &str) -> Result<Secret, Error> {
        let query = [("secretPath", folder)];
        let response = self.api.secrets(Some(name), &query, None).await?;
        // What it says of a reference into nowhere, and perhaps of a trouble that has just begun.
        if wire::is_own_error(&response) {
            return Err(wire::unresolved(reference).temporary());
        }
        self.whole(wire::single(&response)?.secret()?)
    }

    /// A secret that was read by itself, unless a reference is left in it.
    fn whole(&self, secret: Secret) -> Result<Secret, Error> {
        match self.leftover(&secret)? {
            None => Ok(secret),
            Some(reference) => Err(wire::unresolved(&reference)),
        }
    }

    /// The first reference that is left in a secret's value, where none should be.
    fn leftover(&self, secret: &Secret) -> Result<Option<String>, Error> {
        let left = wire::leftover(secret.value.expose_text()?);
        Ok(left.filter(|_| self.api.settings.expand).map(str::to_owned))
    }

    /// One version of a secret.
    async fn read_version(
        &self,
        folder: &str,
        name: &str,
        version: &Version,
    ) -> Result<Secret, Error> {
        let Some(number) = version.number().filter(|number| *number > 0) else {
            let message = "versions here are numbers from 1 on";
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let number = number.to_string();
        let query = [("secretPath", folder), ("version", &number)];
        let entry = wire::single(&self.api.secrets(Some(name), &query, None).await?)?;
        if entry.version().number() != version.number() {
            let message = "the server answers with another version than was asked for";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("earlier versions take a newer server, and one that has this version"));
        }
        self.whole(entry.secret()?)
    }

    /// Whether the next read would be answered.
    async fn check_health(&self) -> Result<(), Error> {
        match self.api.folders_in("/").await {
            // Whoever may read secrets need not be allowed to see folders.
            Err(error) if error.kind() == ErrorKind::Denied => {}
            told => drop(told?),
        }
        let latest = self.folders.latest();
        let (path, recursive) = latest.unwrap_or_else(|| (self.base().to_owned(), false));
        match self.api.would_list(&list_query(&path, recursive)).await? {
            true => Ok(()),
            false => self.list(&path, recursive).await.map(drop),
        }
    }

    /// The keys below `base`.
    async fn keys(&self, base: &str) -> Result<Vec<SecretKey>, Error> {
        let all = self.list(base, true).await?;
        let mut names: BTreeSet<(String, String)> = BTreeSet::new();
        let mut folders = BTreeSet::from([base.to_owned()]);
        for (folder, found) in all.folders() {
            folders.insert(folder.to_owned());
            names.extend(found.map(|name| (folder.to_owned(), name.to_owned())));
        }
        if self.api.settings.imports {
            let lists = folders
                .iter()
                .map(async |folder| (folder, self.list(folder, false).await));
            for (folder, listed) in join_bounded(CONCURRENCY, lists).await {
                let listed = listed?;
                let imported = listed.imported();
                names.extend(imported.map(|name| (folder.clone(), name.to_owned())));
            }
        }
        if names.is_empty() {
            match self.check(base).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let below = |folder: &str| {
            let rest = folder.strip_prefix(self.base()).unwrap_or(folder);
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
}

fn list_query(path: &str, recursive: bool) -> [(&str, &str); 2] {
    let flag = if recursive { "true" } else { "false" };
    [("secretPath", path), ("recursive", flag)]
}

#[async_trait]
impl SecretProvider for InfisicalProvider {
    fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// Old versions are claimed unless the API is said to be of version 3, which ignores them on older
    /// servers.
    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list();
        match self.inner.api.settings.api {
            Some(ApiVersion::V3) => capabilities,
            _ => capabilities.with_old_versions(),
        }
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut answers = self.get_many(std::slice::from_ref(key)).await;
        answers.pop().unwrap_or_else(|| {
            Err(wire::no_such_secret()
                .with_origin(&self.inner.origin)
                .with_key(key))
        })
    }

    /// One list for each folder that holds any of the keys; where they are in three folders or more, one
    /// for all of them first.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let located: Vec<_> = keys.iter().map(|key| self.inner.locate(key)).collect();
        let places: Vec<_> = located.iter().flatten().collect();
        let mut read = self.inner.read(&places).await.into_iter();
        let answers = located.into_iter().zip(keys).map(|(place, key)| {
            let answer = match place {
                Ok(_) => read.next().unwrap_or_else(|| Err(wire::no_such_secret())),
                Err(error) => Err(error),
            };
            answer.map_err(|error| error.with_origin(&self.inner.origin).with_key(key))
        });
        answers.collect()
    }

    /// Servers of 2024 answer with the current version whatever is asked for: then this fails.
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let inner = &self.inner;
        let named = |error: Error| error.with_origin(&inner.origin).with_key(key);
        if !self.capabilities().old_versions {
            let message = "version 3 of the API tells the current version only";
            return Err(named(
                Error::new(ErrorKind::Unsupported, message)
                    .with_hint("see the provider's capabilities"),
            ));
        }
        let (folder, name) = inner.locate(key).map_err(named)?;
        let read = inner.read_version(&folder, name, version);
        inner.by(inner.end(), read).await.map_err(named)
    }

    /// Where imports count, each folder with secrets is listed; one that only imports is not found.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let inner = &self.inner;
        let base = match prefix.as_str() {
            "" => inner.base().to_owned(),
            prefix => format!("{}/{prefix}", inner.base().trim_end_matches('/')),
        };
        let keys = inner.by(inner.end(), inner.keys(&base)).await;
        keys.map_err(|error| error.with_origin(&inner.origin))
    }

    /// Asks for the folders of the environment, if that is allowed, and again for what was read last, but
    /// not for what it says. That is a read only where it would fail, or where there was none before.
    async fn health(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let checked = inner.by(inner.end(), inner.check_health()).await;
        checked.map_err(|error| error.with_origin(&inner.origin))
    }
}

impl fmt::Debug for InfisicalProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfisicalProvider")
            .field("source", &self.inner.origin)
            .field("api", &self.inner.api.version())
            .finish_non_exhaustive()
    }
}
