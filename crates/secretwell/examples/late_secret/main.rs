//! A service that starts before its secret exists, keeps its users logged in through a rotation, and rejects
//! a revoked secret.
//!
//! ```text
//! cargo run --example late_secret                            runs the scenario and exits with 0
//! cargo run --example late_secret -- --with better-auth      uses the sessions of Better Auth, not Auth.js
//! cargo run --example late_secret -- --serve --from env://   serves /me and /login until stopped
//! ```

// The example prints its steps.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod authjs;
mod better_auth;
mod scenario;
mod service;

use std::error::Error;
use std::process::ExitCode;

use secretwell::Resolver;
use secretwell::auth::LazyAuth;
use tokio::net::TcpListener;

use authjs::AuthJs;
use better_auth::BetterAuth;
use service::Library;

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
    let result = match arguments[..] {
        ["--with", "better-auth", ref rest @ ..] => run::<BetterAuth>(rest).await,
        ["--with", "authjs", ref rest @ ..] => run::<AuthJs>(rest).await,
        ref all => run::<AuthJs>(all).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("late_secret: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run<L: Library>(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        [] => scenario::run::<L>().await,
        ["--serve", "--from", url] => serve::<L>(url).await,
        _ => Err("usage: late_secret [--with authjs|better-auth] [--serve --from URL]".into()),
    }
}

async fn serve<L: Library>(url: &str) -> Result<(), Box<dyn Error>> {
    let resolver = Resolver::new(secretwell::from_url(url)?);
    let (auth, _) = service::auth::<L>(LazyAuth::builder(resolver));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("reading `{}` from {url}; try:", L::KEY);
    println!("curl -c cookies -X POST http://{address}/login");
    println!("curl -b cookies -i http://{address}/me");
    axum::serve(listener, service::router::<L>(&auth)).await?;
    Ok(())
}
