//! Secrets that are made when they are asked for, and end: database credentials, certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use http::Method;
use secretwell_core::{Error, ErrorKind, Secret, SecretKey, SecretValue, Version};
use secretwell_http::{Request, encode_path};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::invalid;
use crate::provider::Inner;
use crate::wire::{self, Document, Leased};

/// A secret is said to be good for this share of its life, so that whoever uses it has the rest of it
/// to change to the next.
const USE: f64 = 0.8;
/// What is left of a lease when it is renewed, or replaced where that does not help.
const RENEW_BELOW: f64 = 0.5;

/// The paths that make secrets, each with what it made last.
#[derive(Default)]
pub(crate) struct Leases(BTreeMap<String, Slot>);

struct Slot {
    path: String,
    body: Option<SecretValue>,
    /// Locked while it is asked, so that many callers cause one secret.
    held: Mutex<Option<Lease>>,
}

/// One secret that was made.
struct Lease {
    document: Document,
    id: Option<String>,
    duration: Duration,
    renewable: bool,
    expires: Option<Instant>,
    /// The token that it was made with, and dies with.
    token: Option<SecretValue>,
}

/// A path to make secrets from, as it was configured.
#[derive(Clone)]
pub(crate) struct Dynamic {
    pub(crate) directory: String,
    pub(crate) path: String,
    pub(crate) body: Option<SecretValue>,
}

/// Without the body, which may hold anything.
impl fmt::Debug for Dynamic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.directory, self.path)
    }
}

impl Leases {
    pub(crate) fn new(paths: Vec<Dynamic>) -> Result<Self, Error> {
        let mut slots = BTreeMap::new();
        for Dynamic {
            directory,
            path,
            body,
        } in paths
        {
            let directory = SecretKey::parse(&directory).map_err(|error| {
                invalid("a directory of dynamic secrets is none").caused_by(error)
            })?;
            let slot = Slot {
                path: format!("/v1/{}", encode_path(&path)?),
                body,
                held: Mutex::default(),
            };
            slots.insert(directory.as_str().to_owned(), slot);
        }
        Ok(Self(slots))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the secrets of `directory` are made, not kept.
    pub(crate) fn make(&self, directory: Option<&str>) -> bool {
        directory.is_some_and(|directory| self.0.contains_key(directory))
    }

    /// The secret of `key`: from what is held if that has enough of its life before it, renewed if it
    /// can be, else made anew.
    pub(crate) async fn get(&self, inner: &Inner, key: &SecretKey) -> Result<Secret, Error> {
        let slot = key.directory().and_then(|directory| self.0.get(directory));
        let slot = slot.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such path"))?;
        let mut held = slot.held.lock().await;
        let token = inner.token().await?;
        if let Some(lease) = &mut *held {
            let same_token = lease.token.as_ref() == token.as_ref().map(|token| token.value());
            if same_token && (lease.has_time() || lease.renew(inner).await?) {
                return lease.secret(key, token.and_then(|token| token.expires()));
            }
        }
        // What was there goes on until its end: whoever uses it still may need it for a while.
        let lease = slot.make(inner).await?;
        let lease = held.insert(lease);
        // The one before may have been refused on the way, and another have taken its place.
        let token = inner.token().await?;
        lease.secret(key, token.and_then(|token| token.expires()))
    }

    /// Ends all that are held.
    pub(crate) async fn revoke(&self, inner: &Inner) -> Result<(), Error> {
        for slot in self.0.values() {
            let Some(Lease { id: Some(id), .. }) = slot.held.lock().await.take() else {
                continue;
            };
            let request = Request::new(Method::POST, "/v1/sys/leases/revoke").json(lease_id(&id));
            let (reply, _) = inner.call(request).await?;
            wire::lease_answer(&reply)?;
        }
        Ok(())
    }
}

impl Slot {
    async fn make(&self, inner: &Inner) -> Result<Lease, Error> {
        // Each answer makes another secret, so it is not asked twice.
        let request = match &self.body {
            None => Request::new(Method::GET, self.path.as_str()),
            Some(body) => Request::new(Method::POST, self.path.as_str()).json(body.clone()),
        };
        let asked = Instant::now();
        let (reply, token) = inner.call(request.once()).await?;
        let document = wire::read_v1(&reply)?;
        let Leased {
            id,
            duration,
            renewable,
        } = wire::leased(&reply)?;
        let duration = duration.or_else(|| own_end(&document));
        Ok(Lease {
            document,
            id,
            duration: duration.unwrap_or_default(),
            renewable,
            expires: duration.and_then(|duration| asked.checked_add(duration)),
            token: token.map(|token| token.value().clone()),
        })
    }
}

/// When the secret says itself that it ends: a certificate by its `expiration`, the credential of a
/// static role by its `ttl`, behind which the next one is there.
fn own_end(document: &Document) -> Option<Duration> {
    let number = |name: &str| {
        let field = document.field(name)?;
        field.value.expose_text().ok()?.parse::<u64>().ok()
    };
    if let Some(ttl) = number("ttl") {
        return Some(Duration::from_secs(ttl.max(1)));
    }
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(number("expiration")?))?;
    // The only look at the wall clock: the server tells this end in no other way.
    Some(end.duration_since(SystemTime::now()).unwrap_or_default())
}

impl Lease {
    /// Whether there is enough of its life left to hand it out as it is.
    fn has_time(&self) -> bool {
        let Some(expires) = self.expires else {
            return true;
        };
        let left = expires.saturating_duration_since(Instant::now());
        left > self.duration.mul_f64(RENEW_BELOW)
    }

    /// Prolongs it. Returns whether that has helped: near its maximum it does not.
    async fn renew(&mut self, inner: &Inner) -> Result<bool, Error> {
        let Some(id) = self.id.as_ref().filter(|_| self.renewable) else {
            return Ok(false);
        };
        let request = Request::new(Method::POST, "/v1/sys/leases/renew").json(lease_id(id));
        let asked = Instant::now();
        let (reply, _) = inner.call(request).await?;
        let Ok(renewed) = wire::lease_answer(&reply) else {
            // It has ended, or may not be renewed: a new one will tell what is the matter.
            return Ok(false);
        };
        if let Some(duration) = renewed.duration {
            self.expires = asked.checked_add(duration);
        }
        Ok(self.has_time())
    }

    fn secret(&self, key: &SecretKey, token_expires: Option<Instant>) -> Result<Secret, Error> {
        let secret = self.document.field(key.name()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the secret has no such field")
                .hint("look at what the path answers")
        })?;
        let version = match &self.id {
            Some(id) => Version::of_content(id.as_bytes()),
            None => Version::of_content(secret.value.expose_bytes()),
        };
        let secret = secret.with_version(version);
        let end = [self.expires, token_expires].into_iter().flatten().min();
        Ok(match end {
            None => secret,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                secret.valid_for(left.mul_f64(USE))
            }
        })
    }
}

fn lease_id(id: &str) -> SecretValue {
    serde_json::json!({ "lease_id": id }).to_string().into()
}
