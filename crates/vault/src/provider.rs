//! The provider.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use secretwell_core::{
    Capabilities, Error, ErrorKind, KeyPrefix, Secret, SecretKey, SecretProvider, Source, Version,
    join_bounded,
};
use secretwell_http::{Client, Reply, Request, Session, Token, encode_path};
use tokio::sync::OnceCell;

use crate::auth::{NAMESPACE, REQUEST, TOKEN, VaultLogin};
use crate::config::{namespace, process_variable};
use crate::lease::Leases;
use crate::wire::{self, Document, Forbidden, Index, KvVersion};
use crate::{Auth, VaultBuilder};

/// How many secrets are read at a time.
const CONCURRENCY: usize = 16;
/// How far and how deep a listing goes.
const MAX_LISTED: usize = 10_000;
const MAX_DEPTH: usize = 16;

/// Secrets from Vault or OpenBao. See the [crate](crate) for how keys become paths and fields.
#[derive(Clone)]
pub struct VaultProvider {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    source: Source,
    client: Client,
    /// None behind an agent, which adds its own token.
    session: Option<Session>,
    namespace: Option<HeaderValue>,
    mount: String,
    path: String,
    kv: OnceCell<KvVersion>,
    old_versions: bool,
    whole: bool,
    leases: Leases,
    index: Mutex<Index>,
    /// The newest version of each secret that was seen.
    seen: Mutex<HashMap<String, Version>>,
}

