//! Cache of the last list of each folder, so that an unchanged folder is transferred without a body.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::HeaderValue;
use secretwell_core::Error;
use tokio::time::Instant;

use crate::wire::{Listing, View};

/// The maximum number of cached folders, apart from those that are being listed.
const MAX_FOLDERS: usize = 1_000;
/// The maximum number of remembered reads. When it is reached, every read sends a request.
const MAX_READS: usize = 100_000;
/// How long a list serves the first reads of its secrets.
const REUSE_FOR: Duration = Duration::from_secs(1);
/// How long a folder is listed with a restricted view, after the server refused an unrestricted one.
const RESTRICTED_FOR: Duration = Duration::from_secs(60);
/// How long the result of a check is valid while the list of the folder is unchanged. An operator might have changed
/// what the list does not show, such as a permission.
const CHECKED_FOR: Duration = Duration::from_secs(60);

/// The listed folders. A key is the folder's path and whether the list is recursive.
#[derive(Default)]
pub(crate) struct FolderCache {
    folders: Mutex<HashMap<(String, bool), Arc<CachedFolder>>>,
    tickets: AtomicU64,
    reads: Mutex<Reads>,
    last_listed: Mutex<Option<(String, bool)>>,
}

/// The hashes of the secrets that were read before. Two secrets with the same hash cost a request.
#[derive(Default)]
struct Reads {
    hashes: HashSet<u64, RandomState>,
    hasher: RandomState,
}

/// One folder.
#[derive(Default)]
pub(crate) struct CachedFolder {
    /// A caller that lists the folder holds the lock until the response is processed.
    pub(crate) state: tokio::sync::Mutex<FolderState>,
    /// The last check of an absence. A caller that checks holds the lock. Lists do not wait for it.
    pub(crate) check: tokio::sync::Mutex<Option<Check>>,
}

/// Whether absences from a list are certain.
pub(crate) struct Check {
    listing: Arc<Listing>,
    result: Result<(), Error>,
    at: Instant,
}

impl Check {
    /// Records a result, unless it might be another one a moment later.
    pub(crate) fn new(listing: &Arc<Listing>, result: &Result<(), Error>) -> Option<Self> {
        let is_temporary = result.as_ref().is_err_and(Error::is_temporary);
        (!is_temporary).then(|| Self {
            listing: listing.clone(),
            result: result.clone(),
            at: Instant::now(),
        })
    }

    /// Returns the result if it is valid for `listing`.
    pub(crate) fn result_for(&self, listing: &Arc<Listing>) -> Option<Result<(), Error>> {
        let is_valid = Arc::ptr_eq(&self.listing, listing) && self.at.elapsed() < CHECKED_FOR;
        is_valid.then(|| self.result.clone())
    }
}

/// The last list of one folder, and what is known about the folder.
#[derive(Default)]
pub(crate) struct FolderState {
    /// The newest ticket at the time when the last list request started. Its result is valid for this
    /// ticket and all earlier ones.
    newest_ticket: u64,
    result: Option<Result<Arc<Listing>, Error>>,
    recent: Option<RecentList>,
    restricted: Option<(View, Instant)>,
    /// The last successful list, with its ETag.
    pub(crate) cached: Option<(HeaderValue, Arc<Listing>)>,
}

/// A list that the server returned a moment ago, or the error that states that the folder does not exist.
struct RecentList {
    result: Result<Arc<Listing>, Error>,
    requested_at: Instant,
}

impl FolderCache {
    /// Returns the entry of a folder, and creates it if necessary.
    pub(crate) fn get(&self, path: &str, recursive: bool) -> Arc<CachedFolder> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (path.to_owned(), recursive);
        if folders.len() >= MAX_FOLDERS && !folders.contains_key(&key) {
            // The callers of a list share its entry, so an entry in use stays.
            let mut unused = folders.iter().filter(|(_, it)| Arc::strong_count(it) == 1);
            if let Some(evicted) = unused.next().map(|(key, _)| key.clone()) {
                folders.remove(&evicted);
            }
        }
        folders.entry(key).or_default().clone()
    }

    /// Removes the entry of a folder, so that the next list of it is transferred in full. A list request in
    /// progress does not restore the entry.
    pub(crate) fn remove(&self, path: &str, recursive: bool) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.remove(&(path.to_owned(), recursive));
    }

    /// Records reads of these secrets. Returns whether all of them are read for the first time.
    pub(crate) fn record_reads(&self, secrets: &[(&str, &str)]) -> bool {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all_new = true;
        for (folder, name) in secrets {
            all_new &= reads.record(folder, name);
        }
        all_new
    }

    /// Records that the server returned this list.
    pub(crate) fn record_listed(&self, path: &str, recursive: bool) {
        let mut last = self
            .last_listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((last_path, last_recursive)) if last_path == path => *last_recursive = recursive,
            _ => *last = Some((path.to_owned(), recursive)),
        }
    }

    /// Returns the path and the recursive flag of the last list that the server returned.
    pub(crate) fn last_listed(&self) -> Option<(String, bool)> {
        let last = self
            .last_listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// Returns a new ticket for a caller that requests a list.
    pub(crate) fn new_ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns the newest ticket.
    pub(crate) fn newest_ticket(&self) -> u64 {
        self.tickets.load(Ordering::SeqCst)
    }
}

