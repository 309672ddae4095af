//! A server that runs in this process.

use std::net::{SocketAddr, TcpListener};
use std::thread;

use axum::Router;
use tokio::runtime::Runtime;

/// Starts a server on a new thread and returns its address.
///
/// # Panics
/// Panics if the server cannot listen.
pub fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .set_nonblocking(true)
        .expect("the socket is non-blocking");
    let address = listener.local_addr().expect("the address is known");
    thread::spawn(move || {
        Runtime::new().expect("the runtime starts").block_on(async {
            let listener =
                tokio::net::TcpListener::from_std(listener).expect("the listener is registered");
            axum::serve(listener, router).await
        })
    });
    address
}
