//! The processes that a program leaves behind.

use std::fs;

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};

/// What a program leaves behind, in whichever session, becomes our child, so that it can be ended and buried.
/// That is so on Linux; elsewhere nothing is known of it.
#[derive(Debug)]
pub(crate) struct Orphans {
    /// Who was here before the program, or is another user's: not ours to end.
    spared: Vec<Pid>,
    asked: Vec<Pid>,
}

impl Orphans {
    pub(crate) fn adopt() -> Self {
        #[cfg(target_os = "linux")]
        {
            let _ = process::set_child_subreaper(Some(process::getpid()));
        }
        Self {
            spared: children(),
            asked: Vec::new(),
        }
    }

    /// Buries who has died, and sends `signal` to the others, once unless it kills. Whether anybody is left.
    pub(crate) fn ask(&mut self, signal: Signal) -> bool {
        while bury().is_some() {}
        let mut left = children();
        left.retain(|pid| !self.spared.contains(pid));
        self.asked.retain(|pid| left.contains(pid));
        for pid in &left {
            if signal != Signal::KILL && self.asked.contains(pid) {
                continue;
            }
            self.asked.push(*pid);
            if process::kill_process(*pid, signal) == Err(Errno::PERM) {
                tracing::warn!(target: "secretwell::command", event = "orphan_not_killed", "an orphaned process belongs to another user and cannot be killed");
                self.spared.push(*pid);
            }
        }
        left.iter().any(|pid| !self.spared.contains(pid))
    }
}

/// A child that has ended, which is forgotten by the system with that.
pub(crate) fn bury() -> Option<(Pid, WaitStatus)> {
    loop {
        let (pid, status) = process::wait(WaitOptions::NOHANG).ok()??;
        if status.exited() || status.signaled() {
            return Some((pid, status));
        }
    }
}

/// Our children, living or not yet buried; none where the system does not tell.
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
