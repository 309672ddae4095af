//! The supervisor of `run --watch`. It runs the program and restarts or signals it when its secrets change.

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{self, Pid, WaitStatus};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::{LogFormat, OnChange};
use crate::decide::{Action, ProgramSecrets};
use crate::exit::{Failure, Reason};
use crate::files::SecretFiles;
use crate::previous::Previous;
use crate::program::{Program, start_failure};
use crate::reaper::{self, OrphanReaper};
use crate::signals::{InitSignalGuard, Signal, SignalEvent, listen};
use crate::variables::{ShellNameWarning, Variable};

/// The time after which files that could not be written are written again.
const FILES_RETRY: Duration = Duration::from_secs(10);

/// A program and the settings of its supervision.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) program: Program,
    /// The secrets that the program reads from files.
    pub(crate) files: SecretFiles,
    pub(crate) names: ShellNameWarning,
    /// The format in which the launcher reports that the program cannot be started.
    pub(crate) format: LogFormat,
    pub(crate) on_change: OnChange,
    pub(crate) stop_signal: Signal,
    /// How long the program and its orphans have to exit before they are killed.
    pub(crate) stop_timeout: Duration,
    /// The maximum of the random delay of a restart or a signal.
    pub(crate) splay: Duration,
    pub(crate) previous: Previous,
}

/// The state of the running program.
struct Running {
    /// `None` after the program has exited, because the system might reuse the process ID.
    pid: Option<Pid>,
    events: UnboundedReceiver<SignalEvent>,
    orphans: OrphanReaper,
    /// Whether the program is being stopped for a restart.
    stopping: bool,
    /// Whether a signal requested the exit of the program, so that it must not be restarted.
    exit_requested: bool,
}

impl Supervisor {
    /// Runs the program until it exits by itself. Returns its exit status, or ends this process by the same
    /// signal. `until_handled` handles signals until they are forwarded to the program.
    ///
    /// # Errors
    /// Fails if the program cannot be started, or if a missing secret stopped it.
    pub(crate) async fn run(
        mut self,
        secrets: ProgramSecrets,
        actions: UnboundedReceiver<Action>,
        until_handled: InitSignalGuard,
    ) -> Result<ExitCode, Failure> {
        let status = self.supervise(secrets, actions, until_handled).await;
        // The files are removed before this process ends by the signal of the program.
        drop(self);
        Ok(exit_like(status?))
    }

