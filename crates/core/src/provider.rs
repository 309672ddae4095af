//! The trait that every backend implements.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::{Capabilities, ChangeStream};
use crate::join::join_bounded;
use crate::{Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, Version};

/// How many single reads the default [`SecretProvider::get_many`] has under way at a time.
const CONCURRENCY: usize = 16;

/// A source of secrets.
///
/// Small on purpose: two methods are required, and everything that callers find comfortable
/// (prefixes, fallbacks, caching, retries in the background, typed loading) is built on top of it,
/// by [`SecretProviderExt`](crate::SecretProviderExt) and [`Resolver`](crate::Resolver).
///
/// # What a provider keeps to
/// - **Absent, failed and invalid are three things.** [`ErrorKind::NotFound`] is said only by a
///   source that was asked and answered. A source that cannot be reached is
///   [`Unavailable`](ErrorKind::Unavailable); an answer that makes no sense is
///   [`Malformed`](ErrorKind::Malformed).
/// - **Bytes as they are.** No trimming, no decoding, no default; an empty value is a value.
/// - **No cache of values, no waiting to ask again.** The resolver decides when to ask. (A login's
///   token may be kept, and a remote backend's HTTP layer has one retry loop within a call.)
/// - **A deadline over everything**, for the remote ones; a file may be as slow as its disk.
/// - **Cancellation is safe**: a dropped future leaves nothing running and nothing half done.
/// - **Errors name key and source and never a value or a token.**
///
/// `secretwell-testkit` turns this list into tests that run against any implementation.
///
/// ```
/// use async_trait::async_trait;
/// use secretwell::{Error, ErrorKind, Secret, SecretKey, SecretProvider, Origin};
///
/// /// A source with one secret.
/// #[derive(Debug)]
/// struct Pin(Origin);
///
/// #[async_trait]
/// impl SecretProvider for Pin {
///     fn origin(&self) -> &Origin {
///         &self.0
///     }
///
///     async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
///         match key.as_str() {
///             "PIN" => Ok(Secret::new("0000")),
///             _ => Err(Error::new(ErrorKind::NotFound, "there is only `PIN`").with_origin(&self.0).with_key(key)),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let provider = Pin(Origin::new("pin", ""));
/// assert_eq!(provider.get(&"PIN".parse()?).await?.value.expose_text()?, "0000");
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait SecretProvider: fmt::Debug + Send + Sync + 'static {
    /// Where this provider reads, for logs and errors.
    fn origin(&self) -> &Origin;

    /// What this provider can do. Constant over its life. Default: nothing but [`get`](Self::get).
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    /// Reads the current value of one key.
    async fn get(&self, key: &SecretKey) -> Result<Secret, Error>;

    /// Reads several keys: one result per key, in the same order; a key may occur twice.
    ///
    /// A key that is absent or fails leaves the others as they are. Default: a [`get`](Self::get)
    /// for each, at most 16 at a time.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        join_bounded(CONCURRENCY, keys.iter().map(|key| self.get(key))).await
    }

    /// Reads an earlier version of a key: the bytes that it had then.
    ///
    /// Default: [`ErrorKind::Unsupported`].
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let _ = version;
        Err(unsupported(self.origin(), "reads no earlier versions").with_key(key))
    }

    /// Lists the keys below `prefix`, sorted; the root lists them all.
    ///
    /// Default: [`ErrorKind::Unsupported`].
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let _ = prefix;
        Err(unsupported(self.origin(), "lists no keys"))
    }

    /// Notices of changes, where the source has them. Must be called within a tokio runtime.
    ///
    /// A change that happens after this call returned is told, so whoever wants to miss nothing
    /// subscribes first and reads afterwards. Default: `None`.
    fn watch(&self) -> Option<ChangeStream> {
        None
    }

    /// Whether the next read would be answered; cheap, and not itself a read of a secret.
    ///
    /// Default: always.
    async fn health(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn unsupported(origin: &Origin, what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, what)
        .with_origin(origin)
        .with_hint("see the provider's capabilities")
}

macro_rules! delegate {
    ($pointer:ident) => {
        #[async_trait]
        impl<P: SecretProvider + ?Sized> SecretProvider for $pointer<P> {
            fn origin(&self) -> &Origin {
                (**self).origin()
            }

            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }

            async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
                (**self).get(key).await
            }

            async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
                (**self).get_many(keys).await
            }

            async fn get_version(
                &self,
                key: &SecretKey,
                version: &Version,
            ) -> Result<Secret, Error> {
                (**self).get_version(key, version).await
            }

            async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
                (**self).list(prefix).await
            }

            fn watch(&self) -> Option<ChangeStream> {
                (**self).watch()
            }

            async fn health(&self) -> Result<(), Error> {
                (**self).health().await
            }
        }
    };
}

delegate!(Arc);
delegate!(Box);
