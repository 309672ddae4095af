//! Redis and Valkey: [`RedisConnection`], whose login follows a rotation.
//!
//! ```no_run
//! use redis::{AsyncCommands, AsyncConnectionConfig, Client, IntoConnectionInfo, RedisConnectionInfo};
//! use secretwell::auth::LazyAuth;
//! use secretwell::clients::redis::RedisConnection;
//! use secretwell::vault::{VaultAuth, VaultProvider};
//! use secretwell::{ExposeSecret, Resolver, SecretString};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Secrets {
//!     cache: Login, // the keys `cache/username` and `cache/password`
//! }
//!
//! #[derive(Deserialize)]
//! struct Login {
//!     username: String,
//!     password: SecretString,
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let provider = VaultProvider::builder(["https://vault:8200"], VaultAuth::kubernetes("app"))?
//!     .dynamic("cache", "database/creds/app")
//!     .build()?;
//! let client = LazyAuth::new(Resolver::new(provider), |Secrets { cache }: Secrets, _| async move {
//!     let login = RedisConnectionInfo::default()
//!         .set_username(cache.username)
//!         .set_password(cache.password.expose_secret());
//!     let server = "redis://cache.internal".into_connection_info()?;
//!     Ok(Client::open(server.set_redis_settings(login))?)
//! });
//! let mut connection = RedisConnection::new(client, AsyncConnectionConfig::new());
//! let visits: u64 = connection.incr("visits", 1).await?;
//! # Ok(())
//! # }
//! ```
//!
//! - **After a rotation, the open connection logs in again.** The command `AUTH` is sent between other commands, so no
//!   command, transaction or subscription is interrupted. If the server rejects the new login, it is reported, and
//!   repeated with backoff while the connection stays in use.
//! - **A new connection uses the newest login.** If the rotation happens during the login, the connection logs in again
//!   directly after it. If the build has another address, database or protocol, a new connection replaces the open one,
//!   which is closed after its last response.
//! - **A rejected login is reported and repeated once**, if [`LazyAuth::report_rejected`] returns a newer one. Then the
//!   command is sent as well. The same applies to a command that the server has rejected with `NOAUTH`.
//! - **A lost connection is replaced by the next command.** A command whose response was lost fails with an error for
//!   which `is_connection_dropped` returns true, because nobody knows whether it ran. Redis closes the connections of a
//!   user when the user is deleted. A connection that has been idle for a second is checked with `PING` before it is
//!   used.
//!
//! Use `redis::pipe().atomic()` for a transaction. Clones share one connection, so a plain `MULTI` or `WATCH` would
//! include the commands of others, and the `AUTH`. Clusters, sentinels and `get_async_pubsub` of a client are not
//! supported.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    Value,
};
use secretwell_auth::{Generation, Guard, LazyAuth, NotReady};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// A connection that was not used for longer is checked before the next command.
const MAX_IDLE: Duration = Duration::from_secs(1);
/// The time between two attempts to log in again. It doubles up to the maximum.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A connection to a Redis server, whose login follows a rotation.
///
/// It is used like a `MultiplexedConnection` of the crate redis: with `AsyncCommands`, `Cmd::query_async` and
/// `Pipeline::query_async`. Clones share one connection and its logins.
///
/// Cancelling a command does not cancel its execution by the server.
#[derive(Clone)]
pub struct RedisConnection(Arc<Shared>);

struct Shared {
    auth: LazyAuth<Client>,
    config: AsyncConnectionConfig,
    current: ArcSwapOption<Link>,
    /// Held while a caller connects. Contains the last failure.
    connecting: Mutex<Option<(Instant, RedisError)>>,
}

impl RedisConnection {
    /// Creates a connection. It connects when the first command is sent.
    ///
    /// A build of `client` contains the address of the server and the login. `config` applies to each connection.
    pub fn new(client: LazyAuth<Client>, config: AsyncConnectionConfig) -> Self {
        Self(Arc::new(Shared {
            auth: client,
            config,
            current: ArcSwapOption::empty(),
            connecting: Mutex::new(None),
        }))
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut values = self.0.run(Request::Command(cmd)).await?;
            Ok(values.pop().unwrap_or(Value::Nil))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.0.run(Request::Pipeline(pipeline, offset, count)))
    }

    fn get_db(&self) -> i64 {
        let db = |client: &Client| client.get_connection_info().redis_settings().db();
        self.0.auth.peek().map_or(0, |client| db(&client))
    }
}

