//! The provider for Vault and OpenBao.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, Notice, NoticeKind, collect_notices, join_bounded};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};
use secretwell_http::{Address, Client};
use tokio::time::Instant;

use crate::error::unsupported;
use crate::header::namespace;
use crate::lease::Leases;
use crate::location::{Listing, log_denied};
use crate::place::Place;
use crate::server::Server;
use crate::session::Session;
use crate::settings::Settings;
use crate::wire::Vault;

/// The maximum number of parallel reads.
const CONCURRENCY: usize = 16;

/// A provider for secrets from Vault or OpenBao. The [crate documentation](crate) explains how keys become
/// paths and fields. Clones share the login and the connections.
#[derive(Clone)]
pub struct VaultProvider {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    place: Place,
    whole: bool,
    leases: Leases,
}

impl VaultProvider {
    /// Revokes the leases of all [dynamic](crate::VaultBuilder::dynamic) secrets that this provider has
    /// cached. Call it during an orderly shutdown.
    ///
    /// The revoked secrets stop working immediately, even where they are still in use. The next read creates
    /// new ones.
    ///
    /// # Errors
    /// Returns the first error if a lease cannot be revoked. The other leases are still revoked. The next read creates
    /// another secret all the same, because the server might have revoked the lease. Another call tries again;
    /// otherwise the lease expires at its usual time.
    pub async fn revoke_leases(&self) -> Result<(), Error> {
        let revoked = self.inner.leases.revoke(&self.inner.session).await;
        revoked.map_err(|error| error.with_origin(self.origin()))
    }

