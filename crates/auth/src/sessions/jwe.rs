//! Compact JWE with a shared key, in the two formats of Auth.js and the one of Better Auth.
//!
//! A general JWE library accepts more algorithms from a token's header than is safe, so this module
//! supports these formats only. Errors distinguish the same cases as the packages do.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use hmac::Mac;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::encoding::URL_SAFE_NO_PAD;
use super::error::TokenError;
use super::keys::{Format, Keys};
use super::text;

/// Maximum length of a token in bytes: about a hundred cookies.
const MAX_TOKEN: usize = 400_000;
/// Lengths in bytes.
const CBC_IV: usize = 16;
const GCM_IV: usize = 12;
const GCM_TAG: usize = 16;
/// Maximum length of the last parts of a token without the encrypted text, in base64 with the dots.
const IV_AND_TAG: usize = 72;

/// Base64 that accepts unused trailing bits in the last character.
const LENIENT_BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// The content of a token.
pub(super) struct Decrypted {
    pub(super) text: Zeroizing<Vec<u8>>,
    /// The fields of the header. `None` if the header is the same as in new tokens.
    pub(super) header: Option<Map<String, Value>>,
}

/// The parts of a compact JWE.
struct Parts<'a> {
    /// The header in base64. The tag authenticates this encoded form.
    header: &'a str,
    key: &'a str,
    iv: Vec<u8>,
    text: Vec<u8>,
    tag: Vec<u8>,
    /// Whether `iv`, `text` and `tag` are canonical base64.
    is_canonical: bool,
}

/// The header of a token, and how to decrypt the token.
struct Header<'a> {
    encryption: Encryption,
    /// The keys that might have created the token.
    candidates: Vec<&'a Keys>,
    /// Whether the token names the key that has created it.
    names_key: bool,
    /// The fields of the header. `None` if the header is the same as in new tokens.
    fields: Option<Map<String, Value>>,
    is_canonical: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Encryption {
    Cbc,
    Gcm,
}

#[cfg(test)]
thread_local! {
    /// Number of CBC decryptions on this thread. Each follows a successful check of the tag.
    pub(super) static DECRYPTIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Decrypts a token.
///
/// # Errors
/// - [`TokenError::Malformed`] if `token` is not in this format
/// - [`TokenError::Forged`] if it names one of `keys`, which does not verify it
/// - [`TokenError::UnknownKey`] if it names another key, or if it names none and no key verifies it
pub(super) fn decrypt(token: &str, keys: &[Keys], format: Format) -> Result<Decrypted, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let parts = Parts::parse(token, format)?;
    let header = Header::parse(parts.header, keys, format)?;
    if header.candidates.is_empty() {
        return Err(TokenError::UnknownKey);
    }
    if !parts.have_valid_lengths(header.encryption, format) {
        return Err(TokenError::Malformed);
    }
    let unverified = match header.names_key {
        true => TokenError::Forged,
        false => TokenError::UnknownKey,
    };
    let text = header
        .candidates
        .into_iter()
        .find_map(|keys| match header.encryption {
            Encryption::Cbc => decrypt_cbc(&parts, keys),
            Encryption::Gcm => decrypt_gcm(&parts, &keys.gcm),
        });
    let text = text.ok_or(unverified)?;
    // A revoked token with a second valid encoding would pass a denylist of token strings.
    if !(parts.is_canonical && header.is_canonical) {
        return Err(TokenError::Malformed);
    }
    Ok(Decrypted {
        text,
        header: header.fields,
    })
}

