//! Benchmarks of Auth.js session tokens and of routes that require a session.
//!
//! `@auth/core` in Node decodes and encodes the same token for comparison. The npm package jose, on which it is
//! based, only decrypts it, with a key that was derived in advance. With `RUSTFLAGS="--cfg josekit"`, the crate
//! josekit does the same. It needs OpenSSL.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{
    SecretOrder, Session, SessionCookie, SessionTokens, Sessions,
};
use secretwell::auth::{Auth, BuildContext, KeyRing, LazyAuth};
use secretwell::{MemoryProvider, Resolver, SecretString};
use secretwell_bench::clock::wall_time;
use secretwell_bench::node::Node;
use secretwell_bench::turns::{Turns, Unit};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tower_service::Service;

const ROUNDS: usize = 30;
const BATCH: Duration = Duration::from_millis(20);
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

fn main() {
    tokens();
    routes();
}

fn tokens() {
    let ring = KeyRing::new(SECRET).expect("the secret is not empty");
    let tokens = SessionTokens::v5(SALT, &ring).expect("the keys are derived");
    let ada = ada();
    let token = tokens.encode(&ada, HOUR).expect("the token is encoded");
    let variables = [
        ("TOKEN", token.as_str()),
        ("SECRET", SECRET),
        ("SALT", SALT),
    ];
    let node = Node::start("bench-authjs.mjs", &variables);
    let node = node.as_ref();

    let mut decode = Turns::new(ROUNDS, BATCH);
    decode.add("secretwell", |calls| {
        wall_time(calls, || tokens.decode::<User>(&token).expect("it decodes"))
    });
    let mut encode = Turns::new(ROUNDS, BATCH);
    encode.add("secretwell", |calls| {
        wall_time(calls, || tokens.encode(&ada, HOUR).expect("it is encoded"))
    });
    if let Some(node) = node {
        decode.add("auth_core", |calls| node.run("decode", calls));
        decode.add("jose", |calls| node.run("decrypt", calls));
        encode.add("auth_core", |calls| node.run("encode", calls));
    }
    #[cfg(josekit)]
    {
        let decrypter = peer::decrypter();
        let token = &token;
        decode.add("josekit", move |calls| {
            wall_time(calls, || peer::decode(token, &decrypter))
        });
    }
    for (name, turns) in [("decode", decode), ("encode", encode)] {
        let times = turns.measure();
        times.report(&format!("authjs_{name}"), Unit::Microseconds);
        for peer in ["auth_core", "jose"] {
            let figure = format!("authjs_{name}_{peer}_over_secretwell");
            times.report_ratio(&figure, peer, "secretwell");
        }
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

fn routes() {
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
    let mut turns = Turns::new(ROUNDS, BATCH);
    for (name, mut router) in [("unguarded", unguarded_router), ("guarded", guarded_router)] {
        let runtime = &runtime;
        turns.add(name, move |calls| {
            runtime.block_on(async {
                let started = Instant::now();
                for _ in 0..calls {
                    send(&mut router, cookie).await;
                }
                started.elapsed()
            })
        });
    }
    turns.measure().report("authjs_route", Unit::Microseconds);
}

async fn send(router: &mut Router, cookie: &str) {
    let request = Request::builder().uri("/").header("cookie", cookie);
    let request = request.body(Body::empty()).expect("the request is valid");
    let Ok(response) = router.call(request).await;
    assert!(response.status().is_success());
}
