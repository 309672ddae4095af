//! Notices: what the sources contain in addition to readable keys.

use std::time::Duration;

use secretwell::backend::{Notice, NoticeKind};
use secretwell::{KeyPrefix, Origin, SecretProvider};

use crate::exit::{Failure, Reason};
use crate::fetch::{FetchedSecret, KeySelection, fetch};

/// The maximum number of warnings. Further notices are only counted.
const MAX_WARNINGS: usize = 20;

/// Fetches the selected secrets. If these are all that the sources list, also logs what a list leaves out.
///
/// # Errors
/// Returns the errors of the fetch.
pub(crate) async fn fetch_and_warn(
    provider: &dyn SecretProvider,
    selection: &KeySelection,
    wait: Duration,
) -> Result<Vec<FetchedSecret>, Failure> {
    let result = fetch(provider, selection, wait).await;
    let has_listed = match &result {
        Ok(_) => true,
        // For example, all keys are missing because their names are not valid keys.
        Err(failure) => failure.reason() <= Reason::Missing,
    };
    if matches!(selection, KeySelection::All { .. }) && has_listed {
        warn(provider).await;
    }
    result
}

/// Logs one warning for each secret that cannot be read or has no key.
pub(crate) async fn warn(provider: &dyn SecretProvider) {
    let notices = read(provider).await.into_iter();
    let mut notices = notices.filter(|notice| notice.kind != NoticeKind::ReadDifferently);
    for notice in notices.by_ref().take(MAX_WARNINGS) {
        let (kind, name) = (kind(notice.kind), &notice.name);
        let origin = origin(&notice, provider);
        let text = describe(&notice, provider);
        tracing::warn!(target: "secretwell::command", event = "secret_left_out", kind, name, %origin, "{text}");
    }
    let count = notices.count();
    if count > 0 {
        tracing::warn!(target: "secretwell::command", event = "secrets_left_out", count, "more secrets cannot be read; run `secretwell check` to list them");
    }
}

/// Returns the notices of the sources. A source that cannot be listed has none, because a read of its keys reports the
/// same error.
pub(crate) async fn read(provider: &dyn SecretProvider) -> Vec<Notice> {
    let notices = provider.notices(&KeyPrefix::root()).await;
    notices.unwrap_or_else(|error| {
        tracing::debug!(target: "secretwell::command", event = "notices_failed", %error, "the names that are not keys cannot be listed");
        Vec::new()
    })
}

/// Returns one line: `NAME from ORIGIN: message; hint`.
pub(crate) fn describe(notice: &Notice, provider: &dyn SecretProvider) -> String {
    let origin = origin(notice, provider);
    let subject = match notice.name.as_str() {
        "" => origin.to_string(),
        name => format!("{name} from {origin}"),
    };
    let hint = notice.hint.as_deref();
    let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("{subject}: {}{hint}", notice.message)
}

fn origin<'a>(notice: &'a Notice, provider: &'a dyn SecretProvider) -> &'a Origin {
    notice.origin.as_ref().unwrap_or(provider.origin())
}

fn kind(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::NotAKey => "not_a_key",
        NoticeKind::Unreadable => "unreadable",
        _ => "other",
    }
}
