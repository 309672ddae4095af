//! PostgreSQL pools of deadpool-postgres that follow a rotation.
//!
//! [`Pool`] is a pool of deadpool, with its builder, hooks and time limits. Only the [`Manager`] differs: it opens
//! connections with the newest [`Config`] of a [`LazyAuth`].
//!
//! ```no_run
//! use deadpool_postgres::tokio_postgres::{Config, NoTls};
//! use secretwell::auth::{BuildContext, LazyAuth};
//! use secretwell::clients::deadpool_postgres::{Manager, Pool};
//! use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
//! use serde::Deserialize;
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
//!     let mut config = Config::new();
//!     config.host("db.internal").dbname("app");
//!     config.user(secrets.username).password(secrets.password.expose_secret());
//!     Ok(config)
//! });
//! let pool = Pool::builder(Manager::new(auth, NoTls)).max_size(16).build()?;
//!
//! let client = pool.get().await?;
//! let row = client.query_one("SELECT now()", &[]).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::{ControlFlow, Deref, DerefMut};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult, WeakPool};
use secretwell_auth::{Generation, Guard, LazyAuth, NotReady};

use ::deadpool_postgres::tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use ::deadpool_postgres::tokio_postgres::{self, Config, Socket};
use ::deadpool_postgres::{ClientWrapper, ConfigConnectImpl, Connect, RecyclingMethod};

use crate::follower::Follower;
use crate::postgres::rejects_credentials;

/// A pool of deadpool that follows a rotation. Clones share the same connections.
///
/// - A new connection uses the newest credentials.
/// - A connection whose credentials were replaced is closed when its [`Client`] is dropped, and at once if it is
///   idle. A query or transaction is never interrupted. The limit of connections includes those that are still in use.
/// - If the server rejects the credentials (SQLSTATE 28P01 or 28000), this is reported to their source, and the login
///   is repeated once with newer ones. [`LazyAuth::report_rejected`] describes the limits.
///
/// Its errors are those of deadpool, with [`Error`] for connections.
pub type Pool = managed::Pool<Manager, Client>;

/// Why a [`Pool`] returns no connection.
pub type PoolError = managed::PoolError<Error>;

/// A hook of a [`Pool`].
pub type Hook = managed::Hook<Manager>;

// Services share the pool between threads and send its clients between them.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Client>();
    assert_send_sync::<Error>();
    assert_send_sync::<Pool>();
};

/// Opens the connections of a [`Pool`].
pub struct Manager {
    auth: LazyAuth<Config>,
    connect: Box<dyn Connect>,
    recycling_method: RecyclingMethod,
    follower: Follower,
}

impl Manager {
    /// Creates a manager that connects with the newest configuration of `auth`. Reads no secret yet.
    ///
    /// `tls` is the connector of TLS, or [`NoTls`](tokio_postgres::NoTls). The configuration can name several hosts. If
    /// one of them rejects the credentials and a later one is unreachable, `tokio_postgres` returns the error of the
    /// last one, so the credentials are not reported.
    pub fn new<T>(auth: LazyAuth<Config>, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Self {
            auth,
            connect: Box::new(ConfigConnectImpl { tls }),
            recycling_method: RecyclingMethod::default(),
            follower: Follower::default(),
        }
    }

    /// Sets how an idle connection is checked before it is used again. Default: [`RecyclingMethod::Fast`].
    #[must_use]
    pub fn recycling_method(mut self, method: RecyclingMethod) -> Self {
        self.recycling_method = method;
        self
    }

    async fn connect(&self, newest: Guard<Config>) -> Result<Connection, Error> {
        let generation = Guard::generation(&newest);
        let config = Config::clone(&newest);
        drop(newest);
        let (client, task) = self.connect.connect(&config).await?;
        Ok(Connection {
            client: ClientWrapper::new(client, task),
            generation,
        })
    }

    /// Returns the newest generation, or `None` before the first build.
    fn newest(&self) -> Option<Generation> {
        self.auth.peek().map(|guard| Guard::generation(&guard))
    }

