//! Dynamic secrets, which the server creates on request and which expire: database credentials, certificates.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method};
use secretwell_core::{Error, ErrorKind, Secret, SecretKey, SecretValue, Version, suspension};
use secretwell_http::{Expect, Request, Response, Token, encode_path};
use tokio::time::{Instant, timeout};

use crate::dynamic::Dynamic;
use crate::error::invalid;
use crate::lock::lock;
use crate::session::Session;
use crate::turns::Turns;
use crate::wire::{self, Document, LeaseInfo};

/// A lease is renewed when less than this share of its duration remains.
const RENEW_BELOW: f64 = 0.5;
/// The wait after a failed renewal or replacement: this share of the remaining lifetime, but at most this
/// time.
const RETRY_WAIT: (f64, Duration) = (0.1, Duration::from_secs(60));
/// The longest time for the description of the token of a new lease.
const DESCRIPTION_DEADLINE: Duration = Duration::from_secs(2);

/// The fields in which engines state the remaining lifetime, as seconds or as a text such as `1h`.
const LIFETIMES: &[&str] = &["ttl", "token_ttl", "expires_in"];
/// The fields in which engines state the end, as Unix time or as RFC 3339.
const ENDS: &[&str] = &["expiration", "expires_at_seconds", "expire_time"];

/// The dynamic secrets of a provider, by the prefix of their keys.
#[derive(Default)]
pub(crate) struct Leases(BTreeMap<String, Slot>);

struct Slot {
    path: String,
    body: Option<SecretValue>,
    /// Each request takes a turn, so that concurrent callers create only one secret.
    turns: Turns,
    /// Never locked during a request, so that a discard does not wait for one.
    cached: Mutex<Option<Lease>>,
    /// The ids of leases that are not cached any more, and whose revocation was not confirmed.
    unrevoked: Mutex<Vec<String>>,
    /// Set by the first discard, and different after each one. An agent caches leases by all headers of
    /// their requests, and would respond with the discarded secret otherwise.
    cache_control: Mutex<Option<HeaderValue>>,
}

/// One dynamic secret with its lease, from which the values of keys are taken.
#[derive(Clone)]
pub(crate) struct Lease {
    document: Arc<Document>,
    id: Option<String>,
    duration: Duration,
    renewable: bool,
    /// When the request was sent that created or renewed the lease.
    requested: Instant,
    /// How long the machine had been suspended until then.
    suspended: Duration,
    expires: Option<Instant>,
    /// Whether the request created the secret. The secret is then reused, because another request would
    /// create another one.
    is_created: bool,
    /// The token that created the lease. The lease ends with it.
    token: Option<Arc<Token>>,
    /// Until this time, the lease is neither renewed nor replaced, because the last attempt failed.
    retry_at: Option<Instant>,
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
                turns: Turns::default(),
                cached: Mutex::default(),
                unrevoked: Mutex::default(),
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
    ///
    /// Concurrent callers share one attempt and its failure. Each returns by the deadline of a call.
    pub(crate) async fn get(&self, session: &Session, prefix: &str) -> Result<Lease, Error> {
        let slot = self.0.get(prefix);
        let slot = slot.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "no dynamic secret is configured for this prefix",
            )
        })?;
        let called = Instant::now();
        let attempt = async {
            match slot.backing_off() {
                Some(secret) => Ok(secret),
                None => slot.current(called, session).await,
            }
        };
        let timed_out = |since| session.timed_out(since, session.deadline());
        let secret = slot.turns.take(session.deadline(), timed_out, attempt);
        match secret.await {
            Err(error) if error.is_temporary() => slot.fall_back(session, prefix, error),
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

    /// Revokes all cached leases, and those that an earlier call could not revoke. If some cannot be revoked, the
    /// others are still revoked, and the first error is returned.
    pub(crate) async fn revoke(&self, session: &Session) -> Result<(), Error> {
        let mut result = Ok(());
        for slot in self.0.values() {
            let _turn = slot.turns.wait().await;
            result = result.and(slot.revoke(session).await);
        }
        result
    }
}

