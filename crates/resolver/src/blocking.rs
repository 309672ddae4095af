//! Reads that block the calling thread, for programs and libraries without async code.
//!
//! ```
//! use secretwell::MemoryProvider;
//! use secretwell::blocking::Resolver;
//!
//! fn main() -> Result<(), secretwell::Error> {
//!     let resolver = Resolver::new(MemoryProvider::from_iter([("API_KEY", "s3cr3t")]));
//!     let api_key = resolver.get("API_KEY")?;
//!     assert_eq!(api_key.value.expose_text()?, "s3cr3t");
//!     Ok(())
//! }
//! ```
//!
//! # Runtime
//! The first call starts a tokio runtime with one thread, whose name is `secretwell`. All resolvers of the
//! process share it, and it runs until the process exits. It fetches and refreshes secrets while no call is in
//! progress, so values follow rotations as in an async service. Files are read on further threads, which
//! tokio starts when needed.
//!
//! Calls are allowed on every thread that can block: in `main`, in threads of the program, in
//! [`spawn_blocking`](tokio::task::spawn_blocking), and in `block_in_place` of a tokio runtime. Within async
//! code, a call would block the thread that has to make progress. It returns an error with the kind
//! [`Unsupported`](ErrorKind::Unsupported) instead. To find out, it starts a call that tokio refuses with
//! a panic. The panic is caught, but the panic hook is called before: the default hook prints a message to standard
//! error, and a hook that ends the process ends it. A program that is compiled with
//! `panic = "abort"` gets the error in `spawn_blocking` and `block_in_place` too, because it cannot catch that
//! panic.
//!
//! Code of the program that runs in the shared runtime must not block its only thread. This concerns the closure of a
//! `LazyAuth` and a custom provider. Wrap blocking code in them in `tokio::task::block_in_place`. Otherwise
//! other reads wait until it ends. The deadlines of [`block_on_within`] and of `LazyAuth::blocking_get` hold
//! nevertheless.
//!
//! A process that is forked has no runtime. After the first call, a call in the forked process
//! returns an error. Fork before the first call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use secretwell_core::{Error, ErrorKind, SecretProvider, SecretValue};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::clock;
use crate::error::LoadError;
use crate::resolved::Resolved;

/// A [`Resolver`](crate::Resolver) whose reads block the calling thread.
///
/// The [module](self) describes where they can be called. Each read returns an error with the kind
/// [`Unsupported`](ErrorKind::Unsupported) within async code, also if the value is cached.
///
/// To configure it, convert a resolver: `Resolver::from(secretwell::Resolver::builder(provider).build())`. Clones
/// share the cache, also with the resolver that it was created from.
#[derive(Debug, Clone)]
pub struct Resolver {
    inner: crate::Resolver,
}

impl Resolver {
    /// Creates a resolver with the default settings.
    pub fn new(provider: impl SecretProvider) -> Self {
        Self::from(crate::Resolver::new(provider))
    }

    /// Returns the async resolver, for methods that do not wait, such as
    /// [`with_cached`](crate::Resolver::with_cached), and for [`block_on`].
    pub fn as_async(&self) -> &crate::Resolver {
        &self.inner
    }

    /// Like [`Resolver::get`](crate::Resolver::get).
    ///
    /// # Errors
    /// The same, and the error of [`block_on`].
    pub fn get(&self, key: impl AsRef<str>) -> Result<Resolved, Error> {
        block_on(self.inner.get(key)).flatten()
    }

    /// Like [`Resolver::get_many`](crate::Resolver::get_many).
    ///
    /// # Errors
    /// The same, and the error of [`block_on`] for each key.
    pub fn get_many<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Resolved, Error>> {
        let keys: Vec<K> = keys.into_iter().collect();
        block_on(self.inner.get_many(&keys)).unwrap_or_else(|error| fail_all(&keys, &error))
    }

    /// Like [`Resolver::load`](crate::Resolver::load).
    ///
    /// # Errors
    /// The same, and the error of [`block_on`].
    pub fn load<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        block_on(self.inner.load()).unwrap_or_else(|error| Err(LoadError::new::<T>(vec![error])))
    }

    /// Like [`Resolver::refresh`](crate::Resolver::refresh).
    ///
    /// # Errors
    /// The same, and the error of [`block_on`] for each key.
    pub fn refresh<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Resolved, Error>> {
        let keys: Vec<K> = keys.into_iter().collect();
        block_on(self.inner.refresh(&keys)).unwrap_or_else(|error| fail_all(&keys, &error))
    }

    /// Like [`Resolver::report_rejected`](crate::Resolver::report_rejected).
    ///
    /// # Errors
    /// The same, and the error of [`block_on`].
    pub fn report_rejected(
        &self,
        key: impl AsRef<str>,
        rejected: &SecretValue,
    ) -> Result<Resolved, Error> {
        block_on(self.inner.report_rejected(key, rejected)).flatten()
    }
}

impl From<crate::Resolver> for Resolver {
    fn from(inner: crate::Resolver) -> Self {
        Self { inner }
    }
}

