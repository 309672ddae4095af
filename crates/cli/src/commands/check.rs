//! `secretwell check`

use std::process::ExitCode;

use secretwell::auth::{Mode, PreflightOptions, PreflightReport, RefuseList, SecretPolicy};
use secretwell::{Resolver, SecretKey};

use super::write_stdout;
use crate::args::{CheckArgs, LogArgs, SelectionArgs};
use crate::exit::{Failure, Reason};
use crate::fetch::{KeySelection, list_keys};
use crate::logging::with_progress;
use crate::sources::Sources;

pub(crate) async fn check(
    sources: Sources,
    args: &CheckArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let modes = match args.mode {
        Some(mode) => vec![mode],
        None => vec![Mode::Production, Mode::Development],
    };
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let reports = with_progress(log, message, reports(&sources, args, &modes)).await?;
    let text: Vec<_> = reports.iter().map(PreflightReport::to_string).collect();
    write_stdout(text.join("\n").as_bytes())?;
    let problems = reports.iter().flat_map(PreflightReport::problems);
    let worst = problems
        .map(|problem| Reason::from_kind(problem.kind()))
        .max();
    Ok(worst.map_or(ExitCode::SUCCESS, Reason::status))
}

/// Returns one report for each mode.
async fn reports(
    sources: &Sources,
    args: &CheckArgs,
    modes: &[Mode],
) -> Result<Vec<PreflightReport>, Failure> {
    let selection = match &args.require[..] {
        [] => sources.key_selection(&SelectionArgs::default()),
        required => KeySelection::Only(required.to_vec()),
    };
    let required = match selection {
        KeySelection::Only(keys) => keys,
        KeySelection::All { require } if !require.is_empty() => require,
        KeySelection::All { require } => list_keys(&sources.provider, &require).await?,
    };
    let is_signing_key =
        |key: &SecretKey| args.signing.contains(key) || sources.profile.signing.contains(key);
    let with_policy = |key: SecretKey| {
        let policy = match is_signing_key(&key) {
            true => SecretPolicy::SigningKey,
            false => SecretPolicy::of_key(&key),
        };
        (key, policy)
    };
    let keys: Vec<_> = required.into_iter().map(with_policy).collect();
    let refused = match &args.refuse_list {
        Some(file) => RefuseList::read(file)?,
        None => RefuseList::default(),
    };
    let resolver = Resolver::new(sources.provider.clone());
    let mut reports = Vec::new();
    for mode in modes {
        let options = PreflightOptions::new(*mode).refuse_list(refused.clone());
        reports.push(PreflightReport::for_keys(&resolver, &keys, &options).await);
    }
    Ok(reports)
}
