//! Builds a value from the results of its keys, and collects all problems.

use std::collections::{HashMap, HashSet};
use std::slice;

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::text::{FieldError, Place, Reason, Text};
use super::trace::Node;
use super::{Loaded, Plan, field_key};
use crate::Resolved;
use crate::error::{LoadError, short_type_name};

/// Sample values for secrets that are absent or invalid.
///
/// serde stops at the first error. With a sample value of the right form in place of a bad value, it
/// continues and reports the next error. A struct that was built with a sample is never returned.
const SAMPLES: [&str; 9] = [
    "1",
    "a",
    "https://localhost/",
    "127.0.0.1",
    "127.0.0.1:1",
    "1s",
    "2000-01-01T00:00:00Z",
    "00000000-0000-0000-0000-000000000000",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=",
];

/// The position of a problem that does not belong to a field.
const LAST: usize = usize::MAX;

/// The input for one field.
enum FieldInput {
    Value(Resolved),
    Absent,
    /// The sample value with this index in [`SAMPLES`].
    Sample(usize),
}

/// The input for the whole type.
#[derive(Default)]
struct Inputs {
    fields: HashMap<SecretKey, FieldInput>,
    /// Structs that serde requires although all of their keys are absent. They are passed to serde so
    /// that it reports each absent key.
    required_structs: HashSet<SecretKey>,
    /// Fields that accept no sample, and the structs that cannot be built without them. They are not
    /// passed to serde, so that it continues with the fields after them.
    skipped: HashSet<SecretKey>,
}

pub(super) fn assemble<T: DeserializeOwned>(
    plan: &Plan<T>,
    results: Vec<Result<Resolved, Error>>,
) -> Result<Loaded<T>, LoadError> {
    let mut problems: Vec<(usize, Error)> = Vec::new();
    let position = |key: &SecretKey| plan.keys.iter().position(|planned| planned == key);
    let mut absent: HashMap<SecretKey, Error> = HashMap::new();
    let mut inputs = Inputs::default();
    for (position, (key, result)) in plan.keys.iter().zip(results).enumerate() {
        let input = match result {
            Ok(resolved) if resolved.value.is_blank() => {
                let error = Error::new(ErrorKind::NotFound, "the value is empty")
                    .with_origin(&resolved.origin);
                absent.insert(key.clone(), error.with_key(key));
                FieldInput::Absent
            }
            Ok(resolved) => FieldInput::Value(resolved),
            Err(error) if error.is_not_found() => {
                absent.insert(key.clone(), error.with_key(key));
                FieldInput::Absent
            }
            Err(error) => {
                problems.push((position, error.with_key(key)));
                FieldInput::Sample(0)
            }
        };
        inputs.fields.insert(key.clone(), input);
    }

    // Each round changes the input of the field that serde reported, until serde succeeds or its
    // error cannot be avoided.
    let built = loop {
        let error = match T::deserialize(Struct::root(&plan.nodes, &inputs)) {
            Ok(value) => break Some(value),
            Err(error) => error,
        };
        let reason = error.reason;
        let key = match (error.place, reason) {
            (Some(Place::Struct(prefix)), Reason::MissingField(name)) => {
                match field_key(&prefix, name) {
                    Ok(key) if inputs.skipped.contains(&key) => {
                        let parent = SecretKey::parse(prefix.as_str());
                        if parent.is_ok_and(|parent| inputs.skipped.insert(parent)) {
                            continue;
                        }
                        break None;
                    }
                    key => key.ok(),
                }
            }
            (Some(Place::Secret(key)), _) => Some(key),
            _ => None,
        };
        let Some(key) = key else {
            problems.push((LAST, invalid::<T>(None, reason)));
            break None;
        };
        match inputs.fields.get_mut(&key) {
            Some(input @ FieldInput::Absent) => {
                let error = absent.remove(&key).unwrap_or_else(|| not_found(&key));
                problems.push((position(&key).unwrap_or(LAST), error));
                *input = FieldInput::Sample(0);
            }
            Some(FieldInput::Sample(index)) if *index + 1 < SAMPLES.len() => *index += 1,
            Some(FieldInput::Sample(_)) if inputs.skipped.insert(key.clone()) => {}
            Some(FieldInput::Sample(_)) => break None,
            Some(input @ FieldInput::Value(_)) => {
                let type_name = plan.field(&key).map(|field| field.type_name);
                let mut error = invalid::<T>(type_name, reason).with_key(&key);
                if let FieldInput::Value(resolved) = input {
                    error = error.with_origin(&resolved.origin);
                }
                problems.push((position(&key).unwrap_or(LAST), error));
                *input = FieldInput::Sample(0);
            }
            None if inputs.required_structs.insert(key.clone()) => {}
            None => {
                problems.push((LAST, invalid::<T>(None, reason).with_key(&key)));
                break None;
            }
        }
    };

    // serde reports the first missing field and stops. A skipped field is missing too, so serde does not
    // report the absent keys after it. They are reported here, although they might have a default.
    let first_skipped = inputs.skipped.iter().filter_map(position).min();
    for (position, field) in plan.fields.iter().enumerate() {
        if first_skipped.is_some_and(|first| first < position)
            && !field.optional
            && let Some(error) = absent.remove(&field.key)
        {
            problems.push((
                position,
                error.with_hint("set it, unless its field has a default or another name"),
            ));
        }
    }

    match built {
        Some(value) if problems.is_empty() => Ok(Loaded {
            value,
            secrets: inputs.into_secrets(&plan.keys),
        }),
        _ => {
            problems.sort_by_key(|(position, _)| *position);
            Err(LoadError::new::<T>(
                problems.into_iter().map(|(_, error)| error).collect(),
            ))
        }
    }
}

