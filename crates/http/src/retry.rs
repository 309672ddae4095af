//! Waiting times between the attempts of one call.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// The longest wait before round 0. It doubles with each further round, up to [`CAP`].
const BASE: Duration = Duration::from_millis(100);
/// The longest wait before any round. It is short, so that a completed failover is detected within a second.
const CAP: Duration = Duration::from_secs(1);
/// The longest wait that a `Retry-After` header can request. Longer waits are shortened to it.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Returns the wait before round `round`; the second round is 1. The backoff is exponential with jitter,
/// so that a fleet whose requests failed together does not retry together.
pub(crate) fn backoff(round: u32) -> Duration {
    let longest = BASE.saturating_mul(1 << round.min(10)).min(CAP);
    // At least a quarter of it: a server that rejects requests at once must not be flooded.
    longest.mul_f64(0.25 + 0.75 * fastrand::f64())
}

/// Returns the wait that the `Retry-After` header requests, in either of its two forms: a number of
/// seconds or a date. A date is compared with the `Date` header, because the clocks of both machines can differ.
///
/// Returns `None` if the header is missing or invalid, or if it requests no wait, such as a date in the past.
/// The result is at most one hour.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) if seconds > MAX_RETRY_AFTER.as_secs_f64() => MAX_RETRY_AFTER,
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(server_time(headers).unwrap_or_else(SystemTime::now))
            .ok()?,
    };
    Some(wait.min(MAX_RETRY_AFTER)).filter(|wait| !wait.is_zero())
}

/// Returns the time in the `Date` header, or `None` if the header is missing or invalid.
pub(crate) fn server_time(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_one_second_with_jitter() {
        let mut waits = Vec::new();
        for round in 0..40 {
            let wait = backoff(round);
            assert!((BASE / 4..=CAP).contains(&wait), "{round}: {wait:?}");
            waits.push(wait);
        }
        assert!(waits[10..].iter().any(|wait| *wait != waits[10]));
    }

    #[test]
    fn retry_after_is_parsed_in_both_forms() {
        let parse = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(parse("2"), Some(Duration::from_secs(2)));
        assert_eq!(parse("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(parse("99999999999999999999"), Some(MAX_RETRY_AFTER));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        assert!((55..=60).contains(&parse(&soon).unwrap().as_secs()));
        let past = "Wed, 21 Oct 2015 07:28:00 GMT";
        for unusable in ["", "-1", "0", "0.0", "-0", "1e-99", "soon", "NaN", past] {
            assert_eq!(parse(unusable), None, "{unusable}");
        }
    }

    #[test]
    fn date_in_retry_after_is_on_the_clock_of_the_server() {
        let date = |time| httpdate::fmt_http_date(time).parse().unwrap();
        let now = SystemTime::now();
        for server in [
            now - Duration::from_secs(7200),
            now + Duration::from_secs(7200),
        ] {
            let until = server + Duration::from_secs(30);
            let headers = HeaderMap::from_iter([(DATE, date(server)), (RETRY_AFTER, date(until))]);
            assert_eq!(retry_after(&headers), Some(Duration::from_secs(30)));
        }
    }
}
