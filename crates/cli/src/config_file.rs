//! The configuration file: its text, and the search for it.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

use crate::exit::{Failure, Reason};

const NAME: &str = "secretwell.toml";
/// The user ID of root.
const ROOT: u32 = 0;
/// The maximum length of a configuration file in bytes.
const MAX_LENGTH: u64 = 1024 * 1024;

/// The text of a configuration file.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl ConfigFile {
    /// Reads the file at `path`, which the user has named.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = File::open(path).and_then(|mut file| read_text(&mut file));
        let text = text.map_err(|error| unreadable(path, &error))?;
        let path = path.to_owned();
        Ok(Self { path, text })
    }

    /// Searches for `secretwell.toml` in the current directory. In a repository, also searches the parent folders up
    /// to the root of the repository, which contains `.git`. The nearest file is used.
    ///
    /// # Errors
    /// Fails if the nearest file cannot be read or is owned by another user. Such a file is never skipped.
    pub(crate) fn search() -> Result<Option<Self>, Failure> {
        let nearest = match Path::new(NAME).symlink_metadata() {
            Ok(_) => Some(PathBuf::from(NAME)),
            Err(error) if error.kind() == ErrorKind::NotFound => env::current_dir()
                .ok()
                .and_then(|folder| find_in_parents(&folder)),
            Err(error) => return Err(unreadable(Path::new(NAME), &error)),
        };
        nearest.map(Self::read_own).transpose()
    }

    /// Returns the error that no file was found.
    pub(crate) fn not_found() -> Failure {
        unreadable(Path::new(NAME), &ErrorKind::NotFound.into())
    }

    /// Reads a file that was found by its name, so another user could have put it there.
    fn read_own(path: PathBuf) -> Result<Self, Failure> {
        let read = || {
            // Opening a named pipe must not wait for a writer.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let mut file = File::from(rustix::fs::open(&path, flags, Mode::empty())?);
            let (target, link) = (file.metadata()?, path.symlink_metadata()?);
            if !target.is_file() {
                return Ok(Err(
                    "this is not a regular file; replace it, or set the path of another file with --config"
                        .to_owned(),
                ));
            }
            let user = geteuid().as_raw();
            // Only the owner of a link could have created it.
            let mut owners = [target.uid(), link.uid()].into_iter();
            if let Some(owner) = owners.find(|owner| !is_trusted(*owner, user)) {
                return Ok(Err(format!(
                    "the file is owned by user {owner}, not by you (user {user}) or root, so it is not used; change \
                     its owner, or confirm the file with --config"
                )));
            }
            if target.mode() & 0o002 != 0 {
                let path = path.display();
                tracing::warn!(target: "secretwell::command", event = "open_permissions", %path, "other users can write the configuration file, and so replace the sources; run `chmod o-w` on it");
            }
            Ok(Ok(read_text(&mut file)?))
        };
        match read().map_err(|error: io::Error| unreadable(&path, &error))? {
            Ok(text) => Ok(Self { path, text }),
            Err(problem) => Err(failure(&path, &problem)),
        }
    }
}

/// Reads at most [`MAX_LENGTH`] bytes, because a device such as `/dev/zero` has no end.
fn read_text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    let length = file.take(MAX_LENGTH + 1).read_to_string(&mut text)?;
    match length as u64 > MAX_LENGTH {
        true => Err(io::Error::new(ErrorKind::FileTooLarge, "larger than 1 MiB")),
        false => Ok(text),
    }
}

/// Returns the path of the nearest file in the parents of `folder`, if `folder` is inside of a repository.
fn find_in_parents(folder: &Path) -> Option<PathBuf> {
    let mut nearest = None;
    for (index, folder) in folder.ancestors().enumerate() {
        let path = folder.join(NAME);
        if index > 0 && nearest.is_none() && path.symlink_metadata().is_ok() {
            nearest = Some(path);
        }
        match folder.join(".git").symlink_metadata() {
            Ok(_) => return nearest,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // A folder that cannot be searched is outside of the repository.
            Err(_) => return None,
        }
    }
    None
}

fn is_trusted(owner: u32, user: u32) -> bool {
    owner == user || owner == ROOT
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let problem = match error.kind() {
        ErrorKind::NotFound => {
            "the configuration file does not exist; set its path with --config".into()
        }
        kind => format!("the configuration file cannot be read: {kind}"),
    };
    failure(path, &problem)
}

fn failure(path: &Path, problem: &str) -> Failure {
    let path = path.display();
    Failure::new(Reason::Configuration, format!("{path}: {problem}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory that is removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("secretwell-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.join("repository/a/b")).unwrap();
            Self(folder)
        }

        fn write(&self, path: &str) -> PathBuf {
            let path = self.0.join(path);
            fs::write(&path, "").unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nearest_file_inside_of_the_repository_is_found() {
        let folder = Folder::new("search");
        let start = folder.0.join("repository/a/b");
        let find = || find_in_parents(&start);
        let outside = folder.write("secretwell.toml");
        let root = folder.write("repository/secretwell.toml");
        // There is no repository.
        assert_eq!(find(), None);
        // A work tree has a file `.git`.
        folder.write("repository/.git");
        assert_eq!(find(), Some(root.clone()));
        let nearest = folder.write("repository/a/secretwell.toml");
        assert_eq!(find(), Some(nearest.clone()));
        // A broken link is found too. It is an error when it is read.
        fs::remove_file(&nearest).unwrap();
        symlink("nowhere", &nearest).unwrap();
        assert_eq!(find(), Some(nearest.clone()));
        ConfigFile::read_own(nearest.clone()).unwrap_err();
        // A repository inside of a repository ends the search.
        fs::remove_file(&nearest).unwrap();
        fs::create_dir(folder.0.join("repository/a/.git")).unwrap();
        assert_eq!(find(), None);
        assert!(outside.exists() && root.exists());
    }

    #[test]
    fn files_of_other_users_and_other_kinds_of_files_are_refused() {
        for (owner, user, trusted) in [(5, 5, true), (0, 5, true), (6, 5, false), (5, 0, false)] {
            assert_eq!(is_trusted(owner, user), trusted);
        }
        let folder = Folder::new("kinds");
        let error = ConfigFile::read_own(folder.0.clone()).unwrap_err();
        assert!(
            error.problems()[0].contains("not a regular file"),
            "{error:?}"
        );
        // Opening a pipe does not wait for a writer.
        let pipe = folder.0.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let error = ConfigFile::read_own(pipe).unwrap_err();
        assert!(
            error.problems()[0].contains("not a regular file"),
            "{error:?}"
        );
        let own = folder.write("own");
        ConfigFile::read_own(own).unwrap();
    }

    #[test]
    fn device_without_an_end_is_an_error() {
        let failure = ConfigFile::read(Path::new("/dev/zero")).unwrap_err();
        assert!(failure.problems().concat().contains("too large"));
    }
}