impl Shared {
    async fn run(&self, request: Request<'_>) -> RedisResult<Vec<Value>> {
        let link = self.link().await?;
        let used = link.login.generation();
        let response = link.send(&request).await;
        if !is_unauthenticated(&response) {
            return response;
        }
        // The server did not run the command.
        link.login.retire();
        let newer = self.auth.report_rejected(used).await;
        if newer.is_none() {
            return response;
        }
        drop(newer);
        self.link().await?.send(&request).await
    }

    /// Returns the open connection, or a new one.
    async fn link(&self) -> RedisResult<Arc<Link>> {
        let called_at = Instant::now();
        if let Some(link) = self.usable() {
            if link.is_alive().await {
                return Ok(link);
            }
            link.login.retire();
        }
        let mut last_failure = self.connecting.lock().await;
        if let Some(link) = self.usable() {
            return Ok(link);
        }
        match &*last_failure {
            // The attempt of another caller has failed while this one waited for it.
            Some((failed_at, error)) if *failed_at >= called_at => return Err(error.clone()),
            _ => {}
        }
        match self.connect().await {
            Ok(link) => {
                self.current.store(Some(link.clone()));
                *last_failure = None;
                Ok(link)
            }
            Err(error) => {
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn usable(&self) -> Option<Arc<Link>> {
        // Starts a late rebuild task.
        drop(self.auth.peek());
        let link = self.current.load_full();
        link.filter(|link| link.login.is_usable())
    }

    /// Connects and logs in. Reports a rejected login, and repeats it once with a newer one.
    async fn connect(&self) -> RedisResult<Arc<Link>> {
        let newest = self.auth.get().await.map_err(|it| not_ready(&it))?;
        let (used, client) = (Guard::generation(&newest), Client::clone(&newest));
        drop(newest);
        let rejection = match self.open(used, client).await {
            Err(error) if is_rejection(&error) => error,
            result => return result,
        };
        let Some(newer) = self.auth.report_rejected(used).await else {
            return Err(rejection);
        };
        let (used, client) = (Guard::generation(&newer), Client::clone(&newer));
        drop(newer);
        self.open(used, client).await
    }

    async fn open(&self, generation: Generation, client: Client) -> RedisResult<Arc<Link>> {
        let opened = client.get_multiplexed_async_connection_with_config(&self.config);
        let connection = opened
            .await
            .map_err(|error| without_login(error, &client))?;
        let login = Arc::new(Login {
            generation: AtomicU64::new(generation),
            is_usable: AtomicBool::new(true),
        });
        let follower = follow(self.auth.clone(), connection.clone(), login.clone(), client);
        Ok(Arc::new(Link {
            connection,
            login,
            answered_at: std::sync::Mutex::new(Instant::now()),
            follower: tokio::spawn(follower).abort_handle(),
        }))
    }
}

/// A request for the server.
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline, usize, usize),
}

/// An open connection. It is closed when the last request that uses it has ended.
struct Link {
    connection: MultiplexedConnection,
    login: Arc<Login>,
    answered_at: std::sync::Mutex<Instant>,
    follower: AbortHandle,
}

impl Link {
    async fn send(&self, request: &Request<'_>) -> RedisResult<Vec<Value>> {
        let mut connection = self.connection.clone();
        let response = match request {
            Request::Command(cmd) => connection
                .send_packed_command(cmd)
                .await
                .map(|value| vec![value]),
            Request::Pipeline(pipeline, offset, count) => {
                let (offset, count) = (*offset, *count);
                connection
                    .send_packed_commands(pipeline, offset, count)
                    .await
            }
        };
        match &response {
            Err(error) if error.is_unrecoverable_error() => self.login.retire(),
            Err(error) if error.is_io_error() => {}
            _ => *self.answered_at() = Instant::now(),
        }
        response
    }

    /// Returns whether the connection still exists. It is checked if it was idle.
    async fn is_alive(&self) -> bool {
        if self.answered_at().elapsed() <= MAX_IDLE {
            return true;
        }
        let ping = redis::cmd("PING");
        match self.send(&Request::Command(&ping)).await {
            Ok(_) => true,
            Err(error) => !error.is_io_error() && self.login.is_usable(),
        }
    }

