//! `secretwell get`

use std::process::ExitCode;

use secretwell::SecretProvider;

use super::{check_output_is_private, write_stdout};
use crate::args::{GetArgs, LogArgs};
use crate::exit::Failure;
use crate::fetch::usable;
use crate::logging::with_progress;
use crate::sources::Sources;

pub(crate) async fn get(
    sources: &Sources,
    args: &GetArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    check_output_is_private(&args.reveal)?;
    let message = || format!("reading {} from {}", args.key, sources.provider.origin());
    let secret = with_progress(log, message, sources.provider.get(&args.key)).await?;
    let secret = usable(&sources.provider, &args.key, secret)?;
    write_stdout(secret.value.expose_bytes())?;
    Ok(ExitCode::SUCCESS)
}
