//! Detects file changes, with the file notifications of the platform and by polling.

use std::collections::hash_map::DefaultHasher;
use std::fs::Metadata;
use std::hash::{Hash, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// The number of entries up to which the first snapshot is taken before `start` returns.
const MAX_IMMEDIATE: usize = 256;
/// The number of entries up to which the directories are counted.
const MAX_COUNTED: usize = 100_000;
/// The number of directories up to which each of them gets a watch of the platform, whose number is limited.
const MAX_WATCHED_DIRECTORIES: usize = 1_000;

/// Starts a watch. Every change after the return is reported.
///
/// For this reason the first snapshot of a directory of usual size is taken here. Any other snapshot is taken on a
/// blocking thread. A change before the first one could be missed, so that one is followed by a notification.
pub(crate) fn start(config: &Config) -> ChangeStream {
    let (sender, stream) = ChangeStream::channel();
    let mut poller = Poller {
        target: Target::new(config),
        sender,
        subscription: None,
        directory: None,
        snapshot: None,
        has_warned: false,
    };
    if poller.target.is_small() {
        poller.poll();
    }
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

    /// Returns whether a snapshot takes only a short time.
    fn is_small(&self) -> bool {
        !self.directory || count(&self.path, MAX_IMMEDIATE).is_some()
    }

    /// Subscribes to file notifications.
    ///
    /// # Errors
    /// Returns an error if the platform has no notifications or no further ones, or if the path does not exist yet.
    fn watcher(&self, sender: &ChangeSender) -> notify::Result<RecommendedWatcher> {
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
        let mut watcher = RecommendedWatcher::new(forward, config)?;
        let mode = if self.directory {
            RecursiveMode::Recursive
        } else {
            RecursiveMode::NonRecursive
        };
        watcher.watch(self.watched(), mode)?;
        Ok(watcher)
    }

    fn is_affected_by(&self, event: &notify::Event) -> bool {
        use notify::EventKind;
        use notify::event::{AccessKind, AccessMode, ModifyKind};

        let written = match event.kind {
            // Reads by this process cause access events too.
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        };
        // The parent directory of a document can contain unrelated files. A Kubernetes volume replaces a
        // document by swapping the link `..data`, and the parent directory can be replaced as a whole.
        let is_parent_gone = matches!(
            event.kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        );
        let is_relevant = |path: &PathBuf| {
            path.file_name() == self.path.file_name()
                || is_parent_gone && path == self.watched()
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

/// Returns the number of directories at and below `path`. Returns `None` if there are more than `limit` entries. Links
/// are not followed.
fn count(path: &Path, limit: usize) -> Option<usize> {
    let (mut directories, mut entries) = (0, 0);
    let mut rest = vec![path.to_owned()];
    while let Some(directory) = rest.pop() {
        directories += 1;
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            entries += 1;
            if entries > limit {
                return None;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                rest.push(entry.path());
            }
        }
    }
    Some(directories)
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
    (metadata.dev(), metadata.ino()).hash(&mut hasher);
    // The change time of a directory changes with its entries, so it does not identify the directory. File systems use
    // inode numbers again, and several of them give the same number to their root.
    if metadata.is_dir() {
        metadata.created().ok().hash(&mut hasher);
    } else {
        (metadata.ctime(), metadata.ctime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    metadata.created().ok().hash(&mut hasher);
    hasher.finish()
}

/// The task that polls, and that subscribes again when the watched directory is replaced.
struct Poller {
    target: Target,
    sender: ChangeSender,
    subscription: Option<Subscription>,
    directory: Option<u64>,
    /// The result of the last poll.
    snapshot: Option<u64>,
    /// Whether the warning about missing notifications has been logged.
    has_warned: bool,
}

/// How changes between two polls are detected.
enum Subscription {
    Watcher(
        #[expect(dead_code, reason = "it is dropped to end the subscription")] RecommendedWatcher,
    ),
    /// They are not, because the directory is too large.
    None,
}

impl Poller {
    async fn run(mut self) {
        loop {
            if self.snapshot.is_some() {
                let is_subscribed = self.subscription.is_some();
                tokio::time::sleep(if is_subscribed { SLOW_POLL } else { FAST_POLL }).await;
            }
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
        if self.subscription.is_none() && directory.is_some() || directory != self.directory {
            // The old watches make room for the new ones.
            self.subscription = None;
            self.subscription = self.subscribe(directory.is_some());
            self.directory = directory;
        }
        // The snapshot is taken after subscribing, so no change is missed in between.
        let snapshot = Some(self.target.snapshot());
        std::mem::replace(&mut self.snapshot, snapshot) != snapshot
    }

    fn subscribe(&mut self, exists: bool) -> Option<Subscription> {
        let directories = match self.target.directory {
            true => count(&self.target.path, MAX_COUNTED),
            false => Some(1),
        };
        if directories.is_none_or(|it| it > MAX_WATCHED_DIRECTORIES) {
            self.warn("the directory is too large for file notifications; use a smaller one");
            return Some(Subscription::None);
        }
        // The library panics if it cannot start its thread.
        let watcher = catch_unwind(AssertUnwindSafe(|| self.target.watcher(&self.sender)));
        match watcher
            .unwrap_or_else(|_| Err(notify::Error::generic("its thread cannot be started")))
        {
            Ok(watcher) => Some(Subscription::Watcher(watcher)),
            Err(_) if !exists => None,
            Err(error) => {
                self.warn(&format!(
                    "the platform sends no file notifications: {error}"
                ));
                None
            }
        }
    }

    fn warn(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                target: "secretwell::file",
                event = "watch_by_polling",
                path = %self.target.path.display(),
                reason,
                "changes are detected by polling",
            );
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn identity_of_a_directory_changes_only_when_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target {
            path: folder.path().join("root"),
            directory: true,
        };
        assert_eq!(target.directory_identity(), None);
        fs::create_dir(&target.path).unwrap();
        let before = target.directory_identity().unwrap();
        fs::write(target.path.join("A"), "a").unwrap();
        assert_eq!(target.directory_identity(), Some(before));
        fs::rename(&target.path, folder.path().join("old")).unwrap();
        fs::create_dir(&target.path).unwrap();
        assert_ne!(target.directory_identity(), Some(before));
    }

    #[test]
    fn removal_of_the_parent_of_a_document_is_relevant() {
        use notify::event::{EventKind, MetadataKind, ModifyKind, RemoveKind};

        let target = Target {
            path: PathBuf::from("/d/a.env"),
            directory: false,
        };
        let affects = |kind, path: &str| {
            target.is_affected_by(&notify::Event::new(kind).add_path(PathBuf::from(path)))
        };
        let removed = EventKind::Remove(RemoveKind::Folder);
        let changed = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        assert!(affects(removed, "/d") && !affects(removed, "/d/b.env"));
        assert!(!affects(changed, "/d") && affects(changed, "/d/a.env"));
    }

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
