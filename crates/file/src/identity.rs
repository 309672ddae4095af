//! The identity of a file, which shows whether a file was replaced or written in place.

use std::time::SystemTime;

use crate::open::Contents;

/// The file that a path leads to. Another identity means that the path leads to another file, as after a rename.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The creation time, because file systems use inode numbers again.
    pub(crate) created: Option<SystemTime>,
    /// Whether the file is on overlayfs. The first write to a file of a lower layer copies it to the upper layer, which
    /// can change its device and its creation time.
    pub(crate) is_layered: bool,
    /// The hash of the generation, if the file belongs to a volume.
    pub(crate) generation: Option<u64>,
}

impl Identity {
    /// Returns whether both are the same file, although its content might differ.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        if self.is_layered && other.is_layered && self.generation == other.generation {
            return self.device != other.device || self.inode == other.inode;
        }
        self == other
    }

    /// Returns the identity of an open file.
    #[cfg(unix)]
    pub(crate) fn of(contents: &Contents, generation: Option<u64>) -> Self {
        use std::os::unix::fs::MetadataExt;

        Self {
            device: contents.metadata.dev(),
            inode: contents.metadata.ino(),
            created: contents.metadata.created().ok(),
            is_layered: is_on_overlayfs(contents),
            generation,
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn of(contents: &Contents, generation: Option<u64>) -> Self {
        Self {
            created: contents.metadata.created().ok(),
            generation,
            ..Self::default()
        }
    }
}

#[cfg(target_os = "linux")]
fn is_on_overlayfs(contents: &Contents) -> bool {
    const MAGIC: u64 = 0x794c_7630;
    // The type of the field depends on the platform.
    let is_magic = |kind| u64::try_from(kind) == Ok(MAGIC);
    rustix::fs::fstatfs(&contents.file).is_ok_and(|it| is_magic(it.f_type))
}

#[cfg(all(unix, not(target_os = "linux")))]
fn is_on_overlayfs(_: &Contents) -> bool {
    false
}
