//! `secretwell doctor`

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use secretwell::auth::{Mode, PreflightOptions, PreflightReport};
use secretwell::infisical::InfisicalProvider;
use secretwell::vault::VaultProvider;
use secretwell::{Error, ErrorKind, KeyPrefix, SecretKey, SecretProvider};
use serde::Serialize;
use tokio::time::Instant;

use super::check::KeyResult;
use super::output::{Problem, write_json};
use super::write_stdout;
use crate::args::{DoctorArgs, LogArgs, ReportFormat};
use crate::exit::{Failure, Reason};
use crate::fetch::{read, with_alternative};
use crate::logging::with_progress;
use crate::notices;
use crate::policies::{Policies, with_advice_of_command};
use crate::sources::Sources;

/// The maximum difference of two clocks. Checks of certificates and tokens commonly tolerate this much.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The results of all diagnostic steps.
#[derive(Debug, Default, Serialize)]
struct Diagnosis {
    sources: Vec<SourceSteps>,
    #[serde(skip)]
    worst: Option<Reason>,
    /// Whether a source cannot be reached or opened.
    #[serde(skip)]
    has_unusable_source: bool,
}

#[derive(Debug, Serialize)]
struct SourceSteps {
    origin: String,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    status: &'static str,
    /// One line of text.
    message: String,
    problem: Option<Problem>,
}

/// The JSON document of the command.
#[derive(Serialize)]
struct DoctorResult {
    #[serde(flatten)]
    diagnosis: Diagnosis,
    /// The results of the required keys. It is empty if a source cannot be read.
    required: Vec<KeyResult>,
}

pub(crate) async fn doctor(
    sources: &Sources,
    args: &DoctorArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let mut diagnosis = Diagnosis::default();
    let profile = &sources.profile;
    let required = sources.selection_of_profile().including(&profile.signing);
    let required = required.required().iter().chain(&args.require);
    let required: BTreeSet<SecretKey> = required.cloned().collect();
    let required: Vec<SecretKey> = required.into_iter().collect();
    let urls = sources.urls.iter();
    let urls: Vec<_> = urls.flat_map(|urls| secretwell::split_urls(urls)).collect();
    let mut missing = 0;
    for url in &urls {
        let provider = secretwell::from_url(url)?;
        let message = || format!("checking {}", provider.origin());
        let is_only_source = urls.len() == 1;
        let diagnose = async {
            match diagnose_access(url, &provider, &mut diagnosis).await? {
                Ok(()) => {
                    diagnose_reads(&provider, &required, is_only_source, &mut diagnosis).await
                }
                // Another source might have the keys. If all sources are missing, the last one is the problem.
                Err((step, error)) if error.is_not_found() && missing + 1 < urls.len() => {
                    diagnosis.warning(step, &error);
                    missing += 1;
                }
                Err((step, error)) => {
                    diagnosis.problem(step, &error);
                    diagnosis.has_unusable_source = true;
                }
            }
            Ok::<_, Failure>(())
        };
        with_progress(log, message, diagnose).await?;
    }
    // The problem of an unusable source is the reason for missing keys.
    let report = match required.is_empty() || diagnosis.has_unusable_source {
        true => None,
        false => {
            let message = || format!("reading secrets from {}", sources.provider.origin());
            let report = check_required(sources, &required);
            Some(with_progress(log, message, report).await?)
        }
    };
    let problems = report.iter().flat_map(PreflightReport::problems);
    let reasons = problems.map(|problem| Reason::from_kind(problem.kind()));
    let worst = diagnosis.worst.into_iter().chain(reasons).max();
    if args.format == ReportFormat::Json {
        let checks = report.iter().flat_map(PreflightReport::checks);
        let required = checks.map(KeyResult::from).collect();
        let result = DoctorResult {
            diagnosis,
            required,
        };
        return write_json(&result, worst);
    }
    let report = report.map(|report| with_advice_of_command(&report.to_string()));
    let report = report
        .map(|report| format!("\n{report}"))
        .unwrap_or_default();
    write_stdout(format!("{diagnosis}{report}").as_bytes())?;
    Ok(worst.map_or(ExitCode::SUCCESS, Reason::status))
}

