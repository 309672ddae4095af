//! Benchmarks of Better Auth sessions in the cookie cache, in its three strategies.
//!
//! `better-auth` in Node reads and encodes the same sessions for comparison. Reading includes the signature of
//! the cookie `session_token` on both sides.

mod measure;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, Remember, SessionCache, SessionCookies, SessionRow, Sessions,
};
use serde::{Deserialize, Serialize};

use measure::measure;

const SECRET: &str = "a-secret-that-is-long-enough-to-be-accepted!";
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Serialize, Deserialize)]
struct User {
    id: String,
    name: String,
    email: String,
    image: String,
}

fn ada() -> User {
    User {
        id: "00000000-0000-4000-8000-000000000001".into(),
        name: "Ada Lovelace".into(),
        email: "ada@example.com".into(),
        image: "https://example.com/pictures/ada-lovelace.png".into(),
    }
}

const STRATEGIES: [(&str, CacheStrategy); 3] = [
    ("compact", CacheStrategy::Compact),
    ("jwt", CacheStrategy::Jwt),
    ("jwe", CacheStrategy::Jwe),
];

fn caches(criterion: &mut Criterion) {
    let secrets = BetterAuthSecrets::new(SECRET).expect("the secret is usable");
    let ada = ada();
    let token = "0123456789abcdefghijklmnopqrstuv";
    let end = SystemTime::now() + 24 * HOUR;
    let row = SessionRow::new("session-1", ada.id.clone(), token, end);
    let mut headers = BTreeMap::new();
    for (name, strategy) in STRATEGIES {
        let cookies = SessionCookies::new(Scheme::Http);
        let sessions = Sessions::with_cache(cookies, &secrets, strategy)
            .expect("the keys are derived")
            .cache_max_age(HOUR);
        let cache = SessionCache::new(strategy, &secrets).expect("the keys are derived");
        let set = sessions
            .start(&row, &ada, Remember::UntilExpiry, "")
            .expect("the session starts");
        let pairs: Vec<_> = set.iter().filter_map(|set| set.split(';').next()).collect();
        let header = pairs.join("; ");
        headers.insert(name, header.clone());
        let mut group = criterion.benchmark_group(name);
        measure!(
            group,
            "secretwell decode",
            matches!(sessions.find::<User>(&header), Ok(Some(_)))
        );
        measure!(
            group,
            "secretwell encode",
            cache.encode(&row, &ada, HOUR).is_ok()
        );
        group.finish();
    }
    measure_better_auth(&headers);
}

/// Runs the same operations with `better-auth` in Node and prints their times. The package is installed by
/// `cargo xtask bench betterauth`.
fn measure_better_auth(headers: &BTreeMap<&str, String>) {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/clients");
    let cookies = serde_json::to_string(headers).expect("the headers are text");
    let output = Command::new("node")
        .arg(clients.join("bench-betterauth.mjs"))
        .env("COOKIES", cookies)
        .env("SECRET", SECRET)
        .output();
    match output {
        Ok(output) if output.status.success() => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                println!("better-auth {line} ns");
            }
        }
        _ => println!("better-auth is not installed: run `cargo xtask bench betterauth`"),
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = caches
}
criterion_main!(benches);
