//! Sessions of Auth.js and Better Auth: the claims of a user, and the keys that encrypt them.

use std::time::{Duration, SystemTime};

use secretwell::auth::KeyRing;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SessionCookie, Sessions};
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, SessionCache, SessionRow,
};
use serde_json::{Value, json};

use super::rings::{authjs_keys, with_keys};
use super::sources::Place;
use super::{Needles, Program, canary};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn sessions_of_auth_js_leave_no_copy_of_claims_and_keys() {
    let (place, secret, claim) = (Place::directory(), canary(), canary());
    place.write(&secret);
    let cookie = SessionCookie::v5(Scheme::Http);
    let keys = authjs_keys(Needles::default(), "the", &secret, cookie.name());
    let sessions = Sessions::new(cookie, &KeyRing::new(secret.as_str()).unwrap()).unwrap();
    let claims = user(&claim);
    // A long token is split into several cookies.
    let cookies = sessions.start(&claims, "").unwrap();
    let cookies = cookies
        .iter()
        .map(|cookie| cookie.split(';').next().unwrap());
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    assert_claims_and_keys_are_dropped(&["authjs", &place.url, &cookies], keys, &claim);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn session_caches_of_better_auth_leave_no_copy_of_claims_and_keys() {
    let (place, secret, claim) = (Place::directory(), canary(), canary());
    place.write(&secret);
    let secrets = BetterAuthSecrets::new(secret.as_str()).unwrap();
    let caches = SessionCache::new(CacheStrategy::Jwe, &secrets).unwrap();
    let row = SessionRow::new("1", "2", "token of the session", SystemTime::now() + HOUR);
    let cache = caches.encode(&row, &user(&claim), HOUR).unwrap();
    let info = "BetterAuth.js Generated Encryption Key";
    let keys = with_keys(
        Needles::default(),
        "the",
        &secret,
        "better-auth-session",
        info,
    );
    assert_claims_and_keys_are_dropped(&["betterauth", &place.url, &cache], keys, &claim);
}

/// The claims of a user. They are longer than those of most users, so that buffers grow.
fn user(name: &str) -> Value {
    json!({"id": "2", "email": "ada@example.com", "name": name, "biography": "ä".repeat(2_000)})
}

fn assert_claims_and_keys_are_dropped(arguments: &[&str], keys: Needles, claim: &str) {
    let claims = Needles::default().text("claim", claim);
    let mut program = Program::start(arguments);
    program.reach("alive");
    program.assert_found(&claims, "claim");
    program.assert_found(&keys, "the key, first half");
    program.assert_found(&keys, "the key, second half");
    program.go_on("claims dropped");
    program.assert_clean(&claims, "claims");
    program.go_on("dropped");
    program.assert_clean(&keys, "secret and keys");
}
