//! [`CookieKeys`], the keys of signed and private cookies.

use std::fmt;
use std::sync::Arc;

use cookie::Key;
use secretwell_core::{Error, ErrorKind, SecretValue};

use crate::KeyRing;

/// Minimum length in bytes of a secret that keys are derived from.
const MIN_DERIVED: usize = 32;

/// The keys of signed and private cookies, one for each secret of a [`KeyRing`].
///
/// | constructor | key of the cookie crate | minimum length of a secret |
/// | --- | --- | --- |
/// | [`derive`](Self::derive) | `Key::derive_from(secret)` | 32 bytes |
/// | [`from_master`](Self::from_master) | `Key::from(secret)` | 64 bytes |
/// | [`with`](Self::with) | any other | that of the function |
///
/// Prefer `derive`. The others are for a service whose existing cookies must stay valid.
///
/// The memory of a [`Key`] is not wiped when it is dropped.
///
/// ```
/// use secretwell::auth::cookies::CookieKeys;
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[expect(dead_code, reason = "the build uses its key ring")]
/// struct Secrets {
///     cookie_secret: SecretString,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([("cookie_secret", "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=")]);
/// let keys = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
///     Ok(CookieKeys::derive(&cx.key_ring("cookie_secret")?)?)
/// });
/// assert_eq!(keys.get().await?.iter().count(), 1);
/// # Ok(())
/// # }
/// ```
///
/// Clones share the keys.
#[derive(Clone)]
pub struct CookieKeys(Arc<Keys>);

struct Keys {
    primary: Key,
    /// The keys of the other secrets, newest first.
    others: Vec<Key>,
    /// How many of the others are newer than the primary key. They are not active yet.
    newer: usize,
}

impl CookieKeys {
    /// Derives a key from each secret with HKDF-SHA256, as [`Key::derive_from`] does.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if a secret is shorter than 32 bytes.
    pub fn derive(secrets: &KeyRing) -> Result<Self, Error> {
        Self::with(secrets, |secret| match secret.len() {
            MIN_DERIVED.. => Ok(Key::derive_from(secret.expose_bytes())),
            _ => Err(too_short(MIN_DERIVED, "openssl rand -base64 32")),
        })
    }

    /// Uses the first 64 bytes of each secret as a key, as [`Key::from`] does. The first half signs, the
    /// second half encrypts.
    ///
    /// The secrets must be random bytes, because each half is used as it is. A text in Base64 has 24 random
    /// bytes in each half. All further bytes are ignored: two secrets that begin with the same 64 bytes are
    /// one key, and a rotation from one to the other changes nothing.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if a secret is shorter than 64 bytes.
    pub fn from_master(secrets: &KeyRing) -> Result<Self, Error> {
        Self::with(secrets, |secret| {
            let key = Key::try_from(secret.expose_bytes());
            // One line of 64 characters.
            key.map_err(|_| too_short(64, "openssl rand -base64 48"))
        })
    }

    /// Creates the key of each secret with `derive`.
    ///
    /// # Errors
    /// Returns the first error of `derive`.
    pub fn with<E>(
        secrets: &KeyRing,
        mut derive: impl FnMut(&SecretValue) -> Result<Key, E>,
    ) -> Result<Self, E> {
        let primary = derive(secrets.primary())?;
        let others = secrets.primary_first().skip(1).map(derive);
        let others = others.collect::<Result<_, E>>()?;
        let newer = secrets
            .iter()
            .take_while(|it| *it != secrets.primary())
            .count();
        Ok(Self(Arc::new(Keys {
            primary,
            others,
            newer,
        })))
    }

    /// Returns the key of new cookies.
    pub fn primary(&self) -> &Key {
        &self.0.primary
    }

    /// Returns all keys that cookies are accepted with. The primary key is the first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.0.primary).chain(&self.0.others)
    }

    /// Returns whether the key at `position` of [`iter`](Self::iter) was replaced by the primary key. A newer
    /// one will replace the primary key.
    pub(super) fn is_outdated(&self, position: usize) -> bool {
        position > self.0.newer
    }
}

/// Returns itself, so that a layer or a jar accepts both `CookieKeys` and a type that contains them.
impl AsRef<Self> for CookieKeys {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Omits the keys.
impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieKeys")
            .field("others", &self.0.others.len())
            .finish_non_exhaustive()
    }
}

fn too_short(minimum: usize, generator: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("a secret of cookie keys is shorter than {minimum} bytes"),
    )
    .with_hint(format!("generate one with `{generator}`"))
}
