use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use rustls::crypto::aws_lc_rs;
use secretwell_core::{ErrorKind, Origin};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::send::SendLoop;
use crate::{Outcome, Protocol};

mod handshake;
mod hostile;
mod names;
mod proxy;

/// Every response is a success.
#[derive(Debug)]
pub(crate) struct AnyResponse;

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

async fn send(servers: &Servers, request: &Request) -> Result<Response, Error> {
    let origin = Origin::new("plain", "test");
    let deadline = Instant::now() + servers.config().deadline;
    SendLoop::new(servers, &AnyResponse, &origin, request, deadline)
        .run()
        .await
}

fn get() -> Request {
    Request::new(Method::GET, "/")
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a TLS server for a new certificate, and that certificate as PEM.
fn tls_server(name: &str, protocol: &[u8]) -> (TlsAcceptor, String) {
    let identity = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = identity.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    (Arc::new(config).into(), identity.cert.pem())
}

/// Accepts connections on `listener` and serves each with `serve`. Returns the number of connections.
fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            open.spawn(serve(stream));
        }
    });
    connections
}

async fn bind(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads the head of a request or the end of the stream.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Responds to `limit` HTTP/1.1 requests with the status 200, and then remains silent.
async fn serve_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, limit: usize) {
    for _ in 0..limit {
        if read_head(&mut stream).await.is_none() {
            return;
        }
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(response).await.unwrap();
    }
    std::future::pending().await
}

/// Responds to `limit` HTTP/2 requests with the status 200, and then remains silent.
async fn serve_http2(mut stream: impl AsyncRead + AsyncWrite + Unpin, limit: usize) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let frame = |kind, flags, stream: [u8; 4], payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags], &stream[..], payload].concat()
    };
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

/// Sends five requests to a server whose connections become silent after two responses. Each must succeed
/// within 10 s.
async fn assert_silent_connections_are_replaced(servers: Servers) {
    let mut durations = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        send(&servers, &get()).await.unwrap();
        durations.push(started.elapsed());
    }
    let is_silent = durations.iter().map(|took| *took > secs(3));
    assert!(
        is_silent.eq([false, false, true, false, true]),
        "{durations:?}"
    );
    assert!(durations.iter().all(|took| *took < secs(10)));
}

#[tokio::test(start_paused = true)]
async fn silent_http2_connection_is_replaced_within_ten_seconds() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let (acceptor, pem) = tls_server("127.0.0.1", b"h2");
    accept(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move { serve_http2(acceptor.accept(stream).await.unwrap(), 2).await }
    });
    let config = ClientConfig::new([format!("https://{address}")]).unwrap();
    let servers = Servers::new(config.certificate_authority(pem)).unwrap();
    assert_silent_connections_are_replaced(servers).await;
}

#[tokio::test(start_paused = true)]
async fn silent_http1_connection_is_replaced_within_ten_seconds() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let (acceptor, pem) = tls_server("127.0.0.1", b"http/1.1");
    accept(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move { serve_http1(acceptor.accept(stream).await.unwrap(), 2).await }
    });
    let config = ClientConfig::new([format!("https://{address}")]).unwrap();
    let servers = Servers::new(config.certificate_authority(pem)).unwrap();
    assert_silent_connections_are_replaced(servers).await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_on_silent_http1_connections_all_recover() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, 1));
    let config = ClientConfig::new([format!("http://{address}")]).unwrap();
    let servers = Servers::new(config).unwrap();
    let request = get();
    // Each round uses the connections of the round before it.
    for _ in 0..3 {
        let started = Instant::now();
        let [first, second, third] = [(); 3].map(|()| send(&servers, &request));
        let results = tokio::join!(first, second, third);
        assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok());
        assert!(started.elapsed() < secs(10));
    }
}

