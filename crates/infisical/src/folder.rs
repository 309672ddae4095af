//! The folders as they were listed last, so that an unchanged one costs no body.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use secretwell_core::Error;

use crate::wire::Listing;

/// How many folders are remembered.
const MOST: usize = 1_000;

/// The folders that were listed, by their paths, with all below them or without.
#[derive(Default)]
pub(crate) struct Folders {
    folders: Mutex<HashMap<(String, bool), Arc<Folder>>>,
    callers: AtomicU64,
    latest: Mutex<Option<(String, bool)>>,
}

/// One folder. Whoever lists it holds the lock meanwhile.
#[derive(Default)]
pub(crate) struct Folder(pub(crate) tokio::sync::Mutex<Last>);

/// What is known of a folder.
#[derive(Default)]
pub(crate) struct Last {
    /// How many callers had come when the last list set out: it is good for all of them.
    sent_at: u64,
    outcome: Option<Result<Arc<Listing>, Error>>,
    /// The last good list, with the server's word for its state.
    pub(crate) kept: Option<(HeaderValue, Arc<Listing>)>,
    /// Whether the folder is there, as far as that was asked since the list changed.
    pub(crate) checked: Option<Result<(), Error>>,
}

impl Folders {
    pub(crate) fn get(&self, path: &str, recursive: bool) -> Arc<Folder> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (path.to_owned(), recursive);
        if folders.len() >= MOST && !folders.contains_key(&place) {
            folders.clear();
        }
        folders.entry(place).or_default().clone()
    }

    /// Takes note that the server has answered such a list.
    pub(crate) fn note(&self, path: &str, recursive: bool) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *latest {
            Some((known, kind)) if known == path => *kind = recursive,
            _ => *latest = Some((path.to_owned(), recursive)),
        }
    }

    /// The latest list that was answered.
    pub(crate) fn latest(&self) -> Option<(String, bool)> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.clone()
    }

    /// A number for somebody who wants a list.
    pub(crate) fn arrive(&self) -> u64 {
        self.callers.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How many have come.
    pub(crate) fn arrived(&self) -> u64 {
        self.callers.load(Ordering::SeqCst)
    }
}

impl Last {
    /// The outcome of a list that set out after `caller` had come.
    pub(crate) fn good_for(&self, caller: u64) -> Option<Result<Arc<Listing>, Error>> {
        self.outcome.clone().filter(|_| caller <= self.sent_at)
    }

    pub(crate) fn keep(&mut self, sent_at: u64, outcome: Result<Arc<Listing>, Error>) {
        self.sent_at = sent_at;
        self.outcome = Some(outcome);
    }
}
