//! `secretwell run`

use std::process::ExitCode;

use secretwell::Resolver;

use crate::args::{Log, Run};
use crate::exit::Failure;
use crate::follow::follow;
use crate::place::Setup;
use crate::program::{Program, become_program};
use crate::read::{Found, read};
use crate::say::with_progress;
use crate::signals::end_when_told;
use crate::supervise::Supervisor;

/// Reads the secrets, and then becomes the program or looks after it.
pub(crate) async fn run(setup: Setup, run: Run, log: &Log) -> Result<ExitCode, Failure> {
    let wanted = setup.wanted(&run.selection);
    let naming = setup.naming(&run.selection);
    let what = || format!("reading the secrets from {}", setup.provider.origin());
    let waiting = end_when_told();
    let secrets = with_progress(log, what, read(&setup.provider, &wanted, run.wait)).await?;
    drop(waiting);
    let variables = naming.variables(&secrets)?;
    for Found { key, secret } in &secrets {
        let origin = secret.origin.as_ref().unwrap_or(setup.provider.origin());
        let version = secret.version.as_ref().map(tracing::field::display);
        tracing::info!(target: "secretwell::command", event = "secret_read", %key, version, %origin, "secret read");
    }
    let program = Program {
        words: run.program,
        pristine: run.pristine,
    };
    match run.watch {
        None => Err(become_program(program.command(&variables))),
        Some(on_change) => {
            let mut resolver = Resolver::builder(setup.provider);
            if let Some(ttl) = run.ttl {
                resolver = resolver.ttl(ttl);
            }
            let known = variables.clone();
            let news = follow(resolver.build(), wanted, naming, secrets, known);
            let supervisor = Supervisor {
                program,
                format: log.log_format,
                on_change,
                stop_signal: run.stop_signal,
                stop_timeout: run.stop_timeout,
            };
            supervisor.run(variables, news).await
        }
    }
}
