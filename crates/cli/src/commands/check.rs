//! `secretwell check`

use std::process::ExitCode;

use secretwell::auth::{
    Check, Mode, PreflightOptions, PreflightReport, RefuseList, SecretPolicy, Status,
};
use secretwell::backend::{Notice, NoticeKind};
use secretwell::{Error, SecretKey};
use serde::Serialize;

use super::output::{Noticed, Problem, shown_version, write_json};
use super::table::format_table;
use super::write_stdout;
use crate::args::{CheckArgs, LogArgs, ReportFormat, SelectionArgs};
use crate::exit::{Failure, Reason};
use crate::fetch::{KeySelection, list_keys, read};
use crate::logging::with_progress;
use crate::notices;
use crate::policies::{Policies, with_advice_of_command};
use crate::sources::Sources;

pub(crate) async fn check(
    sources: Sources,
    args: &CheckArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    if let Some(key) = args.unchecked.iter().find(|key| args.signing.contains(key)) {
        let message = format!("{key} is named with --signing and with --unchecked; remove one");
        return Err(Failure::new(Reason::Usage, message));
    }
    let modes = match args.mode {
        Some(mode) => vec![mode],
        None => vec![Mode::Production, Mode::Development],
    };
    let refused = match &args.refuse_list {
        Some(file) => RefuseList::read(file)?,
        None => RefuseList::default(),
    };
    let options = |mode: Mode| PreflightOptions::new(mode).refuse_list(refused.clone());
    let options: Vec<_> = modes.into_iter().map(options).collect();
    let policies = Policies::of_profile(&sources.profile);
    let policies = policies.with_options(&args.signing, &args.unchecked);
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let read = async {
        let (required, not_listed) = Required::select(&sources, args, &policies).await;
        let reports = match not_listed.is_some() && required.keys.is_empty() {
            true => Vec::new(),
            false => {
                policies
                    .check(&sources.provider, &required.keys, &options)
                    .await
            }
        };
        // If all keys are checked, a secret that is left out is a problem. Otherwise, the sources need not be
        // listed.
        let notices = match not_listed {
            Some(error) => Err(error),
            None if required.is_all => notices::read(&sources.provider).await,
            None => Ok(notices::read_briefly(&sources.provider).await),
        };
        (required, reports, notices)
    };
    let (required, reports, notices) = with_progress(log, message, read).await;
    let (mut notices, not_listed) = match notices {
        Ok(notices) => (notices, None),
        Err(error) if reports.is_empty() && args.format == ReportFormat::Text => {
            return Err(error.into());
        }
        Err(error) => (Vec::new(), Some(error)),
    };
    notices.retain(|notice| required.concerns(notice));
    let problems = reports.iter().flat_map(PreflightReport::problems);
    let reasons = problems.map(|problem| Reason::from_kind(problem.kind()));
    let is_problem = |notice: &Notice| required.status(notice) == PROBLEM;
    let unreadable = notices.iter().any(is_problem).then_some(Reason::Invalid);
    let list_reason = not_listed
        .as_ref()
        .map(|error| Reason::from_kind(error.kind()));
    let worst = reasons.chain(unreadable).chain(list_reason).max();
    if args.format == ReportFormat::Json {
        let result = CheckResult::new(&sources, &required, &reports, &notices, not_listed.as_ref());
        return write_json(&result, worst);
    }
    let mut text: Vec<_> = reports
        .iter()
        .map(|report| with_advice_of_command(&report.to_string()))
        .collect();
    if !notices.is_empty() {
        text.push(notice_table(&sources, &required, &notices));
    }
    if let Some(error) = &not_listed {
        let row = vec![format!("  {PROBLEM}"), error.to_string()];
        text.push(format!("notices:\n{}", format_table(&[row])));
    }
    write_stdout(text.join("\n").as_bytes())?;
    Ok(worst.map_or(ExitCode::SUCCESS, Reason::status))
}

