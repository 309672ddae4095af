//! Decides when the content of a file counts, although programs write files in several steps.
//!
//! A file that is written in place is empty, incomplete and complete in turn. The reader looks at it repeatedly and
//! passes each look to [`judge`], which returns whether the content counts. The decision depends only on the looks and
//! on what is remembered of earlier ones, so it needs no clock and no file.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use secretwell_core::ErrorKind;
use tokio::time::Instant;

use crate::identity::Identity;

/// The time for which a file that is written in place must stay the same before its content counts.
pub(crate) const STABLE: Duration = Duration::from_millis(250);
/// The resolution of the times of some file systems. FAT stores every other second.
pub(crate) const COARSE: Duration = Duration::from_secs(2);
/// The time for which a read waits for the end of a rewrite.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The time within which a missing file must be looked at again. After a longer time, it might have been there meanwhile.
const CONFIRMATION: Duration = Duration::from_secs(10);

/// One content of one file. It contains no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) identity: Identity,
    pub(crate) len: u64,
    pub(crate) modified: Option<SystemTime>,
    /// A keyed hash. Times and lengths are not enough: some file systems store whole seconds.
    pub(crate) content: u64,
}

/// Returns whether a file system might have stored this time only for every other second.
pub(crate) fn is_coarse(modified: Option<SystemTime>) -> bool {
    let since_epoch = modified.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
    since_epoch.is_none_or(|it| it.subsec_nanos() == 0)
}

/// What the content of a file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Good,
    /// There is nothing but white space.
    Blank,
    Malformed,
}

/// What one look at a file has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    Content(Stamp, Condition),
    /// The file changed during each attempt to read it.
    Unstable,
    /// The file does not exist, or it cannot be read.
    Failed(ErrorKind),
}

/// A look, with its time.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) look: Look,
    /// Whether the file is so young that its writer might not have finished, and something is absent from it.
    pub(crate) is_doubtful: bool,
}

/// Whether the content of a look counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The content or the failure counts.
    Use,
    /// The file is being rewritten, or it was emptied or damaged a short time ago.
    Rewriting {
        reason: &'static str,
        /// The time after which another look is worthwhile for a caller that waits.
        wait: Option<Duration>,
    },
}

/// What is remembered of a file: hashes and times, but no value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The content that counts.
    accepted: Option<Accepted>,
    /// The newest look, as long as it differs from the content that counts.
    candidate: Option<Candidate>,
    /// The start of the newest look.
    newest: Option<Instant>,
    /// Whether the last content that counted was good.
    had_content: bool,
    /// The time since which the content is blank or malformed, although it was good.
    unusable_since: Option<Instant>,
    /// The hash of the content that has these names, and the hashes of the names.
    names: (Option<u64>, HashSet<u64>),
    /// Names that were in the file before it was rewritten, and since when they are missing.
    missing: HashMap<u64, Instant>,
}

#[derive(Debug, Clone)]
struct Accepted {
    stamp: Stamp,
    condition: Condition,
    /// The time of the first look that has found it.
    since: Instant,
    /// Whether it was written in place, and not by replacing the file.
    is_rewritten: bool,
}

#[derive(Debug, Clone)]
struct Candidate {
    look: Look,
    since: Instant,
    is_rewritten: bool,
}

/// Decides whether the content of a look counts, and remembers the look.
///
/// - Content that replaces a file, as by a rename, counts at once, unless the file was empty.
/// - Content that was written in place counts when two looks, at least [`STABLE`] apart, have found it.
/// - A file that disappears or becomes unreadable is looked at again after the same time.
/// - A doubtful absence is confirmed in the same way.
/// - A file that becomes blank, or is damaged in place, counts only after `grace`. Each write starts the time again.
///
/// Only a file that disappears is forgotten. A file that becomes unreadable is still known.
///
/// `names` returns the hashes of the names in a good document.
pub(crate) fn judge(
    known: &mut Option<Known>,
    seen: &Seen,
    names: impl FnOnce() -> HashSet<u64>,
    grace: Duration,
) -> Verdict {
    let memory = known.get_or_insert_default();
    if let Err(wait) = memory.settle(seen) {
        let reason = match seen.look {
            _ if wait.is_zero() => "it was changed during the read",
            Look::Content(..) => "it was written a moment ago",
            Look::Unstable => "it changes during each read",
            Look::Failed(ErrorKind::NotFound) => "it disappeared a moment ago",
            Look::Failed(_) => "it became unreadable a moment ago",
        };
        let wait = Some(wait);
        return Verdict::Rewriting { reason, wait };
    }
    match seen.look {
        Look::Content(ref stamp, condition) => {
            // A look that is judged late agrees with the newest one here.
            let now = memory.newest.map_or(seen.ended, |it| it.max(seen.ended));
            memory.judge_content(stamp, condition, names, grace, now)
        }
        Look::Unstable | Look::Failed(_) => {
            if memory.accepted.is_none() {
                *known = None;
            }
            Verdict::Use
        }
    }
}

impl Known {
    /// Returns whether the file exists, as far as it is known.
    pub(crate) fn has_content(&self) -> bool {
        self.accepted.is_some()
    }

    /// Returns the names that are missing since a rewrite that is more recent than the grace.
    pub(crate) fn missing_names(&self) -> HashSet<u64> {
        self.missing.keys().copied().collect()
    }

