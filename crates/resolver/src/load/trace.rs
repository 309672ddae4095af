//! Finds the fields of a type by deserializing it from a probe that records the requested types.

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, MapAccess, Unexpected, Visitor,
};

use crate::error::short_type_name;

/// One key of a [`Plan`](crate::load::Plan), with the field that it fills.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlannedField {
    /// The key that is read for the field.
    pub key: SecretKey,
    /// The type of the field in the compiler's notation, without `Option`.
    pub type_name: &'static str,
    /// Whether the field or a struct around it is an `Option`.
    pub optional: bool,
}

/// The maximum nesting depth of structs. Recursive types exceed it.
const MAX_DEPTH: usize = 8;

/// A field of a type, with its nested fields.
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

/// The type at one position of the traced type.
#[derive(Debug, Clone, Copy)]
struct Traced {
    shape: Shape,
    type_name: &'static str,
    optional: bool,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Secret,
    /// A struct with these field names.
    Struct(&'static [&'static str]),
    Unsupported(Unsupported),
}

/// A type without fixed field names.
#[derive(Debug, Clone, Copy)]
enum Unsupported {
    Map,
    /// A type that accepts some forms of input, but no text.
    NotText,
}

/// Returns the fields of `T`.
pub(super) fn nodes<'de, T: Deserialize<'de>>() -> Result<Vec<Node>, Error> {
    match trace::<T>(&[]).shape {
        Shape::Struct(names) => children::<T>(names, &mut Vec::new(), &KeyPrefix::root()),
        Shape::Secret => Err(plan_error::<T>("it is not a struct")
            .with_hint("write a struct with a named field for each secret")),
        Shape::Unsupported(unsupported) => Err(unsupported.error::<T>()),
    }
}

fn children<'de, T: Deserialize<'de>>(
    names: &'static [&'static str],
    path: &mut Vec<usize>,
    prefix: &KeyPrefix,
) -> Result<Vec<Node>, Error> {
    if path.len() >= MAX_DEPTH {
        return Err(
            plan_error::<T>("its structs are recursive, or nested too deeply")
                .with_hint("load the inner part as a separate type, from a prefixed provider"),
        );
    }
    let mut nodes = Vec::with_capacity(names.len());
    for (index, &name) in names.iter().enumerate() {
        path.push(index);
        let Traced {
            shape,
            type_name,
            optional,
        } = trace::<T>(path);
        let key = field_key(prefix, name)?;
        let fields = match shape {
            Shape::Secret => None,
            Shape::Struct(names) => Some(children::<T>(names, path, &prefix.join(name)?)?),
            Shape::Unsupported(unsupported) => {
                return Err(unsupported.error::<T>().with_key(&key));
            }
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

fn plan_error<T>(reason: &'static str) -> Error {
    let name = short_type_name(type_name::<T>());
    Error::new(
        ErrorKind::InvalidConfig,
        format!("the keys of `{name}` cannot be determined: {reason}"),
    )
}

impl Unsupported {
    fn error<T>(self) -> Error {
        let (reason, hint) = match self {
            Self::Map => (
                "a map, or a struct with `#[serde(flatten)]`, has no fixed field names",
                "declare every field by name",
            ),
            Self::NotText => (
                "an internally tagged enum, or another type that does not accept text, cannot be loaded",
                "use a `String` and parse it",
            ),
        };
        plan_error::<T>(reason).with_hint(hint)
    }
}

/// Returns the type at `path` in `T`. The path consists of field indexes, outermost struct first.
fn trace<'de, T: Deserialize<'de>>(path: &[usize]) -> Traced {
    let traced = RefCell::new(Traced {
        shape: Shape::Secret,
        type_name: type_name::<T>(),
        optional: false,
    });
    let probe = Probe {
        path,
        traced: &traced,
        type_name: type_name::<T>(),
        optional: false,
    };
    // The probe always returns an error, because it has no value. If the type panics on it, the probe has
    // recorded the type before.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(T::deserialize(probe))));
    traced.into_inner()
}

struct Probe<'a> {
    path: &'a [usize],
    traced: &'a RefCell<Traced>,
    type_name: &'static str,
    optional: bool,
}

impl Probe<'_> {
    fn record<T>(&self, shape: Shape) -> Result<T, Done> {
        *self.traced.borrow_mut() = Traced {
            shape,
            type_name: self.type_name,
            optional: self.optional,
        };
        Err(Done)
    }
}

/// Implements methods for types that are deserialized from one secret.
macro_rules! record_secret {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Done> {
            self.record(Shape::Secret)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Done;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Done> {
        if is_duration(name, fields) {
            return self.record(Shape::Secret);
        }
        match self.path.split_first() {
            Some((&index, path)) => visitor.visit_map(OneField {
                name: Some(fields[index]),
                path,
                traced: self.traced,
            }),
            None => self.record(Shape::Struct(fields)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
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
    ) -> Result<V::Value, Done> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Done> {
        self.record(Shape::Unsupported(Unsupported::Map))
    }

    /// Called by types that accept several forms of input. They get text, so they must accept text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        let recorded = self.record(Shape::Secret);
        match visitor.visit_str("1") {
            Err(TextError::NotAccepted) => self.record(Shape::Unsupported(Unsupported::NotText)),
            _ => recorded,
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Done> {
        self.record(Shape::Secret)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Done> {
        self.record(Shape::Secret)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Done> {
        self.record(Shape::Secret)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Done> {
        self.record(Shape::Secret)
    }

    record_secret! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_seq
        deserialize_identifier deserialize_ignored_any
    }
}

/// Returns the key of the field `name` in the struct at `prefix`.
pub(super) fn field_key(prefix: &KeyPrefix, name: &str) -> Result<SecretKey, Error> {
    SecretKey::parse(name)?.with_prefix(prefix)
}

/// Returns whether a struct is [`std::time::Duration`] in serde's representation. A duration is parsed
/// from text.
pub(super) fn is_duration(name: &str, fields: &[&str]) -> bool {
    name == "Duration" && fields == ["secs", "nanos"]
}

fn inside_option(type_name: &'static str) -> &'static str {
    type_name
        .strip_prefix("core::option::Option<")
        .and_then(|rest| rest.strip_suffix('>'))
        .unwrap_or(type_name)
}

/// A map with only one field of a struct.
struct OneField<'a> {
    name: Option<&'static str>,
    path: &'a [usize],
    traced: &'a RefCell<Traced>,
}

impl<'de> MapAccess<'de> for OneField<'_> {
    type Error = Done;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Done> {
        let name = self.name.take();
        name.map(|name| seed.deserialize(StrDeserializer::new(name)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Done> {
        let (path, traced) = (self.path, self.traced);
        seed.deserialize(Probe {
            path,
            traced,
            type_name: type_name::<V::Value>(),
            optional: false,
        })
    }
}

/// The error of a visitor that was given a sample text.
#[derive(Debug)]
enum TextError {
    /// The visitor does not accept text at all.
    NotAccepted,
    /// The visitor accepts text, but not the sample.
    BadText,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAccepted => "text is not accepted",
            Self::BadText => "the sample text is not accepted",
        })
    }
}

impl std::error::Error for TextError {}

impl de::Error for TextError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::BadText
    }

    fn invalid_type(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::NotAccepted
    }
}

/// The error with which the probe stops after it has recorded a type.
#[derive(Debug)]
struct Done;

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the probe has recorded the type")
    }
}

impl std::error::Error for Done {}

impl de::Error for Done {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}