impl Slot {
    /// Returns the cached lease, renewed if necessary, or else a new one. `called` is the time of the read.
    async fn current(&self, called: Instant, session: &Session) -> Result<Lease, Error> {
        let token = session.token().await?;
        let cached = lock(&self.cached).clone();
        if let Some(mut lease) = cached.filter(|lease| lease.belongs_to(token.as_deref())) {
            // The token might have been renewed, which changes its expiry. The expiry of a configured token that was
            // only read again is not known, but it is not later.
            if token
                .as_ref()
                .is_some_and(|token| token.expires().is_some())
            {
                lease.token = token;
            }
            // The server might renew an expired lease, because its clock started later. Its secret is
            // replaced all the same, because readers have stopped using it.
            if lease.is_valid() {
                let is_current = lease.is_current(called) || lease.renew(session).await;
                let updated = self.update(lease);
                if let Some(secret) = updated.filter(|_| is_current) {
                    return Ok(secret);
                }
            }
        }
        // The old lease is not revoked, because its secret might still be in use.
        let mut lease = self.create(session).await?;
        // Before the next request, because a cancellation during it would lose the created secret.
        *lock(&self.cached) = Some(lease.clone());
        let described = timeout(DESCRIPTION_DEADLINE, session.described(lease.token.clone()));
        if let Ok(token) = described.await {
            lease.token = token;
        }
        self.update(lease.clone());
        Ok(lease)
    }

    /// Stores the changed times of the cached lease. Returns `None` if the lease was discarded meanwhile.
    fn update(&self, lease: Lease) -> Option<Lease> {
        let mut cached = lock(&self.cached);
        let cached = cached.as_mut();
        let cached = cached.filter(|cached| Arc::ptr_eq(&cached.document, &lease.document))?;
        *cached = lease;
        Some(cached.clone())
    }

    /// Returns the cached lease if its replacement must not be retried yet.
    fn backing_off(&self) -> Option<Lease> {
        let cached = lock(&self.cached);
        let lease = cached.as_ref().filter(|lease| lease.is_valid())?;
        let retry_at = lease.retry_at?;
        (Instant::now() < retry_at).then(|| lease.clone())
    }

    /// Returns the cached lease if it can still be used, and delays the next renewal or replacement.
    ///
    /// # Errors
    /// Returns `error`, the failure of the replacement, if there is no such lease.
    fn fall_back(&self, session: &Session, prefix: &str, error: Error) -> Result<Lease, Error> {
        // Another caller has reported the same failure.
        if let Some(secret) = self.backing_off() {
            return Ok(secret);
        }
        let secret = self.back_off().ok_or_else(|| error.clone())?;
        let origin = session.origin();
        tracing::warn!(target: "secretwell::vault", event = "lease_not_replaced", %origin, %prefix, %error, "the lease could not be replaced; the replacement is retried");
        Ok(secret)
    }

    /// Delays the next renewal or replacement after a failure. Returns the cached lease, if it can still be
    /// used.
    fn back_off(&self) -> Option<Lease> {
        let mut cached = lock(&self.cached);
        let lease = cached.as_mut();
        let lease = lease.filter(|lease| lease.is_created && lease.is_valid())?;
        lease.back_off();
        Some(lease.clone())
    }

    /// Revokes the cached lease, and those that could not be revoked before.
    ///
    /// The server might have revoked a lease although its response is lost. No reader gets the secret any more.
    async fn revoke(&self, session: &Session) -> Result<(), Error> {
        let cached = lock(&self.cached).take_if(|lease| lease.id.is_some());
        lock(&self.unrevoked).extend(cached.and_then(|lease| lease.id));
        let ids = lock(&self.unrevoked).clone();
        let mut result = Ok(());
        for id in ids {
            match revoke_lease(session, &id).await {
                Ok(()) => lock(&self.unrevoked).retain(|other| *other != id),
                failed => result = result.and(failed),
            }
        }
        result
    }

    /// Returns the path as it is written in a policy.
    fn policy_path(&self) -> &str {
        self.path.trim_start_matches("/v1/")
    }

