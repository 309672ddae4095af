//! The provider for Vault and OpenBao.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use http::{HeaderValue, Method, StatusCode};
use secretwell_core::backend::{Capabilities, join_bounded};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};
use secretwell_http::{Client, Request, Response, Token, TokenManager, encode_path};
use tokio::sync::OnceCell;

use crate::auth::{NAMESPACE, REQUEST, TOKEN, VaultLogin};
use crate::config::namespace;
use crate::lease::{LeasedSecret, Leases};
use crate::server::Server;
use crate::wire::{self, Document, Forbidden, KvVersion};
use crate::{VaultAuth, VaultBuilder};

/// The maximum number of parallel reads.
const CONCURRENCY: usize = 16;
/// The maximum number of secrets in a listing.
const MAX_LISTED: usize = 10_000;
/// The maximum depth of folders in a listing. Deeper folders are skipped.
const MAX_DEPTH: usize = 16;

/// A provider for secrets from Vault or OpenBao. The [crate documentation](crate) explains how keys become
/// paths and fields. Clones share the login and the connections.
#[derive(Clone)]
pub struct VaultProvider {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    origin: Origin,
    server: Server,
    /// `None` if an agent adds the token.
    token_manager: Option<TokenManager>,
    namespace: Option<HeaderValue>,
    mount: String,
    path: String,
    kv: OnceCell<KvVersion>,
    /// The version that the server reports, requested only if the configured version might be wrong.
    detected_kv: OnceCell<Option<KvVersion>>,
    old_versions: bool,
    whole: bool,
    leases: Leases,
    /// The newest version of each secret that was read so far.
    newest: Mutex<HashMap<String, Version>>,
}

