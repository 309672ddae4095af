//! `secretwell doctor`

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use secretwell::infisical::InfisicalProvider;
use secretwell::vault::VaultProvider;
use secretwell::{Error, ErrorKind, KeyPrefix, SecretKey, SecretProvider};
use tokio::time::Instant;

use super::write_stdout;
use crate::args::{DoctorArgs, LogArgs};
use crate::exit::{Failure, Reason};
use crate::fetch::{read, with_alternative};
use crate::logging::with_progress;
use crate::notices;
use crate::sources::Sources;

/// The maximum difference of two clocks. Checks of certificates and tokens commonly tolerate this much.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The results of all diagnostic steps.
#[derive(Debug, Default)]
struct Diagnosis {
    text: String,
    worst: Option<Reason>,
}

pub(crate) async fn doctor(
    sources: &Sources,
    args: &DoctorArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let mut diagnosis = Diagnosis::default();
    let profile = &sources.profile;
    let required = [&args.require, &profile.require, &profile.only];
    let required: Vec<SecretKey> = required.into_iter().flatten().cloned().collect();
    for url in sources
        .urls
        .iter()
        .flat_map(|urls| secretwell::split_urls(urls))
    {
        let provider = secretwell::from_url(url)?;
        let message = || format!("checking {}", provider.origin());
        let diagnose = diagnose(url, &provider, &required, &mut diagnosis);
        with_progress(log, message, diagnose).await?;
    }
    write_stdout(diagnosis.text.as_bytes())?;
    Ok(diagnosis.worst.map_or(ExitCode::SUCCESS, Reason::status))
}

/// Runs the steps for one source, and stops after a step without which the following cannot succeed.
async fn diagnose(
    url: &str,
    provider: &dyn SecretProvider,
    required: &[SecretKey],
    diagnosis: &mut Diagnosis,
) -> Result<(), Failure> {
    diagnosis.title(provider);
    let start = Instant::now();
    let (step, success) = match server_time(url).await? {
        None => ("open", "the source is readable"),
        Some(Err(error)) => {
            diagnosis.problem("reach", &error);
            return Ok(());
        }
        Some(Ok(server_time)) => {
            let millis = start.elapsed().as_millis();
            diagnosis.ok("reach", &format!("the server responded in {millis} ms"));
            diagnosis.clock(server_time);
            ("login", "accepted")
        }
    };
    match provider.health().await {
        // The login was accepted. The steps below show what it must not read.
        Err(error) if step == "login" && error.kind() == ErrorKind::Denied => {}
        Err(error) => {
            diagnosis.problem(failed_step(step, error.kind()), &error);
            return Ok(());
        }
        Ok(()) => {}
    }
    diagnosis.ok(step, success);
    let mut keys = required.to_vec();
    let listed = provider.list(&KeyPrefix::root()).await;
    if listed.is_ok() {
        notices::warn(provider).await;
    }
    match listed {
        Ok(listed) if listed.is_empty() => {
            diagnosis.line(
                "warning",
                "list",
                "the source contains no secrets; check the path",
            );
        }
        Ok(listed) => {
            diagnosis.ok("list", &format!("secrets: {}", listed.len()));
            keys.extend(listed);
        }
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
            let error = with_alternative(error, "set the keys to read with --require");
            match keys.is_empty() {
                true => diagnosis.problem("list", &error),
                false => diagnosis.warning("list", &error),
            }
        }
        Err(error) => diagnosis.problem("list", &error),
    }
    keys.sort();
    keys.dedup();
    let results = read(provider, &keys).await;
    let mut count = 0;
    for result in &results {
        match result {
            Ok(_) => count += 1,
            // Another source might contain the key.
            Err(error) if error.is_not_found() => diagnosis.warning("read", error),
            Err(error) => diagnosis.problem("read", error),
        }
    }
    if count > 0 {
        diagnosis.ok("read", &format!("secrets: {count}"));
    }
    Ok(())
}

/// Returns the name of the step that an error of the health check belongs to. `step` is the name of its success.
fn failed_step(step: &'static str, kind: ErrorKind) -> &'static str {
    match kind {
        _ if step == "open" => step,
        ErrorKind::InvalidConfig | ErrorKind::NotFound => "config",
        // The server responds, but not to this request. For example, it is sealed.
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::RateLimited { .. } => "server",
        _ => step,
    }
}

/// Returns the time of the clock of a remote source. Returns `None` for sources on this machine.
async fn server_time(url: &str) -> Result<Option<Result<SystemTime, Error>>, Failure> {
    let scheme = url.split("://").next().unwrap_or_default();
    let time = match scheme {
        "infisical" | "infisical+http" => {
            let provider = InfisicalProvider::from_url(url)?;
            provider.server_time().await
        }
        "vault" | "vault+http" => VaultProvider::from_url(url)?.server_time().await,
        _ => return Ok(None),
    };
    Ok(Some(time))
}

impl Diagnosis {
    fn title(&mut self, provider: &dyn SecretProvider) {
        self.text += &format!("{}\n", provider.origin());
    }

    fn line(&mut self, status: &str, step: &str, message: &str) {
        self.text += &format!("  {status:<8} {step:<6} {message}\n");
    }

    fn ok(&mut self, step: &str, message: &str) {
        self.line("ok", step, message);
    }

    fn warning(&mut self, step: &str, error: &Error) {
        self.line("warning", step, &error.to_string());
    }

    fn problem(&mut self, step: &str, error: &Error) {
        self.worst = self.worst.max(Some(Reason::from_kind(error.kind())));
        self.line("PROBLEM", step, &error.to_string());
    }

    fn clock(&mut self, server_time: SystemTime) {
        let local_time = SystemTime::now();
        let difference = match server_time.duration_since(local_time) {
            Ok(ahead) => ahead,
            Err(earlier) => earlier.duration(),
        };
        // The server sends its time in whole seconds.
        let seconds = difference.as_secs();
        match difference <= CLOCK_TOLERANCE {
            true => self.ok("clock", "the local clock agrees with the server"),
            false => self.line(
                "warning",
                "clock",
                &format!(
                    "the local clock differs from the server by {seconds} s, so certificates and tokens might be rejected; correct the clock"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_credential_is_a_problem_of_the_login() {
        for (kind, expected) in [
            (ErrorKind::Unauthenticated, "login"),
            (ErrorKind::InvalidConfig, "config"),
            (ErrorKind::Unavailable, "server"),
        ] {
            assert_eq!(failed_step("login", kind), expected);
            assert_eq!(failed_step("open", kind), "open");
        }
    }

    #[test]
    fn small_clock_differences_are_tolerated() {
        for (seconds, message) in [(0, "agrees"), (50, "agrees"), (3600, "differs")] {
            let difference = Duration::from_secs(seconds);
            for server_time in [
                SystemTime::now() + difference,
                SystemTime::now() - difference,
            ] {
                let mut diagnosis = Diagnosis::default();
                diagnosis.clock(server_time);
                assert!(diagnosis.text.contains(message), "{}", diagnosis.text);
            }
        }
    }
}