    /// Accepts the look, or returns the time after which the next look can be accepted.
    fn settle(&mut self, seen: &Seen) -> Result<(), Duration> {
        let is_accepted = match (&self.accepted, &seen.look) {
            (Some(Accepted { stamp, .. }), Look::Content(found, _)) => {
                (stamp.content, stamp.len) == (found.content, found.len)
            }
            _ => false,
        };
        let is_late = self.newest.is_some_and(|newest| seen.began < newest);
        // A look that began later has found something else, so this one must not replace it.
        if is_late && (!is_accepted || self.candidate.is_some()) {
            return Err(Duration::ZERO);
        }
        if is_accepted {
            if !is_late {
                self.notice_accepted(seen);
            }
            let since = self.accepted.as_ref().map_or(seen.ended, |it| it.since);
            let age = seen.began.saturating_duration_since(since);
            return match seen.is_doubtful && age < STABLE {
                true => Err(STABLE - age),
                false => Ok(()),
            };
        }
        self.newest = Some(seen.began);
        let is_replacement = self.is_replacement(&seen.look);
        if is_replacement && !seen.is_doubtful {
            self.accept(seen, seen.ended, false);
            return Ok(());
        }
        if let Some(candidate) = &self.candidate
            && candidate.look == seen.look
            && let age = seen.began.saturating_duration_since(candidate.since)
            && match seen.look {
                Look::Unstable => false,
                Look::Failed(ErrorKind::NotFound) => age < CONFIRMATION,
                Look::Content(..) | Look::Failed(_) => true,
            }
        {
            let stable = match &seen.look {
                // The file might have changed and changed back between the looks, without another time.
                Look::Content(stamp, _) if seen.is_doubtful && is_coarse(stamp.modified) => {
                    STABLE + COARSE
                }
                _ => STABLE,
            };
            if age < stable {
                return Err((stable - age).min(STABLE));
            }
            let (since, is_rewritten) = (candidate.since, candidate.is_rewritten);
            self.accept(seen, since, is_rewritten);
            return Ok(());
        }
        self.candidate = Some(Candidate {
            look: seen.look.clone(),
            since: seen.ended,
            is_rewritten: !is_replacement,
        });
        Err(STABLE)
    }

    /// Notes a look that has found the content that counts.
    fn notice_accepted(&mut self, seen: &Seen) {
        (self.candidate, self.newest) = (None, Some(seen.began));
        if let (Some(accepted), Look::Content(stamp, _)) = (&mut self.accepted, &seen.look)
            && accepted.stamp != *stamp
        {
            // The same content was written again, so its writer might not have finished.
            (accepted.stamp, accepted.since) = (stamp.clone(), seen.ended);
            self.restart_grace(seen.ended);
        }
    }

    /// Returns whether the look shows another file than the look before, which was not written in place.
    fn is_replacement(&self, look: &Look) -> bool {
        let (before, condition) = match (&self.candidate, &self.accepted) {
            // The file was missing or changed a moment ago, so its writer might not have finished.
            (Some(Candidate { look, .. }), _) => match look {
                Look::Content(stamp, condition) => (stamp, *condition),
                Look::Unstable | Look::Failed(_) => return false,
            },
            (None, Some(accepted)) => (&accepted.stamp, accepted.condition),
            (None, None) => return *look != Look::Unstable,
        };
        match look {
            // A program that removes an empty file and creates it again might not have finished either.
            Look::Content(stamp, _) => {
                condition != Condition::Blank && !stamp.identity.is_same_file(&before.identity)
            }
            Look::Unstable | Look::Failed(_) => false,
        }
    }

    fn accept(&mut self, seen: &Seen, since: Instant, is_rewritten: bool) {
        match &seen.look {
            Look::Content(stamp, condition) => {
                self.restart_grace(seen.ended);
                self.candidate = None;
                self.accepted = Some(Accepted {
                    stamp: stamp.clone(),
                    condition: *condition,
                    since,
                    is_rewritten,
                });
            }
            Look::Failed(ErrorKind::NotFound) => self.accepted = None,
            // The failure counts, but the file still exists. What is found next is compared with this look.
            Look::Unstable | Look::Failed(_) => {}
        }
    }

    /// Starts the grace again, because the file was written again.
    fn restart_grace(&mut self, now: Instant) {
        self.unusable_since = None;
        self.missing.values_mut().for_each(|since| *since = now);
    }

    fn judge_content(
        &mut self,
        stamp: &Stamp,
        condition: Condition,
        names: impl FnOnce() -> HashSet<u64>,
        grace: Duration,
        now: Instant,
    ) -> Verdict {
        let is_rewritten = self.accepted.as_ref().is_some_and(|it| it.is_rewritten);
        let reason = match condition {
            Condition::Blank => "it had content and is empty now",
            Condition::Malformed if is_rewritten => "it was rewritten and cannot be parsed now",
            Condition::Malformed => return Verdict::Use,
            Condition::Good => {
                self.update_names(stamp.content, names, is_rewritten, now);
                self.missing.retain(|_, since| now - *since < grace);
                self.had_content = true;
                return Verdict::Use;
            }
        };
        if !self.had_content {
            return Verdict::Use;
        }
        let age = now - *self.unusable_since.get_or_insert(now);
        if age < grace {
            let wait = (age < PATIENCE).then_some(STABLE);
            return Verdict::Rewriting { reason, wait };
        }
        if condition == Condition::Blank {
            *self = Self {
                accepted: self.accepted.take(),
                newest: self.newest,
                ..Self::default()
            };
        }
        Verdict::Use
    }

    /// Notes which names are missing since a rewrite.
    fn update_names(
        &mut self,
        content: u64,
        names: impl FnOnce() -> HashSet<u64>,
        is_rewritten: bool,
        now: Instant,
    ) {
        if self.names.0 == Some(content) {
            return;
        }
        let names = names();
        if is_rewritten {
            for name in self.names.1.difference(&names) {
                self.missing.insert(*name, now);
            }
            self.missing.retain(|name, _| !names.contains(name));
        } else {
            self.missing.clear();
        }
        self.names = (Some(content), names);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
