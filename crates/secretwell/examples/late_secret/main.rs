//! The story of the late secret: a service starts before its secret is there, and no harm comes of it.
//!
//! ```text
//! cargo run --example late_secret                            plays the story and exits 0
//! cargo run --example late_secret -- --serve --from env://   serves /me and /login until stopped
//! ```

// An example shows what it does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod service;
mod story;

use std::error::Error;
use std::process::ExitCode;

use secretwell::Resolver;
use secretwell::auth::LazyAuth;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [] => story::play().await,
        ["--serve", "--from", url] => serve(url).await,
        _ => Err("usage: late_secret [--serve --from URL]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("late_secret: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(url: &str) -> Result<(), Box<dyn Error>> {
    let resolver = Resolver::new(secretwell::from_url(url)?);
    let (auth, _) = service::auth(LazyAuth::builder(resolver));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("secrets from {url}");
    println!("curl -c cookies -X POST http://{address}/login");
    println!("curl -b cookies -i http://{address}/me");
    axum::serve(listener, service::router(&auth)).await?;
    Ok(())
}
