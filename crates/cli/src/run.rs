//! `secretwell run`

use std::process::ExitCode;
use std::time::Duration;

use secretwell::Resolver;
use tokio::time::Instant;

use crate::args::{LogArgs, RunArgs};
use crate::decide::ProgramSecrets;
use crate::exit::Failure;
use crate::fetch::FetchedSecret;
use crate::logging::with_progress;
use crate::notices::fetch_and_warn;
use crate::previous::Previous;
use crate::program::{Program, exec};
use crate::signals::exit_on_signal_as_init;
use crate::sources::Sources;
use crate::supervisor::Supervisor;
use crate::watch::{Watched, watch_secrets};

/// The maximum pause between two attempts of a supervisor to read a secret.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Fetches the secrets. Then replaces this process with the program, or with `--watch` supervises it.
pub(crate) async fn run(
    sources: Sources,
    args: RunArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let mut previous = Previous::new(args.previous, args.previous_grace);
    let selection = sources.key_selection(&args.selection);
    let selection = selection.with_required(previous.keys());
    let naming = sources.naming(&args.selection);
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let signal_guard = exit_on_signal_as_init();
    let fetch = async {
        let secrets = fetch_and_warn(&sources.provider, &selection, args.wait).await?;
        previous.check(&naming, &secrets)?;
        previous.read(&sources.provider, &naming, &secrets).await;
        Ok(secrets)
    };
    let secrets = with_progress(log, message, fetch).await?;
    drop(signal_guard);
    let variables = naming.variables(&secrets)?;
    for FetchedSecret { key, secret } in &secrets {
        let origin = secret.origin.as_ref().unwrap_or(sources.provider.origin());
        let version = secret.version.as_ref().map(tracing::field::display);
        tracing::info!(target: "secretwell::command", event = "secret_read", %key, version, %origin, "secret read");
    }
    let program = Program {
        argv: args.program,
        pristine: args.pristine,
    };
    let Some(on_change) = args.watch else {
        let variables = previous.variables(&secrets, &variables, Instant::now());
        return Err(exec(program.command(&variables)));
    };
    let mut resolver = Resolver::builder(sources.provider).max_backoff(MAX_BACKOFF);
    if let Some(ttl) = args.ttl {
        resolver = resolver.ttl(ttl);
    }
    let watched = Watched {
        selection,
        naming,
        on_missing: args.on_missing,
        ttl: args.ttl,
    };
    let actions = watch_secrets(resolver.build(), watched, &secrets);
    let supervisor = Supervisor {
        program,
        format: log.log_format,
        on_change,
        stop_signal: args.stop_signal,
        stop_timeout: args.stop_timeout,
        splay: args.splay,
        previous,
    };
    supervisor
        .run(ProgramSecrets { secrets, variables }, actions)
        .await
}
