//! The items of a list.

use std::vec::IntoIter;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::reason::{FieldError, Reason};

/// Passes `items` to `visitor`. `length` is the number of items that the type has, if it is fixed.
///
/// # Errors
/// Returns the error of the first item that is not accepted, or [`Reason::Length`] if items are missing or left over.
pub(super) fn visit<'de, D, V>(
    items: Vec<D>,
    length: Option<usize>,
    visitor: V,
) -> Result<V::Value, FieldError>
where
    D: Deserializer<'de, Error = FieldError>,
    V: Visitor<'de>,
{
    let found = items.len();
    if let Some(expected) = length.filter(|length| *length != found) {
        return Err(Reason::Length { expected, found }.into());
    }
    let mut rest = items.into_iter();
    let value = visitor.visit_seq(Items(&mut rest))?;
    match found - rest.len() {
        taken if taken == found => Ok(value),
        taken => Err(Reason::Length {
            expected: taken,
            found,
        }
        .into()),
    }
}

struct Items<'a, D>(&'a mut IntoIter<D>);

impl<'de, D: Deserializer<'de, Error = FieldError>> SeqAccess<'de> for Items<'_, D> {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, FieldError> {
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}
