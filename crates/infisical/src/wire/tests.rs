//! Tests of the interpretation of responses, most of them recorded on a real server of October 2024.

use std::collections::BTreeMap;
use std::fmt::Write;

use http::{Method, StatusCode};
use serde::Deserialize;

use super::*;
use crate::reference::references;

const EXCHANGES: &str = include_str!("../../fixtures/exchanges.jsonl");
const MEANINGS: &str = include_str!("../../fixtures/meanings.txt");

#[derive(Deserialize)]
struct Exchange {
    name: String,
    /// The kind of request: `login`, `renew`, `list`, `single`, `folders` or a project.
    #[serde(rename = "what")]
    request: String,
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Exchange {
    fn request(&self) -> Request {
        let (method, path) = match self.request.as_str() {
            "login" => (Method::POST, "/api/v1/auth/universal-auth/login"),
            "renew" => (Method::POST, "/api/v1/auth/token/renew"),
            "list" => (Method::GET, "/api/v3/secrets/raw?environment=dev"),
            "single" => (Method::GET, "/api/v3/secrets/raw/A?environment=dev"),
            "folders" => (Method::GET, "/api/v1/folders?environment=dev"),
            _ => (Method::GET, "/api/v2/workspace/demo-app"),
        };
        Request::new(method, path)
    }

    fn response(&self) -> Response {
        let header = |(name, value): (&String, &String)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        };
        Response::new(
            StatusCode::from_u16(self.status).unwrap(),
            self.headers.iter().map(header).collect(),
            self.body.clone().into_bytes(),
        )
    }

    /// Returns the caller's result as text.
    fn meaning(&self) -> String {
        let response = self.response();
        let text = |error: &Error| format!("{}: {}", error.kind(), error.message());
        // The client handles the response to a conditional request.
        if response.status == StatusCode::NOT_MODIFIED {
            return "the cached list".into();
        }
        let (protocol, request) = (InfisicalProtocol::default(), self.request());
        if !protocol.recognizes(&request, &response) {
            return "another program responded".into();
        }
        let result = match protocol.classify(&request, &response) {
            Outcome::Success => self.success(&response),
            Outcome::Fatal(error) => Err(error),
            Outcome::ServerError(error) => return format!("repeated, or {}", text(&error)),
            Outcome::NextEndpoint(error) => return format!("next address, or {}", text(&error)),
            Outcome::StaleReplica(error) => return format!("newer replica, or {}", text(&error)),
            Outcome::RetryAfter(wait, error) => {
                return format!("retry after {wait:?}, or {}", text(&error));
            }
            other => panic!("unexpected outcome: {other:?}"),
        };
        result.unwrap_or_else(|error| text(&error))
    }

    /// Interprets a response that the HTTP client returns to the caller.
    fn success(&self, response: &Response) -> Result<String, Error> {
        if !matches!(self.request.as_str(), "login" | "renew") && is_token_rejected(response) {
            return Ok("a new login".into());
        }
        if !matches!(self.request.as_str(), "login" | "renew") && is_unknown_route(response) {
            return Ok("another version of the API".into());
        }
        Ok(match self.request.as_str() {
            "login" | "renew" => {
                let login = parse_login(response)?;
                format!(
                    "a token, lifetime {:?}, maximum {:?}",
                    login.lifetime, login.max_lifetime
                )
            }
            "list" => {
                let scope = Scope {
                    folder: "/",
                    recursive: false,
                    view: View::Expanded,
                    personal: false,
                };
                let (own, imported) = Listing::parse(response, scope)?.counts();
                format!("{own} secrets and {imported} imported")
            }
            "single" => {
                let body: serde_json::Value =
                    serde_json::from_slice(&response.body).unwrap_or_default();
                let name = body["secret"]["secretKey"].as_str().unwrap_or_default();
                let entry = parse_single(response, name)?;
                let secret = entry.secret()?;
                let reference = references(secret.value.expose_text()?).next();
                let reference = reference.map_or_else(String::new, |reference| {
                    format!(", unexpanded `{}`", reference.name)
                });
                format!(
                    "{} bytes, version {}{reference}",
                    secret.value.len(),
                    entry.version()
                )
            }
            "folders" => format!("folders {}", folder_names(response)?.join(", ")),
            _ => format!("project {}", project_id(response)?),
        })
    }
}

