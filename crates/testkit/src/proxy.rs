//! An HTTP proxy that injects faults on command.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::ForeignResponse;

/// The size limit of a request head, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// The fault that a [`FaultProxy`] injects into each request.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Fault {
    /// No fault: the request and the response are forwarded.
    #[default]
    None,
    /// Closes the connection without a response.
    Close,
    /// Resets the connection without a response. The client sees an error, not an end of the stream.
    Reset,
    /// Accepts the request and never responds.
    Stall,
    /// Forwards the request after this time.
    Delay(Duration),
    /// Responds with these bytes and closes the connection. The server does not receive the request.
    Respond(Vec<u8>),
    /// Responds like another program in front of the server. The server does not receive the request.
    Foreign(ForeignResponse),
    /// Forwards this many bytes of the response and closes the connection.
    Truncate(usize),
    /// Forwards the response byte by byte, with this pause after each byte.
    Drip(Duration),
    /// Sends a response whose body never ends. The server does not receive the request.
    Endless,
}

/// A proxy for a plain HTTP/1.1 server on this machine. It records requests and injects a [`Fault`].
///
/// Each connection carries one request. The proxy stops when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The fault, and the start of the lines of the requests that have it.
    fault: Mutex<(String, Fault)>,
    requests: Mutex<Vec<String>>,
}

impl FaultProxy {
    /// Starts a proxy for `upstream` on a free port of the loopback interface.
    ///
    /// # Panics
    /// Panics if no port can be bound.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let accept = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                let shared = accept.clone();
                connections.spawn(async move {
                    // Broken connections are expected here.
                    let _ = serve(client, upstream, &shared).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    /// Returns the address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault for all requests from now on.
    pub fn set(&self, fault: Fault) {
        self.set_for("", fault);
    }

    /// Sets the fault for all requests from now on whose line starts with `start`, such as
    /// `POST /v1/auth/`. Other requests have no fault.
    pub fn set_for(&self, start: &str, fault: Fault) {
        *lock(&self.shared.fault) = (start.to_owned(), fault);
    }

    /// Returns the request lines so far, such as `GET /v1/secret`. They include requests that a fault
    /// kept from the server.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }

    /// Returns the number of requests whose line starts with `start`.
    pub fn count(&self, start: &str) -> usize {
        let requests = lock(&self.shared.requests);
        requests
            .iter()
            .filter(|line| line.starts_with(start))
            .count()
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    shared: &Shared,
) -> std::io::Result<()> {
    let request = read_request(&mut client).await?;
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line).replace(" HTTP/1.1", "");
    let fault = match &*lock(&shared.fault) {
        (start, fault) if line.starts_with(start.as_str()) => fault.clone(),
        _ => Fault::None,
    };
    lock(&shared.requests).push(line);
    match &fault {
        Fault::Close => return Ok(()),
        Fault::Reset => return client.set_zero_linger(),
        Fault::Stall => std::future::pending().await,
        Fault::Delay(time) => tokio::time::sleep(*time).await,
        Fault::Respond(bytes) => {
            client.write_all(bytes).await?;
            return client.shutdown().await;
        }
        Fault::Foreign(response) => {
            client.write_all(&response.to_bytes()).await?;
            return client.shutdown().await;
        }
        Fault::Endless => {
            client
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":\"")
                .await?;
            loop {
                client.write_all(&[b'x'; 16 << 10]).await?;
            }
        }
        _ => {}
    }

    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&with_connection_close(request)).await?;
    let mut response = Vec::new();
    server.read_to_end(&mut response).await?;
    match fault {
        Fault::Truncate(length) => {
            client
                .write_all(&response[..length.min(response.len())])
                .await?
        }
        Fault::Drip(pause) => {
            for byte in response {
                client.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        _ => client.write_all(&response).await?,
    }
    client.shutdown().await
}

/// Reads one request: the head, and a body as long as its `content-length`.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let end = loop {
        if let Some(end) = find(&request, b"\r\n\r\n") {
            break end + 4;
        }
        let count = client.read_buf(&mut request).await?;
        if count == 0 || request.len() > MAX_HEAD {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    while request.len() < end + length {
        if client.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(request)
}

/// Adds `connection: close` to a request, so that the server closes the connection after its response.
fn with_connection_close(request: Vec<u8>) -> Vec<u8> {
    let line = find(&request, b"\r\n").map_or(0, |end| end + 2);
    let (first, rest) = request.split_at(line);
    [first, b"connection: close\r\n", rest].concat()
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
