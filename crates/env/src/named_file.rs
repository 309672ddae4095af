//! Reads a file whose path is the value of a variable.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

/// The size limit of a file, in bytes.
const LIMIT: u64 = 1 << 20;
/// A file whose last change is more recent might be written to at this moment.
const SETTLED_AFTER: Duration = Duration::from_millis(250);
/// The number of reads of a file that is written to.
const READS: usize = 8;

/// Reads the file at `path`, without one newline at its end.
///
/// A file that was just changed is read again until two reads in a row are equal. Errors do not contain the path: if a
/// secret was written to the variable by mistake, the path is that secret.
///
/// # Errors
/// A path that names no regular file is [`ErrorKind::InvalidConfig`], and never an absence, because it was configured
/// explicitly. The error is temporary if the file can appear later.
pub(crate) async fn read(path: PathBuf) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut last = read_once(path.clone()).await?;
    for _ in 1..READS {
        if last.is_settled {
            return Ok(last.bytes);
        }
        tokio::time::sleep(SETTLED_AFTER).await;
        let next = read_once(path.clone()).await?;
        let is_equal = next.bytes == last.bytes;
        last = next;
        last.is_settled |= is_equal;
    }
    match last.is_settled {
        true => Ok(last.bytes),
        false => Err(
            Error::new(ErrorKind::Unavailable, "the file changed during each read")
                .with_hint("write a new file next to it and rename it to this name"),
        ),
    }
}

struct Content {
    bytes: Zeroizing<Vec<u8>>,
    is_settled: bool,
}

async fn read_once(path: PathBuf) -> Result<Content, Error> {
    let read = tokio::task::spawn_blocking(move || read_blocking(&path));
    read.await.unwrap_or_else(|error| {
        let message = "the blocking read task was canceled or panicked";
        Err(Error::new(ErrorKind::Unavailable, message).with_source(error))
    })
}

fn read_blocking(path: &Path) -> Result<Content, Error> {
    if !path.is_absolute() {
        return Err(misplaced("its value is not an absolute path"));
    }
    // Opening a named pipe would wait for a writer.
    check_type(&std::fs::metadata(path).map_err(failed)?)?;
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    check_type(&metadata)?;
    let too_large = || {
        Error::new(ErrorKind::TooLarge, "the file is larger than 1 MiB")
            .with_hint("check the path of the file")
    };
    if metadata.len() > LIMIT {
        return Err(too_large());
    }
    // Allocated at full size, because growing would leave copies of the bytes in freed memory.
    let size = usize::try_from(metadata.len()).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    let read = (&mut file).take(LIMIT + 1).read_to_end(&mut bytes);
    let read = read.map_err(failed)? as u64;
    if read > LIMIT {
        return Err(too_large());
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(Content {
        is_settled: read == metadata.len() && is_old(&metadata),
        bytes,
    })
}

/// Returns whether the last change was long ago. A change in the future was made with another clock.
fn is_old(metadata: &Metadata) -> bool {
    let age = metadata.modified().ok().map(|changed| changed.elapsed());
    match age {
        Some(Ok(age)) => age >= SETTLED_AFTER,
        Some(Err(_)) => false,
        // The platform does not report the time.
        None => true,
    }
}

fn check_type(metadata: &Metadata) -> Result<(), Error> {
    match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err(misplaced("its value is the path of a directory")),
        false => Err(misplaced("its value is the path of a special file")),
    }
}

fn failed(error: io::Error) -> Error {
    let result = match error.kind() {
        io::ErrorKind::NotFound => misplaced("the file does not exist").temporary(),
        io::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Denied,
            "this process has no permission to read the file",
        )
        .with_hint("give the user of the service read permission"),
        // A part of the path is a file, a name is too long, or links form a loop.
        io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename => misplaced("its value is not the path of a file"),
        _ => Error::new(ErrorKind::Unavailable, "reading the file failed")
            .with_hint("check the file system"),
    };
    result.with_source(error)
}

fn misplaced(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("set it to the absolute path of a regular file")
}
