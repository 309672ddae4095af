//! Loads all secrets below a prefix as a map.

use std::any::type_name;
use std::collections::BTreeMap;

use secretwell_core::{Error, KeyPrefix, SecretKey};
use serde::de::DeserializeOwned;

use super::assemble::{catch_panic, invalid_value};
use super::reason::FieldError;
use super::text::Text;
use super::trace;
use crate::error::LoadError;
use crate::{Resolved, Resolver};

impl Resolver {
    /// Loads all secrets below `prefix`. The names in the map are the keys without the prefix.
    ///
    /// Use it for labels or feature flags, whose names are not known when the program is compiled. The provider lists
    /// the keys with each call. Cached values are used, and the other keys are fetched in one batch. An empty
    /// value is an error.
    ///
    /// The types of values are those of one field of a [`Plan`](super::Plan).
    ///
    /// # Errors
    /// Returns all problems at once: failed reads and invalid values. Returns
    /// [`Unsupported`](secretwell_core::ErrorKind::Unsupported) if the provider cannot list, and
    /// [`InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `V` needs more than one secret.
    ///
    /// ```
    /// use secretwell::{KeyPrefix, MemoryProvider, Resolver};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let memory = MemoryProvider::from_iter([("flags/search", "on"), ("flags/export", "off"), ("PORT", "80")]);
    /// let flags = Resolver::new(memory).load_map::<bool>(&KeyPrefix::parse("flags")?).await?;
    /// assert_eq!(flags.len(), 2);
    /// assert!(flags["search"] && !flags["export"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load_map<V: DeserializeOwned>(
        &self,
        prefix: &KeyPrefix,
    ) -> Result<BTreeMap<String, V>, LoadError> {
        let failed = |error: Error| LoadError::new::<BTreeMap<String, V>>(vec![error]);
        let form = trace::form::<V>().map_err(failed)?;
        let keys = self.provider().list(prefix).await.map_err(failed)?;
        let results = self.get_many(&keys).await;
        let read = |key: &SecretKey, resolved: &Resolved| {
            let text = Text::new(resolved.value.expose_bytes(), form);
            catch_panic(|| V::deserialize(text)).map_err(|FieldError { reason, .. }| {
                let error = invalid_value(Some(type_name::<V>()), text.explain(reason));
                error.with_key(key).with_origin(&resolved.origin)
            })
        };
        let (mut map, mut problems) = (BTreeMap::new(), Vec::new());
        for (key, result) in keys.iter().zip(results) {
            let value = match result {
                // The secret was removed after it was listed.
                Err(error) if error.is_not_found() => continue,
                Ok(resolved) if resolved.value.is_empty() => Err(Error::empty_value()
                    .with_key(key)
                    .with_origin(&resolved.origin)),
                Ok(resolved) => read(key, &resolved),
                Err(error) => Err(error.with_key(key)),
            };
            let name = key.strip_prefix(prefix).unwrap_or_else(|| key.clone());
            match value {
                Ok(value) => drop(map.insert(name.to_string(), value)),
                Err(problem) => problems.push(problem),
            }
        }
        match problems.is_empty() {
            true => Ok(map),
            false => Err(LoadError::new::<BTreeMap<String, V>>(problems)),
        }
    }
}
