//! Values for the unit tests of the pure functions.

use std::sync::Arc;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, Origin, SecretKey, Version};

use crate::Resolved;
use crate::clock::Time;
use crate::entry::{Answer, Entry, Failure, Times};
use crate::settings::{OnDenied, Settings};

/// Returns the time `seconds` after an arbitrary one.
pub(crate) fn at(seconds: u64) -> Time {
    Time::from_nanos(0).after(Duration::from_secs(seconds))
}

pub(crate) fn key(name: &str) -> SecretKey {
    name.parse().unwrap()
}

pub(crate) fn origin() -> Origin {
    Origin::new("fixture", "place")
}

pub(crate) fn outage() -> Error {
    Error::new(ErrorKind::Unavailable, "outage")
}

pub(crate) fn absence() -> Error {
    Error::new(ErrorKind::NotFound, "absence")
}

pub(crate) fn denial() -> Error {
    Error::new(ErrorKind::Denied, "denial")
}

pub(crate) fn resolved(value: &str) -> Resolved {
    Resolved::fixed(value.into(), origin())
}

/// Returns a value with a version that has an order.
pub(crate) fn versioned(value: &str, version: u64) -> Resolved {
    Resolved {
        version: Some(Version::numbered(version)),
        ..resolved(value)
    }
}

/// An entry that is fetched at 0 s, refreshed at 80 s, expired at 100 s and unusable at 1,000 s.
pub(crate) const TIMES: [u64; 4] = [0, 80, 100, 1000];

pub(crate) fn times() -> Times {
    let [fetched_at, refresh_at, expires_at, unusable_at] = TIMES.map(at);
    Times {
        fetched_at,
        refresh_at,
        expires_at,
        unusable_at,
    }
}

pub(crate) fn value_entry() -> Entry {
    Entry::new(Answer::Value(resolved("value")), times(), 0, 1)
}

pub(crate) fn absent_entry() -> Entry {
    Entry::new(Answer::Absent(absence()), times(), 0, 1)
}

/// Returns a failure that started at 10 s.
pub(crate) fn failure(error: Error, retry_at: u64) -> Failure {
    Failure {
        error,
        since: at(10),
        retry_at: at(retry_at),
        is_postponed: false,
    }
}

/// Settings with a ttl of 100 s and a `max_stale` of 900 s.
pub(crate) fn settings() -> Settings {
    Settings {
        ttl: Duration::from_secs(100),
        max_stale: Duration::from_secs(900),
        deadline: Duration::from_secs(30),
        max_backoff: Duration::from_secs(400),
        negative_ttl: Duration::from_secs(30),
        max_entries: 100,
        retry_budget: (2, 60),
        on_denied: OnDenied::Purge,
        accept_encrypted: Arc::default(),
        batch: false,
    }
}
