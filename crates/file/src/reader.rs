//! The blocking reads of a provider.

use std::sync::atomic::AtomicBool;

use secretwell_core::backend::refuse_encrypted;
use secretwell_core::{Error, ErrorKind, Origin, Secret, SecretKey, Version};

use crate::config::{Config, Format, Layout};
use crate::document::{self, Document};
use crate::open::{self, Location};

/// The blocking part of the provider, which runs on blocking threads.
pub(crate) struct Reader {
    pub(crate) origin: Origin,
    pub(crate) config: Config,
    /// Whether the warning about open permissions has been logged.
    pub(crate) warned: AtomicBool,
}

impl Reader {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            origin: Origin::new("file", config.path.display().to_string().escape_debug()),
            config,
            warned: AtomicBool::new(false),
        }
    }

    pub(crate) fn read_all(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let with_context = |key: &SecretKey, result: Result<Secret, Error>| {
            let usable = result.and_then(|secret| self.refuse_encrypted(secret));
            usable.map_err(|error| error.with_origin(&self.origin).with_key(key))
        };
        match self.config.layout {
            Layout::Directory => keys
                .iter()
                .map(|key| with_context(key, self.read_file(key)))
                .collect(),
            Layout::Document(format) => match self.read_document(format) {
                Ok(document) => {
                    let read = |key| with_context(key, read_entry(&document, key));
                    keys.iter().map(read).collect()
                }
                Err(error) => keys
                    .iter()
                    .map(|key| with_context(key, Err(error.clone())))
                    .collect(),
            },
        }
    }

    fn refuse_encrypted(&self, secret: Secret) -> Result<Secret, Error> {
        match self.config.accept_encrypted {
            true => Ok(secret.accept_encrypted()),
            false => refuse_encrypted(secret),
        }
    }

    fn read_file(&self, key: &SecretKey) -> Result<Secret, Error> {
        reject_volume_names(key.as_str())?;
        let location = Location::Below(self.config.path.clone(), key.as_str().into());
        let mut bytes = self.read(&location)?;
        if self.config.trim_newline && bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Ok(secret(std::mem::take(&mut *bytes)))
    }

    pub(crate) fn read_document(&self, format: Option<Format>) -> Result<Document, Error> {
        let path = &self.config.path;
        let format = format.or_else(|| Format::from_path(path)).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                "the file name does not determine a format",
            )
            .with_hint("set the format: env, json, yaml or toml")
        })?;
        let bytes = self.read(&Location::Path(path.clone()))?;
        document::parse(self.config.syntax(format), &bytes)
    }

    fn read(&self, location: &Location) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        let (bytes, metadata) = open::read(location, self.config.limit())
            .map_err(|error| self.explain_missing_root(error.into_error(&location.path())))?;
        self.check_permissions(&location.path(), &metadata)?;
        Ok(bytes)
    }

    /// Replaces the error of a missing secret if the root directory itself is missing.
    fn explain_missing_root(&self, error: Error) -> Error {
        let root = &self.config.path;
        if !error.is_not_found() || self.config.layout != Layout::Directory || root.exists() {
            return error;
        }
        let root = root.display().to_string();
        Error::new(
            ErrorKind::NotFound,
            format!("the directory `{}` does not exist", root.escape_debug()),
        )
        .with_hint("create or mount it, or add a source that has the secret")
    }

    /// Checks the directory or reads the whole document, because one defect in it fails every key.
    pub(crate) fn health(&self) -> Result<(), Error> {
        let checked = match self.config.layout {
            // The `.` entry needs the same search permission as reading a file in the directory.
            Layout::Directory => std::fs::metadata(self.config.path.join("."))
                .map(drop)
                .map_err(|error| open::OpenError::from(error).into_error(&self.config.path)),
            Layout::Document(format) => self.read_document(format).map(drop),
        };
        checked.map_err(|error| error.with_origin(&self.origin))
    }
}

/// Rejects names that start with `..`, because a Kubernetes volume stores its versions under them.
pub(crate) fn reject_volume_names(path: &str) -> Result<(), Error> {
    if path.split('/').any(|segment| segment.starts_with("..")) {
        return Err(Error::new(
            ErrorKind::InvalidKey,
            "names that start with `..` are reserved for the volume",
        )
        .with_hint("use the name of the secret"));
    }
    Ok(())
}

fn read_entry(document: &Document, key: &SecretKey) -> Result<Secret, Error> {
    let bytes = document.get(key)?.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "the document has no entry for this key, or the entry is `null`",
        )
        .with_hint("add it, or add a source that has it")
    })?;
    Ok(secret(bytes))
}

fn secret(bytes: Vec<u8>) -> Secret {
    let version = Version::from_content(&bytes);
    Secret::new(bytes).with_version(version)
}
