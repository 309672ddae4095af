//! One server: a network address with its connections.

use std::mem;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Version;
use secretwell_core::Error;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use crate::body;
use crate::config::{Address, ClientConfig};
use crate::error::invalid;
use crate::failure::{Failure, is_about_proxy, is_unexplained};
use crate::proxy::Proxy;
use crate::request::Request;
use crate::response::Response;
use crate::tls::Tls;

/// The time after a failure during which a server is tried only after all others.
const DEPRIORITIZE_FOR: Duration = Duration::from_secs(10);
/// The time without a response after which an HTTP/2 connection is checked.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// The time without a response to this check after which the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// The time without a response after which an HTTP/1.1 connection counts as silent. It cannot be checked.
const SILENCE: Duration = PING_INTERVAL.saturating_add(PING_TIMEOUT);
/// The duration of an exchange after which its end without a response says something about the connection. A
/// caller that loses interest earlier must not cost the others their connection.
const MIN_SILENCE: Duration = Duration::from_secs(1);
/// The longest time that finding the cause of a failure can take.
const EXPLANATION: Duration = Duration::from_millis(100);
/// The maximum number of requests that wait for others to end.
const MAX_WAITING: usize = 1024;

/// The settings that all servers of a client share.
pub(crate) struct Settings {
    pub(crate) config: ClientConfig,
    pub(crate) tls: Tls,
}

/// How a server is reached.
#[derive(Clone)]
pub(crate) enum Route {
    Direct(SocketAddr),
    Proxy(Proxy),
    #[cfg_attr(
        not(unix),
        allow(dead_code, reason = "the configuration refuses local sockets")
    )]
    Socket(PathBuf),
    /// Not at all, because the name service has not returned an address yet.
    Unresolved,
}

/// One server. It is identified by its pointer.
pub(crate) struct Endpoint {
    /// The index of the configured address.
    index: usize,
    /// Host and port of the configured address.
    authority: Arc<str>,
    /// The configured address. If a server name is configured, it replaces the host.
    base: Address,
    route: Route,
    settings: Arc<Settings>,
    connections: Mutex<Connections>,
    /// When the server last failed. `None` after a successful response.
    failed: Mutex<Option<Instant>>,
    /// A permit for each request that can be sent now.
    permits: Semaphore,
    waiting: AtomicUsize,
}

/// The pooled connections. They are replaced together, because the HTTP library cannot close a single one.
struct Connections {
    http: reqwest::Client,
    /// The number of connection pools before this one.
    generation: u64,
    /// The time and the protocol version of the newest response.
    response: Option<(Instant, Version)>,
}

