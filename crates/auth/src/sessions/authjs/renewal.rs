//! The claims of a renewed token.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::sessions::TokenError;
use crate::sessions::claims::random_uuid;
use crate::sessions::text::WipedBytes;

/// The new claims have less than this many bytes.
const REPLACED: usize = 128;

/// Returns the JSON object `claims` with new times and a new identifier. The other claims keep their text, so
/// that numbers and unpaired surrogates do not change.
pub(super) fn renewed(
    claims: &str,
    issued_at: u64,
    lifetime: Duration,
) -> Result<WipedBytes, TokenError> {
    let members: Members = serde_json::from_str(claims).map_err(|_| TokenError::Malformed)?;
    let expires = issued_at.saturating_add(lifetime.as_secs());
    let id = random_uuid()?;
    let capacity = claims.len() + members.0.len() * 2 + REPLACED;
    let mut json = WipedBytes::with_capacity(capacity);
    json += "{";
    for (name, value) in &members.0 {
        if !is_replaced(name.get()) {
            for part in [name.get(), ":", value.get(), ","] {
                json += part;
            }
        }
    }
    for (name, time) in [(r#""iat":"#, issued_at), (r#","exp":"#, expires)] {
        json += name;
        serde_json::to_writer(&mut json, &time).map_err(|_| TokenError::Malformed)?;
    }
    for part in [r#","jti":""#, &id, "\"}"] {
        json += part;
    }
    Ok(json)
}

/// Returns whether a JSON string is `iat`, `exp` or `jti`.
fn is_replaced(name: &str) -> bool {
    if name.contains('\\') {
        let plain: Result<String, _> = serde_json::from_str(name);
        return plain.is_ok_and(|name| ["iat", "exp", "jti"].contains(&name.as_str()));
    }
    [r#""iat""#, r#""exp""#, r#""jti""#].contains(&name)
}

/// The members of a JSON object as text, in their order, with duplicates.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_claims_are_replaced_and_others_keep_their_text() {
        let claims = r#"{"iat":1,"a":1.50,"\u0065xp":2,"jti":"x","b\n":"\ud83d","ia":[ 1 ]}"#;
        let renewed = renewed(claims, 1_000, Duration::from_secs(60)).unwrap();
        let text = renewed.into_text().unwrap();
        let own = r#"{"a":1.50,"b\n":"\ud83d","ia":[ 1 ],"iat":1000,"exp":1060,"jti":""#;
        let id = text.strip_prefix(own).unwrap();
        assert_eq!(id.len(), 36 + 2);
        assert!(id.ends_with("\"}"));
        let latest = super::renewed("{}", u64::MAX, Duration::MAX).unwrap();
        assert!(latest.len() < REPLACED, "the buffer does not grow");
    }
}
