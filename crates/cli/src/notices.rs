//! Notices: what the sources contain in addition to readable keys.

use std::time::Duration;

use secretwell::backend::{Notice, NoticeKind};
use secretwell::{Error, KeyPrefix, Origin, SecretProvider};
use tokio::time::timeout;

use crate::exit::{Failure, Reason};
use crate::fetch::{FetchedSecret, KeySelection, fetch};

/// The maximum number of warnings. Further notices are only counted.
const MAX_WARNINGS: usize = 20;
/// How long a command waits for notices that its result does not depend on.
const PATIENCE: Duration = Duration::from_secs(1);

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
    let notices = read_briefly(provider).await.into_iter();
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

/// Returns the notices of the sources.
///
/// # Errors
/// Returns the error of a source that cannot be listed.
pub(crate) async fn read(provider: &dyn SecretProvider) -> Result<Vec<Notice>, Error> {
    provider.notices(&KeyPrefix::root()).await
}

/// Returns the notices of the sources, or none if they cannot be read within 1 s.
pub(crate) async fn read_briefly(provider: &dyn SecretProvider) -> Vec<Notice> {
    match timeout(PATIENCE, read(provider)).await {
        Ok(Ok(notices)) => return notices,
        Ok(Err(error)) => {
            tracing::debug!(target: "secretwell::command", event = "notices_failed", %error, "the names that are not keys cannot be listed");
        }
        Err(_) => {
            tracing::warn!(target: "secretwell::command", event = "notices_timed_out", "the source did not list the secrets that have no key within 1 s; run `secretwell check` to list them");
        }
    }
    Vec::new()
}

/// Returns one line: `NAME from ORIGIN: message; hint`.
pub(crate) fn describe(notice: &Notice, provider: &dyn SecretProvider) -> String {
    let origin = origin(notice, provider);
    let subject = match notice.name.as_str() {
        "" => origin.to_string(),
        // White space at the ends would not be visible.
        name if name.contains(char::is_whitespace) => format!("`{name}` from {origin}"),
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

#[cfg(test)]
mod tests {
    use secretwell::{MemoryProvider, Secret, SecretKey};
    use tokio::time::Instant;

    use super::*;

    /// A source whose notices hang.
    #[derive(Debug)]
    struct Hanging(MemoryProvider);

    #[async_trait::async_trait]
    impl SecretProvider for Hanging {
        fn origin(&self) -> &Origin {
            self.0.origin()
        }

        async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
            self.0.get(key).await
        }

        async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
            self.0.list(prefix).await
        }

        async fn notices(&self, _: &KeyPrefix) -> Result<Vec<Notice>, Error> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn warnings_delay_a_command_by_at_most_one_second() {
        let provider = Hanging(MemoryProvider::from_iter([("A", "1")]));
        let start = Instant::now();
        let selection = KeySelection::All { require: vec![] };
        let fetched = fetch_and_warn(&provider, &selection, Duration::ZERO).await;
        assert_eq!(fetched.unwrap().len(), 1);
        assert_eq!(start.elapsed(), PATIENCE);
    }
}
