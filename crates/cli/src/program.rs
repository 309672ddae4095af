//! The program that is run: how it is started, and how it is become.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process;

use crate::args::LogFormat;
use crate::environment::Variable;
use crate::exit::{Failure, Reason};

/// The first word of a command line that is for [`Tied`].
const TIED: &str = "--tied-to-supervisor";

/// A program, its arguments, and whether it gets other variables than its secrets.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) words: Vec<OsString>,
    pub(crate) pristine: bool,
}

impl Program {
    /// The program as it is to be started.
    pub(crate) fn command(&self, variables: &[Variable]) -> Command {
        let mut words = self.found_words().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        if self.pristine {
            command.env_clear();
        }
        for variable in variables {
            command.env(&variable.name, variable.os_value());
        }
        command
    }

    /// As it was asked for.
    pub(crate) fn name(&self) -> &OsStr {
        self.words
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// The program and its arguments, so that it is found even where it is given no PATH.
    fn found_words(&self) -> Vec<OsString> {
        let mut words = self.words.clone();
        if let Some(name) = words.first_mut().filter(|_| self.pristine)
            && let Some(file) = find(name)
        {
            *name = file.into();
        }
        words
    }

    /// The program by way of [`Tied`], so that it dies with this process.
    #[cfg(target_os = "linux")]
    pub(crate) fn tied(&self, format: LogFormat) -> Self {
        let format = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let supervisor = process::getpid().as_raw_nonzero().to_string();
        // This very file, even when a newer one has taken its name.
        let words = ["/proc/self/exe", TIED, format, &supervisor];
        let words = words.into_iter().map(OsString::from);
        Self {
            words: words.chain(self.found_words()).collect(),
            pristine: self.pristine,
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn tied(&self, _: LogFormat) -> Self {
        self.clone()
    }
}

/// The file that a program's name stands for, by our own PATH.
fn find(name: &OsStr) -> Option<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return None;
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    let metadata = file.metadata();
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Takes the place of this process. Returns only when it cannot.
pub(crate) fn become_program(mut command: Command) -> Failure {
    let error = command.exec();
    cannot_start(command.get_program(), &error)
}

pub(crate) fn cannot_start(program: &OsStr, error: &std::io::Error) -> Failure {
    let program = program.display();
    match error.kind() {
        ErrorKind::NotFound => Failure::new(
            Reason::NoSuchProgram,
            format!("`{program}` is no program: there is no such file, neither here nor in PATH"),
        ),
        ErrorKind::ArgumentListTooLong => Failure::new(
            Reason::NotExecutable,
            format!(
                "`{program}` cannot be given so large an environment; name the keys that it needs by --only"
            ),
        ),
        kind => Failure::new(
            Reason::NotExecutable,
            format!("`{program}` cannot be executed: {kind}"),
        ),
    }
}

/// What a supervisor starts: it ties its life to the supervisor's and becomes the program.
pub(crate) struct Tied {
    pub(crate) format: LogFormat,
    supervisor: Option<i32>,
    program: Program,
}

impl Tied {
    /// What this process was started for, unless it is for whoever types commands.
    pub(crate) fn from_arguments() -> Option<Self> {
        let mut words = env::args_os().skip(1);
        if words.next()? != TIED {
            return None;
        }
        let format = match words.next()?.to_str()? {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        Some(Self {
            format,
            supervisor: words.next()?.to_str()?.parse().ok(),
            program: Program {
                words: words.collect(),
                pristine: false,
            },
        })
    }

    /// Becomes the program. When the supervisor dies from now on, be it of `kill -9`, the system kills the
    /// program.
    pub(crate) fn become_program(self) -> Failure {
        #[cfg(target_os = "linux")]
        {
            // An error means that this kernel cannot do it; then the program lives on, as elsewhere.
            let _ = process::set_parent_process_death_signal(Some(process::Signal::KILL));
        }
        if process::getppid().map(|pid| pid.as_raw_nonzero().get()) != self.supervisor {
            return Failure::new(Reason::NotExecutable, "the supervisor is gone");
        }
        become_program(self.program.command(&[]))
    }
}
