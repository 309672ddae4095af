//! Rejections: the responses to notifications that are not accepted.

use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// Why a notification is not accepted. The text is the body of the response, and contains nothing of the
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    /// The number of seconds after which the sender can try again.
    retry_after: Option<u64>,
}

impl Rejection {
    const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            retry_after: None,
        }
    }

    /// The request does not have the documented form.
    pub(crate) const fn malformed(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    /// The request is not signed, or its signature is not valid now.
    pub(crate) const fn unauthorized(reason: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, reason)
    }

    pub(crate) const fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "the method must be POST")
    }

    pub(crate) const fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
        )
    }

    pub(crate) const fn replayed() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "this notification was received before; sign another one with the current time",
        )
    }

    pub(crate) const fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than 64 KiB",
        )
    }

    pub(crate) const fn too_many(retry_after: u64) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many notifications within 5 minutes",
            )
        }
    }

    /// The signing secret cannot be read.
    pub(crate) const fn no_secret() -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the signature cannot be checked at the moment",
            )
        }
    }

    pub(crate) fn into_response(self) -> Response<String> {
        let mut response = Response::new(self.reason.to_owned());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}