fn fail_all<K>(keys: &[K], error: &Error) -> Vec<Result<Resolved, Error>> {
    keys.iter().map(|_| Err(error.clone())).collect()
}

/// Runs `future` on the calling thread until it is ready, within the shared runtime of this [module](self). Use it
/// for async methods that have no blocking counterpart.
///
/// ```
/// use secretwell::auth::{LazyAuth, Mode};
/// use secretwell::{MemoryProvider, Resolver, SecretString, blocking};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Secrets {
///     api_key: SecretString,
/// }
///
/// # fn main() -> Result<(), secretwell::Error> {
/// let memory = MemoryProvider::from_iter([("api_key", "s3cr3t")]);
/// let auth = LazyAuth::infallible(Resolver::new(memory), |secrets: Secrets, _| secrets.api_key);
/// let report = blocking::block_on(auth.preflight(Mode::Production))?;
/// assert!(report.is_ready(), "{report}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Returns [`Unsupported`](ErrorKind::Unsupported) if it is called within async code, or in a process that was
/// forked after the first call. Returns [`Unavailable`](ErrorKind::Unavailable) if the runtime cannot be
/// started. The future is not polled then.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Error> {
    block_on_within(Duration::MAX, future)
}

/// Like [`block_on`], for at most `limit`. The limit holds even if other code blocks the shared runtime. Only a
/// future that itself blocks the calling thread can exceed it.
///
/// # Errors
/// Returns [`Timeout`](ErrorKind::Timeout) if the future is not ready within `limit`. The future is dropped then.
/// The other errors are those of [`block_on`].
pub fn block_on_within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Error> {
    require_blocking()?;
    let runtime = shared_runtime()?;
    let _entered = runtime.enter();
    let started = clock::now();
    let wake_up = Arc::new(WakeUp::default());
    let waker = Waker::from(wake_up.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(output);
        }
        let rest = limit.saturating_sub(clock::now().since(started));
        if !wake_up.wait(rest) {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the call did not end within {}",
                    humantime::format_duration(limit)
                ),
            )
            .with_hint("check that the source responds, or raise the limit"));
        }
    }
}

/// A wake-up of a blocked thread. Unlike the token of `std::thread::park`, a nested call cannot take it.
#[derive(Debug, Default)]
struct WakeUp {
    is_due: Mutex<bool>,
    changed: Condvar,
}

impl WakeUp {
    /// Waits for the next wake-up. Returns false if `limit` ends first.
    fn wait(&self, limit: Duration) -> bool {
        let is_due = self.is_due.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(is_due, limit, |is_due| !*is_due);
        let (mut is_due, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *is_due)
    }
}

impl Wake for WakeUp {
    fn wake(self: Arc<Self>) {
        *self.is_due.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

/// Requires a thread that can block.
fn require_blocking() -> Result<(), Error> {
    let can_block = match Handle::try_current() {
        // Tokio offers no other way to find out than the panic of a nested runtime.
        Ok(_) if cfg!(panic = "abort") => false,
        Ok(runtime) => catch_unwind(AssertUnwindSafe(|| runtime.block_on(async {}))).is_ok(),
        // If the thread is ending, tokio's state of it no longer exists.
        Err(error) => error.is_missing_context(),
    };
    match can_block {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Unsupported,
            "a blocking call was made within async code, or in a thread that is ending",
        )
        .with_hint("await the async method, or call this in `tokio::task::spawn_blocking`")),
    }
}

/// The runtime of all blocking calls. It is never dropped, because tokio allows that in few places.
struct SharedRuntime {
    runtime: Runtime,
    process: u32,
}

fn shared_runtime() -> Result<Handle, Error> {
    static SHARED: OnceLock<SharedRuntime> = OnceLock::new();
    // Only the first calls take it. In a forked process, a lock that another thread has held stays locked forever.
    static START: Mutex<()> = Mutex::new(());
    let shared = match SHARED.get() {
        Some(shared) => shared,
        None => {
            let _started_once = START.lock().unwrap_or_else(PoisonError::into_inner);
            match SHARED.get() {
                Some(shared) => shared,
                None => {
                    let started = SharedRuntime::start()?;
                    SHARED.get_or_init(|| started)
                }
            }
        }
    };
    shared.handle(std::process::id())
}

impl SharedRuntime {
    fn start() -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("secretwell")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "the runtime of blocking calls cannot be started",
            )
            .with_source(error)
            .with_hint("check the limits for threads and open files")
        })?;
        Ok(Self {
            runtime,
            process: std::process::id(),
        })
    }

    /// Returns the runtime for a call in `process`. A forked process has no threads of its parent.
    fn handle(&self, process: u32) -> Result<Handle, Error> {
        if self.process == process {
            return Ok(self.runtime.handle().clone());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "the process was forked after its first blocking call",
        )
        .with_hint("fork before the first blocking call"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forked_process_gets_an_error() {
        let shared = SharedRuntime::start().unwrap();
        assert!(shared.handle(std::process::id()).is_ok());
        let error = shared.handle(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("forked"), "{error}");
    }
}
