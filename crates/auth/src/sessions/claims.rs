//! The time claims of tokens, and random identifiers.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::TokenError;
use crate::hex::hex;

/// Accepted clock difference between the creator of a token and this host, in seconds.
pub(super) const CLOCK_TOLERANCE: f64 = 15.0;

/// The time claims of a token, in seconds since 1970.
#[derive(Default)]
pub(super) struct TimeClaims {
    issued_at: Option<TimeClaim>,
    not_before: Option<TimeClaim>,
    expires: Option<TimeClaim>,
}

/// A time, or `None` if the claim is not a number.
#[derive(Clone, Copy)]
struct TimeClaim(Option<f64>);

impl TimeClaim {
    /// `claim` is the text of the claim. `serde_json` can represent numbers in several ways, depending on the
    /// features that other crates enable, so a number is not deserialized from another type.
    fn parse(claim: &RawValue) -> Self {
        Self(serde_json::from_str(claim.get()).ok())
    }

    fn seconds(self) -> Result<f64, TokenError> {
        self.0.ok_or(TokenError::Malformed)
    }
}

impl TimeClaims {
    /// Parses the claims with the texts that `claim` returns for their names.
    #[cfg(feature = "betterauth")]
    pub(super) fn new<'a>(claim: impl Fn(&str) -> Option<&'a RawValue>) -> Self {
        let time = |name| claim(name).map(TimeClaim::parse);
        Self {
            issued_at: time("iat"),
            not_before: time("nbf"),
            expires: time("exp"),
        }
    }

    /// Returns whether the token was created after `now`. It is valid, as in the packages.
    #[cfg(feature = "authjs")]
    pub(super) fn is_from_future(&self, now: f64) -> bool {
        let created = self.issued_at.and_then(|time| time.seconds().ok());
        created.is_some_and(|created| created > now + CLOCK_TOLERANCE)
    }

    /// Checks that the token is valid at `now`, and returns its expiry.
    ///
    /// A token without `exp` is valid, as in the packages.
    #[cfg(feature = "authjs")]
    pub(super) fn check(&self, now: f64) -> Result<Option<SystemTime>, TokenError> {
        let end = self.check_with(now + CLOCK_TOLERANCE, |end| end <= now - CLOCK_TOLERANCE)?;
        Ok(end.and_then(system_time))
    }

    /// Checks that the token starts at `latest_start` or earlier and that it has not expired according to
    /// `is_expired`. Returns its expiry in seconds since 1970.
    pub(super) fn check_with(
        &self,
        latest_start: f64,
        is_expired: impl FnOnce(f64) -> bool,
    ) -> Result<Option<f64>, TokenError> {
        let seconds = |time: Option<TimeClaim>| time.map(TimeClaim::seconds).transpose();
        seconds(self.issued_at)?;
        if seconds(self.not_before)?.is_some_and(|start| start > latest_start) {
            return Err(TokenError::NotYetValid);
        }
        match seconds(self.expires)? {
            Some(end) if is_expired(end) => Err(TokenError::Expired),
            end => Ok(end),
        }
    }

    /// Returns the time between `iat` and `exp`, if the token has both, in this order.
    #[cfg(feature = "authjs")]
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let issued_at = self.issued_at?.seconds().ok()?;
        let expires = self.expires?.seconds().ok()?;
        let lifetime = Duration::try_from_secs_f64(expires - issued_at).ok()?;
        (lifetime >= Duration::from_secs(1)).then_some(lifetime)
    }
}

/// Implemented by hand, because a derived implementation rejects duplicate names. As in JavaScript, the
/// last of them is used. Only JSON text can be deserialized.
impl<'de> Deserialize<'de> for TimeClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "lowercase")]
        enum Name {
            Exp,
            Iat,
            Nbf,
            Other(IgnoredAny),
        }

        struct ClaimsVisitor;

        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = TimeClaims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<TimeClaims, M::Error> {
                let mut times = TimeClaims::default();
                while let Some(name) = map.next_key()? {
                    match name {
                        Name::Exp => times.expires = Some(TimeClaim::parse(map.next_value()?)),
                        Name::Nbf => times.not_before = Some(TimeClaim::parse(map.next_value()?)),
                        Name::Iat => times.issued_at = Some(TimeClaim::parse(map.next_value()?)),
                        Name::Other(_) => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(times)
            }
        }

        deserializer.deserialize_map(ClaimsVisitor)
    }
}

/// Returns the time `seconds` after 1970, or `None` if it is before 1970 or too late.
pub(super) fn system_time(seconds: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    UNIX_EPOCH.checked_add(since)
}

/// Returns the seconds since 1970 without their fraction, as the packages do.
#[allow(clippy::cast_precision_loss)]
pub(super) fn whole_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as f64
}

/// Returns a random UUID (version 4).
pub(super) fn random_uuid() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| TokenError::Malformed)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}
