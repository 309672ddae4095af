//! Lists the keys of a directory or a document, and what is not a key.

use std::collections::BTreeSet;
use std::path::Path;

use secretwell_core::backend::{Notice, NoticeKind};
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};

use crate::config::Layout;
use crate::open::{OpenError, check_type};
use crate::place;
use crate::reader::{BATCH_ATTEMPTS, Reader, Reading, reject_names};
use crate::volume::Tree;

/// The depth limit of a list.
const MAX_DEPTH: usize = 16;
/// The limit for the number of listed keys.
const MAX_ENTRIES: usize = 10_000;
/// The limit for the number of notices.
const MAX_NOTICES: usize = 1000;

/// The keys of a directory, and what is not a key.
#[derive(Default)]
struct Listing {
    keys: BTreeSet<SecretKey>,
    notices: Vec<Notice>,
    /// The number of notices beyond the limit.
    further_notices: usize,
}

impl Reader {
    pub(crate) fn list(&self, prefix: &KeyPrefix) -> Reading<Result<Vec<SecretKey>, Error>> {
        let reading = match self.config.layout {
            Layout::Directory => self
                .list_directory(prefix)
                .map(|listing| Ok(listing?.keys.into_iter().collect())),
            Layout::Document(_) => self
                .read_whole()
                .map(|document| Ok(document?.keys(prefix)?.into_iter().collect())),
        };
        self.without_place(reading)
    }

    /// Returns what is below `prefix` and is not a readable key.
    pub(crate) fn notices(&self, prefix: &KeyPrefix) -> Reading<Result<Vec<Notice>, Error>> {
        let reading = match self.config.layout {
            Layout::Directory => self
                .list_directory(prefix)
                .map(|listing| Ok(listing?.into_notices())),
            Layout::Document(_) => self.read_whole().map(|document| document?.notices(prefix)),
        };
        self.without_place(reading)
    }

    /// Returns an empty list if the place does not exist yet.
    fn without_place<T>(
        &self,
        reading: Reading<Result<Vec<T>, Error>>,
    ) -> Reading<Result<Vec<T>, Error>> {
        reading.map(|result| match result {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            result => result.map_err(|error| error.with_origin(&self.origin)),
        })
    }

    /// Lists the files below `prefix`. A file that was known and is not listed any more is looked at again.
    fn list_directory(&self, prefix: &KeyPrefix) -> Reading<Result<Listing, Error>> {
        let mut result = self.walk(prefix);
        let known = self.memory.existing().into_iter();
        let is_lost = |key: &SecretKey| {
            let is_hidden = key.segments().any(|it| it.starts_with('.'));
            let is_listed = result.as_ref().is_ok_and(|it| it.keys.contains(key));
            prefix.contains(key) && !is_hidden && !is_listed
        };
        let lost: Vec<_> = known
            .filter_map(|path| SecretKey::parse(path).ok())
            .filter(is_lost)
            .collect();
        let mut wait = None;
        let mut has_returned = false;
        for key in &lost {
            let look = self.look_again(key);
            wait = wait.max(look.wait);
            match look.result {
                Ok(()) => has_returned = true,
                // A list without this file would be incomplete.
                Err(error) if look.wait.is_some() => {
                    if result.as_ref().err().is_none_or(Error::is_not_found) {
                        result = Err(error);
                    }
                }
                Err(_) => {}
            }
        }
        if has_returned && wait.is_none() {
            result = self.walk(prefix);
        }
        Reading { result, wait }
    }

    fn walk(&self, prefix: &KeyPrefix) -> Result<Listing, Error> {
        reject_names(prefix.as_str())?;
        for _ in 0..BATCH_ATTEMPTS {
            let mut tree = Tree::open(&self.config.path)
                .map_err(|error| place::explain(&self.config, error))?;
            let mut listing = Listing::default();
            let listed = self.list_below(&mut tree, prefix.as_str(), 0, &mut listing);
            // The files of a generation that was replaced are removed one after the other.
            if !tree.has_moved() {
                return listed.map(|()| listing);
            }
        }
        Err(OpenError::Changing.into_error(&self.config.path))
    }

    /// Adds the files below `path`. Names that start with a dot are omitted, because they belong to the file system or
    /// to the volume.
    fn list_below(
        &self,
        tree: &mut Tree<'_>,
        path: &str,
        depth: usize,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let entries = match tree.entries(Path::new(path)) {
            Ok(entries) => entries,
            Err(error) if error.is_absence() => return Ok(()),
            Err(error) => return Err(error.into_error(&self.config.path.join(path))),
        };
        for (name, entry) in entries {
            let separator = if path.is_empty() { "" } else { "/" };
            let below = format!("{path}{separator}{}", name.to_string_lossy());
            let file = Path::new(path).join(&name);
            let kind = match tree.file_type(&file) {
                Ok(kind) => kind,
                Err(OpenError::Missing) => continue,
                Err(error @ (OpenError::Forbidden(_) | OpenError::Changing | OpenError::Io(_))) => {
                    return Err(error.into_error(&self.config.path.join(file)));
                }
                Err(error) => {
                    listing.add_unreadable(&below, &error);
                    continue;
                }
            };
            if kind.is_dir() {
                match depth < MAX_DEPTH {
                    // The directory is listed at its own place.
                    true if entry.is_link => {}
                    true => self.list_below(tree, &below, depth + 1, listing)?,
                    false => listing.add(Notice::new(
                        NoticeKind::Unreadable,
                        below,
                        "directories below this one are not listed",
                    )),
                }
                continue;
            }
            if listing.keys.len() >= MAX_ENTRIES {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the directory has more than 10,000 files",
                )
                .with_hint("list only a part, with a prefix"));
            }
            match check_type(kind) {
                Ok(()) if name.to_str().is_some() => listing.add_key(&below),
                Ok(()) => listing.add(not_a_key(&below, "the name is not UTF-8 text")),
                Err(error) => listing.add_unreadable(&below, &error),
            }
        }
        Ok(())
    }
}

impl Listing {
    fn add_key(&mut self, path: &str) {
        match SecretKey::parse(path) {
            Ok(key) => drop(self.keys.insert(key)),
            Err(error) => self.add(not_a_key(path, error.message().to_owned())),
        }
    }

    fn add_unreadable(&mut self, path: &str, error: &OpenError) {
        let notice = Notice::new(NoticeKind::Unreadable, path, error.to_string());
        self.add(match SecretKey::parse(path) {
            Ok(key) => notice.with_key(&key),
            Err(_) => notice,
        });
    }

    fn add(&mut self, notice: Notice) {
        match self.notices.len() < MAX_NOTICES - 1 {
            true => self.notices.push(notice),
            false => self.further_notices += 1,
        }
    }

    fn into_notices(mut self) -> Vec<Notice> {
        if self.further_notices > 0 {
            let message = format!("{} further entries cannot be read", self.further_notices);
            self.notices
                .push(Notice::new(NoticeKind::Unreadable, "", message));
        }
        self.notices
    }
}

fn not_a_key(path: &str, message: impl Into<std::borrow::Cow<'static, str>>) -> Notice {
    Notice::new(NoticeKind::NotAKey, path, message)
        .with_hint("rename the file; its secret cannot be read under this name")
}
