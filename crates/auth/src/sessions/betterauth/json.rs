//! JSON as JavaScript writes it.
//!
//! The package verifies a compact cache over the text that `JSON.stringify` returns for the parsed cookie.
//! A text that differs from it in any character would not verify.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::date::{DateText, format_date, parse_date};
use super::object::{Object, string};
use crate::sessions::text::WipedBytes;

/// The largest whole number up to which JavaScript is exact.
const MAX_SAFE: u64 = (1 << 53) - 1;

/// The members of an object that is written.
pub(super) type Members<'a> = Vec<(&'a str, Json<'a>)>;

/// A value that is written.
pub(super) enum Json<'a> {
    /// A value that is already in the form of `JSON.stringify`.
    Canonical(&'a str),
    Text(Cow<'a, str>),
    Date(DateText),
    Value(Cow<'a, Value>),
}

impl<'a> Json<'a> {
    /// Returns the value with this text, or `None` if it is nested too deeply. Most columns are simple values, which
    /// need no tree.
    pub(super) fn new(json: &'a RawValue) -> Option<Self> {
        let text = string(json);
        let json = json.get();
        match text {
            Some(Cow::Borrowed(text)) if parse_date(text).is_none() => {
                return Some(Self::Canonical(json));
            }
            Some(text) => return Some(Self::Text(text)),
            None => {}
        }
        let is_number = json.len() < 16 && json.bytes().all(|byte| byte.is_ascii_digit());
        match is_number || ["null", "true", "false"].contains(&json) {
            true => Some(Self::Canonical(json)),
            false => serde_json::from_str(json).ok().map(Self::Value),
        }
    }

    /// Returns the members of an object, or `None` if one of them is nested too deeply.
    pub(super) fn members(object: &'a Object<'_>) -> Option<Members<'a>> {
        let mut members = Vec::with_capacity(object.iter().len() + 1);
        for (name, json) in object.iter() {
            members.push((name, Self::new(json)?));
        }
        Some(members)
    }

    fn write(&self, text: &mut WipedBytes) {
        match self {
            Self::Canonical(json) => *text += json,
            Self::Text(string) => write_text(string, text),
            Self::Date(date) => write_string(date.as_str(), text),
            Self::Value(value) => write(value, text),
        }
    }
}

/// Returns `value` in the form of `JSON.stringify`.
#[cfg(test)]
pub(super) fn stringify(value: &Value) -> String {
    let mut text = WipedBytes::for_claims();
    write(value, &mut text);
    text.into_text().unwrap().to_string()
}

/// Returns an object in the form of `JSON.stringify`, written from the texts of its members.
#[cfg(test)]
pub(super) fn from_members(json: &str) -> String {
    let object = Object::parse(json).unwrap();
    let mut text = WipedBytes::for_claims();
    write_object(Json::members(&object).unwrap(), &mut text);
    text.into_text().unwrap().to_string()
}

fn write(value: &Value, text: &mut WipedBytes) {
    match value {
        Value::Null => *text += "null",
        Value::Bool(true) => *text += "true",
        Value::Bool(false) => *text += "false",
        Value::Number(number) => write_number(number, text),
        Value::String(string) => write_text(string, text),
        Value::Array(items) => {
            *text += "[";
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    *text += ",";
                }
                write(item, text);
            }
            *text += "]";
        }
        Value::Object(members) => {
            let members = members.iter();
            let members =
                members.map(|(name, value)| (name.as_str(), Json::Value(Cow::Borrowed(value))));
            write_object(members.collect(), text);
        }
    }
}

/// Writes an object. JavaScript moves names that are array indexes to the front, in numerical order.
pub(super) fn write_object(mut members: Members<'_>, text: &mut WipedBytes) {
    members.sort_by_key(|(name, _)| array_index(name).unwrap_or(u32::MAX));
    *text += "{";
    for (index, (name, member)) in members.iter().enumerate() {
        if index > 0 {
            *text += ",";
        }
        write_string(name, text);
        *text += ":";
        member.write(text);
    }
    *text += "}";
}