    fn is_replaced(&self, generation: Generation) -> bool {
        self.newest() > Some(generation)
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        let newest = self.auth.get().await?;
        let used = Guard::generation(&newest);
        match self.connect(newest).await {
            Err(error) if error.rejects_credentials() => {
                match self.auth.report_rejected(used).await {
                    Some(newer) => self.connect(newer).await,
                    None => Err(error),
                }
            }
            result => result,
        }
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        if connection.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        if self.is_replaced(connection.generation) {
            return Err(RecycleError::message("the credentials were replaced"));
        }
        if let Some(query) = self.recycling_method.query() {
            connection.simple_query(query).await.map_err(Error::from)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("auth", &self.auth)
            .field("recycling_method", &self.recycling_method)
            .finish_non_exhaustive()
    }
}

/// A connection in a [`Pool`]. The hooks of deadpool get it.
#[derive(Debug)]
pub struct Connection {
    client: ClientWrapper,
    generation: Generation,
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

/// A connection that is in use. It dereferences to the client of `deadpool_postgres`.
///
/// When it is dropped, the connection returns to its pool. If its credentials were replaced, it is closed instead.
///
/// The trait `deadpool_postgres::GenericClient` cannot be implemented for it. Generic functions can take the
/// `GenericClient` of `tokio_postgres`, which is implemented for the type behind it, or a transaction.
#[derive(Debug)]
pub struct Client {
    // The fields are dropped in this order.
    object: Object<Manager>,
    _returned: Returned,
}

impl Client {
    /// Takes the connection from its pool permanently. The pool can open another one instead.
    ///
    /// This is an associated function. Call it as `Client::take(client)`.
    #[must_use = "dropping the connection closes it"]
    pub fn take(this: Self) -> ClientWrapper {
        Object::take(this.object).client
    }
}

impl From<Object<Manager>> for Client {
    fn from(object: Object<Manager>) -> Self {
        let generation = object.generation;
        let pool = Object::pool(&object);
        if let Some(pool) = &pool {
            let manager = pool.manager();
            let weak = pool.weak();
            manager.follower.ensure(&manager.auth, generation, move || {
                let Some(pool) = weak.upgrade() else {
                    return ControlFlow::Break(());
                };
                close_replaced(&pool);
                ControlFlow::Continue(())
            });
        }
        let pool = pool.map(|pool| pool.weak());
        Self {
            object,
            _returned: Returned { pool, generation },
        }
    }
}

impl Deref for Client {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.object
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.object
    }
}

/// Closes a connection with replaced credentials after it has returned to its pool.
#[derive(Debug)]
struct Returned {
    pool: Option<WeakPool<Manager>>,
    generation: Generation,
}

impl Drop for Returned {
    fn drop(&mut self) {
        let pool = self.pool.as_ref().and_then(WeakPool::upgrade);
        if let Some(pool) = pool.filter(|pool| pool.manager().is_replaced(self.generation)) {
            close_replaced(&pool);
        }
    }
}

/// Closes the idle connections whose credentials were replaced.
fn close_replaced(pool: &managed::Pool<Manager>) {
    let newest = pool.manager().newest();
    // The connections are dropped after the pool is unlocked.
    drop(pool.retain(|connection, _| Some(connection.generation) >= newest));
}

/// Why a [`Pool`] cannot open a connection. Its text does not contain the password.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There are no credentials yet.
    NotReady(NotReady),
    /// The server rejects the login or is unreachable.
    Postgres(tokio_postgres::Error),
}

impl Error {
    fn rejects_credentials(&self) -> bool {
        match self {
            Self::NotReady(_) => false,
            Self::Postgres(error) => error
                .code()
                .is_some_and(|code| rejects_credentials(code.code())),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady(failure) => failure.fmt(f),
            Self::Postgres(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotReady(failure) => failure.source(),
            Self::Postgres(error) => error.source(),
        }
    }
}

impl From<NotReady> for Error {
    fn from(failure: NotReady) -> Self {
        Self::NotReady(failure)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}
