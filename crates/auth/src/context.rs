//! What a builder is given, and how it fails.

use std::collections::HashMap;
use std::fmt;

use secretwell_core::{Error, ErrorKind, SecretKey};
use secretwell_resolver::Resolved;

use crate::scrub::scrub;
use crate::{Generation, KeyRing, Mode};

/// What a builder may want to know beside the secrets themselves.
#[derive(Debug, Clone)]
pub struct BuildContext {
    pub(crate) mode: Mode,
    pub(crate) generation: Generation,
    pub(crate) secrets: Vec<(SecretKey, Resolved)>,
    pub(crate) rings: HashMap<SecretKey, KeyRing>,
}

impl BuildContext {
    /// How strict to be.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The number that this build gets when it comes into service.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The secrets of this build with their versions and sources, in the order of the fields.
    pub fn secrets(&self) -> &[(SecretKey, Resolved)] {
        &self.secrets
    }

    /// The secrets of `key` that verify, and the one that signs.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such key among the secrets of this build.
    pub fn key_ring(&self, key: &str) -> Result<KeyRing, Error> {
        self.rings.get(key).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("`{key}` is none of the keys of this build"),
            )
            .with_hint("name a key that the loaded type has a field for")
        })
    }
}

/// Any error of a builder. It takes in every `Error` by `?`, so it is none itself.
pub struct BuildError(Box<dyn std::error::Error + Send + Sync>);

impl BuildError {
    /// An error that only says `message`.
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// What it says, with every secret that the builder was given taken out: a library's errors may
    /// quote what they were given, as it was or encoded.
    pub(crate) fn scrubbed(
        &self,
        secrets: &[(SecretKey, Resolved)],
        rings: &HashMap<SecretKey, KeyRing>,
    ) -> String {
        let current = secrets.iter().map(|(key, secret)| (key, &secret.value));
        let ringed = rings
            .iter()
            .flat_map(|(key, ring)| ring.iter().map(move |value| (key, value)));
        scrub(self.0.to_string(), current.chain(ringed))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for BuildError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not even the text: nobody has scrubbed it here.
        f.debug_struct("BuildError").finish_non_exhaustive()
    }
}
