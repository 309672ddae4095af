//! Termination and reaping of the processes that a program leaves behind.

use std::fs;

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};

/// Terminates the orphaned descendants of the program, including those that called `setsid`.
///
/// On Linux this process is a subreaper, so orphaned descendants become its children. On other systems
/// orphans are unknown, and the reaper does nothing.
#[derive(Debug)]
pub(crate) struct OrphanReaper {
    /// Children that are never signalled. They existed before the program, or belong to another user.
    excluded: Vec<Pid>,
    /// Orphans that have already received a signal.
    signalled: Vec<Pid>,
}

impl OrphanReaper {
    /// Makes this process a subreaper. Children that exist now are excluded.
    pub(crate) fn new() -> Self {
        #[cfg(target_os = "linux")]
        {
            let _ = process::set_child_subreaper(Some(process::getpid()));
        }
        Self {
            excluded: children(),
            signalled: Vec::new(),
        }
    }

    /// Reaps dead children and sends `signal` to the orphans. Returns whether any orphan is left.
    ///
    /// Each orphan receives a signal only once, except for `KILL`, which is sent on every call.
    pub(crate) fn signal_orphans(&mut self, signal: Signal) -> bool {
        while reap().is_some() {}
        let mut orphans = children();
        orphans.retain(|pid| !self.excluded.contains(pid));
        self.signalled.retain(|pid| orphans.contains(pid));
        for pid in &orphans {
            if signal != Signal::KILL && self.signalled.contains(pid) {
                continue;
            }
            self.signalled.push(*pid);
            if process::kill_process(*pid, signal) == Err(Errno::PERM) {
                tracing::warn!(target: "secretwell::command", event = "orphan_not_killed", "an orphaned process belongs to another user and cannot be killed");
                self.excluded.push(*pid);
            }
        }
        orphans.iter().any(|pid| !self.excluded.contains(pid))
    }
}

/// Reaps one child that has exited. Returns `None` if no child has exited.
pub(crate) fn reap() -> Option<(Pid, WaitStatus)> {
    loop {
        let (pid, status) = process::wait(WaitOptions::NOHANG).ok()??;
        if status.exited() || status.signaled() {
            return Some((pid, status));
        }
    }
}

/// Returns the children of this process, including zombies. The list is empty on systems without
/// `/proc/self/task/*/children`.
fn children() -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter_map(Pid::from_raw).collect::<Vec<_>>()
    });
    pids.collect()
}
