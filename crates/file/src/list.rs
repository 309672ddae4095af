//! Lists the keys of a directory or a document.

use std::collections::BTreeSet;
use std::path::Path;

use secretwell_core::backend::Notice;
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};

use crate::config::Layout;
use crate::open;
use crate::reader::{Reader, reject_volume_names};

/// The depth limit of a list.
const MAX_DEPTH: usize = 16;
/// The limit for the number of listed keys.
const MAX_ENTRIES: usize = 10_000;

impl Reader {
    pub(crate) fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let mut keys = BTreeSet::new();
        match self.config.layout {
            Layout::Directory => {
                reject_volume_names(prefix.as_str())
                    .map_err(|error| error.with_origin(&self.origin))?;
                self.list_directory(prefix.as_str(), 0, &mut keys)?;
            }
            Layout::Document(format) => match self.read_document(format) {
                Ok(document) => keys = document.keys(prefix),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.with_origin(&self.origin)),
            },
        }
        Ok(keys.into_iter().collect())
    }

    /// Returns what is below `prefix` and is not a readable key.
    pub(crate) fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        match self.config.layout {
            Layout::Directory => Ok(Vec::new()),
            Layout::Document(format) => match self.read_document(format) {
                Ok(document) => Ok(document.notices(prefix)),
                Err(error) if error.is_not_found() => Ok(Vec::new()),
                Err(error) => Err(error.with_origin(&self.origin)),
            },
        }
    }

    /// Adds the files below `path`.
    ///
    /// Names that start with a dot are omitted, because they belong to the file system or to the volume.
    /// Links that point out of the root are omitted too.
    fn list_directory(
        &self,
        path: &str,
        depth: usize,
        keys: &mut BTreeSet<SecretKey>,
    ) -> Result<(), Error> {
        let root = &self.config.path;
        let opened = open::resolve_below(root, Path::new(path))
            .and_then(|directory| Ok(std::fs::read_dir(directory)?));
        let entries = match opened {
            Ok(entries) => entries,
            Err(open::OpenError::Missing) => return Ok(()),
            Err(error) => return Err(error.into_error(&root.join(path)).with_origin(&self.origin)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let separator = if path.is_empty() { "" } else { "/" };
            let below = format!("{path}{separator}{name}");
            let is_link = entry.path().is_symlink();
            if is_link && open::resolve_below(root, Path::new(&below)).is_err() {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(entry.path()) else {
                continue;
            };
            if keys.len() >= MAX_ENTRIES {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the directory has more than 10,000 files",
                )
                .with_origin(&self.origin)
                .with_hint("list only a part, with a prefix"));
            }
            if metadata.is_file() {
                keys.extend(SecretKey::parse(below));
            } else if metadata.is_dir() && depth < MAX_DEPTH && !is_link {
                self.list_directory(&below, depth + 1, keys)?;
            }
        }
        Ok(())
    }
}
