//! The commands that read secrets without running a program.

mod check;
mod doctor;
mod export;
mod formats;
mod get;
mod list;
mod output;
mod table;

use std::io::{self, ErrorKind, IsTerminal, Write};

pub(crate) use check::check;
pub(crate) use doctor::doctor;
pub(crate) use export::export;
pub(crate) use get::get;
pub(crate) use list::list;

use crate::args::RevealArgs;
use crate::exit::{Failure, Reason};

/// Writes to standard output. A broken pipe is not an error, because the reader might close it early.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    match write(bytes) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(not_written(&error)),
        _ => Ok(()),
    }
}

/// Writes to standard output. A broken pipe is an error, because the next step relies on the reader.
fn write_all_to_stdout(bytes: &[u8]) -> Result<(), Failure> {
    write(bytes).map_err(|error| not_written(&error))
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn not_written(error: &io::Error) -> Failure {
    let problem = format!("standard output cannot be written: {}", error.kind());
    Failure::new(Reason::Output, problem)
}

/// Returns an error if standard output is a terminal and `--reveal` is not given. This protects secrets from
/// other people who can see the screen.
fn check_output_is_private(reveal: &RevealArgs) -> Result<(), Failure> {
    match reveal.reveal || !io::stdout().is_terminal() {
        true => Ok(()),
        false => Err(Failure::new(
            Reason::Usage,
            "standard output is a terminal; add --reveal to show secrets on it",
        )),
    }
}
