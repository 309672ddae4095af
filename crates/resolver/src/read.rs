//! Reads: the sources are read one after the other, and what was read first is checked at the end.

use std::sync::Arc;

use secretwell_core::SecretKey;

use crate::clock;
use crate::counters::Count;
use crate::decide::{Need, Overtaken, Reply};
use crate::reading::{Mode, ReadRequest};
use crate::shared::{Shared, collect, pause};
use crate::trail::Trail;

impl Shared {
    /// Returns the secrets of `keys`. Missing ones are fetched in one batch from each source.
    pub(crate) async fn get_many(self: &Arc<Self>, keys: &[SecretKey], mode: Mode) -> Vec<Reply> {
        self.start_refresher();
        let before = self.removals();
        let mut trails = self.read_all(keys, mode).await;
        let missed: Vec<bool> = trails.iter().map(|trail| trail.missed).collect();
        if missed.contains(&true) {
            self.repeat_overtaken(keys, &mut trails, mode, before).await;
        }
        let replies = keys.iter().zip(trails).zip(missed);
        let replies = replies.map(|((key, trail), missed)| {
            let counts = &self.sources[trail.decided_by()].counts;
            let reply = trail.conclude(&self.origin, key);
            counts.add(counted(&reply, missed));
            reply
        });
        collect(replies).await
    }

    /// Reads the keys once more whose answers have expired or changed while other keys were fetched. `before` is
    /// the number of removals before the first read.
    async fn repeat_overtaken(
        self: &Arc<Self>,
        keys: &[SecretKey],
        trails: &mut [Trail],
        mode: Mode,
        before: u64,
    ) {
        let mode = match mode {
            // A cached answer can be from before the write.
            Mode::ForcedAfter(_) => mode,
            Mode::Cached | Mode::Forced | Mode::Rejected | Mode::Revalidated => Mode::Cached,
        };
        let late = self.overtaken(keys, trails, before).await;
        if late.is_empty() {
            return;
        }
        let before = self.removals();
        let late_keys = late.iter().map(|(index, _)| keys[*index].clone());
        let late_keys = collect(late_keys).await;
        let again = self.read_all(&late_keys, mode).await;
        for ((index, _), trail) in late.into_iter().zip(again) {
            trails[index] = trail;
        }
        let now = clock::now();
        for (index, overtaken) in self.overtaken(keys, trails, before).await {
            // The key is not read a third time. A newer answer that another read has cached is returned.
            match self.known(&keys[index], now) {
                Some(newest) if mode == Mode::Cached => trails[index].replace(newest),
                _ => trails[index].overtake(overtaken, now),
            }
        }
    }

    /// Returns the positions of the values that can no longer be returned as they are. `before` is the number
    /// of removals before the read.
    async fn overtaken(
        &self,
        keys: &[SecretKey],
        trails: &[Trail],
        before: u64,
    ) -> Vec<(usize, Overtaken)> {
        let now = clock::now();
        let has_removals = self.removals() != before;
        let mut late = Vec::new();
        for (index, (key, trail)) in keys.iter().zip(trails).enumerate() {
            pause(index).await;
            if let Some((link, value, times)) = trail.found() {
                let source = &self.sources[link];
                let overtaken = match value.freshness.is_stale() {
                    true => source.outlived(key, times, has_removals, now),
                    false => source.overtaken(key, times, Some(value), has_removals, now),
                };
                late.extend(overtaken.map(|overtaken| (index, overtaken)));
            }
        }
        late
    }

    /// Reads the sources of `keys` in their order.
    async fn read_all(self: &Arc<Self>, keys: &[SecretKey], mode: Mode) -> Vec<Trail> {
        let started = clock::now();
        let request = |link, need| ReadRequest {
            link,
            need,
            mode,
            started,
        };
        let last = self.sources.len() - 1;
        let mut trails = collect(keys.iter().map(|_| Trail::default())).await;
        for link in 0..=last {
            let open = |&index: &usize| trails[index].reaches(&self.sources[link].link);
            let open: Vec<usize> = (0..keys.len()).filter(open).collect();
            let need = match link == last {
                true => Need::Final,
                false => Need::Passing,
            };
            self.read_source(request(link, need), keys, open, &mut trails)
                .await;
        }
        // If no source has a key, each source is read again as soon as its backoff allows it.
        if last > 0 && mode == Mode::Cached {
            for link in 0..last {
                let absent = (0..keys.len()).filter(|&index| trails[index].is_absent());
                let absent: Vec<usize> = absent.collect();
                self.read_source(request(link, Need::Final), keys, absent, &mut trails)
                    .await;
            }
        }
        trails
    }

    /// Reads the keys at the positions `open` from one source.
    async fn read_source(
        self: &Arc<Self>,
        request: ReadRequest,
        keys: &[SecretKey],
        open: Vec<usize>,
        trails: &mut [Trail],
    ) {
        let link = request.link;
        if open.is_empty() {
            return;
        }
        let requested = collect(open.iter().map(|&index| keys[index].clone())).await;
        let replies = match request.mode {
            Mode::Cached => self.read(request, &requested).await,
            Mode::Forced | Mode::ForcedAfter(_) | Mode::Rejected | Mode::Revalidated => {
                self.force(request, &requested).await
            }
        };
        for (count, (index, (reply, fetched))) in open.into_iter().zip(replies).enumerate() {
            pause(count).await;
            trails[index].missed |= fetched;
            trails[index].set(link, reply);
        }
    }
}

/// Returns what counts a read with this reply. `missed` is true if the read needed a fetch.
fn counted(reply: &Reply, missed: bool) -> Count {
    match reply {
        Reply::Value(value, _) if value.freshness.is_stale() => Count::Stale,
        Reply::Value(..) if missed => Count::Miss,
        Reply::Value(..) => Count::Hit,
        Reply::Absent(..) => Count::Absent,
        Reply::Failed(_) => Count::Failed,
    }
}
