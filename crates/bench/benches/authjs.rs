//! Benchmarks of Auth.js session tokens and of routes that require a session.
//!
//! `@auth/core` in Node decodes and encodes the same token for comparison. With
//! `RUSTFLAGS="--cfg josekit"`, josekit decrypts it as well, with a key derived in advance. josekit needs
//! OpenSSL.

mod measure;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use criterion::{Criterion, criterion_group, criterion_main};
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{
    SecretOrder, Session, SessionCookie, SessionTokens, Sessions,
};
use secretwell::auth::{Auth, BuildContext, KeyRing, LazyAuth};
use secretwell::{MemoryProvider, Resolver, SecretString};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tower_service::Service;

use measure::measure;

const SALT: &str = "authjs.session-token";
const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Serialize, Deserialize)]
struct User {
    sub: String,
    name: String,
    email: String,
    picture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the key ring reads it")]
    auth_secret: SecretString,
}

fn ada() -> User {
    User {
        sub: "00000000-0000-4000-8000-000000000001".into(),
        name: "Ada Lovelace".into(),
        email: "ada@example.com".into(),
        picture: "https://example.com/pictures/ada-lovelace.png".into(),
    }
}

fn tokens(criterion: &mut Criterion) {
    let ring = KeyRing::new(SECRET).expect("the secret is not empty");
    let tokens = SessionTokens::v5(SALT, &ring).expect("the keys are derived");
    let ada = ada();
    let token = tokens.encode(&ada, HOUR).expect("the token is encoded");
    measure_auth_core(&token);
    let mut group = criterion.benchmark_group("token");
    measure!(
        group,
        "secretwell decode",
        tokens.decode::<User>(&token).is_ok()
    );
    measure!(
        group,
        "secretwell encode",
        tokens.encode(&ada, HOUR).is_ok()
    );
    #[cfg(josekit)]
    {
        let decrypter = peer::decrypter();
        measure!(group, "josekit decode", peer::decode(&token, &decrypter));
    }
    group.finish();
}

/// Runs the same operations with `@auth/core` in Node and prints their times. The package is installed by
/// `cargo xtask bench authjs`.
fn measure_auth_core(token: &str) {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/clients");
    let output = Command::new("node")
        .arg(clients.join("bench.mjs"))
        .env("TOKEN", token)
        .env("SECRET", SECRET)
        .env("SALT", SALT)
        .output();
    match output {
        Ok(output) if output.status.success() => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                println!("@auth/core {line} ns");
            }
        }
        _ => println!("@auth/core is not installed: run `cargo xtask bench authjs`"),
    }
}

/// Decryption as an application does it with josekit.
#[cfg(josekit)]
mod peer {
    use josekit::jwe::alg::direct::DirectJweDecrypter;
    use josekit::jwe::{self, Dir};

    use super::{SALT, SECRET, User};

    pub(super) fn decrypter() -> DirectJweDecrypter {
        let mut key = [0; 64];
        let info = format!("Auth.js Generated Encryption Key ({SALT})");
        hkdf::Hkdf::<sha2::Sha256>::new(Some(SALT.as_bytes()), SECRET.as_bytes())
            .expand(info.as_bytes(), &mut key)
            .expect("the derived key");
        Dir.decrypter_from_bytes(key)
            .expect("the key has the right length")
    }

    pub(super) fn decode(token: &str, decrypter: &DirectJweDecrypter) -> User {
        let (text, _) = jwe::deserialize_compact(token, decrypter).expect("the token decrypts");
        serde_json::from_slice(&text).expect("the claims are a user")
    }
}

async fn guarded(Auth(session): Auth<Session<User>>) -> String {
    session.claims.name
}

async fn unguarded() -> String {
    "Ada Lovelace".into()
}

fn routes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("the runtime starts");
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", SECRET)]);
    let auth = LazyAuth::new(
        Resolver::new(memory),
        |_: Secrets, context: BuildContext| async move {
            let ring = SecretOrder::AuthCore.key_ring(&context)?;
            Ok(Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?)
        },
    );
    let sessions = runtime
        .block_on(auth.get())
        .expect("the first build succeeds");
    let set_cookies = sessions.start(&ada(), "").expect("the session starts");
    let cookie = set_cookies[0].split(';').next().unwrap_or_default();

    let unguarded_router = Router::new().route("/", get(unguarded));
    let guarded_router = Router::new()
        .route("/", get(guarded))
        .layer(auth.session_layer());
    let mut group = criterion.benchmark_group("route");
    measure!(group, "unguarded", send(&mut router, cookie).await, with let mut router = unguarded_router.clone());
    measure!(group, "guarded", send(&mut router, cookie).await, with let mut router = guarded_router.clone());
    group.finish();
}

async fn send(router: &mut Router, cookie: &str) {
    let request = Request::builder().uri("/").header("cookie", cookie);
    let request = request.body(Body::empty()).expect("the request is valid");
    let Ok(response) = router.call(request).await;
    assert!(response.status().is_success());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = tokens, routes
}
criterion_main!(benches);