impl VaultProvider {
    /// Creates settings for the servers at `addresses`. If one does not respond, the next one is tried.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `addresses` is empty or an address is not valid.
    pub fn builder<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        auth: VaultAuth,
    ) -> Result<VaultBuilder, Error> {
        let client = secretwell_http::ClientConfig::new(addresses)?;
        Ok(VaultBuilder::new(client, auth))
    }

    /// Creates a provider from the conventional variables that [`VaultBuilder::from_env`] reads.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if a variable is invalid or a required one is missing.
    pub fn from_env() -> Result<Self, Error> {
        VaultBuilder::from_env()?.build()
    }

    /// Creates a provider from a URL, as [`VaultBuilder::from_url`] reads it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the part of the URL that is invalid.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        VaultBuilder::from_url(url)?.build()
    }

    /// Revokes the leases of all [dynamic](VaultBuilder::dynamic) secrets that this provider has cached. Call
    /// it during an orderly shutdown.
    ///
    /// The revoked secrets stop working immediately, even where they are still in use. The next read creates
    /// new ones.
    ///
    /// # Errors
    /// Returns the first error if a lease cannot be revoked. The other leases are still revoked. The lease
    /// stays cached, so that another call tries again; otherwise it expires at its usual time.
    pub async fn revoke_leases(&self) -> Result<(), Error> {
        let revoked = self.inner.leases.revoke(&self.inner).await;
        revoked.map_err(|error| error.with_origin(&self.inner.origin))
    }

    /// Returns the time of the server. The request needs no login, so it also shows whether the server can be
    /// reached.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached or does not report its time.
    pub async fn server_time(&self) -> Result<SystemTime, Error> {
        self.inner.server.time().await
    }

    pub(crate) fn new(settings: VaultBuilder) -> Result<Self, Error> {
        let authorities = settings.client.addresses().iter();
        let authorities: Vec<String> = authorities.map(|address| address.authority()).collect();
        let mut description = authorities.join(",");
        for part in [&settings.mount, &settings.path] {
            let part = part.trim_matches('/');
            if !part.is_empty() {
                description = format!("{description}/{part}");
            }
        }
        let origin = Origin::new("vault", description.escape_debug());

        let mount = encode_path(&settings.mount).map_err(|error| error.with_origin(&origin))?;
        if !settings.path.trim_matches('/').is_empty() {
            encode_path(&settings.path).map_err(|error| error.with_origin(&origin))?;
        }
        let header = |name: &Option<String>| name.as_deref().map(namespace).transpose();
        let namespace_of_secrets = header(&settings.namespace)?;
        let namespace_of_login = match &settings.login_namespace {
            Some(name) if name == "root" => None,
            Some(_) => header(&settings.login_namespace)?,
            None => namespace_of_secrets.clone(),
        };
        let client = Client::new(settings.client, wire::Vault, origin.clone())?;
        let server = Server::new(client);
        let token_manager = (!settings.auth.is_agent()).then(|| {
            let auth = settings.auth.clone();
            let login = VaultLogin::new(server.clone(), auth, namespace_of_login);
            TokenManager::new(login, origin.clone())
        });
        let leases = Leases::new(settings.dynamic).map_err(|error| error.with_origin(&origin))?;
        let inner = Inner {
            origin,
            server,
            token_manager,
            namespace: namespace_of_secrets,
            mount,
            path: settings.path.trim_matches('/').to_owned(),
            kv: OnceCell::new_with(settings.kv),
            detected_kv: OnceCell::new_with(settings.kv.is_none().then_some(None)),
            old_versions: settings.kv != Some(KvVersion::V1),
            whole: settings.whole,
            leases,
            newest: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the token of the login, or `None` if an agent adds it.
    pub(crate) async fn token(&self) -> Result<Option<Arc<Token>>, Error> {
        match &self.token_manager {
            Some(manager) => manager.token().await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads `path`. If servers report an index, a 404 is confirmed by the active server, because a stale
    /// standby does not have secrets that were written a moment ago.
    async fn read_path(&self, path: String) -> Result<Response, Error> {
        let response = self.get_path(&path, None).await?;
        match self.server.index().forwarding() {
            Some(index) if response.status == StatusCode::NOT_FOUND => {
                self.get_path(&path, Some(index)).await
            }
            _ => Ok(response),
        }
    }

    async fn get_path(
        &self,
        path: &str,
        forwarding: Option<HeaderValue>,
    ) -> Result<Response, Error> {
        let request = Request::new(Method::GET, path);
        Ok(self.exchange(request, forwarding).await?.0)
    }

    /// Sends a request with a token, and returns the response and that token. A token that turns out to be
    /// invalid is replaced by a new login, at most once.
    pub(crate) async fn call(
        &self,
        request: Request,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        self.exchange(request, None).await
    }

    /// Like [`call`](Self::call). With an index for `forwarding`, only the active server executes the request.
    async fn exchange(
        &self,
        request: Request,
        forwarding: Option<HeaderValue>,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        let mut request = request.header(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace.clone());
        }
        let any_server = forwarding.is_none();
        if let Some(index) = forwarding {
            request = wire::forward_to_active(request, index);
        }
        let mut replaced = false;
        loop {
            let token = self.token().await?;
            // After the login, because its response can contain a newer index.
            if let Some(index) = self.server.index().header().filter(|_| any_server) {
                request = request.consistency(wire::INDEX, index);
            }
            let mut sent = request.clone();
            if let Some(token) = &token {
                sent = sent.secret_header(TOKEN, token.value().expose_bytes())?;
            }
            let response = self.server.send(&sent).await?;
            let (Some(manager), Some(token)) = (&self.token_manager, token) else {
                return Ok((response, None));
            };
            if replaced || wire::forbidden(&response) != Some(Forbidden::BadToken) {
                return Ok((response, Some(token)));
            }
            if !manager.invalidate(&token) {
                if self.is_valid(&token).await? {
                    return Ok((response, Some(token)));
                }
                manager.reject(&token);
            }
            replaced = true;
        }
    }

    /// Returns whether the server accepts the token for a lookup of itself.
    async fn is_valid(&self, token: &Token) -> Result<bool, Error> {
        let request = Request::new(Method::GET, "/v1/auth/token/lookup-self")
            .header(REQUEST, HeaderValue::from_static("true"))
            .secret_header(TOKEN, token.value().expose_bytes())?;
        let response = self.server.send(&request).await?;
        Ok(wire::forbidden(&response) != Some(Forbidden::BadToken))
    }

    async fn kv(&self) -> Result<KvVersion, Error> {
        self.kv.get_or_try_init(|| self.detect_kv()).await.copied()
    }

    async fn detect_kv(&self) -> Result<KvVersion, Error> {
        let path = match self.path.as_str() {
            "" => self.mount.clone(),
            path => format!("{}/{}", self.mount, encode_path(path)?),
        };
        let path = format!("/v1/sys/internal/ui/mounts/{path}");
        wire::mount(&self.read_path(path).await?)
    }

    /// Returns whether the mount has KV version 1 although version 2 is configured. Every secret then seems to
    /// be missing. The version is requested once.
    async fn has_version_1(&self) -> bool {
        let detect = async || match self.detect_kv().await {
            Ok(version) => Ok(Some(version)),
            Err(error) if error.is_temporary() => Err(error),
            Err(_) => Ok(None),
        };
        let detected = self.detected_kv.get_or_try_init(detect).await;
        matches!(detected, Ok(Some(KvVersion::V1)))
    }

    /// Reads the current version of one secret. If one of `fields` is missing, the active server must confirm
    /// that. If it cannot, the absence of the field is uncertain.
    async fn read(&self, path: &str, fields: &[Option<&str>]) -> Result<Document, Error> {
        let kv = self.kv().await?;
        let escaped = encode_path(path)?;
        let url_path = match kv {
            KvVersion::V2 => format!("/v1/{}/data/{escaped}", self.mount),
            KvVersion::V1 => format!("/v1/{}/{escaped}", self.mount),
        };
        let parse = |response: Response| match kv {
            KvVersion::V2 => self.check_regression(path, wire::read_v2(&response)?, response.stale),
            KvVersion::V1 => wire::read_v1(&response),
        };
        let document = match parse(self.read_path(url_path.clone()).await?) {
            Err(error)
                if error.is_not_found() && kv == KvVersion::V2 && self.has_version_1().await =>
            {
                return Err(wire::wrong_version_2());
            }
            document => document?,
        };
        let Some(index) = self
            .server
            .index()
            .forwarding()
            .filter(|_| document.lacks(fields))
        else {
            return Ok(document);
        };
        let response = self.get_path(&url_path, Some(index)).await;
        match response.and_then(parse) {
            Err(error) if error.is_temporary() => Ok(document.with_uncertain_absence(error)),
            confirmed => confirmed,
        }
    }

    /// Reads a given version of one secret.
    async fn read_version(&self, path: &str, version: u64) -> Result<Document, Error> {
        if self.kv().await? == KvVersion::V1 {
            return Err(unsupported("KV version 1 does not store earlier versions"));
        }
        let (mount, escaped) = (&self.mount, encode_path(path)?);
        let path = format!("/v1/{mount}/data/{escaped}?version={version}");
        wire::read_v2(&self.read_path(path).await?)
    }

    /// Returns the document, unless it is from a stale replica and older than a version that was already read
    /// (a version regression).
    fn check_regression(
        &self,
        path: &str,
        document: Document,
        stale: bool,
    ) -> Result<Document, Error> {
        let Some(version) = &document.version else {
            return Ok(document);
        };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest
            .get(path)
            .is_some_and(|newest| version.is_older_than(newest))
        {
            if stale {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "only stale replicas respond, with an earlier version",
                )
                .with_hint("check that the cluster has an active server"));
            }
            return Ok(document);
        }
        if newest.len() >= MAX_LISTED {
            newest.clear();
        }
        newest.insert(path.to_owned(), version.clone());
        Ok(document)
    }

    /// Returns the path of the secret for `key`, and the field in it. The field is `None` for a whole secret.
    fn locate<'a>(&self, key: &'a SecretKey) -> Result<(String, Option<&'a str>), Error> {
        let (below, field) = match self.whole {
            true => (Some(key.as_str()), None),
            false => (key.prefix(), Some(key.name())),
        };
        let path: Vec<&str> = [self.path.as_str(), below.unwrap_or_default()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        if path.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidKey,
                "the key has no prefix, and the provider has no path below the mount",
            )
            .with_hint("set a path, or write the key like `app/NAME`"));
        }
        Ok((path.join("/"), field))
    }

    /// Reads each secret of `located` once.
    async fn read_all<'a>(
        &self,
        located: impl Iterator<Item = &'a (String, Option<&'a str>)>,
    ) -> BTreeMap<&'a str, Result<Document, Error>> {
        let mut fields_by_path: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
        for (path, field) in located {
            fields_by_path.entry(path).or_default().push(*field);
        }
        let reads = fields_by_path
            .iter()
            .map(async |(path, fields)| (*path, self.read(path, fields).await));
        join_bounded(CONCURRENCY, reads).await.into_iter().collect()
    }

    /// Returns the dynamic secret of each prefix.
    async fn lease_all<'a>(
        &self,
        prefixes: BTreeSet<&'a str>,
    ) -> BTreeMap<&'a str, Result<LeasedSecret, Error>> {
        let lease = async |prefix| (prefix, self.leases.get(self, prefix).await);
        let leased = join_bounded(CONCURRENCY, prefixes.into_iter().map(lease)).await;
        leased.into_iter().collect()
    }

    /// Lists the paths of all secrets below `path`, up to a depth of 16 folders.
    async fn secrets_below(&self, path: &str) -> Result<Vec<String>, Error> {
        let kv = self.kv().await?;
        let mut secrets = Vec::new();
        let mut folders = vec![(path.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let kind = if kv == KvVersion::V2 { "/metadata" } else { "" };
            let url_path = match folder.as_str() {
                "" => format!("/v1/{}{kind}/?list=true", self.mount),
                _ => format!(
                    "/v1/{}{kind}/{}/?list=true",
                    self.mount,
                    encode_path(&folder)?
                ),
            };
            for name in wire::listed(&self.read_path(url_path).await?)? {
                let path = match folder.as_str() {
                    "" => name.trim_end_matches('/').to_owned(),
                    _ => format!("{folder}/{}", name.trim_end_matches('/')),
                };
                match name.ends_with('/') {
                    true if depth < MAX_DEPTH => folders.push((path, depth + 1)),
                    true => {}
                    false => secrets.push(path),
                }
            }
            if secrets.len() > MAX_LISTED {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("the listing has more than {MAX_LISTED} secrets"),
                )
                .with_hint("list a longer prefix"));
            }
        }
        Ok(secrets)
    }
}

