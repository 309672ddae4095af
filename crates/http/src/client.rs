//! The HTTP client, its requests and responses, and single exchanges with a server.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{DATE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use secretwell_core::{Error, ErrorKind, Origin, SecretValue};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::body;
use crate::config::{Address, ClientConfig, invalid};
use crate::failure::{Failure, is_unexplained};
use crate::send::SendLoop;
use crate::tls;

/// The time after a failure during which an address is tried only after all others.
const DEPRIORITIZE_FOR: Duration = Duration::from_secs(10);

/// A request to a backend. The [`Client`] chooses the server.
#[derive(Clone)]
pub struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<SecretValue>,
    /// Omitted if every server that responds is a stale replica.
    consistency: Option<(HeaderName, HeaderValue)>,
    pub(crate) non_idempotent: bool,
}

impl Request {
    /// Creates a request for `path`. The path must begin with a slash and be percent-encoded, and can have a
    /// query.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: None,
            consistency: None,
            non_idempotent: false,
        }
    }

    /// Adds a header whose value is not secret.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Adds a header with a secret value. The value is marked as sensitive, so that no log prints it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the value contains a line break or another byte that is not allowed
    /// in a header.
    pub fn secret_header(self, name: HeaderName, value: &[u8]) -> Result<Self, Error> {
        let mut value = HeaderValue::from_bytes(value).map_err(|_| {
            Error::new(
                ErrorKind::Invalid,
                "the token contains bytes that are not allowed in a header",
            )
            .with_hint("check whether it ends with a line break")
        })?;
        value.set_sensitive(true);
        Ok(self.header(name, value))
    }

    /// Adds a header that requires a replicated server to have reached a certain state of its data. If every
    /// server that responds is a [stale replica](Outcome::StaleReplica), the request is sent without it.
    #[must_use]
    pub fn consistency(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.consistency = Some((name, value));
        self
    }

    /// Sets a JSON body, and the `Content-Type` header that belongs to it.
    #[must_use]
    pub fn json(mut self, body: SecretValue) -> Self {
        self.body = Some(body);
        let json = HeaderValue::from_static("application/json");
        self.header(http::header::CONTENT_TYPE, json)
    }

    /// Marks the request as one that must not be executed twice. It is not sent again once a server might
    /// have received it.
    #[must_use]
    pub fn non_idempotent(mut self) -> Self {
        self.non_idempotent = true;
        self
    }
}

/// Omits headers and body, which contain tokens and credentials.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A server's response, after its body was read completely.
#[non_exhaustive]
pub struct Response {
    /// The HTTP status, such as 200 or 404.
    pub status: StatusCode,
    /// The HTTP headers. They can contain secrets, so `Debug` omits them.
    pub headers: HeaderMap,
    /// The complete body. The buffer is wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
    /// Whether the response is from a stale replica, because no up-to-date server responded.
    pub stale: bool,
}

impl Response {
    /// Creates a response that is not from a stale replica.
    pub fn new(status: StatusCode, headers: HeaderMap, body: Vec<u8>) -> Self {
        Self {
            status,
            headers,
            body: Zeroizing::new(body),
            stale: false,
        }
    }
}

/// Omits headers and body, which might contain secrets.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What the client does with a response.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Returns the response to the caller.
    Success,
    /// Returns the error to the caller. No other server is tried.
    Fatal(Error),
    /// Tries the next server. If every server fails, the error is returned to the caller.
    NextEndpoint(Error),
    /// Tries the next server, because the data of this one is older than the
    /// [consistency header](Request::consistency) requires.
    StaleReplica(Error),
    /// Waits before the next attempt, because the request was rate limited. The duration is from the
    /// response's `Retry-After` header; without one, the client backs off as usual.
    RetryAfter(Option<Duration>, Error),
}

