//! The way to a backend: requests, answers and what they mean, single exchanges.

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
use crate::sending::Sending;
use crate::tls;

/// How long an address that did not answer is tried after the others.
const SHUN: Duration = Duration::from_secs(10);

/// A request, to be carried to whichever server answers.
#[derive(Clone)]
pub struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<SecretValue>,
    /// Dropped when every server that answers is behind.
    consistency: Option<(HeaderName, HeaderValue)>,
    pub(crate) non_idempotent: bool,
}

impl Request {
    /// A request for `path`, which begins with a slash, is percent-encoded, and may have a query.
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

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same with a header that holds a secret, which is marked so and shown nowhere.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: it holds a line end or another byte that no header may.
    pub fn secret_header(self, name: HeaderName, value: &[u8]) -> Result<Self, Error> {
        let mut value = HeaderValue::from_bytes(value).map_err(|_| {
            Error::new(ErrorKind::Invalid, "the token holds bytes that none may")
                .with_hint("does it end in a line break?")
        })?;
        value.set_sensitive(true);
        Ok(self.header(name, value))
    }

    /// The same with a header that asks a replicated server to have come so far. When every server
    /// that answers is [behind](Outcome::StaleReplica), the request goes out without it.
    #[must_use]
    pub fn consistency(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.consistency = Some((name, value));
        self
    }

    /// The same with a body of JSON.
    #[must_use]
    pub fn json(mut self, body: SecretValue) -> Self {
        self.body = Some(body);
        let json = HeaderValue::from_static("application/json");
        self.header(http::header::CONTENT_TYPE, json)
    }

    /// The same, for what must not be done twice: it is not sent again once a server may have seen it.
    #[must_use]
    pub fn non_idempotent(mut self) -> Self {
        self.non_idempotent = true;
        self
    }
}

/// Without headers and body, which hold tokens and credentials.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What a server answered.
#[non_exhaustive]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Zeroizing<Vec<u8>>,
    /// Whether it is from a server that is behind, for want of a better one.
    pub stale: bool,
}

impl Response {
    /// Creates a response that did not come from a lagging replica.
    pub fn new(status: StatusCode, headers: HeaderMap, body: Vec<u8>) -> Self {
        Self {
            status,
            headers,
            body: Zeroizing::new(body),
            stale: false,
        }
    }
}

/// Without headers and body, which may hold secrets.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What is to be done with an answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Hand it to whoever asked.
    Success,
    /// It says no, for good: the error is what whoever asked gets.
    Fatal(Error),
    /// This server cannot answer now, another may. When none can, the error stands.
    NextEndpoint(Error),
    /// This server has not come as far as the request's [consistency](Request::consistency) asks.
    StaleReplica(Error),
    /// The service asks for patience, for this long if it says so.
    RetryAfter(Option<Duration>, Error),
}

/// What a backend's answers mean.
pub trait Protocol: fmt::Debug + Send + Sync + 'static {
    /// What is to be done with `response`. Its errors must not quote the body of a success.
    fn classify(&self, response: &Response) -> Outcome;

    /// Whether a server that has to be passed over for another certainly did nothing of what was asked.
    /// Otherwise that is where it ends for what must be done [once](Request::non_idempotent). Default: nobody
    /// knows.
    fn did_nothing(&self, _reply: &Response) -> bool {
        false
    }
}

/// The way to a backend: its addresses, connections and patience. Clones share the connections.
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
    /// The address that answered last.
    preferred: AtomicUsize,
    /// When each address last failed to answer.
    failed: Mutex<Vec<Option<Instant>>>,
}

