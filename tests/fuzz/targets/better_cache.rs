//! The cookie cache of Better Auth in its three strategies.
//!
//! Arbitrary text is rejected. An encoded cache is accepted until one byte changes.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use secretwell_auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, SessionCache, SessionRow, TokenSigner, VerifiedToken,
};
use serde_json::{Map, Value, json};

static CACHES: LazyLock<[SessionCache; 3]> = LazyLock::new(|| {
    let list = "2:the current secret,1:the previous secret";
    let secrets = BetterAuthSecrets::from_list(list).unwrap();
    [CacheStrategy::Compact, CacheStrategy::Jwt, CacheStrategy::Jwe]
        .map(|strategy| SessionCache::new(strategy, &secrets).unwrap().accept_previous_caches())
});
static TOKEN: LazyLock<VerifiedToken> = LazyLock::new(|| {
    let secrets = BetterAuthSecrets::new("the current secret").unwrap();
    let signer = TokenSigner::new(&secrets).unwrap();
    signer.verify(signer.sign("a-token").unwrap().expose()).unwrap()
});

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for cache in &*CACHES {
        assert!(cache.decode_at::<Value>(&text, &TOKEN, now()).is_err());
    }

    // The same input as fields of the user and the session, and as a change of one byte.
    let [position, replacement, rest @ ..] = data else { return };
    let fields: Map<String, Value> =
        serde_json::from_slice(rest).unwrap_or_else(|_| Map::from_iter([("x".into(), json!(text))]));
    let mut row = SessionRow::new("session", "user", "a-token", now() + Duration::from_secs(60));
    row.additional = fields.clone();
    let mut user = fields;
    for name in ["id", "email", "name"] {
        user.insert(name.into(), "x".into());
    }
    for cache in &*CACHES {
        let Ok(encoded) = cache.encode_at(&row, &user, Duration::from_secs(60), now()) else {
            // The package would refuse these columns.
            let columns = ["emailVerified", "createdAt", "updatedAt", "image"];
            assert!(columns.iter().any(|name| user.contains_key(*name)), "{user:?}");
            continue;
        };
        let decoded = cache.decode_at::<Map<String, Value>>(&encoded, &TOKEN, now()).unwrap();
        assert_eq!(decoded.user["id"], "x");
        assert_eq!(decoded.session.expose_token(), "a-token");

        let mut changed = encoded.clone().into_bytes();
        let index = usize::from(*position) * changed.len() / 256;
        if changed[index] != *replacement {
            changed[index] = *replacement;
            let changed = String::from_utf8_lossy(&changed);
            assert!(cache.decode_at::<Value>(&changed, &TOKEN, now()).is_err(), "{changed}");
        }
    }
});
