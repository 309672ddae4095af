//! A `tracing` subscriber that records all log output and searches it for canaries.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use tracing::Dispatch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::Canary;

/// A `tracing` subscriber that stores every event, every span and every later record of a span as
/// text. It has no filter: it stores all levels and all crates.
///
/// Messages that are written through the `log` crate are not stored.
///
/// ```
/// use secretwell_testkit::{Canary, CanaryLog};
///
/// let (canary, log) = (Canary::new("value"), CanaryLog::install());
/// tracing::debug!(value = ?canary.value(), "read");
/// assert!(log.contains("read"));
/// log.assert_clean(&[&canary]);
/// ```
pub struct CanaryLog {
    lines: Lines,
    _guard: Option<DefaultGuard>,
}

/// A second subscriber that disables a cache in `tracing`.
///
/// With a single subscriber, `tracing` queries only the thread that reaches an event first, and caches
/// its interest for all threads. With two subscribers, it queries each of them.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl CanaryLog {
    /// Records the output of the current thread until the returned log is dropped. In a current-thread
    /// runtime this includes all tasks, but not blocking threads.
    pub fn install() -> Self {
        LazyLock::force(&SECOND);
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        Self {
            lines,
            _guard: Some(tracing::subscriber::set_default(subscriber)),
        }
    }

    /// Records the output of all threads that have no subscriber of their own, until the process
    /// exits. All calls share one log.
    ///
    /// # Panics
    /// Panics if the process already has another global subscriber.
    pub fn global() -> Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let lines = LINES.get_or_init(|| {
            let lines = Lines::default();
            let subscriber = tracing_subscriber::registry().with(lines.clone());
            tracing::subscriber::set_global_default(subscriber)
                .expect("the process has no global subscriber yet");
            lines
        });
        Self {
            lines: lines.clone(),
            _guard: None,
        }
    }

    /// Returns the recorded output, with one line per event, span or record.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Returns the lines that have been recorded so far.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.0.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the lines that contain `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| line.contains(text));
        lines
    }

    /// Returns whether a line contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }

    /// Checks that no line contains one of the canaries.
    ///
    /// # Panics
    /// Panics if a line contains one.
    #[track_caller]
    pub fn assert_clean(&self, canaries: &[&Canary]) {
        let text = self.text();
        for canary in canaries {
            canary.assert_not_in(&text, "the log");
        }
    }
}

impl fmt::Debug for CanaryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CanaryLog({} lines)", self.lines().len())
    }
}

impl Lines {
    fn push(&self, metadata: Option<&Metadata<'_>>, what: &str, write: impl FnOnce(&mut Line)) {
        let mut line = Line(what.to_owned());
        if let Some(metadata) = metadata {
            let (level, target) = (metadata.level(), metadata.target());
            line.0 = format!("{level} {target} {what} {}", metadata.name());
        }
        write(&mut line);
        let lines = self.0.lock();
        lines.unwrap_or_else(PoisonError::into_inner).push(line.0);
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.push(Some(attributes.metadata()), "span", |line| {
            attributes.record(line);
        });
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.push(None, "record", |line| values.record(line));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.push(Some(event.metadata()), "event", |line| event.record(line));
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    // Unquoted, so that the search finds the raw text.
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        let mut next = Some(value);
        while let Some(error) = next {
            let _ = write!(self.0, " {}={error} {error:?}", field.name());
            next = error.source();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_spans_records_and_errors_are_recorded() {
        let log = CanaryLog::install();
        let span = tracing::trace_span!("fetch", key = "A", outcome = tracing::field::Empty);
        span.in_scope(|| tracing::trace!(bytes = 3, "read it"));
        span.record("outcome", "good");
        let source = std::io::Error::other("reset by peer");
        let error = secretwell_core::Error::new(
            secretwell_core::ErrorKind::Unavailable,
            "connection refused",
        )
        .with_source(source);
        tracing::warn!(error = &error as &(dyn StdError + 'static), "failed");
        for text in [
            "key=A",
            "outcome=good",
            "read it",
            "bytes=3",
            "connection refused",
            "reset by peer",
        ] {
            assert!(log.contains(text), "{text} in {}", log.text());
        }
        assert_eq!(log.lines().len(), 4);
    }

    #[test]
    fn an_event_is_recorded_after_another_thread_reached_it_first() {
        fn log_event() {
            tracing::info!("logged twice");
        }
        let log = CanaryLog::install();
        std::thread::spawn(log_event).join().unwrap();
        log_event();
        assert_eq!(log.lines_with("logged twice").len(), 1);
    }

    #[test]
    fn the_global_log_records_other_threads() {
        let log = CanaryLog::global();
        let canary = Canary::new("other thread");
        let text = canary.text().to_owned();
        std::thread::spawn(move || tracing::info!("{text}"))
            .join()
            .unwrap();
        assert!(CanaryLog::global().contains(canary.text()));
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            log.assert_clean(&[&canary]);
        }));
        assert!(found.is_err());
    }

    #[test]
    #[should_panic(expected = "the log leaks the canary `value`")]
    fn a_leak_in_a_log_field_is_found() {
        let (canary, log) = (Canary::new("value"), CanaryLog::install());
        tracing::trace!(response = ?canary.text().as_bytes());
        log.assert_clean(&[&canary]);
    }
}