/// The meaning of a backend's responses.
pub trait Protocol: fmt::Debug + Send + Sync + 'static {
    /// Decides what the client does with `response`. The errors must not quote the body of a successful
    /// response.
    fn classify(&self, response: &Response) -> Outcome;

    /// Returns whether it is certain that the server did not execute the request. The client calls this for
    /// responses with the outcome [`Outcome::NextEndpoint`]. A
    /// [non-idempotent](Request::non_idempotent) request is sent to the next server only if this returns
    /// `true`. Default: `false`.
    fn did_nothing(&self, _response: &Response) -> bool {
        false
    }
}

/// An HTTP client for the addresses of one backend, with a retry loop. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    http: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
    pub(crate) config: ClientConfig,
    pub(crate) protocol: Box<dyn Protocol>,
    pub(crate) origin: Origin,
    /// The index of the address that responded last.
    preferred: AtomicUsize,
    /// When each address last failed. `None` after a successful response.
    failures: Mutex<Vec<Option<Instant>>>,
}

impl Client {
    /// Creates a client without opening a connection. Its errors name `origin` as their origin.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if a certificate cannot be read, or if an address would receive
    /// tokens unencrypted over the network.
    pub fn new(
        config: ClientConfig,
        protocol: impl Protocol,
        origin: Origin,
    ) -> Result<Self, Error> {
        let (http, tls) = Self::build_http(&config).map_err(|error| error.with_origin(&origin))?;
        let shared = Shared {
            http,
            tls: Arc::new(tls),
            config,
            protocol: Box::new(protocol),
            origin,
            preferred: AtomicUsize::new(0),
            failures: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    fn build_http(config: &ClientConfig) -> Result<(reqwest::Client, rustls::ClientConfig), Error> {
        config.check()?;
        let tls = tls::client_config(&config.tls)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(config.connect)
            .user_agent(concat!("secretwell/", env!("CARGO_PKG_VERSION")));
        #[cfg(unix)]
        if let Some(path) = &config.unix_socket {
            builder = builder.unix_socket(path.clone());
        }
        builder
            .build()
            .map(|http| (http, tls))
            .map_err(|error| invalid("the HTTP client cannot be created").with_source(error))
    }

    /// Returns the maximum duration of a call, including all attempts and waits.
    pub fn deadline(&self) -> Duration {
        self.shared.config.deadline
    }

    /// Sends `request` to the configured servers until one responds, within the configured deadline.
    ///
    /// - If a server cannot be reached or reports that it is unavailable, the next address is tried.
    /// - If a server does not respond within the [hedge delay](ClientConfig::hedge_delay), the next address
    ///   is tried in parallel.
    /// - If all addresses have failed, the client backs off for up to 1 s and tries them again.
    /// - After a rate limit, no request is sent until the requested wait is over.
    ///
    /// # Errors
    /// Returns the error that the [`Protocol`] derived from the response. If no attempt succeeds before the
    /// deadline, returns the last failure.
    ///
    /// # Cancellation
    /// Dropping the future cancels its in-flight requests. A server might already have received them.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        let result = SendLoop::new(&self.shared, request).run().await;
        result.map_err(|error| error.with_origin(&self.shared.origin))
    }

    /// Requests `path`, which must not need a login, and returns the time in the response's `Date` header.
    /// This shows whether the server can be reached and whether its clock agrees with the local one.
    ///
    /// # Errors
    /// - The errors of [`send`](Self::send).
    /// - [`ErrorKind::Malformed`] if the response has no valid date. RFC 9110 (section 6.6.1) requires one
    ///   from every server with a clock.
    pub async fn server_time(&self, path: &str) -> Result<SystemTime, Error> {
        let response = self.send(&Request::new(Method::GET, path)).await?;
        let date = response
            .headers
            .get(DATE)
            .and_then(|date| date.to_str().ok());
        date.and_then(|date| httpdate::parse_http_date(date).ok())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Malformed,
                    "the response has no valid `Date` header",
                )
                .with_hint("check the address, and any proxy in front of the server")
                .with_origin(&self.shared.origin)
            })
    }
}

