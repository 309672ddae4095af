//! Dynamic secrets, which the server creates on request and which expire: database credentials, certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method};
use secretwell_core::{Error, ErrorKind, Secret, SecretKey, SecretValue, Version};
use secretwell_http::{Request, Token, encode_path};
use tokio::time::Instant;

use crate::config::invalid;
use crate::provider::Inner;
use crate::wire::{self, Document, LeaseInfo};

/// A lease is renewed when less than this share of its duration remains.
const RENEW_BELOW: f64 = 0.5;
/// The wait after a failed renewal or replacement: this share of the remaining lifetime, but at most this
/// time.
const RETRY_WAIT: (f64, Duration) = (0.1, Duration::from_secs(60));

/// The dynamic secrets of a provider, by the prefix of their keys.
#[derive(Default)]
pub(crate) struct Leases(BTreeMap<String, Slot>);

struct Slot {
    path: String,
    body: Option<SecretValue>,
    /// Locked during a request, so that concurrent callers create only one secret.
    requests: tokio::sync::Mutex<()>,
    /// Never locked during a request, so that a discard does not wait for one.
    cached: Mutex<Option<Lease>>,
    /// Set by the first discard, and different after each one. An agent caches leases by all headers of
    /// their requests, and would respond with the discarded secret otherwise.
    cache_control: Mutex<Option<HeaderValue>>,
}

/// One dynamic secret with its lease.
#[derive(Clone)]
struct Lease {
    document: Arc<Document>,
    id: Option<String>,
    duration: Duration,
    renewable: bool,
    requested: Instant,
    expires: Option<Instant>,
    /// Whether the request created the secret. The secret is then reused, because another request would
    /// create another one.
    is_created: bool,
    /// The token that created the lease. The lease ends with it.
    token: Option<Arc<Token>>,
    /// Until this time, the lease is neither renewed nor replaced, because the last attempt failed.
    retry_at: Option<Instant>,
}

/// A snapshot of a lease, from which the values of keys are taken.
pub(crate) struct LeasedSecret {
    document: Arc<Document>,
    id: Option<String>,
    valid_until: Option<Instant>,
}

/// The configuration of a dynamic secret.
#[derive(Clone)]
pub(crate) struct Dynamic {
    pub(crate) prefix: String,
    pub(crate) path: String,
    /// The body of a write. `None` if the path is read.
    pub(crate) body: Option<SecretValue>,
}

/// Omits the body, which might contain a secret.
impl fmt::Debug for Dynamic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.prefix, self.path)
    }
}

