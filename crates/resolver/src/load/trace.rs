//! Finds a type's fields by deserializing it from a probe that notes what it is asked for.

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::{PlannedField, below, short};
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};

/// How deep structs may nest before they are taken to contain themselves.
const MAX_DEPTH: usize = 8;

/// A field of a type, and the fields below it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) key: SecretKey,
    pub(super) type_name: &'static str,
    pub(super) optional: bool,
    /// The fields of a struct; `None` for a secret.
    pub(super) fields: Option<Vec<Node>>,
}

impl Node {
    pub(super) fn flatten(nodes: &[Self], optional: bool, into: &mut Vec<PlannedField>) {
        for node in nodes {
            let optional = optional || node.optional;
            match &node.fields {
                Some(fields) => Self::flatten(fields, optional, into),
                None => into.push(PlannedField {
                    key: node.key.clone(),
                    type_name: node.type_name,
                    optional,
                }),
            }
        }
    }
}

/// What stands at one place of a type.
#[derive(Debug, Clone, Copy)]
struct Found {
    what: What,
    type_name: &'static str,
    optional: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Secret,
    Struct(&'static [&'static str]),
    Unknowable(&'static str),
}

/// The fields of `T`.
pub(super) fn nodes<'de, T: Deserialize<'de>>() -> Result<Vec<Node>, Error> {
    let hint = "write a struct with a named field for each secret";
    match snapshot::<T>(&[]).what {
        What::Struct(names) => children::<T>(names, &mut Vec::new(), &KeyPrefix::root()),
        What::Secret => Err(unplannable::<T>("it is not a struct").with_hint(hint)),
        What::Unknowable(why) => Err(unplannable::<T>(why)),
    }
}

fn children<'de, T: Deserialize<'de>>(
    names: &'static [&'static str],
    path: &mut Vec<usize>,
    prefix: &KeyPrefix,
) -> Result<Vec<Node>, Error> {
    if path.len() >= MAX_DEPTH {
        return Err(
            unplannable::<T>("its structs nest too deep, or contain themselves")
                .with_hint("load the inner part as a type of its own, from a prefixed provider"),
        );
    }
    let mut nodes = Vec::with_capacity(names.len());
    for (index, &name) in names.iter().enumerate() {
        path.push(index);
        let Found {
            what,
            type_name,
            optional,
        } = snapshot::<T>(path);
        let key = below(prefix, name)?;
        let fields = match what {
            What::Secret => None,
            What::Struct(names) => Some(children::<T>(names, path, &prefix.join(name)?)?),
            What::Unknowable(why) => return Err(unplannable::<T>(why).with_key(&key)),
        };
        path.pop();
        nodes.push(Node {
            name,
            key,
            type_name,
            optional,
            fields,
        });
    }
    Ok(nodes)
}

fn unplannable<T>(why: &'static str) -> Error {
    let name = short(type_name::<T>());
    Error::new(
        ErrorKind::InvalidConfig,
        format!("the secrets of `{name}` cannot be known: {why}"),
    )
}

/// What stands in `T` at `path`, which counts fields from the outermost struct inwards.
fn snapshot<'de, T: Deserialize<'de>>(path: &[usize]) -> Found {
    let nothing = Found {
        what: What::Secret,
        type_name: type_name::<T>(),
        optional: false,
    };
    let found = RefCell::new(nothing);
    let probe = Probe {
        path,
        found: &found,
        type_name: type_name::<T>(),
        optional: false,
    };
    // The probe ends by an error as soon as it has seen enough.
    let _ = T::deserialize(probe);
    found.into_inner()
}

struct Probe<'a> {
    path: &'a [usize],
    found: &'a RefCell<Found>,
    type_name: &'static str,
    optional: bool,
}

impl Probe<'_> {
    fn note<T>(self, what: What) -> Result<T, Enough> {
        let Self {
            type_name,
            optional,
            ..
        } = self;
        *self.found.borrow_mut() = Found {
            what,
            type_name,
            optional,
        };
        Err(Enough)
    }
}

/// What is read from one piece of text or bytes, however it is asked for.
macro_rules! notes_a_secret {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Enough> {
            self.note(What::Secret)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Enough;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Enough> {
        if is_duration(name, fields) {
            return self.note(What::Secret);
        }
        match self.path.split_first() {
            Some((&index, path)) => visitor.visit_map(OneField {
                name: Some(fields[index]),
                path,
                found: self.found,
            }),
            None => self.note(What::Struct(fields)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Enough> {
        let type_name = inside_option(self.type_name);
        visitor.visit_some(Probe {
            optional: true,
            type_name,
            ..self
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Enough> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Enough> {
        self.note(What::Unknowable(
            "a map, or a struct with `#[serde(flatten)]`, has no names of its own; write the fields out",
        ))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Enough> {
        self.note(What::Unknowable(
            "an untagged or internally tagged enum, or a free-form value, can be anything; \
             use a `String` and parse it",
        ))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Enough> {
        self.note(What::Secret)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Enough> {
        self.note(What::Secret)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Enough> {
        self.note(What::Secret)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Enough> {
        self.note(What::Secret)
    }

    notes_a_secret! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_seq
        deserialize_identifier deserialize_ignored_any
    }
}

/// serde's own form of [`std::time::Duration`], which is read from text here.
pub(super) fn is_duration(name: &str, fields: &[&str]) -> bool {
    name == "Duration" && fields == ["secs", "nanos"]
}

fn inside_option(type_name: &'static str) -> &'static str {
    type_name
        .strip_prefix("core::option::Option<")
        .and_then(|rest| rest.strip_suffix('>'))
        .unwrap_or(type_name)
}

/// A struct of which only one field is there.
struct OneField<'a> {
    name: Option<&'static str>,
    path: &'a [usize],
    found: &'a RefCell<Found>,
}

impl<'de> MapAccess<'de> for OneField<'_> {
    type Error = Enough;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Enough> {
        let name = self.name.take();
        name.map(|name| seed.deserialize(StrDeserializer::new(name)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Enough> {
        let (path, found) = (self.path, self.found);
        seed.deserialize(Probe {
            path,
            found,
            type_name: type_name::<V::Value>(),
            optional: false,
        })
    }
}

/// The probe has seen what it came for.
#[derive(Debug)]
struct Enough;

impl fmt::Display for Enough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the probe has seen enough")
    }
}

impl std::error::Error for Enough {}

impl de::Error for Enough {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}
