//! A single read of all selected secrets, with optional retries until they are available.

use std::time::Duration;

use secretwell::backend::refuse_encrypted;
use secretwell::{Error, ErrorKind, KeyPrefix, Secret, SecretKey, SecretProvider};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::exit::Failure;

/// The pause before the first retry. Each further pause is 1.5 times as long, up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// How long an attempt can take after the end of the wait.
const LAST_ATTEMPT: Duration = Duration::from_secs(2);
/// The time between two warnings that the command is still waiting.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Which keys to read, and which of them must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySelection {
    /// These keys, all of which are required.
    Only(Vec<SecretKey>),
    /// All keys that the sources list. The keys in `require` are required.
    All { require: Vec<SecretKey> },
}

impl KeySelection {
    /// Returns the same selection with `keys` as further keys to read, all of which are required.
    pub(crate) fn including<'a>(self, keys: impl IntoIterator<Item = &'a SecretKey>) -> Self {
        let (mut selected, is_only) = match self {
            Self::Only(selected) => (selected, true),
            Self::All { require } => (require, false),
        };
        for key in keys {
            if !selected.contains(key) {
                selected.push(key.clone());
            }
        }
        match is_only {
            true => Self::Only(selected),
            false => Self::All { require: selected },
        }
    }

    /// Returns the keys that must exist.
    pub(crate) fn required(&self) -> &[SecretKey] {
        match self {
            Self::Only(required) | Self::All { require: required } => required,
        }
    }
}

/// A secret that was read, and its key.
#[derive(Debug, Clone)]
pub(crate) struct FetchedSecret {
    pub(crate) key: SecretKey,
    pub(crate) secret: Secret,
}

