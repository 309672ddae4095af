//! The trait that every backend implements.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::capabilities::Capabilities;
use crate::change::ChangeStream;
use crate::join::join_bounded;
use crate::notice::Notice;
use crate::panics::catch_panic;
use crate::{Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretValue, Version};

/// How many concurrent reads the default [`SecretProvider::get_many`] starts.
const CONCURRENCY: usize = 16;

/// A provider of secrets from one source.
///
/// An implementation needs two methods: [`origin`](Self::origin) and [`get`](Self::get). The other
/// methods have defaults. [`SecretProviderExt`](crate::SecretProviderExt) adds prefixes, renaming,
/// fallbacks and deadlines to every provider. The resolver in the crate `secretwell-resolver` adds
/// caching, background refresh, retries and typed loading.
///
/// # Contract
/// - **Absent, failed and invalid are different errors.** [`ErrorKind::NotFound`] means that the source
///   responded and does not have the key. An unreachable source is
///   [`Unavailable`](ErrorKind::Unavailable). A response that cannot be decoded is
///   [`Malformed`](ErrorKind::Malformed).
/// - **Bytes are returned unchanged.** A provider does not trim, decode or replace a value. An empty
///   value is a value, unless the source writes one for a secret that does not exist, as environments do.
/// - **Values are not cached, and failed calls are not retried later.** The resolver decides when to
///   read again. A provider can keep a login's token. The HTTP layer of a remote backend can retry
///   within one call.
/// - **Every call to a remote source has a deadline.** Reads of local files have no deadline.
/// - **Cancellation is safe.** A dropped future leaves no background work and no partial change.
/// - **Errors name the key and the origin.** They never contain a secret value or a token.
///
/// The conformance tests in `secretwell-testkit` check this contract for any implementation.
///
/// ```
/// use async_trait::async_trait;
/// use secretwell::{Error, ErrorKind, Origin, Secret, SecretKey, SecretProvider};
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
///             _ => Err(Error::new(ErrorKind::NotFound, "the only key is `PIN`")
///                 .with_origin(&self.0)
///                 .with_key(key)),
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
    /// Returns the label of the source, for logs and errors.
    fn origin(&self) -> &Origin;

    /// Returns the optional features of this provider. The result is the same for every call.
    ///
    /// Default: no optional features.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    /// Reads the current value of one key.
    ///
    /// # Errors
    /// Returns [`ErrorKind::NotFound`] if the source responded and does not have the key. Other kinds
    /// report that the read failed.
    async fn get(&self, key: &SecretKey) -> Result<Secret, Error>;

    /// Reads several keys. Returns exactly one result for each key, in the same order. Keys can occur
    /// more than once.
    ///
    /// An absent or failed key does not affect the results of the other keys. Consumers treat a missing
    /// result as [`ErrorKind::Malformed`].
    ///
    /// Default: calls [`get`](Self::get) for each key, at most 16 at a time. A panic affects only its key.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let reads = keys.iter().map(async |key| {
            let result = catch_panic(|| self.get(key)).await;
            result.unwrap_or_else(|panic| Err(panic.with_key(key)))
        });
        join_bounded(CONCURRENCY, reads).await
    }

    /// Reads a previous version of a key. Returns the bytes that the key had in that version.
    ///
    /// # Errors
    /// Returns [`ErrorKind::NotFound`] if the version does not exist. Default: returns
    /// [`ErrorKind::Unsupported`].
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let _ = version;
        Err(unsupported(self.origin(), "the provider cannot read previous versions").with_key(key))
    }

    /// Lists the keys below `prefix`, sorted. The root prefix lists all keys. Every listed key can be
    /// passed to [`get`](Self::get).
    ///
    /// # Errors
    /// Default: returns [`ErrorKind::Unsupported`].
    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let _ = prefix;
        Err(unsupported(self.origin(), "the provider cannot list keys"))
    }

    /// Returns what is in the source below `prefix` and is not a readable key: names that cannot be keys, entries
    /// that cannot be read, and values that other programs read differently. The command `check` prints it.
    ///
    /// # Errors
    /// Returns the error that [`list`](Self::list) would return. Default: returns no notices.
    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        let _ = prefix;
        Ok(Vec::new())
    }

    /// Subscribes to change notifications. Returns `None` if the source does not report changes. Must
    /// be called within a tokio runtime.
    ///
    /// Every change after this call returns is reported. To miss no change, subscribe first and read
    /// afterwards.
    ///
    /// Default: returns `None`.
    fn watch(&self) -> Option<ChangeStream> {
        None
    }

    /// Checks whether the next read can succeed. The check is cheap and does not read a secret.
    ///
    /// # Errors
    /// Returns the error that the next read would return. Default: returns no error.
    async fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Drops what the provider keeps for `key`, so that the next read asks the source again.
    ///
    /// A provider of dynamic credentials returns the same credential until its lease is due. If a server
    /// rejected that credential, the provider must not return it again. The resolver calls this method
    /// before a forced refresh, and when a consumer has reported `rejected`. A provider that has another
    /// value than `rejected` by now keeps it.
    ///
    /// Default: does nothing, because most providers keep no values.
    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        let _ = (key, rejected);
    }

    /// Returns the sources that this provider reads one after the other. The resolver then reads and
    /// caches each of them separately.
    ///
    /// Default: returns nothing, because the provider is one source.
    fn links(&self) -> Vec<Link> {
        Vec::new()
    }
}