#[tokio::test(start_paused = true)]
async fn silent_connection_beside_another_address_is_replaced() {
    let (silent, silent_address) = bind("127.0.0.1:0").await;
    let (other, other_address) = bind("127.0.0.1:0").await;
    let silent = accept(silent, |stream| serve_http1(stream, 1));
    accept(other, |stream| serve_http1(stream, usize::MAX));
    let addresses = [silent_address, other_address].map(|address| format!("http://{address}"));
    let servers = Servers::new(ClientConfig::new(addresses).unwrap()).unwrap();
    for _ in 0..2 {
        send(&servers, &get()).await.unwrap();
    }
    let mut order = servers.order().into_iter();
    let first = order.find(|endpoint| endpoint.index() == 0).unwrap();
    assert!(first.failed_recently());
    // The pooled connection is not used again.
    let (now, limit) = (Instant::now(), Duration::from_secs(1));
    let result = first.exchange(&get(), false, now, now + limit).await;
    let response = result.unwrap();
    response.unwrap();
    assert_eq!(silent.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn slow_server_on_a_reused_connection_responds_once_more_at_most() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let connections = accept(listener, |mut stream| async move {
        let mut requests = 0;
        while read_head(&mut stream).await.is_some() {
            requests += 1;
            if requests > 1 {
                sleep(secs(15)).await;
            }
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(response).await.unwrap();
        }
    });
    let config = ClientConfig::new([format!("http://{address}")]).unwrap();
    let servers = Servers::new(config).unwrap();
    for _ in 0..2 {
        send(&servers, &get()).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn request_that_must_not_be_repeated_uses_a_new_connection_after_a_pause() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, 1));
    let config = ClientConfig::new([format!("http://{address}")]).unwrap();
    let servers = Servers::new(config).unwrap();
    send(&servers, &get()).await.unwrap();
    sleep(secs(4)).await;
    let started = Instant::now();
    send(&servers, &get().non_idempotent()).await.unwrap();
    assert!(started.elapsed() < secs(1));
}

/// A name service that returns these addresses until they are changed.
fn name_service(addresses: &Arc<Mutex<Vec<SocketAddr>>>) -> NameService {
    let addresses = Arc::clone(addresses);
    Arc::new(move |name, _| {
        assert_eq!(name, "vault.internal");
        let addresses = addresses.lock().unwrap().clone();
        Box::pin(async move {
            match addresses.is_empty() {
                true => Err(io::ErrorKind::NotFound.into()),
                false => Ok(addresses),
            }
        })
    })
}

