//! Webhooks of Infisical: `x-infisical-signature`, and the folder in which secrets were changed.

use http::{HeaderMap, HeaderName};
use secretwell_core::backend::Change;
use serde_json::Value;

use crate::rejection::Rejection;
use crate::signature::{self, Signature};

static HEADER: HeaderName = HeaderName::from_static("x-infisical-signature");

/// The place in Infisical whose webhooks count. Other webhooks are accepted and ignored.
///
/// By default, each webhook is a change of all keys. Infisical itself can restrict a webhook to an environment
/// and a folder, so a scope is only needed if several places share one webhook URL.
#[derive(Debug, Clone, Default)]
pub struct InfisicalScope {
    project: Option<String>,
    environment: Option<String>,
    folder: Option<String>,
}

impl InfisicalScope {
    /// Creates a scope that contains every place.
    pub fn new() -> Self {
        Self::default()
    }

    /// Restricts the scope to the project with this id. The slug of a project does not occur in webhooks.
    #[must_use]
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// Restricts the scope to the environment with this slug, such as `prod`.
    #[must_use]
    pub fn environment(mut self, slug: impl Into<String>) -> Self {
        self.environment = Some(slug.into());
        self
    }

    /// Restricts the scope to this folder and the folders below it.
    ///
    /// If secrets refer to other folders, or if the folder imports others, leave it out. The change of a
    /// secret in another folder is otherwise seen only after the ttl.
    #[must_use]
    pub fn folder(mut self, path: impl Into<String>) -> Self {
        self.folder = Some(path.into());
        self
    }

    /// Returns whether a webhook can concern this place. A webhook that does not name its place can.
    fn contains(&self, place: &Value) -> bool {
        let text = |name| place.get(name).and_then(Value::as_str);
        // Older servers send only the first name.
        let project = text("workspaceId").or_else(|| text("projectId"));
        let is_other = |wanted: &Option<String>, named: Option<&str>| {
            let wanted = wanted.as_deref();
            wanted.is_some_and(|wanted| named.is_some_and(|named| named != wanted))
        };
        let is_outside = self.folder.as_deref().is_some_and(|folder| {
            text("secretPath").is_some_and(|changed| !is_below(changed, folder))
        });
        !is_other(&self.project, project)
            && !is_other(&self.environment, text("environment"))
            && !is_outside
    }
}

