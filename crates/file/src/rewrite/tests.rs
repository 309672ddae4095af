//! Tests of [`judge`]: a model of writers and readers, and the waits for each kind of change.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

/// The names in a complete version, and in the first part of one.
const ALL: [u64; 2] = [1, 2];
const PART: [u64; 1] = [1];

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A file as a writer has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Missing,
    Blank {
        inode: u64,
    },
    /// A version of which the second name is missing.
    Part {
        inode: u64,
        version: u64,
    },
    /// Half of a version, which cannot be parsed.
    Torn {
        inode: u64,
        version: u64,
    },
    Whole {
        inode: u64,
        version: u64,
    },
}

/// A file and the memory of its reader, at a time of the test.
struct Watched {
    start: Instant,
    now: Duration,
    changed: Duration,
    /// Whether the file system stores only every other second.
    is_coarse: bool,
    file: File,
    known: Option<Known>,
}

impl Watched {
    fn new(file: File) -> Self {
        Self {
            is_coarse: false,
            start: Instant::now(),
            now: ms(0),
            changed: ms(0),
            file,
            known: None,
        }
    }

    fn write(&mut self, file: File) {
        (self.file, self.changed) = (file, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Looks once, like a read of both names.
    fn look(&mut self) -> Verdict {
        let (inode, content, condition, names): (_, _, _, &[u64]) = match self.file {
            File::Missing => (0, 0, Condition::Good, &[]),
            File::Blank { inode } => (inode, 0, Condition::Blank, &[]),
            File::Part { inode, version } => (inode, version * 10 + 1, Condition::Good, &PART),
            File::Torn { inode, version } => (inode, version * 10 + 2, Condition::Malformed, &[]),
            File::Whole { inode, version } => (inode, version * 10 + 3, Condition::Good, &ALL),
        };
        let (modified, fraction, resolution) = match self.is_coarse {
            true => (ms(self.changed.as_secs() / 2 * 2_000), 0, COARSE),
            // An exact time is never a whole second.
            false => (self.changed, 1, Duration::ZERO),
        };
        let stored = modified + Duration::from_nanos(fraction);
        let stamp = Stamp {
            identity: Identity {
                inode,
                ..Identity::default()
            },
            len: content % 10,
            modified: Some(SystemTime::UNIX_EPOCH + stored),
            content,
        };
        let now = self.start + self.now;
        let seen = Seen {
            began: now,
            ended: now,
            look: match self.file {
                File::Missing => Look::Failed(ErrorKind::NotFound),
                _ => Look::Content(stamp, condition),
            },
            is_doubtful: self.file != File::Missing
                && names.len() < ALL.len()
                && self.now - modified < STABLE + resolution,
        };
        let names = || names.iter().copied().collect::<HashSet<u64>>();
        judge(&mut self.known, &seen, names, GRACE)
    }

    /// Reads like a provider, which waits. Returns the file that counts, or `None` for a temporary error.
    fn read(&mut self) -> Option<File> {
        let end = self.now + PATIENCE;
        loop {
            match self.look() {
                Verdict::Use => return Some(self.file),
                Verdict::Rewriting {
                    wait: Some(wait), ..
                } if self.now + wait <= end => self.pass(wait),
                Verdict::Rewriting { .. } => return None,
            }
        }
    }

    fn is_missing(&self, name: u64) -> bool {
        self.known
            .as_ref()
            .is_some_and(|it| it.missing_names().contains(&name))
    }
}

/// Returns the states through which a writer brings the file, the last one of which is complete.
fn steps(writer: u8, inode: u64, version: u64) -> Vec<File> {
    let whole = |inode| File::Whole { inode, version };
    let blank = |inode| File::Blank { inode };
    let part = |inode| File::Part { inode, version };
    let torn = |inode| File::Torn { inode, version };
    let new = inode + 1;
    match writer {
        // Written in place.
        0 => vec![blank(inode), whole(inode)],
        1 => vec![blank(inode), part(inode), torn(inode), whole(inode)],
        2 => vec![part(inode), whole(inode)],
        3 => vec![torn(inode), blank(inode), whole(inode)],
        // Removed and created.
        4 => vec![File::Missing, blank(new), whole(new)],
        5 => vec![File::Missing, blank(new), part(new), whole(new)],
        6 => vec![File::Missing, part(new), torn(new), whole(new)],
        // Replaced, with a number that the file system uses again.
        7 => vec![File::Missing, whole(inode)],
        // Replaced by a rename or by another target of a link.
        _ => vec![whole(new)],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn judge_never_serves_an_incomplete_file(
        writers in prop::collection::vec((0_u8..9, 0_u64..2_000, prop::collection::vec(0_u64..250, 4)), 1..12),
        looks in prop::collection::vec(prop_oneof![0_u64..400, 0_u64..15_000], 1..80),
        is_coarse: bool,
    ) {
        let mut watched = Watched::new(File::Whole { inode: 0, version: 0 });
        watched.is_coarse = is_coarse;
        // The times at which the file changes.
        let mut changes = Vec::new();
        let (mut time, mut inode) = (0, 0);
        for (version, (writer, pause, gaps)) in (1..).zip(writers) {
            time += pause;
            // Two looks at a missing file do not show whether it was there between them.
            if matches!(writer, 4..=7) {
                time += 11_000;
            }
            for (file, gap) in steps(writer, inode, version).into_iter().zip(gaps) {
                changes.push((ms(time), file));
                if let File::Whole { inode: now, .. } = file { inode = now } else { time += gap }
            }
        }
        let last = changes.last().unwrap().1;
        let mut changes = changes.into_iter().peekable();
        let mut looks = looks.into_iter();
        loop {
            while let Some((time, file)) = changes.next_if(|(time, _)| *time <= watched.now) {
                (watched.file, watched.changed) = (file, time);
            }
            if watched.look() == Verdict::Use {
                prop_assert!(matches!(watched.file, File::Whole { .. }), "{:?}", watched.file);
                prop_assert!(!watched.is_missing(2));
            }
            match looks.next() {
                Some(pause) => watched.pass(ms(pause)),
                None => break,
            }
        }
        watched.write(last);
        watched.pass(STABLE);
        prop_assert_eq!(watched.read(), Some(last));
    }
}

const FIRST: File = File::Whole {
    inode: 1,
    version: 1,
};
const SECOND: File = File::Whole {
    inode: 2,
    version: 2,
};

#[test]
fn first_look_counts_at_once_unless_something_might_be_missing() {
    for (file, wait) in [
        (FIRST, 0),
        (File::Missing, 0),
        (File::Blank { inode: 1 }, 250),
        (
            File::Part {
                inode: 1,
                version: 1,
            },
            250,
        ),
        (
            File::Torn {
                inode: 1,
                version: 1,
            },
            250,
        ),
    ] {
        let mut watched = Watched::new(file);
        assert_eq!(watched.read(), Some(file));
        assert_eq!(watched.now, ms(wait), "{file:?}");
        let mut old = Watched::new(file);
        old.pass(STABLE);
        assert_eq!(old.look(), Verdict::Use, "{file:?}");
    }
}

#[test]
fn replaced_file_counts_at_once_and_a_rewritten_one_after_250_ms() {
    for (file, wait) in [
        (SECOND, 0),
        (
            File::Whole {
                inode: 1,
                version: 2,
            },
            250,
        ),
        (File::Missing, 250),
    ] {
        let mut watched = Watched::new(FIRST);
        watched.look();
        watched.write(file);
        assert_eq!(watched.read(), Some(file));
        assert_eq!(watched.now, ms(wait), "{file:?}");
    }
}

#[test]
fn emptied_file_counts_after_the_grace_only() {
    for inode in [1, 2] {
        let mut watched = Watched::new(FIRST);
        watched.look();
        watched.write(File::Blank { inode });
        assert_eq!(watched.read(), None);
        assert!(watched.now >= PATIENCE - STABLE);
        let waited = watched.now;
        assert_eq!(watched.read(), None);
        watched.pass(ms(300));
        assert_eq!(watched.read(), None);
        assert!(
            watched.now - waited < 2 * PATIENCE,
            "reads wait only at the start"
        );
        watched.pass(GRACE);
        assert_eq!(watched.read(), Some(File::Blank { inode }));
        // From now on it is an empty file like any other.
        watched.write(File::Blank { inode: 3 });
        watched.pass(STABLE);
        assert_eq!(watched.look(), Verdict::Use);
    }
}

#[test]
fn name_that_is_missing_after_a_rewrite_is_missing_until_the_grace_has_passed() {
    let mut watched = Watched::new(FIRST);
    watched.look();
    let part = File::Part {
        inode: 1,
        version: 2,
    };
    watched.write(part);
    assert_eq!(watched.read(), Some(part));
    assert!(watched.is_missing(2) && !watched.is_missing(1) && !watched.is_missing(3));
    watched.pass(GRACE - ms(1));
    assert_eq!(watched.look(), Verdict::Use);
    assert!(watched.is_missing(2));
    watched.pass(ms(1));
    assert_eq!(watched.look(), Verdict::Use);
    assert!(!watched.is_missing(2));
    // After a replacement it is absent at once.
    let mut watched = Watched::new(FIRST);
    watched.look();
    watched.write(File::Part {
        inode: 2,
        version: 2,
    });
    watched.pass(STABLE);
    assert_eq!(watched.look(), Verdict::Use);
    assert!(!watched.is_missing(2));
}

#[test]
fn document_that_is_damaged_in_place_is_malformed_after_the_grace_only() {
    let mut watched = Watched::new(FIRST);
    watched.look();
    let torn = File::Torn {
        inode: 1,
        version: 2,
    };
    watched.write(torn);
    assert_eq!(watched.read(), None);
    watched.pass(GRACE);
    assert_eq!(watched.read(), Some(torn));
    // After a replacement it is malformed at once.
    let torn = File::Torn {
        inode: 2,
        version: 3,
    };
    watched.write(torn);
    watched.pass(STABLE);
    assert_eq!(watched.look(), Verdict::Use);
}

#[test]
fn endless_changes_are_a_temporary_error() {
    let mut watched = Watched::new(FIRST);
    watched.look();
    for version in 2..20 {
        watched.write(File::Whole { inode: 1, version });
        assert_ne!(watched.look(), Verdict::Use);
        watched.pass(ms(249));
    }
    watched.pass(ms(1));
    assert_eq!(watched.look(), Verdict::Use);
}

#[test]
fn copied_file_of_a_layered_file_system_is_the_same_file() {
    let lower = Identity {
        device: 1,
        inode: 7,
        is_layered: true,
        ..Identity::default()
    };
    let copied = Identity {
        device: 2,
        inode: 9,
        created: Some(std::time::SystemTime::UNIX_EPOCH),
        ..lower
    };
    let replaced = Identity { inode: 8, ..lower };
    assert!(lower.is_same_file(&copied));
    assert!(!lower.is_same_file(&replaced));
    let created = |is_layered| Identity {
        created: copied.created,
        is_layered,
        ..lower
    };
    assert!(lower.is_same_file(&created(true)));
    let generation = Identity {
        generation: Some(2),
        ..lower
    };
    assert!(!lower.is_same_file(&generation));
    let plain = Identity {
        is_layered: false,
        ..lower
    };
    assert!(
        !plain.is_same_file(&created(false)),
        "a number that is used again"
    );
}

/// Judges a look that began and ended at a time.
fn judge_at(
    known: &mut Option<Known>,
    at: Instant,
    inode: u64,
    content: u64,
    condition: Condition,
) -> Verdict {
    let stamp = Stamp {
        identity: Identity {
            inode,
            ..Identity::default()
        },
        len: content,
        modified: None,
        content,
    };
    let seen = Seen {
        began: at,
        ended: at,
        look: Look::Content(stamp, condition),
        is_doubtful: false,
    };
    judge(known, &seen, HashSet::new, GRACE)
}

#[test]
fn look_that_is_judged_late_replaces_no_newer_one() {
    let start = Instant::now();
    let mut known = None;
    let mut at = |millis, inode, content| {
        let time = start + ms(millis);
        judge_at(&mut known, time, inode, content, Condition::Good)
    };
    assert_eq!(at(0, 1, 1), Verdict::Use);
    assert_eq!(at(20, 2, 2), Verdict::Use);
    // A slow reader has the first content. It reads again.
    let again = Verdict::Rewriting {
        reason: "it was changed during the read",
        wait: Some(Duration::ZERO),
    };
    assert_eq!(at(10, 1, 1), again);
    // Otherwise, this write to the second file would look like a third file.
    assert_ne!(at(30, 2, 3), Verdict::Use);
    // Nor does a look from before the write confirm anything.
    assert_eq!(at(25, 2, 2), again);
    assert_eq!(at(280, 2, 3), Verdict::Use);
}

#[test]
fn file_that_replaces_an_empty_one_must_stay_the_same() {
    let start = Instant::now();
    let mut known = None;
    let mut at = |millis, inode, content, condition| {
        judge_at(&mut known, start + ms(millis), inode, content, condition)
    };
    assert_eq!(at(0, 1, 1, Condition::Good), Verdict::Use);
    assert_ne!(at(10, 1, 0, Condition::Blank), Verdict::Use);
    assert_ne!(at(20, 2, 2, Condition::Good), Verdict::Use);
    assert_ne!(at(30, 2, 3, Condition::Good), Verdict::Use);
    assert_eq!(at(280, 2, 3, Condition::Good), Verdict::Use);
}

/// On a file system that stores whole seconds, a file can be changed and changed back without another time.
#[test]
fn coarse_time_does_not_prove_that_an_empty_file_has_stayed_empty() {
    let mut watched = Watched::new(File::Blank { inode: 1 });
    watched.is_coarse = true;
    watched.look();
    watched.pass(ms(543));
    // It was complete between the two looks.
    watched.write(File::Blank { inode: 1 });
    assert_ne!(watched.look(), Verdict::Use);
    watched.pass(STABLE + COARSE - ms(543));
    assert_eq!(watched.look(), Verdict::Use);
}
