//! Cold start: the time from the start of a process to its first authenticated response.
//!
//! The process is a service that reads `AUTH_SECRET` from variables, a file, Vault or Infisical. It builds its
//! sessions lazily, at the first request, or eagerly, before it listens. The servers run in this process and
//! respond from memory. Each pair of starts runs one after the other, lazy and eager in turns.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::routing::{get, post};
use axum::{Json, Router};
use secretwell::Resolver;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SecretOrder, Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, BuildContext, KeyRing, LazyAuth};
use secretwell_bench::fakes::{
    PROJECT, infisical_list, infisical_login, vault_secret, vault_token,
};
use secretwell_bench::server::serve;
use secretwell_bench::turns::{Turns, Unit};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;

const PAIRS: usize = 200;
const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const MODES: [&str; 2] = ["lazy", "eager"];
/// The variables of the service. The first one has the URL of the source.
const SOURCE: &str = "SECRETWELL_COLD_SOURCE";
const MODE: &str = "SECRETWELL_COLD_MODE";

fn main() {
    match env::var(SOURCE) {
        Ok(source) => Runtime::new()
            .expect("the runtime starts")
            .block_on(run_service(&source)),
        Err(_) => measure(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the key ring reads it")]
    auth_secret: secretwell::SecretString,
}

async fn name(Auth(session): Auth<Session<serde_json::Value>>) -> String {
    session.claims["name"].to_string()
}

/// Serves until the process is killed. Prints its port when it listens.
async fn run_service(source: &str) {
    let provider = secretwell::from_url(source).expect("the URL is valid");
    let auth = LazyAuth::new(
        Resolver::new(provider),
        |_: Secrets, context: BuildContext| async move {
            let ring = SecretOrder::AuthCore.key_ring(&context)?;
            Ok(Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?)
        },
    );
    if env::var(MODE).is_ok_and(|mode| mode == "eager") {
        auth.get().await.expect("the first build succeeds");
    }
    let router = Router::new()
        .route("/", get(name))
        .layer(auth.session_layer());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("the address is known");
    println!("{}", address.port());
    axum::serve(listener, router)
        .await
        .expect("the service runs");
}

fn measure() {
    let folder = env::temp_dir().join(format!("secretwell-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder is created");
    fs::write(folder.join("AUTH_SECRET"), SECRET).expect("the secret is written");
    let servers = serve(servers());
    let sources = [
        ("env", "env://".to_owned()),
        ("file", format!("file://{}", folder.display())),
        ("vault", format!("vault+http://{servers}/secret/app?kv=2")),
        (
            "infisical",
            format!("infisical+http://{servers}/{PROJECT}/dev?api=3&client_id=id"),
        ),
    ];
    let cookie = cookie();
    for (backend, source) in sources {
        let mut turns = Turns::new(PAIRS, Duration::ZERO);
        for mode in MODES {
            let (source, cookie) = (&source, &cookie);
            turns.add(mode, move |_| {
                let mut command = Command::new(env::current_exe().expect("the path is known"));
                command.env(SOURCE, source).env(MODE, mode);
                match backend {
                    "env" => command.env("AUTH_SECRET", SECRET),
                    "vault" => command.env("VAULT_TOKEN", "token"),
                    "infisical" => command.env("INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET", "secret"),
                    _ => &mut command,
                };
                first_response(command, cookie)
            });
        }
        let times = turns.measure();
        times.report(&format!("cold_{backend}"), Unit::Milliseconds);
        let figure = format!("cold_{backend}_lazy_minus_eager_ms");
        times.report_difference(&figure, "lazy", "eager", Unit::Milliseconds);
    }
    let _ = fs::remove_dir_all(folder);
}

/// Returns the routes of Vault and of Infisical.
fn servers() -> Router {
    let fields = || json!({"AUTH_SECRET": SECRET});
    let list = || infisical_list(["AUTH_SECRET".to_owned()].into_iter(), SECRET);
    Router::new()
        .route("/v1/auth/token/lookup-self", get(vault_token))
        .route(
            "/v1/secret/data/app",
            get(move || async move { vault_secret(fields()) }),
        )
        .route("/api/v1/auth/universal-auth/login", post(infisical_login))
        .route(
            "/api/v3/secrets/raw",
            get(move || async move { Json(list()) }),
        )
}

/// Returns the cookie of a session.
fn cookie() -> String {
    let ring = KeyRing::new(SECRET).expect("the secret is not empty");
    let sessions =
        Sessions::new(SessionCookie::v5(Scheme::Http), &ring).expect("the keys are derived");
    let set = sessions
        .start(&json!({"name": "Ada Lovelace"}), "")
        .expect("the session starts");
    set[0].split(';').next().unwrap_or_default().to_owned()
}

/// A process that is killed on drop.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the service, and returns the time until its complete response.
fn first_response(mut command: Command, cookie: &str) -> Duration {
    let started = Instant::now();
    let child = command.stdout(Stdio::piped()).spawn();
    let mut service = Service(child.expect("the service starts"));
    let output = service.0.stdout.take().expect("the output is a pipe");
    let mut port = String::new();
    BufReader::new(output)
        .read_line(&mut port)
        .expect("the service prints its port");
    let mut stream =
        TcpStream::connect(format!("127.0.0.1:{}", port.trim())).expect("the service listens");
    let request = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .expect("the request is sent");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .expect("the response is complete");
    let time = started.elapsed();
    assert!(response.contains("Ada Lovelace"), "{response}");
    time
}
