//! A map that remembers the order in which its keys were inserted, so that its oldest entries can be dropped
//! without a search.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use secretwell_core::SecretKey;

/// A map from keys to `V`, in the order of the last insertion of each key.
#[derive(Debug)]
pub(crate) struct KeyMap<V> {
    map: HashMap<SecretKey, (u64, V), foldhash::fast::RandomState>,
    /// The keys by the number of their insertion.
    order: BTreeMap<u64, SecretKey>,
    /// The number of the next insertion.
    next: u64,
}

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        Self {
            map: HashMap::default(),
            order: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<V> KeyMap<V> {
    pub(crate) fn get(&self, key: &SecretKey) -> Option<&V> {
        self.map.get(key).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &SecretKey) -> Option<&mut V> {
        self.map.get_mut(key).map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, key: &SecretKey) -> Option<V> {
        let (number, value) = self.map.remove(key)?;
        self.order.remove(&number);
        Some(value)
    }

    /// Adds or replaces the value of `key`, which becomes the newest one.
    pub(crate) fn insert(&mut self, key: &SecretKey, value: V) {
        if let Some((number, _)) = self.map.insert(key.clone(), (self.next, value)) {
            self.order.remove(&number);
        }
        self.order.insert(self.next, key.clone());
        self.next += 1;
    }

    /// Returns the number of the next insertion.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// Returns the first `count` keys whose numbers are in `range`, with their numbers.
    pub(crate) fn keys(&self, range: Range<u64>, count: usize) -> Vec<(u64, SecretKey)> {
        let keys = self.order.range(range).take(count);
        keys.map(|(number, key)| (*number, key.clone())).collect()
    }

    /// Removes the oldest entries while there are more than `max`, and passes them to `removed`. Entries that
    /// `is_kept` become the newest ones; at most two of them are checked.
    pub(crate) fn shrink(
        &mut self,
        max: usize,
        is_kept: impl Fn(&SecretKey) -> bool,
        mut removed: impl FnMut(V),
    ) {
        let mut kept = 0;
        while self.map.len() > max && kept < 2 {
            let Some((_, key)) = self.order.pop_first() else {
                return;
            };
            let Some((_, value)) = self.map.remove(&key) else {
                continue;
            };
            if is_kept(&key) {
                kept += 1;
                self.insert(&key, value);
            } else {
                removed(value);
            }
        }
    }

    /// Removes the entries from the oldest on, until one is not `is_over`.
    pub(crate) fn remove_while(&mut self, is_over: impl Fn(&V) -> bool) {
        while let Some(oldest) = self.order.first_entry() {
            let value = self.map.get(oldest.get());
            if value.is_some_and(|(_, value)| !is_over(value)) {
                return;
            }
            self.map.remove(oldest.get());
            oldest.remove();
        }
    }
}
