//! What a provider remembers of the files that it has read.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rewrite::{Known, Seen, Verdict, judge};

/// The number of files that are remembered.
const MAX_FILES: usize = 10_000;

/// What is known of each file, by its path. It contains no values.
pub(crate) struct Memory {
    /// Hashes names and contents, with a random key.
    hasher: RandomState,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    by_path: HashMap<String, Remembered>,
    /// The number of looks so far.
    looks: u64,
}

struct Remembered {
    known: Known,
    /// The number of the last look.
    last_look: u64,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            files: Mutex::default(),
        }
    }

    /// Returns a hash with a key that is random for each provider.
    pub(crate) fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    /// Judges a look at a file. See [`judge`]. Returns also the names that are missing since a rewrite.
    pub(crate) fn judge(
        &self,
        path: &str,
        seen: &Seen,
        names: impl FnOnce() -> HashSet<u64>,
        grace: Duration,
    ) -> (Verdict, HashSet<u64>) {
        let mut files = self.lock();
        files.looks += 1;
        let last_look = files.looks;
        let mut known = files.by_path.remove(path).map(|it| it.known);
        let verdict = judge(&mut known, seen, names, grace);
        let missing = known.as_ref().map(Known::missing_names);
        if let Some(known) = known {
            files.evict();
            let remembered = Remembered { known, last_look };
            files.by_path.insert(path.to_owned(), remembered);
        }
        (verdict, missing.unwrap_or_default())
    }

    /// Returns the paths of files that existed at the last look.
    pub(crate) fn existing(&self) -> Vec<String> {
        let files = self.lock();
        let existing = (files.by_path.iter()).filter(|(_, it)| it.known.has_content());
        existing.map(|(path, _)| path.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// Forgets the files whose last look is the longest ago, if there are too many.
    fn evict(&mut self) {
        if self.by_path.len() < MAX_FILES {
            return;
        }
        let mut looks: Vec<u64> = self.by_path.values().map(|it| it.last_look).collect();
        let (_, middle, _) = looks.select_nth_unstable(MAX_FILES / 2);
        let middle = *middle;
        self.by_path.retain(|_, it| it.last_look > middle);
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::ErrorKind;
    use tokio::time::Instant;

    use super::*;
    use crate::identity::Identity;
    use crate::rewrite::{Condition, Look, Stamp};

    fn look(memory: &Memory, path: &str, look: Look) {
        let now = Instant::now();
        let seen = Seen {
            began: now,
            ended: now,
            look,
            is_doubtful: false,
        };
        memory.judge(path, &seen, HashSet::new, Duration::ZERO);
    }

    #[test]
    fn files_that_were_read_the_longest_ago_are_forgotten() {
        let memory = Memory::new();
        let content = || {
            let stamp = Stamp {
                identity: Identity::default(),
                len: 1,
                modified: None,
                content: 1,
            };
            Look::Content(stamp, Condition::Good)
        };
        for number in 0..3 * MAX_FILES {
            look(&memory, "used", content());
            look(&memory, &number.to_string(), content());
            // A file that does not exist is not remembered.
            look(&memory, "missing", Look::Failed(ErrorKind::NotFound));
        }
        let existing = memory.existing();
        assert!((MAX_FILES / 2..=MAX_FILES).contains(&existing.len()));
        assert!(existing.contains(&"used".to_owned()));
        assert!(existing.contains(&(3 * MAX_FILES - 1).to_string()));
        assert!(!existing.contains(&"missing".to_owned()));
    }
}
