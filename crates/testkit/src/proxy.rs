//! A proxy that breaks what passes through it, on command.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The largest request head.
const MAX_HEAD: usize = 64 << 10;

/// What a [`FaultProxy`] does to a request.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the server answers.
    #[default]
    None,
    /// Breaks off the connection before it answers.
    Cut,
    /// Resets the connection before it answers, so that the client is told of an error and not of an end.
    Reset,
    /// Accepts the request and never answers.
    Stall,
    /// Answers after this long.
    Delay(Duration),
    /// Answers itself, with these bytes, and closes.
    Respond(Vec<u8>),
    /// Passes on this many bytes of the answer, and breaks off.
    Truncate(usize),
    /// Passes the answer on, a byte at a time with this pause between them.
    Drip(Duration),
    /// Begins an answer that never ends.
    Endless,
}

/// Stands before a server that speaks plain HTTP/1.1 on this machine, counts the requests, and does to
/// them what it is told to. One connection carries one request. Ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    fault: Mutex<Fault>,
    requests: Mutex<Vec<String>>,
}

impl FaultProxy {
    /// Starts one before `upstream`, on a free port of the loopback.
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
                    // A connection that breaks is what this is for.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does to the requests from now on.
    pub fn set(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// The requests so far, each like `GET /v1/secret`; those that a fault kept from the server too.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests there were whose line begins like this.
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
    lock(&shared.requests).push(line);
    let fault = lock(&shared.fault).clone();
    match &fault {
        Fault::Cut => return Ok(()),
        Fault::Reset => return client.set_zero_linger(),
        Fault::Stall => std::future::pending().await,
        Fault::Delay(time) => tokio::time::sleep(*time).await,
        Fault::Respond(bytes) => {
            client.write_all(bytes).await?;
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
    server.write_all(&closing(request)).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    match fault {
        Fault::Truncate(length) => {
            client
                .write_all(&answer[..length.min(answer.len())])
                .await?
        }
        Fault::Drip(pause) => {
            for byte in answer {
                client.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        _ => client.write_all(&answer).await?,
    }
    client.shutdown().await
}

/// A whole request: its head, and a body of the length that the head says.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let end = loop {
        if let Some(end) = find(&request, b"\r\n\r\n") {
            break end + 4;
        }
        let got = client.read_buf(&mut request).await?;
        if got == 0 || request.len() > MAX_HEAD {
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

/// The request, with the wish that the connection be closed behind the answer.
fn closing(request: Vec<u8>) -> Vec<u8> {
    let line = find(&request, b"\r\n").map_or(0, |end| end + 2);
    let (first, rest) = request.split_at(line);
    [first, b"connection: close\r\n", rest].concat()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
