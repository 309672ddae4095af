//! The body of an error response.

use std::borrow::Cow;

use http::StatusCode;
use secretwell_http::{Response, parse_object};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The names of errors about a token or a login.
const TOKEN_ERRORS: [&str; 2] = ["TokenError", "UnauthorizedError"];
/// The names of errors about the form of a request.
const VALIDATION_ERRORS: [&str; 2] = ["ValidationFailure", "ValidationError"];

/// The body of an error response. Every field is optional, because it differs between server versions.
#[derive(Deserialize, Default)]
pub(super) struct ErrorBody<'a> {
    /// The error's name, such as `NotFound`.
    #[serde(borrow, default)]
    pub(super) error: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Message<'a>,
    #[serde(default, rename = "statusCode")]
    status: Option<u16>,
    /// The id of the request. Servers have sent it since 2025.
    #[serde(default, rename = "reqId")]
    request_id: Option<IgnoredAny>,
}

/// A text, or the list of all validation issues of a request.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    List(Vec<IgnoredAny>),
}

impl Default for Message<'_> {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl<'a> ErrorBody<'a> {
    /// Parses the body of an error response. Returns an empty body for a successful response, because that
    /// might be large. Also returns an empty body if another program has responded.
    pub(super) fn parse(response: &'a Response) -> Self {
        match response.status.is_success() {
            true => Self::default(),
            false => parse_object(&response.body).unwrap_or_default(),
        }
    }

    /// Returns whether this server sent the body. Many programs respond with an object that has a status and
    /// a message. This server adds the id of the request, or one of its own names of errors.
    pub(super) fn is_from_server(&self, status: StatusCode) -> bool {
        let has_message = match &self.message {
            Message::Text(text) => !text.is_empty(),
            Message::List(issues) => !issues.is_empty(),
        };
        if !has_message {
            return false;
        }
        // The name of an internal error is often that of a failed operation. All of them mean the same.
        let is_internal = status.is_server_error()
            && !self.error.is_empty()
            && Some(self.error.as_ref()) != status.canonical_reason();
        // The web framework's own errors have no name of their own.
        let is_known = self.has_known_name()
            || is_internal
            || self.is_missing_route()
            || status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        self.request_id.is_some()
            || self.status == Some(status.as_u16()) && is_known
            || status == StatusCode::INTERNAL_SERVER_ERROR && self.is_failure_of_july_2024()
    }

    /// Returns whether the error's name is one that the server is known to send.
    pub(super) fn has_known_name(&self) -> bool {
        const NAMES: [&str; 10] = [
            "BadRequest",
            "CryptographyError",
            "DeleteSecret",
            "GetSecretByName",
            "NotFound",
            "RateLimitExceeded",
            "SecretPathNotFound",
            "KubernetesTokenReviewError",
            "KubernetesTokenReviewRequestError",
            "OidcAuthError",
        ];
        NAMES.contains(&self.error.as_ref())
            || TOKEN_ERRORS.contains(&self.error.as_ref())
            || VALIDATION_ERRORS.contains(&self.error.as_ref())
            || self.is_permission_error()
    }

    /// Returns whether the message is one that servers before August 2024 send with the status 500.
    fn is_failure_of_july_2024(&self) -> bool {
        self.is_dead_jwt() || self.message_contains("environment not found in project")
    }

    pub(super) fn message_contains(&self, text: &str) -> bool {
        matches!(&self.message, Message::Text(message) if message.contains(text))
    }

    /// Returns whether the server rejected the form of the request. Its message is then a list of issues.
    pub(super) fn is_validation_error(&self) -> bool {
        VALIDATION_ERRORS.contains(&self.error.as_ref()) || matches!(self.message, Message::List(_))
    }

    /// Returns whether the login is valid, but has no permission for the request.
    pub(super) fn is_permission_error(&self) -> bool {
        const NAMES: [&str; 3] = ["PermissionDenied", "ForbiddenError", "PolicyViolationError"];
        NAMES.contains(&self.error.as_ref()) || self.is_not_a_member()
    }

    /// Returns whether the error's name is that of a missing, invalid or expired token.
    pub(super) fn is_token_error(&self) -> bool {
        TOKEN_ERRORS.contains(&self.error.as_ref())
    }

    /// Returns whether the login is not a member of the project. The oldest servers state it in the error's name.
    pub(super) fn is_not_a_member(&self) -> bool {
        const TEXT: &str = "is not a member";
        self.error.starts_with("Identity is not a member")
            || self.error == "ForbiddenError" && self.message_contains(TEXT)
    }

    /// Returns whether the login has no permission to read a secret that the requested one refers to.
    pub(super) fn is_about_reference(&self) -> bool {
        // The path in another message might contain the word, too.
        const MESSAGES: [&str; 3] = [
            "to reference secret",
            "is referenced by",
            "secret reference",
        ];
        self.is_permission_error() && MESSAGES.iter().any(|text| self.message_contains(text))
    }

    /// Returns whether the server reported a failure without a cause.
    pub(super) fn is_internal_error(&self) -> bool {
        self.error == "InternalServerError"
    }

    /// Returns whether the message is that of the library that checks the signature and the expiry of tokens.
    pub(super) fn is_dead_jwt(&self) -> bool {
        const MESSAGES: [&str; 6] = [
            "jwt expired",
            "jwt malformed",
            "jwt must be provided",
            "jwt signature is required",
            "invalid token",
            "invalid signature",
        ];
        MESSAGES.iter().any(|text| self.message_contains(text))
    }

    /// Returns whether the server does not have the requested route.
    pub(super) fn is_missing_route(&self) -> bool {
        self.error == "Not Found" && self.missing_route().is_some()
    }

    /// Returns the path, without the query, for which the server has no route.
    fn missing_route(&self) -> Option<&str> {
        let Message::Text(message) = &self.message else {
            return None;
        };
        let (_, rest) = message.strip_prefix("Route ")?.split_once(':')?;
        let path = rest.split_once([' ', '?']).map_or(rest, |(path, _)| path);
        path.contains("/api/v").then_some(path)
    }

    /// Returns the part of the path for which the server has no route that precedes the API's own path. It is
    /// not empty if the configured address ends with a wrong path.
    pub(super) fn path_before_api(&self) -> Option<&str> {
        let route = self.missing_route()?;
        let prefix = &route[..route.rfind("/api/v")?];
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
        (!prefix.is_empty() && prefix.len() <= 100 && prefix.chars().all(is_plain))
            .then_some(prefix)
    }

    /// Returns whether the environment does not exist. Every environment has a root folder, so a missing root
    /// folder shows the same.
    pub(super) fn is_missing_environment(&self) -> bool {
        const MESSAGES: [&str; 4] = [
            "Environment with slug",
            "Folder with path '/' in",
            // Servers before August 2024.
            "Environment not found",
            "environment not found in project",
        ];
        MESSAGES.iter().any(|text| self.message_contains(text))
    }

    /// Returns whether the folder or the environment does not exist. The message does not show which one.
    pub(super) fn is_missing_folder(&self) -> bool {
        self.error == "SecretPathNotFound" || self.message_contains("Folder with path")
    }
}
