//! The keys whose values a provider might keep although they have changed.

use std::collections::BTreeSet;

use secretwell_core::SecretKey;
use secretwell_core::backend::Change;

/// The maximum number of keys that are marked one by one.
const MAX_KEYS: usize = 10_000;

/// The keys that have changed since they were last read.
///
/// A change of all keys is stored as the set of keys that were read since. Its size is therefore bounded,
/// although the number of keys is not.
#[derive(Debug)]
pub(crate) struct Marks {
    named: BTreeSet<SecretKey>,
    /// After a change of all keys: the keys that were read since.
    all_except: Option<BTreeSet<SecretKey>>,
    /// Whether a change of all keys marks keys.
    marks_all: bool,
}

impl Marks {
    /// Creates marks without any key.
    pub(crate) fn new() -> Self {
        Self {
            named: BTreeSet::new(),
            all_except: None,
            marks_all: true,
        }
    }

    /// Makes only named keys be marked.
    pub(crate) fn only_named(self) -> Self {
        Self {
            marks_all: false,
            ..self
        }
    }

    /// Marks the keys of `change`.
    pub(crate) fn add(&mut self, change: &Change) {
        match change {
            Change::Keys(keys) => self.named.extend(keys.iter().cloned()),
            _ if self.marks_all => self.add_all(),
            _ => {}
        }
        if self.named.len() > MAX_KEYS {
            self.add_all();
        }
    }

    fn add_all(&mut self) {
        self.named.clear();
        self.all_except = Some(BTreeSet::new());
    }

    /// Returns whether `key` is marked, and removes its mark.
    pub(crate) fn take(&mut self, key: &SecretKey) -> bool {
        let is_named = self.named.remove(key);
        let Some(read) = &mut self.all_except else {
            return is_named;
        };
        // The keys that are removed here are marked once more.
        if read.len() == MAX_KEYS {
            read.clear();
        }
        read.insert(key.clone()) || is_named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SecretKey {
        SecretKey::parse(text).unwrap()
    }

    fn change(names: &[&str]) -> Change {
        Change::Keys(names.iter().map(|name| key(name)).collect())
    }

    #[test]
    fn named_key_is_marked_until_it_is_read() {
        let mut marks = Marks::new();
        assert!(!marks.take(&key("A")));
        marks.add(&change(&["A"]));
        assert!(!marks.take(&key("B")));
        assert!(marks.take(&key("A")));
        assert!(!marks.take(&key("A")));
    }

    #[test]
    fn change_of_all_marks_each_key_once() {
        let mut marks = Marks::new();
        marks.add(&Change::All);
        for name in ["A", "B"] {
            assert!(marks.take(&key(name)));
            assert!(!marks.take(&key(name)));
        }
        marks.add(&change(&["A"]));
        assert!(marks.take(&key("A")), "a named change after one of all");
        assert!(!marks.take(&key("A")));
        marks.add(&Change::All);
        assert!(marks.take(&key("B")), "a second change of all");
    }

    #[test]
    fn change_of_all_can_leave_unnamed_keys_unmarked() {
        let mut marks = Marks::new().only_named();
        marks.add(&change(&["A"]));
        assert!(marks.take(&key("A")));
        marks.add(&Change::All);
        assert!(!marks.take(&key("A")));
        marks.add(&change(&["A"]));
        marks.add(&Change::All);
        assert!(marks.take(&key("A")), "the named change is not lost");
    }

    #[test]
    fn number_of_marks_is_bounded_and_no_changed_key_is_unmarked() {
        let names: Vec<String> = (0..=MAX_KEYS).map(|number| format!("K{number}")).collect();
        for mut marks in [Marks::new(), Marks::new().only_named()] {
            for name in &names {
                marks.add(&change(&[name]));
            }
            assert!(marks.named.len() <= MAX_KEYS);
            for name in &names {
                assert!(marks.take(&key(name)), "{name}");
                let read = marks.all_except.as_ref().map_or(0, BTreeSet::len);
                assert!(read <= MAX_KEYS);
            }
        }
    }
}
