//! Output on standard error: the log, failures and a progress message.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{LogArgs, LogFormat};
use crate::exit::Failure;

/// The delay before the first progress message, and the interval of its updates.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const CLEAR_LINE: &str = "\r\x1b[2K";
/// Whether a progress message is in the last line of the terminal.
static PROGRESS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Initializes logging. `verbose` is the number of `-v` options: 0 logs warnings, 1 info, 2 debug and 3 or
/// more trace.
pub(crate) fn init(verbose: u8, format: LogFormat) {
    let levels = Targets::new().with_default(match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    });
    // The command reports the failures that these targets warn about, so the warnings would be duplicates.
    let levels = match verbose {
        0 => levels
            .with_target("secretwell::resolver", LevelFilter::ERROR)
            .with_target("secretwell::http", LevelFilter::ERROR),
        _ => levels,
    };
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let no_color = !variable("NO_COLOR").is_empty() || variable("TERM") == "dumb";
    let lines = tracing_subscriber::fmt::layer()
        .with_target(verbose > 1)
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        .log_internal_errors(false)
        .with_writer(|| {
            clear_progress();
            std::io::stderr()
        });
    let log = match format {
        LogFormat::Text => lines.without_time().boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(levels))
        .init();
}

/// Reports the problems of a failure in the format of the log.
pub(crate) fn report_failure(failure: &Failure, format: LogFormat) {
    for problem in failure.problems() {
        match format {
            LogFormat::Text => write_stderr(&format!("secretwell: {problem}\n")),
            LogFormat::Json => {
                tracing::error!(target: "secretwell::command", event = "command_failed", "{problem}")
            }
        }
    }
}

/// Writes to standard error. Errors are ignored, because a closed or full standard error cannot be reported.
fn write_stderr(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

/// Awaits `work`. If it takes longer than a second and standard error is a terminal, a progress message is
/// shown there and updated every second.
pub(crate) async fn with_progress<T>(
    log: &LogArgs,
    message: impl FnOnce() -> String,
    work: impl Future<Output = T>,
) -> T {
    if log.log_format == LogFormat::Json || !std::io::stderr().is_terminal() {
        return work.await;
    }
    let start = Instant::now();
    let mut ticks = interval_at(start + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
    let mut message = Some(message);
    let mut text = None;
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            output = &mut work => {
                clear_progress();
                return output;
            }
            _ = ticks.tick() => {
                let text = text.get_or_insert_with(|| message.take().map(|message| message()).unwrap_or_default());
                let seconds = start.elapsed().as_secs();
                write_stderr(&format!("{CLEAR_LINE}secretwell: {text} ({seconds} s)"));
                PROGRESS_SHOWN.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Removes the progress message, if there is one.
fn clear_progress() {
    if PROGRESS_SHOWN.swap(false, Ordering::Relaxed) {
        write_stderr(CLEAR_LINE);
    }
}
