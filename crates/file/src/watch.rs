//! Detects file changes, with the file notifications of the platform and by polling.

use std::collections::hash_map::DefaultHasher;
use std::fs::Metadata;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use secretwell_core::backend::{Change, ChangeSender, ChangeStream};
use secretwell_core::{Error, ErrorKind};
use tokio::task::JoinSet;

use crate::config::{Config, Layout};

/// The poll interval while the platform sends notifications. Polling is still needed, because some file
/// systems send no notifications.
const SLOW_POLL: Duration = Duration::from_secs(10);
/// The poll interval without notifications, also while the path does not exist yet.
const FAST_POLL: Duration = Duration::from_secs(2);
/// The number of directory entries that a snapshot includes.
const MAX_ENTRIES: usize = 10_000;
/// The depth of directories that a snapshot includes.
const MAX_DEPTH: usize = 4;

/// Starts a watch. Every change after the return is reported.
///
/// For this reason the first snapshot is taken here. Later snapshots are taken on blocking threads.
pub(crate) fn start(config: &Config) -> ChangeStream {
    let (sender, stream) = ChangeStream::channel();
    let mut poller = Poller {
        target: Target::new(config),
        sender,
        watcher: None,
        directory: None,
        snapshot: 0,
    };
    poller.poll();
    let mut tasks = JoinSet::new();
    tasks.spawn(poller.run());
    stream.with_guard(tasks)
}

/// The watched path, and what is watched there.
#[derive(Debug, Clone)]
struct Target {
    path: PathBuf,
    directory: bool,
}

impl Target {
    fn new(config: &Config) -> Self {
        Self {
            path: config.path.clone(),
            directory: config.layout == Layout::Directory,
        }
    }

    /// Returns the directory to watch. For a document it is the parent directory, because documents are
    /// replaced by renaming.
    fn watched(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !self.directory && !parent.as_os_str().is_empty() => parent,
            _ if !self.directory => Path::new("."),
            _ => &self.path,
        }
    }

    /// Subscribes to file notifications. Returns `None` if the platform has no notifications, or if the
    /// path does not exist yet.
    fn watcher(&self, sender: &ChangeSender) -> Option<RecommendedWatcher> {
        let (target, sender) = (self.clone(), sender.clone());
        let forward = move |notification: notify::Result<notify::Event>| match notification {
            Ok(event) if target.is_affected_by(&event) => {
                sender.send(Change::All);
            }
            Ok(_) => {}
            Err(error) => {
                sender.fail(
                    Error::new(
                        ErrorKind::Unavailable,
                        "the file notifications of the platform failed",
                    )
                    .with_source(error),
                );
            }
        };
        // The target of a link is either inside the directory and watched there, or not relevant.
        let config = notify::Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(forward, config).ok()?;
        let mode = if self.directory {
            RecursiveMode::Recursive
        } else {
            RecursiveMode::NonRecursive
        };
        watcher.watch(self.watched(), mode).ok()?;
        Some(watcher)
    }

    fn is_affected_by(&self, event: &notify::Event) -> bool {
        use notify::EventKind;
        use notify::event::{AccessKind, AccessMode};

        let written = match event.kind {
            // Reads by this process cause access events too.
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        };
        // The parent directory of a document can contain unrelated files. A Kubernetes volume replaces a
        // document by swapping the link `..data`.
        let is_relevant = |path: &PathBuf| {
            path.file_name() == self.path.file_name()
                || path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(".."))
        };
        written && (self.directory || event.paths.is_empty() || event.paths.iter().any(is_relevant))
    }

    /// Returns the identity of the watched directory, which changes when it is replaced.
    fn directory_identity(&self) -> Option<u64> {
        std::fs::metadata(self.watched())
            .ok()
            .map(|metadata| identity(&metadata))
    }

    /// Returns a hash that changes when a file is written, replaced, added or removed.
    fn snapshot(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut remaining = MAX_ENTRIES;
        let depth = if self.directory { MAX_DEPTH } else { 0 };
        let metadata = std::fs::metadata(&self.path);
        hash_tree(&self.path, metadata, depth, &mut remaining, &mut hasher);
        hasher.finish()
    }
}

/// Hashes the metadata of `path` and of everything below it. Links are not followed, because replacing a
/// link changes its own metadata.
fn hash_tree(
    path: &Path,
    metadata: io::Result<Metadata>,
    depth: usize,
    remaining: &mut usize,
    hasher: &mut DefaultHasher,
) {
    path.hash(hasher);
    let Ok(metadata) = metadata else {
        return false.hash(hasher);
    };
    identity(&metadata).hash(hasher);
    metadata.modified().ok().hash(hasher);
    if !metadata.is_dir() {
        return metadata.len().hash(hasher);
    }
    if depth == 0 {
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    let mut entries: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .take(*remaining)
        .collect();
    *remaining -= entries.len();
    entries.sort();
    for entry in entries {
        let metadata = std::fs::symlink_metadata(&entry);
        hash_tree(&entry, metadata, depth - 1, remaining, hasher);
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;

    let mut hasher = DefaultHasher::new();
    (
        metadata.dev(),
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
        .hash(&mut hasher);
    // The change time of a directory changes with its entries, so it does not identify the directory.
    if metadata.is_dir() {
        metadata.ino()
    } else {
        hasher.finish()
    }
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> u64 {
    0
}

/// The task that polls, and that subscribes again when the watched directory is replaced.
struct Poller {
    target: Target,
    sender: ChangeSender,
    watcher: Option<RecommendedWatcher>,
    directory: Option<u64>,
    /// The result of the last poll.
    snapshot: u64,
}

impl Poller {
    async fn run(mut self) {
        loop {
            let watched = self.watcher.is_some();
            tokio::time::sleep(if watched { SLOW_POLL } else { FAST_POLL }).await;
            // A poll walks through directories, which blocks.
            let poll = tokio::task::spawn_blocking(move || {
                let has_receiver = !self.poll() || self.sender.send(Change::All);
                has_receiver.then_some(self)
            });
            let Ok(Some(poller)) = poll.await else {
                return;
            };
            self = poller;
        }
    }

    /// Takes a snapshot and returns whether it differs from the last one.
    fn poll(&mut self) -> bool {
        let directory = self.target.directory_identity();
        if self.watcher.is_none() && directory.is_some() || directory != self.directory {
            self.watcher = self.target.watcher(&self.sender);
            self.directory = directory;
        }
        // The snapshot is taken after subscribing, so no change is missed in between.
        let snapshot = self.target.snapshot();
        std::mem::replace(&mut self.snapshot, snapshot) != snapshot
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_snapshot_ignores_link_targets_and_detects_a_swapped_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for directory in ["outside", "root/..v1", "root/..v2"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        symlink("../outside", at("root/out")).unwrap();
        symlink("..v1", at("root/..data")).unwrap();
        let target = Target {
            path: at("root"),
            directory: true,
        };
        let before = target.snapshot();
        fs::write(at("outside/A"), "a").unwrap();
        assert_eq!(target.snapshot(), before);
        symlink("..v2", at("root/new")).unwrap();
        fs::rename(at("root/new"), at("root/..data")).unwrap();
        assert_ne!(target.snapshot(), before);
    }
}
