//! The claims of a renewed token.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::sessions::TokenError;
use crate::sessions::claims::random_uuid;

/// Returns the JSON object `claims` with new times and a new identifier. The other claims keep their text, so
/// that numbers and unpaired surrogates do not change.
pub(super) fn renewed(
    claims: &str,
    issued_at: u64,
    lifetime: Duration,
) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let members: Members = serde_json::from_str(claims).map_err(|_| TokenError::Malformed)?;
    let expires = issued_at.saturating_add(lifetime.as_secs());
    let id = random_uuid()?;
    let replaced = format!(r#""iat":{issued_at},"exp":{expires},"jti":"{id}"}}"#);
    // The full capacity prevents reallocation, which would leave copies of the claims in memory.
    let capacity = claims.len() + replaced.len() + members.0.len() * 2 + 1;
    let mut json = Zeroizing::new(Vec::with_capacity(capacity));
    json.push(b'{');
    for (name, value) in &members.0 {
        let plain_name: Result<String, _> = serde_json::from_str(name.get());
        if plain_name.is_ok_and(|name| ["iat", "exp", "jti"].contains(&name.as_str())) {
            continue;
        }
        json.extend_from_slice(name.get().as_bytes());
        json.push(b':');
        json.extend_from_slice(value.get().as_bytes());
        json.push(b',');
    }
    json.extend_from_slice(replaced.as_bytes());
    Ok(json)
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
