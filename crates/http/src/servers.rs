//! The configured servers, and single exchanges with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::LOCATION;
use secretwell_core::Error;
use tokio::time::{Instant, timeout};

use crate::body;
use crate::config::{Address, ClientConfig, invalid};
use crate::failure::{Failure, is_unexplained};
use crate::request::Request;
use crate::response::Response;
use crate::tls;

/// The time after a failure during which an address is tried only after all others.
const DEPRIORITIZE_FOR: Duration = Duration::from_secs(10);
/// The time without a response after which an HTTP/2 connection is checked.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// The time without a response to this check after which the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The servers of one client, with their connections. Each is identified by the index of its address.
pub(crate) struct Servers {
    http: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
    config: ClientConfig,
    /// Host and port of each address.
    authorities: Vec<Arc<str>>,
    /// The index of the address that responded last.
    preferred: AtomicUsize,
    /// When each address last failed. `None` after a successful response.
    failures: Mutex<Vec<Option<Instant>>>,
}

impl Servers {
    /// Checks the settings, and reads the certificates. Opens no connection.
    pub(crate) fn new(config: ClientConfig) -> Result<Self, Error> {
        config.check()?;
        let tls = tls::client_config(&config.tls)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(config.connect)
            // A connection that stays silent during a request is closed, so that no other request uses it.
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(false)
            .user_agent(concat!("secretwell/", env!("CARGO_PKG_VERSION")));
        #[cfg(unix)]
        if let Some(path) = &config.unix_socket {
            builder = builder.unix_socket(path.clone());
        }
        let http = builder
            .build()
            .map_err(|error| invalid("the HTTP client cannot be created").with_source(error))?;
        let authority = |address: &Address| address.authority().into();
        Ok(Self {
            http,
            tls: Arc::new(tls),
            authorities: config.addresses.iter().map(authority).collect(),
            preferred: AtomicUsize::new(0),
            failures: Mutex::new(vec![None; config.addresses.len()]),
            config,
        })
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Returns the number of addresses.
    pub(crate) fn count(&self) -> usize {
        self.authorities.len()
    }

    /// Returns host and port of the address at `index`.
    pub(crate) fn authority(&self, index: usize) -> &str {
        &self.authorities[index]
    }

    /// Returns the indexes of the addresses in the order of the next attempts. The address that responded
    /// last is the first, and those that failed recently are at the end.
    pub(crate) fn order(&self) -> Vec<usize> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut order: Vec<_> = (0..self.count())
            .map(|offset| (first + offset) % self.count())
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
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
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
        let exchange = async {
            let response = self.exchange(index, request, relaxed).await?;
            match self.redirect(index, &response, request)? {
                Some(other) => self.exchange(other, request, relaxed).await,
                None => Ok(response),
            }
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let limit = self.config.attempt.filter(|limit| *limit <= remaining);
        match (timeout(limit.unwrap_or(remaining), exchange).await, limit) {
            (Ok(result), _) => result,
            (Err(_), Some(limit)) => Err(Failure::Timeout(limit)),
            (Err(_), None) => Err(Failure::Deadline(remaining)),
        }
    }

    async fn exchange(
        &self,
        index: usize,
        request: &Request,
        relaxed: bool,
    ) -> Result<Response, Failure> {
        let address = &self.config.addresses[index];
        // Paths consist of encoded segments, so this always succeeds.
        let url = address.url(request.path()).map_err(|_| Failure::Redirect)?;
        let mut builder = self
            .http
            .request(request.method().clone(), url)
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
            recognized: false,
            authority: Some(Arc::clone(&self.authorities[index])),
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
        index: usize,
        response: &Response,
        request: &Request,
    ) -> Result<Option<usize>, Failure> {
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
        let known = self.config.addresses.iter().position(|address| {
            address.is_server_of(&target)
                && address
                    .url(request.path())
                    .is_ok_and(|url| url.path() == target.path() && url.query() == target.query())
        });
        match known {
            Some(known) => Ok(Some(known)),
            None if self.config.addresses[index].is_upgraded_by(&target) => {
                Err(Failure::RedirectToTls)
            }
            None => Err(Failure::Redirect),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use rustls::crypto::aws_lc_rs;
    use secretwell_core::Origin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{Client, Outcome, Protocol};

    #[derive(Debug)]
    struct AnyResponse;

    impl Protocol for AnyResponse {
        fn server(&self) -> &'static str {
            "the test server"
        }

        fn recognizes(&self, _: &Request, _: &Response) -> bool {
            true
        }

        fn classify(&self, _: &Request, _: &Response) -> Outcome {
            Outcome::Success
        }
    }

    fn acceptor() -> TlsAcceptor {
        let names = vec!["localhost".to_owned()];
        let identity = rcgen::generate_simple_self_signed(names).unwrap();
        let key = identity.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config).into()
    }

    /// Responds to `limit` HTTP/2 requests with the status 200, and then remains silent.
    async fn serve(acceptor: TlsAcceptor, stream: TcpStream, limit: usize) {
        const PREFACE: usize = 24;
        const HEADERS: u8 = 1;
        const SETTINGS: u8 = 4;
        let frame = |kind, flags, stream: [u8; 4], payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, flags], &stream[..], payload].concat()
        };
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.read_exact(&mut [0; PREFACE]).await.unwrap();
        let settings = frame(SETTINGS, 0, [0; 4], &[]);
        stream.write_all(&settings).await.unwrap();
        let mut responses = 0;
        while responses < limit {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.unwrap();
            let [high, middle, low, kind, _, id @ ..] = header;
            let length = u32::from_be_bytes([0, high, middle, low]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if kind == HEADERS {
                // The headers and the stream end here. 0x88 is the encoding of the status 200.
                let response = frame(HEADERS, 4 | 1, id, &[0x88]);
                stream.write_all(&response).await.unwrap();
                responses += 1;
            }
        }
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn silent_http2_connection_is_replaced_within_ten_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let acceptor = acceptor();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(acceptor.clone(), stream, 2));
            }
        });
        let config = ClientConfig::new([address])
            .unwrap()
            .danger_skip_verification();
        let client = Client::new(config, AnyResponse, Origin::new("plain", "test")).unwrap();
        let request = Request::new(Method::GET, "/");
        let mut durations = Vec::new();
        for _ in 0..5 {
            let started = Instant::now();
            client.send(&request).await.unwrap();
            durations.push(started.elapsed());
        }
        let is_silent = durations.iter().map(|took| *took > Duration::from_secs(3));
        assert!(
            is_silent.eq([false, false, true, false, true]),
            "{durations:?}"
        );
        assert!(durations.iter().all(|took| *took < Duration::from_secs(10)));
    }
}
