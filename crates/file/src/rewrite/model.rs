//! A model of [`judge`]: random steps of writers and looks of readers, against a specification of the evidence that a
//! result needs.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

/// What a writer has left in a file. A complete version has the names 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Blank,
    /// The name 2 is missing.
    Part,
    /// It cannot be parsed.
    Torn,
    Whole,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Writes to the file that exists, or creates it.
    Write(Text),
    /// Renames a new file to the name.
    Rename(Text),
    /// Changes the modification time only.
    Touch,
    Remove,
    Deny,
    Allow,
    /// Reads the name 1, or both names.
    Look {
        both: bool,
    },
    /// Reads the name 1, and is so slow that the next look is judged earlier.
    SlowLook,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    inode: u64,
    version: u64,
    text: Text,
}

/// The file system and its clock.
#[derive(Debug, Default)]
struct Disk {
    now: Duration,
    changed: Duration,
    file: Option<File>,
    is_denied: bool,
    inodes: u64,
    versions: u64,
}

impl Disk {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Write(text) | Step::Rename(text) => {
                self.versions += 1;
                let inode = match self.file {
                    Some(file) if matches!(step, Step::Write(_)) => file.inode,
                    _ => {
                        self.inodes += 1;
                        self.inodes
                    }
                };
                let version = self.versions;
                self.file = Some(File {
                    inode,
                    version,
                    text,
                });
                self.changed = self.now;
            }
            Step::Touch => self.changed = self.now,
            Step::Remove => self.file = None,
            Step::Deny => self.is_denied = true,
            Step::Allow => self.is_denied = false,
            Step::Look { .. } | Step::SlowLook => {}
        }
    }

    fn look(&self) -> (Look, &'static [u64]) {
        let Some(file) = self.file else {
            return (Look::Failed(ErrorKind::NotFound), &[]);
        };
        if self.is_denied {
            return (Look::Failed(ErrorKind::Denied), &[]);
        }
        let (condition, names): (_, &[u64]) = match file.text {
            Text::Blank => (Condition::Blank, &[]),
            Text::Part => (Condition::Good, &[1]),
            Text::Torn => (Condition::Malformed, &[]),
            Text::Whole => (Condition::Good, &[1, 2]),
        };
        let content = match file.text {
            Text::Blank => 0,
            _ => file.version,
        };
        let stamp = Stamp {
            identity: Identity {
                inode: file.inode,
                ..Identity::default()
            },
            len: content,
            modified: Some(SystemTime::UNIX_EPOCH + self.changed),
            content,
        };
        (Look::Content(stamp, condition), names)
    }
}

/// What a reader has seen, as far as the specification needs it.
#[derive(Debug, Default)]
struct Spec {
    /// The previous look: the file, unless it was missing (`None`) or unreadable.
    previous: Option<Result<Option<File>, ()>>,
    /// Whether good content counted, and no absence after it.
    had_content: bool,
    /// Whether the name 2 was there, and no absence of it counted.
    had_second_name: bool,
    /// Whether the content was not there as a whole when the file was seen for the first time.
    is_in_place: bool,
    /// The version that counted last.
    used: Option<u64>,
    missing_since: Option<Duration>,
}

impl Spec {
    fn notice(&mut self, disk: &Disk) {
        let current = match disk.file {
            Some(_) if disk.is_denied => Err(()),
            file => Ok(file),
        };
        match current {
            Ok(None) => _ = self.missing_since.get_or_insert(disk.now),
            _ => self.missing_since = None,
        }
        if let Ok(Some(file)) = current {
            self.is_in_place = match self.previous {
                None => false,
                Some(Ok(Some(before))) if before.inode == file.inode => {
                    self.is_in_place || before.version != file.version
                }
                Some(Ok(Some(before))) => before.text == Text::Blank,
                // A file that never counted is read as if for the first time.
                Some(Ok(None) | Err(())) => self.used.is_some(),
            };
        }
        self.previous = Some(current);
    }

