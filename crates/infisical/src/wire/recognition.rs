//! Recognition of the server's responses by their shape.

use http::Method;
use secretwell_http::{Request, Response, has_member, parse_object};

use super::body::ErrorBody;

/// Returns whether an Infisical server sent the response, and not a gateway in front of it.
pub(super) fn recognizes(request: &Request, response: &Response) -> bool {
    // A response to `HEAD` has no body. Its caller checks the headers, and otherwise sends a `GET`.
    if request.method() == Method::HEAD {
        return true;
    }
    if response.status.is_success() {
        let members = members_of(request.path());
        return members
            .iter()
            .all(|member| has_member(&response.body, &[member]));
    }
    let body: Option<ErrorBody<'_>> = parse_object(&response.body);
    body.is_some_and(|body| body.is_from_server(response.status))
}

/// Returns the members by which a successful response to a request is recognized. All of them are near the
/// beginning of a large body.
fn members_of(target: &str) -> &'static [&'static str] {
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    // The address of the server can have a path of its own, which is not part of the target.
    match path {
        "/api/status" => &["date", "message"],
        "/api/v1/folders" => &["folders"],
        "/api/v1/secret-imports" => &["secretImports"],
        "/api/v3/secrets/raw" | "/api/v4/secrets" => &["secrets"],
        _ if path.starts_with("/api/v1/auth/") => &["accessToken"],
        _ if path.contains("/secrets/") => &["secret"],
        // A project.
        _ => &["id", "slug"],
    }
}

/// Returns whether the headers of a successful response to `HEAD` are those of a list.
pub(crate) fn is_list_head(response: &Response) -> bool {
    let content_type = response.headers.get(http::header::CONTENT_TYPE);
    let is_json =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    response.status.is_success() && is_json && response.headers.contains_key(http::header::ETAG)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn is_recognized(path: &str, status: u16, body: &str) -> bool {
        let status = StatusCode::from_u16(status).unwrap();
        let response = Response::new(status, HeaderMap::new(), body.as_bytes().to_vec());
        recognizes(&Request::new(Method::GET, path), &response)
    }

    #[test]
    fn head_of_a_list_has_a_type_an_etag_and_a_successful_status() {
        let is_list = |status: u16, fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| {
                let value = http::HeaderValue::from_static(value);
                (http::HeaderName::from_static(name), value)
            });
            let status = StatusCode::from_u16(status).unwrap();
            is_list_head(&Response::new(status, fields.collect(), Vec::new()))
        };
        let json = ("content-type", "application/json; charset=utf-8");
        let html = ("content-type", "text/html");
        let etag = ("etag", "W/\"1\"");
        assert!(is_list(200, &[json, etag]));
        for (status, fields) in [
            (404, &[json, etag][..]),
            (200, &[json]),
            (200, &[etag]),
            (200, &[html, etag]),
        ] {
            assert!(!is_list(status, fields), "{status} {fields:?}");
        }
    }

    #[test]
    fn successful_response_has_the_members_of_its_route() {
        const BODIES: [(&str, &str); 7] = [
            ("/api/status", r#"{"date":"2026-01-01","message":"Ok"}"#),
            ("/api/v1/folders?path=%2F", r#"{"folders":[]}"#),
            (
                "/api/v1/secret-imports?path=%2F",
                r#"{"message":"x","secretImports":[]}"#,
            ),
            (
                "/api/v4/secrets?projectId=x",
                r#"{"secrets":[],"imports":[]}"#,
            ),
            ("/api/v3/secrets/raw/A%2FB?x=y", r#"{"secret":{}}"#),
            ("/api/v1/auth/oidc-auth/login", r#"{"accessToken":"x"}"#),
            ("/api/v2/workspace/demo", r#"{"id":"x","slug":"demo"}"#),
        ];
        for (path, _) in BODIES {
            for (other, body) in BODIES {
                assert_eq!(
                    is_recognized(path, 200, body),
                    path == other,
                    "{path} {body}"
                );
            }
            for body in [
                "",
                "{}",
                "<html>",
                "null",
                "[]",
                "\"secrets\"",
                r#"{"message":"ok"}"#,
            ] {
                assert!(!is_recognized(path, 200, body), "{path} {body}");
            }
        }
    }

    #[test]
    fn errors_of_all_server_versions_are_recognized() {
        for (status, body) in [
            (
                404,
                r#"{"statusCode":404,"message":"Secret with name 'A' not found","error":"NotFound"}"#,
            ),
            (
                401,
                r#"{"statusCode":401,"message":[{"code":"x"}],"error":"ValidationFailure"}"#,
            ),
            (
                404,
                r#"{"message":"Route GET:/api/v4/secrets not found","error":"Not Found","statusCode":404}"#,
            ),
            (
                431,
                r#"{"error":"Request Header Fields Too Large","message":"x","statusCode":431}"#,
            ),
            (
                403,
                r#"{"reqId":"req-1","statusCode":403,"message":"x","error":"PermissionDenied","details":[]}"#,
            ),
            (
                422,
                r#"{"reqId":"req-1","statusCode":422,"message":[{}],"error":"ValidationFailure"}"#,
            ),
            (
                500,
                r#"{"error":"Internal Server Error","message":"jwt expired"}"#,
            ),
            (
                500,
                r#"{"error":"Internal Server Error","message":"'qa' environment not found in project x"}"#,
            ),
        ] {
            assert!(
                is_recognized("/api/v4/secrets", status, body),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn errors_of_other_programs_are_not_recognized() {
        for (status, body) in [
            (404, "404 page not found"),
            (403, "<html>"),
            (403, ""),
            (404, r#"{"message":"no Route matched with those values"}"#),
            (403, r#"{"message":"Forbidden"}"#),
            (
                401,
                r#"{"statusCode":401,"message":"Access denied due to missing subscription key"}"#,
            ),
            (
                404,
                r#"{"statusCode":404,"message":"Cannot GET /api/v4/secrets","error":"Not Found"}"#,
            ),
            (
                404,
                r#"{"statusCode":404,"message":"Route GET:/ not found","error":"Not Found"}"#,
            ),
            (
                500,
                r#"{"statusCode":500,"message":"boom","error":"Internal Server Error"}"#,
            ),
            (
                403,
                r#"{"timestamp":"x","status":403,"error":"Forbidden","path":"/api"}"#,
            ),
            (403, r#"{"errors":[{"message":"denied"}]}"#),
            (
                404,
                r#"["NotFound","Secret with name 'A' not found",404,"req-1"]"#,
            ),
            // The status of the body differs from that of the response.
            (
                401,
                r#"{"statusCode":404,"message":"x","error":"NotFound"}"#,
            ),
            (
                404,
                r#"{"statusCode":"404","message":"x","error":"NotFound"}"#,
            ),
            (302, ""),
        ] {
            assert!(
                !is_recognized("/api/v4/secrets", status, body),
                "{status} {body}"
            );
        }
    }
}