impl Endpoint {
    /// Creates a server without opening a connection.
    pub(crate) fn new(
        index: usize,
        authority: Arc<str>,
        base: Address,
        route: Route,
        settings: Arc<Settings>,
    ) -> Result<Self, Error> {
        let connections = Connections {
            http: http_client(&settings, &base, &route)?,
            generation: 0,
            response: None,
        };
        Ok(Self {
            index,
            authority,
            base,
            route,
            permits: Semaphore::new(settings.config.max_exchanges.min(Semaphore::MAX_PERMITS)),
            settings,
            connections: Mutex::new(connections),
            failed: Mutex::new(None),
            waiting: AtomicUsize::new(0),
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Returns host and port of the configured address.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the network address, if it is known.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        match self.route {
            Route::Direct(socket) => Some(socket),
            Route::Proxy(_) | Route::Socket(_) | Route::Unresolved => None,
        }
    }

    pub(crate) fn mark_responsive(&self) {
        *lock(&self.failed) = None;
    }

    /// Moves the server to the end of the order for a while.
    pub(crate) fn mark_failed(&self) {
        *lock(&self.failed) = Some(Instant::now());
    }

    pub(crate) fn failed_recently(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.elapsed() < DEPRIORITIZE_FOR)
    }

    /// Waits until fewer requests than the limit are under way. The permit must be kept until the exchange has
    /// ended.
    pub(crate) async fn permit(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Failure> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let _waiting = Waiting::start(&self.waiting)?;
        match timeout_at(deadline, self.permits.acquire()).await {
            // Requests of the same age end together, so a permit can be too late.
            Ok(Ok(permit)) if Instant::now() < deadline => Ok(permit),
            _ => Err(Failure::Busy(self.settings.config.max_exchanges)),
        }
    }

    /// Sends `request` once, or a second time if it can be repeated and the connection seems to be dead. If
    /// `relaxed`, the consistency header is omitted. `now` is the current time.
    ///
    /// # Errors
    /// Returns `Elapsed` at `end`.
    pub(crate) async fn exchange(
        &self,
        request: &Request,
        relaxed: bool,
        now: Instant,
        end: Instant,
    ) -> Result<Result<Response, Failure>, Elapsed> {
        let Connections {
            generation,
            response,
            ..
        } = *self.connections();
        let is_http_1 = response.is_some_and(|(_, version)| version < Version::HTTP_2);
        // The request cannot be sent again if the connection is dead. Of the connections with HTTP/1.1, some can be
        // older than the last response.
        let must_renew = !request.is_idempotent()
            && (is_http_1 || response.is_some_and(|(at, _)| now - at > PING_INTERVAL));
        if must_renew {
            self.renew(generation);
        }
        let mut first = pin!(self.exchange_once(request, relaxed, now));
        let silent = match request.is_idempotent() && is_http_1 {
            true => now + SILENCE,
            false => end,
        };
        match timeout_at(silent.min(end), &mut first).await {
            Err(_) if silent < end => {}
            result => return result,
        }
        // A slow server responds to the first request or to this one, a server behind a dead connection only
        // to this one.
        self.renew(generation);
        let second = self.exchange_once(request, relaxed, Instant::now());
        timeout_at(end, Box::pin(either(first, second))).await
    }

    async fn exchange_once(
        &self,
        request: &Request,
        relaxed: bool,
        now: Instant,
    ) -> Result<Response, Failure> {
        if matches!(self.route, Route::Unresolved) {
            return Err(Failure::Unresolved);
        }
        let mut pending = Pending::new(self, now);
        let mut response = self.execute(&pending, request, relaxed).await?;
        self.note_response(pending.generation, response.version());
        let (status, headers) = (response.status(), mem::take(response.headers_mut()));
        let body = body::read(&mut response, self.settings.config.max_bytes).await?;
        pending.is_complete = true;
        Ok(Response {
            status,
            headers,
            body,
            stale: false,
            recognized: false,
            authority: Some(Arc::clone(&self.authority)),
        })
    }

    /// Sends `request` and receives the head of the response.
    async fn execute(
        &self,
        pending: &Pending<'_>,
        request: &Request,
        relaxed: bool,
    ) -> Result<reqwest::Response, Failure> {
        let error = match pending.http.execute(self.prepare(request, relaxed)).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let failure = self.explain(error).await;
        if !failure.did_nothing() {
            self.renew(pending.generation);
        }
        Err(failure)
    }

    /// Converts `request` for the HTTP library.
    fn prepare(&self, request: &Request, relaxed: bool) -> reqwest::Request {
        let url = self.base.url(request.path());
        let mut prepared = reqwest::Request::new(request.method().clone(), url);
        let consistency = request.consistency.iter().filter(|_| !relaxed);
        for (name, value) in request.headers.iter().chain(consistency) {
            prepared.headers_mut().insert(name, value.clone());
        }
        if let Some(body) = &request.body {
            *prepared.body_mut() = Some(body.expose_bytes().to_vec().into());
        }
        prepared
    }

    /// Classifies an error of the HTTP library. If the server closed a new TLS connection without a known
    /// reason, a second connection finds out whether it rejected the client certificate.
    async fn explain(&self, error: reqwest::Error) -> Failure {
        match &self.route {
            Route::Proxy(proxy) if error.is_connect() && is_about_proxy(&error) => {
                Failure::Proxy(proxy.authority(), error)
            }
            Route::Direct(socket)
                if self.base.uses_tls()
                    && is_unexplained(&error)
                    && self.connections().response.is_none() =>
            {
                let tls = &self.settings.tls;
                // It is rare, and large.
                let alert = Box::pin(tls.alert_after_handshake(*socket, self.base.host()));
                match timeout(EXPLANATION, alert).await {
                    Ok(Some(alert)) => Failure::Tls(alert),
                    _ => Failure::Exchange(error),
                }
            }
            _ => Failure::Exchange(error),
        }
    }

    fn note_response(&self, generation: u64, version: Version) {
        let mut connections = self.connections();
        if connections.generation == generation {
            connections.response = Some((Instant::now(), version));
        }
    }

    /// Replaces the connections, if they are still those of `generation`. Running requests keep theirs.
    fn renew(&self, generation: u64) {
        let mut connections = self.connections();
        if connections.generation != generation {
            return;
        }
        // The settings were valid before, so this succeeds.
        if let Ok(http) = http_client(&self.settings, &self.base, &self.route) {
            *connections = Connections {
                http,
                generation: generation + 1,
                response: None,
            };
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }
}

/// Returns the first success of two futures that run in parallel, or the failure of the last one.
async fn either<T, E>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    tokio::select! {
        result = &mut first => match result {
            Ok(success) => Ok(success),
            Err(_) => second.await,
        },
        result = &mut second => match result {
            Ok(success) => Ok(success),
            Err(_) => first.await,
        },
    }
}

/// An exchange that has not ended. If it is dropped after some time, its connection is silent, and no other
/// request must use it.
struct Pending<'a> {
    endpoint: &'a Endpoint,
    http: reqwest::Client,
    generation: u64,
    started: Instant,
    is_complete: bool,
}

