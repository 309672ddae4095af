//! Secrets that are made when they are asked for, and end: database credentials, certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use secretwell_core::{Error, ErrorKind, Secret, SecretKey, SecretValue, Version};
use secretwell_http::{Request, Token, encode_path};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::invalid;
use crate::provider::Inner;
use crate::wire::{self, Document, Leased};

/// What is left of a lease when it is renewed, or replaced where that does not help.
const RENEW_BELOW: f64 = 0.5;
/// When to try again what could not be renewed or replaced: after this share of what is left of it, and
/// this long at most.
const AGAIN: (f64, Duration) = (0.1, Duration::from_secs(60));

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
    document: Arc<Document>,
    id: Option<String>,
    duration: Duration,
    renewable: bool,
    expires: Option<Instant>,
    /// The token that it was made with, and dies with.
    token: Option<Arc<Token>>,
    /// Until when it is not tried to renew or replace it, because a moment ago that failed.
    again: Option<Instant>,
}

/// What a lease is good for.
pub(crate) struct Made {
    document: Arc<Document>,
    id: Option<String>,
    ends: Option<Instant>,
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
                invalid("a directory of dynamic secrets is none").with_source(error)
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

    /// The secrets of `directory`: what is held if that has enough of its life before it, renewed if it
    /// can be, else made anew. While neither can be, what is held is good to its end.
    pub(crate) async fn get(&self, inner: &Inner, directory: &str) -> Result<Made, Error> {
        let slot = self.0.get(directory);
        let slot = slot.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such path"))?;
        let mut held = slot.held.lock().await;
        if let Some(lease) = &*held
            && lease.again.is_some_and(|again| Instant::now() < again)
            && lease.is_alive()
        {
            return Ok(lease.made());
        }
        match (slot.follow(&mut held, inner).await, &mut *held) {
            (Ok(made), _) => Ok(made),
            (Err(error), Some(lease)) if error.is_temporary() && lease.is_alive() => {
                let origin = inner.origin();
                tracing::warn!(target: "secretwell::vault", event = "lease_not_replaced", %origin, %directory, %error, "the lease could not be replaced; the replacement is retried");
                lease.wait();
                Ok(lease.made())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Ends all that are held, as far as possible; the first error is told.
    pub(crate) async fn revoke(&self, inner: &Inner) -> Result<(), Error> {
        let mut outcome = Ok(());
        for slot in self.0.values() {
            let mut held = slot.held.lock().await;
            let Some(id) = held.as_ref().and_then(|lease| lease.id.as_deref()) else {
                continue;
            };
            match revoke(inner, id).await {
                Ok(()) => *held = None,
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }
}

async fn revoke(inner: &Inner, id: &str) -> Result<(), Error> {
    let request = Request::new(Method::POST, "/v1/sys/leases/revoke").json(lease_id(id));
    let (response, _) = inner.call(request).await?;
    match wire::lease_answer(&response) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

impl Slot {
    async fn follow(&self, held: &mut Option<Lease>, inner: &Inner) -> Result<Made, Error> {
        let token = inner.token().await?;
        if let Some(lease) = held
            && lease.is_of(token.as_deref())
        {
            // The same may have been renewed.
            lease.token = token;
            if lease.has_time() || lease.renew(inner).await {
                return Ok(lease.made());
            }
        }
        // What was there goes on until its end: whoever uses it still may need it for a while.
        Ok(held.insert(self.make(inner).await?).made())
    }

    async fn make(&self, inner: &Inner) -> Result<Lease, Error> {
        // Each answer makes another secret, so it is not asked twice.
        let request = match &self.body {
            None => Request::new(Method::GET, self.path.as_str()),
            Some(body) => Request::new(Method::POST, self.path.as_str()).json(body.clone()),
        };
        let asked = Instant::now();
        let (response, token) = inner.call(request.non_idempotent()).await?;
        let document = wire::read_v1(&response)?;
        let Leased {
            id,
            duration,
            renewable,
        } = wire::leased(&response)?;
        let duration = duration.or_else(|| own_end(&document));
        Ok(Lease {
            document: Arc::new(document),
            id,
            duration: duration.unwrap_or_default(),
            renewable,
            expires: duration.and_then(|duration| asked.checked_add(duration)),
            token,
            again: None,
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
    fn is_of(&self, token: Option<&Token>) -> bool {
        self.token.as_ref().map(|token| token.value()) == token.map(Token::value)
    }

    fn ends(&self) -> Option<Instant> {
        let token = self.token.as_ref().and_then(|token| token.expires());
        [self.expires, token].into_iter().flatten().min()
    }

    fn is_alive(&self) -> bool {
        self.ends().is_none_or(|ends| Instant::now() < ends)
    }

    /// Whether there is enough of its life left to hand it out as it is.
    fn has_time(&self) -> bool {
        let Some(expires) = self.expires else {
            return true;
        };
        let left = expires.saturating_duration_since(Instant::now());
        left > self.duration.mul_f64(RENEW_BELOW)
    }

    /// Prolongs it. Returns whether that has helped: near its maximum it does not.
    async fn renew(&mut self, inner: &Inner) -> bool {
        let Some(id) = self.id.as_ref().filter(|_| self.renewable) else {
            return false;
        };
        let request = Request::new(Method::POST, "/v1/sys/leases/renew").json(lease_id(id));
        let asked = Instant::now();
        let answered = inner.call(request).await;
        match answered.and_then(|(response, _)| wire::lease_answer(&response)) {
            Ok(renewed) => {
                if let Some(duration) = renewed.duration {
                    self.expires = asked.checked_add(duration);
                }
                self.has_time()
            }
            // It has ended, or may not be renewed, or the server is in trouble: a new one will tell.
            Err(error) => {
                tracing::debug!(target: "secretwell::vault", event = "lease_not_renewed", origin = %inner.origin(), %error, "the lease was not renewed");
                false
            }
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let left = self.ends().map(|ends| ends.saturating_duration_since(now));
        let wait = left.map_or(AGAIN.1, |left| left.mul_f64(AGAIN.0).min(AGAIN.1));
        self.again = Some(now + wait);
    }

    fn made(&self) -> Made {
        Made {
            document: self.document.clone(),
            id: self.id.clone(),
            ends: self.ends(),
        }
    }
}

impl Made {
    /// The secret of the field `name`.
    pub(crate) fn secret(&self, name: &str) -> Result<Secret, Error> {
        let secret = self.document.field(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the secret has no such field")
                .with_hint("look at what the path answers")
        })?;
        let version = match &self.id {
            Some(id) => Version::from_content(id.as_bytes()),
            None => Version::from_content(secret.value.expose_bytes()),
        };
        let secret = secret.with_version(version);
        Ok(match self.ends {
            None => secret,
            Some(ends) => secret.valid_for(ends.saturating_duration_since(Instant::now())),
        })
    }
}

fn lease_id(id: &str) -> SecretValue {
    serde_json::json!({ "lease_id": id }).to_string().into()
}
