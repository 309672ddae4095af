//! [`InfisicalProvider`]: lists folders, finds keys in the lists, and explains missing keys.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use http::StatusCode;
use http::header::ETAG;
use secretwell_core::backend::{Capabilities, join_bounded};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};
use tokio::time::{Instant, timeout_at};

use crate::api::Api;
use crate::config::{FOLDER_NAME_HINT, Settings};
use crate::folder::{FolderCache, FolderState};
use crate::wire::{self, ApiVersion, Entry, Listing};
use crate::{InfisicalAuth, InfisicalBuilder};

/// The maximum number of concurrent requests of one call.
const CONCURRENCY: usize = 8;
/// The maximum length in characters of a secret's name. The server's router rejects longer ones.
const MAX_NAME_CHARS: usize = 100;
/// The number of folders from which one recursive list is cheaper than one list per folder.
const MIN_FOLDERS_FOR_RECURSIVE: usize = 3;

/// A provider of secrets from Infisical. The [crate docs](crate) describe how a key maps to a folder and a
/// secret.
#[derive(Clone)]
pub struct InfisicalProvider {
    inner: Arc<Inner>,
}

struct Inner {
    origin: Origin,
    api: Api,
    folders: FolderCache,
}

impl InfisicalProvider {
    /// Creates a builder for the server at `address`. This is `https://app.infisical.com`,
    /// `https://eu.infisical.com`, or the address of a self-hosted server.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `address` is not a valid address.
    pub fn builder(
        address: impl AsRef<str>,
        auth: InfisicalAuth,
    ) -> Result<InfisicalBuilder, Error> {
        InfisicalBuilder::new(address.as_ref(), auth)
    }

    /// Creates a provider from the environment variables that [`InfisicalBuilder::from_env`] reads.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if a variable is invalid or a required one is missing.
    pub fn from_env() -> Result<Self, Error> {
        InfisicalBuilder::from_env()?.build()
    }

