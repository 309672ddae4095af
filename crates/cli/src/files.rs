//! Secrets in files, for programs that read a path.
//!
//! The files of one command are in a directory of their own. The directory contains a lock, which the kernel
//! releases when the command ends in any way. So the next command recognizes the files of a killed one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::process::geteuid;
use secretwell::SecretValue;

use crate::exit::{Failure, Reason};
use crate::variables::{Variable, is_shell_name};

/// The directory for files in memory if XDG_RUNTIME_DIR is not set.
const SHARED_MEMORY: &str = "/dev/shm";
/// The beginning of the name of each directory.
const PREFIX: &str = "secretwell-";
/// The file that is locked as long as the command runs.
const LOCK: &str = ".lock";
/// The name of the lock until it is locked.
const UNLOCKED: &str = ".unlocked";
const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR;

/// The secrets that the program reads from files. The files are removed when this value is dropped.
#[derive(Debug)]
pub(crate) struct SecretFiles {
    /// The variables with the paths. The name of each file is that of its variable.
    names: BTreeSet<String>,
    /// `None` until the first file is written.
    directory: Option<Directory>,
}

impl SecretFiles {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self {
            names: names.into_iter().collect(),
            directory: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Replaces the files with the values in `variables`, and removes the files that have no variable there.
    ///
    /// # Errors
    /// If a file cannot be written, no file is changed.
    pub(crate) fn write(&mut self, variables: &[Variable]) -> Result<(), Failure> {
        if self.names.is_empty() {
            return Ok(());
        }
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => Directory::create(&base_directory()?)?,
        };
        let directory = self.directory.insert(directory);
        let files = variables.iter().filter(|it| self.names.contains(&it.name));
        let files = files.map(|variable| (variable.name.as_str(), &variable.value));
        directory.replace(&files.collect())
    }

    /// Returns `variables` with the paths of the files in place of their values.
    pub(crate) fn with_paths(&self, variables: &[Variable]) -> Vec<Variable> {
        let with_path = |variable: &Variable| match &self.directory {
            Some(directory) if self.names.contains(&variable.name) => {
                let path = directory.path.join(&variable.name);
                let value = SecretValue::from(path.as_os_str().as_bytes());
                let name = variable.name.clone();
                Variable { name, value }
            }
            _ => variable.clone(),
        };
        variables.iter().map(with_path).collect()
    }
}

/// A directory of secret files that belongs to this process.
#[derive(Debug)]
struct Directory {
    base: OwnedFd,
    name: String,
    path: PathBuf,
    descriptor: OwnedFd,
    /// The files and their contents.
    written: BTreeMap<String, SecretValue>,
    /// Locked until this process ends.
    _lock: File,
}

impl Directory {
    /// Creates a directory below `base`, and removes the directories of killed commands there.
    fn create(base: &Path) -> Result<Self, Failure> {
        let path = base;
        let base = open_base(path)?;
        remove_leftovers(&base, path);
        let failed = |error: io::Error| {
            let message = format!(
                "a directory for secret files cannot be created in `{}`: {}; set XDG_RUNTIME_DIR to another \
                 directory",
                path.display(),
                error.kind()
            );
            Failure::new(Reason::Output, message)
        };
        let random = RandomState::new().hash_one(std::process::id());
        let name = format!("{PREFIX}{}-{random:016x}", geteuid().as_raw());
        // The mask of this process might remove permissions that it needs itself.
        rustix::fs::mkdirat(&base, &name, DIRECTORY_MODE)
            .and_then(|()| rustix::fs::chmodat(&base, &name, DIRECTORY_MODE, AtFlags::empty()))
            .map_err(|error| failed(error.into()))?;
        let locked = open_own_directory(&base, name.as_ref()).and_then(|directory| {
            let lock = create_file(&directory, UNLOCKED)?;
            lock.try_lock()?;
            // A lock with this name is always locked, unless its process has ended.
            rustix::fs::renameat(&directory, UNLOCKED, &directory, LOCK)?;
            Ok((directory, lock))
        });
        let (descriptor, lock) = locked.map_err(|error| {
            // This succeeds only if the directory is empty.
            let _ = rustix::fs::unlinkat(&base, &name, AtFlags::REMOVEDIR);
            failed(error)
        })?;
        Ok(Self {
            path: path.join(&name),
            base,
            name,
            descriptor,
            written: BTreeMap::new(),
            _lock: lock,
        })
    }