/// The JSON document of the command.
#[derive(Serialize)]
struct CheckResult {
    origin: String,
    modes: Vec<ModeResult>,
    notices: Vec<Noticed>,
    /// The reason if the sources cannot be listed.
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct ModeResult {
    mode: Mode,
    ready: bool,
    checks: Vec<KeyResult>,
}

/// The result of one key.
#[derive(Serialize)]
pub(super) struct KeyResult {
    key: String,
    status: &'static str,
    policy: SecretPolicy,
    version: Option<String>,
    origin: Option<String>,
    problem: Option<Problem>,
}

impl CheckResult {
    fn new(
        sources: &Sources,
        required: &Required,
        reports: &[PreflightReport],
        notices: &[Notice],
        not_listed: Option<&Error>,
    ) -> Self {
        let mode = |report: &PreflightReport| ModeResult {
            mode: report.mode(),
            ready: report.is_ready(),
            checks: report.checks().iter().map(KeyResult::from).collect(),
        };
        let notice = |notice: &Notice| {
            let status = match required.status(notice) {
                PROBLEM => "problem",
                status => status,
            };
            Noticed::new(notice, status, &sources.provider)
        };
        Self {
            origin: sources.provider.origin().to_string(),
            modes: reports.iter().map(mode).collect(),
            notices: notices.iter().map(notice).collect(),
            problems: not_listed.map(Problem::from).into_iter().collect(),
        }
    }
}

impl From<&Check> for KeyResult {
    fn from(check: &Check) -> Self {
        let (status, secret, error) = match &check.status {
            Status::Passed(secret) => ("ok", Some(secret), None),
            Status::Warning(error) => ("warning", None, Some(error)),
            Status::Failed(error) => ("problem", None, Some(error)),
            _ => ("absent", None, None),
        };
        let origin = secret.map(|secret| &secret.origin);
        let origin = origin.or(error.and_then(Error::origin));
        Self {
            key: check.key.to_string(),
            status,
            policy: check.policy,
            version: shown_version(secret.and_then(|secret| secret.version.as_ref())),
            origin: origin.map(ToString::to_string),
            problem: error.map(Problem::from),
        }
    }
}

/// The keys that are checked.
struct Required {
    keys: Vec<SecretKey>,
    /// Whether these are all keys that the sources list.
    is_all: bool,
}

const PROBLEM: &str = "PROBLEM";

impl Required {
    /// Selects the keys. Also returns the reason if the sources cannot be listed, although the program of the profile
    /// needs their lists.
    async fn select(
        sources: &Sources,
        args: &CheckArgs,
        policies: &Policies,
    ) -> (Self, Option<Error>) {
        let (selection, is_all, signing) = match &args.require[..] {
            [] => {
                let of_profile = sources.key_selection(&SelectionArgs::default());
                let is_all =
                    matches!(&of_profile, KeySelection::All { require } if require.is_empty());
                (sources.selection_of_profile(), is_all, policies.signing())
            }
            required => (
                KeySelection::Only(required.to_vec()),
                false,
                &args.signing[..],
            ),
        };
        let with_keys = |keys, is_all| Self { keys, is_all };
        match selection.including(signing) {
            KeySelection::Only(keys) => (with_keys(keys, false), None),
            KeySelection::All { require } => match list_keys(&sources.provider, &require).await {
                Ok(listed) if is_all => (with_keys(listed, true), None),
                Ok(listed) => {
                    let others = others_to_check(sources, &require, &listed, policies).await;
                    (with_keys([require, others].concat(), false), None)
                }
                Err(error) => {
                    // Perhaps there are secrets, and none of their names is a valid key.
                    if error.is_not_found() {
                        notices::warn(&sources.provider).await;
                    }
                    (with_keys(require, is_all), Some(error))
                }
            },
        }
    }

    /// Returns whether `notice` is printed. One without a key might be about a key that is misspelled. The error of a
    /// checked key that cannot be read is in the reports.
    fn concerns(&self, notice: &Notice) -> bool {
        let Some(key) = &notice.key else {
            return true;
        };
        match notice.kind {
            NoticeKind::ReadDifferently => self.keys.contains(key),
            _ => self.is_all && !self.keys.contains(key),
        }
    }

    fn status(&self, notice: &Notice) -> &'static str {
        match notice.kind {
            NoticeKind::ReadDifferently => "note",
            NoticeKind::Unreadable if self.is_all => PROBLEM,
            _ => "warning",
        }
    }
}

/// Returns the keys of `listed` that are not required, but are a problem if the program of the profile reads them: those
/// that cannot be read, and those of signing secrets.
async fn others_to_check(
    sources: &Sources,
    require: &[SecretKey],
    listed: &[SecretKey],
    policies: &Policies,
) -> Vec<SecretKey> {
    let others = listed.iter().filter(|key| !require.contains(key));
    let others: Vec<SecretKey> = others.cloned().collect();
    let results = read(&sources.provider, &others).await;
    let others = others
        .into_iter()
        .zip(results)
        .filter(|(key, result)| match result {
            // A program can start with an empty secret that is not required.
            Ok(secret) => policies.of(key) != SecretPolicy::Unchecked && !secret.value.is_empty(),
            // The secret was deleted after it was listed.
            Err(error) => !error.is_not_found(),
        });
    others.map(|(key, _)| key).collect()
}

fn notice_table(sources: &Sources, required: &Required, notices: &[Notice]) -> String {
    let row = |notice| {
        let status = format!("  {}", required.status(notice));
        vec![status, notices::describe(notice, &sources.provider)]
    };
    let rows: Vec<_> = notices.iter().map(row).collect();
    format!("notices:\n{}", format_table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_printed_by_their_kind_and_by_the_checked_keys() {
        let key = SecretKey::from_static;
        let required = |is_all| Required {
            keys: vec![key("A")],
            is_all,
        };
        let shown = |required: &Required, kind, key: Option<&SecretKey>| {
            let mut notice = Notice::new(kind, "x", "x");
            notice.key = key.cloned();
            let status = required.status(&notice);
            required.concerns(&notice).then_some(status)
        };
        let (checked, other) = (key("A"), key("B"));
        for (kind, key, of_all, of_some) in [
            (
                NoticeKind::ReadDifferently,
                Some(&checked),
                Some("note"),
                Some("note"),
            ),
            (NoticeKind::ReadDifferently, Some(&other), None, None),
            (
                NoticeKind::ReadDifferently,
                None,
                Some("note"),
                Some("note"),
            ),
            (NoticeKind::NotAKey, None, Some("warning"), Some("warning")),
            // The report has the error of the checked key.
            (NoticeKind::Unreadable, Some(&checked), None, None),
            (NoticeKind::Unreadable, Some(&other), Some(PROBLEM), None),
            (NoticeKind::Unreadable, None, Some(PROBLEM), Some("warning")),
        ] {
            assert_eq!(
                shown(&required(true), kind, key),
                of_all,
                "{kind:?} {key:?}"
            );
            assert_eq!(
                shown(&required(false), kind, key),
                of_some,
                "{kind:?} {key:?}"
            );
        }
    }
}
