//! Which responses are from Vault or OpenBao. Gateways and proxies in front of it respond in its place.

use secretwell_http::{Request, Response, has_member, parse_object};
use serde::Deserialize;

/// The start of the body with which a server responds to an `http://` request for its TLS port.
pub(super) const PLAIN_HTTP: &[u8] = b"Client sent an HTTP request to an HTTPS server";

/// Returns whether the response has the shape of one of Vault or OpenBao. The text of a status is not enough:
/// a response that is taken for one of the server can mean that a secret does not exist.
pub(super) fn recognizes(request: &Request, response: &Response) -> bool {
    let body = &response.body;
    match response.status.as_u16() {
        // Other programs also respond with `data`, but not with `lease_id`.
        200..=299 => has_member(body, &["lease_id"]) || is_status(body),
        // The body is empty. The client follows a redirect only between the configured addresses.
        307 => true,
        400 if body.starts_with(PLAIN_HTTP) => true,
        400 if body.is_empty() || body.trim_ascii() == b"400 Bad Request" => {
            has_unusual_escape(request.path())
        }
        _ => is_error(body) || is_status(body),
    }
}

/// Returns whether the body describes the state of a server, which has no envelope.
fn is_status(body: &[u8]) -> bool {
    has_member(body, &["initialized"]) && has_member(body, &["sealed"])
}

/// Returns whether the body is that of an error: a list of texts, or an envelope with warnings.
fn is_error(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        errors: Option<Vec<String>>,
        request_id: Option<String>,
        lease_id: Option<String>,
    }

    let body: Option<Body> = parse_object(body);
    body.is_some_and(|body| {
        body.errors.is_some() || body.request_id.is_some() && body.lease_id.is_some()
    })
}

/// Returns whether a server rejects the path before it creates an error, because of an escaped control
/// character, percent sign, slash or `..`.
fn has_unusual_escape(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let is_control = |escape: &str| {
        let code = escape.get(..2);
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        code.is_some_and(|code| code.is_ascii_control())
    };
    ["%25", "%2f", "%2e%2e"]
        .iter()
        .any(|text| path.contains(text))
        || path.split('%').skip(1).any(is_control)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};

    use super::*;

    fn is_recognized(path: &str, status: u16, body: &str) -> bool {
        let request = Request::new(Method::GET, path);
        let status = StatusCode::from_u16(status).unwrap();
        let response = Response::new(status, HeaderMap::new(), body.as_bytes().to_vec());
        recognizes(&request, &response)
    }

    #[test]
    fn responses_of_gateways_are_not_recognized() {
        for (status, body) in [
            (200, ""),
            (200, "<html><title>Sign in</title></html>"),
            (200, r#"{"status":"ok"}"#),
            (200, r#"{"errors":[{"message":"no such field"}]}"#),
            (200, r#"{"errors":["not found"]}"#),
            (200, r#"{"initialized":true}"#),
            (503, r#"{"sealed":true}"#),
            (204, ""),
            (302, ""),
            (400, ""),
            (400, "400 Bad Request"),
            (
                401,
                r#"{"statusCode":401,"message":"missing subscription key"}"#,
            ),
            (403, ""),
            (403, "<html>Attention Required!</html>"),
            (403, "RBAC: access denied"),
            (403, r#"{"message":"Forbidden"}"#),
            (401, r#"{"message":"No API key found","request_id":"5f1a"}"#),
            (403, r#"{"message":"not allowed","request_id":"5f1a"}"#),
            (403, r#"{"errors":null}"#),
            (403, r#"{"data":null,"message":"forbidden"}"#),
            (403, r#"{"errors":[{"code":1020}]}"#),
            (404, "404 page not found"),
            (404, "default backend - 404"),
            (404, r#"{"message":"no Route matched with those values"}"#),
            (404, r#"{"errors":"not found"}"#),
            (404, "[]"),
            (404, r#"[["not found"],null,null]"#),
            (404, r#"[null,"id","lease"]"#),
            (429, ""),
            (502, "<html>502 Bad Gateway</html>"),
            (
                503,
                "upstream connect error or disconnect/reset before headers",
            ),
        ] {
            let found = is_recognized("/v1/secret/data/app", status, body);
            assert!(!found, "{status} {body}");
        }
    }

    #[test]
    fn responses_without_an_envelope_are_recognized() {
        let status = r#"{"initialized":true,"sealed":true,"standby":true}"#;
        for code in [200, 429, 472, 473, 501, 503] {
            assert!(is_recognized("/v1/sys/health", code, status), "{code}");
        }
        let plain_http = "Client sent an HTTP request to an HTTPS server.\n";
        assert!(is_recognized("/v1/secret/data/app", 400, plain_http));
        for name in ["a%0Ab", "a%00b", "%25", "a%2Fb", "%2E%2e", "%7f"] {
            let path = format!("/v1/secret/data/{name}");
            assert!(is_recognized(&path, 400, ""), "{name}");
            assert!(!is_recognized(&path, 404, ""), "{name}");
        }
        assert!(!is_recognized("/v1/secret/data/caf%C3%A9", 400, ""));
    }
}
