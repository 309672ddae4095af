//! Looks after a program whose secrets may change.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{self, Pid, WaitOptions, WaitStatus};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use crate::environment::Variable;
use crate::exit::{Failure, Reason};
use crate::program::{Program, cannot_start};
use crate::signals::{Signal, Told, listen};

/// What to do when the secrets have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnChange {
    Restart,
    Signal(Signal),
}

impl FromStr for OnChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "restart" => Ok(Self::Restart),
            Some(("signal", name)) => name.parse().map(Self::Signal),
            _ => Err("write `restart`, or `signal:HUP`".into()),
        }
    }
}

/// How the program is looked after.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) program: Program,
    pub(crate) on_change: OnChange,
    pub(crate) stop_signal: Signal,
    pub(crate) stop_timeout: Duration,
}

/// The program while it runs.
struct Running {
    pid: Pid,
    told: UnboundedReceiver<Told>,
    /// Whether somebody asked it to end.
    ending: bool,
}

impl Supervisor {
    /// Runs the program until it ends by itself, and ends as it did.
    pub(crate) async fn run(
        self,
        mut variables: Vec<Variable>,
        mut news: UnboundedReceiver<Vec<Variable>>,
    ) -> Result<ExitCode, Failure> {
        adopt_orphans();
        let told = listen().map_err(|error| {
            let message = format!("signals cannot be listened to: {error}");
            Failure::new(Reason::NotExecutable, message)
        })?;
        let mut running = Running {
            pid: self.start(&variables)?,
            told,
            ending: false,
        };
        loop {
            let new = tokio::select! {
                status = running.ended() => return Ok(self.end(status, &mut running).await),
                new = news.recv() => new,
            };
            // The follower lives as long as its news are listened to.
            variables = new.unwrap_or(variables);
            match self.on_change {
                OnChange::Signal(signal) => {
                    tracing::info!("the secrets have changed: the program is told");
                    running.send(signal.0);
                }
                OnChange::Restart => {
                    tracing::info!("the secrets have changed: the program is started anew");
                    let status = self.stop(&mut running).await;
                    if running.ending {
                        return Ok(ExitStatus(status).pass_on());
                    }
                    while let Ok(newer) = news.try_recv() {
                        variables = newer;
                    }
                    running.pid = self.start(&variables)?;
                }
            }
        }
    }

    fn start(&self, variables: &[Variable]) -> Result<Pid, Failure> {
        let mut command = self.program.tied().command(variables);
        let child = command.spawn();
        let child = child.map_err(|error| cannot_start(command.get_program(), &error))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Failure::new(Reason::NotExecutable, "the program has no process"))
    }

    /// Asks the program to stop, kills it when it takes too long, and what it has left behind with it.
    async fn stop(&self, running: &mut Running) -> WaitStatus {
        running.send(self.stop_signal.0);
        let end = Instant::now() + self.stop_timeout;
        let in_time = tokio::select! {
            status = running.ended() => Some(status),
            () = sleep_until(end) => None,
        };
        let status = match in_time {
            Some(status) => status,
            None => {
                tracing::warn!("the program did not stop in time and is killed");
                running.send(process::Signal::KILL);
                running.ended().await
            }
        };
        self.clear(running, end).await;
        status
    }

    /// Ends as the program did.
    async fn end(&self, status: WaitStatus, running: &mut Running) -> ExitCode {
        self.clear(running, Instant::now() + self.stop_timeout)
            .await;
        ExitStatus(status).pass_on()
    }

    /// Ends what the program has left behind, which by now are our children.
    async fn clear(&self, running: &mut Running, end: Instant) {
        let mut signal = self.stop_signal.0;
        let mut asked = Vec::new();
        loop {
            while reap().is_some() {}
            let left = children();
            if left.is_empty() {
                return;
            }
            for pid in left {
                if signal == process::Signal::KILL || !asked.contains(&pid) {
                    let _ = process::kill_process(pid, signal);
                    asked.push(pid);
                }
            }
            tokio::select! {
                _ = running.told.recv() => {}
                () = sleep_until(end), if signal != process::Signal::KILL => {
                    signal = process::Signal::KILL;
                }
            }
        }
    }
}

impl Running {
    fn send(&self, signal: process::Signal) {
        let _ = process::kill_process(self.pid, signal);
    }

    /// Waits for the program's end, hands on what is meant for it, and buries whoever else has died.
    /// Cancelling the wait loses nothing.
    async fn ended(&mut self) -> WaitStatus {
        use process::Signal as S;

        loop {
            match self.told.recv().await {
                Some(Told::ForProgram(signal)) => {
                    self.ending |= [S::TERM, S::INT, S::QUIT, S::HUP].contains(&signal);
                    self.send(signal);
                }
                Some(Told::Child) => {
                    while let Some((pid, status)) = reap() {
                        if pid == self.pid {
                            return status;
                        }
                    }
                }
                None => std::future::pending().await,
            }
        }
    }
}

/// A child that has ended.
fn reap() -> Option<(Pid, WaitStatus)> {
    loop {
        let (pid, status) = process::wait(WaitOptions::NOHANG).ok()??;
        if status.exited() || status.signaled() {
            return Some((pid, status));
        }
    }
}

struct ExitStatus(WaitStatus);

impl ExitStatus {
    /// The same end for this process: the status, or death by the same signal.
    fn pass_on(&self) -> ExitCode {
        if let Some(signal) = self.0.terminating_signal() {
            // The memory that a dump would show holds secrets.
            let none = process::Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            let _ = process::setrlimit(process::Resource::Core, none);
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
        }
        let status = self.0.exit_status().unwrap_or_default();
        ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
    }
}

/// Has what the program leaves behind become our children, so that it can be ended and buried.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    {
        let _ = process::set_child_subreaper(Some(process::getpid()));
    }
}

/// Our children, living or not yet buried; none where the system does not tell.
fn children() -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter_map(Pid::from_raw).collect::<Vec<_>>()
    });
    pids.collect()
}
