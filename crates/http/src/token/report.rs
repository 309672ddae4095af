//! Reports of logins through the facade `metrics`. The recorder is code of others, so its panics are caught.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use metrics::{Unit, gauge, histogram};
use secretwell_core::backend::source_label;
use secretwell_core::{Error, Origin};
use tokio::time::Instant;

/// The time between two reports of the remaining lifetime, the same as that of a resolver's reports.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reports a login that took `took`.
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

/// Reports the remaining lifetime of a login's token until the task is aborted or `expiry` returns `None`. `expiry`
/// returns when the token expires, if there is a token with a known expiry.
pub(super) async fn remaining_lifetime(
    origin: Origin,
    expiry: impl Fn() -> Option<Option<Instant>>,
) {
    let lifetime = Lifetime(origin);
    while let Some(expires) = expiry() {
        let remaining = expires.map(|expires| expires.saturating_duration_since(Instant::now()));
        lifetime.report(remaining);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The gauge of a login. It is not a number after this is dropped, because nobody keeps it up to date.
struct Lifetime(Origin);

impl Lifetime {
    fn report(&self, remaining: Option<Duration>) {
        let remaining = remaining.map_or(f64::NAN, |remaining| remaining.as_secs_f64());
        let _ = catch_unwind(AssertUnwindSafe(|| {
            gauge!(
                description: "Remaining lifetime of the token of a login.",
                unit: Unit::Seconds,
                "secretwell_login_remaining_seconds",
                "source" => source_label(&self.0).to_owned()
            )
            .set(remaining);
        }));
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        self.report(None);
    }
}