#[test]
fn every_recorded_response_is_recognized() {
    for line in EXCHANGES.lines() {
        let exchange: Exchange = serde_json::from_str(line).unwrap();
        let response = exchange.response();
        let is_recognized = InfisicalProtocol::default().recognizes(&exchange.request(), &response);
        let is_expected = response.status != StatusCode::NOT_MODIFIED;
        assert_eq!(is_recognized, is_expected, "{}", exchange.name);
    }
}

/// To print the current meanings, set `SECRETWELL_PRINT_MEANINGS` and run this test with `--nocapture`.
#[test]
fn recorded_exchanges_have_the_expected_meaning() {
    let mut meanings = String::new();
    for line in EXCHANGES.lines() {
        let exchange: Exchange = serde_json::from_str(line).unwrap();
        let (status, name) = (exchange.status, &exchange.name);
        writeln!(meanings, "{status} {name} -> {}", exchange.meaning()).unwrap();
    }
    if std::env::var_os("SECRETWELL_PRINT_MEANINGS").is_some() {
        print!("{meanings}");
    }
    for (found, expected) in meanings.lines().zip(MEANINGS.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(meanings.lines().count(), MEANINGS.lines().count());
}

/// Returns the meaning of a response with this error name and message, to a list, a login or a renewal.
fn meaning(request: &str, status: u16, error: &str, message: &str) -> String {
    let body = format!(r#"{{"statusCode":{status},"message":{message},"error":"{error}"}}"#);
    meaning_of_body(request, status, body)
}

fn meaning_of_body(request: &str, status: u16, body: String) -> String {
    let exchange = Exchange {
        name: String::new(),
        request: request.into(),
        status,
        headers: BTreeMap::new(),
        body,
    };
    exchange.meaning()
}

#[test]
fn error_with_an_unknown_name_is_neither_a_refusal_nor_an_absence() {
    const MESSAGES: [&str; 4] = ["x", "Access denied", "Reference #18.2f3a", "not a member"];
    for request in ["list", "single", "folders", "login", "renew"] {
        for (status, message) in [401, 403, 404]
            .map(|status| MESSAGES.map(|text| (status, text)))
            .concat()
        {
            let body =
                format!(r#""statusCode":{status},"message":"{message}","error":"WAFBlocked""#);
            let found = meaning_of_body(request, status, format!("{{{body}}}"));
            assert_eq!(found, "another program responded", "{body}");
            // The server sends the id of the request, but this name is not known.
            let found = meaning_of_body(request, status, format!(r#"{{"reqId":"r",{body}}}"#));
            let is_login = ["login", "renew"].contains(&request);
            let is_known_reason = is_login && message == "Access denied";
            assert_eq!(
                found.starts_with("unavailable: "),
                !is_known_reason,
                "{body}: {found}"
            );
        }
    }
    let body = r#"{"reqId":"r","statusCode":401,"message":"x","error":"TokenIsGone"}"#;
    assert_eq!(meaning_of_body("list", 401, body.into()), "a new login");
}

#[test]
fn error_name_takes_precedence_over_status() {
    const TEXT: &str = r#""Something is wrong""#;
    const NOT_A_MEMBER: &str = r#""Identity is not a member of the specified project""#;
    const REFERENCE: &str = r#""You are attempting to reference secret named X""#;
    const SIMILAR: &str =
        r#""You are not allowed to read secrets at path '/preferences/reference'""#;
    const ISSUES: &str = r#"[{"code":"invalid_type","path":["x"],"message":"Required"}]"#;
    const USES: &str = r#""Unable to renew because access token number of uses limit reached""#;
    const PLACE: &str = r#""Folder with path '/x' in environment 'qa' was not found.""#;
    const UNKNOWN: &str = "unavailable: the server responded with status";
    let environment = "invalid configuration: the project does not have this environment";
    let denied = "denied: the login has no permission to read this";
    let not_a_member = "denied: the machine identity is not a member of the project";
    let reference = "denied: the login has no permission to read a referenced secret";
    let invalid = "invalid configuration: the server rejected the request as invalid";
    for (name, message, statuses, expected) in [
        // The statuses of servers before August 2024, then of later ones, then of 2025 if they differ.
        ("PermissionDenied", TEXT, &[401, 403][..], denied),
        ("UnauthorizedError", TEXT, &[403, 401], "a new login"),
        ("ValidationFailure", ISSUES, &[403, 401, 422], invalid),
        ("ValidationFailure", TEXT, &[403, 401, 422], invalid),
        ("TokenError", TEXT, &[403, 401], "a new login"),
        ("ForbiddenError", TEXT, &[401, 403], denied),
        ("ForbiddenError", REFERENCE, &[401, 403], reference),
        ("ForbiddenError", SIMILAR, &[401, 403], denied),
        ("ForbiddenError", NOT_A_MEMBER, &[401, 403], not_a_member),
        ("PolicyViolationError", TEXT, &[403], denied),
        ("Identity is not a member", TEXT, &[401, 403], not_a_member),
        ("BadRequest", TEXT, &[400], invalid),
        // Dead tokens of servers before August 2024.
        ("BadRequest", USES, &[400], "a new login"),
        (
            "Internal Server Error",
            r#""jwt expired""#,
            &[500],
            "a new login",
        ),
        (
            "Internal Server Error",
            r#""invalid token""#,
            &[500],
            "a new login",
        ),
        // The validation error of newer servers.
        ("ValidationError", TEXT, &[400], invalid),
        (
            "NotFound",
            r#""Environment with slug 'qa' in project with ID 'x' not found""#,
            &[404],
            environment,
        ),
        (
            "Internal Server Error",
            r#""'qa' environment not found in project x""#,
            &[500],
            environment,
        ),
        (
            "BadRequest",
            r#""Environment not found""#,
            &[400],
            environment,
        ),
        (
            "SecretPathNotFound",
            PLACE,
            &[404],
            "not found: the folder does not exist",
        ),
    ] {
        for status in statuses {
            for request in ["list", "single"] {
                let found = meaning(request, *status, name, message);
                assert!(found.starts_with(expected), "{status} {name}: {found}");
            }
        }
    }
    const LOGIN_ROUTE: &str = r#""Route POST:/api/v1/auth/jwt-auth/login not found""#;
    const WRONG_PATH: &str = r#""Route POST:/api/v3/api/v1/auth/universal-auth/login not found""#;
    let invalid = "not authenticated: the server rejected the login request as invalid";
    let refused = "not authenticated: the login was refused";
    for (name, message, statuses, expected) in [
        ("ValidationFailure", ISSUES, &[403, 401, 422][..], invalid),
        ("UnauthorizedError", TEXT, &[403, 401], refused),
        ("PermissionDenied", TEXT, &[401, 403], refused),
        ("ForbiddenError", TEXT, &[403], refused),
        ("BadRequest", TEXT, &[400], refused),
        ("NotFound", TEXT, &[404], UNKNOWN),
        (
            "KubernetesTokenReviewError",
            TEXT,
            &[401],
            "not authenticated: the cluster's API server refused",
        ),
        (
            "KubernetesTokenReviewRequestError",
            TEXT,
            &[401],
            "unavailable: the cluster's API server",
        ),
        (
            "UnauthorizedError",
            r#""It is temporarily locked""#,
            &[401],
            "rate limited",
        ),
        (
            "UnauthorizedError",
            r#""This address is blocked""#,
            &[401],
            refused,
        ),
        (
            "Not Found",
            LOGIN_ROUTE,
            &[404],
            "unsupported: the server does not have this login method",
        ),
        (
            "Not Found",
            WRONG_PATH,
            &[404],
            "invalid configuration: the server has no Infisical API at the path `/api/v3`",
        ),
    ] {
        for status in statuses {
            for request in ["login", "renew"] {
                let found = meaning(request, *status, name, message);
                assert!(found.starts_with(expected), "{status} {name}: {found}");
            }
        }
    }
}

#[test]
fn lifetime_of_a_token_can_have_a_fraction_and_is_bounded() {
    let lifetimes = |expires_in: &str| {
        let body = format!(
            r#"{{"accessToken":"t","expiresIn":{expires_in},"accessTokenMaxTTL":{expires_in}}}"#
        );
        meaning_of_body("login", 200, body)
    };
    let century = "3153600000s";
    for (expires_in, expected) in [
        ("39.5", Some("39.5s")),
        ("60", Some("60s")),
        ("1e300", Some(century)),
        ("18446744073709551615", Some(century)),
        ("0", None),
        ("-1", None),
    ] {
        let expected = expected.map_or("None".into(), |text| format!("Some({text})"));
        let expected = format!("a token, lifetime {expected}, maximum {expected}");
        assert_eq!(lifetimes(expires_in), expected);
    }
}
