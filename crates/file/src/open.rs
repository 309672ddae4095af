//! Reads one file safely: size limits, symbolic links, special files and concurrent writes.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

/// The number of attempts to read a file that changes during the read.
const ATTEMPTS: usize = 4;

/// The reason why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the file does not exist")]
    Missing,
    #[error("this is {0}, not a regular file")]
    NotAFile(&'static str),
    #[error("a symbolic link points out of the directory")]
    Outside,
    #[error("its symbolic links form a loop")]
    LinkLoop,
    #[error("this process has no permission to read it")]
    Forbidden(#[source] io::Error),
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the file changed during each read")]
    Changing,
    #[error("reading the file failed")]
    Io(#[source] io::Error),
}

impl OpenError {
    pub(crate) fn into_error(self, path: &Path) -> Error {
        let kind = match self {
            Self::Missing => ErrorKind::NotFound,
            Self::NotAFile(_) | Self::LinkLoop => ErrorKind::Malformed,
            Self::Outside | Self::Forbidden(_) => ErrorKind::Denied,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Changing | Self::Io(_) => ErrorKind::Unavailable,
        };
        let hint = match self {
            Self::Missing => "create it, or add a source that has the secret",
            Self::NotAFile(_) | Self::LinkLoop => "replace it with a regular file",
            Self::Outside => "move the file into the directory",
            Self::Forbidden(_) => "give the user of the service read permission",
            Self::TooLarge(_) => "check the path, or raise `max_bytes`",
            Self::Changing => "write a new file next to it and rename it to this name",
            Self::Io(_) => "check the file system",
        };
        Error::new(
            kind,
            format!("`{}`: {self}", path.display().to_string().escape_debug()),
        )
        .with_hint(hint)
        .with_source(self)
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Forbidden(error),
            io::ErrorKind::IsADirectory => Self::NotAFile("a directory"),
            _ => Self::other(error),
        }
    }
}

impl OpenError {
    #[cfg(unix)]
    fn other(error: io::Error) -> Self {
        use rustix::io::Errno;

        match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => Self::LinkLoop,
            Some(Errno::XDEV) => Self::Outside,
            // A socket in the file system, which cannot be opened at all.
            Some(Errno::NXIO) => Self::NotAFile("a socket"),
            _ => Self::Io(error),
        }
    }

    #[cfg(not(unix))]
    fn other(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The location of a file.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    /// A path without restrictions.
    Path(PathBuf),
    /// A relative path below a root directory that it must not leave.
    Below(PathBuf, PathBuf),
}

impl Location {
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Below(root, file) => root.join(file),
        }
    }

    fn open(&self) -> Result<File, OpenError> {
        match self {
            Self::Path(path) => Ok(open_nonblocking(path)?),
            Self::Below(root, file) => open_below(root, file),
        }
    }
}

/// Reads the file at `location`. A file that changes during the read is read again, so the bytes are
/// never a mix of old and new content.
pub(crate) fn read(
    location: &Location,
    limit: u64,
) -> Result<(Zeroizing<Vec<u8>>, Metadata), OpenError> {
    for _ in 0..ATTEMPTS {
        let mut file = location.open()?;
        let before = file.metadata()?;
        check_type(&before)?;
        if before.len() > limit {
            return Err(OpenError::TooLarge(limit));
        }
        // Allocated at full size, because growing would leave copies of the bytes in freed memory.
        let size = usize::try_from(before.len())
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        (&mut file).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(OpenError::TooLarge(limit));
        }
        let after = file.metadata()?;
        if after.len() == before.len()
            && bytes.len() as u64 == after.len()
            && after.modified().ok() == before.modified().ok()
        {
            return Ok((bytes, after));
        }
    }
    Err(OpenError::Changing)
}

/// Opens a file without blocking, because opening a named pipe would otherwise wait for a writer.
#[cfg(unix)]
fn open_nonblocking(path: &Path) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(
        path,
        flags(),
        rustix::fs::Mode::empty(),
    )?))
}

#[cfg(not(unix))]
fn open_nonblocking(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn flags() -> rustix::fs::OFlags {
    use rustix::fs::OFlags;

    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// Opens a file below `root`. The kernel ensures that no symbolic link and no concurrent rename leads out
/// of the root.
#[cfg(target_os = "linux")]
fn open_below(root: &Path, file: &Path) -> Result<File, OpenError> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
    use rustix::io::Errno;

    let root_fd = open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io::Error::from)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match openat2(&root_fd, file, flags(), Mode::empty(), beneath) {
            Ok(fd) => return Ok(File::from(fd)),
            // A concurrent rename interrupted the resolution.
            Err(Errno::AGAIN) => {}
            // An old kernel or a sandbox does not support the call.
            Err(Errno::NOSYS | Errno::PERM) => return open_below_checked(root, file),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Err(OpenError::Changing)
}

#[cfg(not(target_os = "linux"))]
fn open_below(root: &Path, file: &Path) -> Result<File, OpenError> {
    open_below_checked(root, file)
}

fn open_below_checked(root: &Path, file: &Path) -> Result<File, OpenError> {
    Ok(open_nonblocking(&resolve_below(root, file)?)?)
}

/// Resolves a path below `root` without help of the kernel, and rejects a path that leaves the root.
///
/// A process with write access to the directory can change the path between this check and the open.
pub(crate) fn resolve_below(root: &Path, path: &Path) -> Result<PathBuf, OpenError> {
    let (root, path) = (root.canonicalize()?, root.join(path).canonicalize()?);
    if !path.starts_with(&root) {
        return Err(OpenError::Outside);
    }
    Ok(path)
}

fn check_type(metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    Err(OpenError::NotAFile(if kind.is_dir() {
        "a directory"
    } else {
        special_file(kind)
    }))
}

#[cfg(unix)]
fn special_file(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;

    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special_file(_: std::fs::FileType) -> &'static str {
    "a special file"
}

/// Returns the mode of a file if users other than its owner have any permission.
#[cfg(unix)]
pub(crate) fn mode_open_to_others(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;

    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

#[cfg(not(unix))]
pub(crate) fn mode_open_to_others(_: &Metadata) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_resolution_without_openat2_stays_below_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("..data")).unwrap();
        std::fs::write(root.join("..data/KEY"), "inside").unwrap();
        std::fs::write(folder.path().join("outside"), "outside").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("..data/KEY", root.join("KEY")).unwrap();
            std::os::unix::fs::symlink("../outside", root.join("OUT")).unwrap();
            assert!(open_below_checked(&root, Path::new("KEY")).is_ok());
            let out = open_below_checked(&root, Path::new("OUT")).unwrap_err();
            assert!(matches!(out, OpenError::Outside));
        }
        let missing = open_below_checked(&root, Path::new("NONE")).unwrap_err();
        assert!(matches!(missing, OpenError::Missing));
    }
}
