//! Responses of a Vault server and of programs in its place: no body panics, and texts of secrets are read to the letter.
//!
//! The sources of the parser are included, because it is not a part of the public API.

#![no_main]
#![allow(dead_code, unused_imports)]

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use secretwell_http::{Protocol, Request, Response};
use serde_json::Value;

#[path = "../../../crates/vault/src/error.rs"]
mod error;
#[path = "../../../crates/vault/src/header.rs"]
mod header;
#[path = "../../../crates/vault/src/lock.rs"]
mod lock;
#[path = "../../../crates/vault/src/wire/mod.rs"]
mod wire;

const STATUSES: [u16; 10] = [200, 204, 307, 400, 403, 404, 412, 429, 500, 503];

fuzz_target!(|data: &[u8]| {
    let [status, body @ ..] = data else { return };
    let status = STATUSES[usize::from(*status) % STATUSES.len()];
    let mut headers = HeaderMap::new();
    if let Ok(index) = HeaderValue::from_bytes(body) {
        headers.insert(wire::INDEX, index);
    }
    wire::Index::default().record(&headers);
    let response = Response::new(StatusCode::from_u16(status).unwrap(), headers, body.to_vec());
    let request = Request::new(Method::GET, "/v1/secret/data/app");
    let is_recognized = wire::Vault.recognizes(&request, &response);
    let _ = wire::Vault.classify(&request, &response);

    // The parsers skip unused members without a check of their UTF-8.
    let json: Option<Value> = serde_json::from_slice(body).ok();
    // Only JSON and an answer to a request without TLS are from Vault.
    let is_plain = status == 307 || body.starts_with(b"Client sent an HTTP request");
    assert!(!is_recognized || is_plain || body.trim_ascii_start().starts_with(b"{"));
    let data = json.as_ref().map(|json| &json["data"]);
    for (read, data) in [
        (wire::read_v1(&response, "secret/app"), data),
        (wire::read_v2(&response, "secret/data/app"), data.map(|data| &data["data"])),
    ] {
        let Ok(document) = read else { continue };
        assert!((200..300).contains(&status), "{status}");
        assert!(document.pick(None).is_ok());
        let Some(data) = data else { continue };
        for name in document.names() {
            let value = document.field(name);
            match &data[name] {
                Value::Null => {}
                Value::String(text) => assert_eq!(value.unwrap().value.expose_bytes(), text.as_bytes()),
                other => {
                    let value: Value = serde_json::from_slice(value.unwrap().value.expose_bytes()).unwrap();
                    assert_eq!(value, *other);
                }
            }
        }
    }
    if let (Ok(names), Some(data)) = (wire::listed(&response, "secret/"), data) {
        let expected = data["keys"].as_array().map_or(0, Vec::len);
        assert_eq!(names.len(), expected);
    }
    let _ = wire::mount(&response, "secret");
    let _ = wire::forbidden(&response);
    let _ = wire::lease_info(&response);
    let _ = wire::token_lease(&response);
    let _ = wire::check_token(&response);
    let _ = wire::unwrapped_secret_id(&response);
    let _ = wire::login_refused(&response, "approle");
    let _ = wire::seal_status(&response);
    let _ = wire::Health::parse(&response);
    let _ = wire::server_clock(&response);
    let _ = wire::time(&String::from_utf8_lossy(body));
});
