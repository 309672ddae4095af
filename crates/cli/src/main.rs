//! The command of [Secretwell](https://docs.rs/secretwell): runs any program with its secrets, and shows an
//! operator what a service would see.
//!
//! For whoever runs a process in any language whose secrets arrive at run time. A Next.js application, say,
//! that reads `AUTH_SECRET` when its modules are loaded, has it before its first line runs:
//!
//! ```text
//! secretwell run --from infisical://app.infisical.com/my-project/prod -- npm start
//! ```
//!
//! # Why this shape
//! Without `--watch` the command is gone when the program runs: it has become the program, so there is
//! nothing between it and its terminal, its signals and its parent. With `--watch` it stays, as thin as it
//! can be: it reads what comes anew, and starts the program again or tells it.
//!
//! | to | read |
//! | --- | --- |
//! | use it | `docs/cli.md`, or `secretwell --help` |
//! | see what may be said to it | `args.rs` |
//! | follow `run` | `run.rs`, then `program.rs`, and for `--watch` `follow.rs` and `supervise.rs` |
//! | follow the others | `commands/` |

// Output is what a command is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(unix))]
compile_error!("the command needs a Unix: processes, signals and `exec`");

mod args;
mod commands;
mod environment;
mod exit;
mod follow;
mod orphans;
mod place;
mod profile;
mod program;
mod read;
mod run;
mod say;
mod signals;
mod supervise;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, Command, WithSecrets};
use exit::{Failure, Reason};
use place::Setup;
use program::Tied;

fn main() -> ExitCode {
    if let Some(tied) = Tied::from_arguments() {
        let format = tied.format;
        let failure = tied.become_program();
        say::start_log(0, format);
        say::report(&failure, format);
        return failure.reason().status();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version are errors to the parser.
            let status = match error.use_stderr() {
                true => Reason::Usage.status(),
                false => ExitCode::SUCCESS,
            };
            let _ = error.print();
            return status;
        }
    };
    let format = arguments.log.log_format;
    say::start_log(arguments.log.verbose, format);
    perform(arguments).unwrap_or_else(|failure| {
        say::report(&failure, format);
        failure.reason().status()
    })
}

fn perform(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments {
        place,
        log,
        command,
    } = arguments;
    let command = match command {
        Command::Completions { shell } => return completions(shell),
        Command::Man { command } => return manual(command.as_deref()),
        Command::WithSecrets(command) => command,
    };
    let setup = Setup::find(&place)?;
    // One thread: it is little that there is to do, and what a supervisor starts is tied to it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| {
        Failure::new(
            Reason::Unavailable,
            format!("the system does not let it wait for anything: {error}"),
        )
    })?;
    runtime.block_on(async {
        match command {
            WithSecrets::Run(run) => run::run(setup, run, &log).await,
            WithSecrets::Get(get) => commands::get(&setup, &get, &log).await,
            WithSecrets::List => commands::list(&setup, &log).await,
            WithSecrets::Check(check) => commands::check(setup, &check, &log).await,
            WithSecrets::Doctor(doctor) => commands::doctor(&setup, &doctor, &log).await,
            WithSecrets::Export(export) => commands::export(&setup, &export, &log).await,
        }
    })
}

fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "secretwell", &mut script);
    commands::write(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// The manual page of the whole command, or of one of its commands.
fn manual(name: Option<&str>) -> Result<ExitCode, Failure> {
    let mut whole = Arguments::command();
    whole.build();
    let page = match name {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| {
                Failure::new(
                    Reason::Usage,
                    "there is no such command; see `secretwell --help`",
                )
            })?;
            // Names are static to the parser, and this process shows one page.
            let title: &'static str = format!("secretwell-{name}").leak();
            found.name(title)
        }
    };
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(page).render(&mut text);
    commands::write(&text)?;
    Ok(ExitCode::SUCCESS)
}
