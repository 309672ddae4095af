//! A directory that is resolved once, and the files below it.

use std::fs::{File, FileType};
use std::io;
use std::path::{Path, PathBuf};

use crate::open::{self, OpenError};

/// A directory whose path was resolved when it was opened. Links that are changed later have no effect on it.
///
/// No path below it can lead out of it.
pub(crate) struct Directory(Handle);

enum Handle {
    /// A descriptor, below which the kernel resolves paths.
    #[cfg(target_os = "linux")]
    Descriptor(std::os::fd::OwnedFd),
    /// A path without links, for systems without `openat2`.
    Path(PathBuf),
}

/// An entry of a directory.
pub(crate) struct Entry {
    pub(crate) name: std::ffi::OsString,
    /// Whether the entry is a symbolic link.
    pub(crate) is_link: bool,
}

impl Directory {
    /// Opens the directory at a path.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        open::retry_missing(path, || {
            #[cfg(target_os = "linux")]
            if linux::has_openat2() {
                return linux::open(path).map(Handle::Descriptor).map(Self);
            }
            Self::open_by_path(path)
        })
    }

    /// Opens a directory without help of the kernel. A process with write access to the directory can change a path
    /// between its check and its use.
    fn open_by_path(path: &Path) -> Result<Self, OpenError> {
        let path = path.canonicalize()?;
        match std::fs::metadata(&path)?.is_dir() {
            true => Ok(Self(Handle::Path(path))),
            false => Err(OpenError::NotADirectory),
        }
    }

    /// Opens a file, a link to a file, or anything else that exists.
    pub(crate) fn open_file(&self, file: &Path) -> Result<File, OpenError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Handle::Descriptor(fd) => linux::open_below(fd, file, open::flags()).map(File::from),
            Handle::Path(root) => open::open_path(&resolve_below(root, file)?),
        }
    }

    /// Opens a directory below this one.
    pub(crate) fn subdirectory(&self, path: &Path) -> Result<Self, OpenError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Handle::Descriptor(fd) => linux::open_below(fd, path, linux::DIRECTORY)
                .map(Handle::Descriptor)
                .map(Self),
            Handle::Path(root) => Self::open_by_path(&resolve_below(root, path)?),
        }
    }

    /// Returns the type of a file. Links are followed.
    pub(crate) fn file_type(&self, file: &Path) -> Result<FileType, OpenError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Handle::Descriptor(fd) => {
                let file = linux::open_below(fd, file, linux::LOCATION)?;
                Ok(File::from(file).metadata()?.file_type())
            }
            Handle::Path(root) => Ok(std::fs::metadata(resolve_below(root, file)?)?.file_type()),
        }
    }

    /// Returns the target of a symbolic link, or `None` if the file is not a link.
    pub(crate) fn read_link(&self, file: &Path) -> Result<Option<PathBuf>, OpenError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Handle::Descriptor(fd) => linux::read_link(fd, file),
            Handle::Path(root) => {
                let (parent, name) = (file.parent(), file.file_name().unwrap_or_default());
                let path = resolve_below(root, parent.unwrap_or(Path::new("")))?.join(name);
                match std::fs::symlink_metadata(&path)?.is_symlink() {
                    true => Ok(Some(std::fs::read_link(path)?)),
                    false => Ok(None),
                }
            }
        }
    }

    /// Returns the entries, in no order.
    ///
    /// # Errors
    /// Returns an error if an entry cannot be read, or if this process has no permission to open the entries.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, OpenError> {
        self.check_access()?;
        match &self.0 {
            #[cfg(target_os = "linux")]
            Handle::Descriptor(fd) => {
                let readable = open::flags() | rustix::fs::OFlags::DIRECTORY;
                linux::entries(linux::open_below(fd, Path::new("."), readable)?)
            }
            Handle::Path(root) => {
                let entry = |entry: io::Result<std::fs::DirEntry>| {
                    let entry = entry?;
                    Ok(Entry {
                        name: entry.file_name(),
                        is_link: entry.file_type()?.is_symlink(),
                    })
                };
                std::fs::read_dir(root)?.map(entry).collect()
            }
        }
    }

    /// Returns an error if this process has no permission to open the entries. The `.` entry needs the same permission
    /// as every other entry.
    pub(crate) fn check_access(&self) -> Result<(), OpenError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Handle::Descriptor(fd) => {
                linux::open_below(fd, Path::new("."), linux::LOCATION).map(drop)
            }
            Handle::Path(root) => Ok(std::fs::metadata(root.join(".")).map(drop)?),
        }
    }

    /// Returns whether both are the same directory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            #[cfg(target_os = "linux")]
            (Handle::Descriptor(one), Handle::Descriptor(other)) => linux::is_same(one, other),
            (Handle::Path(one), Handle::Path(other)) => one == other,
            #[cfg(target_os = "linux")]
            _ => false,
        }
    }
}

/// Resolves a path below `root`, and rejects a path that leaves the root.
fn resolve_below(root: &Path, path: &Path) -> Result<PathBuf, OpenError> {
    let path = root.join(path).canonicalize()?;
    match path.starts_with(root) {
        true => Ok(path),
        false => Err(OpenError::Outside),
    }
}

