//! Tests of the interpretation of responses, most of them recorded on a real server of October 2024.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::*;

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
        let result = match InfisicalProtocol::default().classify(&response) {
            Outcome::Success => self.success(&response),
            Outcome::Fatal(error) => Err(error),
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
        if is_unknown_route(response) {
            return Ok("another version of the API".into());
        }
        if response.status == StatusCode::NOT_MODIFIED {
            return Ok("the cached list".into());
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
                let listing = Listing::parse(response, false)?;
                let (own, imported) = listing.counts();
                format!("{own} secrets and {imported} imported")
            }
            "single" => {
                let entry = parse_single(response)?;
                let secret = entry.secret()?;
                let reference = find_reference(secret.value.expose_text()?);
                let reference =
                    reference.map_or_else(String::new, |name| format!(", unexpanded `{name}`"));
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
    let exchange = Exchange {
        name: String::new(),
        request: request.into(),
        status,
        headers: BTreeMap::new(),
        body: format!(r#"{{"statusCode":{status},"message":{message},"error":"{error}"}}"#),
    };
    exchange.meaning()
}

#[test]
fn error_name_takes_precedence_over_status() {
    const TEXT: &str = r#""Something is wrong""#;
    const NOT_A_MEMBER: &str = r#""Identity is not a member of the specified project""#;
    const REFERENCE: &str = r#""You are attempting to reference secret named X""#;
    const ISSUES: &str = r#"[{"code":"invalid_type","path":["x"],"message":"Required"}]"#;
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
        ("ForbiddenError", NOT_A_MEMBER, &[401, 403], not_a_member),
        ("PolicyViolationError", TEXT, &[403], denied),
        ("Identity is not a member", TEXT, &[401, 403], not_a_member),
        ("BadRequest", TEXT, &[400], invalid),
        // A rejected token whose error has an unknown name.
        ("Identity token is gone", TEXT, &[401], "a new login"),
    ] {
        for status in statuses {
            let found = meaning("list", *status, name, message);
            assert_eq!(found, expected, "{status} {name}");
            let found = meaning("single", *status, name, message);
            assert_eq!(found, expected, "{status} {name}");
        }
    }
    let invalid = "not authenticated: the server rejected the login request as invalid";
    let refused = "not authenticated: the login was refused";
    for (name, message, statuses, expected) in [
        ("ValidationFailure", ISSUES, &[403, 401, 422][..], invalid),
        ("UnauthorizedError", TEXT, &[403, 401], refused),
        ("PermissionDenied", TEXT, &[401, 403], refused),
        ("ForbiddenError", TEXT, &[403], refused),
    ] {
        for status in statuses {
            for request in ["login", "renew"] {
                let found = meaning(request, *status, name, message);
                assert_eq!(found, expected, "{status} {name}");
            }
        }
    }
}
