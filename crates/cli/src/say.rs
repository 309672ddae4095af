//! What is said on standard error: the log, and that something takes its time.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Log, LogFormat};
use crate::exit::Failure;

/// How long something may take without a word.
const PATIENCE: Duration = Duration::from_secs(1);
const CLEAR_LINE: &str = "\r\x1b[2K";

/// Sets up the log: warnings, or more when asked for.
pub(crate) fn start_log(verbose: u8, format: LogFormat) {
    let levels = Targets::new().with_default(match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    });
    // What these warn of, the command says in its own words.
    let levels = match verbose {
        0 => levels
            .with_target("secretwell_core", LevelFilter::ERROR)
            .with_target("secretwell_http", LevelFilter::ERROR),
        _ => levels,
    };
    let set = |name| std::env::var_os(name).unwrap_or_default();
    let no_colour = !set("NO_COLOR").is_empty() || set("TERM") == "dumb";
    let lines = tracing_subscriber::fmt::layer()
        .with_target(verbose > 1)
        .with_ansi(std::io::stderr().is_terminal() && !no_colour)
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => lines.without_time().boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(levels))
        .init();
}

/// Says what is wrong, in the form of the log.
pub(crate) fn report(failure: &Failure, format: LogFormat) {
    for problem in failure.problems() {
        match format {
            LogFormat::Text => error_text(&format!("secretwell: {problem}\n")),
            LogFormat::Json => {
                tracing::error!(target: "secretwell::command", event = "command_failed", "{problem}")
            }
        }
    }
}

/// Writes to standard error, which may be closed or full: then there is nobody to tell.
fn error_text(text: &str) {
    let mut error = std::io::stderr().lock();
    let _ = error
        .write_all(text.as_bytes())
        .and_then(|()| error.flush());
}

/// Does `work`; when it takes more than a second and somebody watches, says what is waited for.
pub(crate) async fn with_progress<T>(
    log: &Log,
    what: impl FnOnce() -> String,
    work: impl Future<Output = T>,
) -> T {
    if log.log_format == LogFormat::Json || !std::io::stderr().is_terminal() {
        return work.await;
    }
    let start = Instant::now();
    let mut ticks = interval_at(start + PATIENCE, PATIENCE);
    let mut what = Some(what);
    let mut text = None;
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                if text.is_some() {
                    error_text(CLEAR_LINE);
                }
                return done;
            }
            _ = ticks.tick() => {
                let text = text.get_or_insert_with(|| what.take().map(|what| what()).unwrap_or_default());
                let seconds = start.elapsed().as_secs();
                error_text(&format!("{CLEAR_LINE}secretwell: {text} ({seconds} s)"));
            }
        }
    }
}
