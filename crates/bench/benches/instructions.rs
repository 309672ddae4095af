//! The hot paths whose instructions `cargo xtask instructions` counts.
//!
//! The setup of a path is not counted. It runs the path once, so that tables exist that the first call creates. A path
//! that takes nanoseconds runs 1,000 times, so that the loop does not matter. Another path runs 10 times, because it
//! creates random numbers.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use gungraun::prelude::*;
use http::{HeaderMap, Method, StatusCode};
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::SessionTokens;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, Remember, SessionCache, SessionCookies, SessionRow, Sessions,
};
use secretwell::auth::{BuildContext, KeyRing, LazyAuth};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretKey, SecretString};
use secretwell_bench::user::{User, ada};
use secretwell_http::{Outcome, Protocol, Request, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

// The parsers are not part of the public API, so their sources are included.
#[path = "../../infisical/src/budget.rs"]
#[allow(dead_code)]
mod budget;
#[path = "../../vault/src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../vault/src/header.rs"]
#[allow(dead_code)]
mod header;
#[path = "../../infisical/src/wire/mod.rs"]
#[allow(dead_code, unused_imports)]
mod infisical;
#[path = "../../vault/src/lock.rs"]
#[allow(dead_code)]
mod lock;
#[path = "../../infisical/src/reference.rs"]
#[allow(dead_code)]
mod reference;
#[path = "../../infisical/src/settings.rs"]
#[allow(dead_code, unused_imports)]
mod settings;
#[path = "../../vault/src/wire/mod.rs"]
#[allow(dead_code, unused_imports)]
mod vault;

/// The number of calls of a path that takes nanoseconds.
const MANY: usize = 1_000;
/// The number of calls of another path.
const SOME: usize = 10;

const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const HOUR: Duration = Duration::from_secs(60 * 60);
/// A limit that only a failure reaches.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A value with the runtime of its background tasks, which does not run while instructions are counted.
///
/// Each benchmark returns what it received, because it would be dropped within the counted part otherwise.
struct Started<T> {
    value: T,
    _runtime: Runtime,
}

impl<T> Started<T> {
    fn new(start: impl AsyncFnOnce() -> T) -> Self {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the runtime starts");
        Self {
            value: runtime.block_on(start()),
            _runtime: runtime,
        }
    }
}

/// Returns the output of a future.
///
/// # Panics
/// Panics if the future is pending, because the counted calls must not wait.
fn output<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("counted calls must not wait"),
    }
}

