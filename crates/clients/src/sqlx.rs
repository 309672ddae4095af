//! PostgreSQL pools of sqlx that follow a rotation.
//!
//! ```no_run
//! use secretwell::auth::{BuildContext, LazyAuth};
//! use secretwell::clients::sqlx::Pool;
//! use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
//! use serde::Deserialize;
//! use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
//!
//! #[derive(Deserialize)]
//! struct Secrets {
//!     username: String,
//!     password: SecretString,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let provider = MemoryProvider::new();
//! let auth = LazyAuth::new(Resolver::new(provider), |secrets: Secrets, _: BuildContext| async move {
//!     let options = PgConnectOptions::new_without_pgpass().host("db.internal").database("app");
//!     Ok(options.username(&secrets.username).password(secrets.password.expose_secret()))
//! });
//! let pool = Pool::new(auth, PgPoolOptions::new().max_connections(16));
//!
//! let row = sqlx::query("SELECT now()").fetch_one(&pool).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The derived `Debug` of [`PgConnectOptions`] prints the password. Do not print it.

mod executor;

use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::sqlx::pool::PoolConnection;
use ::sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use ::sqlx::{Error, Postgres, Transaction};
use secretwell_auth::{Generation, Guard, LazyAuth, NotReady};
use tokio::time::timeout;

use crate::follower::Follower;
use crate::postgres::rejects_credentials;

/// The time between two checks whether all connections of a pool are closed.
const CLOSE_INTERVAL: Duration = Duration::from_millis(50);

/// A [`PgPool`] that follows a rotation. Clones share the same connections.
///
/// `&Pool` can be used where sqlx expects an executor, like `&PgPool`.
///
/// - Each rotation replaces the inner [`PgPool`], so a new connection uses the newest credentials.
/// - A connection whose credentials were replaced is closed when it is returned, and at once if it is idle. A query
///   or transaction is never interrupted. While it is in use, it counts in addition to the maximum of
///   [`PgPoolOptions`]. If the limit of the server is reached, sqlx waits.
/// - If the server rejects the credentials (SQLSTATE 28P01 or 28000), this is reported to their source, and the login
///   is repeated once with newer ones. [`LazyAuth::report_rejected`] describes the limits.
///
/// Its errors are those of sqlx. Before the first build of the credentials, the error is [`Error::Configuration`]
/// with a [`NotReady`].
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

// Services share the pool between threads.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Pool>();
};

struct Shared {
    auth: LazyAuth<PgConnectOptions>,
    options: PgPoolOptions,
    inner: Mutex<Inner>,
    follower: Follower,
}

enum Inner {
    Unused,
    Open(Generation, PgPool),
    Closed,
}

impl Pool {
    /// Creates a pool that connects with the newest options of `auth`. Reads no secret and opens no connection yet.
    ///
    /// `options` are used for each inner pool. The acquire timeout includes the time to read the credentials.
    pub fn new(auth: LazyAuth<PgConnectOptions>, options: PgPoolOptions) -> Self {
        Self(Arc::new(Shared {
            auth,
            options,
            inner: Mutex::new(Inner::Unused),
            follower: Follower::default(),
        }))
    }

