//! Signed tokens and cookie headers of Better Auth.
//!
//! Arbitrary text is rejected. A signed token is accepted until one byte changes, and beside any header.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use secretwell_auth::sessions::Scheme;
use secretwell_auth::sessions::betterauth::{BetterAuthSecrets, SessionCookies, Sessions, TokenSigner};
use serde_json::Value;

static SECRETS: LazyLock<BetterAuthSecrets> = LazyLock::new(|| {
    let list = "2:the current secret,1:the previous secret";
    BetterAuthSecrets::from_list(list).unwrap()
});
static SIGNER: LazyLock<TokenSigner> =
    LazyLock::new(|| TokenSigner::new(&SECRETS).unwrap().accept_previous_tokens());
/// The fuzzer learns the signatures that are compared below, and must not know any of `SIGNER`.
static OTHER: LazyLock<TokenSigner> = LazyLock::new(|| {
    TokenSigner::new(&BetterAuthSecrets::new("another secret").unwrap()).unwrap()
});
static SESSIONS: LazyLock<Sessions> = LazyLock::new(|| {
    Sessions::stateless(SessionCookies::new(Scheme::Http), &SECRETS).unwrap().accept_previous_tokens()
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    assert!(SIGNER.verify(&text).is_err());
    // The list of secrets in an error is never printed.
    if let Err(error) = BetterAuthSecrets::from_list(data) {
        assert!(error.message().len() < 120, "{error}");
    }

    // The same input as a `Cookie` header.
    assert!(SESSIONS.token(&text).is_none());
    assert!(SESSIONS.find::<Value>(&text).unwrap().is_none());
    assert!(SESSIONS.renew(&text, std::time::Duration::MAX).unwrap().is_empty());
    for cleared in SESSIONS.end(&text) {
        assert!(cleared.contains("; Max-Age=0;"), "{cleared}");
    }

    let [position, replacement, token @ ..] = data else { return };
    let token = String::from_utf8_lossy(token);
    let Ok(signed) = OTHER.sign(&token) else { return };
    assert_eq!(OTHER.verify(signed.expose()).unwrap().expose(), token);
    let mut changed = signed.expose().as_bytes().to_vec();
    let index = usize::from(*position) * changed.len() / 256;
    if changed[index] != *replacement {
        changed[index] = *replacement;
        let changed = String::from_utf8_lossy(&changed);
        assert!(changed == signed.expose() || OTHER.verify(&changed).is_err(), "{changed}");
    }
});
