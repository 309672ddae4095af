//! How long to wait within a call.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The first wait, and the longest: short enough that a failover is noticed within a second.
const BASE: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(1);
/// The longest that a server is believed.
const LONGEST: Duration = Duration::from_secs(3600);

/// The wait before round `round`, the second being 1: anything up to twice the one before, so that a
/// fleet that failed together does not come back together.
pub(crate) fn wait(round: u32) -> Duration {
    let most = BASE.saturating_mul(1 << round.min(10)).min(CAP);
    // Not all the way down to nothing: a server that refuses at once would be hammered.
    most.mul_f64(0.25 + 0.75 * fastrand::f64())
}

/// How long the answer asks to wait, in either of the two forms: seconds, or a date. A date that has
/// passed is no wait; what makes no sense is none at all; the longest that is believed is an hour.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) if seconds > LONGEST.as_secs_f64() => LONGEST,
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_second_and_differ() {
        let mut waits = Vec::new();
        for round in 0..40 {
            let wait = wait(round);
            assert!((BASE / 4..=CAP).contains(&wait), "{round}: {wait:?}");
            waits.push(wait);
        }
        assert!(waits[10..].iter().any(|wait| *wait != waits[10]));
    }

    #[test]
    fn a_stated_wait_is_read_in_both_forms() {
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(asked("2"), Some(Duration::from_secs(2)));
        assert_eq!(asked("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(asked("99999999999999999999"), Some(LONGEST));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        assert!((55..=60).contains(&asked(&soon).unwrap().as_secs()));
        for nonsense in ["", "-1", "soon", "NaN"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }
}