impl Reads {
    /// Records a read. Returns whether this secret is read for the first time.
    fn record(&mut self, folder: &str, name: &str) -> bool {
        self.hashes.len() < MAX_READS && self.hashes.insert(self.hasher.hash_one((folder, name)))
    }
}

impl FolderState {
    /// Returns the result of the last list request, if that request started after `ticket` was issued.
    pub(crate) fn result_for(&self, ticket: u64) -> Option<Result<Arc<Listing>, Error>> {
        self.result.clone().filter(|_| ticket <= self.newest_ticket)
    }

    /// Stores the result of a list request that started at `requested_at`, when `newest_ticket` was the newest
    /// ticket.
    pub(crate) fn store(
        &mut self,
        newest_ticket: u64,
        requested_at: Instant,
        result: Result<Arc<Listing>, Error>,
    ) {
        self.newest_ticket = newest_ticket;
        let is_answer = result.as_ref().err().is_none_or(Error::is_not_found);
        self.recent = is_answer.then(|| RecentList {
            result: result.clone(),
            requested_at,
        });
        self.result = Some(result);
    }

    /// Returns the last list, or the absence of its folder, if it is at most a second old.
    pub(crate) fn recent(&self) -> Option<Result<Arc<Listing>, Error>> {
        let recent = self.recent.as_ref()?;
        (recent.requested_at.elapsed() < REUSE_FOR).then(|| recent.result.clone())
    }

    /// Returns how to list the folder.
    pub(crate) fn view(&self) -> View {
        match self.restricted {
            Some((view, until)) if Instant::now() < until => view,
            _ => View::Expanded,
        }
    }

    /// Records that the server accepts only this restricted view of the folder.
    pub(crate) fn restrict(&mut self, view: View) {
        self.restricted = Some((view, Instant::now() + RESTRICTED_FOR));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_cache_evicts_one_folder_that_is_not_in_use() {
        let cache = FolderCache::default();
        let in_use = cache.get("/in-use", false);
        for number in 0..2 * MAX_FOLDERS {
            cache.get(&format!("/{number}"), false);
        }
        assert_eq!(cache.folders.lock().unwrap().len(), MAX_FOLDERS);
        assert!(Arc::ptr_eq(&in_use, &cache.get("/in-use", false)));
        // Only one of the others was evicted by the newest.
        let newest = format!("/{}", 2 * MAX_FOLDERS - 1);
        assert!(cache.folders.lock().unwrap().contains_key(&(newest, false)));
    }

    #[test]
    fn only_the_first_read_of_a_secret_is_a_first_read() {
        let cache = FolderCache::default();
        assert!(cache.record_reads(&[("/", "A"), ("/", "B")]));
        assert!(!cache.record_reads(&[("/", "A")]));
        assert!(!cache.record_reads(&[("/", "C"), ("/", "B")]));
        assert!(cache.record_reads(&[("/", "a"), ("/A", "B"), ("/A/", "B")]));
    }

    #[tokio::test(start_paused = true)]
    async fn check_is_repeated_after_a_change_and_after_a_minute() {
        let (listing, changed) = (Arc::default(), Arc::default());
        let check = Check::new(&listing, &Ok(())).unwrap();
        assert!(check.result_for(&listing).is_some());
        assert!(check.result_for(&changed).is_none());
        tokio::time::advance(CHECKED_FOR).await;
        assert!(check.result_for(&listing).is_none());
        let outage = Error::new(secretwell_core::ErrorKind::Unavailable, "outage");
        assert!(Check::new(&listing, &Err(outage)).is_none());
    }
}