fn servers_of_a_name(port: u16, addresses: &Arc<Mutex<Vec<SocketAddr>>>) -> Servers {
    let config = ClientConfig::new([format!("http://vault.internal:{port}")]).unwrap();
    Servers::with_name_service(config.danger_allow_http(), name_service(addresses)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_address_of_a_name_is_tried() {
    let (hanging, first) = bind("127.0.0.1:0").await;
    let (good, second) = bind(&format!("127.0.0.2:{}", first.port())).await;
    accept(hanging, |stream| serve_http1(stream, 0));
    accept(good, |stream| serve_http1(stream, usize::MAX));
    let addresses = Arc::new(Mutex::new(vec![first, first, second]));
    let servers = servers_of_a_name(first.port(), &addresses);
    for expected in [secs(1), secs(0)] {
        let started = Instant::now();
        send(&servers, &get()).await.unwrap();
        let took = started.elapsed();
        assert!(took >= expected && took < expected + secs(1), "{took:?}");
    }
    assert_eq!(servers.order().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn changed_addresses_are_used() {
    let (first_listener, first) = bind("127.0.0.1:0").await;
    let (second_listener, second) = bind(&format!("127.0.0.2:{}", first.port())).await;
    let first_count = accept(first_listener, |stream| serve_http1(stream, usize::MAX));
    let second_count = accept(second_listener, |stream| serve_http1(stream, usize::MAX));
    let addresses = Arc::new(Mutex::new(vec![first]));
    let servers = servers_of_a_name(first.port(), &addresses);
    send(&servers, &get()).await.unwrap();
    // A changed name is used after 10 s. The request that notices it does not wait for the name service.
    *addresses.lock().unwrap() = vec![second];
    send(&servers, &get()).await.unwrap();
    sleep(secs(10)).await;
    assert_eq!(second_count.load(Ordering::SeqCst), 0);
    send(&servers, &get()).await.unwrap();
    send(&servers, &get()).await.unwrap();
    assert_eq!(second_count.load(Ordering::SeqCst), 1);
    assert_eq!(first_count.load(Ordering::SeqCst), 1);
    // The addresses remain if the name service fails, and the connections with them.
    addresses.lock().unwrap().clear();
    sleep(secs(10)).await;
    send(&servers, &get()).await.unwrap();
    assert_eq!(second_count.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn name_is_looked_up_again_after_a_failed_round() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, usize::MAX));
    let closed = SocketAddr::new("127.0.0.3".parse().unwrap(), address.port());
    let addresses = Arc::new(Mutex::new(vec![closed]));
    let servers = servers_of_a_name(address.port(), &addresses);
    let started = Instant::now();
    let changed = async {
        sleep(secs(2)).await;
        *addresses.lock().unwrap() = vec![address];
    };
    let request = get();
    let (response, ()) = tokio::join!(send(&servers, &request), changed);
    response.unwrap();
    assert!(started.elapsed() < secs(5));
}

#[tokio::test(start_paused = true)]
async fn unknown_name_is_reported_and_used_as_soon_as_it_exists() {
    let addresses = Arc::default();
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, usize::MAX));
    let servers = servers_of_a_name(address.port(), &addresses);
    let error = send(&servers, &get()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_temporary());
    let expected = format!(
        "vault.internal:{}` cannot be reached: its name",
        address.port()
    );
    assert!(error.to_string().contains(&expected), "{error}");
    *addresses.lock().unwrap() = vec![address];
    sleep(secs(1)).await;
    send(&servers, &get()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_name_service_is_awaited_only_without_an_address() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, usize::MAX));
    let names: NameService = Arc::new(move |_, _| {
        Box::pin(async move {
            sleep(secs(5)).await;
            Ok(vec![address])
        })
    });
    let config = ClientConfig::new([format!("http://vault.internal:{}", address.port())]).unwrap();
    let servers = Servers::with_name_service(config.danger_allow_http(), names).unwrap();
    let mut durations = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        send(&servers, &get()).await.unwrap();
        durations.push(started.elapsed());
        sleep(secs(11)).await;
    }
    assert!(durations[0] >= secs(5), "{durations:?}");
    assert!(
        durations[1..].iter().all(|took| *took <= secs(2)),
        "{durations:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn impatient_caller_does_not_end_a_slow_lookup() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, usize::MAX));
    let lookups = Arc::new(AtomicUsize::new(0));
    let count = lookups.clone();
    let names: NameService = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            sleep(secs(5)).await;
            Ok(vec![address])
        })
    });
    let config = ClientConfig::new([format!("http://vault.internal:{}", address.port())]).unwrap();
    let servers = Servers::with_name_service(config.danger_allow_http(), names).unwrap();
    let request = get();
    let mut failures = 0;
    while tokio::time::timeout(secs(1), send(&servers, &request))
        .await
        .is_err()
    {
        failures += 1;
    }
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    assert!((4..=6).contains(&failures), "{failures}");
}

