//! `secretwell check`

use std::process::ExitCode;

use secretwell::auth::{Mode, PreflightReport, SecretPolicy};
use secretwell::{Resolver, SecretKey};

use super::write;
use crate::args::{Check, Log, Selection};
use crate::exit::{Failure, Reason};
use crate::place::Setup;
use crate::read::{Wanted, keys};
use crate::say::with_progress;

/// What Auth.js and NextAuth sign and encrypt with.
const AUTH_JS: [&str; 5] = [
    "AUTH_SECRET",
    "AUTH_SECRET_1",
    "AUTH_SECRET_2",
    "AUTH_SECRET_3",
    "NEXTAUTH_SECRET",
];

pub(crate) async fn check(setup: Setup, check: &Check, log: &Log) -> Result<ExitCode, Failure> {
    let modes = match check.mode {
        Some(mode) => vec![mode],
        None => vec![Mode::Production, Mode::Development],
    };
    let what = || format!("reading the secrets from {}", setup.provider.origin());
    let reports = with_progress(log, what, reports(&setup, check, &modes)).await?;
    let text: Vec<_> = reports.iter().map(PreflightReport::to_string).collect();
    write(text.join("\n").as_bytes())?;
    let problems = reports.iter().flat_map(PreflightReport::problems);
    let worst = problems.map(|problem| Reason::of(problem.kind())).max();
    Ok(worst.map_or(ExitCode::SUCCESS, Reason::status))
}

async fn reports(
    setup: &Setup,
    check: &Check,
    modes: &[Mode],
) -> Result<Vec<PreflightReport>, Failure> {
    let wanted = match &check.require[..] {
        [] => setup.wanted(&Selection::default()),
        required => Wanted::Only(required.to_vec()),
    };
    let required = match wanted {
        Wanted::Only(keys) => keys,
        Wanted::All { require } if !require.is_empty() => require,
        Wanted::All { require } => keys(&setup.provider, &require).await?,
    };
    let signs = |key: &SecretKey| {
        AUTH_JS.contains(&key.name())
            || check.signing.contains(key)
            || setup.profile.signing.contains(key)
    };
    let policy = |key: SecretKey| match signs(&key) {
        true => (key, SecretPolicy::SigningKey),
        false => (key, SecretPolicy::Unchecked),
    };
    let keys: Vec<_> = required.into_iter().map(policy).collect();
    let resolver = Resolver::new(setup.provider.clone());
    let mut reports = Vec::new();
    for mode in modes {
        reports.push(PreflightReport::for_keys(&resolver, &keys, *mode).await);
    }
    Ok(reports)
}