    /// Returns an error if the result of the look that was noticed last must not be used.
    fn check_use(&mut self, disk: &Disk, both: bool, is_missing: bool) -> Result<(), &'static str> {
        let age = disk.now - disk.changed;
        let Some(file) = disk.file else {
            let since = self.missing_since.unwrap_or(disk.now);
            let was_there = self.had_content || self.used.is_some();
            *self = Self::default();
            return match was_there && disk.now - since < STABLE {
                true => Err("missing without confirmation"),
                false => Ok(()),
            };
        };
        if disk.is_denied || file.text == Text::Torn {
            return Ok(());
        }
        if file.text == Text::Blank {
            let needed = if self.had_content { GRACE } else { STABLE };
            (self.had_content, self.had_second_name) = (false, false);
            self.used = Some(file.version);
            return if age < needed { Err("blank") } else { Ok(()) };
        }
        if self.is_in_place && age < STABLE && self.used != Some(file.version) {
            return Err("rewritten a moment ago");
        }
        self.used = Some(file.version);
        self.had_content = true;
        if file.text == Text::Whole {
            self.had_second_name = true;
            return Ok(());
        }
        let needed = match self.had_second_name && self.is_in_place {
            true => GRACE,
            false => STABLE,
        };
        if !self.is_in_place {
            self.had_second_name = false;
        }
        if both && !is_missing && age < needed {
            return Err("a name is absent");
        }
        // A look for another name proves the absence too.
        self.had_second_name &= age < needed;
        Ok(())
    }
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        1 => Just(Text::Blank),
        1 => Just(Text::Part),
        1 => Just(Text::Torn),
        3 => Just(Text::Whole),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => text().prop_map(Step::Write),
        2 => text().prop_map(Step::Rename),
        1 => Just(Step::Touch),
        1 => Just(Step::Remove),
        1 => Just(Step::Deny),
        2 => Just(Step::Allow),
        2 => Just(Step::SlowLook),
        11 => any::<bool>().prop_map(|both| Step::Look { both }),
    ]
}

fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..20,
        4 => 0_u64..400,
        2 => 0_u64..5_000,
        1 => 0_u64..70_000,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn result_is_used_only_with_the_evidence_that_it_needs(
        steps in prop::collection::vec((pause(), step()), 1..60),
    ) {
        let start = Instant::now();
        let (mut disk, mut spec, mut known) = (Disk::default(), Spec::default(), None);
        let steps: Vec<_> = [(0, Step::Write(Text::Whole))].into_iter().chain(steps).collect();
        let seen = |disk: &Disk, both| {
            let (look, names) = disk.look();
            let is_young = matches!(look, Look::Content(..)) && disk.now - disk.changed < STABLE;
            let seen = Seen {
                began: start + disk.now,
                ended: start + disk.now,
                is_doubtful: is_young && (names.is_empty() || both && names.len() < 2),
                look,
            };
            (seen, names)
        };
        let mut slow = Vec::new();
        let mut look = |disk: &Disk, spec: &mut Spec, both, slow: &mut Vec<(Seen, &[u64])>| {
            let set = |names: &[u64]| names.iter().copied().collect::<HashSet<u64>>();
            let (seen, names) = seen(disk, both);
            spec.notice(disk);
            let verdict = judge(&mut known, &seen, || set(names), GRACE);
            let is_missing = known.as_ref().is_some_and(|it| it.missing_names().contains(&2));
            let result = match verdict {
                Verdict::Use => spec.check_use(disk, both, is_missing).map(|()| true),
                Verdict::Rewriting { .. } => Ok(false),
            };
            for (seen, names) in slow.drain(..) {
                let stamps = |known: &Option<Known>| {
                    let known = known.as_ref()?;
                    let accepted = known.accepted.as_ref().map(|it| it.stamp.clone());
                    let candidate = known.candidate.as_ref().map(|it| it.look.clone());
                    Some((accepted, candidate))
                };
                let before = stamps(&known);
                let is_late = known.as_ref().is_some_and(|it| it.newest > Some(seen.began));
                judge(&mut known, &seen, || set(names), GRACE);
                if is_late && stamps(&known) != before {
                    return Err("a slow look replaced a newer one");
                }
                // Nothing was known, and the specification is to know nothing either.
                if !is_late {
                    known = None;
                    *spec = Spec::default();
                }
            }
            result
        };
        for (index, (pause, step)) in steps.iter().enumerate() {
            disk.now += Duration::from_millis(*pause);
            disk.apply(*step);
            match *step {
                Step::Look { both } => {
                    let result = look(&disk, &mut spec, both, &mut slow);
                    prop_assert!(result.is_ok(), "{:?} at step {index}: {disk:?}", result);
                }
                Step::SlowLook => slow.push(seen(&disk, false)),
                _ => {}
            }
        }
        // When nothing changes any more, everything counts in the end.
        let mut is_used = false;
        for wait in [STABLE, STABLE, GRACE, STABLE] {
            disk.now += wait;
            is_used = look(&disk, &mut spec, true, &mut slow).unwrap();
        }
        prop_assert!(is_used);
    }
}