fn invalid<T>(type_name: Option<&'static str>, reason: Reason) -> Error {
    let message = match (reason, type_name) {
        // With `deserialize_with`, the type is a private helper of serde.
        (Reason::Rejected, Some(name)) if !name.contains("__DeserializeWith") => {
            format!("the value is not a valid `{}`", short_type_name(name))
        }
        (Reason::Rejected, Some(_)) => "the value was not accepted".to_owned(),
        (Reason::Rejected, None) => {
            format!(
                "`{}` did not accept its values",
                short_type_name(std::any::type_name::<T>())
            )
        }
        _ => FieldError::from(reason).to_string(),
    };
    Error::new(ErrorKind::Invalid, message)
}

fn not_found(key: &SecretKey) -> Error {
    Error::new(ErrorKind::NotFound, "no source has it").with_key(key)
}

impl Inputs {
    /// Returns whether a field has an input, or a struct has at least one field with an input.
    fn contains(&self, node: &Node) -> bool {
        match &node.fields {
            None => !matches!(self.fields.get(&node.key), None | Some(FieldInput::Absent)),
            Some(_) if self.required_structs.contains(&node.key) => true,
            Some(fields) => fields.iter().any(|field| self.contains(field)),
        }
    }

    fn into_secrets(mut self, keys: &[SecretKey]) -> Vec<(SecretKey, Resolved)> {
        keys.iter()
            .filter_map(|key| match self.fields.remove(key) {
                Some(FieldInput::Value(resolved)) => Some((key.clone(), resolved)),
                _ => None,
            })
            .collect()
    }
}

/// A deserializer for a struct, with the fields that have an input.
struct Struct<'a> {
    fields: &'a [Node],
    prefix: KeyPrefix,
    inputs: &'a Inputs,
}

impl<'a> Struct<'a> {
    fn root(fields: &'a [Node], inputs: &'a Inputs) -> Self {
        Self {
            fields,
            prefix: KeyPrefix::root(),
            inputs,
        }
    }
}

impl<'de> Deserializer<'de> for Struct<'_> {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let Self {
            fields,
            prefix,
            inputs,
        } = self;
        let fields = Fields {
            rest: fields.iter(),
            current: None,
            inputs,
        };
        visitor
            .visit_map(fields)
            .map_err(|error| error.with_place(|| Place::Struct(prefix)))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Fields<'a> {
    rest: slice::Iter<'a, Node>,
    current: Option<&'a Node>,
    inputs: &'a Inputs,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, FieldError> {
        let inputs = self.inputs;
        self.current = self
            .rest
            .find(|node| inputs.contains(node) && !inputs.skipped.contains(&node.key));
        self.current
            .map(|node| seed.deserialize(StrDeserializer::new(node.name)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, FieldError> {
        let node = self.current.take().ok_or(Reason::Rejected)?;
        if let Some(fields) = &node.fields {
            let prefix = KeyPrefix::parse(&node.key).map_err(|_| Reason::Rejected)?;
            return seed.deserialize(Struct {
                fields,
                prefix,
                inputs: self.inputs,
            });
        }
        let result = match self.inputs.fields.get(&node.key) {
            Some(FieldInput::Value(resolved)) => {
                seed.deserialize(Text::new(resolved.value.expose_bytes()))
            }
            Some(FieldInput::Sample(index)) => seed.deserialize(Text::sample(SAMPLES[*index])),
            Some(FieldInput::Absent) | None => Err(Reason::Rejected.into()),
        };
        result.map_err(|error| error.with_place(|| Place::Secret(node.key.clone())))
    }
}