impl<'a> Header<'a> {
    fn parse(header: &str, keys: &'a [Keys], format: Format) -> Result<Self, TokenError> {
        // Fast path: most tokens have the header of new tokens.
        let known: Vec<&Keys> = keys.iter().filter(|keys| keys.header == header).collect();
        if !known.is_empty() {
            return Ok(Self {
                encryption: Encryption::of_new_tokens(format),
                candidates: known,
                // New tokens of version 4 have no `kid`.
                names_key: format != Format::V4,
                fields: None,
                is_canonical: true,
            });
        }
        let (json, is_canonical) = decode_part(header, format)?;
        let json = text::decode_json(json.into(), format).ok_or(TokenError::Malformed)?;
        let fields: Map<String, Value> =
            serde_json::from_str(&json).map_err(|_| TokenError::Malformed)?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if text("alg") != Some("dir") || fields.contains_key("crit") || fields.contains_key("zip") {
            return Err(TokenError::Malformed);
        }
        let encryption = match (text("enc"), format) {
            (Some("A256CBC-HS512"), Format::V5 | Format::BetterAuth) => Encryption::Cbc,
            (Some("A256GCM"), Format::V4 | Format::V5) => Encryption::Gcm,
            _ => return Err(TokenError::Malformed),
        };
        let candidates = match (fields.get("kid"), format) {
            (_, Format::V4) | (None, Format::BetterAuth) => keys.iter().collect(),
            (Some(id), Format::V5 | Format::BetterAuth) => keys
                .iter()
                .filter(|keys| match encryption {
                    Encryption::Cbc => *id == keys.cbc_id,
                    Encryption::Gcm => *id == keys.gcm_id,
                })
                .collect(),
            // Like the packages: they write `kid` into each token, and use only the first key for a
            // token without it.
            (None, Format::V5) => keys.iter().take(1).collect(),
        };
        Ok(Self {
            encryption,
            candidates,
            names_key: format != Format::V4 && fields.contains_key("kid"),
            fields: Some(fields),
            is_canonical,
        })
    }
}

impl Encryption {
    fn of_new_tokens(format: Format) -> Self {
        match format {
            Format::V4 => Self::Gcm,
            Format::V5 | Format::BetterAuth => Self::Cbc,
        }
    }
}

impl<'a> Parts<'a> {
    fn parse(token: &'a str, format: Format) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let mut next = || parts.next().ok_or(TokenError::Malformed);
        let (header, key, iv, text, tag) = (next()?, next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(TokenError::Malformed);
        }
        let [
            (iv, iv_is_canonical),
            (text, text_is_canonical),
            (tag, tag_is_canonical),
        ] = [
            decode_part(iv, format)?,
            decode_part(text, format)?,
            decode_part(tag, format)?,
        ];
        Ok(Self {
            header,
            key,
            iv,
            text,
            tag,
            is_canonical: iv_is_canonical && text_is_canonical && tag_is_canonical,
        })
    }

    /// Returns whether the lengths of the parts are valid.
    ///
    /// A tag of a wrong length is not malformed but forged, as in the packages. The exceptions are an
    /// empty tag, and GCM in version 5.
    fn have_valid_lengths(&self, encryption: Encryption, format: Format) -> bool {
        let iv = match encryption {
            Encryption::Cbc => CBC_IV,
            Encryption::Gcm => GCM_IV,
        };
        let is_v5_gcm = encryption == Encryption::Gcm && format == Format::V5;
        // With the algorithm `dir`, a token contains no encrypted key.
        self.key.is_empty()
            && self.iv.len() == iv
            && !self.tag.is_empty()
            && (!is_v5_gcm || self.tag.len() == GCM_TAG)
    }
}

/// Decodes a part as leniently as the packages do, and returns whether it is canonical base64.
///
/// The caller rejects non-canonical parts after the check of the tag. The error for a wrong tag is
/// then forged and not malformed, as in the packages.
fn decode_part(part: &str, format: Format) -> Result<(Vec<u8>, bool), TokenError> {
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(part) {
        return Ok((bytes, true));
    }
    let mut text: Vec<u8> = match format {
        // Node's `Buffer` stops at padding and skips all other invalid characters.
        Format::V4 => part
            .bytes()
            .take_while(|byte| *byte != b'=')
            .filter_map(|byte| match byte {
                b'+' => Some(b'-'),
                b'/' => Some(b'_'),
                byte => (byte.is_ascii_alphanumeric() || b"-_".contains(&byte)).then_some(byte),
            })
            .collect(),
        // `atob` accepts white space, and padding of the correct length.
        Format::V5 | Format::BetterAuth => part
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect(),
    };
    match (format, text.len() % 4) {
        (Format::V4, 1) => drop(text.pop()),
        (Format::V5 | Format::BetterAuth, 0) => {
            for _ in 0..2 {
                text.pop_if(|last| *last == b'=');
            }
        }
        _ => {}
    }
    let bytes = LENIENT_BASE64
        .decode(text)
        .map_err(|_| TokenError::Malformed)?;
    Ok((bytes, false))
}

