//! `secretwell get`

use std::process::ExitCode;

use secretwell::SecretProvider;

use super::{allow, write};
use crate::args::{Get, Log};
use crate::exit::Failure;
use crate::place::Setup;
use crate::say::with_progress;

pub(crate) async fn get(setup: &Setup, get: &Get, log: &Log) -> Result<ExitCode, Failure> {
    allow(&get.reveal)?;
    let what = || format!("reading {} from {}", get.key, setup.provider.origin());
    let secret = with_progress(log, what, setup.provider.get(&get.key)).await?;
    write(secret.value.expose_bytes())?;
    Ok(ExitCode::SUCCESS)
}
