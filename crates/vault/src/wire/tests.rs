//! Classification of exchanges that were recorded on OpenBao 2.7.2.

use std::collections::BTreeMap;
use std::fmt::Write;

use http::StatusCode;
use secretwell_core::Error;
use secretwell_http::{Outcome, Protocol, Request, Response};
use serde::Deserialize;

use super::*;

const EXCHANGES: &str = include_str!("../../fixtures/exchanges.jsonl");
const MEANINGS: &str = include_str!("../../fixtures/meanings.txt");

#[derive(Deserialize)]
struct Exchange {
    name: String,
    what: String,
    /// The path of the request, where the meaning depends on it.
    #[serde(default)]
    path: String,
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

    /// Describes what a caller of the provider observes.
    fn meaning(&self) -> String {
        let response = self.response();
        let text = |error: &Error| format!("{}: {}", error.kind(), error.message());
        let request = Request::new(http::Method::GET, self.path.as_str());
        let is_confirmation = self.what == "lease" && self.status == 204;
        if !is_confirmation && !Vault.recognizes(&request, &response) {
            return "not from the server".into();
        }
        let result = match Vault.classify(&request, &response) {
            Outcome::Success => self.parsed(&response),
            Outcome::Fatal(error) => Err(error),
            Outcome::NextEndpoint(error) if Vault.did_nothing(&request, &response) => {
                return format!("another server, or {}", text(&error));
            }
            Outcome::NextEndpoint(error) => {
                return format!("another server if idempotent, or {}", text(&error));
            }
            Outcome::ServerError(error) if Vault.did_nothing(&request, &response) => {
                panic!("the reason is known: {error}")
            }
            Outcome::ServerError(error) => {
                return format!("few attempts if idempotent, or {}", text(&error));
            }
            Outcome::StaleReplica(error) => return format!("a newer server, or {}", text(&error)),
            Outcome::RetryAfter(wait, error) => {
                return format!("after {wait:?}, or {}", text(&error));
            }
            other => panic!("unexpected outcome: {other:?}"),
        };
        result.unwrap_or_else(|error| text(&error))
    }

    fn parsed(&self, response: &Response) -> Result<String, Error> {
        if response.status == StatusCode::FORBIDDEN
            && self.what != "login"
            && forbidden(response) == Some(Forbidden::BadToken)
        {
            return Ok("a new login".into());
        }
        let lease = |lease: secretwell_http::TokenLease| match (lease.lifetime, lease.renewable) {
            (None, _) => "a token without expiry".to_owned(),
            (Some(time), true) => format!("a token for {time:?}, renewable"),
            (Some(time), false) => format!("a token for {time:?}"),
        };
        let refusal = |failure: &secretwell_http::LoginFailure| {
            let held = if failure.hold { ", held back" } else { "" };
            format!(
                "{}: {}{held}",
                failure.error.kind(),
                failure.error.message()
            )
        };
        let document = |document: Document| {
            let fields = document.names().count();
            let version = document
                .version
                .map_or_else(String::new, |v| format!(", version {v}"));
            format!("{fields} fields{version}")
        };
        Ok(match self.what.as_str() {
            "read" => document(read_v2(response, "the/path")?),
            "read1" => document(read_v1(response, "the/path")?),
            "health" if Health::parse(response).is_some_and(|health| health.can_be_stale()) => {
                "a standby".into()
            }
            "health" => "not a standby that is known to lag".into(),
            "seal" => match seal_status(response) {
                Some(error) => return Err(error),
                None => "initialized".into(),
            },
            "creds" => {
                let read = read_v1(response, "the/path")?;
                format!(
                    "{} for {:?}",
                    document(read),
                    lease_info(response)?.duration
                )
            }
            "lease" => format!("a lease for {:?}", updated_lease(response)?.duration),
            "mount" => format!("{:?}", mount(response, "name")?.kv),
            "list" => format!("{} names", listed(response, "the/path")?.len()),
            "lookup" => lease(looked_up_token(response, &"token".into())?),
            "unwrap" => match unwrapped_secret_id(response) {
                Ok(_) => "a secret id".into(),
                Err(failure) => return Ok(refusal(&failure)),
            },
            _ if response.status.is_success() => lease(token_lease(response)?),
            _ => return Ok(refusal(&login_refused(response, "approle"))),
        })
    }
}

#[test]
fn recorded_exchanges_have_the_expected_meanings() {
    let mut meanings = String::new();
    for line in EXCHANGES.lines() {
        let exchange: Exchange = serde_json::from_str(line).unwrap();
        let (status, name) = (exchange.status, &exchange.name);
        writeln!(meanings, "{status} {name} -> {}", exchange.meaning()).unwrap();
    }
    if std::env::var_os("SECRETWELL_PRINT_MEANINGS").is_some() {
        print!("{meanings}");
    }
    for (actual, expected) in meanings.lines().zip(MEANINGS.lines()) {
        assert_eq!(actual, expected);
    }
    assert_eq!(meanings.lines().count(), MEANINGS.lines().count());
}

