//! Checks of the permissions of files.

use std::path::Path;
use std::sync::atomic::Ordering;

use secretwell_core::{Error, ErrorKind};

use crate::open::{Contents, shown};
use crate::reader::Reader;

impl Reader {
    pub(crate) fn check_permissions(&self, path: &Path, contents: &Contents) -> Result<(), Error> {
        let Some(mode) = mode_open_to_others(contents) else {
            return Ok(());
        };
        if self.config.strict_permissions {
            let message = format!("other users can access `{}` (mode {mode:o})", shown(path));
            return Err(Error::new(ErrorKind::Denied, message).with_hint("run `chmod 600` on it"));
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "secretwell::file",
                event = "open_permissions",
                path = %path.display(),
                mode = format_args!("{mode:o}"),
                "other users can access a file with secrets; run `chmod 600` on it, or mount it for its own user only",
            );
        }
        Ok(())
    }
}

/// Returns the mode of a file if users other than its owner have any permission.
///
/// Container runtimes mount secrets read-only and readable for all users. Nobody outside of the container can reach
/// such a mount, so permissions to read do not count there.
#[cfg(unix)]
fn mode_open_to_others(contents: &Contents) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;

    const READ: u32 = 0o044;
    let mode = contents.metadata.permissions().mode() & 0o7777;
    let open = mode & 0o077;
    let is_open = open != 0 && (open & !READ != 0 || !is_on_read_only_mount(contents));
    is_open.then_some(mode)
}

#[cfg(not(unix))]
fn mode_open_to_others(_: &Contents) -> Option<u32> {
    None
}

/// Returns whether the file is on a read-only mount of its own. The root file system of a machine can be read-only
/// too, but its files are reachable for every user.
#[cfg(unix)]
fn is_on_read_only_mount(contents: &Contents) -> bool {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{StatVfsMountFlags, fstatvfs};

    let is_read_only =
        fstatvfs(&contents.file).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY));
    let is_root = || std::fs::metadata("/").is_ok_and(|it| it.dev() == contents.metadata.dev());
    is_read_only && !is_root()
}