/// Waits until this thread is the only one. Until the thread of the resolver has prepared the lock-free map, hits use
/// another map, which needs more instructions.
fn wait_for_threads() {
    let started = Instant::now();
    while std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        assert!(started.elapsed() < MAX_WAIT, "the other threads end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const REQUESTED: &str = "SECRET_42";

/// Starts a resolver with 100 cached keys.
fn resolver() -> Started<Resolver> {
    Started::new(async || {
        let names: Vec<String> = (0..100).map(|index| format!("SECRET_{index}")).collect();
        let keys: Vec<SecretKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let memory = MemoryProvider::from_iter(names.iter().map(|name| (name.as_str(), SECRET)));
        let resolver = Resolver::new(memory);
        wait_for_threads();
        assert!(resolver.get_many(&keys).await.iter().all(Result::is_ok));
        assert!(resolver.with_cached(REQUESTED, |_| ()).is_some());
        assert!(resolver.get(REQUESTED).await.is_ok());
        resolver
    })
}

#[library_benchmark]
#[bench::one_of_100(resolver())]
fn resolver_with_cached(started: Started<Resolver>) -> Started<Resolver> {
    for _ in 0..MANY {
        let resolver = black_box(&started.value);
        black_box(resolver.with_cached(black_box(REQUESTED), |secret| {
            secret.value.expose_bytes().len()
        }));
    }
    started
}

#[library_benchmark]
#[bench::one_of_100(resolver())]
fn resolver_get(started: Started<Resolver>) -> Started<Resolver> {
    for _ in 0..MANY {
        let resolver = black_box(&started.value);
        drop(black_box(output(resolver.get(black_box(REQUESTED)))));
    }
    started
}

#[derive(Deserialize)]
struct Secrets {
    secret: SecretString,
}

/// The built value. Each call reads its one field.
struct Built {
    length: usize,
}

/// Starts a `LazyAuth` whose value is built.
fn lazy() -> Started<LazyAuth<Built>> {
    Started::new(async || {
        let resolver = Resolver::new(MemoryProvider::from_iter([("secret", SECRET)]));
        let lazy = LazyAuth::infallible(resolver, |secrets: Secrets, _: BuildContext| Built {
            length: secrets.secret.expose_secret().len(),
        });
        assert!(lazy.get().await.is_ok());
        assert!(lazy.with(|built| built.length).is_some());
        lazy
    })
}

#[library_benchmark]
#[bench::built(lazy())]
fn lazy_auth_get(started: Started<LazyAuth<Built>>) -> Started<LazyAuth<Built>> {
    for _ in 0..MANY {
        let lazy = black_box(&started.value);
        black_box(output(lazy.get()).map(|built| built.length).ok());
    }
    started
}

#[library_benchmark]
#[bench::built(lazy())]
fn lazy_auth_with(started: Started<LazyAuth<Built>>) -> Started<LazyAuth<Built>> {
    for _ in 0..MANY {
        let lazy = black_box(&started.value);
        black_box(lazy.with(|built| built.length));
    }
    started
}

#[library_benchmark]
#[bench::built(lazy())]
fn lazy_auth_reader(started: Started<LazyAuth<Built>>) -> Started<LazyAuth<Built>> {
    let mut reader = started.value.reader().expect("the value is built");
    for _ in 0..MANY {
        black_box(black_box(&mut reader).get().length);
    }
    started
}

/// Returns the tokens of Auth.js, and one of them.
fn authjs() -> (SessionTokens, User, String) {
    let ring = KeyRing::new(SECRET).expect("the secret is not empty");
    let tokens = SessionTokens::v5("authjs.session-token", &ring).expect("the keys are derived");
    let token = tokens.encode(&ada(), HOUR).expect("the token is encoded");
    assert!(tokens.decode::<User>(&token).is_ok());
    (tokens, ada(), token)
}

#[library_benchmark]
#[bench::version_5(authjs())]
fn authjs_decode(
    (tokens, user, token): (SessionTokens, User, String),
) -> (SessionTokens, User, String) {
    for _ in 0..SOME {
        drop(black_box(tokens.decode::<User>(black_box(&token))));
    }
    (tokens, user, token)
}

#[library_benchmark]
#[bench::version_5(authjs())]
fn authjs_encode(
    (tokens, user, token): (SessionTokens, User, String),
) -> (SessionTokens, User, String) {
    for _ in 0..SOME {
        drop(black_box(tokens.encode(black_box(&user), HOUR)));
    }
    (tokens, user, token)
}

/// The sessions of Better Auth, and a `Cookie` header with one of them.
struct BetterAuth {
    sessions: Sessions,
    cache: SessionCache,
    row: SessionRow,
    user: User,
    header: String,
}

impl BetterAuth {
    fn new(strategy: CacheStrategy) -> Self {
        let secrets = BetterAuthSecrets::new(SECRET).expect("the secret is usable");
        let user = ada();
        let end = SystemTime::now() + 24 * HOUR;
        let token = "0123456789abcdefghijklmnopqrstuv";
        let row = SessionRow::new("session-1", user.id.clone(), token, end);
        let cookies = SessionCookies::new(Scheme::Http);
        let sessions = Sessions::with_cache(cookies, &secrets, strategy)
            .expect("the keys are derived")
            .cache_max_age(HOUR);
        let set = sessions
            .start(&row, &user, Remember::UntilExpiry, "")
            .expect("the session starts");
        let pairs: Vec<_> = set.iter().filter_map(|set| set.split(';').next()).collect();
        let header = pairs.join("; ");
        assert!(matches!(sessions.find::<User>(&header), Ok(Some(_))));
        let cache = SessionCache::new(strategy, &secrets).expect("the keys are derived");
        assert!(cache.encode(&row, &user, HOUR).is_ok());
        Self {
            sessions,
            cache,
            row,
            user,
            header,
        }
    }
}

#[library_benchmark]
#[bench::compact(BetterAuth::new(CacheStrategy::Compact))]
#[bench::jwt(BetterAuth::new(CacheStrategy::Jwt))]
#[bench::jwe(BetterAuth::new(CacheStrategy::Jwe))]
fn betterauth_decode(auth: BetterAuth) -> BetterAuth {
    for _ in 0..SOME {
        drop(black_box(
            auth.sessions.find::<User>(black_box(&auth.header)),
        ));
    }
    auth
}

#[library_benchmark]
#[bench::compact(BetterAuth::new(CacheStrategy::Compact))]
#[bench::jwt(BetterAuth::new(CacheStrategy::Jwt))]
#[bench::jwe(BetterAuth::new(CacheStrategy::Jwe))]
fn betterauth_encode(auth: BetterAuth) -> BetterAuth {
    for _ in 0..SOME {
        let user = black_box(&auth.user);
        drop(black_box(auth.cache.encode(&auth.row, user, HOUR)));
    }
    auth
}

fn response(body: &Value) -> Response {
    let body = body.to_string().into_bytes();
    Response::new(StatusCode::OK, HeaderMap::new(), body)
}

/// The response to a read of a secret with 10 fields.
fn secret_of_vault() -> Response {
    let fields: Value = (0..10)
        .map(|index| (format!("FIELD_{index}"), Value::from(SECRET)))
        .collect();
    response(&json!({
        "request_id": "00000000-0000-4000-8000-000000000001",
        "lease_id": "",
        "renewable": false,
        "lease_duration": 0,
        "data": {
            "data": fields,
            "metadata": {
                "created_time": "2026-01-01T00:00:00.123456789Z",
                "custom_metadata": null,
                "deletion_time": "",
                "destroyed": false,
                "version": 3,
            },
        },
        "wrap_info": null,
        "warnings": null,
        "auth": null,
    }))
}

/// The response to a list of 10 secrets.
fn list_of_infisical() -> Response {
    let secret = |index| {
        json!({
            "id": format!("00000000-0000-4000-8000-00000000000{index}"),
            "workspace": "00000000-0000-4000-8000-000000000100",
            "environment": "prod",
            "version": 3,
            "type": "shared",
            "secretKey": format!("SECRET_{index}"),
            "secretValue": SECRET,
            "secretComment": "",
            "secretPath": "/",
            "createdAt": "2026-01-01T00:00:00.123Z",
            "updatedAt": "2026-01-02T00:00:00.123Z",
        })
    };
    let secrets: Vec<Value> = (0..10).map(secret).collect();
    response(&json!({ "secrets": secrets, "imports": [] }))
}

/// Panics unless the response is one of the server that succeeded.
fn check(protocol: &impl Protocol, request: &Request, response: &Response) {
    assert!(protocol.recognizes(request, response));
    assert!(matches!(
        protocol.classify(request, response),
        Outcome::Success
    ));
}

#[library_benchmark]
#[bench::fields_10(secret_of_vault())]
fn vault_secret(response: Response) -> Response {
    let request = Request::new(Method::GET, "/v1/secret/data/app");
    for _ in 0..SOME {
        let response = black_box(&response);
        check(&vault::Vault, &request, response);
        let document = vault::read_v2(response, "secret/data/app").expect("the secret is read");
        black_box(document.pick(Some("FIELD_7")).expect("the field exists"));
    }
    response
}

#[library_benchmark]
#[bench::secrets_10(list_of_infisical())]
fn infisical_list(response: Response) -> Response {
    let protocol = infisical::InfisicalProtocol::default();
    let request = Request::new(Method::GET, "/api/v3/secrets/raw");
    let scope = infisical::Scope {
        folder: "/",
        recursive: false,
        view: infisical::View::Expanded,
        personal: true,
    };
    for _ in 0..SOME {
        let response = black_box(&response);
        check(&protocol, &request, response);
        let listing = infisical::Listing::parse(response, scope).expect("the list is read");
        black_box(listing.find_own("/", "SECRET_7").is_some());
    }
    response
}

library_benchmark_group!(
    name = paths,
    benchmarks = [
        resolver_with_cached,
        resolver_get,
        lazy_auth_get,
        lazy_auth_with,
        lazy_auth_reader,
        authjs_decode,
        authjs_encode,
        betterauth_decode,
        betterauth_encode,
        vault_secret,
        infisical_list,
    ]
);
main!(library_benchmark_groups = paths);
