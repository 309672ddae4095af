//! `secretwell list`

use std::process::ExitCode;

use serde::Serialize;

use super::output::{Listed, Noticed, Problem, write_json};
use super::table::format_table;
use super::write_stdout;
use crate::args::{ListArgs, LogArgs, ReportFormat};
use crate::exit::{Failure, Reason};
use crate::fetch::{list_keys, read};
use crate::logging::with_progress;
use crate::notices;
use crate::sources::Sources;

/// The result of the command.
#[derive(Serialize)]
struct Listing {
    secrets: Vec<Listed>,
    problems: Vec<Problem>,
    notices: Vec<Noticed>,
}

pub(crate) async fn list(
    sources: &Sources,
    args: &ListArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let provider = &sources.provider;
    let is_json = args.format == ReportFormat::Json;
    let read = async {
        let keys = match list_keys(provider, &[]).await {
            Err(error) if !error.is_not_found() && !is_json => return Err(error),
            listed => listed,
        };
        let notices = match is_json {
            true => match &keys {
                Err(error) if !error.is_not_found() => Vec::new(),
                _ => notices::read_briefly(provider).await,
            },
            false => {
                notices::warn(provider).await;
                Vec::new()
            }
        };
        let (keys, error) = match keys {
            Ok(keys) => (keys, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let results = read(provider, &keys).await;
        Ok((keys, results, error, notices))
    };
    let message = || format!("listing {}", provider.origin());
    let (keys, results, error, notices) = with_progress(log, message, read).await?;

    let mut secrets = Vec::new();
    let mut problems: Vec<_> = error.into_iter().collect();
    for (key, result) in keys.iter().zip(results) {
        match result {
            Ok(secret) => secrets.push(Listed::new(key.as_str(), &secret, provider)),
            Err(error) => problems.push(error),
        }
    }
    if is_json {
        let reasons = problems.iter().map(|error| Reason::from_kind(error.kind()));
        let notice = |notice| Noticed::new(notice, "warning", provider);
        let listing = Listing {
            problems: problems.iter().map(Problem::from).collect(),
            notices: notices.iter().map(notice).collect(),
            secrets,
        };
        return write_json(&listing, reasons.max());
    }
    if !secrets.is_empty() || problems.is_empty() {
        let mut rows = vec![["KEY", "VERSION", "SOURCE"].map(String::from).to_vec()];
        rows.extend(secrets.into_iter().map(|secret| {
            let version = secret.version.unwrap_or_else(|| "-".into());
            vec![secret.key, version, secret.origin]
        }));
        write_stdout(format_table(&rows).as_bytes())?;
    }
    Failure::from_errors(&problems).map_or(Ok(ExitCode::SUCCESS), Err)
}
