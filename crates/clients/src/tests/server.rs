//! A server that speaks the part of PostgreSQL's protocol that the pools need. Tests decide which passwords it accepts
//! and when a login continues.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::within_limit;

/// The SQLSTATE of a wrong password.
pub(crate) const WRONG_PASSWORD: &str = "28P01";

/// What happens on the server.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log {
    /// The passwords of all attempts, in order.
    pub(crate) attempts: Vec<String>,
    /// The passwords of the sessions that are open.
    pub(crate) open: Vec<String>,
    /// The number of queries.
    pub(crate) queries: usize,
}

/// What the server does. Sessions follow changes.
#[derive(Debug, Default)]
struct Orders {
    /// The SQLSTATE for each rejected password.
    rejected: Vec<(String, &'static str)>,
    holds_logins: bool,
    /// The number of orders to end all sessions.
    terminations: usize,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    orders: Arc<watch::Sender<Orders>>,
    log: Arc<watch::Sender<Log>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            orders: Arc::new(watch::Sender::default()),
            log: Arc::new(watch::Sender::default()),
        };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    /// Rejects logins with `password`, with this SQLSTATE.
    pub(crate) fn reject(&self, password: &str, code: &'static str) {
        let rejected = (password.to_owned(), code);
        self.orders
            .send_modify(|orders| orders.rejected.push(rejected));
    }

    /// Lets logins wait until [`continue_logins`](Self::continue_logins), after the password was sent.
    pub(crate) fn hold_logins(&self) {
        self.orders.send_modify(|orders| orders.holds_logins = true);
    }

    pub(crate) fn continue_logins(&self) {
        self.orders
            .send_modify(|orders| orders.holds_logins = false);
    }

    /// Ends all sessions.
    pub(crate) fn terminate(&self) {
        self.orders.send_modify(|orders| orders.terminations += 1);
    }

    pub(crate) fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    pub(crate) fn attempts(&self) -> Vec<String> {
        self.log().attempts
    }

    /// Waits until `condition` is true.
    pub(crate) async fn until(&self, condition: impl Fn(&Log) -> bool) {
        let mut log = self.log.subscribe();
        let reached = within_limit(log.wait_for(condition)).await.is_some();
        assert!(reached, "{:?}", self.log());
    }

    /// Waits until the open sessions have exactly these passwords.
    pub(crate) async fn until_open(&self, passwords: &[&str]) {
        self.until(|log| log.open == passwords).await;
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut orders = self.orders.subscribe();
        read_startup(&mut stream).await?;
        stream.write_all(b"R\0\0\0\x08\0\0\0\x03").await.ok()?;
        let (_, password) = read_message(&mut stream).await?;
        let password = text(&password);
        self.log
            .send_modify(|log| log.attempts.push(password.clone()));
        orders.wait_for(|orders| !orders.holds_logins).await.ok()?;
        let rejection = {
            let orders = orders.borrow();
            let mut rejected = orders.rejected.iter();
            rejected.find(|(other, _)| *other == password).cloned()
        };
        if let Some((_, code)) = rejection {
            let fields = format!("SFATAL\0VFATAL\0C{code}\0Mthe login is rejected\0\0");
            stream
                .write_all(&message(b'E', fields.as_bytes()))
                .await
                .ok()?;
            return None;
        }
        self.log.send_modify(|log| log.open.push(password.clone()));
        let terminations = orders.borrow().terminations;
        tokio::select! {
            _ = answer(&mut stream, &self.log) => {}
            _ = orders.wait_for(|orders| orders.terminations > terminations) => {}
        }
        drop(stream);
        self.log.send_modify(|log| {
            let closed = log.open.iter().position(|open| *open == password);
            log.open.remove(closed.unwrap());
        });
        None
    }
}

/// Completes the login, and responds to queries until the client leaves. They have no results.
async fn answer(stream: &mut TcpStream, log: &watch::Sender<Log>) -> Option<()> {
    let mut login = message(b'R', &[0; 4]);
    login.extend(message(b'K', &[0; 8]));
    login.extend(message(b'Z', b"I"));
    stream.write_all(&login).await.ok()?;
    let mut status = b'I';
    loop {
        let (kind, body) = read_message(stream).await?;
        let mut response = Vec::new();
        match kind {
            b'Q' => {
                log.send_modify(|log| log.queries += 1);
                match &*text(&body) {
                    "BEGIN" => status = b'T',
                    "COMMIT" | "ROLLBACK" => status = b'I',
                    _ => {}
                }
                response.extend(message(b'C', b"SELECT 0\0"));
                response.extend(message(b'Z', &[status]));
            }
            b'S' => response.extend(message(b'Z', &[status])),
            b'X' => return None,
            other => panic!("unexpected message {}", char::from(other)),
        }
        stream.write_all(&response).await.ok()?;
    }
}

/// Reads the startup message, and refuses TLS.
async fn read_startup(stream: &mut TcpStream) -> Option<()> {
    const TLS: u32 = 80_877_103;
    loop {
        let length = stream.read_u32().await.ok()?;
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await.ok()?;
        if body != TLS.to_be_bytes() {
            return Some(());
        }
        stream.write_all(b"N").await.ok()?;
    }
}

async fn read_message(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// Returns the text of a body that ends with a zero byte.
fn text(body: &[u8]) -> String {
    let body = body.strip_suffix(b"\0").unwrap_or(body);
    String::from_utf8(body.to_vec()).unwrap()
}
