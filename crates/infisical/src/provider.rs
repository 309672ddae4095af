//! [`InfisicalProvider`]: finds keys in the lists of their folders, and explains missing keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, Notice, NoticeKind, collect_notices, join_bounded};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};
use secretwell_http::ClientConfig;
use tokio::time::{Instant, timeout_at};

use crate::api::Api;
use crate::auth::InfisicalAuth;
use crate::lists::Lists;
use crate::settings::{ApiVersion, FOLDER_NAME_HINT, Settings, relative_path};
use crate::values::{Doubt, Listed};
use crate::wire::{self, Listing};

/// The maximum number of concurrent requests of one call.
const CONCURRENCY: usize = 8;
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
    lists: Lists,
}

/// The result of a lookup in the lists, or why it needs another request.
type Lookup<'a> = Result<Result<Secret, Error>, FollowUp<'a>>;

/// Why a lookup in the lists needs another request.
enum FollowUp<'a> {
    /// The list does not have the value of this secret.
    Value(Listed<'a>, Doubt),
    /// The list does not contain the secret.
    Absence {
        folder: &'a str,
        listing: &'a Arc<Listing>,
    },
}

/// The names of a listing.
#[derive(Default)]
struct Names {
    keys: Vec<SecretKey>,
    /// Names that cannot be keys, with their folders.
    others: Vec<String>,
}

impl InfisicalProvider {
    /// Returns the server's time. Needs no login, so it also shows whether the server can be reached.
    ///
    /// # Errors
    /// Returns the reason if the server cannot be reached or does not respond with its time.
    pub async fn server_time(&self) -> Result<SystemTime, Error> {
        self.inner.api().server_time().await
    }

    pub(crate) fn new(
        client: ClientConfig,
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
            lists: Lists::new(Api::new(client, auth, settings, &origin)?),
            origin,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    fn api(&self) -> &Api {
        &self.lists.api
    }

    /// Returns the deadline of a call that starts now.
    fn deadline(&self) -> Instant {
        Instant::now() + self.longest_call()
    }

    /// Returns the longest duration of a call. It is 10 % longer than that of a single request, whose error is more
    /// specific.
    fn longest_call(&self) -> Duration {
        self.api().deadline().mul_f64(1.1)
    }

    /// Runs `work`, including its login, its waits and all its requests, until `deadline`.
    ///
    /// # Errors
    /// Returns the error of `work`. At the deadline, returns the error of the last failed attempt, or else
    /// [`ErrorKind::Timeout`].
    async fn run_until<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        timeout_at(deadline, work).await.unwrap_or_else(|_| {
            let (limit, called) = (self.api().deadline(), deadline - self.longest_call());
            if let Some(error) = self.api().failure_since(called) {
                return Err(error);
            }
            let (message, hint) = match self.api().is_rate_limited() {
                true => (
                    format!(
                        "requests waited for the server's rate limit for longer than {limit:?}"
                    ),
                    wire::RATE_LIMIT_HINT,
                ),
                false => (
                    format!("login, waits and requests took longer than {limit:?}"),
                    "check the server's load, or raise the deadline",
                ),
            };
            Err(Error::new(ErrorKind::Timeout, message).with_hint(hint))
        })
    }

    /// Returns the base folder of all keys.
    fn base(&self) -> &str {
        &self.api().settings.folder
    }