    async fn create(&self, session: &Session) -> Result<Lease, Error> {
        let request = match &self.body {
            None => Request::new(Method::GET, self.path.as_str()),
            Some(body) => Request::new(Method::POST, self.path.as_str()).json(body.clone()),
        };
        let cache_control = lock(&self.cache_control).clone();
        let request = match cache_control {
            None => request,
            Some(value) => request.header(CACHE_CONTROL, value),
        };
        let (requested, suspended) = (Instant::now(), suspension::notice());
        // Each successful request creates another secret, so it must not be repeated.
        let (response, token) = session.call(request.non_idempotent()).await?;
        let document = wire::read_v1(&response, self.policy_path()).map_err(|error| {
            match error.kind() == ErrorKind::Denied && self.body.is_some() {
                true => wire::denied_write(self.policy_path()),
                false => error,
            }
        })?;
        let LeaseInfo {
            id,
            duration,
            renewable,
        } = wire::lease_info(&response)?;
        let duration = duration.or_else(|| lifetime_in_fields(&document, &response));
        // A read without a lease creates nothing: a static role can be rotated before the end that it states.
        let is_created = id.is_some() || self.body.is_some() && duration.is_some();
        Ok(Lease {
            document: Arc::new(document),
            id,
            duration: duration.unwrap_or_default(),
            renewable,
            requested,
            suspended,
            expires: duration.and_then(|duration| requested.checked_add(duration)),
            is_created,
            token,
            retry_at: None,
        })
    }
}

