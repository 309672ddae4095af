//! The cached keys of one source by number, with the times at which they need attention, and the choice of a
//! key to evict. Every operation takes constant or logarithmic time.

use std::collections::BTreeMap;
use std::time::Duration;

use secretwell_core::SecretKey;

use crate::clock::Time;

/// The resolution of planned times. An event can be this much late.
const SLICE_MILLIS: u64 = 8;
/// At most this many keys get a second chance for one eviction.
const MAX_CHANCES: usize = 16;
/// The position of a key that must not be evicted, and the number after the last key of a list.
const NONE: u32 = u32::MAX;

/// The cached keys of one source, each with a number that stays the same while the key is cached.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The keys that can be evicted.
    evictable: Vec<u32>,
    /// The position in `evictable` at which the next eviction starts.
    hand: usize,
    /// The number of the first key with a planned event in each slice of time. The other keys of the slice follow
    /// as a list in `slots`, because many keys share a slice.
    plan: BTreeMap<u64, u32>,
    started: Time,
}

#[derive(Debug)]
struct Slot {
    key: Option<SecretKey>,
    /// The position in `evictable`, or [`NONE`].
    position: u32,
    /// The mark of the last read when the key was last considered for eviction.
    last_read: u32,
    /// The slice of the planned event, or 0.
    due: u64,
    /// The numbers of the keys before and after this one in the list of its slice, or [`NONE`].
    previous: u32,
    next: u32,
}

impl Slots {
    pub(crate) fn new(started: Time) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            evictable: Vec::new(),
            hand: 0,
            plan: BTreeMap::new(),
            started,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns the keys with `count` numbers from `first` on. Returns `None` after the last number.
    pub(crate) fn keys(&self, first: usize, count: usize) -> Option<Vec<SecretKey>> {
        let end = self.slots.len().min(first + count);
        let slots = self
            .slots
            .get(first..end)
            .filter(|slots| !slots.is_empty())?;
        Some(slots.iter().filter_map(|slot| slot.key.clone()).collect())
    }

    /// Adds a key, and returns its number.
    pub(crate) fn add(&mut self, key: SecretKey, pinned: bool) -> u32 {
        let slot = Slot {
            key: Some(key),
            position: NONE,
            last_read: 0,
            due: 0,
            previous: NONE,
            next: NONE,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                push(&mut self.slots, slot);
                to_number(self.slots.len() - 1)
            }
        };
        if !pinned {
            self.unpin(number);
        }
        number
    }

    pub(crate) fn remove(&mut self, number: u32) {
        self.pin(number);
        self.cancel(number);
        self.slots[number as usize].key = None;
        self.free.push(number);
    }

    /// Protects a key from eviction.
    pub(crate) fn pin(&mut self, number: u32) {
        let position = std::mem::replace(&mut self.slots[number as usize].position, NONE);
        if position == NONE {
            return;
        }
        self.evictable.swap_remove(position as usize);
        if let Some(moved) = self.evictable.get(position as usize) {
            self.slots[*moved as usize].position = position;
        }
    }

    pub(crate) fn unpin(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if slot.position == NONE {
            slot.position = to_number(self.evictable.len());
            push(&mut self.evictable, number);
        }
    }

    /// Records the mark of the last read of a new key.
    pub(crate) fn set_last_read(&mut self, number: u32, last_read: u32) {
        self.slots[number as usize].last_read = last_read;
    }

    /// Returns a key to evict, other than `kept`. The keys are considered in turn. A key that was read since it
    /// was last considered gets a second chance. `last_read` returns the mark of the last read of a key.
    pub(crate) fn victim(
        &mut self,
        kept: u32,
        last_read: impl Fn(&SecretKey) -> Option<u32>,
    ) -> Option<SecretKey> {
        let mut last = None;
        for _ in 0..MAX_CHANCES {
            self.hand = if self.hand < self.evictable.len() {
                self.hand
            } else {
                0
            };
            let number = *self.evictable.get(self.hand)?;
            self.hand += 1;
            let slot = &mut self.slots[number as usize];
            let Some(key) = slot.key.as_ref().filter(|_| number != kept) else {
                continue;
            };
            last = Some(key.clone());
            let now = last_read(key);
            if now == Some(slot.last_read) {
                // The newest key takes the position of the evicted one. It is considered after all others.
                break;
            }
            slot.last_read = now.unwrap_or_default();
        }
        last
    }

    /// Plans the next event of a key. Replaces its planned event.
    pub(crate) fn plan(&mut self, number: u32, at: Time) {
        let slice = at
            .since(self.started)
            .as_nanos()
            .div_ceil(u128::from(SLICE_MILLIS * 1_000_000));
        let slice = u64::try_from(slice).unwrap_or(u64::MAX).max(1);
        if self.slots[number as usize].due != slice {
            self.cancel(number);
            let next = self.plan.insert(slice, number).unwrap_or(NONE);
            if let Some(next) = self.slots.get_mut(next as usize) {
                next.previous = number;
            }
            let slot = &mut self.slots[number as usize];
            (slot.due, slot.previous, slot.next) = (slice, NONE, next);
        }
    }

    fn cancel(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        let due = std::mem::take(&mut slot.due);
        if due == 0 {
            return;
        }
        let (previous, next) = (slot.previous, slot.next);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.slots.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None if next == NONE => drop(self.plan.remove(&due)),
            None => drop(self.plan.insert(due, next)),
        }
    }

    /// Returns the time of the next planned event.
    pub(crate) fn next(&self) -> Option<Time> {
        let (slice, _) = self.plan.first_key_value()?;
        Some(self.time(*slice))
    }

    /// Returns the first planned event, if it is due at `until`, and removes it.
    pub(crate) fn pop(&mut self, until: Time) -> Option<SecretKey> {
        let (&slice, &number) = self.plan.first_key_value()?;
        if self.time(slice) > until {
            return None;
        }
        self.cancel(number);
        self.slots[number as usize].key.clone()
    }

    /// Returns the keys whose event is planned until `until`.
    pub(crate) fn planned(&self, until: Time) -> impl Iterator<Item = &SecretKey> {
        let slices = self.plan.iter();
        slices
            .take_while(move |(slice, _)| self.time(**slice) <= until)
            .flat_map(|(_, first)| self.list(*first))
            .filter_map(|slot| slot.key.as_ref())
    }

    /// Returns the keys of a slice of time.
    fn list(&self, first: u32) -> impl Iterator<Item = &Slot> {
        let slot = |number: u32| self.slots.get(number as usize);
        std::iter::successors(slot(first), move |previous| slot(previous.next))
    }

    fn time(&self, slice: u64) -> Time {
        let millis = slice.saturating_mul(SLICE_MILLIS);
        self.started.after(Duration::from_millis(millis))
    }
}