    /// Creates a provider from a URL. [`InfisicalBuilder::from_url`] describes its format.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`], with the part of the URL that is invalid.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        InfisicalBuilder::from_url(url)?.build()
    }

    /// Returns the server's time. Needs no login, so it also shows whether the server can be reached.
    ///
    /// # Errors
    /// Returns the reason if the server cannot be reached or does not respond with its time.
    pub async fn server_time(&self) -> Result<SystemTime, Error> {
        self.inner.api.server_time().await
    }

    pub(crate) fn new(
        client: secretwell_http::ClientConfig,
        auth: InfisicalAuth,
        settings: Settings,
    ) -> Result<Self, Error> {
        let addresses = client.addresses().iter();
        let authorities: Vec<String> = addresses.map(|address| address.authority()).collect();
        let location = format!(
            "{}/{}/{}{}",
            authorities.join(","),
            settings.project,
            settings.environment,
            settings.folder.trim_end_matches('/'),
        );
        let origin = Origin::new("infisical", location.escape_debug());
        let inner = Inner {
            api: Api::new(client, auth, settings, &origin)?,
            origin,
            folders: FolderCache::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// Returns the deadline of a call that starts now. It is 10 % later than the deadline of a single
    /// request, whose error is more specific.
    fn deadline(&self) -> Instant {
        Instant::now() + self.api.deadline().mul_f64(1.1)
    }

    /// Runs `work`, including its login, its waits and all its requests, until `deadline`.
    ///
    /// # Errors
    /// Returns the error of `work`, or [`ErrorKind::Timeout`] at the deadline.
    async fn run_until<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        timeout_at(deadline, work).await.unwrap_or_else(|_| {
            let limit = self.api.deadline();
            let message = format!("login, waits and requests took longer than {limit:?}");
            Err(Error::new(ErrorKind::Timeout, message)
                .with_hint("check the server's load, or raise the deadline"))
        })
    }

    /// Lists a folder, or the folder and everything below it. Concurrent callers share one request, if it
    /// started after their calls.
    async fn list(&self, path: &str, recursive: bool) -> Result<Arc<Listing>, Error> {
        let ticket = self.folders.new_ticket();
        let folder = self.folders.get(path, recursive);
        let mut state = folder.0.lock().await;
        if let Some(result) = state.result_for(ticket) {
            return result;
        }
        let newest_ticket = self.folders.newest_ticket();
        let result = self.fetch_list(path, recursive, &mut state).await;
        state.store(newest_ticket, result.clone());
        result
    }

    /// Lists a folder with a conditional request, and updates its cached list.
    async fn fetch_list(
        &self,
        path: &str,
        recursive: bool,
        state: &mut FolderState,
    ) -> Result<Arc<Listing>, Error> {
        let query = list_query(path, recursive);
        let etag = state.cached.as_ref().map(|(etag, _)| etag.clone());
        let response = self.api.fetch_secrets(None, &query, etag.as_ref()).await?;
        if response.status.is_success() || response.status == StatusCode::NOT_MODIFIED {
            self.folders.record_listed(path, recursive);
        }
        if let (StatusCode::NOT_MODIFIED, Some((_, listing))) = (response.status, &state.cached) {
            return Ok(listing.clone());
        }
        let listing = Arc::new(Listing::parse(&response, self.api.settings.personal)?);
        let etag = response.headers.get(ETAG).cloned();
        state.cached = etag.map(|etag| (etag, listing.clone()));
        state.existence = None;
        Ok(listing)
    }

    /// Checks that a folder exists, because the server lists a missing folder as empty.
    ///
    /// # Errors
    /// Returns an error if the folder or the environment does not exist, or if the check fails.
    async fn check_folder(&self, path: &str) -> Result<(), Error> {
        let folder = self.folders.get(path, false);
        let mut state = folder.0.lock().await;
        if let Some(existence) = &state.existence {
            return existence.clone();
        }
        let existence = self.fetch_existence(path).await;
        match &existence {
            Err(error) if error.is_temporary() => {}
            _ => state.existence = Some(existence.clone()),
        }
        existence
    }

    async fn fetch_existence(&self, path: &str) -> Result<(), Error> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let names = match self.api.child_folders(parent).await {
            Ok(names) => names,
            // A login that can read secrets might have no permission to list folders.
            Err(error) if error.kind() == ErrorKind::Denied => return Ok(()),
            Err(error) => return Err(error),
        };
        match name.is_empty() || names.iter().any(|known| known == name) {
            true => Ok(()),
            false => Err(wire::no_such_folder()),
        }
    }

    /// Returns the base folder of all keys.
    fn base(&self) -> &str {
        &self.api.settings.folder
    }

    /// Returns the folder of a key, and the name of its secret in that folder.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if the server rejects such a name or folder.
    fn locate<'a>(&self, key: &'a SecretKey) -> Result<(String, &'a str), Error> {
        let path = match key.prefix() {
            None => self.base().to_owned(),
            Some(prefix) => format!("{}/{prefix}", self.base().trim_end_matches('/')),
        };
        if key.name().chars().count() > MAX_NAME_CHARS {
            let message = "the secret's name is too long for the server";
            return Err(Error::new(ErrorKind::InvalidKey, message)
                .with_hint(format!("use at most {MAX_NAME_CHARS} characters")));
        }
        // The server responds to such a path with an internal error.
        if path.contains(['*', '%']) || path.contains("..") {
            let message = "the key's folder is not a valid path";
            return Err(Error::new(ErrorKind::InvalidKey, message).with_hint(FOLDER_NAME_HINT));
        }
        Ok((path, key.name()))
    }

    /// Reads the secrets at `locations`. A location is a folder and a name.
    async fn read(&self, locations: &[&(String, &str)]) -> Vec<Result<Secret, Error>> {
        let deadline = self.deadline();
        let folders: BTreeSet<&str> = locations
            .iter()
            .map(|(folder, _)| folder.as_str())
            .collect();
        let recursive = match folders.len() >= MIN_FOLDERS_FOR_RECURSIVE {
            true => match self.run_until(deadline, self.list(self.base(), true)).await {
                Ok(listing) => Some(listing),
                Err(error) if error.is_temporary() => {
                    return locations.iter().map(|_| Err(error.clone())).collect();
                }
                // The login might still have the permission to read some of the folders.
                Err(_) => None,
            },
            false => None,
        };
        // A folder's own secrets override its imports, so they need no list of their folder.
        let find_own = |folder: &str, name: &str| recursive.as_ref()?.find_own(folder, name);
        let missing = locations
            .iter()
            .filter(|(folder, name)| find_own(folder, name).is_none());
        let missing: BTreeSet<&str> = missing.map(|(folder, _)| folder.as_str()).collect();
        let lists = missing.into_iter().map(async |folder| {
            let listing = self.run_until(deadline, self.list(folder, false)).await;
            (folder, listing)
        });
        let lists: HashMap<&str, _> = join_bounded(CONCURRENCY, lists).await.into_iter().collect();

        let reads = locations.iter().map(async |(folder, name)| {
            let entry = match (find_own(folder, name), lists.get(folder.as_str())) {
                (Some(entry), _) => entry,
                (None, Some(Ok(listing))) => match listing.find(folder, name) {
                    Some(entry) => entry,
                    None => {
                        let error = self.absence_error(folder, listing);
                        return self.run_until(deadline, async { Err(error.await) }).await;
                    }
                },
                (None, Some(Err(error))) => return Err(error.clone()),
                (None, None) => return Err(wire::no_such_secret()),
            };
            self.run_until(deadline, self.expanded(folder, name, entry))
                .await
        });
        join_bounded(CONCURRENCY, reads).await
    }

    /// Returns the error for a secret that is not in a listing.
    async fn absence_error(&self, folder: &str, listing: &Listing) -> Error {
        if listing.is_empty()
            && let Err(error) = self.check_folder(folder).await
        {
            return error;
        }
        wire::no_such_secret()
    }

    /// Returns the secret of a listed entry. Older servers sometimes expand the references in a list only
    /// partially. A single read expands them fully, so such an entry is read with a separate request.
    async fn expanded(&self, folder: &str, name: &str, entry: &Entry) -> Result<Secret, Error> {
        let secret = entry.secret()?;
        let Some(reference) = self.unexpanded_reference(&secret)? else {
            return Ok(secret);
        };
        if let Some(result) = entry.single_read() {
            return result;
        }
        let result = self.read_single(folder, name, &reference).await;
        entry.record_single_read(&reference, &result);
        result
    }

    /// Reads one secret whose listed value contains the unexpanded `reference`.
    async fn read_single(
        &self,
        folder: &str,
        name: &str,
        reference: &str,
    ) -> Result<Secret, Error> {
        let query = [("secretPath", folder)];
        let response = self.api.fetch_secrets(Some(name), &query, None).await?;
        // The server responds like this to a reference into a missing folder. The error is temporary,
        // because an outage that has just begun might cause the same response.
        if wire::is_internal_error(&response) {
            return Err(wire::unresolved_reference(reference).temporary());
        }
        self.require_expanded(wire::parse_single(&response)?.secret()?)
    }

    /// Returns `secret`, which was read with a separate request.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if its value contains an unexpanded reference.
    fn require_expanded(&self, secret: Secret) -> Result<Secret, Error> {
        match self.unexpanded_reference(&secret)? {
            None => Ok(secret),
            Some(reference) => Err(wire::unresolved_reference(&reference)),
        }
    }

    /// Returns the first unexpanded reference in a secret's value, if expansion is on.
    fn unexpanded_reference(&self, secret: &Secret) -> Result<Option<String>, Error> {
        let reference = wire::find_reference(secret.value.expose_text()?);
        let expand = self.api.settings.expand;
        Ok(reference.filter(|_| expand).map(str::to_owned))
    }

    /// Reads one version of a secret.
    async fn read_version(
        &self,
        folder: &str,
        name: &str,
        version: &Version,
    ) -> Result<Secret, Error> {
        let Some(number) = version.number().filter(|number| *number > 0) else {
            let message = "versions are numbers that start at 1";
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let number = number.to_string();
        let query = [("secretPath", folder), ("version", &number)];
        let response = self.api.fetch_secrets(Some(name), &query, None).await?;
        let entry = wire::parse_single(&response)?;
        if entry.version().number() != version.number() {
            let message = "the server returned another version than the requested one";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("use a newer server, and check that the version exists"));
        }
        self.require_expanded(entry.secret()?)
    }

    /// Checks whether the next read would succeed.
    async fn check_health(&self) -> Result<(), Error> {
        match self.api.child_folders("/").await {
            // A login that can read secrets might have no permission to list folders.
            Err(error) if error.kind() == ErrorKind::Denied => {}
            result => drop(result?),
        }
        let last = self.folders.last_listed();
        let (path, recursive) = last.unwrap_or_else(|| (self.base().to_owned(), false));
        match self.api.can_list(&list_query(&path, recursive)).await? {
            true => Ok(()),
            // The list returns the reason of the failure.
            false => self.list(&path, recursive).await.map(drop),
        }
    }

    /// Returns the keys of all secrets below the folder `base`.
    async fn list_keys(&self, base: &str) -> Result<Vec<SecretKey>, Error> {
        let recursive = self.list(base, true).await?;
        let mut secrets: BTreeSet<(String, String)> = BTreeSet::new();
        let mut folders = BTreeSet::from([base.to_owned()]);
        for (folder, names) in recursive.folders() {
            folders.insert(folder.to_owned());
            secrets.extend(names.map(|name| (folder.to_owned(), name.to_owned())));
        }
        if self.api.settings.imports {
            let lists = folders
                .iter()
                .map(async |folder| (folder, self.list(folder, false).await));
            for (folder, listing) in join_bounded(CONCURRENCY, lists).await {
                let listing = listing?;
                let imported = listing.imported_names();
                secrets.extend(imported.map(|name| (folder.clone(), name.to_owned())));
            }
        }
        if secrets.is_empty() {
            match self.check_folder(base).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let prefix = |folder: &str| {
            let rest = folder.strip_prefix(self.base()).unwrap_or(folder);
            rest.trim_matches('/').to_owned()
        };
        let keys = secrets
            .into_iter()
            .map(|(folder, name)| match prefix(&folder) {
                prefix if prefix.is_empty() => name,
                prefix => format!("{prefix}/{name}"),
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

    /// Returns the capabilities. They include old versions, unless version 3 of the API is configured.
    /// Older servers ignore the requested version on that API.
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
        let mut results = self.get_many(std::slice::from_ref(key)).await;
        results.pop().unwrap_or_else(|| {
            Err(wire::no_such_secret()
                .with_origin(&self.inner.origin)
                .with_key(key))
        })
    }

    /// Reads several keys, with one list request per folder. For keys in three or more folders, sends one
    /// recursive list request first, and then lists only the folders with keys that are still missing.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let located: Vec<_> = keys.iter().map(|key| self.inner.locate(key)).collect();
        let locations: Vec<_> = located.iter().flatten().collect();
        let mut secrets = self.inner.read(&locations).await.into_iter();
        let results = located.into_iter().zip(keys).map(|(location, key)| {
            let result = match location {
                Ok(_) => secrets
                    .next()
                    .unwrap_or_else(|| Err(wire::no_such_secret())),
                Err(error) => Err(error),
            };
            result.map_err(|error| error.with_origin(&self.inner.origin).with_key(key))
        });
        results.collect()
    }

    /// Reads one version of a secret. Servers of 2024 return the current version for every request. The
    /// result is then [`ErrorKind::Unsupported`], unless the current version was requested.
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let inner = &self.inner;
        let with_context = |error: Error| error.with_origin(&inner.origin).with_key(key);
        if !self.capabilities().old_versions {
            let message = "version 3 of the API returns only the current version of a secret";
            return Err(with_context(
                Error::new(ErrorKind::Unsupported, message)
                    .with_hint("use version 4 of the API, if the server has it"),
            ));
        }
        let (folder, name) = inner.locate(key).map_err(with_context)?;
        let read = inner.read_version(&folder, name, version);
        inner
            .run_until(inner.deadline(), read)
            .await
            .map_err(with_context)
    }

    /// Lists the keys below `prefix`. If imports are included, each folder with secrets of its own is listed
    /// separately. A folder whose secrets are all imported is not found, unless it is the folder of `prefix`.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let inner = &self.inner;
        let base = match prefix.as_str() {
            "" => inner.base().to_owned(),
            prefix => format!("{}/{prefix}", inner.base().trim_end_matches('/')),
        };
        let keys = inner
            .run_until(inner.deadline(), inner.list_keys(&base))
            .await;
        keys.map_err(|error| error.with_origin(&inner.origin))
    }

    /// Requests the environment's folders, if the login has the permission, and then the last list with
    /// `HEAD`. Sends a full list request only if `HEAD` fails, or while the version of the API is unknown.
    async fn health(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let result = inner
            .run_until(inner.deadline(), inner.check_health())
            .await;
        result.map_err(|error| error.with_origin(&inner.origin))
    }

    /// Drops the lists that can contain `key`. The results of single reads are reused while their list is
    /// unchanged, so a conditional request is not enough.
    fn discard(&self, key: &SecretKey, _rejected: Option<&SecretValue>) {
        let inner = &self.inner;
        if let Ok((folder, _)) = inner.locate(key) {
            inner.folders.remove(&folder, false);
            inner.folders.remove(inner.base(), true);
        }
    }
}

impl fmt::Debug for InfisicalProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfisicalProvider")
            .field("origin", &self.inner.origin)
            .field("api", &self.inner.api.version())
            .finish_non_exhaustive()
    }
}