/// Returns whether `path` is `folder` or below it.
fn is_below(path: &str, folder: &str) -> bool {
    let mut segments = segments(path);
    self::segments(folder).all(|segment| segments.next() == Some(segment))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Parses `t=<milliseconds>;<hex>`. The time is also part of the signed body.
pub(crate) fn signature(headers: &HeaderMap) -> Result<Signature, Rejection> {
    let header = signature::header(headers, &HEADER)?;
    let (time, code) = header.split_once(';').unwrap_or((header, ""));
    let time = time.trim().strip_prefix("t=");
    let sent_at = time.and_then(signature::parse_time);
    Signature::parse(sent_at, String::new(), &[code.trim()])
}

/// Returns the change that a webhook describes, or `None` if no secret in the scope has changed.
pub(crate) fn change(
    signature: &Signature,
    body: &[u8],
    scope: &InfisicalScope,
) -> Result<Option<Change>, Rejection> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| Rejection::malformed("the body is not a webhook of Infisical"))?;
    // The header itself is not signed.
    if body.get("timestamp").and_then(Value::as_u64) != Some(signature.sent_at) {
        return Err(Rejection::unauthorized(
            "the time of the signature is not the time in the body",
        ));
    }
    let event = body.get("event").and_then(Value::as_str);
    // Webhooks for Slack and Microsoft Teams have no event. New events might be changes.
    let is_change = !matches!(event, Some("test" | "secrets.rotation-failed"));
    let place = body.get("project").unwrap_or(&Value::Null);
    Ok((is_change && scope.contains(place)).then_some(Change::All))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{SECRET, headers, status};

    const TIME: u64 = 1_700_000_000_123;
    // Computed by `hmac.new(secret, body, "sha256")` of Python.
    const CODE: &str = "6e2dbf27f116986bb40eb0f141380a88419e2667fa1efa221a2ad03cc93fbc28";
    const BODY: &str = r#"{"event":"secrets.modified","project":{"workspaceId":"63f1","projectId":"63f1","projectName":"shop","environment":"prod","environmentName":"Production","secretPath":"/app","changedBy":"ada","changedByActorType":"user"},"timestamp":1700000000123}"#;

    fn parsed() -> Signature {
        let header = format!("t={TIME};{CODE}");
        signature(&headers(HEADER.as_str(), &[&header])).unwrap()
    }

    #[test]
    fn signature_of_another_implementation_is_valid() {
        assert_eq!(parsed().sent_at, TIME);
        let secrets = [SECRET.into()];
        assert!(parsed().is_valid(BODY.as_bytes(), &secrets));
        let other = BODY.replace("/app", "/web");
        assert!(!parsed().is_valid(other.as_bytes(), &secrets));
        assert!(!parsed().is_valid(BODY.as_bytes(), &["other".into()]));
    }

    #[test]
    fn malformed_header_is_refused() {
        for header in [
            "",
            "t=1700000000123",
            "t=1700000000123;",
            &format!("t=;{CODE}"),
            &format!("{TIME};{CODE}"),
            &format!("t={TIME};{CODE};{CODE}"),
            &format!("t={TIME},v1={CODE}"),
        ] {
            let parsed = signature(&headers(HEADER.as_str(), &[header]));
            assert_eq!(status(parsed.map(drop)), Err(400), "{header}");
        }
        assert_eq!(
            status(signature(&HeaderMap::new()).map(drop)),
            Err(401),
            "no header"
        );
    }

    #[test]
    fn time_of_the_header_must_be_the_signed_one() {
        let scope = InfisicalScope::new();
        let change = |body: &str| status(change(&parsed(), body.as_bytes(), &scope));
        assert_eq!(change(BODY), Ok(Some(Change::All)));
        for time in ["1700000000124", "\"1700000000123\"", "1.700000000123e12x"] {
            let body = BODY.replace("1700000000123", time);
            assert!(matches!(change(&body), Err(400 | 401)), "{time}");
        }
        assert_eq!(change(r#"{"event":"secrets.modified"}"#), Err(401));
        for body in ["", "t=1", "[", "\u{FEFF}{}"] {
            assert_eq!(change(body), Err(400), "{body}");
        }
    }

    #[test]
    fn only_changes_within_the_scope_count() {
        let app = InfisicalScope::new()
            .project("63f1")
            .environment("prod")
            .folder("app/");
        let all = InfisicalScope::new();
        let in_folder = |path: &str| BODY.replace("\"/app\"", &format!("\"{path}\""));
        let event = |name: &str| BODY.replace("secrets.modified", name);
        for (scope, body, expected) in [
            (&app, BODY.to_owned(), true),
            (&app, in_folder("/app/db"), true),
            (&app, in_folder("/"), false),
            (&app, in_folder("/apples"), false),
            (&app, BODY.replace("\"prod\"", "\"dev\""), false),
            (&app, BODY.replace("63f1", "63f2"), false),
            // Older servers do not send `projectId`.
            (&app, BODY.replace("projectId", "other"), true),
            (&app, BODY.replace("secretPath", "other"), true),
            (&app, BODY.replace("project\"", "text\""), true),
            (&all, in_folder("/"), true),
            (&all, event("secrets.new-event"), true),
            (&all, event("test"), false),
            (&all, event("secrets.rotation-failed"), false),
            (&all, BODY.replace("\"event\"", "\"text\""), true),
        ] {
            let change = change(&parsed(), body.as_bytes(), scope).unwrap();
            assert_eq!(change.is_some(), expected, "{body}");
        }
    }
}
