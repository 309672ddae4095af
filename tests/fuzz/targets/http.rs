//! Headers of servers, and URLs of remote backends.
//!
//! No input panics. A wait is at most an hour, encoding is reversible, and no error contains a credential.

#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use secretwell_core::Error;
use secretwell_http::{UrlOptions, decode, encode, encode_path, retry_after};
use secretwell_infisical::InfisicalBuilder;
use secretwell_vault::VaultBuilder;

const CREDENTIAL: &str = "c4n4ry-of-the-url";

fuzz_target!(|data: &[u8]| {
    let (wait, date) = data.split_at(data.len() / 2);
    let mut headers = HeaderMap::new();
    for (name, value) in [(header::RETRY_AFTER, wait), (header::DATE, date)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
        if let Some(wait) = retry_after(&headers) {
            assert!(!wait.is_zero() && wait <= Duration::from_secs(3600));
        }
    }

    let text = String::from_utf8_lossy(data);
    let encoded = encode(&text);
    assert!(encoded.is_ascii() && !encoded.contains(['/', '?', '#', '&', '=', ' ']));
    assert_eq!(decode(&encoded).unwrap(), text);
    if let Ok(path) = encode_path(&text) {
        assert!(path.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
        assert_eq!(decode(&path).unwrap(), text.trim_matches('/'));
    }
    let credentials = [("token", "VAULT_TOKEN")];
    if let Ok(options) = UrlOptions::parse(&text, &["a", "b"], &credentials) {
        assert!(options.get("token").is_none());
    }

    for url in [
        text.to_string(),
        format!("vault://user:{CREDENTIAL}@{text}"),
        format!("vault://{text}?token={CREDENTIAL}"),
        format!("infisical://user:{CREDENTIAL}@{text}"),
        format!("infisical://{text}&client_secret={CREDENTIAL}"),
    ] {
        assert_no_credential(VaultBuilder::from_url(&url).err());
        assert_no_credential(InfisicalBuilder::from_url(&url).err());
    }
});

fn assert_no_credential(error: Option<Error>) {
    let text = error.map(|error| format!("{error} {error:?}")).unwrap_or_default();
    assert!(!text.contains(CREDENTIAL), "{text}");
}