    /// Returns the folder of a key, and the name of its secret in that folder.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if the server rejects such a folder.
    fn locate<'a>(&'a self, key: &'a SecretKey) -> Result<(Cow<'a, str>, &'a str), Error> {
        let Some((prefix, name)) = key.as_str().rsplit_once('/') else {
            return Ok((self.base().into(), key.as_str()));
        };
        Ok((self.folder_of(prefix)?.into(), name))
    }

    /// Returns the folder of the keys with this prefix, which is not empty.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidKey`] if the server rejects such a folder.
    fn folder_of(&self, prefix: &str) -> Result<String, Error> {
        // The server responds to such a path with an internal error. The builder has checked the base folder.
        if prefix.contains(['*', '%']) || prefix.contains("..") {
            let message = "the key's folder is not a valid path";
            return Err(Error::new(ErrorKind::InvalidKey, message).with_hint(FOLDER_NAME_HINT));
        }
        let base = self.base().trim_end_matches('/');
        Ok(format!("{base}/{prefix}"))
    }

    /// Reads the secrets at `locations`. A location is a folder and a name.
    async fn read(&self, locations: &[(&str, &str)]) -> Vec<Result<Secret, Error>> {
        let deadline = self.deadline();
        let first_read = self.lists.record_reads(locations);
        let own = match self.own_secrets(locations, first_read, deadline).await {
            Ok(own) => own,
            Err(error) => return locations.iter().map(|_| Err(error.clone())).collect(),
        };
        // A folder's own secrets override its imports, so they need no list of their folder.
        let missing = locations.iter().zip(&own).filter(|(_, own)| own.is_none());
        let missing: BTreeSet<&str> = missing.map(|((folder, _), _)| *folder).collect();
        let lists = missing.into_iter().map(async |folder| {
            let list = Box::pin(self.lists.list_for(folder, first_read));
            (folder, self.run_until(deadline, list).await)
        });
        let lists: BTreeMap<&str, _> = join_bounded(CONCURRENCY, lists).await.into_iter().collect();

        let lookups = locations.iter().zip(&own).map(|((folder, name), own)| {
            let (listing, entry) = match (own, lists.get(folder)) {
                (Some(listing), _) => (listing, listing.find_own(folder, name)),
                (None, Some(Ok(listing))) => (listing, listing.find(folder, name)),
                (None, Some(Err(error))) => return Ok(Err(error.clone())),
                (None, None) => return Ok(Err(wire::no_such_secret())),
            };
            let Some(entry) = entry else {
                return Err(FollowUp::Absence { folder, listing });
            };
            let listed = Listed {
                folder,
                name,
                entry,
                listing,
            };
            let value = self.lists.value(&listed);
            value.map_err(|doubt| FollowUp::Value(listed, doubt))
        });
        self.complete(lookups.collect(), deadline).await
    }

    /// Returns the results of these lookups. Most of them are complete, and need neither a future nor a timer.
    async fn complete(
        &self,
        lookups: Vec<Lookup<'_>>,
        deadline: Instant,
    ) -> Vec<Result<Secret, Error>> {
        let follow_ups = lookups.iter().filter_map(|lookup| lookup.as_ref().err());
        let follow_ups = follow_ups.map(async |lookup| {
            let result = Box::pin(self.follow_up(lookup));
            self.run_until(deadline, result).await
        });
        let mut results = join_bounded(CONCURRENCY, follow_ups).await.into_iter();
        let mut next_result = || {
            let result = results.next();
            result.unwrap_or_else(|| Err(wire::no_such_secret()))
        };
        let lookups = lookups.into_iter();
        lookups
            .map(|lookup| lookup.unwrap_or_else(|_| next_result()))
            .collect()
    }

    /// Returns the result of a lookup that needs another request.
    async fn follow_up(&self, reason: &FollowUp<'_>) -> Result<Secret, Error> {
        match reason {
            FollowUp::Value(listed, doubt) => self.lists.read_again(listed, doubt).await,
            FollowUp::Absence { folder, listing } => Err(self.absence_error(folder, listing).await),
        }
    }

    /// Returns for each location a recursive list that contains its own secret, or `None`. Requests that list
    /// only if the locations are in many folders.
    ///
    /// # Errors
    /// Returns an error if the list fails and might succeed later.
    async fn own_secrets(
        &self,
        locations: &[(&str, &str)],
        first_read: bool,
        deadline: Instant,
    ) -> Result<Vec<Option<Arc<Listing>>>, Error> {
        let recent = first_read.then(|| self.lists.recent_tree()).flatten();
        let find_in = |tree: &Option<Arc<Listing>>, (folder, name): &(&str, &str)| {
            let tree = tree.as_ref()?;
            // The list of the folder alone might show what a restricted list of all folders does not.
            let entry = tree.find_own(folder, name)?;
            tree.shows_value(entry).then(|| tree.clone())
        };
        let mut own: Vec<_> = locations.iter().map(|it| find_in(&recent, it)).collect();
        let missing = locations.iter().zip(&own).filter(|(_, own)| own.is_none());
        let folders: BTreeSet<&str> = missing.map(|((folder, _), _)| *folder).collect();
        if folders.len() < MIN_FOLDERS_FOR_RECURSIVE {
            return Ok(own);
        }
        let tree = self.lists.list(self.base(), true);
        let tree = match self.run_until(deadline, tree).await {
            Ok(tree) => Some(tree),
            Err(error) if error.is_temporary() => return Err(error),
            // The login might still have the permission to read some of the folders.
            Err(_) => None,
        };
        for (location, own) in locations.iter().zip(&mut own) {
            *own = own.take().or_else(|| find_in(&tree, location));
        }
        Ok(own)
    }

    /// Returns the error for a secret that is not in a listing.
    async fn absence_error(&self, folder: &str, listing: &Arc<Listing>) -> Error {
        let error = self.lists.check_absence(folder, listing).await.err();
        let error = error.unwrap_or_else(wire::no_such_secret);
        match error.is_not_found() && self.api().has_service_token() {
            true => error.with_hint(
                "check the folder: with a service token, the server reads only the token's folder",
            ),
            false => error,
        }
    }

    /// Returns the names of all secrets below the folder `base`.
    async fn names(&self, base: &str) -> Result<Names, Error> {
        let tree = match self.lists.list(base, true).await {
            Err(error) if error.is_not_found() => Arc::default(),
            result => result?,
        };
        // The recursive list silently omits the folders that the login must not read.
        let listing = match self.api().settings.imports || tree.is_empty() {
            true => self.lists.list(base, false).await,
            false => Ok(Arc::default()),
        };
        let listing = match listing {
            Err(error)
                if error.is_not_found()
                    || error.kind() == ErrorKind::Denied && !tree.is_empty() =>
            {
                Arc::default()
            }
            result => result?,
        };
        let mut secrets: BTreeSet<(&str, &str)> = BTreeSet::new();
        for (folder, names) in tree.folders().chain(listing.folders()) {
            let folder = if folder.is_empty() { base } else { folder };
            secrets.extend(names.map(|name| (folder, name)));
        }
        secrets.extend(listing.imported_names().map(|name| (base, name)));
        let importers = self.lists_with_imports(base, &tree, &listing).await;
        for (folder, listing) in &importers {
            if let Some(listing) = listing.as_ref().map_err(Clone::clone)? {
                secrets.extend(listing.imported_names().map(|name| (*folder, name)));
            }
        }
        if secrets.is_empty() {
            match self.lists.check_absence(base, &listing).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let mut names = Names::default();
        for (folder, name) in secrets {
            let text = match relative_path(self.base(), folder) {
                None => continue,
                Some("") => name.to_owned(),
                Some(prefix) => format!("{prefix}/{name}"),
            };
            match SecretKey::parse(&text) {
                // A key with such a name would be read from another folder.
                Ok(key) if !name.contains('/') => names.keys.push(key),
                _ => names.others.push(text),
            }
        }
        names.keys.sort();
        Ok(names)
    }

    /// Returns why the login cannot read the secrets of a folder, or those that it imports. The list of names omits
    /// them without an error.
    async fn unreadable(&self, folder: &str) -> Result<Option<Error>, Error> {
        let error = match self.lists.list_for(folder, true).await {
            Ok(listing) => self.lists.check_absence(folder, &listing).await.err(),
            Err(error) => Some(error),
        };
        match error {
            Some(error) if error.is_temporary() => Err(error),
            error => Ok(error.filter(|error| error.kind() == ErrorKind::Denied)),
        }
    }

    /// Returns the notices about the folder of `prefix`.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let folder = self.listed_folder(prefix)?;
        let names = self.names(&folder).await?;
        let not_a_key = |name| {
            let message = "the name of the secret cannot be a key";
            Notice::new(NoticeKind::NotAKey, name, message).with_hint("rename the secret")
        };
        let unreadable = self.unreadable(&folder).await?.map(|error| {
            Notice::new(NoticeKind::Unreadable, &folder, error.message().to_owned())
                .with_hint("grant the login's role the permission to read it")
        });
        let others = names.others.into_iter().map(not_a_key);
        Ok(collect_notices(unreadable.into_iter().chain(others)))
    }

    /// Returns the folder of the keys below `prefix`.
    fn listed_folder(&self, prefix: &KeyPrefix) -> Result<String, Error> {
        match prefix.as_str() {
            "" => Ok(self.base().to_owned()),
            prefix => self.folder_of(prefix),
        }
    }

    /// Returns the lists of the folders below `base` that have imports. `tree` is the recursive list of `base`, and
    /// `listing` the other one. The recursive list does not show which folder imports a secret. The
    /// imports of each folder are therefore requested, which does not count as a list for the server's rate limit.
    async fn lists_with_imports<'a>(
        &self,
        base: &str,
        tree: &'a Listing,
        listing: &Listing,
    ) -> Vec<(&'a str, Result<Option<Arc<Listing>>, Error>)> {
        // On newer servers, the list contains an import of several folders only once.
        let counts_all = self.api().version() != Some(ApiVersion::V4);
        let might_import = match counts_all {
            true => tree.import_count() > listing.import_count(),
            false => tree.import_count() > 0,
        };
        let folders: BTreeSet<&str> = tree
            .folders()
            .map(|(folder, _)| folder)
            .filter(|folder| might_import && *folder != base)
            .collect();
        let lists = folders.into_iter().map(async |folder| {
            let list = async {
                match self.api().imports(folder).await {
                    Ok(imports) if imports.is_empty() => return Ok(None),
                    Err(error) if error.is_temporary() => return Err(error),
                    // A login that can read secrets might have no permission to list imports.
                    Ok(_) | Err(_) => {}
                }
                self.lists.list(folder, false).await.map(Some)
            };
            (folder, list.await)
        });
        join_bounded(CONCURRENCY, lists).await
    }
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
        match self.inner.api().settings.api {
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
        let locations: Vec<(&str, &str)> = located
            .iter()
            .flatten()
            .map(|(folder, name)| (folder.as_ref(), *name))
            .collect();
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
        let read = inner.lists.version(&folder, name, version);
        inner
            .run_until(inner.deadline(), read)
            .await
            .map_err(with_context)
    }

    /// Lists the keys below `prefix` with two requests. If a folder below that of `prefix` might have imports, the
    /// imports of each folder with secrets of its own are requested, and those with imports are listed separately. A
    /// folder whose secrets are all imported is not found, unless it is the folder of `prefix`.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let inner = &self.inner;
        let names = async { inner.names(&inner.listed_folder(prefix)?).await };
        let names = inner.run_until(inner.deadline(), names).await;
        let names = names.map_err(|error| error.with_origin(&inner.origin))?;
        Ok(names.keys)
    }

    /// Returns one notice for each secret whose name cannot be a key, and one if the login must not read the secrets
    /// of the folder or of one of its imports. Sends the requests of [`list`](SecretProvider::list), and requests the
    /// folder's imports.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let inner = &self.inner;
        let notices = inner.run_until(inner.deadline(), inner.notices(prefix));
        let notices = notices.await;
        notices.map_err(|error| error.with_origin(&inner.origin))
    }

    /// Requests the environment's folders, if the login has the permission, and then the last list with
    /// `HEAD`. Sends a full list request only if `HEAD` fails, or while the version of the API is unknown.
    async fn health(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let result = inner
            .run_until(inner.deadline(), inner.lists.check_health())
            .await;
        result.map_err(|error| error.with_origin(&inner.origin))
    }

    /// Drops the lists that can contain `key`. The results of single reads are reused while their list is
    /// unchanged, so a conditional request is not enough.
    fn discard(&self, key: &SecretKey, _rejected: Option<&SecretValue>) {
        let inner = &self.inner;
        if let Ok((folder, _)) = inner.locate(key) {
            inner.lists.discard(&folder);
        }
    }
}

impl fmt::Debug for InfisicalProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfisicalProvider")
            .field("origin", &self.inner.origin)
            .field("api", &self.inner.api().version())
            .finish_non_exhaustive()
    }
}
