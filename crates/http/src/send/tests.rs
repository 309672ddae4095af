use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, StatusCode};
use secretwell_core::{ErrorKind, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::{Client, ClientConfig, retry_after};

/// What a test server does with one request.
#[derive(Clone, Copy)]
enum Reaction {
    Hang,
    /// Responds with a status and headers.
    Respond(&'static str),
    RespondAfter(Duration, &'static str),
}

#[derive(Debug, Default)]
struct TestProtocol {
    probes: bool,
}

impl Protocol for TestProtocol {
    fn server(&self) -> &'static str {
        "the test server"
    }

    fn recognizes(&self, _: &Request, response: &Response) -> bool {
        !response.headers.contains_key("x-gateway")
    }

    fn probe(&self) -> Option<Request> {
        self.probes.then(get)
    }

    fn classify(&self, _: &Request, response: &Response) -> Outcome {
        let error = Error::new(ErrorKind::Unavailable, "not now");
        match response.status {
            StatusCode::OK => Outcome::Success,
            StatusCode::PRECONDITION_FAILED => Outcome::StaleReplica(error),
            StatusCode::INTERNAL_SERVER_ERROR => Outcome::ServerError(error),
            StatusCode::TOO_MANY_REQUESTS => {
                Outcome::RetryAfter(retry_after(&response.headers), error)
            }
            _ => Outcome::NextEndpoint(error),
        }
    }

    fn did_nothing(&self, _: &Request, response: &Response) -> bool {
        response.status == StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Test servers, each with one reaction for each request; the last one is repeated.
struct Cluster {
    addresses: Vec<String>,
    /// The number of requests that each server received.
    requests: Vec<Arc<AtomicUsize>>,
}

impl Cluster {
    async fn start(servers: &[&'static [Reaction]]) -> Self {
        let mut cluster = Self {
            addresses: Vec::new(),
            requests: Vec::new(),
        };
        for reactions in servers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let requests = Arc::default();
            cluster.addresses.push(format!("http://{address}"));
            cluster.requests.push(Arc::clone(&requests));
            tokio::spawn(serve(listener, reactions, requests));
        }
        cluster
    }

    fn requests(&self) -> Vec<usize> {
        let counts = self.requests.iter();
        counts.map(|count| count.load(Ordering::SeqCst)).collect()
    }

    async fn send(
        &self,
        request: Request,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<Response, Error> {
        let config = change(ClientConfig::new(&self.addresses)?);
        let protocol = TestProtocol::default();
        let client = Client::new(config, protocol, Origin::new("plain", "test"))?;
        client.send(&request).await
    }

    /// Returns a client that sends a probe before a request that must not be repeated.
    fn probing_client(&self) -> Client {
        self.probing_client_with(|config| config)
    }

    fn probing_client_with(&self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Client {
        let config = change(ClientConfig::new(&self.addresses).unwrap());
        let protocol = TestProtocol { probes: true };
        Client::new(config, protocol, Origin::new("plain", "test")).unwrap()
    }
}

async fn serve(listener: TcpListener, reactions: &'static [Reaction], requests: Arc<AtomicUsize>) {
    let mut open = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let number = requests.fetch_add(1, Ordering::SeqCst);
        open.spawn(async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let (status, delay) = match reactions[number.min(reactions.len() - 1)] {
                Reaction::Respond(status) => (status, Duration::ZERO),
                Reaction::RespondAfter(delay, status) => (status, delay),
                Reaction::Hang => std::future::pending().await,
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let response =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(response.as_bytes()).await;
        });
    }
}

/// The decompressed copy of a body would not be wiped.
#[tokio::test]
async fn compression_is_not_requested_if_another_crate_enables_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(response).await.unwrap();
        request.truncate(length);
        String::from_utf8(request).unwrap().to_lowercase()
    });
    let config = ClientConfig::new([base]).unwrap();
    let protocol = TestProtocol::default();
    let client = Client::new(config, protocol, Origin::new("plain", "test")).unwrap();
    client.send(&get()).await.unwrap();
    let request = received.await.unwrap();
    assert!(request.starts_with("get / http/1.1"), "{request}");
    assert!(!request.contains("encoding"), "{request}");
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const IMMEDIATELY: Duration = Duration::from_millis(1);

/// Sends a request with a deadline of an hour, so that only hedging helps against a server that hangs.
async fn send(
    servers: &[&'static [Reaction]],
    request: Request,
    hedge: Duration,
) -> Result<Response, Error> {
    let cluster = Cluster::start(servers).await;
    let change = |config: ClientConfig| config.deadline(HOUR).hedge_delay(hedge);
    cluster.send(request, change).await
}

fn get() -> Request {
    Request::new(Method::GET, "/")
}

const HANGING: &[Reaction] = &[Reaction::Hang];
const HEALTHY: &[Reaction] = &[Reaction::Respond("200 OK")];
const STARTING: &[Reaction] = &[
    Reaction::Respond("503 Starting"),
    Reaction::Respond("503 Starting"),
    Reaction::Respond("200 OK"),
];

#[tokio::test]
async fn hanging_servers_are_hedged() {
    let response = send(&[HANGING, HANGING, HEALTHY], get(), IMMEDIATELY)
        .await
        .unwrap();
    assert!(!response.stale);
}

#[tokio::test]
async fn starting_server_is_retried_while_another_hangs() {
    send(&[HANGING, STARTING], get(), IMMEDIATELY)
        .await
        .unwrap();
    send(&[STARTING], get(), IMMEDIATELY).await.unwrap();
}

#[tokio::test]
async fn stale_replica_is_accepted_if_the_others_hang() {
    const STALE: &[Reaction] = &[Reaction::Respond("412 Stale"), Reaction::Respond("200 OK")];
    let response = send(&[HANGING, STALE], get(), IMMEDIATELY).await.unwrap();
    assert!(response.stale);
    let response = send(&[STALE, HEALTHY], get(), HOUR).await.unwrap();
    assert!(!response.stale);
}

#[tokio::test]
async fn call_times_out_if_all_servers_hang() {
    tokio::time::pause();
    for hedge in [IMMEDIATELY * 500, HOUR] {
        let call = send(&[HANGING, HANGING, HANGING], get(), hedge);
        let error = call.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
}

#[tokio::test]
async fn attempt_cut_short_by_the_deadline_does_not_hide_the_earlier_failure() {
    const THEN_HANGING: &[Reaction] = &[Reaction::Respond("503 Starting"), Reaction::Hang];
    tokio::time::pause();
    let error = send(&[THEN_HANGING], get(), HOUR).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn non_idempotent_request_is_not_hedged() {
    let call = send(&[HANGING, HEALTHY], get().non_idempotent(), IMMEDIATELY);
    let result = tokio::time::timeout(Duration::from_millis(50), call).await;
    assert!(result.is_err(), "{result:?}");
}

#[tokio::test]
async fn non_idempotent_request_is_retried_only_if_the_server_did_nothing() {
    const FAILED: &[Reaction] = &[Reaction::Respond("502 Failed")];
    send(&[FAILED, HEALTHY], get(), HOUR).await.unwrap();
    let error = send(&[FAILED, HEALTHY], get().non_idempotent(), HOUR)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    send(&[STARTING, HEALTHY], get().non_idempotent(), HOUR)
        .await
        .unwrap();
    const REDIRECTING: &[Reaction] = &[Reaction::Respond(
        "307 Redirect\r\nlocation: http://127.0.0.1:1/",
    )];
    send(&[REDIRECTING, HEALTHY], get().non_idempotent(), HOUR)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn probe_finds_a_server_for_a_request_that_must_not_be_repeated() {
    let cluster = Cluster::start(&[HANGING, HEALTHY]).await;
    let client = cluster.probing_client();
    client.send(&get().non_idempotent()).await.unwrap();
    assert_eq!(cluster.requests(), [1, 2]);
    // The server has just responded.
    client.send(&get().non_idempotent()).await.unwrap();
    assert_eq!(cluster.requests(), [1, 3]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.send(&get().non_idempotent()).await.unwrap();
    assert_eq!(cluster.requests(), [1, 5]);
}

#[tokio::test(start_paused = true)]
async fn failed_probe_does_not_prevent_the_request() {
    const NO_PROBE: &[Reaction] = &[
        Reaction::Respond("403 Forbidden\r\nx-gateway: 1"),
        Reaction::Respond("200 OK"),
    ];
    let cluster = Cluster::start(&[NO_PROBE, NO_PROBE]).await;
    let login = get().non_idempotent();
    cluster.probing_client().send(&login).await.unwrap();
    assert_eq!(cluster.requests(), [2, 1]);
    // The other server hangs.
    const SEALED: &[Reaction] = &[Reaction::Respond("503 Sealed"), Reaction::Respond("200 OK")];
    for without_probe in [NO_PROBE, SEALED] {
        let cluster = Cluster::start(&[HANGING, without_probe]).await;
        cluster.probing_client().send(&login).await.unwrap();
        assert_eq!(cluster.requests(), [1, 2]);
        let cluster = Cluster::start(&[without_probe, HANGING]).await;
        cluster.probing_client().send(&login).await.unwrap();
        assert_eq!(cluster.requests(), [2, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_servers_get_the_request_once() {
    const SLOW: &[Reaction] = &[Reaction::RespondAfter(Duration::from_secs(8), "200 OK")];
    let cluster = Cluster::start(&[SLOW, SLOW]).await;
    let login = get().non_idempotent();
    cluster.probing_client().send(&login).await.unwrap();
    assert_eq!(cluster.requests().iter().sum::<usize>(), 3);
    // The probe leaves time for the request, whatever the settings are.
    for (deadline, hedge) in [(18, 1), (18, 60)] {
        let cluster = Cluster::start(&[SLOW, SLOW]).await;
        let client = cluster.probing_client_with(|config| {
            config
                .deadline(Duration::from_secs(deadline))
                .hedge_delay(Duration::from_secs(hedge))
        });
        client.send(&login).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn probe_is_not_needed_with_one_server() {
    let cluster = Cluster::start(&[HEALTHY]).await;
    let login = get().non_idempotent();
    cluster.probing_client().send(&login).await.unwrap();
    assert_eq!(cluster.requests(), [1]);
}

const FOREIGN: &[Reaction] = &[Reaction::Respond("404 Not Found\r\nx-gateway: 1")];

#[tokio::test(start_paused = true)]
async fn foreign_response_tries_the_next_address_and_ends_after_three_rounds() {
    let cluster = Cluster::start(&[FOREIGN, HEALTHY]).await;
    let response = cluster.send(get(), |config| config).await.unwrap();
    assert!(response.is_recognized());
    assert_eq!(cluster.requests(), [1, 1]);

    let started = Instant::now();
    let cluster = Cluster::start(&[FOREIGN, FOREIGN]).await;
    let error = cluster.send(get(), |config| config).await.unwrap_err();
    assert_eq!(cluster.requests(), [3, 3]);
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.backoff_limit(), Some(Duration::from_secs(5)));
    let (_, authority) = cluster.addresses[1].split_once("//").unwrap();
    let expected = format!("`{authority}` did not respond as the test server: status 404, no body");
    assert_eq!(error.message(), expected);
}

#[tokio::test(start_paused = true)]
async fn internal_error_is_retried_in_three_rounds() {
    const FAILING: &[Reaction] = &[Reaction::Respond("500 Internal")];
    let cluster = Cluster::start(&[FAILING]).await;
    cluster.send(get(), |config| config).await.unwrap_err();
    assert_eq!(cluster.requests(), [3]);
    const BRIEFLY: &[Reaction] = &[
        Reaction::Respond("500 Internal"),
        Reaction::Respond("200 OK"),
    ];
    send(&[BRIEFLY], get(), HOUR).await.unwrap();
    send(&[BRIEFLY], get().non_idempotent(), HOUR)
        .await
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn gateway_beside_a_starting_server_is_not_limited_to_three_rounds() {
    const LATE: &[Reaction] = &[
        Reaction::Respond("503 Starting"),
        Reaction::Respond("503 Starting"),
        Reaction::Respond("503 Starting"),
        Reaction::Respond("503 Starting"),
        Reaction::Respond("200 OK"),
    ];
    send(&[FOREIGN, LATE], get(), HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn login_is_sent_once_whatever_the_gateway_responds() {
    const RESPONSES: &[&[Reaction]] = &[
        FOREIGN,
        &[Reaction::Respond("200 OK\r\nx-gateway: 1")],
        &[Reaction::Respond("403 Forbidden\r\nx-gateway: 1")],
        &[Reaction::Respond(
            "429 Too Many\r\nx-gateway: 1\r\nretry-after: 1",
        )],
        // The test protocol states for this status that the server did nothing.
        &[Reaction::Respond("503 Starting\r\nx-gateway: 1")],
    ];
    for gateway in RESPONSES {
        let cluster = Cluster::start(&[gateway, HEALTHY]).await;
        let login = get().non_idempotent();
        let error = cluster.send(login, |config| config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(cluster.requests(), [1, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_login_is_not_hedged() {
    const SLOW: &[Reaction] = &[Reaction::RespondAfter(Duration::from_secs(15), "200 OK")];
    let cluster = Cluster::start(&[SLOW, HEALTHY]).await;
    let login = get().non_idempotent();
    cluster.send(login, |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_zero_in_all_forms_is_not_faster_than_backoff() {
    macro_rules! reactions {
        ($($wait:literal)*) => {
            &[$(
                &[Reaction::Respond(concat!("429 Too Many\r\nretry-after: ", $wait))],
                &[Reaction::Respond(concat!("503 Starting\r\nretry-after: ", $wait))],
                &[Reaction::Respond(concat!("503 Starting\r\nx-gateway: 1\r\nretry-after: ", $wait))],
            )*]
        };
    }
    const UNUSABLE: &[&[Reaction]] =
        reactions!["0" "0.0" "-1" "Wed, 21 Oct 2015 07:28:00 GMT" "soon" ""];
    for reactions in UNUSABLE {
        let cluster = Cluster::start(&[reactions]).await;
        let (started, deadline) = (Instant::now(), Duration::from_secs(5));
        cluster
            .send(get(), |config| config.deadline(deadline))
            .await
            .unwrap_err();
        assert!(cluster.requests()[0] < 25, "{:?}", cluster.requests());
        assert!(started.elapsed() <= deadline);
    }
    // Without a deadline, the number of rounds ends the call.
    let cluster = Cluster::start(&[UNUSABLE[0]]).await;
    let change = |config: ClientConfig| config.deadline(HOUR);
    cluster.send(get(), change).await.unwrap_err();
    assert_eq!(cluster.requests(), [32]);
}

#[tokio::test(start_paused = true)]
async fn rate_limit_of_one_server_does_not_end_the_attempt_at_another_one() {
    const SLOW: &[Reaction] = &[Reaction::RespondAfter(Duration::from_secs(3), "200 OK")];
    const LIMITED: &[Reaction] = &[Reaction::Respond("429 Too Many\r\nretry-after: 60")];
    let cluster = Cluster::start(&[SLOW, LIMITED]).await;
    cluster.send(get(), |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [1, 1]);

    const FAILING: &[Reaction] = &[Reaction::RespondAfter(Duration::from_secs(3), "503 Busy")];
    for slow in [FAILING, HANGING] {
        let cluster = Cluster::start(&[slow, LIMITED]).await;
        let error = cluster.send(get(), |config| config).await.unwrap_err();
        assert_eq!(cluster.requests(), [1, 1]);
        assert_eq!(error.message(), "not now");
    }

    const SHORTLY: &[Reaction] = &[
        Reaction::Respond("429 Too Many\r\nretry-after: 2"),
        Reaction::Respond("200 OK"),
    ];
    let started = Instant::now();
    let cluster = Cluster::start(&[HANGING, SHORTLY]).await;
    cluster.send(get(), |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [1, 2]);
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn foreign_503_with_retry_after_tries_other_addresses_first() {
    const BUSY: &[Reaction] = &[
        Reaction::Respond("503 Busy\r\nx-gateway: 1\r\nretry-after: 7"),
        Reaction::Respond("200 OK"),
    ];
    let started = Instant::now();
    let cluster = Cluster::start(&[BUSY, HEALTHY]).await;
    cluster.send(get(), |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [1, 1]);
    assert!(started.elapsed() < Duration::from_secs(1));

    let started = Instant::now();
    let cluster = Cluster::start(&[BUSY, FOREIGN]).await;
    cluster.send(get(), |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [2, 1]);
    let waited = started.elapsed();
    assert!((7..8).contains(&waited.as_secs()), "{waited:?}");

    let cluster = Cluster::start(&[BUSY]).await;
    let short = |config: ClientConfig| config.deadline(Duration::from_secs(5));
    let error = cluster.send(get(), short).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(cluster.requests(), [1]);
}

#[tokio::test(start_paused = true)]
async fn gateway_beside_a_hanging_server_gets_no_more_requests_than_allowed() {
    let cluster = Cluster::start(&[HANGING, FOREIGN]).await;
    cluster.send(get(), |config| config).await.unwrap_err();
    assert_eq!(cluster.requests(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn slow_server_gets_one_request() {
    const SLOW: &[Reaction] = &[Reaction::RespondAfter(Duration::from_secs(15), "200 OK")];
    let cluster = Cluster::start(&[SLOW]).await;
    cluster.send(get(), |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [1]);
    let cluster = Cluster::start(&[SLOW, SLOW]).await;
    cluster.send(get(), |config| config).await.unwrap();
    assert_eq!(cluster.requests(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn redirect_to_another_program_is_temporary_and_one_to_tls_is_a_configuration_error() {
    const PORTAL: &[Reaction] = &[Reaction::Respond(
        "302 Found\r\nlocation: https://login.example.com/",
    )];
    let cluster = Cluster::start(&[PORTAL]).await;
    let error = cluster.send(get(), |config| config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_temporary() && error.backoff_limit().is_some());
    assert_eq!(cluster.requests(), [3]);

    const UPGRADE: &[Reaction] = &[Reaction::Respond(
        "301 Moved\r\nlocation: https://127.0.0.1:8200/",
    )];
    let cluster = Cluster::start(&[UPGRADE]).await;
    let error = cluster.send(get(), |config| config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert_eq!(cluster.requests(), [1]);
}

#[tokio::test]
async fn last_failure_is_known_until_a_server_responds() {
    const THEN_HANGING: &[Reaction] = &[Reaction::Respond("503 Starting"), Reaction::Hang];
    const THEN_HEALTHY: &[Reaction] = &[
        Reaction::Respond("503 Starting"),
        Reaction::Respond("200 OK"),
    ];
    for (server, is_known) in [(THEN_HANGING, true), (THEN_HEALTHY, false)] {
        let cluster = Cluster::start(&[server]).await;
        let config = ClientConfig::new(&cluster.addresses).unwrap();
        let protocol = TestProtocol::default();
        let client = Client::new(config, protocol, Origin::new("plain", "test")).unwrap();
        let called = Instant::now();
        assert!(client.failure_since(called).is_none());
        let limit = Duration::from_secs(2);
        let _ = tokio::time::timeout(limit, client.send(&get())).await;
        let failure = client.failure_since(called);
        assert_eq!(failure.is_some(), is_known, "{failure:?}");
        assert!(client.failure_since(Instant::now()).is_none());
    }
}

/// A check of the clocks must not be satisfied with a time that the server did not state.
#[tokio::test]
async fn time_of_the_server_is_that_of_a_valid_header() {
    const DATE: &[Reaction] = &[Reaction::Respond(
        "200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT",
    )];
    const MISSING: &[Reaction] = &[Reaction::Respond("200 OK")];
    const INVALID: &[Reaction] = &[Reaction::Respond("200 OK\r\ndate: today")];
    let time = async |reactions| {
        let cluster = Cluster::start(&[reactions]).await;
        cluster.probing_client().server_time("/health").await
    };
    let expected = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(time(DATE).await.unwrap(), expected);
    for reactions in [MISSING, INVALID] {
        let error = time(reactions).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.origin().is_some());
    }
}
