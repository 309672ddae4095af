//! Typed loading: from a struct's field names to a struct full of secrets.

mod assemble;
mod error;
mod text;
mod trace;

#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

pub use error::LoadError;

use crate::{Resolved, Resolver};
use secretwell_core::{Error, KeyPrefix, SecretKey};
use trace::Node;

/// Which secrets a type is made of, found out before any of them is read.
///
/// A plan asks the type's own `Deserialize` implementation which fields it has, by handing it one
/// field at a time and noting what it asks for. So there is nothing to derive or to write down twice:
///
/// | in the type | means |
/// | --- | --- |
/// | field `auth_secret`, or what `rename`, `rename_all` and `alias` make of it | the key of that name |
/// | a struct in a field `db` | keys below `db/` |
/// | `Option<T>`, `#[serde(default)]` | may be absent; may **not** fail or be invalid |
/// | `String`, [`SecretString`](secrecy::SecretString), anything read from text, such as `Url` or `IpAddr` | the text, as it is |
/// | [`SecretValue`](secretwell_core::SecretValue), byte buffers | the bytes |
/// | numbers, `bool` (`true`, `1`, `yes`, `on`, …), `char`, enums without data | parsed, white space around them ignored |
/// | [`Duration`](std::time::Duration) | `30s`, `5m`, `1h 30m` |
/// | `Vec<T>`, tuples | items between commas |
///
/// An empty or white-space-only value counts as absent. Maps, `#[serde(flatten)]`, untagged enums
/// and types that contain themselves have no field names to find: [`Plan::new`] says what to write
/// instead.
///
/// Most callers want [`Resolver::load`]; a plan of its own is for who wants to know the keys first,
/// or where each value came from.
pub struct Plan<T> {
    keys: Vec<SecretKey>,
    fields: Vec<PlannedField>,
    nodes: Vec<Node>,
    marker: PhantomData<fn() -> T>,
}

/// One secret of a [`Plan`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlannedField {
    /// Its key.
    pub key: SecretKey,
    /// The type of the field, without `Option`, as the compiler writes it.
    pub type_name: &'static str,
    /// Whether the field, or a struct that it stands in, is an `Option`.
    pub optional: bool,
}

/// A loaded struct and where its values came from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded<T> {
    /// The struct.
    pub value: T,
    /// The secrets that it was made from, in the order of its fields, without those that were absent.
    pub secrets: Vec<(SecretKey, Resolved)>,
}

impl<T: DeserializeOwned> Plan<T> {
    /// Finds out which secrets `T` is made of.
    ///
    /// # Errors
    /// [`InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) when `T` is not a struct with fields that can be known beforehand,
    /// [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) when a field's name is no key.
    pub fn new() -> Result<Self, Error> {
        let nodes = trace::nodes::<T>()?;
        let mut fields = Vec::new();
        Node::flatten(&nodes, false, &mut fields);
        let keys = fields.iter().map(|field| field.key.clone()).collect();
        Ok(Self {
            keys,
            fields,
            nodes,
            marker: PhantomData,
        })
    }

    /// The keys, in the order of the fields.
    pub fn keys(&self) -> &[SecretKey] {
        &self.keys
    }

    /// The keys with what is known of their fields.
    pub fn fields(&self) -> &[PlannedField] {
        &self.fields
    }

    /// Makes a `T` from one answer per key of [`keys`](Self::keys).
    ///
    /// # Errors
    /// Every problem at once: what is absent, what failed, what is invalid.
    pub fn assemble(&self, answers: Vec<Result<Resolved, Error>>) -> Result<Loaded<T>, LoadError> {
        assemble::assemble(self, answers)
    }
}

impl<T> Plan<T> {
    fn field(&self, key: &SecretKey) -> Option<&PlannedField> {
        self.fields.iter().find(|field| field.key == *key)
    }
}

impl<T> fmt::Debug for Plan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// Loads a `T` whose field names are keys: see [`Plan`] for what a field may be.
    ///
    /// All keys are read in one batch, and what the resolver holds already is not read again.
    ///
    /// # Errors
    /// Every problem at once, each with its key, its source and its reason, none with a value.
    ///
    /// ```
    /// use secrecy::SecretString;
    /// use secretwell::{MemoryProvider, Resolver};
    /// use serde::Deserialize;
    ///
    /// #[derive(Debug, Deserialize)]
    /// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    /// struct Settings {
    ///     auth_secret: SecretString,
    ///     port: u16,
    ///     workers: Option<u8>,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let memory = MemoryProvider::from_iter([("AUTH_SECRET", "s3cr3t"), ("PORT", "8080")]);
    /// let settings: Settings = Resolver::new(memory).load().await?;
    /// assert_eq!((settings.port, settings.workers), (8080, None));
    ///
    /// let empty = MemoryProvider::from_iter([("PORT", "eighty")]);
    /// let error = Resolver::new(empty).load::<Settings>().await.unwrap_err();
    /// assert_eq!(error.problems().len(), 2, "AUTH_SECRET is absent, PORT is invalid");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        let plan = Plan::<T>::new().map_err(|error| LoadError::new::<T>(vec![error]))?;
        plan.assemble(self.get_many(plan.keys()).await)
            .map(|loaded| loaded.value)
    }
}

/// `key` below `prefix`, for a field name that serde gave.
fn below(prefix: &KeyPrefix, name: &str) -> Result<SecretKey, Error> {
    SecretKey::parse(name)?.with_prefix(prefix)
}

/// A type's name without the paths of its modules: `Option<String>`.
fn short(type_name: &str) -> String {
    let mut shortened = String::new();
    for piece in type_name.split_inclusive(|c: char| !c.is_alphanumeric() && !"_:{}".contains(c)) {
        shortened.push_str(piece.rsplit("::").next().unwrap_or_default());
    }
    shortened
}