/// Decrypts AES-CBC with HMAC (RFC 7518, section 5.2.5).
///
/// The tag is checked first, so that errors do not reveal anything about the padding.
fn decrypt_cbc(parts: &Parts<'_>, keys: &Keys) -> Option<Zeroizing<Vec<u8>>> {
    let tag = cbc_tag(keys, parts.header, &parts.iv, &parts.text)?;
    if !bool::from(tag.ct_eq(&parts.tag)) {
        return None;
    }
    #[cfg(test)]
    DECRYPTIONS.set(DECRYPTIONS.get() + 1);
    let iv = parts.iv.as_slice().try_into().ok()?;
    let cipher = cbc::Decryptor::inner_iv_init(&*keys.cbc_cipher, iv);
    let mut text = Zeroizing::new(parts.text.clone());
    let length = cipher.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

pub(super) fn cbc_tag(keys: &Keys, header: &str, iv: &[u8], text: &[u8]) -> Option<[u8; 32]> {
    let bits = u64::try_from(header.len()).ok()?.checked_mul(8)?;
    let mut mac = keys.cbc_mac.clone();
    for part in [header.as_bytes(), iv, text, &bits.to_be_bytes()] {
        mac.update(part);
    }
    mac.finalize().into_bytes()[..32].try_into().ok()
}

fn decrypt_gcm(parts: &Parts<'_>, cipher: &Aes256Gcm) -> Option<Zeroizing<Vec<u8>>> {
    let nonce: &Nonce<_> = parts.iv.as_slice().try_into().ok()?;
    let tag: &Tag = parts.tag.as_slice().try_into().ok()?;
    let mut text = Zeroizing::new(parts.text.clone());
    let header = parts.header.as_bytes();
    cipher
        .decrypt_inout_detached(nonce, header, text.as_mut_slice().into(), tag)
        .ok()?;
    Some(text)
}

/// Encrypts a plain text and returns it as a token.
///
/// # Errors
/// Returns [`TokenError::Malformed`] if the system's random number generator fails, or if the text is
/// too long.
pub(super) fn encrypt(text: &[u8], keys: &Keys, format: Format) -> Result<String, TokenError> {
    let failed = || TokenError::Malformed;
    let header = &keys.header;
    let mut random = [0; CBC_IV];
    getrandom::fill(&mut random).map_err(|_| failed())?;
    let (iv, text, tag) = match format {
        Format::V4 => {
            let iv = &random[..GCM_IV];
            let nonce: &Nonce<_> = iv.try_into().map_err(|_| failed())?;
            let mut text = text.to_vec();
            let tag = keys
                .gcm
                .encrypt_inout_detached(nonce, header.as_bytes(), text.as_mut_slice().into())
                .map_err(|_| failed())?;
            (iv, text, tag.to_vec())
        }
        Format::V5 | Format::BetterAuth => {
            let cipher = cbc::Encryptor::inner_iv_init(&*keys.cbc_cipher, &random.into());
            let text = cipher.encrypt_padded_vec::<Pkcs7>(text);
            let tag = cbc_tag(keys, header, &random, &text).ok_or_else(failed)?;
            (&random[..], text, tag.to_vec())
        }
    };
    let mut token = String::with_capacity(header.len() + text.len() * 4 / 3 + IV_AND_TAG);
    token += header;
    token.push('.');
    for part in [iv, &text, &tag] {
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(part, &mut token);
    }
    Ok(token)
}
