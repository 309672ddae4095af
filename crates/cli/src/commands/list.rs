//! `secretwell list`

use std::process::ExitCode;

use secretwell::SecretProvider;

use super::table::table;
use super::write;
use crate::args::Log;
use crate::exit::Failure;
use crate::place::Setup;
use crate::read::keys;
use crate::say::with_progress;

pub(crate) async fn list(setup: &Setup, log: &Log) -> Result<ExitCode, Failure> {
    let provider = &setup.provider;
    let read = async {
        let keys = keys(provider, &[]).await?;
        let answers = provider.get_many(&keys).await;
        Ok::<_, Failure>((keys, answers))
    };
    let what = || format!("listing {}", provider.origin());
    let (keys, answers) = with_progress(log, what, read).await?;

    let mut rows = vec![["KEY", "VERSION", "SOURCE"].map(String::from).to_vec()];
    let mut problems = Vec::new();
    for (key, answer) in keys.iter().zip(answers) {
        match answer {
            Ok(secret) => {
                // Versions without a number tell nothing outside of the process that reads them.
                let version = secret.version.filter(|version| version.number().is_some());
                let version = version.map_or("-".into(), |version| version.to_string());
                let origin = secret.origin.as_ref().unwrap_or(provider.origin());
                rows.push(vec![key.to_string(), version, origin.to_string()]);
            }
            Err(error) => problems.push(error),
        }
    }
    write(table(&rows).as_bytes())?;
    Failure::of(&problems).map_or(Ok(ExitCode::SUCCESS), Err)
}
