//! [`NotifySecret`]: the secret that senders sign notifications with.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use secretwell_core::SecretValue;

/// The secret that senders sign notifications with. Several values are accepted during a rotation.
///
/// A plain text or a [`SecretValue`] converts into it:
///
/// ```
/// use secretwell::notify::{NotifyHub, NotifySecret, NotifyService};
///
/// # fn read_from_configuration() -> String { "not a real secret".into() }
/// # let hub = NotifyHub::new();
/// let service = NotifyService::signed(hub, read_from_configuration());
/// ```
///
/// The secret should be at least 32 random bytes. An empty one is never accepted.
#[derive(Clone)]
pub struct NotifySecret(Source);

#[derive(Clone)]
enum Source {
    Values(Vec<SecretValue>),
    Function(Arc<ReadFn>),
}

/// The result is the values, or the text of the error.
type Reading = Pin<Box<dyn Future<Output = Result<Vec<SecretValue>, String>> + Send>>;
type ReadFn = dyn Fn() -> Reading + Send + Sync;

impl NotifySecret {
    /// Creates a secret from its current and its previous values.
    pub fn values<V: Into<SecretValue>>(values: impl IntoIterator<Item = V>) -> Self {
        let values = values.into_iter().map(Into::into);
        Self(Source::Values(values.collect()))
    }

    /// Creates a secret from a closure that is called for each notification. It returns all values that are
    /// accepted, so that the secret can be rotated while the service runs.
    ///
    /// While it returns an error, notifications are refused with 503. The error is logged, so it must not
    /// contain a secret. The closure has 10 s.
    ///
    /// The key ring of a `LazyAuth` is such a secret:
    ///
    /// ```
    /// use secretwell::Resolver;
    /// use secretwell::auth::{BuildError, KeyRing, LazyAuth};
    /// use secretwell::notify::NotifySecret;
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Secrets {
    ///     #[expect(dead_code, reason = "the build takes its key ring")]
    ///     notify_secret: String,
    /// }
    ///
    /// # fn secret(resolver: Resolver) -> NotifySecret {
    /// let ring: LazyAuth<KeyRing> = LazyAuth::new(resolver, |_: Secrets, context| async move {
    ///     Ok::<_, BuildError>(context.key_ring("notify_secret")?)
    /// });
    /// let secret = NotifySecret::from_fn(move || {
    ///     let ring = ring.clone();
    ///     async move { ring.get().await.map(|ring| ring.iter().cloned().collect()) }
    /// });
    /// # secret
    /// # }
    /// ```
    pub fn from_fn<F, Fut, E>(read: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<SecretValue>, E>> + Send + 'static,
        E: fmt::Display,
    {
        Self(Source::Function(Arc::new(move || {
            let reading = read();
            Box::pin(async move { reading.await.map_err(|error| error.to_string()) })
        })))
    }

    /// Returns the accepted values. There is at least one, and none of them is blank.
    ///
    /// # Errors
    /// Returns the text of the closure's error, or the reason why there is no value.
    pub(crate) async fn read(&self) -> Result<Vec<SecretValue>, String> {
        let mut values = match &self.0 {
            Source::Values(values) => values.clone(),
            Source::Function(read) => read().await?,
        };
        // Anyone can sign with a blank secret. In an HMAC, a secret of zero bytes is the same as an empty one.
        let is_blank = |value: &SecretValue| {
            value.is_blank() || value.expose_bytes().iter().all(|byte| *byte == 0)
        };
        values.retain(|value| !is_blank(value));
        match values.is_empty() {
            true => Err("the signing secret is blank".to_owned()),
            false => Ok(values),
        }
    }
}

impl From<SecretValue> for NotifySecret {
    fn from(value: SecretValue) -> Self {
        Self::values([value])
    }
}

impl From<String> for NotifySecret {
    fn from(value: String) -> Self {
        Self::values([value])
    }
}

impl From<&str> for NotifySecret {
    fn from(value: &str) -> Self {
        Self::values([value])
    }
}

/// Omits the values.
impl fmt::Debug for NotifySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifySecret").finish_non_exhaustive()
    }
}
