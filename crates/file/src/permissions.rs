//! Checks of the permissions of files.

use std::fs::Metadata;
use std::path::Path;
use std::sync::atomic::Ordering;

use secretwell_core::{Error, ErrorKind};

use crate::open::mode_open_to_others;
use crate::reader::Reader;

impl Reader {
    pub(crate) fn check_permissions(&self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let Some(mode) = mode_open_to_others(metadata) else {
            return Ok(());
        };
        if self.config.strict_permissions {
            let path = path.display().to_string();
            let message = format!(
                "other users can access `{}` (mode {mode:o})",
                path.escape_debug()
            );
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