impl VaultProvider {
    /// Settings for the servers at `addresses`: one that does not answer is passed over for the next.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: one of them is no address.
    pub fn builder<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        auth: Auth,
    ) -> Result<VaultBuilder, Error> {
        let client = secretwell_http::ClientConfig::new(addresses)?;
        Ok(VaultBuilder::new(client, auth))
    }

    /// Settings from the conventional variables: `VAULT_ADDR`, `VAULT_TOKEN` (or the token that the
    /// command keeps in `~/.vault-token`), `VAULT_NAMESPACE`, `VAULT_CACERT`, `VAULT_CLIENT_CERT`,
    /// `VAULT_CLIENT_KEY`, `VAULT_TLS_SERVER_NAME`, `VAULT_CLIENT_TIMEOUT`, and their `BAO_` twins,
    /// which come first.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: one of them makes no sense, or there is no token.
    pub fn from_env() -> Result<VaultBuilder, Error> {
        VaultBuilder::from_variables(&process_variable)
    }

    /// Settings from a URL, and from the conventional variables where it says nothing:
    /// `vault://host:8200/mount/path?auth=approle&role=…`. See the [crate](crate) for its options.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: what in it is wrong. Credentials never belong in a URL, and one
    /// that holds any is refused.
    pub fn from_url(url: &str) -> Result<VaultBuilder, Error> {
        VaultBuilder::from_url(url, &process_variable)
    }

    /// Ends the leases of all [dynamic](VaultBuilder::dynamic) secrets that this provider holds: for an
    /// orderly shutdown. Whoever still uses such a secret loses it; the next read makes another.
    ///
    /// # Errors
    /// What keeps a lease from being revoked; it then ends by itself.
    pub async fn revoke_leases(&self) -> Result<(), Error> {
        let revoked = self.inner.leases.revoke(&self.inner).await;
        revoked.map_err(|error| error.at(&self.inner.source))
    }

    /// What time the server says it is. Takes no login: it tells whether the server can be reached.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn server_time(&self) -> Result<SystemTime, Error> {
        self.inner.client.server_time("/v1/sys/seal-status").await
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
        let source = Source::new("vault", description.escape_debug());

        let mount = encode_path(&settings.mount).map_err(|error| error.at(&source))?;
        if !settings.path.trim_matches('/').is_empty() {
            encode_path(&settings.path).map_err(|error| error.at(&source))?;
        }
        let header = |name: &Option<String>| name.as_deref().map(namespace).transpose();
        let secrets = header(&settings.namespace)?;
        let login = match &settings.login_namespace {
            Some(name) if name == "root" => None,
            Some(_) => header(&settings.login_namespace)?,
            None => secrets.clone(),
        };
        let client = Client::new(settings.client, wire::Vault, source.clone())?;
        let session = (!settings.auth.is_agent()).then(|| {
            let login = VaultLogin::new(client.clone(), settings.auth.clone(), login);
            Session::new(login, source.clone())
        });
        let leases = Leases::new(settings.dynamic).map_err(|error| error.at(&source))?;
        let inner = Inner {
            source,
            client,
            session,
            namespace: secrets,
            mount,
            path: settings.path.trim_matches('/').to_owned(),
            kv: OnceCell::new_with(settings.kv),
            old_versions: settings.kv != Some(KvVersion::V1),
            whole: settings.whole,
            leases,
            index: Mutex::default(),
            seen: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// The token of the login, if there is one.
    pub(crate) async fn token(&self) -> Result<Option<Arc<Token>>, Error> {
        match &self.session {
            Some(session) => session.token().await.map(Some),
            None => Ok(None),
        }
    }

    async fn read_path(&self, path: String) -> Result<Reply, Error> {
        let (reply, _) = self.call(Request::new(Method::GET, path)).await?;
        if reply.behind && reply.status == StatusCode::NOT_FOUND {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "every server that answers is behind, and has no such secret yet",
            )
            .hint("is there an active server?"));
        }
        Ok(reply)
    }

    /// Asks with a token, and tells which. One that turns out to be bad is replaced by a new login,
    /// once.
    pub(crate) async fn call(
        &self,
        request: Request,
    ) -> Result<(Reply, Option<Arc<Token>>), Error> {
        let mut request = request.header(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace.clone());
        }
        let mut replaced = false;
        loop {
            if let Some(index) = self.index().header() {
                request = request.consistency(HeaderName::from_static(wire::INDEX), index);
            }
            let Some(session) = &self.session else {
                return Ok((self.client.send(&request).await?, None));
            };
            let token = session.token().await?;
            let with_token = request
                .clone()
                .secret_header(TOKEN, token.value().expose_bytes())?;
            let reply = self.client.send(&with_token).await?;
            self.index().note(&reply.headers);
            if replaced || wire::forbidden(&reply) != Some(Forbidden::BadToken) {
                return Ok((reply, Some(token)));
            }
            if !session.suspect(&token) {
                if self.is_good(&token).await? {
                    return Ok((reply, Some(token)));
                }
                session.reject(&token);
            }
            replaced = true;
        }
    }

    /// Whether the server knows the token after all.
    async fn is_good(&self, token: &Token) -> Result<bool, Error> {
        let request = Request::new(Method::GET, "/v1/auth/token/lookup-self")
            .header(REQUEST, HeaderValue::from_static("true"))
            .secret_header(TOKEN, token.value().expose_bytes())?;
        let reply = self.client.send(&request).await?;
        Ok(wire::forbidden(&reply) != Some(Forbidden::BadToken))
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn kv(&self) -> Result<KvVersion, Error> {
        let find_out = async || {
            let path = match self.path.as_str() {
                "" => self.mount.clone(),
                path => format!("{}/{}", self.mount, encode_path(path)?),
            };
            let path = format!("/v1/sys/internal/ui/mounts/{path}");
            wire::mount(&self.read_path(path).await?)
        };
        self.kv.get_or_try_init(find_out).await.copied()
    }

    /// Reads one secret: its current version, or the given one.
    async fn read(&self, path: &str, version: Option<u64>) -> Result<Document, Error> {
        let kv = self.kv().await?;
        let escaped = encode_path(path)?;
        let mount = &self.mount;
        match (kv, version) {
            (KvVersion::V2, None) => {
                let reply = self
                    .read_path(format!("/v1/{mount}/data/{escaped}"))
                    .await?;
                self.not_older(path, wire::read_v2(&reply)?, reply.behind)
            }
            (KvVersion::V2, Some(version)) => {
                let path = format!("/v1/{mount}/data/{escaped}?version={version}");
                wire::read_v2(&self.read_path(path).await?)
            }
            (KvVersion::V1, None) => {
                wire::read_v1(&self.read_path(format!("/v1/{mount}/{escaped}")).await?)
            }
            (KvVersion::V1, Some(_)) => Err(unsupported("KV version 1 keeps no earlier versions")),
        }
    }

    /// The document, unless it is from a server that is behind and an earlier one than was seen.
    fn not_older(&self, path: &str, document: Document, behind: bool) -> Result<Document, Error> {
        let Some(version) = &document.version else {
            return Ok(document);
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen
            .get(path)
            .is_some_and(|seen| version.is_older_than(seen))
        {
            if behind {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "every server that answers is behind, and has an earlier version",
                )
                .hint("is there an active server?"));
            }
            return Ok(document);
        }
        if seen.len() >= MAX_LISTED {
            seen.clear();
        }
        seen.insert(path.to_owned(), version.clone());
        Ok(document)
    }

    /// The secret that holds `key`, and the field in it, unless it is all of it.
    fn locate<'a>(&self, key: &'a SecretKey) -> Result<(String, Option<&'a str>), Error> {
        let (below, field) = match self.whole {
            true => (Some(key.as_str()), None),
            false => (key.directory(), Some(key.name())),
        };
        let path: Vec<&str> = [self.path.as_str(), below.unwrap_or_default()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        if path.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidKey,
                "a key without a directory is a field of no secret here",
            )
            .hint("give the provider a path below the mount, or write the key like `app/NAME`"));
        }
        Ok((path.join("/"), field))
    }

    fn pick(document: &Document, field: Option<&str>) -> Result<Secret, Error> {
        match field {
            None => Ok(document.whole()),
            Some(name) => document.field(name).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the secret has no such field")
                    .hint("add the field, or a source that has it")
            }),
        }
    }

    /// The paths of all secrets at `path` and below.
    async fn secrets_below(&self, path: &str) -> Result<Vec<String>, Error> {
        let kv = self.kv().await?;
        let mut secrets = Vec::new();
        let mut folders = vec![(path.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let kind = if kv == KvVersion::V2 { "/metadata" } else { "" };
            let place = match folder.as_str() {
                "" => format!("/v1/{}{kind}/?list=true", self.mount),
                _ => format!(
                    "/v1/{}{kind}/{}/?list=true",
                    self.mount,
                    encode_path(&folder)?
                ),
            };
            for name in wire::listed(&self.read_path(place).await?)? {
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
                    format!("there are more than {MAX_LISTED} secrets"),
                )
                .hint("list a folder further down"));
            }
        }
        Ok(secrets)
    }
}