/// Adds an item. A full vector grows by an eighth, because doubled vectors would be a large part of the memory of
/// a key.
fn push<T>(items: &mut Vec<T>, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(items.len() / 8 + 16);
    }
    items.push(item);
}

/// Returns the number of a slot. The memory of a process cannot hold more keys than there are numbers.
fn to_number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_slice_are_replanned_and_removed_independently() {
        let start = Time::from_nanos(0);
        let (soon, later) = (Duration::from_millis(8), Duration::from_millis(80));
        let mut slots = Slots::new(start);
        let names = ["A", "B", "C", "D"];
        let numbers = names.map(|name| {
            let number = slots.add(SecretKey::from_static(name), false);
            slots.plan(number, start.after(soon));
            number
        });
        slots.plan(numbers[1], start.after(later));
        slots.remove(numbers[3]);

        let planned = |slots: &Slots, until| {
            let keys = slots.planned(start.after(until));
            let mut names: Vec<String> = keys.map(SecretKey::to_string).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(planned(&slots, soon), ["A", "C"]);
        assert_eq!(planned(&slots, later), ["A", "B", "C"]);

        let popped = std::iter::from_fn(|| slots.pop(start.after(soon)));
        assert_eq!(popped.count(), 2);
        assert_eq!(slots.next(), Some(start.after(later)));
        slots.remove(numbers[1]);
        assert_eq!(slots.next(), None);
    }

    #[test]
    fn new_keys_replace_the_oldest_ones() {
        let mut slots = Slots::new(Time::from_nanos(0));
        let key = |number: usize| SecretKey::parse(format!("K{number}")).unwrap();
        let mut cached: std::collections::HashMap<SecretKey, u32> = (0..10)
            .map(|number| (key(number), slots.add(key(number), false)))
            .collect();
        // None of the keys is read after it was added.
        for number in 10..20 {
            let added = slots.add(key(number), false);
            cached.insert(key(number), added);
            let victim = slots.victim(added, |_| Some(0)).unwrap();
            slots.remove(cached.remove(&victim).unwrap());
        }
        for number in 10..20 {
            assert!(cached.contains_key(&key(number)), "{number}");
        }
    }
}
