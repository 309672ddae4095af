//! Session tokens: arbitrary text is rejected, and an encoded token is accepted until one byte changes.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use secretwell_auth::KeyRing;
use secretwell_auth::sessions::authjs::SessionTokens;
use serde_json::{Map, Value, json};

const NAME: &str = "authjs.session-token";

static TOKENS: LazyLock<[SessionTokens; 2]> = LazyLock::new(|| {
    let ring = KeyRing::new("the current secret").unwrap().with_previous("the previous secret").unwrap();
    [SessionTokens::v5(NAME, &ring), SessionTokens::v4(&ring)].map(Result::unwrap)
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for tokens in &*TOKENS {
        assert!(tokens.decode::<Value>(&text).is_err());
    }

    // The same input as the claims of a valid token, and as a change of one of its bytes.
    let [position, replacement, rest @ ..] = data else { return };
    let claims: Map<String, Value> =
        serde_json::from_slice(rest).unwrap_or_else(|_| Map::from_iter([("x".into(), json!(text))]));
    for tokens in &*TOKENS {
        let token = tokens.encode(&claims, Duration::from_secs(60)).unwrap();
        let decoded = tokens.decode::<Map<String, Value>>(&token);
        // An invalid or future `nbf` is the only claim that makes an encoded token invalid.
        assert!(decoded.is_ok() || claims.contains_key("nbf"), "{claims:?}");

        let mut changed = token.clone().into_bytes();
        let index = usize::from(*position) * changed.len() / 256;
        if changed[index] != *replacement {
            changed[index] = *replacement;
            let changed = String::from_utf8_lossy(&changed);
            assert!(tokens.decode::<Value>(&changed).is_err(), "{token} {changed}");
        }
    }
});