    async fn supervise(
        &mut self,
        mut secrets: ProgramSecrets,
        mut actions: UnboundedReceiver<Action>,
        until_handled: InitSignalGuard,
    ) -> Result<WaitStatus, Failure> {
        let orphans = OrphanReaper::new();
        let events = listen().map_err(|error| {
            let message = format!("signal handlers cannot be installed: {error}");
            Failure::new(Reason::NotExecutable, message)
        })?;
        drop(until_handled);
        let variables = self.variables(&self.previous, &secrets);
        self.files.write(&variables)?;
        let pid = self.start(&variables)?;
        // The values would stay in memory after they have changed.
        drop(variables);
        let mut running = Running {
            pid: Some(pid),
            events,
            orphans,
            stopping: false,
            exit_requested: false,
        };
        let mut unwritten: Option<ProgramSecrets> = None;
        loop {
            let (action, is_retry) = tokio::select! {
                biased;
                status = running.wait_for_exit() => (Err(status), false),
                Some(action) = actions.recv(), if !running.exit_requested => (Ok(action), false),
                () = sleep(FILES_RETRY), if unwritten.is_some() && !running.exit_requested => {
                    match unwritten.take() {
                        Some(secrets) => (Ok(Action::Change(secrets)), true),
                        None => continue,
                    }
                }
            };
            let action = match action {
                Ok(action) if !is_retry => self.delay(&mut running, &mut actions, action).await,
                exited_or_retried => exited_or_retried,
            };
            let mut next = match action {
                Err(status) => {
                    let deadline = Instant::now() + self.stop_timeout;
                    running.stop_orphans(self.stop_signal, deadline).await;
                    return Ok(status);
                }
                Ok(_) if running.exit_requested => continue,
                Ok(Action::Stop(failure)) => {
                    tracing::warn!(target: "secretwell::command", event = "program_stopped", "a secret is missing; the program is stopped");
                    match self.stop(&mut running).await {
                        Some(status) if running.exit_requested => return Ok(status),
                        Some(_) => return Err(failure),
                        None => continue,
                    }
                }
                Ok(Action::Change(next)) => next,
            };
            if !self.write_files(&secrets, &next) {
                unwritten = Some(next);
                continue;
            }
            unwritten = None;
            // The secrets have changed back during the delay.
            if next.variables == secrets.variables {
                continue;
            }
            match self.on_change {
                OnChange::Signal(signal) => {
                    tracing::info!(target: "secretwell::command", event = "program_signalled", "the secrets changed; the program is signalled");
                    let _ = running.send(signal.0);
                    (self.previous, _) = self.after_change(&secrets, &next);
                    secrets = next;
                }
                OnChange::Restart => {
                    tracing::info!(target: "secretwell::command", event = "program_restarted", "the secrets changed; the program is restarted");
                    let Some(status) = self.stop(&mut running).await else {
                        continue;
                    };
                    if running.exit_requested {
                        return Ok(status);
                    }
                    while let Ok(newer) = actions.try_recv() {
                        match newer {
                            Action::Stop(failure) => return Err(failure),
                            Action::Change(newer) if self.write_files(&secrets, &newer) => {
                                (next, unwritten) = (newer, None);
                            }
                            Action::Change(newer) => unwritten = Some(newer),
                        }
                    }
                    let (previous, variables) = self.after_change(&secrets, &next);
                    (self.previous, secrets) = (previous, next);
                    self.previous.warn(Instant::now());
                    running.pid = Some(self.start(&variables)?);
                }
            }
        }
    }

    /// Waits for a random time up to the splay. Returns the newest action at its end, or the status of the program if it
    /// exits before.
    async fn delay(
        &self,
        running: &mut Running,
        actions: &mut UnboundedReceiver<Action>,
        mut newest: Action,
    ) -> Result<Action, WaitStatus> {
        let delay = self.splay.mul_f64(random());
        let deadline = Instant::now() + delay;
        if !delay.is_zero() && matches!(newest, Action::Change(_)) {
            let seconds = delay.as_secs_f32();
            tracing::info!(target: "secretwell::command", event = "change_delayed", "the secrets changed; the program gets them in {seconds:.1} s");
        }
        while !matches!(newest, Action::Stop(_)) {
            tokio::select! {
                biased;
                status = running.wait_for_exit() => return Err(status),
                Some(newer) = actions.recv() => newest = newer,
                () = sleep_until(deadline) => break,
            }
        }
        Ok(newest)
    }

    /// Returns the previous values and the variables of a program that changes from one state to another.
    fn after_change(
        &self,
        before: &ProgramSecrets,
        after: &ProgramSecrets,
    ) -> (Previous, Vec<Variable>) {
        let now = Instant::now();
        let previous = self
            .previous
            .after_change(&before.secrets, &after.secrets, now);
        let variables = self.variables(&previous, after);
        (previous, variables)
    }

    fn variables(&self, previous: &Previous, secrets: &ProgramSecrets) -> Vec<Variable> {
        previous.variables(&secrets.secrets, &secrets.variables, Instant::now())
    }

    /// Replaces the files of the program for a change of its secrets. Returns `false` if this failed, and logs why.
    fn write_files(&mut self, before: &ProgramSecrets, after: &ProgramSecrets) -> bool {
        let (_, variables) = self.after_change(before, after);
        let Err(failure) = self.files.write(&variables) else {
            return true;
        };
        for problem in failure.problems() {
            tracing::warn!(target: "secretwell::command", event = "files_not_written", "the program keeps its current secrets: {problem}");
        }
        false
    }