#[async_trait]
impl SecretProvider for VaultProvider {
    fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// Returns the capabilities. They include old versions, unless KV version 1 is configured.
    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::none()
            .with_versions()
            .with_batch()
            .with_list();
        let capabilities = match self.inner.old_versions {
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
        results.pop().unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Malformed,
                "the provider has no result for the key",
            )
            .with_origin(&self.inner.origin))
        })
    }

    /// Sends one request for each secret that contains any of the keys, at most 16 in parallel. All keys of a
    /// dynamic secret share one request.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let inner = &*self.inner;
        let is_dynamic = |key: &SecretKey| inner.leases.contains(key.prefix());
        let located: Vec<_> = keys.iter().map(|key| inner.locate(key)).collect();
        let stored = keys
            .iter()
            .zip(&located)
            .filter(|(key, _)| !is_dynamic(key));
        let stored = stored.filter_map(|(_, location)| location.as_ref().ok());
        let prefixes = keys.iter().filter(|key| is_dynamic(key));
        let prefixes = prefixes.filter_map(SecretKey::prefix).collect();
        let (documents, leased) = tokio::join!(inner.read_all(stored), inner.lease_all(prefixes));
        let pick = |(key, location): (&SecretKey, &Result<(String, Option<&str>), Error>)| {
            if let Some(leased) = key.prefix().and_then(|prefix| leased.get(prefix)) {
                return leased.as_ref().map_err(Clone::clone)?.secret(key.name());
            }
            let (path, field) = location.as_ref().map_err(Clone::clone)?;
            match documents.get(path.as_str()) {
                Some(Ok(document)) => document.pick(*field),
                Some(Err(error)) => Err(error.clone()),
                None => Err(Error::new(
                    ErrorKind::Malformed,
                    "the provider has no result for the key",
                )),
            }
        };
        let results = keys.iter().zip(&located).map(|(key, location)| {
            pick((key, location)).map_err(|error| error.with_origin(&inner.origin).with_key(key))
        });
        results.collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let with_context = |error: Error| error.with_origin(&self.inner.origin).with_key(key);
        if !self.inner.old_versions {
            return Err(with_context(unsupported(
                "KV version 1 does not store earlier versions",
            )));
        }
        // The server treats zero as the latest version, so it must not be requested.
        let number = version
            .number()
            .filter(|number| *number > 0)
            .ok_or_else(|| {
                with_context(Error::new(
                    ErrorKind::NotFound,
                    "a version of this source is a number from 1 upwards",
                ))
            })?;
        let (path, field) = self.inner.locate(key).map_err(with_context)?;
        let document = self.inner.read_version(&path, number).await;
        document
            .map_err(with_context)?
            .pick(field)
            .map_err(with_context)
    }

    /// Reads every secret below `prefix`, because a listing does not contain the names of fields.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let with_origin = |error: Error| error.with_origin(&self.inner.origin);
        let base = [self.inner.path.as_str(), prefix.as_str()];
        let base: Vec<&str> = base.into_iter().filter(|part| !part.is_empty()).collect();
        let base = base.join("/");
        let mut secrets = self.inner.secrets_below(&base).await.map_err(with_origin)?;
        if !base.is_empty() {
            secrets.push(base);
        }
        let relative = |path: &str| {
            let below = path.strip_prefix(self.inner.path.as_str()).unwrap_or(path);
            below.trim_matches('/').to_owned()
        };
        if self.inner.whole {
            let keys = secrets.iter().map(|path| relative(path));
            let mut keys: Vec<_> = keys.filter_map(|key| SecretKey::parse(key).ok()).collect();
            keys.retain(|key| prefix.contains(key));
            keys.sort();
            return Ok(keys);
        }
        let reads = secrets.iter().map(|path| self.inner.read(path, &[]));
        let read = join_bounded(CONCURRENCY, reads).await;
        let mut keys = Vec::new();
        for (path, document) in secrets.iter().zip(read) {
            let document = match document {
                Ok(document) => document,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(with_origin(error)),
            };
            let prefix = relative(path);
            for name in document.names() {
                let key = match prefix.as_str() {
                    "" => name.to_owned(),
                    _ => format!("{prefix}/{name}"),
                };
                keys.extend(SecretKey::parse(key));
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// Looks up the token of the login. A policy that denies the lookup also shows that the token is valid.
    async fn health(&self) -> Result<(), Error> {
        let response = self
            .inner
            .read_path("/v1/auth/token/lookup-self".into())
            .await;
        let response = response.map_err(|error| error.with_origin(&self.inner.origin))?;
        match wire::forbidden(&response) {
            Some(Forbidden::BadToken) => Err(Error::new(
                ErrorKind::Unauthenticated,
                "the token of the login is not valid or has expired",
            )
            .with_origin(&self.inner.origin)
            .with_hint("configure another credential")),
            _ => Ok(()),
        }
    }

    /// Drops the cached lease of a [dynamic](VaultBuilder::dynamic) secret, so that the next read creates
    /// another secret. The lease is not revoked, because its secret might still be in use. Nothing else is
    /// cached.
    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.inner.leases.discard(key, rejected);
    }
}

impl fmt::Debug for VaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultProvider")
            .field("origin", &self.inner.origin)
            .field("kv", &self.inner.kv.get())
            .finish_non_exhaustive()
    }
}

fn unsupported(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, what).with_hint("see the provider's capabilities")
}
