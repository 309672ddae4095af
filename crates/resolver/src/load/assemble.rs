//! Makes a type from the answers for its keys, and finds every problem on the way.

use std::collections::{HashMap, HashSet};
use std::slice;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::text::{Flaw, Place, Text, What};
use super::trace::Node;
use super::{LoadError, Loaded, Plan, below, short};
use crate::Resolved;
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};

/// Stand-ins for a value that is not there. serde reports one problem and gives up; with a stand-in
/// of the right form in its place, it goes on to the next. Nothing made from one is ever returned.
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

/// The rank of a problem that is about no field in particular.
const LAST: usize = usize::MAX;

/// What is handed to one field.
enum Slot {
    Value(Resolved),
    Absent,
    Sample(usize),
}

/// What is handed to the whole type.
#[derive(Default)]
struct Supply {
    slots: HashMap<SecretKey, Slot>,
    /// Structs to hand over although all in them is absent, so that each absence is named.
    opened: HashSet<SecretKey>,
    /// What no stand-in is good enough for, and the structs that cannot be made for want of it: not
    /// handed over, so that the values after it are looked at all the same.
    withheld: HashSet<SecretKey>,
}

pub(super) fn assemble<T: DeserializeOwned>(
    plan: &Plan<T>,
    answers: Vec<Result<Resolved, Error>>,
) -> Result<Loaded<T>, LoadError> {
    let mut problems: Vec<(usize, Error)> = Vec::new();
    let rank = |key: &SecretKey| plan.keys.iter().position(|planned| planned == key);
    let mut absences: HashMap<SecretKey, Error> = HashMap::new();
    let mut supply = Supply::default();
    for (rank, (key, answer)) in plan.keys.iter().zip(answers).enumerate() {
        let slot = match answer {
            Ok(resolved) if resolved.value.is_blank() => {
                let error = Error::new(ErrorKind::NotFound, "the value is empty")
                    .with_origin(&resolved.origin);
                absences.insert(key.clone(), error.with_key(key));
                Slot::Absent
            }
            Ok(resolved) => Slot::Value(resolved),
            Err(error) if error.is_not_found() => {
                absences.insert(key.clone(), error.with_key(key));
                Slot::Absent
            }
            Err(error) => {
                problems.push((rank, error.with_key(key)));
                Slot::Sample(0)
            }
        };
        supply.slots.insert(key.clone(), slot);
    }

    let whole = loop {
        let flaw = match T::deserialize(Struct::root(&plan.nodes, &supply)) {
            Ok(value) => break Some(value),
            Err(flaw) => flaw,
        };
        let what = flaw.what;
        let place = match (flaw.place, what) {
            (Some(Place::Struct(prefix)), What::Missing(name)) => match below(&prefix, name) {
                Ok(key) if supply.withheld.contains(&key) => {
                    let parent = SecretKey::parse(prefix.as_str());
                    if parent.is_ok_and(|parent| supply.withheld.insert(parent)) {
                        continue;
                    }
                    break None;
                }
                key => key.ok(),
            },
            (Some(Place::Secret(key)), _) => Some(key),
            _ => None,
        };
        let Some(key) = place else {
            problems.push((LAST, invalid::<T>(None, what)));
            break None;
        };
        match supply.slots.get_mut(&key) {
            Some(slot @ Slot::Absent) => {
                let error = absences
                    .remove(&key)
                    .unwrap_or_else(|| never_answered(&key));
                problems.push((rank(&key).unwrap_or(LAST), error));
                *slot = Slot::Sample(0);
            }
            Some(Slot::Sample(next)) if *next + 1 < SAMPLES.len() => *next += 1,
            Some(Slot::Sample(_)) if supply.withheld.insert(key.clone()) => {}
            Some(Slot::Sample(_)) => break None,
            Some(slot @ Slot::Value(_)) => {
                let type_name = plan.field(&key).map(|field| field.type_name);
                let mut error = invalid::<T>(type_name, what).with_key(&key);
                if let Slot::Value(resolved) = slot {
                    error = error.with_origin(&resolved.origin);
                }
                problems.push((rank(&key).unwrap_or(LAST), error));
                *slot = Slot::Sample(0);
            }
            None if supply.opened.insert(key.clone()) => {}
            None => {
                problems.push((LAST, invalid::<T>(None, what).with_key(&key)));
                break None;
            }
        }
    };

    // Whether what is absent after that is needed, serde does not say before it has made it.
    let first = supply.withheld.iter().filter_map(rank).min();
    for (rank, field) in plan.fields.iter().enumerate() {
        if first.is_some_and(|first| first < rank)
            && !field.optional
            && let Some(error) = absences.remove(&field.key)
        {
            problems.push((
                rank,
                error.with_hint("set it, unless its field has a default or goes by another name"),
            ));
        }
    }

    match whole {
        Some(value) if problems.is_empty() => Ok(Loaded {
            value,
            secrets: supply.used(&plan.keys),
        }),
        _ => {
            problems.sort_by_key(|(rank, _)| *rank);
            Err(LoadError::new::<T>(
                problems.into_iter().map(|(_, error)| error).collect(),
            ))
        }
    }
}