impl Shared {
    /// Returns the indexes of the addresses in the order of the next attempts. The address that responded
    /// last is the first, and those that failed recently are at the end.
    pub(crate) fn address_order(&self) -> Vec<usize> {
        let addresses = self.config.addresses.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut order: Vec<_> = (0..addresses)
            .map(|offset| (first + offset) % addresses)
            .collect();
        order.sort_by_key(|index| self.failed_recently(*index));
        order
    }

    pub(crate) fn mark_responsive(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
        self.failures()[index] = None;
    }

    /// Moves the address at `index` to the end of the order for a while.
    pub(crate) fn mark_failed(&self, index: usize) {
        self.failures()[index] = Some(Instant::now());
    }

    pub(crate) fn failed_recently(&self, index: usize) -> bool {
        self.failures()[index].is_some_and(|at| at.elapsed() < DEPRIORITIZE_FOR)
    }

    fn failures(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.resize(self.config.addresses.len(), None);
        failures
    }

    /// Sends `request` to the server at `index` and follows at most one redirect. Ends at `deadline` or after
    /// the attempt timeout, whichever is earlier. If `relaxed`, the consistency header is omitted.
    pub(crate) async fn attempt(
        &self,
        index: usize,
        request: &Request,
        relaxed: bool,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let limit = self.config.attempt;
        let exchange = async {
            let address = &self.config.addresses[index];
            let response = self.exchange(address, request, relaxed).await?;
            match self.redirect(&response, request)? {
                Some(other) => self.exchange(other, request, relaxed).await,
                None => Ok(response),
            }
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        match timeout(limit.min(remaining), exchange).await {
            Ok(result) => result,
            Err(_) if remaining < limit => Err(Failure::Deadline(remaining)),
            Err(_) => Err(Failure::Timeout(limit)),
        }
    }

    async fn exchange(
        &self,
        address: &Address,
        request: &Request,
        relaxed: bool,
    ) -> Result<Response, Failure> {
        // Paths consist of encoded segments, so this always succeeds.
        let url = address.url(&request.path).map_err(|_| Failure::Redirect)?;
        let mut builder = self
            .http
            .request(request.method.clone(), url)
            .headers(request.headers.clone());
        if let Some((name, value)) = request.consistency.as_ref().filter(|_| !relaxed) {
            builder = builder.header(name, value);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.expose_bytes().to_vec());
        }
        let response = match builder.send().await {
            Ok(response) => response,
            Err(error) => return Err(self.explain(address, error).await),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body::read(response, self.config.max_bytes).await?;
        Ok(Response {
            status,
            headers,
            body,
            stale: false,
        })
    }

    /// Classifies an error of the HTTP library. If the server closed a TLS connection without a known reason,
    /// a second connection finds out whether it rejected the client certificate.
    async fn explain(&self, address: &Address, error: reqwest::Error) -> Failure {
        if let Some((host, port)) = address.tls().filter(|_| is_unexplained(&error)) {
            let probe = tls::alert_after_handshake(self.tls.clone(), host, port);
            if let Ok(Some(alert)) = timeout(self.config.connect, probe).await {
                return Failure::Tls(alert);
            }
        }
        Failure::Exchange(error)
    }

    /// Returns the configured address that `response` redirects to. A redirect is followed only for the same
    /// path and query, so that a token never reaches another server.
    fn redirect(
        &self,
        response: &Response,
        request: &Request,
    ) -> Result<Option<&Address>, Failure> {
        // Other 3xx statuses, such as 304, are not redirects.
        if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let target = response
            .headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| reqwest::Url::parse(text).ok())
            .ok_or(Failure::Redirect)?;
        let addresses = &self.config.addresses;
        let known = addresses.iter().find(|address| {
            address.is_server_of(&target)
                && address
                    .url(&request.path)
                    .is_ok_and(|url| url.path() == target.path() && url.query() == target.query())
        });
        known.map(Some).ok_or(Failure::Redirect)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", &self.shared.origin)
            .field("addresses", &self.shared.config.addresses)
            .finish_non_exhaustive()
    }
}
