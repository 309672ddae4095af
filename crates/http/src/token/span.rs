//! The span of a login.

use secretwell_core::Origin;
use tracing::span::Id;
use tracing::{Span, field};

/// Creates the span of a login. It is not a child of the caller's span, because callers share a login.
pub(super) fn login_span(origin: &Origin, cause: Option<Id>) -> Span {
    let span = tracing::info_span!(
        target: "secretwell::http",
        parent: None,
        "secretwell.login",
        %origin,
        "error.type" = field::Empty,
        "otel.kind" = "client",
        "otel.status_code" = field::Empty,
    );
    span.follows_from(cause);
    span
}