fn invalid<T>(type_name: Option<&'static str>, what: What) -> Error {
    let message = match (what, type_name) {
        // A field with a function of its own to read it shows serde's helper for a type.
        (What::Rejected, Some(name)) if !name.contains("__DeserializeWith") => {
            format!("the value is not a valid `{}`", short(name))
        }
        (What::Rejected, Some(_)) => "the value was not accepted".to_owned(),
        (What::Rejected, None) => {
            format!(
                "`{}` did not accept its values",
                short(std::any::type_name::<T>())
            )
        }
        _ => Flaw::from(what).to_string(),
    };
    Error::new(ErrorKind::Invalid, message)
}

fn never_answered(key: &SecretKey) -> Error {
    Error::new(ErrorKind::NotFound, "no source has it").with_key(key)
}

impl Supply {
    fn has(&self, node: &Node) -> bool {
        match &node.fields {
            None => !matches!(self.slots.get(&node.key), None | Some(Slot::Absent)),
            Some(_) if self.opened.contains(&node.key) => true,
            Some(fields) => fields.iter().any(|field| self.has(field)),
        }
    }

    fn used(mut self, keys: &[SecretKey]) -> Vec<(SecretKey, Resolved)> {
        keys.iter()
            .filter_map(|key| match self.slots.remove(key) {
                Some(Slot::Value(resolved)) => Some((key.clone(), resolved)),
                _ => None,
            })
            .collect()
    }
}

/// A struct's fields, as far as they are there.
struct Struct<'a> {
    fields: &'a [Node],
    prefix: KeyPrefix,
    supply: &'a Supply,
}

impl<'a> Struct<'a> {
    fn root(fields: &'a [Node], supply: &'a Supply) -> Self {
        Self {
            fields,
            prefix: KeyPrefix::root(),
            supply,
        }
    }
}

impl<'de> Deserializer<'de> for Struct<'_> {
    type Error = Flaw;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        let Self {
            fields,
            prefix,
            supply,
        } = self;
        let fields = Fields {
            rest: fields.iter(),
            current: None,
            supply,
        };
        visitor
            .visit_map(fields)
            .map_err(|flaw| flaw.at(|| Place::Struct(prefix)))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Flaw> {
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
    supply: &'a Supply,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Flaw;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Flaw> {
        let supply = self.supply;
        self.current = self
            .rest
            .find(|node| supply.has(node) && !supply.withheld.contains(&node.key));
        self.current
            .map(|node| seed.deserialize(StrDeserializer::new(node.name)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Flaw> {
        let node = self.current.take().ok_or(What::Rejected)?;
        if let Some(fields) = &node.fields {
            let prefix = KeyPrefix::parse(&node.key).map_err(|_| What::Rejected)?;
            return seed.deserialize(Struct {
                fields,
                prefix,
                supply: self.supply,
            });
        }
        let outcome = match self.supply.slots.get(&node.key) {
            Some(Slot::Value(resolved)) => {
                seed.deserialize(Text::of(resolved.value.expose_bytes()))
            }
            Some(Slot::Sample(index)) => seed.deserialize(Text::sample(SAMPLES[*index])),
            Some(Slot::Absent) | None => Err(What::Rejected.into()),
        };
        outcome.map_err(|flaw| flaw.at(|| Place::Secret(node.key.clone())))
    }
}
