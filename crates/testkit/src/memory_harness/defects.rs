//! A correct in-memory provider, and the same one with a defect.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, ChangeStream};
use secretwell_core::{
    Error, ErrorKind, KeyPrefix, MemoryProvider, Origin, Secret, SecretKey, SecretProvider,
    SecretValue, Version,
};

use crate::CORRUPT_MARKER;

/// The size limit of a value, in bytes.
pub(super) const LIMIT: usize = 100 * 1024;

/// The defect of a broken provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    TrimsValues,
    ReportsFailureAsNotFound,
    WrongOrder,
    OmitsLastResult,
    LeaksInDebug,
    LeaksInLog,
    LeaksInError,
    LeaksResponseBody,
    ClaimsList,
    ClaimsWatch,
    ReadsInHealthCheck,
    ReturnsStaleValue,
    DecodesNames,
    ReportsEmptyAsAbsent,
    LogsInForEachRead,
    RepeatsVersion,
    LeaksTask,
    RetriesNotFound,
    SkipsHealthCheck,
    DeletesDiscardedKey,
    OmitsContentType,
}

/// An in-memory provider with a size limit, a login that can expire and keys that can be denied.
pub(super) struct GuardedMemory {
    pub(super) memory: MemoryProvider,
    pub(super) access: Arc<Access>,
    pub(super) defect: Option<Defect>,
    pub(super) login_token: tokio::sync::Mutex<usize>,
    pub(super) last_read: Mutex<Option<Secret>>,
}

#[derive(Default)]
pub(super) struct Access {
    pub(super) denied: Mutex<BTreeSet<SecretKey>>,
    /// The number of the current token. It increases when a token expires.
    pub(super) token: AtomicUsize,
    pub(super) logins: AtomicUsize,
}

impl GuardedMemory {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    async fn log_in(&self) {
        let token = self.access.token.load(Ordering::SeqCst);
        let cached = *self.login_token.lock().await;
        if cached == token && !self.has(Defect::LogsInForEachRead) {
            return;
        }
        let mut cached = self.login_token.lock().await;
        if *cached != token || self.has(Defect::LogsInForEachRead) {
            tokio::task::yield_now().await;
            self.access.logins.fetch_add(1, Ordering::SeqCst);
            *cached = token;
        }
    }

    fn fail(&self, kind: ErrorKind, message: &'static str, key: &SecretKey) -> Error {
        Error::new(kind, message)
            .with_origin(self.origin())
            .with_key(key)
    }

    async fn read(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.log_in().await;
        if self.access.denied.lock().unwrap().contains(key) {
            return Err(self.fail(ErrorKind::Denied, "the login may not read it", key));
        }
        let mut requested = key.clone();
        if self.has(Defect::DecodesNames) {
            requested = SecretKey::parse(key.as_str().replace("%2F", "/"))?;
        }
        let mut secret = self
            .memory
            .get(&requested)
            .await
            .map_err(|error| error.with_key(key))?;
        if secret.value.len() > LIMIT {
            return Err(self.fail(
                ErrorKind::TooLarge,
                "the value is above the size limit",
                key,
            ));
        }
        self.apply_defect(&mut secret, key)?;
        Ok(secret)
    }

    fn apply_defect(&self, secret: &mut Secret, key: &SecretKey) -> Result<(), Error> {
        let text = String::from_utf8_lossy(secret.value.expose_bytes()).into_owned();
        match self.defect {
            Some(Defect::TrimsValues) => secret.value = text.trim().into(),
            Some(Defect::LeaksInLog) => tracing::trace!(value = text, "read"),
            Some(Defect::LeaksInError) if key.as_str() == "A" => {
                let source = std::io::Error::other(text);
                let error = self.fail(ErrorKind::Malformed, "unexpected value", key);
                return Err(error.with_source(source));
            }
            Some(Defect::RepeatsVersion) => secret.version = Some(Version::numbered(1)),
            Some(Defect::ReportsEmptyAsAbsent) if text.is_empty() => {
                return Err(self.fail(ErrorKind::NotFound, "the value is empty", key));
            }
            Some(Defect::ReturnsStaleValue) => {
                let mut last = self.last_read.lock().unwrap();
                *secret = last.get_or_insert_with(|| secret.clone()).clone();
            }
            Some(Defect::LeaksInDebug) => *self.last_read.lock().unwrap() = Some(secret.clone()),
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Debug for GuardedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.last_read.lock().unwrap() {
            Some(last) => write!(f, "GuardedMemory({:?})", last.value.expose_bytes()),
            None => f.write_str("GuardedMemory"),
        }
    }
}

#[async_trait]
impl SecretProvider for GuardedMemory {
    fn origin(&self) -> &Origin {
        self.memory.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.read(key).await
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let mut results = Vec::new();
        for key in keys {
            results.push(self.read(key).await);
        }
        match self.defect {
            Some(Defect::WrongOrder) => results.reverse(),
            Some(Defect::OmitsLastResult) => drop(results.pop()),
            _ => {}
        }
        results
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.memory.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        if self.has(Defect::ClaimsList) {
            return Err(
                Error::new(ErrorKind::Unsupported, "lists no keys").with_origin(self.origin())
            );
        }
        self.memory.list(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        if self.has(Defect::LeaksTask) {
            tokio::spawn(std::future::pending::<()>());
        }
        (!self.has(Defect::ClaimsWatch)).then(|| self.memory.watch())?
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        if self.has(Defect::DeletesDiscardedKey) && rejected.is_some() {
            self.memory.remove(key).unwrap();
        }
    }
}

/// The outermost wrapper. It adds defects to errors and health checks.
#[derive(Debug)]
pub(super) struct DefectiveWrapper<P> {
    pub(super) inner: P,
    pub(super) defect: Option<Defect>,
}

impl<P> DefectiveWrapper<P> {
    fn modify(&self, error: Error) -> Error {
        match self.defect {
            Some(Defect::ReportsFailureAsNotFound) => {
                let changed = Error::new(ErrorKind::NotFound, "the key does not exist");
                match (error.origin(), error.key()) {
                    (Some(origin), Some(key)) => changed.with_origin(origin).with_key(key),
                    _ => changed,
                }
            }
            Some(Defect::LeaksResponseBody) if !error.message().contains("not exist") => {
                error.with_source(format!("unexpected `{CORRUPT_MARKER}`"))
            }
            _ => error,
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for DefectiveWrapper<P> {
    fn origin(&self) -> &Origin {
        self.inner.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut result = self.inner.get(key).await;
        for _ in 0..2 {
            if self.defect == Some(Defect::RetriesNotFound) && result.is_err() {
                result = self.inner.get(key).await;
            }
        }
        result.map_err(|error| self.modify(error))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.inner.get_many(keys).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.inner.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.inner.list(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.inner.watch()
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.inner.discard(key, rejected);
    }

    async fn health(&self) -> Result<(), Error> {
        if self.defect == Some(Defect::ReadsInHealthCheck) {
            self.inner.get(&"A".parse()?).await?;
        }
        if self.defect == Some(Defect::SkipsHealthCheck) {
            return Ok(());
        }
        self.inner.health().await
    }
}
