//! What was recorded on a real server of October 2024 is taken for what it meant there.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::*;

const EXCHANGES: &str = include_str!("../../fixtures/exchanges.jsonl");
const MEANINGS: &str = include_str!("../../fixtures/meanings.txt");

#[derive(Deserialize)]
struct Exchange {
    name: String,
    what: String,
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

    /// What a caller gets of it.
    fn meaning(&self) -> String {
        let response = self.response();
        let said = |error: &Error| format!("{}: {}", error.kind(), error.message());
        let told = match Infisical::default().classify(&response) {
            Outcome::Success => self.told(&response),
            Outcome::Fatal(error) => Err(error),
            Outcome::NextEndpoint(error) => return format!("asked again, or {}", said(&error)),
            Outcome::StaleReplica(error) => return format!("a newer server, or {}", said(&error)),
            Outcome::RetryAfter(wait, error) => {
                return format!("after {wait:?}, or {}", said(&error));
            }
            other => panic!("unexpected outcome: {other:?}"),
        };
        told.unwrap_or_else(|error| said(&error))
    }

    fn told(&self, response: &Response) -> Result<String, Error> {
        if !matches!(self.what.as_str(), "login" | "renew") && is_dead_token(response) {
            return Ok("a new login".into());
        }
        if is_unknown_route(response) {
            return Ok("another version of the API".into());
        }
        if response.status == StatusCode::NOT_MODIFIED {
            return Ok("the list that is held".into());
        }
        Ok(match self.what.as_str() {
            "login" | "renew" => {
                let granted = granted(response)?;
                format!(
                    "a token for {:?}, at most {:?}",
                    granted.lifetime, granted.maximum
                )
            }
            "list" => {
                let listing = Listing::of(response, false)?;
                let (own, imported) = listing.counts();
                format!("{own} secrets and {imported} imported")
            }
            "single" => {
                let entry = single(response)?;
                let secret = entry.secret()?;
                let left = leftover(secret.value.expose_text()?);
                let left = left.map_or_else(String::new, |name| format!(", `{name}` left"));
                format!(
                    "{} bytes, version {}{left}",
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
fn recorded_exchanges_mean_what_they_meant() {
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

/// What a caller gets of an answer with this name and message, to a list, a login or a renewal.
fn meaning(what: &str, status: u16, error: &str, message: &str) -> String {
    let exchange = Exchange {
        name: String::new(),
        what: what.into(),
        status,
        headers: BTreeMap::new(),
        body: format!(r#"{{"statusCode":{status},"message":{message},"error":"{error}"}}"#),
    };
    exchange.meaning()
}

#[test]
fn the_name_of_an_error_counts_before_its_status() {
    const TEXT: &str = r#""Something is wrong""#;
    const NO_MEMBER: &str = r#""Identity is not a member of the specified project""#;
    const REFERENCE: &str = r#""You are attempting to reference secret named X""#;
    const LISTED: &str = r#"[{"code":"invalid_type","path":["x"],"message":"Required"}]"#;
    let denied = "denied: the login may not read this";
    let no_member = "denied: the machine identity is no member of the project";
    let referred = "denied: the login may not read what this refers to";
    let not_taken = "invalid configuration: the server does not take the request";
    for (name, message, statuses, expected) in [
        // Before August 2024, since then, and newer ones where they differ once more.
        ("PermissionDenied", TEXT, &[401, 403][..], denied),
        ("UnauthorizedError", TEXT, &[403, 401], "a new login"),
        ("ValidationFailure", LISTED, &[403, 401, 422], not_taken),
        ("ValidationFailure", TEXT, &[403, 401, 422], not_taken),
        ("TokenError", TEXT, &[403, 401], "a new login"),
        ("ForbiddenError", TEXT, &[401, 403], denied),
        ("ForbiddenError", REFERENCE, &[401, 403], referred),
        ("ForbiddenError", NO_MEMBER, &[401, 403], no_member),
        ("PolicyViolationError", TEXT, &[403], denied),
        ("Identity is not a member", TEXT, &[401, 403], no_member),
        ("BadRequest", TEXT, &[400], not_taken),
        // A dead token by a name of its own.
        ("Identity token is gone", TEXT, &[401], "a new login"),
    ] {
        for status in statuses {
            let found = meaning("list", *status, name, message);
            assert_eq!(found, expected, "{status} {name}");
            let found = meaning("single", *status, name, message);
            assert_eq!(found, expected, "{status} {name}");
        }
    }
    let form = "not authenticated: the server does not take the form of the login";
    let refused = "not authenticated: the login was refused";
    for (name, message, statuses, expected) in [
        ("ValidationFailure", LISTED, &[403, 401, 422][..], form),
        ("UnauthorizedError", TEXT, &[403, 401], refused),
        ("PermissionDenied", TEXT, &[401, 403], refused),
        ("ForbiddenError", TEXT, &[403], refused),
    ] {
        for status in statuses {
            for what in ["login", "renew"] {
                let found = meaning(what, *status, name, message);
                assert_eq!(found, expected, "{status} {name}");
            }
        }
    }
}