impl<'a> Pending<'a> {
    fn new(endpoint: &'a Endpoint, now: Instant) -> Self {
        let connections = endpoint.connections();
        Self {
            endpoint,
            http: connections.http.clone(),
            generation: connections.generation,
            started: now,
            is_complete: false,
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.is_complete || self.started.elapsed() < MIN_SILENCE {
            return;
        }
        let response = self.endpoint.connections().response;
        if response.is_none_or(|(at, _)| at < self.started) {
            self.endpoint.renew(self.generation);
        }
    }
}

/// A request that waits for its permit.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn start(count: &'a AtomicUsize) -> Result<Self, Failure> {
        let waiting = Self(count);
        match count.fetch_add(1, Ordering::Relaxed) {
            before if before < MAX_WAITING => Ok(waiting),
            _ => Err(Failure::Overloaded(MAX_WAITING)),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn http_client(
    settings: &Settings,
    base: &Address,
    route: &Route,
) -> Result<reqwest::Client, Error> {
    let failed = |error| invalid("the HTTP client cannot be created").with_source(error);
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(rustls::ClientConfig::clone(&settings.tls.config))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        // Another crate of the program can enable these features of reqwest. A decompressed body would not be wiped.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .connect_timeout(settings.config.connect)
        // A connection that stays silent during a request is closed, so that no other request uses it.
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(false)
        .user_agent(concat!("secretwell/", env!("CARGO_PKG_VERSION")));
    match route {
        Route::Direct(socket) => builder = builder.resolve(base.host(), *socket),
        Route::Proxy(proxy) => builder = builder.proxy(proxy.to_reqwest().map_err(failed)?),
        #[cfg(unix)]
        Route::Socket(path) => builder = builder.unix_socket(path.clone()),
        #[cfg(not(unix))]
        Route::Socket(_) => {}
        Route::Unresolved => {}
    }
    builder.build().map_err(failed)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
