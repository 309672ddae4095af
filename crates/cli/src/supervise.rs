//! Looks after a program whose secrets may change.

use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{self, Pid, WaitStatus};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use crate::args::{LogFormat, OnChange};
use crate::environment::Variable;
use crate::exit::{Failure, Reason};
use crate::orphans::{self, Orphans};
use crate::program::{Program, cannot_start};
use crate::signals::{Signal, Told, listen};

/// How the program is looked after.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) program: Program,
    /// How what goes wrong with the program's start is said.
    pub(crate) format: LogFormat,
    pub(crate) on_change: OnChange,
    pub(crate) stop_signal: Signal,
    pub(crate) stop_timeout: Duration,
}

/// The program while it runs.
struct Running {
    /// `None` once it has ended: the number may be somebody else's by then.
    pid: Option<Pid>,
    told: UnboundedReceiver<Told>,
    orphans: Orphans,
    stopping: bool,
    /// Whether somebody asked it to end, so that it is not started again.
    ending: bool,
}

impl Supervisor {
    /// Runs the program until it ends by itself, and ends as it did.
    pub(crate) async fn run(
        self,
        mut variables: Vec<Variable>,
        mut news: UnboundedReceiver<Vec<Variable>>,
    ) -> Result<ExitCode, Failure> {
        let orphans = Orphans::adopt();
        let told = listen().map_err(|error| {
            let message = format!("signals cannot be listened to: {error}");
            Failure::new(Reason::NotExecutable, message)
        })?;
        let mut running = Running {
            pid: Some(self.start(&variables)?),
            told,
            orphans,
            stopping: false,
            ending: false,
        };
        loop {
            let new = tokio::select! {
                biased;
                status = running.ended() => {
                    running.clear(self.stop_signal, Instant::now() + self.stop_timeout).await;
                    return Ok(pass_on(status));
                }
                // A program that ends anyway needs no news.
                Some(new) = news.recv(), if !running.ending => new,
            };
            variables = new;
            match self.on_change {
                OnChange::Signal(signal) => {
                    tracing::info!(target: "secretwell::command", event = "program_signalled", "the secrets changed; the program is signalled");
                    let _ = running.send(signal.0);
                }
                OnChange::Restart => {
                    tracing::info!(target: "secretwell::command", event = "program_restarted", "the secrets changed; the program is restarted");
                    let Some(status) = self.stop(&mut running).await else {
                        continue;
                    };
                    if running.ending {
                        return Ok(pass_on(status));
                    }
                    while let Ok(newer) = news.try_recv() {
                        variables = newer;
                    }
                    running.pid = Some(self.start(&variables)?);
                }
            }
        }
    }

    fn start(&self, variables: &[Variable]) -> Result<Pid, Failure> {
        let child = self.program.tied(self.format).command(variables).spawn();
        let child = child.map_err(|error| cannot_start(self.program.name(), &error))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Failure::new(Reason::NotExecutable, "the program has no process"))
    }

    /// Asks the program to stop, kills it when it takes too long, and what it has left behind with it.
    /// `None` when that is not ours to do.
    async fn stop(&self, running: &mut Running) -> Option<WaitStatus> {
        if running.send(self.stop_signal.0) == Err(Errno::PERM) {
            tracing::warn!(target: "secretwell::command", event = "program_not_signalled", "the program belongs to another user and keeps its current secrets");
            return None;
        }
        running.stopping = true;
        let end = Instant::now() + self.stop_timeout;
        let in_time = tokio::select! {
            status = running.ended() => Some(status),
            () = sleep_until(end) => None,
        };
        let status = match in_time {
            Some(status) => status,
            None => {
                tracing::warn!(target: "secretwell::command", event = "program_killed", "the program did not exit in time and is killed");
                let _ = running.send(process::Signal::KILL);
                running.ended().await
            }
        };
        running.clear(self.stop_signal, end).await;
        running.stopping = false;
        Some(status)
    }
}

impl Running {
    fn send(&self, signal: process::Signal) -> Result<(), Errno> {
        self.pid
            .map_or(Ok(()), |pid| process::kill_process(pid, signal))
    }

    /// Waits for the program's end, hands on what is meant for it, and buries whoever else has died.
    /// Cancelling the wait loses nothing.
    async fn ended(&mut self) -> WaitStatus {
        loop {
            match self.told.recv().await {
                Some(Told::Child) => {
                    while let Some((pid, status)) = orphans::bury() {
                        if Some(pid) == self.pid {
                            self.pid = None;
                            return status;
                        }
                    }
                }
                Some(told) => self.heed(told),
                None => std::future::pending().await,
            }
        }
    }

    fn heed(&mut self, told: Told) {
        use process::Signal as S;

        match told {
            Told::ForProgram(signal) => {
                let ends = self.stopping && [S::INT, S::QUIT, S::HUP].contains(&signal);
                self.ending |= signal == S::TERM || ends;
                let _ = self.send(signal);
            }
            // The program knows already; that it stops is somebody's wish now.
            Told::Terminal => self.ending |= self.stopping,
            Told::Child => {}
        }
    }

    /// Ends what the program has left behind: asks it at once, and kills it at the end.
    async fn clear(&mut self, signal: Signal, end: Instant) {
        while self.orphans.ask(signal.0) {
            tokio::select! {
                told = self.told.recv() => told.into_iter().for_each(|told| self.heed(told)),
                () = sleep_until(end) => break,
            }
        }
        while self.orphans.ask(process::Signal::KILL) {
            let told = self.told.recv().await;
            told.into_iter().for_each(|told| self.heed(told));
        }
    }
}

/// The same end for this process: the status, or death by the same signal. The first process of a container
/// cannot die of one, and tells it as shells do.
fn pass_on(status: WaitStatus) -> ExitCode {
    let Some(signal) = status.terminating_signal() else {
        let status = status.exit_status().unwrap_or_default();
        return ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX));
    };
    if process::getpid() != Pid::INIT {
        // The memory that a dump would show holds secrets.
        let none = process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = process::setrlimit(process::Resource::Core, none);
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        if let Some(signal) = process::Signal::from_named_raw(signal) {
            let _ = process::kill_process(process::getpid(), signal);
        }
    }
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}