    fn start(&mut self, variables: &[Variable]) -> Result<Pid, Failure> {
        self.names.warn(variables);
        let child = self
            .program
            .via_launcher(self.format)
            .command(&self.files.with_paths(variables))
            .spawn();
        let child = child.map_err(|error| start_failure(self.program.name(), &error))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| {
            Failure::new(
                Reason::NotExecutable,
                "the program has an invalid process ID",
            )
        })
    }

    /// Sends the stop signal, kills the program after the timeout, and then stops its orphans.
    ///
    /// Returns `None` if the program belongs to another user and cannot be signalled.
    async fn stop(&self, running: &mut Running) -> Option<WaitStatus> {
        if running.send(self.stop_signal.0) == Err(Errno::PERM) {
            tracing::warn!(target: "secretwell::command", event = "program_not_signalled", "the program belongs to another user and keeps its current secrets");
            return None;
        }
        running.stopping = true;
        let deadline = Instant::now() + self.stop_timeout;
        let status_in_time = tokio::select! {
            status = running.wait_for_exit() => Some(status),
            () = sleep_until(deadline) => None,
        };
        let status = match status_in_time {
            Some(status) => status,
            None => {
                tracing::warn!(target: "secretwell::command", event = "program_killed", "the program did not exit in time and is killed");
                let _ = running.send(process::Signal::KILL);
                running.wait_for_exit().await
            }
        };
        running.stop_orphans(self.stop_signal, deadline).await;
        running.stopping = false;
        Some(status)
    }
}

impl Running {
    fn send(&self, signal: process::Signal) -> Result<(), Errno> {
        self.pid
            .map_or(Ok(()), |pid| process::kill_process(pid, signal))
    }

    /// Waits until the program exits. Meanwhile, forwards signals and reaps other children.
    ///
    /// Cancel safe: no signal and no exit status is lost if the returned future is dropped.
    async fn wait_for_exit(&mut self) -> WaitStatus {
        loop {
            match self.events.recv().await {
                Some(SignalEvent::ChildChanged) => {
                    while let Some((pid, status)) = reaper::reap() {
                        if Some(pid) == self.pid {
                            self.pid = None;
                            return status;
                        }
                    }
                }
                Some(event) => self.handle(event),
                None => std::future::pending().await,
            }
        }
    }

    fn handle(&mut self, event: SignalEvent) {
        use process::Signal as S;

        match event {
            SignalEvent::Forward(signal) => {
                let ends_restart = self.stopping && [S::INT, S::QUIT, S::HUP].contains(&signal);
                self.exit_requested |= signal == S::TERM || ends_restart;
                let _ = self.send(signal);
            }
            // The program has received this signal from the terminal. During a restart, the user requests
            // that the program is not started again.
            SignalEvent::TerminalInterrupt => self.exit_requested |= self.stopping,
            SignalEvent::ChildChanged => {}
        }
    }

    /// Sends `signal` to the orphans of the program and kills those that are alive at `deadline`.
    async fn stop_orphans(&mut self, signal: Signal, deadline: Instant) {
        while self.orphans.signal_orphans(signal.0) {
            tokio::select! {
                event = self.events.recv() => event.into_iter().for_each(|event| self.handle(event)),
                () = sleep_until(deadline) => break,
            }
        }
        while self.orphans.signal_orphans(process::Signal::KILL) {
            let event = self.events.recv().await;
            event.into_iter().for_each(|event| self.handle(event));
        }
    }
}

/// Returns a random number between 0 and 1.
fn random() -> f64 {
    // Each state is created with other random keys.
    let random = RandomState::new().hash_one(()) >> 32;
    random as f64 / f64::from(u32::MAX)
}

/// Ends this process like the program: returns the same exit status, or dies by the same signal.
///
/// The first process of a container cannot die by a signal. It exits with 128 plus the signal number, as
/// shells do.
fn exit_like(status: WaitStatus) -> ExitCode {
    let Some(signal) = status.terminating_signal() else {
        let status = status.exit_status().unwrap_or_default();
        return ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX));
    };
    if process::getpid() != Pid::INIT {
        // A core dump would contain secrets, so it is disabled.
        let no_core_dump = process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = process::setrlimit(process::Resource::Core, no_core_dump);
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        if let Some(signal) = process::Signal::from_named_raw(signal) {
            let _ = process::kill_process(process::getpid(), signal);
        }
    }
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}
