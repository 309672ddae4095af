//! Finds the fields of a type by deserializing it from a probe that records the requested types.

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::shape::{Form, is_duration, is_system_time};
use super::text::Text;
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
    pub(super) content: Content,
}

/// What fills a field.
#[derive(Debug)]
pub(super) enum Content {
    /// One secret.
    Secret(Form),
    /// A struct with these fields.
    Struct(Vec<Node>),
}

impl Node {
    pub(super) fn flatten(nodes: &[Self], optional: bool, into: &mut Vec<PlannedField>) {
        for node in nodes {
            let optional = optional || node.optional;
            match &node.content {
                Content::Struct(fields) => Self::flatten(fields, optional, into),
                Content::Secret(_) => into.push(PlannedField {
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
    Secret(Form),
    /// A struct with these field names.
    Struct(&'static [&'static str]),
    Unsupported(Unsupported),
}

/// A type that cannot be loaded.
#[derive(Debug, Clone, Copy)]
enum Unsupported {
    /// A struct with `#[serde(flatten)]`, which has no fixed field names.
    Flatten,
    SystemTime,
    /// A type that accepts some forms of input, but no text.
    NotText,
}

/// Returns the fields of `T`.
pub(super) fn nodes<'de, T: Deserialize<'de>>() -> Result<Vec<Node>, Error> {
    match trace::<T>(&[]).shape {
        Shape::Struct(names) => children::<T>(names, &mut Vec::new(), &KeyPrefix::root()),
        Shape::Secret(Form::Map) => Err(plan_error::<T>("a map has no fixed field names")
            .with_hint("use `load_map`, or write a struct with a named field for each secret")),
        Shape::Secret(_) => Err(plan_error::<T>("it is not a struct")
            .with_hint("write a struct with a named field for each secret")),
        Shape::Unsupported(unsupported) => Err(unsupported.error::<T>()),
    }
}

/// Returns the form of a `T` that is loaded from one secret.
pub(super) fn form<'de, T: Deserialize<'de>>() -> Result<Form, Error> {
    match trace::<T>(&[]).shape {
        Shape::Secret(form) => Ok(form),
        Shape::Struct(_) => Err(plan_error::<T>(
            "it is a struct, which needs a key for each field",
        )
        .with_hint("load each struct from a prefixed provider")),
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
        let content = match shape {
            Shape::Secret(form) => Content::Secret(form),
            Shape::Struct(names) => {
                Content::Struct(children::<T>(names, path, &prefix.join(name)?)?)
            }
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
            content,
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
            Self::Flatten => (
                "a struct with `#[serde(flatten)]` has no fixed field names",
                "declare every field by name, or put the part into a field of a map type, which is loaded from a JSON \
                 object",
            ),
            Self::SystemTime => (
                "a `SystemTime` has no text",
                "use `time::OffsetDateTime`, or a `Duration`",
            ),
            Self::NotText => (
                "an internally tagged enum, or another type that does not accept text, cannot be loaded",
                "use an externally tagged enum, which is loaded from a JSON object, or a `String` and parse it",
            ),
        };
        plan_error::<T>(reason).with_hint(hint)
    }
}

/// Returns the type at `path` in `T`. The path consists of field indexes, outermost struct first.
fn trace<'de, T: Deserialize<'de>>(path: &[usize]) -> Traced {
    let traced = RefCell::new(Traced {
        shape: Shape::Secret(Form::Other),
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

impl<'a> Probe<'a> {
    fn record<T>(&self, shape: Shape) -> Result<T, Done> {
        *self.traced.borrow_mut() = Traced {
            shape,
            type_name: self.type_name,
            optional: self.optional,
        };
        Err(Done)
    }

    /// Records a list, and finds out whether its items are text.
    fn record_list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        let list = |items_are_text| Shape::Secret(Form::List { items_are_text });
        // If the item panics, it counts as text.
        let _: Result<(), Done> = self.record(list(true));
        visitor.visit_seq(OneItem {
            record: |accepts_bracket| self.record(list(accepts_bracket)),
        })
    }
}

/// Implements methods for types that are deserialized from one secret.
macro_rules! record {
    ($form:expr => $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Done> {
            self.record(Shape::Secret($form))
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
            return self.record(Shape::Secret(Form::Other));
        }
        if is_system_time(name, fields) {
            return self.record(Shape::Unsupported(Unsupported::SystemTime));
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

    /// Called by maps, and by structs with `#[serde(flatten)]`. The type of the names distinguishes them.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        let _: Result<(), Done> = self.record(Shape::Secret(Form::Map));
        visitor.visit_map(OneName {
            is_field: || self.record(Shape::Unsupported(Unsupported::Flatten)),
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        self.record_list(visitor)
    }

    /// Called by types that accept several forms of input. They get text, so they must accept text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Done> {
        let recorded = self.record(Shape::Secret(Form::Text));
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
        self.record(Shape::Secret(Form::Other))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Done> {
        self.record_list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Done> {
        self.record_list(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Done> {
        self.record(Shape::Secret(Form::Other))
    }

    record! { Form::Text => deserialize_str deserialize_string }

    record! { Form::Other =>
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }
}

/// Returns the key of the field `name` in the struct at `prefix`.
pub(super) fn field_key(prefix: &KeyPrefix, name: &str) -> Result<SecretKey, Error> {
    SecretKey::parse(name)?.with_prefix(prefix)
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

/// A list with one item, which begins like a broken JSON array. A type that accepts it accepts any text.
struct OneItem<F> {
    /// Called with whether the item was accepted.
    record: F,
}

impl<'de, F: Fn(bool) -> Result<(), Done>> SeqAccess<'de> for OneItem<F> {
    type Error = Done;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Done> {
        // Some types require a minimum length.
        let broken = Text::new(b"[\"aaaaaaaaaaaaaaaa\"", Form::Other);
        (self.record)(seed.deserialize(broken).is_ok())?;
        Ok(None)
    }
}

/// A map with one name, which calls `is_field` if it is the name of a struct's field.
struct OneName<F> {
    is_field: F,
}

impl<'de, F: Fn() -> Result<(), Done>> MapAccess<'de> for OneName<F> {
    type Error = Done;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Done> {
        seed.deserialize(Name(&self.is_field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, _: V) -> Result<V::Value, Done> {
        Err(Done)
    }
}

struct Name<'a, F>(&'a F);

impl<'de, F: Fn() -> Result<(), Done>> Deserializer<'de> for Name<'_, F> {
    type Error = Done;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Done> {
        Err(Done)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Done> {
        (self.0)()?;
        Err(Done)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum ignored_any
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