/// Resolution by the kernel, which ensures that no symbolic link and no concurrent rename leads out of a directory.
#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsStr;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::LazyLock;

    use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
    use rustix::io::Errno;

    use super::{Entry, OpenError, Path, PathBuf};
    use crate::open::ATTEMPTS;

    /// Opens the location of a file, without permission to read it.
    pub(super) const LOCATION: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
    pub(super) const DIRECTORY: OFlags = LOCATION.union(OFlags::DIRECTORY);

    /// Returns whether the kernel supports `openat2`, and no sandbox blocks it.
    pub(super) fn has_openat2() -> bool {
        static SUPPORTED: LazyLock<bool> = LazyLock::new(|| {
            let opened = rustix::fs::openat2(CWD, ".", LOCATION, Mode::empty(), beneath());
            !matches!(opened, Err(Errno::NOSYS | Errno::PERM))
        });
        *SUPPORTED
    }

    fn beneath() -> ResolveFlags {
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS
    }

    pub(super) fn open(path: &Path) -> Result<OwnedFd, OpenError> {
        Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
    }

    pub(super) fn open_below(
        directory: &OwnedFd,
        path: &Path,
        flags: OFlags,
    ) -> Result<OwnedFd, OpenError> {
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(directory, path, flags, Mode::empty(), beneath()) {
                // A concurrent rename interrupted the resolution.
                Err(Errno::AGAIN) => {}
                opened => return Ok(opened?),
            }
        }
        Err(OpenError::Changing)
    }

    pub(super) fn read_link(
        directory: &OwnedFd,
        file: &Path,
    ) -> Result<Option<PathBuf>, OpenError> {
        let link = open_below(directory, file, LOCATION | OFlags::NOFOLLOW)?;
        match rustix::fs::readlinkat(&link, "", Vec::new()) {
            Ok(target) => Ok(Some(OsStr::from_bytes(target.as_bytes()).into())),
            // The file is not a link.
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn entries(directory: OwnedFd) -> Result<Vec<Entry>, OpenError> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let is_link = match entry.file_type() {
                FileType::Unknown => match read_link(&directory, Path::new(name)) {
                    // It was removed meanwhile.
                    Err(OpenError::Missing) => continue,
                    target => target?.is_some(),
                },
                kind => kind == FileType::Symlink,
            };
            entries.push(Entry {
                name: name.to_owned(),
                is_link,
            });
        }
        Ok(entries)
    }

    pub(super) fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
        let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|it| (it.st_dev, it.st_ino)).ok();
        identity(one).is_some_and(|it| Some(it) == identity(other))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_is_resolved_once_with_and_without_openat2() {
        for open in [Directory::open, Directory::open_by_path] {
            let folder = tempfile::tempdir().unwrap();
            let at = |path: &str| folder.path().join(path);
            std::fs::create_dir_all(at("v1/db")).unwrap();
            std::fs::create_dir_all(at("v2")).unwrap();
            std::fs::write(at("v1/db/KEY"), "inside").unwrap();
            std::fs::write(at("outside"), "outside").unwrap();
            symlink("v1", at("current")).unwrap();
            symlink("db/KEY", at("v1/LINK")).unwrap();
            symlink("../outside", at("v1/OUT")).unwrap();
            symlink("LOOP", at("v1/LOOP")).unwrap();

            let directory = open(&at("current")).unwrap();
            std::fs::remove_file(at("current")).unwrap();
            symlink("v2", at("current")).unwrap();
            let path = Path::new;
            for file in ["db/KEY", "LINK"] {
                assert!(directory.open_file(path(file)).is_ok(), "{file}");
                assert!(directory.file_type(path(file)).unwrap().is_file());
            }
            let link = directory.read_link(path("LINK")).unwrap();
            assert_eq!(link.as_deref(), Some(path("db/KEY")));
            assert_eq!(directory.read_link(path("db/KEY")).unwrap(), None);
            assert!(matches!(
                directory.read_link(path("db/NO")),
                Err(OpenError::Missing)
            ));
            for (file, is_expected) in [
                (
                    "OUT",
                    (|it| matches!(it, OpenError::Outside)) as fn(&OpenError) -> bool,
                ),
                ("../outside", |it| matches!(it, OpenError::Outside)),
                ("LOOP", |it| matches!(it, OpenError::LinkLoop)),
                ("NONE", |it| matches!(it, OpenError::Missing)),
                ("db/KEY/below", |it| matches!(it, OpenError::NotADirectory)),
            ] {
                let error = directory.open_file(path(file)).unwrap_err();
                assert!(is_expected(&error), "{file}: {error:?}");
            }
            let mut names: Vec<_> = directory
                .entries()
                .unwrap()
                .into_iter()
                .map(|it| (it.name, it.is_link))
                .collect();
            names.sort();
            let expected = [("LINK", true), ("LOOP", true), ("OUT", true), ("db", false)];
            assert_eq!(
                names,
                expected.map(|(name, is_link)| (name.into(), is_link))
            );
            let again = open(&at("v1")).unwrap();
            assert!(directory.is_same(&again) && !directory.is_same(&open(&at("v2")).unwrap()));
            assert!(
                directory
                    .subdirectory(path("db"))
                    .unwrap()
                    .open_file(path("KEY"))
                    .is_ok()
            );
            assert!(directory.subdirectory(path("LINK")).is_err());
        }
    }
}
