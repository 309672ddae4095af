//! Which secrets are revoked, and the revocation time that a source carries.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use secretwell_core::{Error, ErrorKind, SecretKey, SecretValue, Version};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::ring::{Replaced, later};

/// The maximum number of revoked secrets that an auth remembers. With one leak per day, it is reached
/// after eleven years. Beyond it, the oldest one is forgotten.
const MAX_REVOKED: usize = 4096;

/// The longest time for which a replica is assumed not to have a new secret.
const MAX_LAG: Duration = Duration::from_secs(60);

/// The default deadline of a resolver. A result counts from the end of its read.
const MAX_READ: Duration = Duration::from_secs(30);

/// Unix times from this number of seconds on (the year 10000) are not seconds.
const MAX_UNIX_SECONDS: u64 = 253_402_300_800;

/// The secrets that an auth does not accept any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revocations {
    /// The fingerprints of revoked values, oldest first. The values are not kept.
    values: VecDeque<u64>,
    /// The last call of `revoke_previous`.
    call: Option<Call>,
    /// The last known revocation time of the source.
    pub(crate) epoch: Option<Epoch>,
}

/// A call of `revoke_previous`.
#[derive(Debug, Clone, Copy)]
struct Call {
    /// The time of this call or of an earlier one, whichever is later.
    wall: SystemTime,
    at: Instant,
    /// Secrets that are replaced later are not covered.
    ended_at: Option<Instant>,
}

/// The revocation time that a source carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) time: SystemTime,
    /// The version of the secret that contains the time.
    pub(crate) version: Option<Version>,
}

impl Revocations {
    /// Remembers that `value` is revoked.
    pub(crate) fn revoke(&mut self, value: &SecretValue) {
        self.add(value.fingerprint());
    }

    /// Remembers the revoked secrets of `later`.
    pub(crate) fn add_all(&mut self, later: &Self) {
        for fingerprint in &later.values {
            self.add(*fingerprint);
        }
    }

    fn add(&mut self, fingerprint: u64) {
        if !self.values.contains(&fingerprint) {
            self.values.push_back(fingerprint);
            while self.values.len() > MAX_REVOKED {
                self.values.pop_front();
            }
        }
    }

    /// Returns whether `value` is revoked.
    pub(crate) fn contains(&self, value: &SecretValue) -> bool {
        self.values.contains(&value.fingerprint())
    }

    /// Records a call of `revoke_previous`, at `wall` by the wall clock.
    pub(crate) fn called(&mut self, now: Instant, wall: SystemTime) {
        let earlier = self.call.map(|earlier| earlier.wall);
        self.call = Some(Call {
            wall: earlier.map_or(wall, |earlier| earlier.max(wall)),
            at: now,
            ended_at: None,
        });
    }

    /// Returns whether the revocation time of the source covers a secret that its key stores as a previous
    /// one, in the version `stored`.
    ///
    /// It was replaced at about the time when it was written. It also counts as covered if that time is not
    /// known: the source might report none, or the version might be the one of a document that contains
    /// the revocation time as well.
    pub(crate) fn covers_stored(&self, stored: Option<&Version>) -> bool {
        self.epoch.as_ref().is_some_and(|epoch| {
            let written = stored.and_then(Version::created_at);
            written.is_none_or(|written| written <= epoch.time) || stored == epoch.version.as_ref()
        })
    }

    /// Returns the time from which an attempt with fresh secrets ends the last call. A secret is fresh for `ttl` after its
    /// read.
    pub(crate) fn call_ends_at(&self, ttl: Duration) -> Option<Instant> {
        let call = self.call.filter(|call| call.ended_at.is_none())?;
        let delay = MAX_LAG.saturating_add(MAX_READ).saturating_add(ttl);
        Some(later(call.at, delay))
    }

    /// Ends the last call, because the source has returned the current secrets when replicas are assumed not to lag any
    /// more. All later secrets were then written after the call, whatever the clocks of this process and of the source say.
    pub(crate) fn end_call(&mut self, now: Instant) {
        if let Some(call) = &mut self.call {
            call.ended_at = Some(now);
        }
    }

    /// Returns whether the secret that was `replaced` is revoked by time.
    ///
    /// A call covers what a lagging replica returns after it. If a call had no end, a wall clock that is ahead of the
    /// source's clock would take the grace period from all secrets that are replaced until the source has caught up.
    pub(crate) fn covers(&self, replaced: &Replaced) -> bool {
        let next = replaced.by.as_ref().and_then(Version::created_at);
        let is_covered = |call: &Call| call.ended_at.is_none_or(|end| replaced.at <= end);
        let call = self.call.filter(is_covered);
        // A version between the two that were read might have replaced it, which is not known.
        let earliest = next.into_iter().chain(replaced.earliest).min();
        let is_before = |time: Option<SystemTime>, limit| time.is_some_and(|time| time <= limit);
        self.epoch
            .as_ref()
            .is_some_and(|epoch| is_before(next, epoch.time))
            || call.is_some_and(|call| is_before(earliest, call.wall))
    }
}

