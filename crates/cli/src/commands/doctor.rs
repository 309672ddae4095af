//! `secretwell doctor`

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use secretwell::infisical::InfisicalProvider;
use secretwell::vault::VaultProvider;
use secretwell::{Error, ErrorKind, KeyPrefix, SecretKey, SecretProvider};
use tokio::time::Instant;

use super::write;
use crate::args::{Doctor, Log};
use crate::exit::{Failure, Reason};
use crate::place::Setup;
use crate::say::with_progress;

/// How far two clocks may be apart: what checks of certificates and tokens commonly allow.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// What was found, step by step on the way to a secret.
#[derive(Debug, Default)]
struct Findings {
    text: String,
    worst: Option<Reason>,
}

pub(crate) async fn doctor(setup: &Setup, doctor: &Doctor, log: &Log) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    let profile = &setup.profile;
    let required = [&doctor.require, &profile.require, &profile.only];
    let required: Vec<SecretKey> = required.into_iter().flatten().cloned().collect();
    for url in setup
        .urls
        .iter()
        .flat_map(|urls| secretwell::split_urls(urls))
    {
        let provider = secretwell::from_url(url)?;
        let what = || format!("asking {}", provider.origin());
        let examination = examine(url, &provider, &required, &mut findings);
        with_progress(log, what, examination).await?;
    }
    write(findings.text.as_bytes())?;
    Ok(findings.worst.map_or(ExitCode::SUCCESS, Reason::status))
}

async fn examine(
    url: &str,
    provider: &dyn SecretProvider,
    required: &[SecretKey],
    findings: &mut Findings,
) -> Result<(), Failure> {
    findings.title(provider);
    let asked_at = Instant::now();
    let (step, good) = match server_time(url).await? {
        None => ("open", "it can be read"),
        Some(Err(error)) => {
            findings.problem("reach", &error);
            return Ok(());
        }
        Some(Ok(theirs)) => {
            let millis = asked_at.elapsed().as_millis();
            findings.good("reach", &format!("it answers, in {millis} ms"));
            findings.clock(theirs);
            ("login", "accepted")
        }
    };
    if let Err(error) = provider.health().await {
        findings.problem(step, &error);
        return Ok(());
    }
    findings.good(step, good);
    let mut keys = required.to_vec();
    match provider.list(&KeyPrefix::root()).await {
        Ok(listed) if listed.is_empty() => {
            findings.line("warning", "list", "there is no secret; is the place right?");
        }
        Ok(listed) => {
            findings.good("list", &format!("secrets: {}", listed.len()));
            keys.extend(listed);
        }
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
            let error = error.with_hint("name the keys that are needed, here by --require");
            match keys.is_empty() {
                true => findings.problem("list", &error),
                false => findings.warning("list", &error),
            }
        }
        Err(error) => findings.problem("list", &error),
    }
    keys.sort();
    keys.dedup();
    let answers = provider.get_many(&keys).await;
    let mut read = 0;
    for answer in &answers {
        match answer {
            Ok(_) => read += 1,
            // Another source may have it.
            Err(error) if error.is_not_found() => findings.warning("read", error),
            Err(error) => findings.problem("read", error),
        }
    }
    if read > 0 {
        findings.good("read", &format!("secrets: {read}"));
    }
    Ok(())
}

/// What time it is where a remote source is; `None` for sources on this machine.
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

impl Findings {
    fn title(&mut self, provider: &dyn SecretProvider) {
        self.text += &format!("{}\n", provider.origin());
    }

    fn line(&mut self, verdict: &str, step: &str, found: &str) {
        self.text += &format!("  {verdict:<8} {step:<6} {found}\n");
    }

    fn good(&mut self, step: &str, found: &str) {
        self.line("ok", step, found);
    }

    fn warning(&mut self, step: &str, found: &Error) {
        self.line("warning", step, &found.to_string());
    }

    fn problem(&mut self, step: &str, found: &Error) {
        self.worst = self.worst.max(Some(Reason::of(found.kind())));
        self.line("PROBLEM", step, &found.to_string());
    }

    fn clock(&mut self, theirs: SystemTime) {
        let ours = SystemTime::now();
        let apart = match theirs.duration_since(ours) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        // The server tells whole seconds.
        let seconds = apart.as_secs();
        match apart <= CLOCK_TOLERANCE {
            true => self.good("clock", "agrees with the server's"),
            false => self.line(
                "warning",
                "clock",
                &format!(
                    "{seconds} s from the server's; certificates and tokens may be refused: set it right"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        for (seconds, told) in [(0, "agrees"), (50, "agrees"), (3600, "s from the server's")] {
            let apart = Duration::from_secs(seconds);
            for theirs in [SystemTime::now() + apart, SystemTime::now() - apart] {
                let mut findings = Findings::default();
                findings.clock(theirs);
                assert!(findings.text.contains(told), "{}", findings.text);
            }
        }
    }
}