impl Leases {
    pub(crate) fn new(dynamic: Vec<Dynamic>) -> Result<Self, Error> {
        let mut slots = BTreeMap::new();
        for Dynamic { prefix, path, body } in dynamic {
            let prefix = SecretKey::parse(&prefix).map_err(|error| {
                invalid("the prefix of a dynamic secret is not valid")
                    .with_hint("use a prefix such as `db`")
                    .with_source(error)
            })?;
            let slot = Slot {
                path: format!("/v1/{}", encode_path(&path)?),
                body,
                requests: tokio::sync::Mutex::default(),
                cached: Mutex::default(),
                cache_control: Mutex::default(),
            };
            slots.insert(prefix.as_str().to_owned(), slot);
        }
        Ok(Self(slots))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the keys below `prefix` are those of a dynamic secret.
    pub(crate) fn contains(&self, prefix: Option<&str>) -> bool {
        prefix.is_some_and(|prefix| self.0.contains_key(prefix))
    }

    /// Returns the dynamic secret of `prefix`. If less than half of the duration of the cached lease remains,
    /// the lease is renewed, or else replaced. If both fail with a temporary error, the cached lease is
    /// returned until it ends.
    pub(crate) async fn get(&self, inner: &Inner, prefix: &str) -> Result<LeasedSecret, Error> {
        let slot = self.0.get(prefix);
        let slot = slot.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "no dynamic secret is configured for this prefix",
            )
        })?;
        let called = Instant::now();
        let _requests = slot.requests.lock().await;
        if let Some(secret) = slot.backing_off() {
            return Ok(secret);
        }
        match slot.current(called, inner).await {
            Err(error) if error.is_temporary() => {
                let secret = slot.back_off().ok_or_else(|| error.clone())?;
                let origin = inner.origin();
                tracing::warn!(target: "secretwell::vault", event = "lease_not_replaced", %origin, %prefix, %error, "the lease could not be replaced; the replacement is retried");
                Ok(secret)
            }
            result => result,
        }
    }

    /// Drops the cached lease of `key`, so that the next read creates another one. With a `rejected` value,
    /// drops only the lease whose secret has this value. A secret that is being created is not dropped.
    ///
    /// The lease is not revoked, because its secret might still be in use.
    pub(crate) fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        let Some(slot) = key.prefix().and_then(|prefix| self.0.get(prefix)) else {
            return;
        };
        let mut cached = lock(&slot.cached);
        let has = |rejected: &SecretValue| {
            let field = cached.as_ref()?.document.field(key.name());
            field.filter(|field| field.value == *rejected)
        };
        if rejected.is_none_or(|rejected| has(rejected).is_some()) {
            *cached = None;
            *lock(&slot.cache_control) = Some(bypass_caches());
        }
    }

    /// Revokes all cached leases. If some cannot be revoked, the others are still revoked, and the first
    /// error is returned.
    pub(crate) async fn revoke(&self, inner: &Inner) -> Result<(), Error> {
        let mut result = Ok(());
        for slot in self.0.values() {
            let _requests = slot.requests.lock().await;
            let id = lock(&slot.cached)
                .as_ref()
                .and_then(|lease| lease.id.clone());
            let Some(id) = id else {
                continue;
            };
            match revoke(inner, &id).await {
                Ok(()) => *lock(&slot.cached) = None,
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

async fn revoke(inner: &Inner, id: &str) -> Result<(), Error> {
    let request = Request::new(Method::POST, "/v1/sys/leases/revoke").json(lease_id(id));
    let (response, _) = inner.call(request).await?;
    match wire::updated_lease(&response) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

impl Slot {
    /// Returns the cached lease, renewed if necessary, or else a new one. `called` is the time of the read.
    async fn current(&self, called: Instant, inner: &Inner) -> Result<LeasedSecret, Error> {
        let token = inner.token().await?;
        let cached = lock(&self.cached).clone();
        if let Some(mut lease) = cached.filter(|lease| lease.belongs_to(token.as_deref())) {
            // The token might have been renewed, which changes its expiry.
            lease.token = token;
            // The server might renew an expired lease, because its clock started later. Its secret is
            // replaced all the same, because readers have stopped using it.
            if lease.is_valid() {
                let is_current = lease.is_current(called) || lease.renew(inner).await;
                let updated = self.update(lease);
                if let Some(secret) = updated.filter(|_| is_current) {
                    return Ok(secret);
                }
            }
        }
        // The old lease is not revoked, because its secret might still be in use.
        let lease = self.create(inner).await?;
        let secret = lease.snapshot();
        *lock(&self.cached) = Some(lease);
        Ok(secret)
    }

    /// Stores the changed times of the cached lease. Returns `None` if the lease was discarded meanwhile.
    fn update(&self, lease: Lease) -> Option<LeasedSecret> {
        let mut cached = lock(&self.cached);
        let cached = cached.as_mut();
        let cached = cached.filter(|cached| Arc::ptr_eq(&cached.document, &lease.document))?;
        *cached = lease;
        Some(cached.snapshot())
    }

    /// Returns the cached lease if its replacement must not be retried yet.
    fn backing_off(&self) -> Option<LeasedSecret> {
        let cached = lock(&self.cached);
        let lease = cached.as_ref().filter(|lease| lease.is_valid())?;
        let retry_at = lease.retry_at?;
        (Instant::now() < retry_at).then(|| lease.snapshot())
    }

    /// Delays the next renewal or replacement after a failure. Returns the cached lease, if it can still be
    /// used.
    fn back_off(&self) -> Option<LeasedSecret> {
        let mut cached = lock(&self.cached);
        let lease = cached.as_mut();
        let lease = lease.filter(|lease| lease.is_created && lease.is_valid())?;
        lease.back_off();
        Some(lease.snapshot())
    }

    async fn create(&self, inner: &Inner) -> Result<Lease, Error> {
        let request = match &self.body {
            None => Request::new(Method::GET, self.path.as_str()),
            Some(body) => Request::new(Method::POST, self.path.as_str()).json(body.clone()),
        };
        let cache_control = lock(&self.cache_control).clone();
        let request = match cache_control {
            None => request,
            Some(value) => request.header(CACHE_CONTROL, value),
        };
        let requested = Instant::now();
        // Each successful request creates another secret, so it must not be repeated.
        let (response, token) = inner.call(request.non_idempotent()).await?;
        let document = wire::read_v1(&response)?;
        let LeaseInfo {
            id,
            duration,
            renewable,
        } = wire::lease_info(&response)?;
        let duration = duration.or_else(|| lifetime_in_fields(&document));
        // A read without a lease creates nothing: a static role can be rotated before the end that it states.
        let is_created = id.is_some() || self.body.is_some() && duration.is_some();
        Ok(Lease {
            document: Arc::new(document),
            id,
            duration: duration.unwrap_or_default(),
            renewable,
            requested,
            expires: duration.and_then(|duration| requested.checked_add(duration)),
            is_created,
            token,
            retry_at: None,
        })
    }
}

/// Returns the remaining lifetime that the fields of a secret without a lease state. The credential of a
/// static role has a `ttl`, after which the next one is available. A certificate has an `expiration`.
fn lifetime_in_fields(document: &Document) -> Option<Duration> {
    let number = |name: &str| {
        let field = document.field(name)?;
        field.value.expose_text().ok()?.parse::<u64>().ok()
    };
    if let Some(ttl) = number("ttl") {
        return Some(Duration::from_secs(ttl.max(1)));
    }
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(number("expiration")?))?;
    // The only use of the wall clock here: the server states this expiry only as a date.
    Some(end.duration_since(SystemTime::now()).unwrap_or_default())
}

impl Lease {
    fn belongs_to(&self, token: Option<&Token>) -> bool {
        self.token.as_ref().map(|token| token.value()) == token.map(Token::value)
    }

    /// Returns when the lease or its token expires, whichever is earlier.
    fn valid_until(&self) -> Option<Instant> {
        let token = self.token.as_ref().and_then(|token| token.expires());
        [self.expires, token].into_iter().flatten().min()
    }

    fn is_valid(&self) -> bool {
        self.valid_until().is_none_or(|end| Instant::now() < end)
    }

    /// Returns whether a read that began at `called` gets this secret without another request. A secret that
    /// the request did not create is only shared by the reads that waited for that request.
    fn is_current(&self, called: Instant) -> bool {
        match self.is_created {
            true => self.is_fresh(),
            false => called < self.requested,
        }
    }

    /// Returns whether the lease needs no renewal yet.
    fn is_fresh(&self) -> bool {
        let Some(expires) = self.expires else {
            return true;
        };
        let remaining = expires.saturating_duration_since(Instant::now());
        remaining > self.duration.mul_f64(RENEW_BELOW)
    }

    /// Renews the lease. Returns whether it is fresh afterwards. Near the maximum duration of a lease, a
    /// renewal succeeds but does not extend it enough.
    async fn renew(&mut self, inner: &Inner) -> bool {
        let Some(id) = self.id.as_ref().filter(|_| self.renewable) else {
            return false;
        };
        let request = Request::new(Method::POST, "/v1/sys/leases/renew").json(lease_id(id));
        let requested = Instant::now();
        let result = inner.call(request).await;
        match result.and_then(|(response, _)| wire::updated_lease(&response)) {
            Ok(renewed) => {
                if let Some(duration) = renewed.duration {
                    self.expires = requested.checked_add(duration);
                }
                self.is_fresh()
            }
            // All causes lead to the same next step: a request for a new lease.
            Err(error) => {
                tracing::debug!(target: "secretwell::vault", event = "lease_not_renewed", origin = %inner.origin(), %error, "the lease was not renewed");
                false
            }
        }
    }

    /// Delays the next renewal or replacement after a failure.
    fn back_off(&mut self) {
        let now = Instant::now();
        let remaining = self
            .valid_until()
            .map(|end| end.saturating_duration_since(now));
        let wait = remaining.map_or(RETRY_WAIT.1, |remaining| {
            remaining.mul_f64(RETRY_WAIT.0).min(RETRY_WAIT.1)
        });
        self.retry_at = Some(now + wait);
    }

    fn snapshot(&self) -> LeasedSecret {
        LeasedSecret {
            document: self.document.clone(),
            id: self.id.clone(),
            valid_until: self.valid_until(),
        }
    }
}

impl LeasedSecret {
    /// Returns the value of the field `name`. All fields of one lease have the same version.
    pub(crate) fn secret(&self, name: &str) -> Result<Secret, Error> {
        let secret = self.document.field(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the secret has no such field")
                .with_hint("check which fields the path returns")
        })?;
        let version = match &self.id {
            Some(id) => Version::from_content(id.as_bytes()),
            None => Version::from_content(secret.value.expose_bytes()),
        };
        let secret = secret.with_version(version);
        Ok(match self.valid_until {
            None => secret,
            Some(end) => secret.valid_for(end.saturating_duration_since(Instant::now())),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a value of `Cache-Control` that no other discard has, in this process or in another one.
fn bypass_caches() -> HeaderValue {
    let random = RandomState::new().hash_one(Instant::now());
    let value = HeaderValue::try_from(format!("no-cache, discard={random}"));
    value.unwrap_or(HeaderValue::from_static("no-cache"))
}

fn lease_id(id: &str) -> SecretValue {
    serde_json::json!({ "lease_id": id }).to_string().into()
}
