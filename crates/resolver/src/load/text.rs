//! A serde deserializer for the text or bytes of one secret.

use secretwell_core::json::Json;
use serde::de::{Deserializer, Visitor};

use super::json::Value;
use super::list;
use super::reason::{FieldError, Reason};
use super::scalar::Scalar;
use super::shape::{Form, is_duration};

/// A deserializer for the bytes of one secret.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    value: Scalar<'a>,
    form: Form,
    /// Whether the bytes are a sample value for an absent or invalid secret. Samples let serde continue
    /// with the fields after it.
    is_sample: bool,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8], form: Form) -> Self {
        Self {
            value: Scalar(bytes),
            form,
            is_sample: false,
        }
    }

    pub(super) fn sample(text: &'a str) -> Self {
        Self {
            is_sample: true,
            ..Self::new(text.as_bytes(), Form::Text)
        }
    }

    /// Returns the reason of an error of this text, more precisely if white space around it could be the reason.
    /// Other forms are trimmed.
    pub(super) fn explain(self, reason: Reason) -> Reason {
        let is_untrimmed = |text: &str| text.trim().len() < text.len();
        match reason {
            Reason::Rejected
                if self.form == Form::Text && self.value.text().is_ok_and(is_untrimmed) =>
            {
                Reason::OuterWhiteSpace
            }
            _ => reason,
        }
    }

    /// Visits a JSON array or a comma-separated list.
    fn visit_list<'de, V: Visitor<'de>>(
        self,
        length: Option<usize>,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let text = self.value.trimmed()?;
        match text.as_bytes().first() {
            Some(b'[') => match Json::parse(text) {
                Ok(json) => return Value(&json).visit_list(length, visitor),
                Err(_) if self.form == Form::ADDRESSES && text.split(',').all(is_address) => {}
                Err(_) => return Err(Reason::NotAList.into()),
            },
            // A table of a document is returned as an object.
            Some(b'{') if Json::parse(text).is_ok() => return Err(Reason::AN_OBJECT.into()),
            _ => {}
        }
        let mut items = Vec::new();
        for (index, item) in text.split(',').map(str::trim_ascii).enumerate() {
            if item.is_empty() {
                return Err(Reason::EmptyItem(index + 1).into());
            }
            items.push(Self {
                value: Scalar(item.as_bytes()),
                form: Form::Other,
                is_sample: self.is_sample,
            });
        }
        list::visit(items, length, visitor)
    }

    /// Parses a text that begins with `{`.
    fn object(self) -> Option<Result<Json<'a>, FieldError>> {
        let text = self
            .value
            .trimmed()
            .ok()
            .filter(|text| text.starts_with('{'))?;
        Some(Json::parse(text).map_err(|_| Reason::NOT_AN_OBJECT.into()))
    }
}

/// Returns whether brackets in an item belong to an address, such as `[::1]:80`. In a broken JSON array, the first item
/// has no closing bracket, or quotes.
fn is_address(item: &str) -> bool {
    match (item.split_once('['), item.contains('"')) {
        (_, true) => false,
        (None, false) => !item.contains(']'),
        (Some((before, after)), false) => {
            !before.contains(']') && !after.contains('[') && after.matches(']').count() == 1
        }
    }
}

macro_rules! deserialize_scalar {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
            self.value.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = FieldError;

    deserialize_scalar! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier deserialize_ignored_any
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

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.visit_list(None, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        if self.is_sample {
            return list::visit(vec![self; length], Some(length), visitor);
        }
        self.visit_list(Some(length), visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.object() {
            Some(json) => Value(&json?).deserialize_map(visitor),
            None => Err(Reason::NOT_AN_OBJECT.into()),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let is_duration = is_duration(name, fields);
        match self.object() {
            _ if self.is_sample && is_duration => {
                Scalar(b"1s").deserialize_struct(name, fields, visitor)
            }
            Some(json) => Value(&json?).deserialize_map(visitor),
            None if is_duration => self.value.deserialize_struct(name, fields, visitor),
            None => Err(Reason::NOT_AN_OBJECT.into()),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match (self.object(), variants.first()) {
            (Some(json), _) => Value(&json?).deserialize_enum(name, variants, visitor),
            (None, Some(first)) if self.is_sample => {
                Scalar(first.as_bytes()).deserialize_enum(name, variants, visitor)
            }
            _ => self.value.deserialize_enum(name, variants, visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }
}
