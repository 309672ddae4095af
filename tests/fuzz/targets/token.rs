//! Session tokens: nothing that anybody writes is one, and what we write is, until a byte of it changes.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use secretwell_auth::KeyRing;
use secretwell_auth::authjs::SessionTokens;
use serde_json::{Map, Value, json};

const NAME: &str = "authjs.session-token";

static TOKENS: LazyLock<[SessionTokens; 2]> = LazyLock::new(|| {
    let ring = KeyRing::new("the secret of now").with_previous("the secret before");
    [SessionTokens::v5(NAME, &ring), SessionTokens::v4(&ring)].map(Result::unwrap)
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for tokens in &*TOKENS {
        assert!(tokens.decode::<Value>(&text).is_err());
    }

    // With a token of ours around it: as its claims, and as what has been done to it.
    let [at, to, rest @ ..] = data else { return };
    let claims: Map<String, Value> =
        serde_json::from_slice(rest).unwrap_or_else(|_| Map::from_iter([("x".into(), json!(text))]));
    for tokens in &*TOKENS {
        let token = tokens.encode(&claims, Duration::from_secs(60)).unwrap();
        let read = tokens.decode::<Map<String, Value>>(&token);
        // What a token may not say of its begin is the only thing that makes ours no token.
        assert!(read.is_ok() || claims.contains_key("nbf"), "{claims:?}");

        let mut changed = token.clone().into_bytes();
        let place = usize::from(*at) * changed.len() / 256;
        if changed[place] != *to {
            changed[place] = *to;
            let changed = String::from_utf8_lossy(&changed);
            assert!(tokens.decode::<Value>(&changed).is_err(), "{token} {changed}");
        }
    }
});
