//! JSON bodies of requests.

use std::collections::BTreeMap;

use secretwell_core::{Error, ErrorKind, SecretValue};
use zeroize::Zeroizing;

/// Encodes `fields` as a JSON object of strings, such as the body of a login request. The buffer is large
/// enough from the start, so that it never grows and leaves no copy of a credential in freed memory.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] if the encoding fails, which is not known to happen.
pub fn json_object(fields: &[(&str, &str)]) -> Result<SecretValue, Error> {
    let escaped_length = |text: &str| 6 * text.len() + 8;
    let lengths = fields
        .iter()
        .map(|(name, value)| escaped_length(name) + escaped_length(value));
    let mut bytes = Zeroizing::new(Vec::with_capacity(lengths.sum::<usize>() + 2));
    let object: BTreeMap<_, _> = fields.iter().copied().collect();
    serde_json::to_writer(&mut *bytes, &object).map_err(|_| {
        Error::new(
            ErrorKind::Invalid,
            "the credential cannot be encoded as JSON",
        )
    })?;
    Ok(bytes.as_slice().into())
}