    /// Returns a connection of the pool, or a new one.
    ///
    /// # Errors
    /// Returns the errors of [`PgPool::acquire`], and [`Error::Configuration`] with a [`NotReady`] if there are no
    /// credentials. Cancelling this call does not lose a connection.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, Error> {
        let acquire = |inner: PgPool| async move { inner.acquire().await };
        self.with_inner(acquire).await
    }

    /// Acquires a connection and begins a transaction.
    ///
    /// # Errors
    /// The errors are those of [`acquire`](Self::acquire) and of the database. Cancelling this call begins no
    /// transaction.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let begin = |inner: PgPool| async move { inner.begin().await };
        self.with_inner(begin).await
    }

    /// Returns the inner pool of the newest credentials, for code that needs a [`PgPool`].
    ///
    /// It is closed after the next rotation. Therefore call this for each use, and do not close it: `Pool` would
    /// fail until the next rotation.
    ///
    /// # Errors
    /// Returns [`Error::Configuration`] with a [`NotReady`] if there are no credentials, and [`Error::PoolClosed`]
    /// after [`close`](Self::close).
    pub async fn current(&self) -> Result<PgPool, Error> {
        let newest = self.0.newest().await?;
        Ok(self.0.inner_of(newest)?.1)
    }

    /// Closes the pool and waits until all connections of the newest credentials are returned and closed. Later
    /// calls fail with [`Error::PoolClosed`], also if this call is cancelled.
    pub async fn close(&self) {
        let last = mem::replace(&mut *self.0.lock(), Inner::Closed);
        if let Inner::Open(_, inner) = last {
            close(inner).await;
        }
    }

    /// Calls `action` with the inner pool, within the acquire timeout. Calls it again if the pool was replaced
    /// meanwhile, and once if the server has rejected the credentials.
    async fn with_inner<T, F>(&self, action: impl Fn(PgPool) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let shared = &self.0;
        let attempts = async {
            let mut newest = shared.newest().await?;
            let mut is_reported = false;
            loop {
                let (used, inner) = shared.inner_of(newest)?;
                let error = match action(inner).await {
                    Ok(result) => return Ok(result),
                    Err(error) => error,
                };
                let newer = if matches!(error, Error::PoolClosed) {
                    Some(shared.newest().await?).filter(|newest| Guard::generation(newest) > used)
                } else if is_rejected(&error) && !is_reported {
                    is_reported = true;
                    shared.auth.report_rejected(used).await
                } else {
                    None
                };
                newest = newer.ok_or(error)?;
            }
        };
        let limit = shared.options.get_acquire_timeout();
        let result = timeout(limit, attempts).await;
        result.unwrap_or(Err(Error::PoolTimedOut))
    }
}

impl Shared {
    async fn newest(&self) -> Result<Guard<PgConnectOptions>, Error> {
        let newest = self.auth.get().await;
        newest.map_err(|failure: NotReady| Error::Configuration(failure.into()))
    }

    /// Returns the inner pool for `newest`, or a newer one. Drains the pool that it replaces.
    fn inner_of(
        self: &Arc<Self>,
        newest: Guard<PgConnectOptions>,
    ) -> Result<(Generation, PgPool), Error> {
        let generation = Guard::generation(&newest);
        let mut current = self.lock();
        match &*current {
            Inner::Closed => return Err(Error::PoolClosed),
            Inner::Open(generation_now, inner) if *generation_now >= generation => {
                let inner = (*generation_now, inner.clone());
                drop(current);
                // The runtime of the last task might have ended.
                self.follow(inner.0);
                return Ok(inner);
            }
            _ => {}
        }
        let options = PgConnectOptions::clone(&newest);
        let inner = self.options.clone().connect_lazy_with(options);
        let replaced = mem::replace(&mut *current, Inner::Open(generation, inner.clone()));
        drop(current);
        if let Inner::Open(_, replaced) = replaced {
            tokio::spawn(close(replaced));
        }
        self.follow(generation);
        Ok((generation, inner))
    }

    /// Replaces the inner pool after each rotation, so that idle connections do not wait for the next use.
    fn follow(self: &Arc<Self>, since: Generation) {
        let shared = Arc::downgrade(self);
        self.follower.ensure(&self.auth, since, move || {
            let newest = shared.upgrade().and_then(|shared| {
                let newest = shared.auth.peek()?;
                shared.inner_of(newest).ok()
            });
            match newest {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(()),
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the connections of an inner pool, each when it is returned.
async fn close(inner: PgPool) {
    inner.close().await;
    // The call can return early: while it closes idle connections, it does not wait for all others.
    while inner.size() > 0 {
        tokio::time::sleep(CLOSE_INTERVAL).await;
        inner.close().await;
    }
}

fn is_rejected(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| rejects_credentials(&code))
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("auth", &self.0.auth)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}
