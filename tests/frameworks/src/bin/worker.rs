//! A worker without HTTP: it signs each job with the newest secret.

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use secretwell::auth::{BuildContext, BuildError, Guard, LazyAuth};
use secretwell::{ExposeSecret, Resolver, SecretString};
use serde::Deserialize;
use sha2::Sha256;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    webhook_secret: SecretString,
}

/// The value that is built from the secrets.
struct Signer(Hmac<Sha256>);

/// Waits until the secrets can be used. The log contains the reason.
async fn ready(auth: &LazyAuth<Signer>) -> Guard<Signer> {
    loop {
        match auth.ready(Duration::from_secs(60)).await {
            Ok(signer) => return signer,
            Err(_) => tracing::warn!("the worker still waits for its secrets"),
        }
    }
}

/// Writes the signature of `job`. It does not wait, because it borrows the current build.
fn process(signer: &Signer, job: &str) -> io::Result<()> {
    let mut mac = signer.0.clone();
    mac.update(job.as_bytes());
    let signature = mac.finalize().into_bytes();
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(io::stdout(), "{job} {signature}")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let from = env::var("SECRETWELL_FROM").unwrap_or_else(|_| "env://".into());
    let resolver = Resolver::new(secretwell::from_url(&from)?);
    let auth = LazyAuth::new(resolver, |secrets: Secrets, _: BuildContext| async move {
        let key = secrets.webhook_secret.expose_secret().as_bytes();
        let mac = Hmac::new_from_slice(key)?;
        Ok::<_, BuildError>(Signer(mac))
    });

    // Each line of the standard input is a job. A queue has a client instead.
    let (sender, mut jobs) = mpsc::channel(1);
    thread::spawn(move || {
        for job in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(job).is_err() {
                return;
            }
        }
    });
    let mut end = signal(SignalKind::terminate())?;
    loop {
        // The secrets are awaited before a job is taken, so no job is lost while they are missing.
        tokio::select! {
            biased;
            _ = end.recv() => return Ok(()),
            _ = ready(&auth) => {}
        }
        let job = tokio::select! {
            biased;
            _ = end.recv() => return Ok(()),
            job = jobs.recv() => job,
        };
        let Some(job) = job else { return Ok(()) };
        // The secret might have been rotated while the worker waited for the job.
        process(&*ready(&auth).await, &job)?;
    }
}
