//! Responses of an Infisical server and of programs in its place: no body panics, and each listed text is one of the body.
//!
//! The sources of the parser are included, because it is not a part of the public API.

#![no_main]
#![allow(dead_code, unused_imports)]

use http::{HeaderMap, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use secretwell_http::{Protocol, Request, Response};
use serde_json::Value;

#[path = "../../../crates/infisical/src/budget.rs"]
mod budget;
#[path = "../../../crates/infisical/src/reference.rs"]
mod reference;
#[path = "../../../crates/infisical/src/settings.rs"]
mod settings;
#[path = "../../../crates/infisical/src/wire/mod.rs"]
mod wire;

use wire::{InfisicalProtocol, Listing, Scope, View};

const STATUSES: [u16; 10] = [200, 204, 304, 400, 401, 403, 404, 422, 429, 500];

fuzz_target!(|data: &[u8]| {
    let [status, body @ ..] = data else { return };
    let options = *status;
    let status = STATUSES[usize::from(options) % STATUSES.len()];
    let response = Response::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), body.to_vec());
    let protocol = InfisicalProtocol::default();
    for path in ["/api/v3/secrets/raw?x=1", "/api/v3/secrets/raw/A", "/api/v1/folders", "/api/v1/auth/login"] {
        let request = Request::new(Method::GET, path);
        let is_recognized = protocol.recognizes(&request, &response);
        assert!(!is_recognized || matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')));
        let _ = protocol.classify(&request, &response);
    }

    // The parser skips unused members without a check of their UTF-8.
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let scope = Scope {
        folder: "/",
        recursive: options & 64 != 0,
        view: View::default(),
        personal: options & 128 != 0,
    };
    if let (Ok(listing), Some(json)) = (Listing::parse(&response, scope), json) {
        // A list without names of members is also parsed, but it is not recognized as a response.
        let Some(secrets) = json["secrets"].as_array() else { return };
        for (folder, names) in listing.folders() {
            for name in names {
                let entry = listing.find_own(folder, name).unwrap();
                let Some(text) = entry.text() else { continue };
                let is_listed = |secret: &Value| secret["secretKey"] == name && secret["secretValue"] == text;
                assert!(secrets.iter().any(is_listed), "{name}");
                for reference in reference::references(text) {
                    let _ = reference;
                }
            }
        }
    }
    let _ = wire::parse_single(&response, "A");
    let _ = wire::folder_names(&response);
    let _ = wire::imports(&response);
    let _ = wire::project_id(&response);
    let _ = wire::is_token_rejected(&response);
    let _ = wire::is_missing_place(&response);
    let _ = wire::is_unknown_route(&response);
});