impl Epoch {
    /// Reads the revocation time from the result of its key. A missing or blank value is no revocation
    /// time.
    pub(crate) fn read(
        key: &SecretKey,
        result: Result<Resolved, Error>,
    ) -> Result<Option<Self>, Error> {
        let secret = match result {
            Ok(secret) if secret.value.is_blank() => return Ok(None),
            Ok(secret) => secret,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.with_key(key)),
        };
        let text = secret.value.expose_text().ok();
        match text.and_then(|text| parse_time(text.trim())) {
            Some(time) => Ok(Some(Self {
                time,
                version: secret.version,
            })),
            None => Err(Error::new(
                ErrorKind::Invalid,
                "the value is not a revocation time, so the last known one stays in force",
            )
            .with_origin(&secret.origin)
            .with_key(key)
            .with_hint("write a time such as `2026-01-31T12:00:00Z`, or Unix seconds")),
        }
    }
}

/// Parses an RFC 3339 time or Unix seconds.
fn parse_time(text: &str) -> Option<SystemTime> {
    if let Ok(seconds) = text.parse::<u64>() {
        let is_plausible = seconds < MAX_UNIX_SECONDS;
        return is_plausible.then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    }
    let text = text.to_ascii_uppercase();
    if text.ends_with('Z') {
        return humantime::parse_rfc3339(&text).ok();
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |text: &str, limit: u64| {
        let has_two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = text.parse().ok()?;
        (has_two_digits && number < limit).then_some(number)
    };
    let offset_seconds = 3600 * number(hours, 24)? + 60 * number(minutes, 60)?;
    let difference = Duration::from_secs(offset_seconds);
    match offset.chars().next()? {
        '+' => local.checked_sub(difference),
        '-' => local.checked_add(difference),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocation_times_are_rfc_3339_or_unix_seconds() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
        for text in [
            "1769860800",
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2026-01-31T13:30:00+01:30",
            "2026-01-31T04:00:00.000-08:00",
        ] {
            assert_eq!(parse_time(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "now",
            "-5",
            "1769860800000",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00+1:30",
            "2026-01-31T12:00:00+25:00",
            "2026-01-31T12:00:00+01:99",
            "2026-13-31T12:00:00Z",
            "äöüäöü",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn number_of_revoked_secrets_is_bounded() {
        let mut revocations = Revocations::default();
        let value = |number: usize| SecretValue::from(number.to_string());
        for number in 0..=MAX_REVOKED {
            revocations.revoke(&value(number));
            revocations.revoke(&value(number));
        }
        assert_eq!(revocations.values.len(), MAX_REVOKED);
        assert!(!revocations.contains(&value(0)));
        assert!(revocations.contains(&value(1)) && revocations.contains(&value(MAX_REVOKED)));
    }

    #[test]
    fn secret_is_covered_if_it_was_replaced_at_or_before_the_time() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let version = |number, seconds| Version::numbered(number).with_created_at(time(seconds));
        let now = Instant::now();
        let by = |version| Replaced::new(now, Some(version), None);
        let mut revocations = Revocations::default();
        assert!(
            !revocations.covers(&by(version(2, 0))),
            "no revocation time"
        );
        revocations.epoch = Some(Epoch {
            time: time(100),
            version: Some(version(7, 103)),
        });
        for (seconds, covered) in [(99, true), (100, true), (101, false)] {
            let next = by(version(2, seconds));
            assert_eq!(revocations.covers(&next), covered, "{seconds}");
        }
        assert!(!revocations.covers(&Replaced::new(now, None, None)));
        assert!(!revocations.covers(&by(Version::numbered(2))));

        revocations.called(now, time(200));
        revocations.called(now, time(150));
        assert!(revocations.covers(&by(version(2, 200))));
        assert!(!revocations.covers(&by(version(2, 201))));
    }

    #[test]
    fn call_covers_a_secret_that_a_skipped_version_might_have_replaced_before_it() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = Instant::now();
        let next = Version::numbered(3).with_created_at(time(201));
        let mut revocations = Revocations::default();
        revocations.called(now, time(200));
        for (earliest, covered) in [(150, true), (201, false)] {
            let replaced = Replaced::new(now, Some(next.clone()), Some(time(earliest)));
            assert_eq!(revocations.covers(&replaced), covered, "{earliest}");
        }
    }

    /// The clock of this process is an hour ahead, so each new version seems to be older than the call.
    #[test]
    fn call_covers_what_is_replaced_until_its_end() {
        let ttl = Duration::from_secs(10);
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000);
        let next = Version::numbered(2).with_created_at(wall - Duration::from_secs(3_500));
        let replaced = |at| Replaced::new(at, Some(next.clone()), None);
        let mut revocations = Revocations::default();
        assert_eq!(revocations.call_ends_at(ttl), None);
        revocations.called(now, wall);
        assert_eq!(revocations.call_ends_at(ttl), Some(now + second * 100));
        let end = now + second * 3600;
        assert!(revocations.covers(&replaced(end)));
        revocations.end_call(end);
        assert_eq!(revocations.call_ends_at(ttl), None);
        assert!(revocations.covers(&replaced(end)));
        assert!(!revocations.covers(&replaced(end + second)));
        revocations.called(end, wall);
        assert!(revocations.covers(&replaced(end + second)));
    }
}
