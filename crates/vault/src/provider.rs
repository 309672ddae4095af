//! The provider.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use http::{HeaderValue, Method, StatusCode};
use secretwell_core::backend::{Capabilities, join_bounded};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version,
};
use secretwell_http::{Client, Request, Response, Token, TokenManager, encode_path};
use tokio::sync::OnceCell;

use crate::auth::{NAMESPACE, REQUEST, TOKEN, VaultLogin};
use crate::config::namespace;
use crate::lease::{Leases, Made};
use crate::server::Server;
use crate::wire::{self, Document, Forbidden, KvVersion};
use crate::{VaultAuth, VaultBuilder};

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
    origin: Origin,
    server: Server,
    /// None behind an agent, which adds its own token.
    session: Option<TokenManager>,
    namespace: Option<HeaderValue>,
    mount: String,
    path: String,
    kv: OnceCell<KvVersion>,
    /// What the server says of the mount, where its version was given and looks wrong.
    real_kv: OnceCell<Option<KvVersion>>,
    old_versions: bool,
    whole: bool,
    leases: Leases,
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

    /// Ends the leases of all [dynamic](VaultBuilder::dynamic) secrets that this provider holds: for an
    /// orderly shutdown. Whoever still uses such a secret loses it; the next read makes another.
    ///
    /// # Errors
    /// What keeps a lease from being revoked; it then ends by itself.
    pub async fn revoke_leases(&self) -> Result<(), Error> {
        let revoked = self.inner.leases.revoke(&self.inner).await;
        revoked.map_err(|error| error.with_origin(&self.inner.origin))
    }

    /// What time the server says it is. Takes no login: it tells whether the server can be reached.
    ///
    /// # Errors
    /// Why it cannot.
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
        let secrets = header(&settings.namespace)?;
        let login = match &settings.login_namespace {
            Some(name) if name == "root" => None,
            Some(_) => header(&settings.login_namespace)?,
            None => secrets.clone(),
        };
        let client = Client::new(settings.client, wire::Vault, origin.clone())?;
        let server = Server::new(client);
        let session = (!settings.auth.is_agent()).then(|| {
            let auth = settings.auth.clone();
            let login = VaultLogin::new(server.clone(), auth, login);
            TokenManager::new(login, origin.clone())
        });
        let leases = Leases::new(settings.dynamic).map_err(|error| error.with_origin(&origin))?;
        let inner = Inner {
            origin,
            server,
            session,
            namespace: secrets,
            mount,
            path: settings.path.trim_matches('/').to_owned(),
            kv: OnceCell::new_with(settings.kv),
            real_kv: OnceCell::new_with(settings.kv.is_none().then_some(None)),
            old_versions: settings.kv != Some(KvVersion::V1),
            whole: settings.whole,
            leases,
            seen: Mutex::default(),
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

    /// The token of the login, if there is one.
    pub(crate) async fn token(&self) -> Result<Option<Arc<Token>>, Error> {
        match &self.session {
            Some(session) => session.token().await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads `path`. An absence is confirmed by the active server where there may be standbys: they are
    /// behind, and know nothing yet of what was written a moment ago.
    async fn read_path(&self, path: String) -> Result<Response, Error> {
        let response = self.ask_for(&path, None).await?;
        match self.server.index().ahead() {
            Some(ahead) if response.status == StatusCode::NOT_FOUND => {
                self.ask_for(&path, Some(ahead)).await
            }
            _ => Ok(response),
        }
    }

    async fn ask_for(&self, path: &str, ahead: Option<HeaderValue>) -> Result<Response, Error> {
        let request = Request::new(Method::GET, path);
        Ok(self.exchange(request, ahead).await?.0)
    }

    /// Asks with a token, and tells which. One that turns out to be bad is replaced by a new login,
    /// once.
    pub(crate) async fn call(
        &self,
        request: Request,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        self.exchange(request, None).await
    }

    /// The same; with an index that is `ahead` of all, only of the active server.
    async fn exchange(
        &self,
        request: Request,
        ahead: Option<HeaderValue>,
    ) -> Result<(Response, Option<Arc<Token>>), Error> {
        let mut request = request.header(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace.clone());
        }
        let asks_anybody = ahead.is_none();
        if let Some(ahead) = ahead {
            request = wire::at_the_active(request, ahead);
        }
        let mut replaced = false;
        loop {
            let token = match &self.session {
                Some(session) => Some(session.token().await?),
                None => None,
            };
            // Behind the login, which tells of one.
            if let Some(index) = self.server.index().header().filter(|_| asks_anybody) {
                request = request.consistency(wire::INDEX, index);
            }
            let mut sent = request.clone();
            if let Some(token) = &token {
                sent = sent.secret_header(TOKEN, token.value().expose_bytes())?;
            }
            let response = self.server.send(&sent).await?;
            let (Some(session), Some(token)) = (&self.session, token) else {
                return Ok((response, None));
            };
            if replaced || wire::forbidden(&response) != Some(Forbidden::BadToken) {
                return Ok((response, Some(token)));
            }
            if !session.invalidate(&token) {
                if self.is_good(&token).await? {
                    return Ok((response, Some(token)));
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
        let response = self.server.send(&request).await?;
        Ok(wire::forbidden(&response) != Some(Forbidden::BadToken))
    }

    async fn kv(&self) -> Result<KvVersion, Error> {
        self.kv.get_or_try_init(|| self.find_kv()).await.copied()
    }

    async fn find_kv(&self) -> Result<KvVersion, Error> {
        let path = match self.path.as_str() {
            "" => self.mount.clone(),
            path => format!("{}/{}", self.mount, encode_path(path)?),
        };
        let path = format!("/v1/sys/internal/ui/mounts/{path}");
        wire::mount(&self.read_path(path).await?)
    }

    /// Whether an absence is none, because the mount is not of the version that it is read as. It is
    /// looked for once.
    async fn is_of_version_1(&self) -> bool {
        let look = async || match self.find_kv().await {
            Ok(version) => Ok(Some(version)),
            Err(error) if error.is_temporary() => Err(error),
            Err(_) => Ok(None),
        };
        let real = self.real_kv.get_or_try_init(look).await;
        matches!(real, Ok(Some(KvVersion::V1)))
    }

    /// Reads the current version of one secret for these fields of it. That one of them is not there is
    /// confirmed like any absence, and in doubt as long as it cannot be.
    async fn read(&self, path: &str, fields: &[Option<&str>]) -> Result<Document, Error> {
        let kv = self.kv().await?;
        let escaped = encode_path(path)?;
        let place = match kv {
            KvVersion::V2 => format!("/v1/{}/data/{escaped}", self.mount),
            KvVersion::V1 => format!("/v1/{}/{escaped}", self.mount),
        };
        let understood = |response: Response| match kv {
            KvVersion::V2 => self.not_older(path, wire::read_v2(&response)?, response.stale),
            KvVersion::V1 => wire::read_v1(&response),
        };
        let document = match understood(self.read_path(place.clone()).await?) {
            Err(error)
                if error.is_not_found() && kv == KvVersion::V2 && self.is_of_version_1().await =>
            {
                return Err(wire::is_of_version_1());
            }
            document => document?,
        };
        let Some(ahead) = self
            .server
            .index()
            .ahead()
            .filter(|_| document.lacks(fields))
        else {
            return Ok(document);
        };
        let asked = self.ask_for(&place, Some(ahead)).await;
        match asked.and_then(understood) {
            Err(error) if error.is_temporary() => Ok(document.in_doubt(error)),
            confirmed => confirmed,
        }
    }

    /// Reads an earlier version of one secret.
    async fn read_version(&self, path: &str, version: u64) -> Result<Document, Error> {
        if self.kv().await? == KvVersion::V1 {
            return Err(unsupported("KV version 1 keeps no earlier versions"));
        }
        let (mount, escaped) = (&self.mount, encode_path(path)?);
        let path = format!("/v1/{mount}/data/{escaped}?version={version}");
        wire::read_v2(&self.read_path(path).await?)
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
                .with_hint("is there an active server?"));
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
            false => (key.prefix(), Some(key.name())),
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
            .with_hint(
                "give the provider a path below the mount, or write the key like `app/NAME`",
            ));
        }
        Ok((path.join("/"), field))
    }

    /// Reads the secrets that hold `located`, each once.
    async fn read_all<'a>(
        &self,
        located: impl Iterator<Item = &'a (String, Option<&'a str>)>,
    ) -> BTreeMap<&'a str, Result<Document, Error>> {
        let mut wanted: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
        for (path, field) in located {
            wanted.entry(path).or_default().push(*field);
        }
        let reads = wanted
            .iter()
            .map(async |(path, fields)| (*path, self.read(path, fields).await));
        join_bounded(CONCURRENCY, reads).await.into_iter().collect()
    }

    /// Makes the dynamic secrets of these directories, each once.
    async fn make_all<'a>(
        &self,
        directories: BTreeSet<&'a str>,
    ) -> BTreeMap<&'a str, Result<Made, Error>> {
        let make = async |directory| (directory, self.leases.get(self, directory).await);
        let made = join_bounded(CONCURRENCY, directories.into_iter().map(make)).await;
        made.into_iter().collect()
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
                .with_hint("list a folder further down"));
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
        let mut answers = self.get_many(std::slice::from_ref(key)).await;
        answers.pop().unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Malformed, "there is no answer")
                .with_origin(&self.inner.origin))
        })
    }

    /// One read for each secret that holds any of the keys, at most 16 at a time, and one for all keys of
    /// a path that makes them.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let inner = &*self.inner;
        let dynamic = |key: &SecretKey| inner.leases.make(key.prefix());
        let located: Vec<_> = keys.iter().map(|key| inner.locate(key)).collect();
        let kept = keys.iter().zip(&located).filter(|(key, _)| !dynamic(key));
        let kept = kept.filter_map(|(_, place)| place.as_ref().ok());
        let made = keys.iter().filter(|key| dynamic(key));
        let made = made.filter_map(SecretKey::prefix).collect();
        let (documents, made) = tokio::join!(inner.read_all(kept), inner.make_all(made));
        let pick = |(key, place): (&SecretKey, &Result<(String, Option<&str>), Error>)| {
            if let Some(made) = key.prefix().and_then(|directory| made.get(directory)) {
                return made.as_ref().map_err(Clone::clone)?.secret(key.name());
            }
            let (path, field) = place.as_ref().map_err(Clone::clone)?;
            match documents.get(path.as_str()) {
                Some(Ok(document)) => document.pick(*field),
                Some(Err(error)) => Err(error.clone()),
                None => Err(Error::new(ErrorKind::Malformed, "there is no answer")),
            }
        };
        let answers = keys.iter().zip(&located).map(|(key, place)| {
            pick((key, place)).map_err(|error| error.with_origin(&inner.origin).with_key(key))
        });
        answers.collect()
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let named = |error: Error| error.with_origin(&self.inner.origin).with_key(key);
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
        let document = self.inner.read_version(&path, number).await;
        document.map_err(named)?.pick(field).map_err(named)
    }

    /// Reads every secret below `prefix`, for the names of its fields.
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let at = |error: Error| error.with_origin(&self.inner.origin);
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
        let reads = secrets.iter().map(|path| self.inner.read(path, &[]));
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
        let response = asked.map_err(|error| error.with_origin(&self.inner.origin))?;
        match wire::forbidden(&response) {
            Some(Forbidden::BadToken) => Err(Error::new(
                ErrorKind::Unauthenticated,
                "the login is not, or no longer, good",
            )
            .with_origin(&self.inner.origin)
            .with_hint("give it another credential")),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for VaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultProvider")
            .field("source", &self.inner.origin)
            .field("kv", &self.inner.kv.get())
            .finish_non_exhaustive()
    }
}

fn unsupported(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, what).with_hint("see the provider's capabilities")
}