/// One source of a provider with several, such as a [`Chain`](crate::Chain).
#[derive(Debug, Clone)]
pub struct Link {
    provider: Arc<dyn SecretProvider>,
    /// The positions of earlier links. This link is also read if they failed.
    tolerated: BTreeSet<usize>,
}

impl Link {
    /// Creates a link that is read for keys that are absent in all links before it.
    pub fn new(provider: Arc<dyn SecretProvider>) -> Self {
        Self {
            provider,
            tolerated: BTreeSet::new(),
        }
    }

    /// Makes this link be read also if one of the links at `positions` failed to read the key.
    #[must_use]
    pub fn after_failure_of(mut self, positions: impl IntoIterator<Item = usize>) -> Self {
        self.tolerated.extend(positions);
        self
    }

    /// Returns the provider of the link.
    pub fn provider(&self) -> &Arc<dyn SecretProvider> {
        &self.provider
    }

    /// Replaces the provider, for example by an adapter around it.
    #[must_use]
    pub fn map(
        self,
        replace: impl FnOnce(Arc<dyn SecretProvider>) -> Arc<dyn SecretProvider>,
    ) -> Self {
        Self {
            provider: replace(self.provider),
            ..self
        }
    }

    /// Returns the positions of the earlier links whose failure leads to this link.
    pub fn tolerated(&self) -> impl Iterator<Item = usize> {
        self.tolerated.iter().copied()
    }

    /// Returns whether this link is read for a key, given the errors of the links before it. A link that was not
    /// read has no error.
    pub fn is_next<'a>(&self, errors: impl IntoIterator<Item = Option<&'a Error>>) -> bool {
        let mut errors = errors.into_iter().enumerate();
        errors.all(|(position, error)| {
            error.is_none_or(|error| error.is_not_found() || self.tolerated.contains(&position))
        })
    }
}

fn unsupported(origin: &Origin, message: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, message)
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

            async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
                (**self).notices(prefix).await
            }

            fn watch(&self) -> Option<ChangeStream> {
                (**self).watch()
            }

            async fn health(&self) -> Result<(), Error> {
                (**self).health().await
            }

            fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
                (**self).discard(key, rejected);
            }

            fn links(&self) -> Vec<Link> {
                (**self).links()
            }
        }
    };
}

delegate!(Arc);
delegate!(Box);
