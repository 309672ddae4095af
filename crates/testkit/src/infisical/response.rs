//! What the fake answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

/// A status, headers and a body.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FakeResponse {
    /// The status.
    pub status: u16,
    /// The headers, by their names in small letters.
    pub headers: Vec<(&'static str, String)>,
    /// The body, which is JSON or nothing.
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

    /// What the server says of its own errors, whatever they are.
    pub(super) fn wrong(error: &str) -> Self {
        Self::failure(500, error, "Something went wrong")
    }

    /// What the server says of a field that is not as it should be.
    pub(super) fn invalid(status: u16, issue: Value) -> Self {
        let body = json!({"statusCode": status, "message": [issue], "error": "ValidationFailure"});
        Self::json(status, body)
    }

    /// The same as servers before August 2024 say it.
    pub(super) fn of_before(mut self) -> Self {
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

    pub(super) fn no_route(method: &str, target: &str) -> Self {
        let message = format!("Route {method}:{target} not found");
        Self::json(
            404,
            json!({"message": message, "error": "Not Found", "statusCode": 404}),
        )
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    /// The same without its body, if whoever asks holds it already.
    pub(super) fn unless_known(mut self, known: Option<&str>) -> Self {
        if known.is_some() && known == self.header("etag") {
            self.status = 304;
            self.body.clear();
        }
        self
    }
}
