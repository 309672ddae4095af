//! Tells when files change: by the platform's notices, and by looking every now and then.

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

/// How often to look while the platform gives notices: they do not come from every file system.
const SAFETY_NET: Duration = Duration::from_secs(10);
/// How often to look while it gives none, for want of them or because there is nothing to watch yet.
const POLL: Duration = Duration::from_secs(2);
/// How much of a directory a look takes in.
const MAX_ENTRIES: usize = 10_000;
const MAX_DEPTH: usize = 4;

/// Starts to watch. What changes after this has returned is told, which takes the first look here and
/// now; the later ones are taken where they may block.
pub(crate) fn start(config: &Config) -> ChangeStream {
    let (sender, stream) = ChangeStream::channel();
    let mut patrol = Patrol {
        target: Target::new(config),
        sender,
        watcher: None,
        anchor: None,
        seen: 0,
    };
    patrol.look();
    let mut tasks = JoinSet::new();
    tasks.spawn(patrol.run());
    stream.with_guard(tasks)
}

/// What to watch.
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

    /// The directory whose notices tell of the target. For a document that is the one it stands in,
    /// because documents are replaced by renaming.
    fn watched(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !self.directory && !parent.as_os_str().is_empty() => parent,
            _ if !self.directory => Path::new("."),
            _ => &self.path,
        }
    }

    /// Asks the platform for notices; `None` if it has none to give, or there is nothing to watch yet.
    fn watcher(&self, sender: &ChangeSender) -> Option<RecommendedWatcher> {
        let (target, sender) = (self.clone(), sender.clone());
        let tell = move |notice: notify::Result<notify::Event>| match notice {
            Ok(event) if target.concerns(&event) => {
                sender.send(Change::All);
            }
            Ok(_) => {}
            Err(error) => {
                sender.fail(
                    Error::new(ErrorKind::Unavailable, "the platform's file notices failed")
                        .with_source(error),
                );
            }
        };
        // What a link leads to is either inside, and watched there, or none of ours.
        let config = notify::Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(tell, config).ok()?;
        let mode = if self.directory {
            RecursiveMode::Recursive
        } else {
            RecursiveMode::NonRecursive
        };
        watcher.watch(self.watched(), mode).ok()?;
        Some(watcher)
    }

    fn concerns(&self, event: &notify::Event) -> bool {
        use notify::EventKind;
        use notify::event::{AccessKind, AccessMode};

        let written = match event.kind {
            // Our own readings are accesses too.
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        };
        // Beside a document there may be files that have nothing to do with it; a Kubernetes volume
        // replaces it by way of `..data`.
        let ours = |path: &PathBuf| {
            path.file_name() == self.path.file_name()
                || path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(".."))
        };
        written && (self.directory || event.paths.is_empty() || event.paths.iter().any(ours))
    }

    /// Tells the watched directory from one that took its place.
    fn anchor(&self) -> Option<u64> {
        std::fs::metadata(self.watched())
            .ok()
            .map(|metadata| identity(&metadata))
    }

    /// A number that changes when a file is written, replaced, added or taken away.
    fn look(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut left = MAX_ENTRIES;
        let depth = if self.directory { MAX_DEPTH } else { 0 };
        let metadata = std::fs::metadata(&self.path);
        look_at(&self.path, metadata, depth, &mut left, &mut hasher);
        hasher.finish()
    }
}

/// Follows no link below `path`: a link that is replaced is another one itself.
fn look_at(
    path: &Path,
    metadata: io::Result<Metadata>,
    depth: usize,
    left: &mut usize,
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
        .take(*left)
        .collect();
    *left -= entries.len();
    entries.sort();
    for entry in entries {
        let metadata = std::fs::symlink_metadata(&entry);
        look_at(&entry, metadata, depth - 1, left, hasher);
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
    // A directory's own change time moves with its entries, which says nothing of who it is.
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

/// Looks every now and then, and asks for notices again when their directory was replaced.
struct Patrol {
    target: Target,
    sender: ChangeSender,
    watcher: Option<RecommendedWatcher>,
    anchor: Option<u64>,
    seen: u64,
}

impl Patrol {
    async fn run(mut self) {
        loop {
            let watched = self.watcher.is_some();
            tokio::time::sleep(if watched { SAFETY_NET } else { POLL }).await;
            // All of it walks through directories, which blocks.
            let round = tokio::task::spawn_blocking(move || {
                let heard = !self.look() || self.sender.send(Change::All);
                heard.then_some(self)
            });
            let Ok(Some(patrol)) = round.await else {
                return;
            };
            self = patrol;
        }
    }

    /// Whether it sees anything else than the last time.
    fn look(&mut self) -> bool {
        let anchor = self.target.anchor();
        if self.watcher.is_none() && anchor.is_some() || anchor != self.anchor {
            self.watcher = self.target.watcher(&self.sender);
            self.anchor = anchor;
        }
        // After that, so that no change falls between.
        let seen = self.target.look();
        std::mem::replace(&mut self.seen, seen) != seen
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_look_follows_no_link_and_sees_one_swapped() {
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
        let before = target.look();
        fs::write(at("outside/A"), "a").unwrap();
        assert_eq!(target.look(), before);
        symlink("..v2", at("root/new")).unwrap();
        fs::rename(at("root/new"), at("root/..data")).unwrap();
        assert_ne!(target.look(), before);
    }
}