#[async_trait]
impl SecretProvider for VaultProvider {
    fn source(&self) -> &Source {
        &self.inner.source
    }

    /// Old versions are claimed unless the engine is said to be of version 1.
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
        let named = |error: Error| error.at(&self.inner.source).for_key(key);
        if self.inner.leases.make(key.directory()) {
            return self.inner.leases.get(&self.inner, key).await.map_err(named);
        }
        let (path, field) = self.inner.locate(key).map_err(named)?;
        let document = self.inner.read(&path, None).await.map_err(named)?;
        Inner::pick(&document, field).map_err(named)
    }

    /// One read for each secret that holds any of the keys, at most 16 at a time.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let located: Vec<_> = keys.iter().map(|key| self.inner.locate(key)).collect();
        let mut paths: Vec<&str> = located
            .iter()
            .zip(keys)
            .filter(|(_, key)| !self.inner.leases.make(key.directory()))
            .filter_map(|(place, _)| place.as_ref().ok())
            .map(|(path, _)| path.as_str())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        let reads = paths.iter().map(|path| self.inner.read(path, None));
        let read = join_bounded(CONCURRENCY, reads).await;
        let documents: BTreeMap<&str, _> = paths.into_iter().zip(read).collect();
        let picks = keys.iter().zip(&located).map(async |(key, place)| {
            let picked = match place
                .as_ref()
                .map(|(path, field)| (documents.get(path.as_str()), *field))
            {
                Ok((Some(Ok(document)), field)) => Inner::pick(document, field),
                Ok((Some(Err(error)), _)) | Err(error) => Err(error.clone()),
                // Not kept, but made.
                Ok((None, _)) => self.inner.leases.get(&self.inner, key).await,
            };
            picked.map_err(|error| error.at(&self.inner.source).for_key(key))
        });
        join_bounded(CONCURRENCY, picks).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let named = |error: Error| error.at(&self.inner.source).for_key(key);
        if !self.inner.old_versions {
            return Err(named(unsupported("KV version 1 keeps no earlier versions")));
        }
        // Zero stands for the latest, which is not what was asked for.
        let number = version
            .number()
            .filter(|number| *number > 0)
            .ok_or_else(|| {
                named(Error::new(
                    ErrorKind::NotFound,
                    "versions here are numbers from 1 on",
                ))
            })?;
        let (path, field) = self.inner.locate(key).map_err(named)?;
        let document = self.inner.read(&path, Some(number)).await.map_err(named)?;
        Inner::pick(&document, field).map_err(named)
    }

    /// Reads every secret below `prefix`, for the names of its fields.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let at = |error: Error| error.at(&self.inner.source);
        let base = [self.inner.path.as_str(), prefix.as_str()];
        let base: Vec<&str> = base.into_iter().filter(|part| !part.is_empty()).collect();
        let base = base.join("/");
        let mut secrets = self.inner.secrets_below(&base).await.map_err(at)?;
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
        let reads = secrets.iter().map(|path| self.inner.read(path, None));
        let read = join_bounded(CONCURRENCY, reads).await;
        let mut keys = Vec::new();
        for (path, document) in secrets.iter().zip(read) {
            let document = match document {
                Ok(document) => document,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(at(error)),
            };
            let directory = relative(path);
            for name in document.names() {
                let key = match directory.as_str() {
                    "" => name.to_owned(),
                    _ => format!("{directory}/{name}"),
                };
                keys.extend(SecretKey::parse(key));
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// Asks for the token of the login itself, which any policy allows or denies without a secret.
    async fn health(&self) -> Result<(), Error> {
        let asked = self
            .inner
            .read_path("/v1/auth/token/lookup-self".into())
            .await;
        let reply = asked.map_err(|error| error.at(&self.inner.source))?;
        match wire::forbidden(&reply) {
            Some(Forbidden::BadToken) => Err(Error::new(
                ErrorKind::Unauthenticated,
                "the login is not, or no longer, good",
            )
            .at(&self.inner.source)
            .hint("give it another credential")),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for VaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultProvider")
            .field("source", &self.inner.source)
            .field("kv", &self.inner.kv.get())
            .finish_non_exhaustive()
    }
}

fn unsupported(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, what).hint("see the provider's capabilities")
}
