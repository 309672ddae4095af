//! What a client is told: as little as possible.

use std::fmt;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::NotReady;

/// An HTTP answer in place of the one that was asked for. Its body is generic JSON, the same for
/// every reason; the reason is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    status: StatusCode,
    retry_after: Option<u64>,
}

impl Rejection {
    /// 401: the client is not, or no longer, logged in.
    pub fn unauthorized() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            retry_after: None,
        }
    }

    /// 500: the service is not set up right, and no waiting will help.
    pub fn misconfigured() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            retry_after: None,
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn body(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => r#"{"error":"unauthorized"}"#,
            StatusCode::SERVICE_UNAVAILABLE => r#"{"error":"temporarily unavailable"}"#,
            _ => r#"{"error":"server configuration"}"#,
        }
    }

    /// The answer with a body of any type that static text converts into, and itself among the
    /// response's extensions.
    pub fn into_http<B: From<&'static str>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// 503 with `Retry-After` when it may pass by itself, 500 when it will not.
impl From<&NotReady> for Rejection {
    fn from(failure: &NotReady) -> Self {
        if !failure.is_temporary() {
            return Self::misconfigured();
        }
        let wait = failure.retry_after();
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(seconds),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::{Error, ErrorKind};

    use super::*;

    fn answer(kind: ErrorKind) -> Response<String> {
        let failure = NotReady::new(vec![Error::new(kind, "the reason")], None);
        Rejection::from(&failure).into_http()
    }

    #[test]
    fn an_outage_is_503_and_a_bad_set_up_is_500_and_neither_says_why() {
        let down = answer(ErrorKind::Unavailable);
        assert_eq!(down.status(), 503);
        assert_eq!(down.headers()[RETRY_AFTER], "1");
        let absent = answer(ErrorKind::NotFound);
        assert_eq!(absent.status(), 500);
        assert!(!absent.headers().contains_key(RETRY_AFTER));
        for response in [down, absent] {
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert!(!response.body().contains("reason"));
        }
    }
}
