//! `secretwell list`

use std::process::ExitCode;

use secretwell::SecretProvider;

use super::table::format_table;
use super::write_stdout;
use crate::args::LogArgs;
use crate::exit::Failure;
use crate::fetch::{list_keys, read};
use crate::logging::with_progress;
use crate::notices;
use crate::sources::Sources;

pub(crate) async fn list(sources: &Sources, log: &LogArgs) -> Result<ExitCode, Failure> {
    let provider = &sources.provider;
    let read = async {
        let keys = match list_keys(provider, &[]).await {
            Err(error) if !error.is_not_found() => return Err(error),
            listed => listed,
        };
        notices::warn(provider).await;
        let keys = keys?;
        let results = read(provider, &keys).await;
        Ok((keys, results))
    };
    let message = || format!("listing {}", provider.origin());
    let (keys, results) = with_progress(log, message, read).await?;

    let mut rows = vec![["KEY", "VERSION", "SOURCE"].map(String::from).to_vec()];
    let mut problems = Vec::new();
    for (key, result) in keys.iter().zip(results) {
        match result {
            Ok(secret) => {
                // A version without a number is only meaningful inside of this process.
                let version = secret.version.filter(|version| version.number().is_some());
                let version = version.map_or("-".into(), |version| version.to_string());
                let origin = secret.origin.as_ref().unwrap_or(provider.origin());
                rows.push(vec![key.to_string(), version, origin.to_string()]);
            }
            Err(error) => problems.push(error),
        }
    }
    write_stdout(format_table(&rows).as_bytes())?;
    Failure::from_errors(&problems).map_or(Ok(ExitCode::SUCCESS), Err)
}
