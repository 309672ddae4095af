//! The signals that a supervisor gets.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use signal_hook::low_level::unregister;
use signal_hook::{SigId, flag};
use tokio::sync::mpsc;

/// A signal, written like `HUP` or `SIGHUP`.
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
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, signal)| Self(*signal)).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("there are {}", names.join(", "))
        })
    }
}

/// What a supervisor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Something has become of a child.
    Child,
    /// This is meant for the program.
    ForProgram(process::Signal),
    /// Somebody at the terminal interrupts, and the program was told so as well.
    Terminal,
}

/// Everything that this process is told from now on, but for what only a debugger or the system may say, and
/// for what whoever started it has had it ignore, as `nohup` does: the program ignores that, too.
pub(crate) fn listen() -> io::Result<mpsc::UnboundedReceiver<Told>> {
    let ignored = ignored();
    let heard = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
    let heard = heard
        .into_iter()
        .filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = SignalsInfo::<WithOrigin>::new(heard.chain([SIGCHLD]))?;
    let (tell, told) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever().filter_map(|origin| meaning(&origin)) {
                if tell.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(told)
}

/// The signals that this process ignores, one bit each, as far as the system tells.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// Ends this process when it is told to while it is the first of a container, which by itself heeds no signal,
/// for as long as the returned guard lives.
pub(crate) fn end_when_told() -> EndWhenTold {
    let is_first = process::getpid() == process::Pid::INIT;
    let signals = if is_first {
        &[SIGTERM, SIGINT][..]
    } else {
        &[]
    };
    let always = Arc::new(AtomicBool::new(true));
    let register =
        |signal| flag::register_conditional_shutdown(signal, 128 + signal, always.clone()).ok();
    EndWhenTold(signals.iter().copied().filter_map(register).collect())
}

pub(crate) struct EndWhenTold(Vec<SigId>);

impl Drop for EndWhenTold {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            unregister(id);
        }
    }
}

/// What a signal says. What a terminal sends, it has sent to the program as well: they share a process
/// group, as a shell's pipeline does.
fn meaning(origin: &Origin) -> Option<Told> {
    let from_terminal = matches!(origin.cause, Cause::Kernel);
    match origin.signal {
        SIGCHLD => Some(Told::Child),
        SIGINT | SIGQUIT if from_terminal => Some(Told::Terminal),
        SIGWINCH if from_terminal => None,
        signal => process::Signal::from_named_raw(signal).map(Told::ForProgram),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name() {
        for text in ["HUP", "hup", "SIGHUP"] {
            assert_eq!(text.parse(), Ok(Signal(process::Signal::HUP)));
        }
        assert!("9".parse::<Signal>().unwrap_err().contains("TERM"));
    }
}
