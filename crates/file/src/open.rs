//! Opens and reads one file safely: size limits, symbolic links, special files and concurrent writes.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

/// The number of attempts to read what changes during the read.
pub(crate) const ATTEMPTS: usize = 4;

/// The reason why a file or a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the file does not exist")]
    Missing,
    #[error("the target of this symbolic link, `{}`, does not exist", .0.display().to_string().escape_debug())]
    Dangling(PathBuf),
    #[error("a part of its path is a file, not a directory")]
    NotADirectory,
    #[error("this is a directory, not a file")]
    IsADirectory,
    #[error("this is {0}, not a regular file")]
    NotAFile(&'static str),
    #[error("a symbolic link points out of the directory")]
    Outside,
    #[error("its symbolic links form a loop")]
    #[cfg_attr(
        not(unix),
        allow(dead_code, reason = "other systems report it as another error")
    )]
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
    /// Returns whether there is nothing at the path.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Missing | Self::Dangling(_) | Self::NotADirectory
        )
    }

    /// Returns the error for a file below the directory of the provider.
    pub(crate) fn into_error(self, path: &Path) -> Error {
        let kind = match self {
            Self::Missing | Self::Dangling(_) | Self::NotADirectory => ErrorKind::NotFound,
            Self::IsADirectory | Self::NotAFile(_) | Self::LinkLoop => ErrorKind::Malformed,
            Self::Outside | Self::Forbidden(_) => ErrorKind::Denied,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Changing | Self::Io(_) => ErrorKind::Unavailable,
        };
        let hint = match self {
            Self::Missing | Self::NotADirectory => "create it, or add a source that has the secret",
            Self::Dangling(_) => "create or mount the target",
            Self::IsADirectory | Self::NotAFile(_) | Self::LinkLoop => {
                "replace it with a regular file"
            }
            Self::Outside => "move the file into the directory",
            Self::Forbidden(_) => "give the user of the service read permission",
            Self::TooLarge(_) => "check the path, or raise `max_bytes`",
            Self::Changing => "write a new file next to it and rename it to this name",
            Self::Io(_) => "check the file system",
        };
        Error::new(kind, format!("`{}`: {self}", shown(path)))
            .with_hint(hint)
            .with_source(self)
    }
}

/// Returns a path for a message.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::NotADirectory => Self::NotADirectory,
            io::ErrorKind::PermissionDenied => Self::Forbidden(error),
            io::ErrorKind::IsADirectory => Self::IsADirectory,
            _ => Self::other(error),
        }
    }
}

#[cfg(unix)]
impl From<rustix::io::Errno> for OpenError {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
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

/// The content of a file.
pub(crate) struct Contents {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) metadata: Metadata,
    /// The open file, for questions about its file system.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix answers them"))]
    pub(crate) file: File,
    /// The name of the generation of a volume, if the file belongs to one.
    pub(crate) generation: Option<PathBuf>,
}

/// Reads a file. A file that changes during the read is read again, so the bytes are never a mix of old and new
/// content.
pub(crate) fn read(
    mut open: impl FnMut() -> Result<File, OpenError>,
    limit: u64,
) -> Result<Contents, OpenError> {
    for _ in 0..ATTEMPTS {
        let mut file = open()?;
        let before = file.metadata()?;
        check_type(before.file_type())?;
        if before.len() > limit {
            return Err(OpenError::TooLarge(limit));
        }
        // Allocated at full size, because growing would leave copies of the bytes in freed memory.
        let size = usize::try_from(before.len())
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        (&mut file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(OpenError::TooLarge(limit));
        }
        let metadata = file.metadata()?;
        if metadata.len() == before.len()
            && bytes.len() as u64 == metadata.len()
            && metadata.modified().ok() == before.modified().ok()
        {
            return Ok(Contents {
                bytes,
                metadata,
                file,
                generation: None,
            });
        }
    }
    Err(OpenError::Changing)
}

/// Opens what is at a path, and again if something is there although it was missing. Links can be replaced between their
/// resolution and the use of their target.
pub(crate) fn retry_missing<T>(
    path: &Path,
    mut open: impl FnMut() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    for _ in 1..ATTEMPTS {
        match open() {
            Err(OpenError::Missing) if path.symlink_metadata().is_ok() => {}
            result => return result,
        }
    }
    open()
}

/// Opens a file without blocking, because opening a named pipe would otherwise wait for a writer.
#[cfg(unix)]
pub(crate) fn open_path(path: &Path) -> Result<File, OpenError> {
    Ok(File::from(rustix::fs::open(
        path,
        flags(),
        rustix::fs::Mode::empty(),
    )?))
}

#[cfg(not(unix))]
pub(crate) fn open_path(path: &Path) -> Result<File, OpenError> {
    Ok(File::open(path)?)
}

#[cfg(unix)]
pub(crate) fn flags() -> rustix::fs::OFlags {
    use rustix::fs::OFlags;

    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// Returns an error if this is not the type of a regular file.
pub(crate) fn check_type(kind: FileType) -> Result<(), OpenError> {
    match kind {
        _ if kind.is_file() => Ok(()),
        _ if kind.is_dir() => Err(OpenError::IsADirectory),
        _ => Err(OpenError::NotAFile(special_file(kind))),
    }
}

/// Returns the name of a type of file that is neither a regular file nor a directory.
#[cfg(unix)]
pub(crate) fn special_file(kind: FileType) -> &'static str {
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
pub(crate) fn special_file(_: FileType) -> &'static str {
    "a special file"
}
