//! [`NotifySecret`]: the secret that senders sign notifications with.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secretwell_core::SecretValue;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::hub::lock;

/// The minimum time between two calls of a closure. Anyone can send a request that causes one.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// How long a closure can take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

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
/// The secret should be at least 32 random bytes. An empty one is never accepted. If white space surrounds it, such as
/// the line end of a file, the secret without it is accepted as well.
///
/// Use one secret for each service. A notification does not name its receiver. If one is recorded at a service,
/// it is also valid at every other service with the same secret.
#[derive(Clone)]
pub struct NotifySecret(Source);

#[derive(Clone)]
enum Source {
    Values(Outcome),
    Function(Arc<Function>),
}

/// The accepted values, or the text of the error.
type Outcome = Result<Vec<SecretValue>, String>;
type Reading = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type ReadFn = dyn Fn() -> Reading + Send + Sync;

impl NotifySecret {
    /// Creates a secret from its current and its previous values.
    pub fn values<V: Into<SecretValue>>(values: impl IntoIterator<Item = V>) -> Self {
        let values = values.into_iter().map(Into::into);
        Self(Source::Values(check(values.collect())))
    }

    /// Creates a secret from a closure that returns all values that are accepted, so that the secret can be
    /// rotated while the service runs.
    ///
    /// The closure is called for each request that has the right form and a current time, from any sender, but
    /// at most once per second. Until then, the previous result is used. A call runs in a task of its own, and
    /// can take 10 s. Concurrent requests and clones of the secret share it.
    ///
    /// While the closure returns an error, notifications are refused with 503. The error is logged, so it must not
    /// contain a secret.
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
        let read: Arc<ReadFn> = Arc::new(move || {
            let reading = read();
            Box::pin(async move { reading.await.map_err(|error| error.to_string()) })
        });
        let latest = Mutex::default();
        Self(Source::Function(Arc::new(Function { read, latest })))
    }

    /// Returns the accepted values. There is at least one, and none of them is blank.
    ///
    /// # Errors
    /// Returns the text of the closure's error, or the reason why there is no value.
    pub(crate) async fn read(&self) -> Outcome {
        match &self.0 {
            Source::Values(values) => values.clone(),
            Source::Function(function) => function.read().await,
        }
    }
}

/// A closure with its latest call.
struct Function {
    read: Arc<ReadFn>,
    latest: Mutex<Option<Call>>,
}

/// A call of a closure, which requests share.
struct Call {
    started_at: Instant,
    outcome: watch::Receiver<Outcome>,
    /// Runs the closure, so that a client that disconnects does not cause another call. Dropping it ends the call.
    _task: JoinSet<()>,
}

impl Function {
    async fn read(&self) -> Outcome {
        let (started_at, mut outcome, replaced) = {
            let mut latest = lock(&self.latest);
            let replaced = latest.take_if(|call| call.is_over());
            let call = latest.get_or_insert_with(|| self.call());
            (call.started_at, call.outcome.clone(), replaced)
        };
        drop(replaced);
        // Without a result, the first value of the channel is the error.
        let _ = timeout_at(started_at + READ_DEADLINE, outcome.changed()).await;
        outcome.borrow().clone()
    }

    fn call(&self) -> Call {
        let no_result = format!("the closure panicked or took longer than {READ_DEADLINE:?}");
        let (sender, outcome) = watch::channel(Err(no_result));
        let read = self.read.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let values = read().await;
            let _ = sender.send(values.and_then(check));
        });
        Call {
            started_at: Instant::now(),
            outcome,
            _task: task,
        }
    }
}

impl Call {
    /// Returns whether a request needs another call.
    fn is_over(&self) -> bool {
        // If the closure has panicked, this is an error.
        let has_ended = self.outcome.has_changed().unwrap_or(true);
        let usable_for = match has_ended {
            true => READ_INTERVAL,
            false => READ_DEADLINE,
        };
        self.started_at.elapsed() >= usable_for
    }
}

/// Adds values without the white space around them, such as the line end that an editor adds. Omits blank values.
/// Anyone can sign with one. In an HMAC, a secret of zero bytes is the same as an empty one.
fn check(mut values: Vec<SecretValue>) -> Outcome {
    let trimmed = |value: &SecretValue| {
        let bytes = value.expose_bytes().trim_ascii();
        (bytes.len() < value.len()).then(|| SecretValue::from(bytes))
    };
    let trimmed: Vec<SecretValue> = values.iter().filter_map(trimmed).collect();
    values.extend(trimmed);
    let is_blank = |value: &SecretValue| {
        value.is_blank() || value.expose_bytes().iter().all(|byte| *byte == 0)
    };
    values.retain(|value| !is_blank(value));
    match values.is_empty() {
        true => Err("the signing secret is blank".to_owned()),
        false => Ok(values),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn secret_is_also_accepted_without_the_line_end_of_its_file() {
        let texts = async |values: &[&'static str]| {
            let values = NotifySecret::values(values.iter().copied()).read().await;
            let texts = values.map(|values| {
                let texts = values
                    .iter()
                    .map(|value| value.expose_text().unwrap().to_owned());
                texts.collect::<Vec<_>>()
            });
            texts.unwrap_or_default()
        };
        assert_eq!(texts(&["a", "b\n"]).await, ["a", "b\n", "b"]);
        assert_eq!(texts(&[" a\r\n"]).await, [" a\r\n", "a"]);
        assert!(texts(&["\n"]).await.is_empty());
        assert_eq!(texts(&["\0\n"]).await, ["\0\n"]);
    }
}
