//! Starts the program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use secretwell::Resolver;

use crate::args::{Log, Run};
use crate::environment::Variable;
use crate::exit::{Failure, Reason};
use crate::follow::follow;
use crate::place::Setup;
use crate::read::{Found, read};
use crate::say::with_progress;
use crate::supervise::Supervisor;

/// A program, its arguments, and whether it gets other variables than its secrets.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) words: Vec<OsString>,
    pub(crate) pristine: bool,
}

/// Reads the secrets, and then becomes the program or looks after it.
pub(crate) async fn run(setup: Setup, run: Run, log: &Log) -> Result<ExitCode, Failure> {
    let wanted = setup.wanted(&run.selection);
    let naming = setup.naming(&run.selection);
    let what = || format!("reading the secrets from {}", setup.provider.source());
    let secrets = with_progress(log, what, read(&setup.provider, &wanted, run.wait)).await?;
    let variables = naming.variables(&secrets)?;
    for Found { key, secret } in &secrets {
        let source = secret.source.as_ref().unwrap_or(setup.provider.source());
        let version = secret.version.as_ref().map(tracing::field::display);
        tracing::info!(%key, version, %source, "secret read");
    }
    let program = Program {
        words: run.program,
        pristine: run.pristine,
    };
    match run.watch {
        None => Err(become_program(program.command(&variables))),
        Some(on_change) => {
            let keys = secrets.into_iter().map(|found| found.key).collect();
            let mut resolver = Resolver::builder(setup.provider);
            if let Some(ttl) = run.ttl {
                resolver = resolver.ttl(ttl);
            }
            let news = follow(resolver.build(), wanted, naming, keys, variables.clone());
            let supervisor = Supervisor {
                program,
                on_change,
                stop_signal: run.stop_signal,
                stop_timeout: run.stop_timeout,
            };
            supervisor.run(variables, news).await
        }
    }
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

    /// The program and its arguments, so that it is found even where it is given no PATH.
    pub(crate) fn found_words(&self) -> Vec<OsString> {
        let mut words = self.words.clone();
        if let Some(name) = words.first_mut().filter(|_| self.pristine)
            && let Some(file) = find(name)
        {
            *name = file.into();
        }
        words
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
        .find(|file| file.is_file())
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
