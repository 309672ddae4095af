//! A map that remembers when each key was first inserted, so that its oldest entries can be dropped in constant
//! time.

use std::collections::{HashMap, VecDeque};

use secretwell_core::SecretKey;

/// A map from keys to `V`, in the order of insertion.
#[derive(Debug)]
pub(crate) struct KeyMap<V> {
    map: HashMap<SecretKey, V, foldhash::fast::RandomState>,
    /// The keys in the order of their insertion. It contains keys that were removed since.
    order: VecDeque<SecretKey>,
}

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        Self {
            map: HashMap::default(),
            order: VecDeque::new(),
        }
    }
}

impl<V> KeyMap<V> {
    pub(crate) fn get(&self, key: &SecretKey) -> Option<&V> {
        self.map.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &SecretKey) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    pub(crate) fn remove(&mut self, key: &SecretKey) -> Option<V> {
        self.map.remove(key)
    }

    pub(crate) fn insert(&mut self, key: &SecretKey, value: V) {
        if self.map.insert(key.clone(), value).is_some() {
            return;
        }
        // Removed keys are dropped from the order when they are the majority of it.
        if self.order.len() > 2 * self.map.len() + 16 {
            let mut seen = std::collections::HashSet::new();
            let map = &self.map;
            self.order
                .retain(|key| map.contains_key(key) && seen.insert(key.clone()));
        }
        self.order.push_back(key.clone());
    }

    /// Returns the keys at `count` positions of the order from `first` on. Some of them might have been removed.
    /// Returns `None` after the end.
    pub(crate) fn keys(&self, first: usize, count: usize) -> Option<Vec<SecretKey>> {
        let end = self.order.len().min(first + count);
        (first < end).then(|| self.order.range(first..end).cloned().collect())
    }

    /// Removes the oldest entries while there are more than `max`, and passes them to `removed`. Entries that
    /// `is_kept` are moved to the end; at most two of them are looked at.
    pub(crate) fn shrink(
        &mut self,
        max: usize,
        is_kept: impl Fn(&SecretKey, &V) -> bool,
        mut removed: impl FnMut(V),
    ) {
        let mut kept = 0;
        while self.map.len() > max && kept < 2 {
            let Some(key) = self.order.pop_front() else {
                return;
            };
            match self.map.get(&key) {
                Some(value) if is_kept(&key, value) => {
                    kept += 1;
                    self.order.push_back(key);
                }
                Some(_) => self.map.remove(&key).into_iter().for_each(&mut removed),
                None => {}
            }
        }
    }

    /// Removes the entries from the oldest on, until one is not `is_over`.
    pub(crate) fn remove_while(&mut self, is_over: impl Fn(&V) -> bool) {
        while let Some(key) = self.order.front() {
            match self.map.get(key) {
                Some(value) if !is_over(value) => return,
                Some(_) => drop(self.map.remove(key)),
                None => {}
            }
            self.order.pop_front();
        }
    }
}
