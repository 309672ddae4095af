//! `secretwell run`

use std::process::ExitCode;

use secretwell::Resolver;

use crate::args::{LogArgs, RunArgs};
use crate::exit::Failure;
use crate::fetch::FetchedSecret;
use crate::logging::with_progress;
use crate::notices::fetch_and_warn;
use crate::policies::Policies;
use crate::program::{Program, exec};
use crate::signals::exit_on_signal_as_init;
use crate::sources::Sources;
use crate::supervisor::Supervisor;
use crate::watch::watch_variables;

/// Fetches the secrets. Then replaces this process with the program, or with `--watch` supervises it.
pub(crate) async fn run(
    sources: Sources,
    args: RunArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let selection = sources.key_selection(&args.selection);
    let naming = sources.naming(&args.selection);
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let signal_guard = exit_on_signal_as_init();
    let fetch = fetch_and_warn(&sources.provider, &selection, args.wait);
    let secrets = with_progress(log, message, fetch).await?;
    drop(signal_guard);
    let variables = naming.variables(&secrets)?;
    for FetchedSecret { key, secret } in &secrets {
        let origin = secret.origin.as_ref().unwrap_or(sources.provider.origin());
        // A version without a number is only meaningful inside of this process.
        let version = secret.version.as_ref().filter(|it| it.number().is_some());
        let version = version.map(tracing::field::display);
        tracing::info!(target: "secretwell::command", event = "secret_read", %key, version, %origin, "secret read");
    }
    Policies::of_profile(&sources.profile).warn(&secrets, &sources.provider);
    let program = Program {
        argv: args.program,
        pristine: args.pristine,
    };
    match args.watch {
        None => Err(exec(program.command(&variables))),
        Some(on_change) => {
            let mut resolver = Resolver::builder(sources.provider);
            if let Some(ttl) = args.ttl {
                resolver = resolver.ttl(ttl);
            }
            let current = variables.clone();
            let changes = watch_variables(resolver.build(), selection, naming, secrets, current);
            let supervisor = Supervisor {
                program,
                format: log.log_format,
                on_change,
                stop_signal: args.stop_signal,
                stop_timeout: args.stop_timeout,
            };
            supervisor.run(variables, changes).await
        }
    }
}
