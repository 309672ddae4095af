//! Which responses are from the backend, and what happens with the others.

use std::fmt;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use secretwell_core::{Error, ErrorKind};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::protocol::{Outcome, Protocol};
use crate::request::{Expect, Request};
use crate::response::Response;
use crate::retry::retry_after;

/// The longest backoff after a response that the backend did not send. Such a response says nothing about the
/// backend, which might be reachable again a moment later.
pub(crate) const FOREIGN_BACKOFF: Duration = Duration::from_secs(5);

/// Returns what the client does with a response, and records in it whether the backend sent it.
///
/// A response that the backend did not send is never a success, an absence or a refusal.
pub(crate) fn judge(
    protocol: &dyn Protocol,
    request: &Request,
    response: &mut Response,
) -> Outcome {
    let has_no_body = match response.status.as_u16() {
        304 => request.is_conditional(),
        204 => request.expectation() == Expect::NoContent,
        _ => false,
    };
    response.recognized = has_no_body || protocol.recognizes(request, response);
    if has_no_body {
        return Outcome::Success;
    }
    if response.recognized {
        return protocol.classify(request, response);
    }
    let is_probe = request.expectation() == Expect::Probe;
    if is_probe && matches!(response.status.as_u16(), 404 | 405 | 410) {
        return Outcome::Success;
    }
    Outcome::ServerError(foreign_response(protocol.server(), response))
}

/// Returns the error for a response that the backend did not send. `server` is the
/// [name of the server](Protocol::server). The client returns this error for responses that the protocol does
/// not recognize. A backend can return it if it notices later that another program responded.
///
/// Its kind is [`ErrorKind::Unavailable`]. The backoff after it is at most 5 s, unless a response with the
/// status 429 or 503 requests a longer wait.
pub fn foreign_response(server: &str, response: &Response) -> Error {
    let status = response.status.as_u16();
    let sender = match &response.authority {
        Some(authority) => format!("`{authority}`"),
        None => "the server".to_owned(),
    };
    let content = match response.body.is_empty() {
        true => "no body".to_owned(),
        false => format!("content type {}", content_type(response)),
    };
    let message = format!("{sender} did not respond as {server}: status {status}, {content}");
    let error = Error::new(ErrorKind::Unavailable, message)
        .with_hint("another program responded, such as a gateway, a proxy or a sign-in page; check it and the address")
        .with_backoff_limit(FOREIGN_BACKOFF);
    match retry_after(&response.headers).filter(|_| matches!(status, 429 | 503)) {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}

/// Returns the media type for a message, or `unknown` if it is missing or has unusual characters.
fn content_type(response: &Response) -> String {
    let header = response.headers.get(CONTENT_TYPE);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = text.split(';').next().unwrap_or("").trim();
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/+.-".contains(c);
    let media_type = media_type.to_ascii_lowercase();
    match (1..=40).contains(&media_type.len()) && media_type.chars().all(is_plain) {
        true => media_type,
        false => "unknown".to_owned(),
    }
}

/// Returns whether `body` is a JSON object that has a member with one of `names`. Stops at the first one, so
/// the rest of the body can be invalid.
pub fn has_member(body: &[u8], names: &[&str]) -> bool {
    let mut search = Search {
        names,
        found: false,
    };
    // After a hit, the parser reports that the object does not end.
    let _ = serde_json::Deserializer::from_slice(body).deserialize_map(&mut search);
    search.found
}

/// Parses `body` if it is a JSON object in UTF-8 that fits `T`. Returns `None` for any other body.
///
/// A type with the derived `Deserialize` also accepts an array of its fields, so a parser alone would take the array of
/// another program for an object of the backend. Objects inside of `body` can still be arrays.
pub fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    // One check of the whole body is much faster than one of each text in it.
    let text = std::str::from_utf8(body).ok()?;
    match text.trim_ascii_start().starts_with('{') {
        true => serde_json::from_str(text).ok(),
        false => None,
    }
}

/// The search for a member of an object.
struct Search<'a> {
    names: &'a [&'a str],
    found: bool,
}

impl<'de> Visitor<'de> for &mut Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(is_wanted) = map.next_key_seed(OneOf(self.names))? {
            if is_wanted {
                self.found = true;
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Deserializes a text, without a copy, to whether it is one of these names.
struct OneOf<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for OneOf<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for OneOf<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.0.contains(&text))
    }
}

#[cfg(test)]
mod tests {
    use http::header::{IF_NONE_MATCH, RETRY_AFTER};
    use http::{HeaderMap, HeaderValue, Method, StatusCode};

    use super::*;

    /// A backend whose responses have the member `data`. Every status is a success.
    #[derive(Debug)]
    struct TestProtocol;

    impl Protocol for TestProtocol {
        fn server(&self) -> &'static str {
            "the test server"
        }

        fn recognizes(&self, _: &Request, response: &Response) -> bool {
            has_member(&response.body, &["data"])
        }

