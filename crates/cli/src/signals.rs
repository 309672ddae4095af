//! Signals: their names, and the signals that a supervisor receives.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use signal_hook::low_level::unregister;
use signal_hook::{SigId, flag};
use tokio::sync::mpsc;

/// A signal, parsed from a name such as `HUP` or `SIGHUP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(pub(crate) process::Signal);

const NAMES: [(&str, process::Signal); 8] = [
    ("HUP", process::Signal::HUP),
    ("INT", process::Signal::INT),
    ("QUIT", process::Signal::QUIT),
    ("TERM", process::Signal::TERM),
    ("USR1", process::Signal::USR1),
    ("USR2", process::Signal::USR2),
    ("WINCH", process::Signal::WINCH),
    ("KILL", process::Signal::KILL),
];

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let entry = NAMES.iter().find(|(known, _)| *known == name);
        entry.map(|(_, signal)| Self(*signal)).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("unknown signal, expected one of {}", names.join(", "))
        })
    }
}

/// What a received signal means for a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalEvent {
    /// A child changed its state.
    ChildChanged,
    /// The signal must be forwarded to the program.
    Forward(process::Signal),
    /// The user interrupted at the terminal. The terminal has sent the same signal to the program.
    TerminalInterrupt,
}

/// Handles the signals of this process from now on, and returns them as events.
///
/// Signals that this process was started to ignore, as by `nohup`, are not handled. The program inherits
/// this and ignores them too. Signals of debuggers and of the kernel keep their default action.
///
/// # Errors
/// Fails if the signal handlers or the thread cannot be created.
pub(crate) fn listen() -> io::Result<mpsc::UnboundedReceiver<SignalEvent>> {
    let ignored = ignored_signals();
    let handled = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
    let handled = handled
        .into_iter()
        .filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = SignalsInfo::<WithOrigin>::new(handled.chain([SIGCHLD]))?;
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let received = signals.forever();
            for event in received.filter_map(|origin| classify(origin.signal, origin.cause)) {
                if sender.send(event).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// Returns the signals that this process ignores as a bit mask. Returns 0 on systems without
/// `/proc/self/status`.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// Makes this process exit on TERM and INT if its process ID is 1, until the returned guard is dropped.
///
/// The kernel discards these signals for the first process of a container unless it handles them. Other
/// processes exit by default, so nothing is changed for them.
pub(crate) fn exit_on_signal_as_init() -> InitSignalGuard {
    let is_init = process::getpid() == process::Pid::INIT;
    let signals = if is_init { &[SIGTERM, SIGINT][..] } else { &[] };
    let always = Arc::new(AtomicBool::new(true));
    let register =
        |signal| flag::register_conditional_shutdown(signal, 128 + signal, always.clone()).ok();
    InitSignalGuard(signals.iter().copied().filter_map(register).collect())
}

pub(crate) struct InitSignalGuard(Vec<SigId>);

impl Drop for InitSignalGuard {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            unregister(id);
        }
    }
}

/// Classifies a signal. Signals of the terminal have already reached the program, because both processes are
/// in the same process group. So they are not forwarded. HUP is forwarded, because the end of a
/// terminal reaches only the first process of its session.
fn classify(signal: i32, cause: Cause) -> Option<SignalEvent> {
    let from_terminal = matches!(cause, Cause::Kernel);
    match signal {
        SIGCHLD => Some(SignalEvent::ChildChanged),
        SIGINT | SIGQUIT if from_terminal => Some(SignalEvent::TerminalInterrupt),
        SIGWINCH if from_terminal => None,
        signal => process::Signal::from_named_raw(signal).map(SignalEvent::Forward),
    }
}

#[cfg(test)]
mod tests {
    use signal_hook::low_level::siginfo::Sent;

    use super::*;

    #[test]
    fn signals_are_parsed_by_name() {
        for text in ["HUP", "hup", "SIGHUP"] {
            assert_eq!(text.parse(), Ok(Signal(process::Signal::HUP)));
        }
        assert!("9".parse::<Signal>().unwrap_err().contains("TERM"));
    }

    #[test]
    fn signals_of_the_terminal_are_not_forwarded() {
        let interrupt = Some(SignalEvent::TerminalInterrupt);
        assert_eq!(classify(SIGINT, Cause::Kernel), interrupt);
        assert_eq!(classify(SIGQUIT, Cause::Kernel), interrupt);
        assert_eq!(classify(SIGWINCH, Cause::Kernel), None);
    }

    #[test]
    fn signals_of_processes_and_the_end_of_a_terminal_are_forwarded() {
        let sent = Cause::Sent(Sent::User);
        for (number, signal) in [
            (SIGINT, process::Signal::INT),
            (SIGQUIT, process::Signal::QUIT),
            (SIGWINCH, process::Signal::WINCH),
            (SIGTERM, process::Signal::TERM),
        ] {
            assert_eq!(classify(number, sent), Some(SignalEvent::Forward(signal)));
        }
        let hangup = Some(SignalEvent::Forward(process::Signal::HUP));
        assert_eq!(classify(SIGHUP, Cause::Kernel), hangup);
    }
}
