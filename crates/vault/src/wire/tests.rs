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
    fn reply(&self) -> Reply {
        let header = |(name, value): (&String, &String)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        };
        Reply {
            status: StatusCode::from_u16(self.status).unwrap(),
            headers: self.headers.iter().map(header).collect(),
            body: Zeroizing::new(self.body.clone().into_bytes()),
            behind: false,
        }
    }

    /// What a caller gets of it.
    fn meaning(&self) -> String {
        let reply = self.reply();
        let said = |error: &Error| format!("{}: {}", error.kind(), error.message());
        let told = match Vault.judge(&reply) {
            Verdict::Answer => self.told(&reply),
            Verdict::Refusal(error) => Err(error),
            Verdict::Elsewhere(error) => return format!("another server, or {}", said(&error)),
            Verdict::Behind(error) => return format!("a newer server, or {}", said(&error)),
            Verdict::Later(wait, error) => return format!("after {wait:?}, or {}", said(&error)),
        };
        told.unwrap_or_else(|error| said(&error))
    }

    fn told(&self, reply: &Reply) -> Result<String, Error> {
        if reply.status == StatusCode::FORBIDDEN
            && self.what != "login"
            && forbidden(reply) == Some(Forbidden::BadToken)
        {
            return Ok("a new login".into());
        }
        let granted = |grant: secretwell_http::Grant| match (grant.lifetime, grant.renewable) {
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
            "read" => document(read_v2(reply)?),
            "creds" => {
                let read = read_v1(reply)?;
                format!("{} for {:?}", document(read), leased(reply)?.duration)
            }
            "lease" => format!("a lease for {:?}", lease_answer(reply)?.duration),
            "mount" => format!("{:?}", mount(reply)?),
            "list" => format!("{} names", listed(reply)?.len()),
            "lookup" => granted(looked_up(reply, &"token".into())?),
            "unwrap" => unwrapped_secret_id(reply).map(|_| "a secret id".into())?,
            _ if reply.status.is_success() => granted(grant(reply)?),
            _ => return Err(login_refused(reply)),
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
