//! `secretwell check`

use std::process::ExitCode;

use secretwell::auth::{Mode, PreflightOptions, PreflightReport, RefuseList, SecretPolicy};
use secretwell::backend::{Notice, NoticeKind};
use secretwell::{Resolver, SecretKey};

use super::table::format_table;
use super::write_stdout;
use crate::args::{CheckArgs, LogArgs, SelectionArgs};
use crate::exit::{Failure, Reason};
use crate::fetch::{KeySelection, list_keys};
use crate::logging::with_progress;
use crate::notices;
use crate::sources::Sources;

pub(crate) async fn check(
    sources: Sources,
    args: &CheckArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    let modes = match args.mode {
        Some(mode) => vec![mode],
        None => vec![Mode::Production, Mode::Development],
    };
    let refused = match &args.refuse_list {
        Some(file) => RefuseList::read(file)?,
        None => RefuseList::default(),
    };
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let read = async {
        let required = Required::select(&sources, args).await?;
        let reports = reports(&sources, args, &modes, &refused, &required.keys).await;
        // If all keys are checked, a secret that is left out is a problem. Otherwise, the sources need not be
        // listed.
        let notices = match required.is_all {
            true => notices::read(&sources.provider).await,
            false => Ok(notices::read_briefly(&sources.provider).await),
        };
        Ok::<_, Failure>((reports, notices, required))
    };
    let (reports, notices, required) = with_progress(log, message, read).await?;
    let mut text: Vec<_> = reports.iter().map(PreflightReport::to_string).collect();
    let (mut notices, not_listed) = match notices {
        Ok(notices) => (notices, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    notices.retain(|notice| required.concerns(notice));
    if !notices.is_empty() {
        text.push(notice_table(&sources, &required, &notices));
    }
    if let Some(error) = &not_listed {
        let row = vec![format!("  {PROBLEM}"), error.to_string()];
        text.push(format!("notices:\n{}", format_table(&[row])));
    }
    write_stdout(text.join("\n").as_bytes())?;
    let problems = reports.iter().flat_map(PreflightReport::problems);
    let reasons = problems.map(|problem| Reason::from_kind(problem.kind()));
    let is_problem = |notice: &Notice| required.status(notice) == PROBLEM;
    let unreadable = notices.iter().any(is_problem).then_some(Reason::Invalid);
    let not_listed = not_listed.map(|error| Reason::from_kind(error.kind()));
    let worst = reasons.chain(unreadable).chain(not_listed).max();
    Ok(worst.map_or(ExitCode::SUCCESS, Reason::status))
}

/// The keys that are checked.
struct Required {
    keys: Vec<SecretKey>,
    /// Whether these are all keys that the sources list.
    is_all: bool,
}

const PROBLEM: &str = "PROBLEM";

impl Required {
    async fn select(sources: &Sources, args: &CheckArgs) -> Result<Self, Failure> {
        let selection = match &args.require[..] {
            [] => sources.key_selection(&SelectionArgs::default()),
            required => KeySelection::Only(required.to_vec()),
        };
        let (keys, is_all) = match selection {
            KeySelection::Only(keys) => (keys, false),
            KeySelection::All { require } if !require.is_empty() => (require, false),
            KeySelection::All { require } => match list_keys(&sources.provider, &require).await {
                Err(error) => {
                    // Perhaps there are secrets, and none of their names is a valid key.
                    if error.is_not_found() {
                        notices::warn(&sources.provider).await;
                    }
                    return Err(error.into());
                }
                Ok(keys) => (keys, true),
            },
        };
        Ok(Self { keys, is_all })
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

fn notice_table(sources: &Sources, required: &Required, notices: &[Notice]) -> String {
    let row = |notice| {
        let status = format!("  {}", required.status(notice));
        vec![status, notices::describe(notice, &sources.provider)]
    };
    let rows: Vec<_> = notices.iter().map(row).collect();
    format!("notices:\n{}", format_table(&rows))
}

/// Returns one report for each mode.
async fn reports(
    sources: &Sources,
    args: &CheckArgs,
    modes: &[Mode],
    refused: &RefuseList,
    required: &[SecretKey],
) -> Vec<PreflightReport> {
    let is_signing_key =
        |key: &SecretKey| args.signing.contains(key) || sources.profile.signing.contains(key);
    let with_policy = |key: &SecretKey| {
        let policy = match is_signing_key(key) {
            true => SecretPolicy::of_signing_key(key),
            false => SecretPolicy::of_key(key),
        };
        (key.clone(), policy)
    };
    let keys: Vec<_> = required.iter().map(with_policy).collect();
    let resolver = Resolver::new(sources.provider.clone());
    let mut reports = Vec::new();
    for mode in modes {
        let options = PreflightOptions::new(*mode).refuse_list(refused.clone());
        reports.push(PreflightReport::for_keys(&resolver, &keys, &options).await);
    }
    reports
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