/// Checks the required keys in the current mode, as a service would.
async fn check_required(
    sources: &Sources,
    required: &[SecretKey],
) -> Result<PreflightReport, Failure> {
    let options = [PreflightOptions::new(Mode::from_env()?)];
    let policies = Policies::of_profile(&sources.profile);
    let reports = policies.check(&sources.provider, required, &options).await;
    reports.into_iter().next().ok_or_else(|| {
        Failure::new(
            Reason::Invalid,
            "the required keys were not checked; report this as an error",
        )
    })
}

/// Runs the steps up to the login. Returns the step that failed, if secrets cannot be read.
async fn diagnose_access(
    url: &str,
    provider: &dyn SecretProvider,
    diagnosis: &mut Diagnosis,
) -> Result<Result<(), (&'static str, Error)>, Failure> {
    diagnosis.title(provider);
    let start = Instant::now();
    let (step, success) = match server_time(url).await? {
        None => ("open", "the source is readable"),
        Some(Err(error)) => {
            return Ok(Err(("reach", error)));
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
            return Ok(Err((failed_step(step, error.kind()), error)));
        }
        Ok(()) => {}
    }
    diagnosis.ok(step, success);
    Ok(Ok(()))
}

/// Lists the keys of one source, and reads them and the required keys. The required keys are checked later, so an error
/// of one is only noted, and only if another source might have the key.
async fn diagnose_reads(
    provider: &dyn SecretProvider,
    required: &[SecretKey],
    is_only_source: bool,
    diagnosis: &mut Diagnosis,
) {
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
    for (key, result) in keys.iter().zip(&results) {
        match result {
            Ok(_) => count += 1,
            Err(_) if is_only_source && required.contains(key) => {}
            Err(error) if required.contains(key) => diagnosis.note("read", error),
            // The secret was deleted after it was listed.
            Err(error) if error.is_not_found() => diagnosis.note("read", error),
            Err(error) => diagnosis.problem("read", error),
        }
    }
    if count > 0 {
        diagnosis.ok("read", &format!("secrets: {count}"));
    }
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
        self.sources.push(SourceSteps {
            origin: provider.origin().to_string(),
            steps: Vec::new(),
        });
    }

    fn push(
        &mut self,
        status: &'static str,
        step: &'static str,
        message: String,
        problem: Option<Problem>,
    ) {
        if let Some(source) = self.sources.last_mut() {
            source.steps.push(Step {
                step,
                status,
                message,
                problem,
            });
        }
    }

    fn line(&mut self, status: &'static str, step: &'static str, message: &str) {
        self.push(status, step, message.to_owned(), None);
    }

    fn ok(&mut self, step: &'static str, message: &str) {
        self.line("ok", step, message);
    }

    fn note(&mut self, step: &'static str, error: &Error) {
        self.push("note", step, error.to_string(), Some(error.into()));
    }

    fn warning(&mut self, step: &'static str, error: &Error) {
        self.push("warning", step, error.to_string(), Some(error.into()));
    }

    fn problem(&mut self, step: &'static str, error: &Error) {
        self.worst = self.worst.max(Some(Reason::from_kind(error.kind())));
        self.push("problem", step, error.to_string(), Some(error.into()));
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

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SourceSteps { origin, steps } in &self.sources {
            writeln!(f, "{origin}")?;
            for Step {
                step,
                status,
                message,
                ..
            } in steps
            {
                let status = match *status {
                    "problem" => "PROBLEM",
                    status => status,
                };
                writeln!(f, "  {status:<8} {step:<6} {message}")?;
            }
        }
        Ok(())
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
                diagnosis.title(&secretwell::MemoryProvider::new());
                diagnosis.clock(server_time);
                let text = diagnosis.to_string();
                assert!(text.contains(message), "{text}");
            }
        }
    }
}
