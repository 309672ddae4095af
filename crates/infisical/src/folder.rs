//! Cache of the last list of each folder, so that an unchanged folder is transferred without a body.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::HeaderValue;
use secretwell_core::Error;
use tokio::time::Instant;

use crate::wire::{Listing, View};

/// The maximum number of cached folders. The cache is cleared when it is full.
const MAX_FOLDERS: usize = 1_000;
/// The maximum number of remembered reads. When it is reached, every read sends a request.
const MAX_READS: usize = 10_000;
/// How long a list serves the first reads of its secrets.
const REUSE_FOR: Duration = Duration::from_secs(1);
/// How long a folder is listed with a restricted view, after the server refused an unrestricted one.
const RESTRICTED_FOR: Duration = Duration::from_secs(60);

/// The listed folders. A key is the folder's path and whether the list is recursive.
#[derive(Default)]
pub(crate) struct FolderCache {
    folders: Mutex<HashMap<(String, bool), Arc<CachedFolder>>>,
    tickets: AtomicU64,
    reads: Mutex<Reads>,
    last_listed: Mutex<Option<(String, bool)>>,
}

/// The secrets that were read before.
#[derive(Default)]
struct Reads {
    names_by_folder: HashMap<String, HashSet<String, RandomState>, RandomState>,
    count: usize,
}

/// One folder. A caller that lists the folder holds the lock until the response is processed.
#[derive(Default)]
pub(crate) struct CachedFolder(pub(crate) tokio::sync::Mutex<FolderState>);

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
    /// Whether the folder exists. `None` until it was checked after the last change of the list.
    pub(crate) existence: Option<Result<(), Error>>,
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
            folders.clear();
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
        let known = self.names_by_folder.get(folder);
        if self.count >= MAX_READS || known.is_some_and(|names| names.contains(name)) {
            return false;
        }
        self.count += 1;
        let names = self.names_by_folder.entry(folder.to_owned()).or_default();
        names.insert(name.to_owned())
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
