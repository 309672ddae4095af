//! The keys that a type needs.

use std::fmt;
use std::marker::PhantomData;

use secretwell_core::{Error, SecretKey};
use serde::de::DeserializeOwned;

use super::trace::{self, Node, PlannedField};
use crate::Resolved;

/// The keys that a type needs, determined before any secret is read.
///
/// A plan calls the `Deserialize` implementation of the type with a probe that records its fields. No
/// additional derive macro is needed. These are the rules:
///
/// | in the type | in the source |
/// | --- | --- |
/// | field `auth_secret`, after `rename`, `rename_all` and `alias` | the key of that name |
/// | a struct in a field `db` | keys below `db/` |
/// | `Option<T>`, `#[serde(default)]` | the key can be absent; other failures and invalid values are errors |
/// | `String`, [`SecretString`](https://docs.rs/secrecy/latest/secrecy/type.SecretString.html), types that are parsed from text, such as `Url` or `IpAddr` | the text, unchanged |
/// | [`SecretValue`](secretwell_core::SecretValue), byte buffers | the bytes, unchanged |
/// | integers (`-12`, `1_000`, `0xFF`), finite floats, `bool` (`true`, `1`, `yes`, `on`, …), `char`, enums without data | the parsed text, without white space around it |
/// | [`Duration`](std::time::Duration) | text such as `30s`, `5m`, `1h 30m` |
/// | `Vec<T>` and other sequences, tuples, arrays of up to 32 items | a JSON array, or items separated by commas |
/// | maps, enums with data | a JSON object. A table of a document is returned as one. |
/// | types that accept any input, such as `rust_decimal::Decimal`, `bytesize::ByteSize`, `time::OffsetDateTime`, untagged enums | the text, as a string |
///
/// An empty value is an error for every type, `Option` and `serde_with::NoneAsEmptyString` included, because it is not
/// an absence. White space is a value.
///
/// `#[serde(flatten)]`, internally tagged enums, `SystemTime` and recursive types have no fixed field names or
/// accept no text. For these, [`Plan::new`] returns an error that suggests an alternative. In a list or a map, whose
/// items come from JSON, `#[serde(flatten)]` and internally tagged enums are supported.
///
/// # Lists
/// - Items of a comma-separated list are trimmed. An empty item, as in `a,,b` or `a,`, is an error. `[]` is an empty
///   list.
/// - Text that begins with `[` must be a JSON array. If an item cannot be any text, as in `Vec<SocketAddr>`,
///   `[::1]:80,[::2]:80` is accepted too. A JSON object is not a list.
/// - A tuple or an array requires its number of items.
/// - In JSON, numbers keep their text: a `String` from `[1.10]` is `1.10`. Duplicate names are an error.
///
/// # Types that accept any input
/// Such a type gets its text as a string, never as a number or as a JSON document. A guess could change
/// the value, for example `007` to `7`.
///
/// - A `serde_json::Value` is a string. To parse JSON, use `serde_with::json::JsonString`.
/// - An untagged enum becomes its first variant that accepts a string. Numbers in it need
///   `serde_with::DisplayFromStr`, and so do numbers in `serde_with::PickFirst` and
///   `serde_with::OneOrMany`.
/// - serde copies the text for untagged enums, `PickFirst` and `OneOrMany`, and does not zeroize the
///   copy. Use [`SecretString`](https://docs.rs/secrecy/latest/secrecy/type.SecretString.html) itself for
///   secrets.
///
/// # Panics in user code
/// A panic of a `Deserialize` implementation is a problem of its field, with the kind
/// [`Invalid`](secretwell_core::ErrorKind::Invalid). The problem does not contain the message of the
/// panic. The panic hook of the program still prints this message, which can contain the value. With
/// `panic = "abort"`, the process ends.
///
/// Most callers use [`Resolver::load`](crate::Resolver::load). Use a plan to get the keys before
/// reading, or to get the origin of each value.
///
/// ```
/// use secretwell::load::Plan;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Database {
///     user: String,
///     port: Option<u16>,
/// }
///
/// #[derive(Deserialize)]
/// struct Settings {
///     db: Database,
/// }
///
/// let plan = Plan::<Settings>::new()?;
/// let keys: Vec<&str> = plan.keys().iter().map(|key| key.as_str()).collect();
/// assert_eq!(keys, ["db/user", "db/port"]);
/// assert!(plan.fields()[1].optional);
/// # Ok::<(), secretwell::Error>(())
/// ```
pub struct Plan<T> {
    pub(super) keys: Vec<SecretKey>,
    pub(super) fields: Vec<PlannedField>,
    pub(super) nodes: Vec<Node>,
    marker: PhantomData<fn() -> T>,
}

/// A loaded struct, with the secrets that it was built from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded<T> {
    /// The struct, built from the secrets below.
    pub value: T,
    /// The secrets that are part of the struct, in the order of its fields. Absent secrets are omitted.
    pub secrets: Vec<(SecretKey, Resolved)>,
}

impl<T: DeserializeOwned> Plan<T> {
    /// Determines the keys that `T` needs.
    ///
    /// # Errors
    /// Returns [`InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `T` is not a struct with
    /// fixed field names. Returns [`InvalidKey`](secretwell_core::ErrorKind::InvalidKey) if the name of
    /// a field is not a valid key.
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

    /// Returns the keys in the order of the fields.
    pub fn keys(&self) -> &[SecretKey] {
        &self.keys
    }

    /// Returns the keys with their fields, in the order of the fields.
    pub fn fields(&self) -> &[PlannedField] {
        &self.fields
    }
}

impl<T> Plan<T> {
    pub(super) fn field(&self, key: &SecretKey) -> Option<&PlannedField> {
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