    fn answered_at(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.answered_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    /// Ends the task that has a clone of the connection, so that the connection is closed.
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The credentials that a connection has logged in with.
struct Login {
    generation: AtomicU64,
    is_usable: AtomicBool,
}

impl Login {
    fn generation(&self) -> Generation {
        self.generation.load(Ordering::Acquire)
    }

    fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Acquire)
    }

    /// Records that the next command needs another connection.
    fn retire(&self) {
        self.is_usable.store(false, Ordering::Release);
    }
}

/// Logs in again after each rotation. `client` is the build that `connection` was opened with.
async fn follow(
    auth: LazyAuth<Client>,
    mut connection: MultiplexedConnection,
    login: Arc<Login>,
    client: Client,
) {
    let mut states = auth.watch_state();
    let mut backoff = MIN_BACKOFF;
    loop {
        let used = login.generation();
        let rotated = states.wait_for(|state| state.generation() > Some(used));
        if rotated.await.is_none() {
            return;
        }
        let Some(newest) = auth.peek() else { return };
        let (generation, newest) = (Guard::generation(&newest), Client::clone(&newest));
        if !has_same_endpoint(&client, &newest) {
            login.retire();
            return;
        }
        let Err(error) = log_in(&mut connection, &newest).await else {
            login.generation.store(generation, Ordering::Release);
            backoff = MIN_BACKOFF;
            continue;
        };
        if !login.is_usable() {
            return;
        }
        let (is_lost, is_rejected) = (error.is_unrecoverable_error(), is_rejection(&error));
        tracing::warn!(
            target: "secretwell::clients",
            event = "redis_login_failed",
            generation,
            error = %without_login(error, &newest),
            "an open connection cannot log in with the newest credentials; it keeps the previous ones",
        );
        if is_lost {
            login.retire();
            return;
        }
        if is_rejected && auth.report_rejected(generation).await.is_some() {
            continue;
        }
        tokio::time::sleep(backoff).await;
        backoff = MAX_BACKOFF.min(2 * backoff);
    }
}

/// Returns whether a connection of `old` only needs another login to be one of `new`.
fn has_same_endpoint(old: &Client, new: &Client) -> bool {
    let (old, new) = (old.get_connection_info(), new.get_connection_info());
    let settings = (old.redis_settings(), new.redis_settings());
    // Without a password there is no command that ends the previous login.
    let has_login = settings.1.password().is_some() || settings.0.password().is_none();
    has_login
        && old.addr() == new.addr()
        && settings.0.db() == settings.1.db()
        && settings.0.protocol() == settings.1.protocol()
}

async fn log_in(connection: &mut MultiplexedConnection, client: &Client) -> RedisResult<()> {
    let settings = client.get_connection_info().redis_settings();
    let Some(password) = settings.password() else {
        return Ok(());
    };
    let mut auth = redis::cmd("AUTH");
    if let Some(username) = settings.username() {
        auth.arg(username);
    }
    auth.arg(password).exec_async(connection).await
}

fn not_ready(failure: &NotReady) -> RedisError {
    let message = "the credentials are not ready";
    (ErrorKind::Client, message, failure.to_string()).into()
}

/// Returns whether the server has rejected the login.
fn is_rejection(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// Returns whether the server ran no command of the request, because the connection is not logged in.
fn is_unauthenticated(response: &RedisResult<Vec<Value>>) -> bool {
    const CODE: &str = "NOAUTH";
    match response {
        Ok(values) => {
            let mut values = values.iter();
            values.len() > 0
                && values
                    .all(|value| matches!(value, Value::ServerError(error) if error.code() == CODE))
        }
        // A command, or a transaction, which runs as a whole or not at all.
        Err(error) => {
            let errors = error.clone().into_server_errors();
            errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == CODE))
        }
    }
}

/// Removes the text of an error that contains the beginning of the password. A server that does not know a command
/// repeats its arguments, as far as they are short.
fn without_login(error: RedisError, client: &Client) -> RedisError {
    let password = client.get_connection_info().redis_settings().password();
    let text = error.to_string();
    let start: String = password.unwrap_or_default().chars().take(8).collect();
    if start.is_empty() || !text.contains(&start) {
        return error;
    }
    let kind = match is_rejection(&error) {
        true => ErrorKind::AuthenticationFailed,
        false => error.kind(),
    };
    (kind, "the server has repeated the password in its response").into()
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = self.0.current.load();
        f.debug_struct("RedisConnection")
            .field("client", &self.0.auth)
            .field("generation", &link.as_ref().map(|it| it.login.generation()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "redis_tests.rs"]
mod tests;
