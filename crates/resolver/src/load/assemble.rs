//! Builds a value from the results of its keys, and collects all problems.

use std::any::type_name;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::plan::{Loaded, Plan};
use super::reason::{FieldError, Place, Reason};
use super::text::Text;
use super::trace::{Content, Node, field_key};
use crate::Resolved;
use crate::error::{LoadError, short_type_name};

/// Sample values for secrets that are absent or invalid.
///
/// serde stops at the first error. With a sample value of the right form in place of a bad value, it
/// continues and reports the next error. A struct that was built with a sample is never returned.
const SAMPLES: [&str; 11] = [
    "1",
    "a",
    "https://localhost/",
    "127.0.0.1",
    "127.0.0.1:1",
    "1s",
    "2000-01-01T00:00:00Z",
    "00000000-0000-0000-0000-000000000000",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=",
    "[]",
    "{}",
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

impl<T: DeserializeOwned> Plan<T> {
    /// Builds a `T` from `results`, which has one result for each of [`keys`](Self::keys), in order.
    ///
    /// # Errors
    /// Returns all problems at once: absent secrets, failed reads and invalid values.
    pub fn assemble(&self, results: Vec<Result<Resolved, Error>>) -> Result<Loaded<T>, LoadError> {
        let mut problems: Vec<(usize, Error)> = Vec::new();
        let position = |key: &SecretKey| self.keys.iter().position(|planned| planned == key);
        let mut absent: HashMap<SecretKey, Error> = HashMap::new();
        let mut inputs = Inputs::default();
        for (position, (key, result)) in self.keys.iter().zip(results).enumerate() {
            let input = match result {
                Ok(resolved) if resolved.value.is_empty() => {
                    let error = Error::empty_value().with_origin(&resolved.origin);
                    problems.push((position, error.with_key(key)));
                    FieldInput::Sample(0)
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
            let is_complete = problems.is_empty();
            let (place, reason) = match build::<T>(self, &inputs, is_complete) {
                Ok(value) => break value,
                Err(error) => error,
            };
            let key = match (place, reason) {
                (Place::Secret(key), _) => key,
                (Place::Struct { prefix, .. }, Reason::MissingField(name)) => {
                    match field_key(&prefix, name) {
                        Ok(key) if !inputs.skipped.contains(&key) => key,
                        Ok(_) if inputs.skip_struct(&prefix) => continue,
                        _ => break None,
                    }
                }
                (Place::Struct { prefix, type_name }, _) => {
                    // A struct that rejects samples might accept the real values.
                    let depends_on_values = matches!(reason, Reason::Rejected | Reason::Panicked);
                    if !(depends_on_values && inputs.has_samples(&prefix)) {
                        problems.push(rejected_struct(self, &prefix, type_name, reason));
                    }
                    match inputs.skip_struct(&prefix) {
                        true => continue,
                        false => break None,
                    }
                }
            };
            let panicked = matches!(reason, Reason::Panicked);
            match inputs.fields.get_mut(&key) {
                Some(input @ FieldInput::Absent) => {
                    let error = absent.remove(&key).unwrap_or_else(|| not_found(&key));
                    problems.push((position(&key).unwrap_or(LAST), error));
                    *input = FieldInput::Sample(0);
                }
                Some(FieldInput::Sample(index)) if *index + 1 < SAMPLES.len() && !panicked => {
                    *index += 1;
                }
                Some(FieldInput::Sample(_)) if inputs.skipped.insert(key.clone()) => {}
                Some(FieldInput::Sample(_)) => break None,
                Some(input @ FieldInput::Value(_)) => {
                    let type_name = self.field(&key).map(|field| field.type_name);
                    let mut error = invalid_value(type_name, reason).with_key(&key);
                    if let FieldInput::Value(resolved) = input {
                        error = error.with_origin(&resolved.origin);
                    }
                    problems.push((position(&key).unwrap_or(LAST), error));
                    *input = FieldInput::Sample(0);
                    // A type that panicked is not called again, because it might panic on each sample.
                    if panicked {
                        inputs.skipped.insert(key);
                    }
                }
                None if inputs.required_structs.insert(key.clone()) => {}
                None => {
                    problems.push((LAST, Error::from(FieldError::from(reason)).with_key(&key)));
                    break None;
                }
            }
        };

        // serde reports the first missing field and stops. A skipped field is missing too, so serde does not
        // report the absent keys after it. They are reported here, although they might have a default.
        let first_skipped = inputs.skipped.iter().filter_map(position).min();
        for (position, field) in self.fields.iter().enumerate() {
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
                secrets: inputs.into_secrets(&self.keys),
            }),
            _ => {
                problems.sort_by_key(|(position, _)| *position);
                Err(LoadError::new::<T>(
                    problems.into_iter().map(|(_, error)| error).collect(),
                ))
            }
        }
    }
}

/// Deserializes a `T`. Returns the value only if `is_complete`, so that a value with samples is dropped
/// where a panic is caught.
fn build<T: DeserializeOwned>(
    plan: &Plan<T>,
    inputs: &Inputs,
    is_complete: bool,
) -> Result<Option<T>, (Place, Reason)> {
    let root = Struct {
        fields: &plan.nodes,
        prefix: KeyPrefix::root(),
        type_name: type_name::<T>(),
        inputs,
    };
    let place = root.place();
    catch_panic(|| T::deserialize(root).map(|value| is_complete.then_some(value)))
        .map_err(|error| (error.place.unwrap_or(place), error.reason))
}

/// Calls `deserialize`, which runs code of the user's types, and returns a panic as an error. The
/// message of the panic is dropped, because it might contain the value.
pub(super) fn catch_panic<T>(
    deserialize: impl FnOnce() -> Result<T, FieldError>,
) -> Result<T, FieldError> {
    // After a panic, nothing that `deserialize` has changed is used again.
    catch_unwind(AssertUnwindSafe(deserialize)).unwrap_or_else(|_| Err(Reason::Panicked.into()))
}

/// Returns the problem of a value that its field did not accept.
pub(super) fn invalid_value(type_name: Option<&'static str>, reason: Reason) -> Error {
    // With `deserialize_with`, the type is a private helper of serde.
    let type_name = type_name.filter(|name| !name.contains("__DeserializeWith"));
    let not_valid = |name| {
        let message = format!("the value is not a valid `{}`", short_type_name(name));
        Error::new(ErrorKind::Invalid, message)
    };
    match (reason, type_name) {
        (Reason::Rejected, Some(name)) => not_valid(name),
        (Reason::OuterWhiteSpace, Some(name)) => {
            not_valid(name).with_hint("remove the white space around it")
        }
        (Reason::Panicked, _) => panicked(type_name),
        _ => FieldError::from(reason).into(),
    }
}

/// Returns the problem of a struct that could not be built from accepted fields, with its position.
fn rejected_struct<T>(
    plan: &Plan<T>,
    prefix: &KeyPrefix,
    type_name: &'static str,
    reason: Reason,
) -> (usize, Error) {
    let error = match reason {
        Reason::Rejected => Error::new(
            ErrorKind::Invalid,
            format!("`{}` did not accept its values", short_type_name(type_name)),
        ),
        Reason::Panicked => panicked(Some(type_name)),
        _ => FieldError::from(reason).into(),
    };
    match SecretKey::parse(prefix.as_str()) {
        Ok(key) => {
            let position = plan.keys.iter().position(|key| prefix.contains(key));
            (position.unwrap_or(LAST), error.with_key(&key))
        }
        // The root has no key.
        Err(_) => (LAST, error),
    }
}

fn panicked(type_name: Option<&'static str>) -> Error {
    let subject = type_name.map_or("the value".to_owned(), |name| {
        format!("`{}`", short_type_name(name))
    });
    Error::new(
        ErrorKind::Invalid,
        format!("the code that deserializes {subject} panicked"),
    )
    .with_hint("make it return an error instead")
}

fn not_found(key: &SecretKey) -> Error {
    Error::new(ErrorKind::NotFound, "no source has it").with_key(key)
}

impl Inputs {
    /// Returns whether a field has an input, or a struct has at least one field with an input.
    fn contains(&self, node: &Node) -> bool {
        match &node.content {
            Content::Secret(_) => {
                !matches!(self.fields.get(&node.key), None | Some(FieldInput::Absent))
            }
            Content::Struct(_) if self.required_structs.contains(&node.key) => true,
            Content::Struct(fields) => fields.iter().any(|field| self.contains(field)),
        }
    }

    /// Returns whether a field below `prefix` has a sample. Its problem has been reported.
    fn has_samples(&self, prefix: &KeyPrefix) -> bool {
        let mut fields = self.fields.iter();
        fields.any(|(key, input)| matches!(input, FieldInput::Sample(_)) && prefix.contains(key))
    }

    /// Skips the struct at `prefix`. Returns `false` for the root, and if it is already skipped.
    fn skip_struct(&mut self, prefix: &KeyPrefix) -> bool {
        SecretKey::parse(prefix.as_str()).is_ok_and(|key| self.skipped.insert(key))
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
    type_name: &'static str,
    inputs: &'a Inputs,
}

impl Struct<'_> {
    fn place(&self) -> Place {
        Place::Struct {
            prefix: self.prefix.clone(),
            type_name: self.type_name,
        }
    }
}

impl<'de> Deserializer<'de> for Struct<'_> {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let fields = Fields {
            rest: self.fields.iter(),
            current: None,
            inputs: self.inputs,
        };
        visitor
            .visit_map(fields)
            .map_err(|error| error.with_place(|| self.place()))
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
        let inputs = self.inputs;
        let form = match &node.content {
            Content::Secret(form) => *form,
            Content::Struct(fields) => {
                let nested = Struct {
                    fields,
                    prefix: KeyPrefix::parse(&node.key).map_err(|_| Reason::Rejected)?,
                    type_name: node.type_name,
                    inputs,
                };
                let place = nested.place();
                return catch_panic(|| seed.deserialize(nested))
                    .map_err(|error| error.with_place(|| place));
            }
        };
        let text = match inputs.fields.get(&node.key) {
            Some(FieldInput::Value(resolved)) => Text::new(resolved.value.expose_bytes(), form),
            Some(FieldInput::Sample(index)) => Text::sample(SAMPLES[*index]),
            Some(FieldInput::Absent) | None => return Err(Reason::Rejected.into()),
        };
        catch_panic(|| seed.deserialize(text)).map_err(|mut error| {
            error.reason = text.explain(error.reason);
            error.with_place(|| Place::Secret(node.key.clone()))
        })
    }
}
