//! Reads one file, whatever stands in its place.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

/// How often a file that changes while it is read is read again.
const TRIES: usize = 4;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("there is no such file")]
    Missing,
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    #[error("a symbolic link leads out of the directory")]
    Outside,
    #[error("its symbolic links lead in a circle")]
    Circle,
    #[error("this process may not read it")]
    Forbidden(#[source] io::Error),
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("it is being written right now")]
    Unsteady,
    #[error("reading it failed")]
    Io(#[source] io::Error),
}

impl OpenError {
    pub(crate) fn into_error(self, path: &Path) -> Error {
        let kind = match self {
            Self::Missing => ErrorKind::NotFound,
            Self::NotAFile(_) | Self::Circle => ErrorKind::Malformed,
            Self::Outside | Self::Forbidden(_) => ErrorKind::Denied,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Unsteady | Self::Io(_) => ErrorKind::Unavailable,
        };
        let hint = match self {
            Self::Missing => "create it, or add a source that has the secret",
            Self::NotAFile(_) | Self::Circle => "put a plain file there",
            Self::Outside => "put the file itself below the directory",
            Self::Forbidden(_) => "let the user that the service runs as read it",
            Self::TooLarge(_) => "is it the right file? If so, raise `max_bytes`",
            Self::Unsteady => "write it anew beside it and rename it into place",
            Self::Io(_) => "look at the file system",
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
            Some(Errno::LOOP) => Self::Circle,
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

/// Where a file is: at a path, or below a root that nothing may lead out of.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    At(PathBuf),
    Below(PathBuf, PathBuf),
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::At(path) => path.clone(),
            Self::Below(root, file) => root.join(file),
        }
    }

    fn open(&self) -> Result<File, OpenError> {
        match self {
            Self::At(path) => Ok(open_plainly(path)?),
            Self::Below(root, file) => open_below(root, file),
        }
    }
}

/// The bytes of the file at `place`, from one moment: a file that is written while it is read is
/// read again.
pub(crate) fn read(place: &Place, limit: u64) -> Result<(Zeroizing<Vec<u8>>, Metadata), OpenError> {
    for _ in 0..TRIES {
        let mut file = place.open()?;
        let before = file.metadata()?;
        check_type(&before)?;
        if before.len() > limit {
            return Err(OpenError::TooLarge(limit));
        }
        // Sized at once, so that growing leaves no copies of the bytes behind.
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
    Err(OpenError::Unsteady)
}

/// Without waiting for a writer, should it be a FIFO.
#[cfg(unix)]
fn open_plainly(path: &Path) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(
        path,
        flags(),
        rustix::fs::Mode::empty(),
    )?))
}

#[cfg(not(unix))]
fn open_plainly(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn flags() -> rustix::fs::OFlags {
    use rustix::fs::OFlags;

    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// The kernel itself keeps the way inside the root, at every symbolic link and whatever is renamed
/// meanwhile.
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
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(&root_fd, file, flags(), Mode::empty(), inside) {
            Ok(fd) => return Ok(File::from(fd)),
            // A rename crossed the way.
            Err(Errno::AGAIN) => {}
            // An old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return open_below_checked(root, file),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Err(OpenError::Unsteady)
}

#[cfg(not(target_os = "linux"))]
fn open_below(root: &Path, file: &Path) -> Result<File, OpenError> {
    open_below_checked(root, file)
}

fn open_below_checked(root: &Path, file: &Path) -> Result<File, OpenError> {
    Ok(open_plainly(&resolve_below(root, file)?)?)
}

/// Where the kernel does not help: resolves the way first and looks where it ends. Who may write to
/// the directory could change it in between.
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
        special(kind)
    }))
}

#[cfg(unix)]
fn special(kind: std::fs::FileType) -> &'static str {
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
fn special(_: std::fs::FileType) -> &'static str {
    "something else"
}

/// The permissions of a file that others than its owner have, if they have any.
#[cfg(unix)]
pub(crate) fn open_to_others(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;

    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

#[cfg(not(unix))]
pub(crate) fn open_to_others(_: &Metadata) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_without_the_kernels_help_stays_inside_too() {
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
