//! The command `secretwell` of [Secretwell](https://docs.rs/secretwell). It runs a program with its secrets
//! and shows an operator the secrets that a service would read.
//!
//! It is for operators of processes in any language that receive their secrets at run time. For example, a
//! Next.js application might read `AUTH_SECRET` when its modules are loaded. The command sets the variable
//! before the application starts:
//!
//! ```text
//! secretwell run --from infisical://app.infisical.com/my-project/prod -- npm start
//! ```
//!
//! # Why this shape
//! Without `--watch` the command replaces itself with the program (`exec`). So no extra process is between
//! the program and its terminal, its signals and its parent. With `--watch` the command stays as a small
//! supervisor. It reads changed secrets, and restarts the program or sends it a signal.
//!
//! | topic | file |
//! | --- | --- |
//! | usage | `docs/cli.md`, or `secretwell --help` |
//! | options and help texts | `args.rs`, `help.rs`, `completions.rs` |
//! | `run` | `run.rs`, then `program.rs`; for `--watch` also `watch.rs` and `supervisor.rs` |
//! | names and files of secrets | `variables.rs`, `files.rs` |
//! | other commands | `commands/` |

// The purpose of a command is its output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(unix))]
compile_error!("the secretwell command requires Unix processes, signals and `exec`");

mod args;
mod commands;
mod completions;
mod config_file;
mod credentials;
mod decide;
mod exit;
mod fetch;
mod files;
mod help;
mod listing;
mod logging;
mod notices;
mod policies;
mod previous;
mod profile;
mod program;
mod reaper;
mod run;
mod signals;
mod sources;
mod suggest;
mod supervisor;
mod urls;
mod variables;
mod watch;

use std::alloc::System;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use zeroizing_alloc::ZeroAlloc;

use args::{Arguments, Command, SecretsCommand};
use exit::{Failure, Reason};
use program::Launcher;
use sources::Sources;

/// Wipes all memory that is freed. This includes buffers of the libraries for HTTP and TLS, and the environment that the
/// standard library builds for a program.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    if let Some(launcher) = Launcher::from_arguments() {
        let format = launcher.format;
        let failure = launcher.exec();
        logging::init(0, format);
        logging::report_failure(&failure, format);
        return failure.reason().status();
    }
    let arguments = match parse(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap returns `--help` and `--version` as errors, too.
            let status = match error.use_stderr() {
                true => Reason::Usage.status(),
                false => ExitCode::SUCCESS,
            };
            let _ = error.print();
            return status;
        }
    };
    let format = arguments.log.log_format;
    logging::init(arguments.log.verbose, format);
    execute(arguments).unwrap_or_else(|failure| {
        logging::report_failure(&failure, format);
        failure.reason().status()
    })
}

fn command() -> clap::Command {
    help::with_sections(Arguments::command())
}

fn parse(line: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let arguments = Arguments::from_arg_matches(&command().try_get_matches_from(&line)?)?;
    match misplaced_action(&arguments, &line) {
        None => Ok(arguments),
        Some(action) => Err(command().error(
            ErrorKind::ArgumentConflict,
            format!(
                "'--watch {action}' has no equals sign, so '{action}' would be the program; use '--watch={action}'"
            ),
        )),
    }
}

/// Returns the action of `--watch ACTION`, which clap takes for the program, because an action needs an equals sign.
fn misplaced_action<'a>(arguments: &'a Arguments, line: &[OsString]) -> Option<&'a str> {
    let Command::Secrets(command) = &arguments.command else {
        return None;
    };
    let SecretsCommand::Run(args) = &**command else {
        return None;
    };
    let program = args.program.first()?;
    let options = line.split(|word| word == "--").next().unwrap_or_default();
    let follows_watch = options
        .windows(2)
        .any(|words| words[0] == "--watch" && words[1] == *program);
    let action = program.to_str()?;
    let is_action = action == "restart" || action.starts_with("signal:");
    (follows_watch && is_action).then_some(action)
}

fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments {
        sources,
        log,
        command,
    } = arguments;
    let command = match command {
        Command::Completions { shell } => {
            commands::write_stdout(&completions::script(shell, &Arguments::command()))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::ProfileNames => {
            let names = completions::profile_names(sources.config.as_deref())?;
            commands::write_stdout(names.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man { command } => return manual(command.as_deref()),
        Command::Secrets(command) => command,
    };
    let sources = Sources::from_args(&sources)?;
    // The runtime has one thread, because the parent-death signal of Linux refers to the thread that started
    // the program: that thread must live as long as this process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| {
        Failure::new(
            Reason::Unavailable,
            format!("the async runtime cannot be started: {error}"),
        )
    })?;
    runtime.block_on(async {
        match *command {
            SecretsCommand::Run(args) => run::run(sources, args, &log).await,
            SecretsCommand::Get(args) => commands::get(&sources, &args, &log).await,
            SecretsCommand::List(args) => commands::list(&sources, &args, &log).await,
            SecretsCommand::Check(args) => commands::check(sources, &args, &log).await,
            SecretsCommand::Doctor(args) => commands::doctor(&sources, &args, &log).await,
            SecretsCommand::Export(args) => commands::export(&sources, &args, &log).await,
        }
    })
}

/// Prints the manual page of `secretwell`, or of the command `name`.
fn manual(name: Option<&str>) -> Result<ExitCode, Failure> {
    let mut root = Arguments::command();
    root.build();
    let (page, sections) = match name {
        None => (root, help::manual_sections("secretwell")),
        Some(name) => {
            let command = root.find_subcommand(name).cloned();
            let command = command.ok_or_else(|| {
                Failure::new(
                    Reason::Usage,
                    format!(
                        "unknown command `{}`; see `secretwell --help`",
                        name.escape_debug()
                    ),
                )
            })?;
            // The name might be an alias.
            let name = command.get_name().to_owned();
            // clap requires static names. The leak is harmless, because this process prints one page only.
            let title: &'static str = format!("secretwell-{name}").leak();
            (command.name(title), help::manual_sections(&name))
        }
    };
    // A manual page has one section of options.
    let page = page.mut_args(|argument| argument.help_heading(None::<&str>));
    let mut text = Vec::new();
    // A write to memory cannot fail.
    let _ = clap_mangen::Man::new(page).render(&mut text);
    text.extend_from_slice(sections.as_bytes());
    commands::write_stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}