impl Client {
    /// A client; no connection is made yet. `source` is what its errors are marked with.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: certificates that cannot be read, or an address that tokens must
    /// not be sent to.
    pub fn new(
        config: ClientConfig,
        protocol: impl Protocol,
        origin: Origin,
    ) -> Result<Self, Error> {
        let (http, tls) = Self::http(&config).map_err(|error| error.with_origin(&origin))?;
        let shared = Shared {
            http,
            tls: Arc::new(tls),
            config,
            protocol: Box::new(protocol),
            origin,
            preferred: AtomicUsize::new(0),
            failed: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    fn http(config: &ClientConfig) -> Result<(reqwest::Client, rustls::ClientConfig), Error> {
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
            .map_err(|error| invalid("the HTTP client cannot be set up").with_source(error))
    }

    /// How long a call may take, with all its attempts and waits.
    pub fn deadline(&self) -> Duration {
        self.shared.config.deadline
    }

    /// Carries `request` to a server that answers it, within the configured deadline.
    ///
    /// A server that cannot be reached or says that it cannot answer is passed over for the next one,
    /// and one that is silent gets company; when all have been asked, it waits a little, up to a
    /// second, and begins again.
    ///
    /// # Errors
    /// What the protocol made of the answer, or of the last failure when the deadline has passed.
    /// Cancelling it cancels the requests under way, which servers may have seen.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        let sent = Sending::new(&self.shared, request).run().await;
        sent.map_err(|error| error.with_origin(&self.shared.origin))
    }

    /// What time the server says it is when it answers a request for `path`, which takes no login: to
    /// tell whether it can be reached, and whether its clock and ours agree.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`ErrorKind::Malformed`] when the answer has no date, which RFC 9110
    /// (section 6.6.1) wants of every server with a clock.
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
                    "the answer does not say what time it is",
                )
                .with_origin(&self.shared.origin)
            })
    }
}

impl Shared {
    /// The addresses from the one that answered last on; those that failed a moment ago at the end.
    pub(crate) fn order(&self) -> Vec<usize> {
        let addresses = self.config.addresses.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut order: Vec<_> = (0..addresses)
            .map(|offset| (first + offset) % addresses)
            .collect();
        order.sort_by_key(|index| self.failed_lately(*index));
        order
    }

    pub(crate) fn answered(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
        self.failed()[index] = None;
    }

    /// Has `index` tried after the others for a while.
    pub(crate) fn shun(&self, index: usize) {
        self.failed()[index] = Some(Instant::now());
    }

    pub(crate) fn failed_lately(&self, index: usize) -> bool {
        self.failed()[index].is_some_and(|at| at.elapsed() < SHUN)
    }

    fn failed(&self) -> MutexGuard<'_, Vec<Option<Instant>>> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.resize(self.config.addresses.len(), None);
        failed
    }

    /// One exchange with the server at `index`, following one redirect at most.
    pub(crate) async fn attempt(
        &self,
        index: usize,
        request: &Request,
        relaxed: bool,
        end: Instant,
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
        let left = end.saturating_duration_since(Instant::now());
        match timeout(limit.min(left), exchange).await {
            Ok(outcome) => outcome,
            Err(_) if left < limit => Err(Failure::Deadline(left)),
            Err(_) => Err(Failure::Timeout(limit)),
        }
    }

    async fn exchange(
        &self,
        address: &Address,
        request: &Request,
        relaxed: bool,
    ) -> Result<Response, Failure> {
        // Paths are made of encoded segments, so they always parse behind an address.
        let url = address.url(&request.path).map_err(|_| Failure::Redirect)?;
        let mut sending = self
            .http
            .request(request.method.clone(), url)
            .headers(request.headers.clone());
        if let Some((name, value)) = request.consistency.as_ref().filter(|_| !relaxed) {
            sending = sending.header(name, value);
        }
        if let Some(body) = &request.body {
            sending = sending.body(body.expose_bytes().to_vec());
        }
        let response = match sending.send().await {
            Ok(response) => response,
            Err(error) => return Err(self.explained(address, error).await),
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

    async fn explained(&self, address: &Address, error: reqwest::Error) -> Failure {
        if let Some((host, port)) = address.tls().filter(|_| is_unexplained(&error)) {
            let look = tls::refusal(self.tls.clone(), host, port);
            if let Ok(Some(refusal)) = timeout(self.config.connect, look).await {
                return Failure::Tls(refusal);
            }
        }
        Failure::Exchange(error)
    }

    /// The configured server that `response` redirects to, for the very same path.
    fn redirect(
        &self,
        response: &Response,
        request: &Request,
    ) -> Result<Option<&Address>, Failure> {
        // Among those that begin with a 3 is also "not modified".
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
            address.holds(&target)
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
            .field("source", &self.shared.origin)
            .field("addresses", &self.shared.config.addresses)
            .finish_non_exhaustive()
    }
}
