//! Responses of programs between a client and its backend, such as gateways and sign-in pages.

use std::fmt;

/// A response that another program sends in the place of the backend.
///
/// [`FaultProxy`](crate::FaultProxy) sends it with [`Fault::Foreign`](crate::Fault::Foreign).
///
/// ```
/// use secretwell_testkit::ForeignResponse;
///
/// let page = ForeignResponse::new("error page", 404, b"<h1>Not Found</h1>")
///     .with_header("content-type", "text/html");
/// assert_eq!(page.header("content-type"), Some("text/html"));
/// assert!(page.to_bytes().starts_with(b"HTTP/1.1 404 Not Found\r\n"));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignResponse {
    /// The program that sends it, and what it sends.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The HTTP headers, without those that frame the body.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: Vec<u8>,
    is_chunked: bool,
}

impl ForeignResponse {
    /// Creates a response without headers.
    pub fn new(name: &'static str, status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            name,
            status,
            headers: Vec::new(),
            body: body.as_ref().to_vec(),
            is_chunked: false,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends the body in chunks, without a `content-length`.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.is_chunked = true;
        self
    }

    /// Returns the value of a header. `name` must be in lower case.
    pub fn header(&self, name: &str) -> Option<&'static str> {
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    /// Returns the response as it is sent over HTTP/1.1. The connection ends after it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "connection: close\r\n";
        if self.status == 204 {
            return format!("{head}\r\n").into();
        }
        if !self.is_chunked {
            head += &format!("content-length: {}\r\n\r\n", self.body.len());
            return [head.as_bytes(), &self.body].concat();
        }
        let mut bytes = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for chunk in self.body.chunks(7) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }
}

/// Prints the body as text, with escapes.
impl fmt::Debug for ForeignResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignResponse")
            .field("name", &self.name)
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &self.body.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

/// Returns the reason phrase of a status, as servers send it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Time-out",
        429 => "Too Many Requests",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Returns responses of common programs between a service and its backend: proxies, ingress controllers,
