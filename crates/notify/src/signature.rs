//! Signatures: HMAC-SHA256 of a request, with the time at which it was sent.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use secretwell_core::SecretValue;
use sha2::{Digest, Sha256};

use crate::rejection::Rejection;

/// The maximum number of codes in a header. A sender has one for each secret of its rotation.
const MAX_CODES: usize = 8;

/// The signature of a request, as a header contains it.
#[derive(Debug)]
pub(crate) struct Signature {
    /// The time at which the request was sent, in milliseconds since 1970.
    pub(crate) sent_at: u64,
    /// What is signed before the body.
    pub(crate) prefix: String,
    /// The message authentication codes. One of them must be valid.
    codes: Vec<[u8; 32]>,
}

impl Signature {
    /// Parses the parts of a signature. `codes` are hexadecimal numbers of 32 bytes.
    pub(crate) fn parse(
        sent_at: Option<u64>,
        prefix: String,
        codes: &[&str],
    ) -> Result<Self, Rejection> {
        let malformed = Rejection::malformed("the signature header is malformed");
        let sent_at = sent_at.ok_or(malformed)?;
        let parsed: Option<Vec<_>> = codes.iter().map(|code| parse_hex(code)).collect();
        let codes = parsed.ok_or(malformed)?;
        if codes.is_empty() || codes.len() > MAX_CODES {
            return Err(malformed);
        }
        Ok(Self {
            sent_at,
            prefix,
            codes,
        })
    }

    /// Returns whether one of the codes was made with one of the secrets. The time of a comparison does not
    /// depend on the bytes that are equal.
    pub(crate) fn is_valid(&self, body: &[u8], secrets: &[SecretValue]) -> bool {
        let codes_match = |secret: &SecretValue| {
            let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.expose_bytes()) else {
                return false;
            };
            let mac = mac.chain_update(&self.prefix).chain_update(body);
            let mut codes = self.codes.iter();
            codes.any(|code| mac.clone().verify_slice(code).is_ok())
        };
        secrets.iter().any(codes_match)
    }

    /// Returns the digest of what is signed. It identifies the notification, whichever secret signed it.
    pub(crate) fn digest(&self, body: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update(&self.prefix)
            .chain_update(body)
            .finalize()
            .into()
    }
}

/// Returns the text of the header with the signature.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Rejection> {
    let mut values = headers.get_all(name).iter();
    let value = values
        .next()
        .ok_or(Rejection::unauthorized(
            "the signature header is missing: `x-secretwell-signature`, or `x-infisical-signature` of a webhook",
        ))?;
    // A gateway might have checked another one of them.
    if values.next().is_some() {
        return Err(Rejection::malformed("there are several signature headers"));
    }
    let text = value.to_str();
    text.map_err(|_| Rejection::malformed("the signature header is malformed"))
}

/// Parses a time: decimal digits only.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(16 * high? + low?).ok()?;
    }
    Some(bytes)
}
