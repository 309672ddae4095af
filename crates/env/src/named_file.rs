//! Reads a file whose path is the value of a variable.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

/// How often files of a volume are read that is replaced during each read.
pub(crate) const MAX_GENERATIONS: usize = 8;

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

/// Returns which generation of its volume each of the files at `paths` belongs to. Kubernetes replaces all files of a
/// volume at once, by swapping the link `..data` beside them.
pub(crate) async fn generations(paths: Vec<PathBuf>) -> Vec<Option<PathBuf>> {
    let read = move || {
        let parents = paths.iter().map(|path| path.parent());
        let link = |parent: Option<&Path>| std::fs::read_link(parent?.join("..data")).ok();
        parents.map(link).collect()
    };
    // Without an answer, all files count as those of one generation.
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::{OsStr, OsString};
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use secretwell_core::{SecretKey, SecretProvider};

    use super::*;
    use crate::{EnvProvider, Environment};

    struct Fixed(BTreeMap<OsString, OsString>);

    impl Environment for Fixed {
        fn value(&self, name: &OsStr) -> Option<OsString> {
            self.0.get(name).cloned()
        }

        fn names(&self) -> Vec<OsString> {
            self.0.keys().cloned().collect()
        }
    }

    /// Replaces all files of the volume at `root`, like the kubelet.
    fn swap(root: &Path, generation: usize) {
        let folder = root.join(format!("..{generation}"));
        std::fs::create_dir(&folder).unwrap();
        for name in ["user", "password"] {
            let file = folder.join(name);
            std::fs::write(&file, format!("{name} {generation}")).unwrap();
            let file = File::options().write(true).open(file).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60))
                .unwrap();
        }
        symlink(&folder, root.join("..next")).unwrap();
        std::fs::rename(root.join("..next"), root.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn named_files_of_one_volume_are_read_from_one_generation() {
        let root = tempfile::tempdir().unwrap();
        swap(root.path(), 0);
        let mut variables = BTreeMap::new();
        for name in ["user", "password"] {
            let path = root.path().join(name);
            symlink(Path::new("..data").join(name), &path).unwrap();
            variables.insert(format!("{name}_FILE").into(), path.into());
        }
        let provider = EnvProvider::with_environment(Fixed(variables), "").file_suffix("_FILE");
        let keys = ["user", "password"].map(SecretKey::from_static);
        let folder = root.path().to_owned();
        let writer = std::thread::spawn(move || (1..300).for_each(|it| swap(&folder, it)));
        let mut reads = 0;
        while !writer.is_finished() || reads < 10 {
            let results = provider.get_many(&keys).await;
            let generation = |index: usize| {
                let value = &results[index].as_ref().ok()?.value;
                let text = value.expose_text().unwrap();
                Some(text.split_once(' ').unwrap().1.to_owned())
            };
            assert_eq!(generation(0), generation(1));
            reads += 1;
        }
        writer.join().unwrap();
        let last = provider.get_many(&keys).await;
        let last = last[1].as_ref().unwrap().value.expose_text().unwrap();
        assert_eq!(last, "password 299");
    }
}