    /// Replaces the files with `files`. Unchanged files are not written again.
    fn replace(&mut self, files: &BTreeMap<&str, &SecretValue>) -> Result<(), Failure> {
        let is_changed = |name: &str, value: &SecretValue| self.written.get(name) != Some(value);
        let changed = files.iter().filter(|(name, value)| is_changed(name, value));
        let changed: Vec<(&str, &SecretValue)> =
            changed.map(|(name, value)| (*name, *value)).collect();
        for (name, value) in &changed {
            if let Err(error) = self.write_new(name, value) {
                for (name, _) in &changed {
                    let _ = self.unlink(&new_name(name));
                }
                return Err(self.failed(name, &error));
            }
        }
        for (name, value) in changed {
            rustix::fs::renameat(&self.descriptor, new_name(name), &self.descriptor, name)
                .map_err(|error| self.failed(name, &error.into()))?;
            self.written.insert(name.to_owned(), value.clone());
        }
        let removed = self
            .written
            .keys()
            .filter(|name| !files.contains_key(name.as_str()));
        for name in removed.cloned().collect::<Vec<_>>() {
            let _ = self.unlink(&name);
            self.written.remove(&name);
        }
        Ok(())
    }

    /// Writes a file that is not yet visible under its name.
    fn write_new(&self, name: &str, value: &SecretValue) -> io::Result<()> {
        let _ = self.unlink(&new_name(name));
        create_file(&self.descriptor, &new_name(name))?.write_all(value.expose_bytes())
    }

    fn unlink(&self, name: &str) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty())
    }

    fn failed(&self, name: &str, error: &io::Error) -> Failure {
        let path = self.path.join(name);
        let message = format!(
            "the secret file `{}` cannot be written: {}; check the free space of its directory",
            path.display(),
            error.kind()
        );
        Failure::new(Reason::Output, message)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for name in self.written.keys() {
            let _ = self.unlink(name);
        }
        let _ = self.unlink(LOCK);
        let removed = rustix::fs::unlinkat(&self.base, &self.name, AtFlags::REMOVEDIR);
        if let Err(error) = removed {
            let path = self.path.display();
            tracing::warn!(target: "secretwell::command", event = "directory_not_removed", %path, %error, "the directory of the secret files cannot be removed, because another program wrote to it");
        }
    }
}

/// The name of a file until it is complete.
fn new_name(name: &str) -> String {
    format!(".new-{name}")
}

fn base_directory() -> Result<PathBuf, Failure> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let base = runtime.map_or_else(|| SHARED_MEMORY.into(), PathBuf::from);
    match base.is_absolute() {
        true => Ok(base),
        false => Err(Failure::new(
            Reason::Configuration,
            "XDG_RUNTIME_DIR is not an absolute path; set it to the path of a directory in memory, or unset it",
        )),
    }
}

/// Opens the directory at `path`, in which the files of a command are created.
///
/// # Errors
/// Fails if another user could replace the files: if the path contains a symbolic link, or if another user than
/// root owns the directory or can rename files of this user there.
fn open_base(path: &Path) -> Result<OwnedFd, Failure> {
    let refused = |reason: Reason, problem: String| {
        let path = path.display();
        let message = format!(
            "secret files cannot be written to `{path}`: {problem}; set XDG_RUNTIME_DIR to a directory in memory \
             that only this user can write to"
        );
        Failure::new(reason, message)
    };
    let invalid = |problem: String| refused(Reason::Configuration, problem);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => invalid("the directory does not exist".into()),
        kind => invalid(kind.to_string()),
    };
    let real = fs::canonicalize(path).map_err(failed)?;
    if real != path {
        return Err(invalid(format!(
            "the path contains a symbolic link or `..`; its real path is `{}`",
            real.display()
        )));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let base =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let stat = rustix::fs::fstat(&base).map_err(|error| failed(error.into()))?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if stat.st_uid != geteuid().as_raw() && stat.st_uid != 0 {
        return Err(invalid("the directory belongs to another user".into()));
    }
    if mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX) {
        return Err(invalid(
            "other users can replace files in the directory".into(),
        ));
    }
    if !is_in_memory(&base) {
        let path = path.display();
        tracing::warn!(target: "secretwell::command", event = "files_on_disk", %path, "the secret files are written to a disk, because the directory is not in memory; set XDG_RUNTIME_DIR to a directory in memory");
    }
    Ok(base)
}

#[cfg(target_os = "linux")]
fn is_in_memory(directory: &OwnedFd) -> bool {
    /// `TMPFS_MAGIC` of statfs(2).
    const TMPFS: i64 = 0x0102_1994;
    let stat = rustix::fs::fstatfs(directory);
    // The type of the field depends on the architecture.
    stat.is_ok_and(|stat| TryInto::<i64>::try_into(stat.f_type) == Ok(TMPFS))
}

/// Other systems do not report this in the same way.
#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &OwnedFd) -> bool {
    true
}

fn create_file(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, FILE_MODE)?;
    rustix::fs::fchmod(&file, FILE_MODE)?;
    Ok(File::from(file))
}

