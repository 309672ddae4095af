//! Benchmarks of Better Auth sessions in the cookie cache, in its three strategies.
//!
//! `better-auth` in Node reads and encodes the same sessions for comparison. Reading includes the signature of
//! the cookie `session_token` on both sides.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, Remember, SessionCache, SessionCookies, SessionRow, Sessions,
};
use secretwell_bench::clock::wall_time;
use secretwell_bench::figures;
use secretwell_bench::node::Node;
use secretwell_bench::turns::{Turns, Unit};
use secretwell_bench::user::{User, ada};

const ROUNDS: usize = 30;
const BATCH: Duration = Duration::from_millis(20);
const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const HOUR: Duration = Duration::from_secs(60 * 60);

const STRATEGIES: [(&str, CacheStrategy); 3] = [
    ("compact", CacheStrategy::Compact),
    ("jwt", CacheStrategy::Jwt),
    ("jwe", CacheStrategy::Jwe),
];

/// What is measured in one strategy.
struct Strategy {
    name: &'static str,
    sessions: Sessions,
    cache: SessionCache,
    /// The header `cookie` of a request.
    header: String,
}

fn main() {
    let secrets = BetterAuthSecrets::new(SECRET).expect("the secret is usable");
    let ada = ada();
    let token = "0123456789abcdefghijklmnopqrstuv";
    let end = SystemTime::now() + 24 * HOUR;
    let row = SessionRow::new("session-1", ada.id.clone(), token, end);
    let strategies = STRATEGIES.map(|(name, strategy)| {
        let cookies = SessionCookies::new(Scheme::Http);
        let sessions = Sessions::with_cache(cookies, &secrets, strategy)
            .expect("the keys are derived")
            .cache_max_age(HOUR);
        let set = sessions
            .start(&row, &ada, Remember::UntilExpiry, "")
            .expect("the session starts");
        let pairs: Vec<_> = set.iter().filter_map(|set| set.split(';').next()).collect();
        Strategy {
            name,
            sessions,
            cache: SessionCache::new(strategy, &secrets).expect("the keys are derived"),
            header: pairs.join("; "),
        }
    });
    let headers: BTreeMap<_, _> = strategies
        .iter()
        .map(|strategy| (strategy.name, &strategy.header))
        .collect();
    let headers = serde_json::to_string(&headers).expect("the headers are text");
    let variables = [("COOKIES", headers.as_str()), ("SECRET", SECRET)];
    let node = Node::start("bench-betterauth.mjs", &variables);

    for strategy in &strategies {
        let read = || {
            let session = strategy.sessions.find::<User>(&strategy.header);
            assert!(matches!(session, Ok(Some(_))));
        };
        let encode = || {
            let encoded = strategy.cache.encode(&row, &ada, HOUR);
            assert!(encoded.is_ok());
        };
        measure(strategy.name, "read", read, node.as_ref());
        measure(strategy.name, "encode", encode, node.as_ref());
    }
}

/// Measures an operation in one strategy, also with the package.
fn measure(strategy: &str, operation: &str, work: impl Fn(), node: Option<&Node>) {
    let prefix = format!("betterauth_{strategy}_{operation}");
    work();
    let allocations = allocation_counter::measure(&work).count_total;
    figures::add(&format!("{prefix}_allocations"), allocations as f64);
    let mut turns = Turns::new(ROUNDS, BATCH);
    turns.add("secretwell", |calls| wall_time(calls, &work));
    if let Some(node) = node {
        let name = format!("{strategy}-{operation}");
        turns.add("package", move |calls| node.run(&name, calls));
    }
    let times = turns.measure();
    times.report(&prefix, Unit::Microseconds);
    let figure = format!("{prefix}_package_over_secretwell");
    times.report_ratio(&figure, "package", "secretwell");
}
