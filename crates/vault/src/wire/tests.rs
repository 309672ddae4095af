//! What was recorded on a real OpenBao 2.7.2 is taken for what it meant there.

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
        let told = match Vault.classify(&response) {
            Outcome::Success => self.told(&response),
            Outcome::Fatal(error) => Err(error),
            Outcome::NextEndpoint(error) if Vault.did_nothing(&response) => {
                return format!("another server, or {}", said(&error));
            }
            Outcome::NextEndpoint(error) => {
                return format!("another server unless once, or {}", said(&error));
            }
            Outcome::StaleReplica(error) => return format!("a newer server, or {}", said(&error)),
            Outcome::RetryAfter(wait, error) => {
                return format!("after {wait:?}, or {}", said(&error));
            }
            other => panic!("unexpected outcome: {other:?}"),
        };
        told.unwrap_or_else(|error| said(&error))
    }

    fn told(&self, response: &Response) -> Result<String, Error> {
        if response.status == StatusCode::FORBIDDEN
            && self.what != "login"
            && forbidden(response) == Some(Forbidden::BadToken)
        {
            return Ok("a new login".into());
        }
        let granted = |grant: secretwell_http::TokenLease| match (grant.lifetime, grant.renewable) {
            (None, _) => "a token without end".to_owned(),
            (Some(time), true) => format!("a token for {time:?}, renewable"),
            (Some(time), false) => format!("a token for {time:?}"),
        };
        let document = |document: Document| {
            let fields = document.names().count();
            let version = document
                .version
                .map_or_else(String::new, |v| format!(", version {v}"));
            format!("{fields} fields{version}")
        };
        Ok(match self.what.as_str() {
            "read" => document(read_v2(response)?),
            "read1" => document(read_v1(response)?),
            "health" if ahead_of_standby(response).is_some() => "a standby".into(),
            "health" => "not a standby that is known to lag".into(),
            "seal" => match seal_status(response) {
                Some(error) => return Err(error),
                None => "initialized".into(),
            },
            "creds" => {
                let read = read_v1(response)?;
                format!("{} for {:?}", document(read), leased(response)?.duration)
            }
            "lease" => format!("a lease for {:?}", lease_answer(response)?.duration),
            "mount" => format!("{:?}", mount(response)?),
            "list" => format!("{} names", listed(response)?.len()),
            "lookup" => granted(looked_up(response, &"token".into())?),
            "unwrap" => unwrapped_secret_id(response).map(|_| "a secret id".into())?,
            _ if response.status.is_success() => granted(grant(response)?),
            _ => return Err(login_refused(response)),
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

/// What was not recorded: the states of a failover, as they were seen, and what is said of HashiCorp Vault.
#[test]
fn what_was_seen_or_told_elsewhere_is_understood_as_well() {
    let exchange = |what: &str, status, error: &str| Exchange {
        name: String::new(),
        what: what.into(),
        status,
        headers: BTreeMap::new(),
        body: serde_json::json!({ "errors": [error] }).to_string(),
    };
    for (what, status, error, meaning) in [
        (
            "read",
            500,
            "local node not active but active cluster node not found",
            "another server, or unavailable: there is no active server",
        ),
        (
            "creds",
            500,
            "leadership lost while committing log",
            "another server unless once, or unavailable: there is no active server",
        ),
        (
            "login",
            400,
            "cannot write to readonly storage",
            "another server, or unavailable: a standby cannot do this",
        ),
        (
            "read",
            400,
            "Waiting for the primary to upgrade from non-versioned to versioned data",
            "another server, or unavailable: the server is being upgraded",
        ),
        (
            "read",
            502,
            "bad gateway",
            "another server unless once, or unavailable: the server is not ready",
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