/// Fetches the selected secrets.
///
/// If keys are missing or a source is temporarily unavailable, the fetch is retried with backoff until
/// `wait` has passed. A change notification starts the next attempt immediately, unless a source has
/// requested a longer wait. The first attempt ends with the time limits of the sources. Each further attempt also ends
/// with the wait, at most 2 s later.
///
/// # Errors
/// Reports the problems of all keys in the last attempt.
pub(crate) async fn fetch(
    provider: &dyn SecretProvider,
    selection: &KeySelection,
    wait: Duration,
) -> Result<Vec<FetchedSecret>, Failure> {
    let deadline = Instant::now() + wait;
    let mut changes = (!wait.is_zero()).then(|| provider.watch()).flatten();
    let mut pause = FIRST_BACKOFF;
    let mut attempt = 0_u64;
    let mut next_report = Instant::now();
    let mut last_problems = Vec::new();
    loop {
        attempt += 1;
        let result = match last_problems.is_empty() {
            true => fetch_once(provider, selection).await,
            false => {
                let limit = deadline.max(Instant::now() + LAST_ATTEMPT);
                let fetch = timeout_at(limit, fetch_once(provider, selection)).await;
                // The source hangs. The problems of the last attempt contain the reason.
                fetch.unwrap_or(Err(last_problems))
            }
        };
        let problems = match result {
            Ok(fetched) => return Ok(fetched),
            Err(problems) => problems,
        };
        let is_retryable = |error: &Error| error.is_not_found() || error.is_temporary();
        let remaining = deadline.saturating_duration_since(Instant::now());
        let requested = problems.iter().filter_map(Error::retry_after).max();
        let requested = requested.unwrap_or_default();
        // All problems must be solved, and one of them cannot be before the deadline.
        let is_too_late = requested > remaining;
        if remaining.is_zero() || is_too_late || !problems.iter().all(is_retryable) {
            return Failure::from_errors(&problems).map_or(Ok(Vec::new()), Err);
        }
        let limit = problems.iter().filter_map(Error::backoff_limit).min();
        let pause_now = pause.min(limit.unwrap_or(MAX_BACKOFF)).min(remaining);
        match Instant::now() >= next_report {
            true => {
                next_report = Instant::now() + REPORT_INTERVAL;
                warn_waiting(&problems, attempt, remaining);
            }
            false => {
                for problem in &problems {
                    tracing::info!(target: "secretwell::command", event = "waiting", attempt, "waiting: {problem}");
                }
            }
        }
        sleep(requested).await;
        let notified = async {
            match &mut changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        // The next attempt starts after a notification or after the pause, whichever is first.
        if let Ok(None) = timeout(pause_now.saturating_sub(requested), notified).await {
            changes = None;
        }
        pause = (pause * 3 / 2).min(MAX_BACKOFF);
        last_problems = problems;
    }
}

/// Warns that the program is not started yet, with the first reason.
fn warn_waiting(problems: &[Error], attempt: u64, remaining: Duration) {
    let Some(first) = problems.first() else {
        return;
    };
    let others = match problems.len() - 1 {
        0 => String::new(),
        1 => " (and 1 other problem)".into(),
        others => format!(" (and {others} other problems)"),
    };
    let seconds = remaining.as_secs_f32().ceil();
    tracing::warn!(target: "secretwell::command", event = "waiting", attempt, "waiting for at most {seconds} s: {first}{others}");
}

/// Fetches the selected secrets without retries. If this fails, the list of errors is not empty.
async fn fetch_once(
    provider: &dyn SecretProvider,
    selection: &KeySelection,
) -> Result<Vec<FetchedSecret>, Vec<Error>> {
    let (keys, required) = match selection {
        KeySelection::Only(keys) => (keys.clone(), keys),
        KeySelection::All { require } => {
            let listed = list_keys(provider, require).await;
            (listed.map_err(|error| vec![error])?, require)
        }
    };
    let results = read(provider, &keys).await;
    let mut fetched = Vec::with_capacity(keys.len());
    let mut problems = Vec::new();
    for (key, result) in keys.into_iter().zip(results) {
        let is_required = required.contains(&key);
        match result {
            Ok(secret) if is_required && secret.value.is_empty() => {
                problems.push(empty_value(provider, &key, &secret));
            }
            Ok(secret) => fetched.push(FetchedSecret { key, secret }),
            // The secret was deleted after it was listed.
            Err(error) if error.is_not_found() && !is_required => {}
            Err(error) => problems.push(error),
        }
    }
    match problems.is_empty() {
        true => Ok(fetched),
        false => Err(problems),
    }
}

/// Reads `keys` in one batch.
pub(crate) async fn read(
    provider: &dyn SecretProvider,
    keys: &[SecretKey],
) -> Vec<Result<Secret, Error>> {
    let results = provider.get_many(keys).await;
    let usable = |(key, result): (_, Result<_, _>)| usable(provider, key, result?);
    keys.iter().zip(results).map(usable).collect()
}

/// Returns `secret`, unless a tool left it encrypted. Such a value is not yet the secret.
pub(crate) fn usable(
    provider: &dyn SecretProvider,
    key: &SecretKey,
    secret: Secret,
) -> Result<Secret, Error> {
    let origin = secret.origin.as_ref().unwrap_or(provider.origin()).clone();
    refuse_encrypted(secret).map_err(|error| error.with_origin(&origin).with_key(key))
}

/// Returns all keys that the sources list, and the keys of `require` that are not listed.
///
/// # Errors
/// Fails if the sources cannot be listed, or with `NotFound` if the result would be empty.
pub(crate) async fn list_keys(
    provider: &dyn SecretProvider,
    require: &[SecretKey],
) -> Result<Vec<SecretKey>, Error> {
    let listed = provider.list(&KeyPrefix::root()).await;
    let mut all = listed.map_err(|error| match error.kind() {
        ErrorKind::Denied | ErrorKind::Unsupported => with_alternative(
            error,
            "set the keys to read with --only, or with --require of `check` and `doctor`",
        ),
        _ => error,
    })?;
    for key in require {
        if !all.contains(key) {
            all.push(key.clone());
        }
    }
    if all.is_empty() {
        // For example, the file does not exist.
        provider.health().await?;
        return Err(
            Error::new(ErrorKind::NotFound, "the source contains no secrets")
                .with_origin(provider.origin())
                .with_hint("check the path, or write a secret there"),
        );
    }
    Ok(all)
}

/// Adds another next step to the hint of an error.
pub(crate) fn with_alternative(error: Error, step: &str) -> Error {
    let hint = match error.hint() {
        Some(hint) => format!("{hint}, or {step}"),
        None => step.to_owned(),
    };
    error.with_hint(hint)
}

pub(crate) fn empty_value(
    provider: &dyn SecretProvider,
    key: &SecretKey,
    secret: &Secret,
) -> Error {
    let origin = secret.origin.as_ref().unwrap_or(provider.origin());
    // A secret that is late can be empty at first.
    let error = Error::empty_value().temporary();
    error
        .with_origin(origin)
        .with_key(key)
        .with_hint("set a value, or remove the key from the required keys")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use secretwell::backend::ChangeStream;
    use secretwell::{MemoryProvider, Origin};

    use super::*;
    use crate::exit::Reason;

    fn key(text: &str) -> SecretKey {
        SecretKey::parse(text).unwrap()
    }

    #[test]
    fn hint_of_a_source_is_kept_beside_another_step() {
        let error = Error::new(ErrorKind::Denied, "no").with_hint("check the mount");
        let text = with_alternative(error, "set the keys").to_string();
        assert!(
            text.ends_with("; check the mount, or set the keys"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_problems_are_reported_together_and_late_secrets_are_fetched() {
        let memory = MemoryProvider::from_iter([("EMPTY", "")]);
        let selection = KeySelection::Only(vec![key("A"), key("EMPTY")]);
        let problems = fetch_once(&memory, &selection).await.unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let failure = fetch(&memory, &selection, Duration::from_secs(9)).await;
        assert_eq!(failure.unwrap_err().reason(), Reason::Missing);

        let write_later = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            memory.set("A", "1").unwrap();
            memory.set("EMPTY", "2").unwrap();
        };
        let fetch = fetch(&memory, &selection, Duration::from_secs(60));
        let (fetched, ()) = tokio::join!(fetch, write_later);
        assert_eq!(fetched.unwrap().len(), 2);
    }

    /// A source that fails with `error` until `ready`, and counts its reads.
    #[derive(Debug)]
    struct Late {
        error: Error,
        ready: Instant,
        reads: AtomicU32,
        secrets: MemoryProvider,
    }

    impl Late {
        fn new(error: Error, delay: u64) -> Self {
            Self {
                error,
                ready: Instant::now() + Duration::from_secs(delay),
                reads: AtomicU32::new(0),
                secrets: MemoryProvider::from_iter([("A", "1")]),
            }
        }
    }

    #[async_trait]
    impl SecretProvider for Late {
        fn origin(&self) -> &Origin {
            self.secrets.origin()
        }

        async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            match Instant::now() < self.ready {
                true => Err(self.error.clone()),
                false => self.secrets.get(key).await,
            }
        }

        fn watch(&self) -> Option<ChangeStream> {
            self.secrets.watch()
        }
    }

    /// Fetches the key `A` and returns the result and the seconds that it took.
    async fn fetch_late(source: &Late, wait: u64) -> (Result<(), Failure>, u64) {
        let start = Instant::now();
        let selection = KeySelection::Only(vec![key("A")]);
        let result = fetch(source, &selection, Duration::from_secs(wait)).await;
        (result.map(drop), start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn every_temporary_failure_is_retried_until_the_deadline() {
        for kind in [
            ErrorKind::Unavailable,
            ErrorKind::Timeout,
            ErrorKind::RateLimited { retry_after: None },
        ] {
            let error = Error::new(kind, "the gateway has responded with 502");
            let source = Late::new(error.clone(), 45);
            let (result, seconds) = fetch_late(&source, 60).await;
            result.unwrap();
            assert!((45..=55).contains(&seconds), "{kind:?}: {seconds} s");
            // The last reason is reported.
            let (result, seconds) = fetch_late(&Late::new(error, 45), 30).await;
            assert!(result.unwrap_err().problems().concat().contains("502"));
            assert_eq!(seconds, 30, "{kind:?}");
        }
        // For example, the file of the login is not there yet.
        let login = Error::new(ErrorKind::Unauthenticated, "no credential file");
        let (result, _) = fetch_late(&Late::new(login.clone().temporary(), 45), 60).await;
        result.unwrap();
        // A failure that is permanent is reported at once.
        let source = Late::new(login, 45);
        let (result, seconds) = fetch_late(&source, 60).await;
        result.unwrap_err();
        assert_eq!((seconds, source.reads.into_inner()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn source_that_hangs_does_not_extend_the_wait() {
        /// A source that responds slowly to the first read, and never to the others.
        #[derive(Debug)]
        struct Hanging(Late);

        #[async_trait]
        impl SecretProvider for Hanging {
            fn origin(&self) -> &Origin {
                self.0.origin()
            }

            async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
                if self.0.reads.load(Ordering::Relaxed) > 0 {
                    return std::future::pending().await;
                }
                sleep(Duration::from_secs(20)).await;
                self.0.get(key).await
            }
        }

        for (wait, expected) in [(0, 20), (5, 20), (30, 30)] {
            let error = Error::new(ErrorKind::Unavailable, "refused");
            let source = Hanging(Late::new(error, 60));
            let start = Instant::now();
            let selection = KeySelection::Only(vec![key("A")]);
            let result = fetch(&source, &selection, Duration::from_secs(wait)).await;
            assert!(result.unwrap_err().problems().concat().contains("refused"));
            assert_eq!(start.elapsed().as_secs(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requested_pause_is_respected() {
        let limited = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            Error::new(ErrorKind::RateLimited { retry_after }, "too many requests")
        };
        let source = Late::new(limited(40), 30);
        let change = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            source.secrets.set("B", "1").unwrap();
        };
        let ((result, seconds), ()) = tokio::join!(fetch_late(&source, 60), change);
        result.unwrap();
        // A change during the pause does not start another attempt.
        assert_eq!((seconds, source.reads.load(Ordering::Relaxed)), (40, 2));
        // The pause ends after the deadline, so waiting would be useless.
        let (result, seconds) = fetch_late(&Late::new(limited(40), 30), 20).await;
        result.unwrap_err();
        assert_eq!(seconds, 0);
    }

    #[tokio::test]
    async fn required_values_must_not_be_empty_and_listed_values_can_be() {
        let memory = MemoryProvider::from_iter([("EMPTY", ""), ("A", "1")]);
        let all = |require| KeySelection::All { require };
        assert_eq!(fetch_once(&memory, &all(vec![])).await.unwrap().len(), 2);
        fetch_once(&memory, &all(vec![key("B")])).await.unwrap_err();
        let empty = fetch_once(&MemoryProvider::new(), &all(vec![])).await;
        assert!(empty.unwrap_err()[0].is_not_found());
    }

    #[tokio::test]
    async fn encrypted_value_is_refused_by_name() {
        let memory = MemoryProvider::from_iter([("A", "ENC[AES256_GCM,data:c4n4ry]")]);
        for selection in [
            KeySelection::Only(vec![key("A")]),
            KeySelection::All { require: vec![] },
        ] {
            let failure = fetch(&memory, &selection, Duration::ZERO)
                .await
                .unwrap_err();
            assert_eq!(failure.reason(), Reason::Invalid);
            let problem = failure.problems().concat();
            assert!(problem.starts_with("A from memory://"), "{problem}");
            assert!(problem.contains("encrypted by SOPS"), "{problem}");
            assert!(!problem.contains("c4n4ry"), "{problem}");
        }
    }
}