#[tokio::test(start_paused = true)]
async fn name_that_cannot_be_looked_up_does_not_delay_another_server() {
    let (listener, address) = bind("127.0.0.1:0").await;
    accept(listener, |stream| serve_http1(stream, usize::MAX));
    let names: NameService = Arc::new(move |name, _| {
        Box::pin(async move {
            if name == "hanging.internal" {
                std::future::pending::<()>().await;
            }
            Ok(vec![address])
        })
    });
    let port = address.port();
    let addresses = ["hanging", "vault"].map(|name| format!("http://{name}.internal:{port}"));
    let config = ClientConfig::new(addresses).unwrap();
    let servers = Servers::with_name_service(config.danger_allow_http(), names).unwrap();
    let mut durations = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        send(&servers, &get()).await.unwrap();
        durations.push(started.elapsed());
        sleep(secs(6)).await;
    }
    assert!(durations[0] <= secs(2), "{durations:?}");
    assert!(
        durations[1..].iter().all(Duration::is_zero),
        "{durations:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn hung_server_does_not_exhaust_sockets() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let connections = accept(listener, |stream| serve_http1(stream, 0));
    let config = ClientConfig::new([format!("http://{address}")]).unwrap();
    let servers = Arc::new(Servers::new(config).unwrap());
    let mut calls = JoinSet::new();
    for _ in 0..64 + 1024 + 10 {
        let servers = Arc::clone(&servers);
        calls.spawn(async move {
            let started = Instant::now();
            let error = send(&servers, &get()).await.unwrap_err();
            (error, started.elapsed())
        });
    }
    let mut counts = [0; 3];
    while let Some(result) = calls.join_next().await {
        let (error, took) = result.unwrap();
        let text = error.to_string();
        let (index, kind) = match text {
            _ if text.contains("1024 requests are already waiting") => (0, ErrorKind::Unavailable),
            _ if text.contains("64 requests to it are already under way") => {
                (1, ErrorKind::Timeout)
            }
            _ => (2, ErrorKind::Timeout),
        };
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(took < secs(1), index == 0, "{text}: {took:?}");
        counts[index] += 1;
    }
    assert_eq!(counts, [10, 1024, 64]);
    assert_eq!(connections.load(Ordering::SeqCst), 64);
}

#[tokio::test]
async fn broken_exchange_over_tls_costs_no_extra_handshake() {
    let (listener, address) = bind("127.0.0.1:0").await;
    let (acceptor, pem) = tls_server("127.0.0.1", b"http/1.1");
    let connections = accept(listener, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_head(&mut stream).await;
        }
    });
    let config = ClientConfig::new([format!("https://{address}")]).unwrap();
    let servers = Servers::new(config.certificate_authority(pem)).unwrap();
    for sent in 1..5 {
        let error = send(&servers, &get().non_idempotent()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(connections.load(Ordering::SeqCst), sent);
    }
}

/// Redirects each request to `target`, and returns the number of requests.
async fn redirecting(listener: TcpListener, target: SocketAddr) -> Arc<AtomicUsize> {
    accept(listener, move |mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            let response = format!(
                "HTTP/1.1 307 Redirect\r\nlocation: http://{target}/\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
            );
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    })
}

#[tokio::test]
async fn target_of_a_redirect_is_preferred_and_has_its_own_limit() {
    let (active, target) = bind("127.0.0.1:0").await;
    let (standby, address) = bind("127.0.0.1:0").await;
    accept(active, |stream| serve_http1(stream, usize::MAX));
    let redirects = redirecting(standby, target).await;
    let addresses = [address, target].map(|address| format!("http://{address}"));
    let config = ClientConfig::new(addresses).unwrap();
    let servers = Servers::new(config.max_concurrent_requests(1)).unwrap();
    send(&servers, &get()).await.unwrap();
    send(&servers, &get()).await.unwrap();
    assert_eq!(redirects.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn server_that_redirects_to_itself_does_not_block_itself() {
    let (listener, address) = bind("127.0.0.1:0").await;
    redirecting(listener, address).await;
    let config = ClientConfig::new([format!("http://{address}")]).unwrap();
    let config = config.max_concurrent_requests(1).deadline(secs(5));
    let response = send(&Servers::new(config).unwrap(), &get()).await.unwrap();
    assert_eq!(response.status.as_u16(), 307);
}

#[tokio::test]
async fn failed_target_of_a_redirect_is_named() {
    let (closed, target) = bind("127.0.0.1:0").await;
    drop(closed);
    let (standby, address) = bind("127.0.0.1:0").await;
    redirecting(standby, target).await;
    let addresses = [target, address].map(|address| format!("http://{address}"));
    let config = ClientConfig::new(addresses).unwrap().deadline(secs(1));
    let servers = Servers::new(config).unwrap();
    let error = send(&servers, &get()).await.unwrap_err();
    assert!(error.to_string().contains(&target.to_string()), "{error}");
}