/// Opens a directory only if this module might have created it.
fn open_own_directory(base: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(base, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&directory)?;
    match is_own(&stat, FileType::Directory, DIRECTORY_MODE) {
        true => Ok(directory),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn is_own(stat: &Stat, file_type: FileType, mode: Mode) -> bool {
    // A directory can inherit this bit from its parent.
    let actual = Mode::from_raw_mode(stat.st_mode) & !Mode::SGID;
    FileType::from_raw_mode(stat.st_mode) == file_type
        && actual == mode
        && stat.st_uid == geteuid().as_raw()
}

/// Removes the files of killed commands of this user in `base`.
fn remove_leftovers(base: &OwnedFd, path: &Path) {
    let Ok(entries) = Dir::read_from(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name.as_bytes().starts_with(PREFIX.as_bytes()) && remove_leftover(base, name).is_ok() {
            let path = path.join(name);
            let path = path.display();
            tracing::info!(target: "secretwell::command", event = "leftover_removed", %path, "the secret files of a killed command are removed");
        }
    }
}

/// Removes a directory of a killed command.
///
/// # Errors
/// Fails if the directory does not belong to this user, or if its command is still running. Files that this module
/// did not create are kept.
fn remove_leftover(base: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let directory = open_own_directory(base, name)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(&directory, LOCK, flags, Mode::empty())?;
    if !is_own(&rustix::fs::fstat(&lock)?, FileType::RegularFile, FILE_MODE) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // The guard keeps the lock until the end, so that only one command removes the files.
    let lock = File::from(lock);
    lock.try_lock()?;
    for entry in Dir::read_from(&directory)?.flatten() {
        let file = entry.file_name();
        let text = file.to_str().unwrap_or_default();
        let stat = rustix::fs::statat(&directory, file, AtFlags::SYMLINK_NOFOLLOW)?;
        let has_name = is_shell_name(text.strip_prefix(".new-").unwrap_or(text));
        if has_name && is_own(&stat, FileType::RegularFile, FILE_MODE) {
            rustix::fs::unlinkat(&directory, file, AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(&directory, LOCK, AtFlags::empty())?;
    rustix::fs::unlinkat(base, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    /// A directory that is removed at the end of a test.
    struct Base(PathBuf);

    impl Base {
        fn new(name: &str) -> Self {
            let path = fs::canonicalize(env::temp_dir()).unwrap();
            let path = path.join(format!("secretwell-files-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            Self(path)
        }

        fn entries(&self) -> usize {
            self.0.read_dir().unwrap().count()
        }
    }

    impl Drop for Base {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn variable(name: &str, value: &[u8]) -> Variable {
        Variable {
            name: name.into(),
            value: value.into(),
        }
    }

    fn files(base: &Base, names: &[&str]) -> SecretFiles {
        let mut files = SecretFiles::new(names.iter().map(|name| (*name).to_owned()));
        files.directory = Some(Directory::create(&base.0).unwrap());
        files
    }

    fn path(files: &SecretFiles, name: &str) -> PathBuf {
        files.directory.as_ref().unwrap().path.join(name)
    }

    #[test]
    fn files_contain_the_exact_bytes_and_only_this_user_can_read_them() {
        let base = Base::new("modes");
        let mut files = files(&base, &["CA_PATH"]);
        let variables = [variable("CA_PATH", b"\0\xff\n"), variable("A", b"1")];
        files.write(&variables).unwrap();
        let file = path(&files, "CA_PATH");
        assert_eq!(fs::read(&file).unwrap(), b"\0\xff\n");
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o400);
        let directory = file.parent().unwrap();
        assert_eq!(directory.metadata().unwrap().mode() & 0o7777, 0o700);
        let passed = files.with_paths(&variables);
        assert_eq!(passed[0].os_value(), file.as_os_str());
        assert_eq!(passed[1].os_value(), "1");
        drop(files);
        assert_eq!(base.entries(), 0);
    }

    #[test]
    fn changed_files_are_replaced_and_files_without_a_secret_are_removed() {
        let base = Base::new("replace");
        let mut files = files(&base, &["A", "B"]);
        files
            .write(&[variable("A", b"1"), variable("B", b"1")])
            .unwrap();
        let inode = |files: &SecretFiles, name| path(files, name).metadata().unwrap().ino();
        // An open file keeps its content and its inode.
        let open = File::open(path(&files, "A")).unwrap();
        let unchanged = inode(&files, "B");
        files
            .write(&[variable("A", b"2"), variable("B", b"1")])
            .unwrap();
        assert_eq!(fs::read(path(&files, "A")).unwrap(), b"2");
        assert_eq!(io::read_to_string(open).unwrap(), "1");
        assert_eq!(inode(&files, "B"), unchanged);
        files.write(&[variable("A", b"2")]).unwrap();
        assert!(!path(&files, "B").exists());
    }

    #[test]
    fn failed_write_changes_no_file() {
        let base = Base::new("failed");
        let mut files = files(&base, &["A", "B"]);
        files
            .write(&[variable("A", b"1"), variable("B", b"1")])
            .unwrap();
        fs::create_dir(path(&files, ".new-B")).unwrap();
        let failure = files.write(&[variable("A", b"c4n4ry"), variable("B", b"c4n4ry")]);
        let problem = failure.unwrap_err().problems().concat();
        assert!(
            problem.contains("/B` cannot be written") && !problem.contains("c4n4ry"),
            "{problem}"
        );
        assert_eq!(fs::read(path(&files, "A")).unwrap(), b"1");
        assert!(!path(&files, ".new-A").exists());
        fs::remove_dir(path(&files, ".new-B")).unwrap();
        files
            .write(&[variable("A", b"2"), variable("B", b"2")])
            .unwrap();
        assert_eq!(fs::read(path(&files, "B")).unwrap(), b"2");
    }

    #[test]
    fn only_unlocked_directories_of_this_module_are_removed() {
        let base = Base::new("leftovers");
        let mut running = files(&base, &["A"]);
        running.write(&[variable("A", b"1")]).unwrap();
        let mut killed = files(&base, &["A"]);
        killed.write(&[variable("A", b"1")]).unwrap();
        let leftover = path(&killed, "A");
        fs::write(path(&killed, ".new-A"), "half").unwrap();
        fs::set_permissions(path(&killed, ".new-A"), fs::Permissions::from_mode(0o400)).unwrap();
        release(killed);

        // Other entries are never removed, even if they look similar.
        fs::write(base.0.join("secretwell-file"), "").unwrap();
        fs::create_dir(base.0.join("secretwell-unlocked")).unwrap();
        let outside = Base::new("outside");
        let mut target = files(&outside, &["A"]);
        target.write(&[variable("A", b"1")]).unwrap();
        let target_file = path(&target, "A");
        symlink(
            target_file.parent().unwrap(),
            base.0.join("secretwell-link"),
        )
        .unwrap();
        release(target);
        let open = base.0.join("secretwell-open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(open.join(LOCK), "").unwrap();
        fs::set_permissions(open.join(LOCK), fs::Permissions::from_mode(0o400)).unwrap();
        // The lock is a link to a file outside.
        let linked = base.0.join("secretwell-linked");
        fs::create_dir(&linked).unwrap();
        fs::set_permissions(&linked, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(target_file.parent().unwrap().join(LOCK), linked.join(LOCK)).unwrap();

        let next = Directory::create(&base.0).unwrap();
        assert!(!leftover.parent().unwrap().exists());
        assert!(path(&running, "A").exists() && target_file.exists());
        for name in ["file", "unlocked", "link", "open/.lock", "linked/.lock"] {
            let path = base.0.join(format!("secretwell-{name}"));
            assert!(path.symlink_metadata().is_ok(), "{name}");
        }
        drop(next);
    }

    #[test]
    fn foreign_files_in_a_leftover_are_kept() {
        let base = Base::new("foreign");
        let mut killed = files(&base, &["A"]);
        killed.write(&[variable("A", b"1")]).unwrap();
        let secret = path(&killed, "A");
        let note = path(&killed, "note");
        fs::write(&note, "mine").unwrap();
        symlink("/etc/passwd", path(&killed, "LINK")).unwrap();
        fs::create_dir(path(&killed, "folder")).unwrap();
        let link = path(&killed, "LINK");
        release(killed);
        drop(Directory::create(&base.0).unwrap());
        assert!(!secret.exists());
        assert!(note.exists() && link.symlink_metadata().is_ok());
    }

    #[test]
    fn unsafe_base_directories_are_refused() {
        let base = Base::new("unsafe");
        let link = base.0.join("link");
        symlink(&base.0, &link).unwrap();
        let shared = base.0.join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        let file = base.0.join("file");
        fs::write(&file, "").unwrap();
        for (path, expected) in [
            (link.clone(), "symbolic link"),
            (link.join("shared"), "symbolic link"),
            (shared.clone(), "other users can replace"),
            (base.0.join("missing"), "does not exist"),
            (file, "not a directory"),
        ] {
            let failure = Directory::create(&path).unwrap_err();
            assert_eq!(failure.reason(), Reason::Configuration);
            let problem = failure.problems().concat();
            assert!(problem.contains(expected), "{problem}");
        }
        // Like /dev/shm.
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        drop(Directory::create(&shared).unwrap());
    }

    /// Releases the lock and leaves the files, as `kill -9` does.
    fn release(mut files: SecretFiles) {
        let directory = files.directory.take().unwrap();
        directory._lock.unlock().unwrap();
        std::mem::forget(directory);
    }
}