        fn classify(&self, _: &Request, _: &Response) -> Outcome {
            Outcome::Success
        }
    }

    fn response(status: u16, headers: &[(http::HeaderName, &'static str)], body: &str) -> Response {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        Response::new(
            StatusCode::from_u16(status).unwrap(),
            headers.collect::<HeaderMap>(),
            body.as_bytes().to_vec(),
        )
    }

    /// Returns whether the caller gets a response with this status and body.
    fn succeeds(request: &Request, status: u16, body: &str) -> bool {
        let outcome = judge(&TestProtocol, request, &mut response(status, &[], body));
        matches!(outcome, Outcome::Success)
    }

    fn get() -> Request {
        Request::new(Method::GET, "/")
    }

    #[test]
    fn only_responses_of_the_backend_are_classified() {
        for status in [200, 204, 304, 400, 401, 403, 404, 405, 410, 429, 500, 503] {
            assert!(succeeds(&get(), status, r#"{"data":1}"#), "{status}");
            for body in ["", "<html>", r#"{"message":"no Route matched"}"#, "[]", "{"] {
                let mut foreign = response(status, &[], body);
                let outcome = judge(&TestProtocol, &get(), &mut foreign);
                let Outcome::ServerError(error) = outcome else {
                    panic!("{status} {body}: {outcome:?}");
                };
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.is_temporary() && !foreign.is_recognized());
            }
        }
    }

    #[test]
    fn probe_accepts_any_404_405_410() {
        let probe = get().expect(Expect::Probe);
        for status in [404, 405, 410] {
            let mut foreign = response(status, &[], "<html>");
            let outcome = judge(&TestProtocol, &probe, &mut foreign);
            assert!(matches!(outcome, Outcome::Success), "{status}");
            assert!(!foreign.is_recognized());
        }
        for status in [200, 204, 304, 401, 403, 500, 503] {
            assert!(!succeeds(&probe, status, "<html>"), "{status}");
        }
    }

    #[test]
    fn bare_204_and_304_need_a_matching_request() {
        let conditional = get().header(IF_NONE_MATCH, HeaderValue::from_static("\"1\""));
        let without_content = get().expect(Expect::NoContent);
        assert!(succeeds(&conditional, 304, "") && succeeds(&without_content, 204, ""));
        let mut unchanged = response(304, &[], "");
        unchanged.recognized = false;
        judge(&TestProtocol, &conditional, &mut unchanged);
        assert!(unchanged.is_recognized());
        assert!(!succeeds(&conditional, 204, "") && !succeeds(&without_content, 304, ""));
        assert!(!succeeds(&get(), 204, "") && !succeeds(&get(), 304, ""));
    }

    #[test]
    fn message_names_status_and_content_type_but_no_text_of_the_body() {
        let message = |content_type, body| {
            let mut foreign = response(404, &[(CONTENT_TYPE, content_type)], body);
            foreign.authority = Some("vault:8200".into());
            foreign_response("Vault", &foreign).message().to_owned()
        };
        assert_eq!(
            message("text/HTML; charset=utf-8", "SECRET"),
            "`vault:8200` did not respond as Vault: status 404, content type text/html"
        );
        assert!(message("text/html", "").ends_with("status 404, no body"));
        for unusual in [
            "",
            "a b",
            "text/\"x\"",
            ";",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(
                message(unusual, "x").ends_with("content type unknown"),
                "{unusual}"
            );
        }
    }

    #[test]
    fn stated_wait_of_a_gateway_is_kept_for_429_and_503() {
        for (status, expected) in [(429, Some(7)), (503, Some(7)), (404, None), (502, None)] {
            let foreign = response(status, &[(RETRY_AFTER, "7")], "");
            let error = foreign_response("Vault", &foreign);
            assert_eq!(
                error.retry_after(),
                expected.map(Duration::from_secs),
                "{status}"
            );
            assert_eq!(error.backoff_limit(), Some(FOREIGN_BACKOFF));
        }
    }

    #[test]
    fn members_are_found_at_the_top_level_only() {
        let found = |body: &str| has_member(body.as_bytes(), &["errors", "data"]);
        for body in [
            r#"{"data":null}"#,
            r#" {"a":{"b":[1,"}"]},"errors":["#,
            r#"{"d\u0061ta":1}"#,
        ] {
            assert!(found(body), "{body}");
        }
        for body in [
            "",
            "{}",
            "null",
            "\"data\"",
            "[\"data\"]",
            r#"[{"data":1}]"#,
            r#"{"a":{"data":1}}"#,
            r#"{"a":"data"}"#,
            r#"{"a":,"data":1}"#,
            "data",
            "\u{FEFF}{\"data\":1}",
        ] {
            assert!(!found(body), "{body}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it measures computing time")]
    fn has_member_stops_at_the_first_name() {
        let body = format!(r#"{{"request_id":"1","data":"{}"}}"#, "x".repeat(1 << 20));
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            assert!(has_member(body.as_bytes(), &["data"]));
        }
        // Reading the whole body takes several milliseconds each time.
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn array_is_not_an_object_with_these_fields() {
        #[derive(Deserialize)]
        struct Body {
            errors: Vec<String>,
        }

        for (body, is_object) in [
            (r#"{"errors":["a"]}"#, true),
            (" \n{\"errors\":[\"a\"]} ", true),
            (r#"[["a"]]"#, false),
            (r#""errors""#, false),
            ("{", false),
            ("[1]{\"errors\":[\"a\"]}", false),
            ("", false),
        ] {
            let parsed: Option<Body> = parse_object(body.as_bytes());
            let errors = parsed.map(|body| body.errors);
            assert_eq!(errors, is_object.then(|| vec!["a".to_owned()]), "{body}");
        }
    }
}
