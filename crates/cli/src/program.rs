//! The program that `run` executes: how it is started, and how this process is replaced by it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process;

use crate::args::LogFormat;
use crate::exit::{Failure, Reason};
use crate::variables::Variable;

/// The first argument of a process that runs the [`Launcher`].
const LAUNCHER_FLAG: &str = "--tied-to-supervisor";

/// A program with its arguments and its kind of environment.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The name of the program, followed by its arguments.
    pub(crate) argv: Vec<OsString>,
    /// Whether the environment of the program contains only the secrets.
    pub(crate) pristine: bool,
    /// The variables that are removed from the environment.
    pub(crate) removed: Vec<String>,
}

impl Program {
    /// Returns a command that starts the program with `variables`.
    pub(crate) fn command(&self, variables: &[Variable]) -> Command {
        let mut argv = self.resolved_argv().into_iter();
        let mut command = Command::new(argv.next().unwrap_or_default());
        command.args(argv);
        if self.pristine {
            command.env_clear();
        }
        for name in &self.removed {
            command.env_remove(name);
        }
        for variable in variables {
            command.env(&variable.name, variable.os_value());
        }
        command
    }

    /// Returns the name of the program as given on the command line.
    pub(crate) fn name(&self) -> &OsStr {
        self.argv
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// Returns the program and its arguments. The program is resolved to a path if its own environment
    /// has no PATH.
    fn resolved_argv(&self) -> Vec<OsString> {
        let mut argv = self.argv.clone();
        if let Some(name) = argv.first_mut().filter(|_| self.pristine)
            && let Some(file) = find_in_path(name)
        {
            *name = file.into();
        }
        argv
    }

    /// Returns the program as started by the [`Launcher`], so that it dies with this process.
    #[cfg(target_os = "linux")]
    pub(crate) fn via_launcher(&self, format: LogFormat) -> Self {
        let format = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let supervisor = process::getpid().as_raw_nonzero().to_string();
        // This path refers to the running executable, even if the file on disk was replaced.
        let launcher = ["/proc/self/exe", LAUNCHER_FLAG, format, &supervisor];
        let launcher = launcher.into_iter().map(OsString::from);
        Self {
            argv: launcher.chain(self.resolved_argv()).collect(),
            ..self.clone()
        }
    }

    /// Returns the program unchanged, because only Linux has a parent-death signal.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn via_launcher(&self, _: LogFormat) -> Self {
        self.clone()
    }
}

/// Finds an executable in the PATH of this process. Returns `None` if `name` contains a directory.
fn find_in_path(name: &OsStr) -> Option<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return None;
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    let metadata = file.metadata();
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Replaces this process with the program. Returns only on failure.
pub(crate) fn exec(mut command: Command) -> Failure {
    let error = command.exec();
    start_failure(command.get_program(), &error)
}

/// Describes why the program was not started.
pub(crate) fn start_failure(program: &OsStr, error: &std::io::Error) -> Failure {
    let program = program.display();
    match error.kind() {
        ErrorKind::NotFound => Failure::new(
            Reason::ProgramNotFound,
            format!("program `{program}` was not found; check its path and the variable PATH"),
        ),
        ErrorKind::ArgumentListTooLong => Failure::new(
            Reason::NotExecutable,
            format!(
                "the environment of `{program}` is too large; select the keys that it needs with --only"
            ),
        ),
        kind => Failure::new(
            Reason::NotExecutable,
            format!("program `{program}` cannot be executed: {kind}"),
        ),
    }
}

/// The intermediate process that a supervisor starts. It sets its parent-death signal and then replaces
/// itself with the program.
pub(crate) struct Launcher {
    pub(crate) format: LogFormat,
    /// The process ID of the supervisor.
    supervisor: Option<i32>,
    program: Program,
}

impl Launcher {
    /// Parses the arguments of this process. Returns `None` if it was not started by a supervisor.
    pub(crate) fn from_arguments() -> Option<Self> {
        let mut arguments = env::args_os().skip(1);
        if arguments.next()? != LAUNCHER_FLAG {
            return None;
        }
        let format = match arguments.next()?.to_str()? {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        Some(Self {
            format,
            supervisor: arguments.next()?.to_str()?.parse().ok(),
            program: Program {
                argv: arguments.collect(),
                pristine: false,
                removed: Vec::new(),
            },
        })
    }

    /// Sets the parent-death signal and replaces this process with the program. Returns only on failure.
    ///
    /// From then on, the kernel kills the program if the supervisor dies, even by `kill -9`.
    pub(crate) fn exec(self) -> Failure {
        #[cfg(target_os = "linux")]
        {
            // An error means that the kernel does not support the signal. The program then outlives its
            // supervisor, as on other systems.
            let _ = process::set_parent_process_death_signal(Some(process::Signal::KILL));
        }
        if process::getppid().map(|pid| pid.as_raw_nonzero().get()) != self.supervisor {
            return Failure::new(
                Reason::NotExecutable,
                "the supervisor exited before the program was started",
            );
        }
        exec(self.program.command(&[]))
    }
}
