//! The commands that look at secrets and start nothing.

mod check;
mod doctor;
mod export;
mod get;
mod list;
mod table;

use std::io::{self, ErrorKind, IsTerminal, Write};

pub(crate) use check::check;
pub(crate) use doctor::doctor;
pub(crate) use export::export;
pub(crate) use get::get;
pub(crate) use list::list;

use crate::args::Reveal;
use crate::exit::{Failure, Reason};

/// Writes to standard output. Whoever reads it may have enough at any time.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            Reason::Output,
            format!("standard output cannot be written to: {}", error.kind()),
        )),
        _ => Ok(()),
    }
}

/// Refuses to show secrets to whoever looks over somebody's shoulder.
fn allow(reveal: &Reveal) -> Result<(), Failure> {
    match reveal.reveal || !io::stdout().is_terminal() {
        true => Ok(()),
        false => Err(Failure::new(
            Reason::Usage,
            "standard output is a terminal; say --reveal to show secrets on it",
        )),
    }
}