/// Writes a text of the claims. A text that the package reads as a date is written as it writes dates, because it
/// converts them.
fn write_text(string: &str, text: &mut WipedBytes) {
    match parse_date(string).and_then(format_date) {
        Some(date) => write_string(date.as_str(), text),
        None => write_string(string, text),
    }
}

/// Writes a string with the escapes of JSON, which are the same in `serde_json` and JavaScript.
pub(super) fn write_string(string: &str, text: &mut WipedBytes) {
    let is_escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    // The whole text is checked, because this is faster than a loop that can end early.
    if string
        .bytes()
        .fold(false, |any, byte| any | is_escaped(byte))
    {
        // The serialization of a text does not fail.
        drop(serde_json::to_writer(text, string));
    } else {
        *text += "\"";
        *text += string;
        *text += "\"";
    }
}

/// Parses a name that is an array index in JavaScript.
fn array_index(name: &str) -> Option<u32> {
    // The first byte shows that most names are not numbers.
    if !name.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let index: u32 = name.parse().ok()?;
    (index < u32::MAX && index.to_string() == name).then_some(index)
}

/// Writes a number in the form of `Number.prototype.toString`.
pub(super) fn write_number(number: &Number, text: &mut WipedBytes) {
    match is_safe(number) {
        // The serialization of a number does not fail.
        true => drop(serde_json::to_writer(text, number)),
        false => *text += &number_text(number),
    }
}

/// Returns a number in the form of `Number.prototype.toString`.
pub(super) fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if !is_safe(number) => float_text(float),
        _ => number.to_string(),
    }
}

/// Returns whether a number is whole, and exact in JavaScript.
fn is_safe(number: &Number) -> bool {
    match (number.as_u64(), number.as_i64()) {
        (Some(number), _) => number <= MAX_SAFE,
        (None, Some(number)) => number.unsigned_abs() <= MAX_SAFE,
        (None, None) => false,
    }
}

/// Returns a float in the form of `Number.prototype.toString`.
pub(super) fn float_text(number: f64) -> String {
    // A whole number that is exact in both types, such as a time. Zero has no sign in JavaScript.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let whole = number as i64;
    #[allow(clippy::cast_precision_loss, clippy::float_cmp)]
    if whole.unsigned_abs() <= MAX_SAFE && whole as f64 == number {
        return whole.to_string();
    }
    // Rust writes the shortest digits that identify the number, as JavaScript does.
    let scientific = format!("{:e}", number.abs());
    let scientific = even_digits(&scientific, number.abs()).unwrap_or(scientific);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if number < 0.0 { "-" } else { "" };
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // The number of digits before the decimal point.
    let whole = exponent + 1;
    let text = if (count..=21).contains(&whole) {
        format!("{digits}{}", zeros(whole - count))
    } else if (1..=21).contains(&whole) {
        let (before, after) = digits.split_at(usize::try_from(whole).unwrap_or_default());
        format!("{before}.{after}")
    } else if (-5..=0).contains(&whole) {
        format!("0.{}{digits}", zeros(-whole))
    } else {
        let (first, others) = digits.split_at(1);
        let point = if others.is_empty() { "" } else { "." };
        let plus = if exponent < 0 { "" } else { "+" };
        format!("{first}{point}{others}e{plus}{exponent}")
    };
    format!("{sign}{text}")
}