/// Responses that are not in the recording: those of a failover, and those known from HashiCorp Vault.
#[test]
fn failover_and_hashicorp_responses_have_the_expected_meanings() {
    let exchange = |what: &str, status, error: &str| Exchange {
        name: String::new(),
        what: what.into(),
        path: String::new(),
        status,
        headers: BTreeMap::new(),
        body: serde_json::json!({ "errors": [error] }).to_string(),
    };
    for (what, status, error, meaning) in [
        (
            "read",
            500,
            "local node not active but active cluster node not found",
            "another server, or unavailable: the cluster has no active server",
        ),
        (
            "creds",
            500,
            "leadership lost while committing log",
            "another server if idempotent, or unavailable: the cluster has no active server",
        ),
        (
            "login",
            400,
            "cannot write to readonly storage",
            "another server, or unavailable: the server is a standby, which cannot do this",
        ),
        (
            "read",
            400,
            "Waiting for the primary to upgrade from non-versioned to versioned data",
            "another server, or unavailable: the server is being upgraded",
        ),
        (
            "read1",
            400,
            "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly.",
            "another server, or unavailable: the server is being upgraded",
        ),
        (
            "read",
            502,
            "bad gateway",
            "another server if idempotent, or unavailable: the server is not ready",
        ),
        (
            "login",
            500,
            "Vault is sealed",
            "another server, or unavailable: the server is sealed",
        ),
        (
            "read",
            500,
            "context canceled",
            "another server if idempotent, or unavailable: the server is shutting down",
        ),
        (
            "login",
            404,
            "unsupported path",
            "invalid configuration: the login method does not exist at this mount",
        ),
        (
            "creds",
            404,
            "1 error occurred:\n\t* unsupported path\n\n",
            "invalid configuration: the engine at the mount has no such path",
        ),
        (
            "login",
            401,
            "a reason of a plugin",
            "not authenticated: the login was refused",
        ),
        (
            "login",
            405,
            "unsupported operation",
            "invalid configuration: the login method does not exist at this mount",
        ),
        (
            "creds",
            405,
            "unsupported operation",
            "invalid configuration: the path does not support this request",
        ),
        (
            "read",
            403,
            "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",
            "a new login",
        ),
    ] {
        assert_eq!(exchange(what, status, error).meaning(), meaning);
    }
}

#[test]
fn unknown_reason_is_neither_an_absence_nor_a_refusal() {
    for what in [
        "read", "read1", "creds", "list", "lease", "mount", "lookup", "unwrap", "login",
    ] {
        for status in [401, 403, 404, 409, 422] {
            // A login is refused with 401 and 403 for many reasons of its method.
            let is_refusal = match what {
                "login" => matches!(status, 401 | 403),
                _ => status == 403 && matches!(what, "unwrap" | "lease"),
            };
            if is_refusal {
                continue;
            }
            let exchange = Exchange {
                name: String::new(),
                what: what.into(),
                path: String::new(),
                status,
                headers: BTreeMap::new(),
                body: r#"{"errors":["a new reason"]}"#.into(),
            };
            let expected = format!(
                "unavailable: the server responded with status {status} for an unknown reason"
            );
            assert_eq!(exchange.meaning(), expected, "{what}");
        }
    }
}

#[test]
fn metadata_is_an_absence_only_with_the_time_of_a_deletion_or_a_destruction() {
    const UNKNOWN: &str = "unavailable: the server responded with status 404 for an unknown reason";
    for (metadata, meaning) in [
        (
            r#"{"deletion_time":"2026-01-31T08:00:00Z","destroyed":false}"#,
            "not found: this version of `the/path` was deleted",
        ),
        (
            r#"{"deletion_time":"","destroyed":true}"#,
            "not found: this version of `the/path` was destroyed",
        ),
        (r#"{"deletion_time":"","destroyed":false}"#, UNKNOWN),
        (r#"{"deletion_time":"2026-01-31T08:00:00Z"}"#, UNKNOWN),
        (r#"{"destroyed":true}"#, UNKNOWN),
        ("{}", UNKNOWN),
        ("[]", UNKNOWN),
        ("null", UNKNOWN),
    ] {
        let data = format!(r#"{{"data":null,"metadata":{metadata}}}"#);
        let exchange = Exchange {
            name: String::new(),
            what: "read".into(),
            path: String::new(),
            status: 404,
            headers: BTreeMap::new(),
            body: format!(r#"{{"request_id":"r","lease_id":"","data":{data}}}"#),
        };
        assert_eq!(exchange.meaning(), meaning, "{metadata}");
    }
}