/// firewalls, load balancers, API gateways and sign-in pages. All of them have the default form of that
/// program. Where a response has `Retry-After`, the wait is 1 s.
pub fn gateway_responses() -> Vec<ForeignResponse> {
    let new = |name, status, content_type, body: &str| {
        ForeignResponse::new(name, status, body).with_header("content-type", content_type)
    };
    const HTML: &str = "text/html";
    const HTML_UTF8: &str = "text/html; charset=UTF-8";
    const JSON: &str = "application/json";
    const JSON_UTF8: &str = "application/json; charset=utf-8";
    const TEXT: &str = "text/plain; charset=utf-8";
    vec![
        new("Traefik, no route", 404, TEXT, "404 page not found\n")
            .with_header("x-content-type-options", "nosniff"),
        new(
            "nginx, no upstream",
            502,
            HTML,
            "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad \
             Gateway</h1></center>\r\n<hr><center>nginx/1.27.2</center>\r\n</body>\r\n</html>\r\n",
        )
        .with_header("server", "nginx/1.27.2"),
        new(
            "Cloudflare, firewall",
            403,
            HTML_UTF8,
            "<!DOCTYPE html>\n<html lang=\"en-US\"><head><title>Attention Required! | Cloudflare</title></head>\
             <body><h1>Sorry, you have been blocked</h1></body></html>\n",
        )
        .with_header("server", "cloudflare")
        .with_header("cf-mitigated", "challenge"),
        new(
            "captive portal",
            200,
            HTML,
            "<html><head><title>Sign in to the network</title></head><body><form \
             action=\"/login\"></form></body></html>",
        ),
        new("sign-in redirect", 302, HTML, "<a href=\"https://login.example.com/\">Found</a>.\n")
            .with_header("location", "https://login.example.com/oauth2/authorize?client_id=web"),
        new(
            "Kong, no route",
            404,
            JSON_UTF8,
            "{\"message\":\"no Route matched with those values\",\"request_id\":\"0f1e2d3c4b5a\"}",
        )
        .with_header("server", "kong/3.8.0"),
        new(
            "Kong, no API key",
            401,
            JSON_UTF8,
            "{\"message\":\"No API key found in request\",\"request_id\":\"0f1e2d3c4b5a\"}",
        )
        .with_header("www-authenticate", "Key"),
        new(
            "Kong, address not allowed",
            403,
            JSON_UTF8,
            "{\"message\":\"IP address not allowed: 192.0.2.1\",\"request_id\":\"0f1e2d3c4b5a\"}",
        ),
        new("Envoy, no healthy upstream", 503, "text/plain", "no healthy upstream")
            .with_header("server", "envoy")
            .with_header("retry-after", "1"),
        new("Istio, policy", 403, "text/plain", "RBAC: access denied")
            .with_header("server", "istio-envoy"),
        new("AWS API Gateway", 403, JSON, "{\"message\":\"Missing Authentication Token\"}")
            .with_header("x-amzn-errortype", "MissingAuthenticationTokenException"),
        new(
            "AWS load balancer",
            503,
            HTML,
            "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n<center>\
             <h1>503 Service Temporarily Unavailable</h1></center>\r\n</body>\r\n</html>\r\n",
        )
        .with_header("server", "awselb/2.0"),
        new(
            "Azure API Management",
            401,
            JSON,
            "{ \"statusCode\": 401, \"message\": \"Access denied due to missing subscription key. Make sure to \
             include subscription key when making requests to an API.\" }",
        )
        .with_header("www-authenticate", "AzureApiManagementKey realm=\"https://api.example.com\""),
        new("Kubernetes default backend", 404, TEXT, "default backend - 404"),
        ForeignResponse::new("Caddy, no handler", 200, "").with_header("server", "Caddy"),
        new(
            "HAProxy, timeout",
            408,
            HTML,
            "<html><body><h1>408 Request Time-out</h1>\nYour browser didn't send a complete request in \
             time.\n</body></html>\n",
        ),
        new(
            "HAProxy, bad request",
            400,
            HTML,
            "<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n</body></html>\n",
        ),
        new(
            "NestJS application",
            404,
            JSON_UTF8,
            "{\"message\":\"Cannot GET /v1/secret\",\"error\":\"Not Found\",\"statusCode\":404}",
        )
        .with_header("x-powered-by", "Express"),
        ForeignResponse::new("firewall, no body", 403, "").with_header("server", "BigIP"),
        ForeignResponse::new("health check page", 204, ""),
        ForeignResponse::new("rate limit of a proxy", 429, "").with_header("retry-after", "1"),
        new(
            "JSON application",
            200,
            JSON_UTF8,
            "{\"status\":\"ok\",\"data\":{},\"error\":null}",
        ),
        new(
            "GraphQL application",
            200,
            JSON_UTF8,
            "{\"data\":null,\"errors\":[{\"message\":\"Must provide query string.\"}]}",
        ),
        ForeignResponse::new(
            "authenticating proxy",
            401,
            b"\x00\xff\xfe{\"errors\x1f\x8b\x08 not JSON",
        )
        .with_header("content-type", "application/octet-stream")
        .chunked(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn responses_have_different_names_and_many_statuses() {
        let responses = gateway_responses();
        let names: BTreeSet<_> = responses.iter().map(|response| response.name).collect();
        assert_eq!(names.len(), responses.len());
        assert!(names.len() >= 14, "{names:?}");
        for status in [200, 204, 302, 400, 401, 403, 404, 408, 429, 502, 503] {
            assert!(responses.iter().any(|it| it.status == status), "{status}");
            assert_ne!(reason(status), "Status");
        }
    }

    #[test]
    fn a_chunked_body_has_no_content_length() {
        let body = b"eight by".to_vec();
        let plain = ForeignResponse::new("a", 401, body);
        let text = String::from_utf8(plain.clone().chunked().to_bytes()).unwrap();
        let expected = "transfer-encoding: chunked\r\n\r\n7\r\neight b\r\n1\r\ny\r\n0\r\n\r\n";
        assert!(text.ends_with(expected), "{text}");
        let text = String::from_utf8(plain.to_bytes()).unwrap();
        assert!(
            text.ends_with("content-length: 8\r\n\r\neight by"),
            "{text}"
        );
        let text = String::from_utf8(ForeignResponse::new("b", 204, "").to_bytes()).unwrap();
        assert!(!text.contains("content-length"), "{text}");
    }
}
