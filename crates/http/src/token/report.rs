//! Reports of logins through the facade `metrics`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use metrics::{Unit, histogram};
use secretwell_core::backend::source_label;
use secretwell_core::{Error, Origin};

/// Reports a login that took `took`. The recorder is code of others, so its panics are caught.
pub(super) fn logged_in(origin: &Origin, took: Duration, failure: Option<&Error>) {
    let outcome = match failure {
        None => "success",
        Some(error) if error.is_temporary() => "unavailable",
        Some(_) => "refused",
    };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        histogram!(
            description: "Logins of a remote backend.",
            unit: Unit::Seconds,
            "secretwell_login_duration_seconds",
            "source" => source_label(origin).to_owned(),
            "outcome" => outcome
        )
        .record(took);
    }));
}
