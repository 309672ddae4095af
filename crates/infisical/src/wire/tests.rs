//! What was recorded on a real server of October 2024 is taken for what it meant there.

use std::collections::BTreeMap;
use std::fmt::Write;

use zeroize::Zeroizing;

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
        let told = match Infisical.judge(&reply) {
            Verdict::Answer => self.told(&reply),
            Verdict::Refusal(error) => Err(error),
            Verdict::Elsewhere(error) => return format!("asked again, or {}", said(&error)),
            Verdict::Behind(error) => return format!("a newer server, or {}", said(&error)),
            Verdict::Later(wait, error) => return format!("after {wait:?}, or {}", said(&error)),
        };
        told.unwrap_or_else(|error| said(&error))
    }

    fn told(&self, reply: &Reply) -> Result<String, Error> {
        if !matches!(self.what.as_str(), "login" | "renew") && is_dead_token(reply) {
            return Ok("a new login".into());
        }
        if is_unknown_route(reply) {
            return Ok("another version of the API".into());
        }
        if reply.status == StatusCode::NOT_MODIFIED {
            return Ok("the list that is held".into());
        }
        Ok(match self.what.as_str() {
            "login" | "renew" => {
                let granted = granted(reply)?;
                format!(
                    "a token for {:?}, at most {:?}",
                    granted.lifetime, granted.maximum
                )
            }
            "list" => {
                let listing = Listing::of(reply, false)?;
                let (own, imported) = listing.counts();
                format!("{own} secrets and {imported} imported")
            }
            "single" => {
                let entry = single(reply)?;
                let secret = entry.secret()?;
                let left = leftover(secret.value.expose_text()?);
                let left = left.map_or_else(String::new, |name| format!(", `{name}` left"));
                format!(
                    "{} bytes, version {}{left}",
                    secret.value.len(),
                    entry.version()
                )
            }
            "folders" => format!("folders {}", folder_names(reply)?.join(", ")),
            _ => format!("project {}", project_id(reply)?),
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
