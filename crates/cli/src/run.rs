//! `secretwell run`

use std::collections::BTreeSet;
use std::env;
use std::process::ExitCode;
use std::time::Duration;

use secretwell::Resolver;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::args::{LogArgs, OnChange, RunArgs};
use crate::credentials::{credentials_in_use, log_removed, values_of};
use crate::decide::ProgramSecrets;
use crate::exit::{Failure, Reason};
use crate::fetch::FetchedSecret;
use crate::files::SecretFiles;
use crate::logging::with_progress;
use crate::notices::fetch_and_warn;
use crate::policies::Policies;
use crate::previous::Previous;
use crate::program::{Program, exec};
use crate::signals::exit_on_signal_as_init;
use crate::sources::{Sources, check_single_names};
use crate::supervisor::Supervisor;
use crate::variables::{Naming, ShellNameWarning};
use crate::watch::{Watched, watch_secrets};

/// The maximum pause between two attempts of a supervisor to read a secret.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Fetches the secrets. Then replaces this process with the program, or with `--watch` or `--file` supervises it.
pub(crate) async fn run(
    sources: Sources,
    args: RunArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let previous = sources.previous(&args);
    let additional = args.file.iter().chain(&previous).map(|(key, _)| key);
    let selection = sources.key_selection(&args.selection).including(additional);
    let removed = match args.keep_credentials {
        true => Vec::new(),
        false => credentials_in_use(&sources.urls)?,
    };
    let mut naming = naming(&sources, &args, &removed)?;
    naming.credentials = values_of(&removed);
    naming.required = selection.required().iter().cloned().collect();
    let kept = |(_, name): &(_, String)| naming.kept.contains(name);
    let passed = previous.into_iter().filter(|pair| !kept(pair));
    let mut previous = Previous::new(passed.collect(), args.previous_grace);
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let signal_guard = exit_on_signal_as_init();
    let fetch = async {
        let secrets = fetch_and_warn(&sources.provider, &selection, args.wait).await?;
        previous.check(&naming, &secrets)?;
        previous.read(&sources.provider, &naming, &secrets).await;
        Ok::<_, Failure>(secrets)
    };
    let secrets = with_progress(log, message, fetch).await?;
    let variables = naming.variables(&secrets)?;
    for name in naming.kept_names(&secrets) {
        tracing::info!(target: "secretwell::command", event = "variable_kept", name, "the variable `{name}` is already set and keeps its value");
    }
    log_removed(&removed, &variables);
    for FetchedSecret { key, secret } in &secrets {
        let origin = secret.origin.as_ref().unwrap_or(sources.provider.origin());
        // A version without a number is only meaningful inside of this process.
        let version = secret.version.as_ref().filter(|it| it.number().is_some());
        let version = version.map(tracing::field::display);
        tracing::info!(target: "secretwell::command", event = "secret_read", %key, version, %origin, "secret read");
    }
    let policies = Policies::of_profile(&sources.profile);
    policies.warn(&secrets, &sources.provider);
    let program = Program {
        argv: args.program,
        pristine: args.pristine,
        removed,
    };
    let files = SecretFiles::new(args.file.into_iter().map(|(_, name)| name));
    if args.watch.is_none() && files.is_empty() {
        let variables = previous.variables(&secrets, &variables, Instant::now());
        ShellNameWarning::default().warn(&variables);
        return Err(exec(program.command(&variables)));
    }
    let actions = match args.watch {
        // Nothing is read again.
        None => mpsc::unbounded_channel().1,
        Some(_) => {
            let mut resolver = Resolver::builder(sources.provider).max_backoff(MAX_BACKOFF);
            if let Some(ttl) = args.ttl {
                resolver = resolver.ttl(ttl);
            }
            let watched = Watched {
                selection,
                naming,
                on_missing: args.on_missing,
                policies,
                previous: previous.keys().cloned().collect(),
                ttl: args.ttl,
            };
            watch_secrets(resolver.build(), watched, &secrets)
        }
    };
    let supervisor = Supervisor {
        program,
        files,
        names: ShellNameWarning::default(),
        format: log.log_format,
        on_change: args.watch.unwrap_or(OnChange::Restart),
        stop_signal: args.stop_signal,
        stop_timeout: args.stop_timeout,
        splay: args.splay,
        previous,
    };
    let secrets = ProgramSecrets { secrets, variables };
    supervisor.run(secrets, actions, signal_guard).await
}

/// Returns the rules for the variables of the program. `removed` are the variables that it does not inherit.
fn naming(sources: &Sources, args: &RunArgs, removed: &[String]) -> Result<Naming, Failure> {
    let mapped = |key| args.selection.map.iter().any(|(mapped, _)| mapped == key);
    if let Some((key, _)) = args.file.iter().find(|(key, _)| mapped(key)) {
        let message = format!("{key} is in both --map and --file; remove it from one of them");
        return Err(Failure::new(Reason::Usage, message));
    }
    check_single_names("--file", &args.file)?;
    let mut naming = sources.naming(&args.selection)?;
    naming.files = args.file.iter().cloned().collect();
    if (args.keep_env || sources.profile.keep_env) && !args.pristine {
        let set = env::vars_os().filter(|(_, value)| !value.is_empty());
        let names: BTreeSet<String> = set
            .filter_map(|(name, _)| name.into_string().ok())
            .collect();
        naming.kept = names
            .into_iter()
            .filter(|name| !removed.contains(name))
            .collect();
    }
    Ok(naming)
}