/// Returns the digits that JavaScript writes if the number is exactly between two texts of this length. Both
/// identify the number. JavaScript takes the one whose last digit is even, and Rust the larger one.
fn even_digits(larger: &str, number: f64) -> Option<String> {
    /// No number has more digits.
    const ALL: usize = 800;
    let (mantissa, exponent) = larger.split_once('e')?;
    let (others, last) = mantissa.split_at_checked(mantissa.len().checked_sub(1)?)?;
    let even = last.parse::<u8>().ok().filter(|last| last % 2 == 1)? - 1;
    let text = format!("{others}{even}e{exponent}");
    if text.parse() != Ok(number) {
        return None;
    }
    let exact = format!("{number:.ALL$e}");
    let rest = exact.strip_prefix(&format!("{others}{even}5"))?;
    let (zeros, _) = rest.split_once('e')?;
    zeros.bytes().all(|digit| digit == b'0').then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are those of Node.
    #[test]
    fn numbers_are_written_as_in_javascript() {
        for (json, expected) in [
            ("0", "0"),
            ("-0.0", "0"),
            ("1.0", "1"),
            ("-1.5", "-1.5"),
            ("0.1", "0.1"),
            ("1e21", "1e+21"),
            ("123456789012345680000", "123456789012345680000"),
            ("1e20", "100000000000000000000"),
            ("1.5e300", "1.5e+300"),
            ("0.000001", "0.000001"),
            ("0.0000012", "0.0000012"),
            ("1e-7", "1e-7"),
            ("1.25e-9", "1.25e-9"),
            ("9007199254740991", "9007199254740991"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("18446744073709551615", "18446744073709552000"),
            ("1800000300250.5", "1800000300250.5"),
            ("5e-324", "5e-324"),
            ("93300722260028.125", "93300722260028.12"),
            ("4258357009384.78125", "4258357009384.7812"),
            ("949939955724403.25", "949939955724403.2"),
            ("-949939955724403.75", "-949939955724403.8"),
            ("0.1234567890123456712", "0.12345678901234568"),
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(stringify(&value), expected, "{json}");
        }
    }

    #[test]
    fn members_strings_and_dates_are_written_as_in_javascript() {
        for (json, expected) in [
            (
                r#"{"b":1,"10":2,"2":3,"01":4,"a":[1.0,null,true]}"#,
                r#"{"2":3,"10":2,"01":4,"a":[1,null,true],"b":1}"#,
            ),
            (
                r#""\u0001\b\f\n\r\t\u007f\u2028é/\"\\""#,
                "\"\\u0001\\b\\f\\n\\r\\t\u{7f}\u{2028}é/\\\"\\\\\"",
            ),
            (
                r#"{"born":"1815-12-10T00:00:00Z"}"#,
                r#"{"born":"1815-12-10T00:00:00.000Z"}"#,
            ),
            (r#"["2026-13-01T00:00:00Z"]"#, r#"["2026-13-01T00:00:00Z"]"#),
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(stringify(&value), expected, "{json}");
        }
    }

    /// The expected texts are those of Node, except for the dates, which the package converts.
    #[test]
    fn members_with_texts_are_written_as_in_javascript() {
        for (json, expected) in [
            (
                r#"{"b":1,"10":2,"2":3,"01":4,"4294967295":5,"a":[1.0,null,true]}"#,
                r#"{"2":3,"10":2,"b":1,"01":4,"4294967295":5,"a":[1,null,true]}"#,
            ),
            (
                r#"{"n":-0,"m":-5,"l":1e2,"k":9007199254740993,"j":0.10,"i":123456789012345,"h":1234567890123456,"g":0}"#,
                r#"{"n":0,"m":-5,"l":100,"k":9007199254740992,"j":0.1,"i":123456789012345,"h":1234567890123456,"g":0}"#,
            ),
            (
                r#"{"a":"\u0041\/é\n\u2028","b":"\"","\u0063":"\u0001"}"#,
                "{\"a\":\"A/é\\n\u{2028}\",\"b\":\"\\\"\",\"c\":\"\\u0001\"}",
            ),
            (
                r#"{"a":1,"b":2,"a":[ 3 , {"y":1,"1":2,"y":3} ]}"#,
                r#"{"a":[3,{"1":2,"y":3}],"b":2}"#,
            ),
            (
                r#"{ "a" : { } , "b" : [ ] , "c":"  ","":false}"#,
                r#"{"a":{},"b":[],"c":"  ","":false}"#,
            ),
            (
                r#"{"a":"1815-12-10T00:00:00Z","b":"\u0031815-12-10T00:00:00Z","c":["1815-12-10T00:00:00Z"]}"#,
                r#"{"a":"1815-12-10T00:00:00.000Z","b":"1815-12-10T00:00:00.000Z","c":["1815-12-10T00:00:00.000Z"]}"#,
            ),
        ] {
            assert_eq!(from_members(json), expected, "{json}");
        }
    }
}