/// Revokes a lease. One that does not exist any more needs no revocation.
async fn revoke_lease(session: &Session, id: &str) -> Result<(), Error> {
    let request = Request::new(Method::POST, "/v1/sys/leases/revoke")
        .json(lease_id(id))
        .non_idempotent()
        .expect(Expect::NoContent);
    let (response, _) = session.call(request).await?;
    match wire::updated_lease(&response) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Returns the remaining lifetime that the fields of a secret without a lease state. For example, the
/// credential of a static role has a `ttl`, after which the next one is available, and a certificate has an
/// `expiration`.
fn lifetime_in_fields(document: &Document, response: &Response) -> Option<Duration> {
    let text = |name: &&str| {
        let field = document.field(name)?;
        field.value.expose_text().ok().map(str::to_owned)
    };
    let duration = |text: String| match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(&text).ok(),
    };
    let mut durations = LIFETIMES.iter().filter_map(text).filter_map(duration);
    if let Some(lifetime) = durations.next() {
        return Some(lifetime.max(Duration::from_secs(1)));
    }
    let end = |text: String| match text.parse() {
        Ok(seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        Err(_) => wire::time(&text),
    };
    let end = ENDS.iter().filter_map(text).find_map(end)?;
    let now = wire::server_clock(response);
    Some(end.duration_since(now).unwrap_or_default())
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

    /// Returns `time` of tokio's clock with the suspensions of the machine since the lease was requested, during which
    /// that clock has stopped.
    fn with_suspensions(&self, time: Instant) -> Instant {
        time + suspension::notice().saturating_sub(self.suspended)
    }

    /// Returns the remaining lifetime, counted from `called`, the start of the call. If the lease or its token was
    /// requested later, its lifetime counts from that request. So it is never longer than the server has stated.
    fn remaining(&self, called: Instant) -> Option<Duration> {
        let called = self.with_suspensions(called);
        let start = called.max(self.requested);
        let lease = self.expires.map(|end| end.saturating_duration_since(start));
        let token = self
            .token
            .as_ref()
            .and_then(|token| token.remaining(called));
        [lease, token].into_iter().flatten().min()
    }

    /// Returns whether the secret can be used. A revoked token ends its leases early.
    fn is_valid(&self) -> bool {
        let is_revoked = self.token.as_ref().is_some_and(|token| token.is_refused());
        let now = self.with_suspensions(Instant::now());
        !is_revoked && self.valid_until().is_none_or(|end| now < end)
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
        let remaining = expires.saturating_duration_since(self.with_suspensions(Instant::now()));
        remaining > self.duration.mul_f64(RENEW_BELOW)
    }

    /// Renews the lease. Returns whether it is fresh afterwards. Near the maximum duration of a lease, a
    /// renewal succeeds but does not extend it enough. It takes at most half of the time of a call, so that the
    /// rest is left for a replacement.
    async fn renew(&mut self, session: &Session) -> bool {
        let Some(id) = self.id.as_ref().filter(|_| self.renewable) else {
            return false;
        };
        let request = Request::new(Method::POST, "/v1/sys/leases/renew")
            .json(lease_id(id))
            .non_idempotent();
        let (requested, suspended) = (Instant::now(), suspension::notice());
        let deadline = session.deadline() / 2;
        let result = match timeout(deadline, session.call(request)).await {
            Ok(result) => result.and_then(|(response, _)| wire::updated_lease(&response)),
            Err(_) => Err(session.timed_out(requested, deadline)),
        };
        match result {
            Ok(renewed) => {
                if let Some(duration) = renewed.duration {
                    self.requested = requested;
                    self.suspended = suspended;
                    self.expires = requested.checked_add(duration);
                }
                self.is_fresh()
            }
            // All causes lead to the same next step: a request for a new lease.
            Err(error) => {
                tracing::debug!(target: "secretwell::vault", event = "lease_not_renewed", origin = %session.origin(), %error, "the lease was not renewed");
                false
            }
        }
    }

    /// Delays the next renewal or replacement after a failure.
    fn back_off(&mut self) {
        let now = Instant::now();
        let remaining = self
            .valid_until()
            .map(|end| end.saturating_duration_since(self.with_suspensions(now)));
        let wait = remaining.map_or(RETRY_WAIT.1, |remaining| {
            remaining.mul_f64(RETRY_WAIT.0).min(RETRY_WAIT.1)
        });
        self.retry_at = Some(now + wait);
    }

    /// Returns the value of the field `name` for a call that began at `called`. All fields of one lease have the same
    /// version.
    pub(crate) fn secret(&self, name: &str, called: Instant) -> Result<Secret, Error> {
        let secret = self.document.field(name).ok_or_else(|| {
            self.document
                .no_field(name)
                .with_hint("check which fields the path returns")
        })?;
        let version = match &self.id {
            Some(id) => Version::from_content(id.as_bytes()),
            None => Version::from_content(secret.value.expose_bytes()),
        };
        let secret = secret.with_version(version);
        Ok(match self.remaining(called) {
            None => secret,
            Some(lifetime) => secret.valid_for(lifetime),
        })
    }
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

#[cfg(test)]
mod tests {
    use http::header::DATE;
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn lifetime_is_found_in_each_field_and_unit() {
        let date = HeaderValue::from_static("Mon, 23 Nov 2020 08:11:35 GMT");
        let headers = HeaderMap::from_iter([(DATE, date)]);
        let lifetime = |field: &str, value: Value| {
            let body = json!({"data": {field: value}}).to_string().into_bytes();
            let response = Response::new(StatusCode::OK, headers.clone(), body);
            let document = wire::read_v1(&response, "engine/path").unwrap();
            lifetime_in_fields(&document, &response)
        };
        for (field, value) in [
            ("ttl", json!(3600)),
            ("ttl", json!("3600")),
            ("ttl", json!("1h")),
            ("ttl", json!("1h0m0s")),
            ("token_ttl", json!("60m")),
            ("expires_in", json!(3600)),
            ("expiration", json!(1_606_122_695 + 1)),
            ("expires_at_seconds", json!(1_606_122_695 + 1)),
            ("expire_time", json!("2020-11-23T09:11:36.5Z")),
        ] {
            let found = lifetime(field, value.clone());
            let found = found.unwrap_or_else(|| panic!("{field} {value}"));
            let expected = Duration::from_secs(3599)..=Duration::from_secs(3602);
            assert!(expected.contains(&found), "{field} {value}: {found:?}");
        }
        assert_eq!(lifetime("code", json!("123456")), None);
        assert_eq!(lifetime("ttl", json!(0)), Some(Duration::from_secs(1)));
        let past = lifetime("expiration", json!(1_600_000_000));
        assert_eq!(past, Some(Duration::ZERO));
    }
}