    /// Returns the time of the server. The request needs no login, so it also shows whether the server can be
    /// reached.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached, if another program responds in its place, or if it
    /// does not report its time.
    pub async fn server_time(&self) -> Result<SystemTime, Error> {
        self.inner.session.server_time().await
    }

    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let origin = origin(&settings);
        let place = Place::new(
            &settings.mount,
            settings.is_mount_explicit,
            &settings.path,
            settings.kv,
        );
        let place = place.map_err(|error| error.with_origin(&origin))?;
        let header = |name: &Option<String>| name.as_deref().map(namespace).transpose();
        let namespace = header(&settings.namespace)?;
        let login_namespace = match &settings.login_namespace {
            Some(name) if name == "root" => None,
            Some(_) => header(&settings.login_namespace)?,
            None => namespace.clone(),
        };
        let leases = Leases::new(settings.dynamic).map_err(|error| error.with_origin(&origin))?;
        let mut addresses = settings.client.addresses().iter();
        let has_base_path = addresses.any(Address::has_base_path);
        let client = Client::new(settings.client, Vault, origin.clone())?;
        let server = Server::new(client, has_base_path);
        let session = Session::new(server, settings.auth, namespace, login_namespace, origin);
        let inner = Inner {
            session,
            place,
            whole: settings.whole,
            leases,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

/// Returns the origin of a provider: its addresses, its mount, its path and its namespace.
fn origin(settings: &Settings) -> Origin {
    let authorities = settings.client.addresses().iter();
    let authorities: Vec<String> = authorities.map(|address| address.authority()).collect();
    let mut description = authorities.join(",");
    for part in [&settings.mount, &settings.path] {
        let part = part.trim_matches('/');
        if !part.is_empty() {
            description = format!("{description}/{part}");
        }
    }
    if let Some(namespace) = &settings.namespace {
        description = format!("{description}?namespace={}", namespace.trim_matches('/'));
    }
    Origin::new("vault", description.escape_debug())
}

/// A field of a secret, or a whole secret.
#[derive(Clone, Copy)]
struct Field<'a> {
    /// The path of the secret below that of the provider.
    path: &'a str,
    /// `None` for the whole secret.
    name: Option<&'a str>,
}

impl Inner {
    fn field<'a>(&self, key: &'a SecretKey) -> Field<'a> {
        match self.whole {
            true => Field {
                path: key.as_str(),
                name: None,
            },
            false => Field {
                path: key.prefix().unwrap_or_default(),
                name: Some(key.name()),
            },
        }
    }

    /// Reads each secret of `keys` once. Each key and its result have a position.
    async fn read_all(
        &self,
        keys: Vec<(usize, &SecretKey)>,
    ) -> Vec<(usize, Result<Secret, Error>)> {
        let fields = keys
            .into_iter()
            .map(|(position, key)| (position, self.field(key)));
        let mut fields: Vec<_> = fields.collect();
        fields.sort_by_key(|(_, field)| field.path);
        let secrets = fields.chunk_by(|(_, field), (_, next)| field.path == next.path);
        let secrets: Vec<_> = secrets.collect();
        let next = AtomicUsize::new(0);
        let read_rest = async || {
            let mut results = Vec::new();
            while let Some(fields) = secrets.get(next.fetch_add(1, Ordering::Relaxed)) {
                let names: Vec<_> = fields.iter().map(|(_, field)| field.name).collect();
                let path = fields[0].1.path;
                let document = self.place.read(&self.session, path, &names);
                let document = self.session.in_time(document).await;
                results.extend(fields.iter().map(|(position, field)| match &document {
                    Ok(document) => (*position, document.pick(field.name)),
                    Err(error) => (*position, Err(error.clone())),
                }));
            }
            results
        };
        // The memory of a read is large, so each parallel reader uses its own for one secret after the other.
        let readers = CONCURRENCY.min(secrets.len());
        let reads = (0..readers).map(async |_| Box::pin(read_rest()).await);
        let results = join_bounded(readers, reads).await;
        results.into_iter().flatten().collect()
    }

    /// Requests each dynamic secret of `keys` once. Each key and its result have a position.
    async fn lease_all(
        &self,
        keys: Vec<(usize, &SecretKey)>,
    ) -> Vec<(usize, Result<Secret, Error>)> {
        let called = Instant::now();
        let prefixes: BTreeSet<_> = keys.iter().filter_map(|(_, key)| key.prefix()).collect();
        let lease = async |prefix| (prefix, self.leases.get(&self.session, prefix).await);
        let leased = join_bounded(CONCURRENCY, prefixes.into_iter().map(lease)).await;
        let leased: BTreeMap<_, _> = leased.into_iter().collect();
        let pick = |key: &SecretKey| match leased.get(key.prefix()?)? {
            Ok(secret) => Some(secret.secret(key.name(), called)),
            Err(error) => Some(Err(error.clone())),
        };
        let results = keys
            .iter()
            .filter_map(|(position, key)| Some((*position, pick(key)?)));
        results.collect()
    }

    async fn health(&self) -> Result<(), Error> {
        let Self { session, place, .. } = self;
        let paths = place.policy_paths(session).await?;
        if !paths.is_empty() && session.check_permissions(&paths).await? {
            return Ok(());
        }
        session.check_login().await?;
        place.check_last_reads(session).await
    }

    /// Returns the names below `prefix`. A listing contains no names of fields, so every secret is read.
    async fn names(&self, prefix: &KeyPrefix) -> Result<Names, Error> {
        let Listing { paths, denied, .. } = self.place.list(&self.session, prefix.as_str()).await?;
        let mut names = Names {
            denied,
            ..Names::default()
        };
        if self.whole {
            for path in paths {
                match SecretKey::parse(&path) {
                    Ok(key) if prefix.contains(&key) => names.keys.push(key),
                    Ok(_) => {}
                    Err(_) => names.others.push(path),
                }
            }
            return Ok(names);
        }
        let reads = paths
            .iter()
            .map(|path| Box::pin(self.place.read(&self.session, path, &[])));
        let documents = join_bounded(CONCURRENCY, reads).await;
        for (path, document) in paths.iter().zip(documents) {
            match document {
                Ok(document) => {
                    names.has_read = true;
                    for name in document.names() {
                        match key(path, name) {
                            Ok(key) => names.keys.push(key),
                            Err(other) => names.others.push(other),
                        }
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) if error.kind() == ErrorKind::Denied => names.denied.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    /// Lists the keys below `prefix`. Secrets and folders that this login must not read are left out, unless
    /// that leaves nothing.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let names = self.names(prefix).await?;
        for error in &names.denied {
            log_denied(&self.session, error);
        }
        let mut keys = names.readable()?.keys;
        keys.sort();
        Ok(keys)
    }

    /// Returns one notice for each name below `prefix` that cannot be a key.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let mut others = self.names(prefix).await?.readable()?.others;
        others.sort();
        let notice = |name: String| {
            let (message, hint) = match self.whole {
                true if name.is_empty() => (
                    "the secret at the path of the provider has no key",
                    "set the path to its folder",
                ),
                true => (
                    "the path of the secret cannot be a key",
                    "rename the secret",
                ),
                false => (
                    "the name of the field cannot be a key",
                    "rename the field, or read the whole secret",
                ),
            };
            Notice::new(NoticeKind::NotAKey, name, message).with_hint(hint)
        };
        Ok(collect_notices(others.into_iter().map(notice)))
    }
}

/// The names of a listing.
#[derive(Default)]
struct Names {
    keys: Vec<SecretKey>,
    /// Names that cannot be keys, with their paths.
    others: Vec<String>,
    /// The errors of what this login must not list or read.
    denied: Vec<Error>,
    /// Whether at least one secret was read.
    has_read: bool,
}

impl Names {
    /// Returns the names, unless nothing can be read.
    fn readable(self) -> Result<Self, Error> {
        let is_empty = self.keys.is_empty() && self.others.is_empty();
        match is_empty && !self.has_read && !self.denied.is_empty() {
            true => Err(all_denied(&self.denied)),
            false => Ok(self),
        }
    }
}

/// Returns the key of a field. If its name cannot be that of a key, returns the path and the name.
fn key(path: &str, name: &str) -> Result<SecretKey, String> {
    let text = match path {
        "" => name.to_owned(),
        _ => format!("{path}/{name}"),
    };
    match SecretKey::parse(&text) {
        // A key with such a name would be read from another path.
        Ok(key) if !name.contains('/') => Ok(key),
        _ => Err(text),
    }
}

/// Returns an error that names the first denied paths.
fn all_denied(denied: &[Error]) -> Error {
    const NAMED: usize = 3;
    let mut messages: Vec<_> = denied.iter().take(NAMED).map(Error::message).collect();
    if denied.len() > NAMED {
        messages.push("and others");
    }
    Error::new(ErrorKind::Denied, messages.join("; "))
        .with_hint("grant `read` on a secret, or `list` on its folder, to the login's policy")
}

#[async_trait]
impl SecretProvider for VaultProvider {
    fn origin(&self) -> &Origin {
        self.inner.session.origin()
    }

    /// Returns the capabilities. They include old versions, unless KV version 1 is configured.
    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list();
        let capabilities = match self.inner.place.has_old_versions() {
            true => capabilities.with_old_versions(),
            false => capabilities,
        };
        match self.inner.leases.is_empty() {
            true => capabilities,
            false => capabilities.with_lease(),
        }
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut results = self.get_many(std::slice::from_ref(key)).await;
        let result = results.pop();
        result.unwrap_or_else(|| Err(no_result().with_origin(self.origin())))
    }

    /// Sends one request for each secret that contains any of the keys, at most 16 in parallel. All keys of a
    /// dynamic secret share one request.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let inner = &*self.inner;
        let is_dynamic = |(_, key): &(usize, &SecretKey)| inner.leases.contains(key.prefix());
        let (dynamic, stored) = keys.iter().enumerate().partition(is_dynamic);
        let (leased, read) = tokio::join!(inner.lease_all(dynamic), inner.read_all(stored));
        let mut results: Vec<_> = keys.iter().map(|_| None).collect();
        for (position, result) in leased.into_iter().chain(read) {
            results[position] = Some(result);
        }
        let origin = self.origin();
        let results = keys.iter().zip(results).map(|(key, result)| {
            let result = result.unwrap_or_else(|| Err(no_result()));
            result.map_err(|error| error.with_origin(origin).with_key(key))
        });
        results.collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let inner = &*self.inner;
        let read = async || {
            if !inner.place.has_old_versions() {
                return Err(unsupported("KV version 1 does not store earlier versions"));
            }
            // The server treats zero as the latest version, so it must not be requested.
            let number = version.number().filter(|number| *number > 0);
            let number = number.ok_or_else(|| {
                let message = "a version of this source is a number from 1 upwards";
                Error::new(ErrorKind::NotFound, message)
            })?;
            let Field { path, name } = inner.field(key);
            let document = inner.place.read_version(&inner.session, path, number);
            document.await?.pick(name)
        };
        inner
            .session
            .in_time(read())
            .await
            .map_err(|error| error.with_origin(self.origin()).with_key(key))
    }

    /// Reads every secret below `prefix`, because a listing does not contain the names of fields. Secrets that
    /// the policy does not allow are left out and logged. If nothing can be read, returns
    /// [`ErrorKind::Denied`] with their paths.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let keys = self.inner.list(prefix).await;
        keys.map_err(|error| error.with_origin(self.origin()))
    }

    /// Returns one notice for each field whose name cannot be a key. Reads every secret below `prefix`, like
    /// [`list`](SecretProvider::list).
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let notices = self.inner.notices(prefix).await;
        notices.map_err(|error| error.with_origin(self.origin()))
    }

    /// Returns whether the next read can succeed, without reading a secret. The token of the login must be valid,
    /// and its policies must allow reading one of the paths that were read so far. Before the first read, they
    /// must allow reading the path of the provider or the secrets below it. Otherwise, returns
    /// [`ErrorKind::Denied`].
    ///
    /// The policies are requested from `sys/capabilities-self`. If the login must not use it, the last reads
    /// decide, and one that was denied is repeated. The request takes one use of a token with limited uses.
    async fn health(&self) -> Result<(), Error> {
        let checked = self.inner.session.in_time(self.inner.health()).await;
        checked.map_err(|error| error.with_origin(self.origin()))
    }

    /// Drops the cached lease of a [dynamic](crate::VaultBuilder::dynamic) secret, so that the next read
    /// creates another secret. The lease is not revoked, because its secret might still be in use. Nothing
    /// else is cached.
    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.inner.leases.discard(key, rejected);
    }
}

impl fmt::Debug for VaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultProvider")
            .field("origin", self.origin())
            .field("kv", &self.inner.place.known_kv())
            .finish_non_exhaustive()
    }
}

fn no_result() -> Error {
    let message = "the provider has no result for the key";
    Error::new(ErrorKind::Malformed, message)
}
