//! What a builder is given, and how it fails.

use std::collections::HashMap;
use std::fmt;

use secretwell_core::{Error, ErrorKind, SecretKey};
use secretwell_resolver::Resolved;

use crate::scrub::scrub;
use crate::{Generation, KeyRing, Mode};

/// How many errors of a builder's `source()` chain are kept: a chain could be endless.
const MAX_SOURCES: usize = 16;

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

    /// Returns the error and its sources as text from which every secret of the build is removed. A
    /// library's error may quote its input, as it was or encoded.
    pub(crate) fn scrubbed(
        &self,
        secrets: &[(SecretKey, Resolved)],
        rings: &HashMap<SecretKey, KeyRing>,
    ) -> ScrubbedError {
        let values = || {
            let current = secrets.iter().map(|(key, secret)| (key, &secret.value));
            let in_rings = rings
                .iter()
                .flat_map(|(key, ring)| ring.iter().map(move |value| (key, value)));
            current.chain(in_rings)
        };
        let mut texts = vec![scrub(self.0.to_string(), values())];
        let mut source = self.0.source();
        while let Some(error) = source.filter(|_| texts.len() < MAX_SOURCES) {
            texts.push(scrub(error.to_string(), values()));
            source = error.source();
        }
        let mut chain = None;
        for text in texts.drain(1..).rev() {
            chain = Some(Box::new(ScrubbedError {
                text,
                source: chain,
            }));
        }
        ScrubbedError {
            text: texts.swap_remove(0),
            source: chain,
        }
    }
}

/// A builder's error, or one of its sources, without secrets.
pub(crate) struct ScrubbedError {
    pub(crate) text: String,
    pub(crate) source: Option<Box<ScrubbedError>>,
}

impl fmt::Display for ScrubbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ScrubbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ScrubbedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
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
