//! Responses of the fake.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

/// A response: status, headers and body.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FakeResponse {
    /// The HTTP status code, such as 200.
    pub status: u16,
    /// The headers. Their names are in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body: JSON, a page of the web application, or empty.
    pub body: String,
}

impl FakeResponse {
    pub(super) fn json(status: u16, body: Value) -> Self {
        let body = body.to_string();
        let etag = format!("\"{}\"", STANDARD.encode(Sha1::digest(&body)));
        Self {
            status,
            headers: vec![
                ("content-type", "application/json; charset=utf-8".to_owned()),
                ("etag", etag),
            ],
            body,
        }
    }

    pub(super) fn failure(status: u16, error: &str, message: &str) -> Self {
        let body = json!({"statusCode": status, "message": message, "error": error});
        Self::json(status, body)
    }

    /// Creates the response to an internal error of the server.
    pub(super) fn internal_error(error: &str) -> Self {
        Self::failure(500, error, "Something went wrong")
    }

    /// Creates the response to an internal error that a server of July 2024 does not handle.
    pub(super) fn unhandled_error(message: &str) -> Self {
        let body = json!({"error": "Internal Server Error", "message": message});
        Self::json(500, body)
    }

    /// Creates the page that the web application of the standalone image sends for an unknown route.
    pub(super) fn page_not_found() -> Self {
        let page = "<!DOCTYPE html><html><head><title>404: This page could not be found</title></head></html>";
        Self {
            status: 404,
            headers: vec![("content-type", "text/html; charset=utf-8".to_owned())],
            body: page.to_owned(),
        }
    }

    /// Adds what newer servers add to an error: the id of the request, and the details of a refusal.
    pub(super) fn with_details(mut self, request: usize) -> Self {
        match serde_json::from_str::<Value>(&self.body) {
            Ok(mut body) if self.status >= 400 && body.is_object() => {
                body["reqId"] = json!(format!("req-{request}"));
                if body["error"] == "PermissionDenied" {
                    body["details"] = json!([]);
                }
                self.body = body.to_string();
                self
            }
            _ => self,
        }
    }

    /// Creates the response to an invalid request, with the validation issue of one field.
    pub(super) fn invalid(status: u16, issue: Value) -> Self {
        let body = json!({"statusCode": status, "message": [issue], "error": "ValidationFailure"});
        Self::json(status, body)
    }

    /// Replaces the status of a failure with that of servers before August 2024.
    pub(super) fn with_legacy_status(mut self) -> Self {
        let Ok(mut body) = serde_json::from_str::<Value>(&self.body) else {
            return self;
        };
        let status = match body["error"].as_str() {
            Some("UnauthorizedError" | "ValidationFailure") => 403,
            Some("PermissionDenied") => 401,
            _ => return self,
        };
        body["statusCode"] = json!(status);
        (self.status, self.body) = (status, body.to_string());
        self
    }

    /// Creates the response to a request whose route does not exist.
    pub(super) fn no_route(method: &str, target: &str) -> Self {
        let message = format!("Route {method}:{target} not found");
        Self::json(
            404,
            json!({"message": message, "error": "Not Found", "statusCode": 404}),
        )
    }

    /// Returns the value of a header. `name` must be in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    /// Replaces the response with a 304 without a body, if `if_none_match` equals its ETag.
    pub(super) fn if_none_match(mut self, if_none_match: Option<&str>) -> Self {
        if if_none_match.is_some() && if_none_match == self.header("etag") {
            self.status = 304;
            self.body.clear();
        }
        self
    }
}
