//! Compact JWE with a shared key, in the two forms that Auth.js writes.
//!
//! Written for these two alone: a general library takes more from a token's header than is good. What is
//! wrong with a token is said as the packages say it.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce, Tag};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use hmac::Mac;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{Format, GCM_KEY, Keys};
use super::{TokenError, text};

/// The longest token that is looked at: a hundred cookies' worth.
const MAX_TOKEN: usize = 400_000;
/// How long these are.
const CBC_IV: usize = 16;
const GCM_IV: usize = 12;
const GCM_TAG: usize = 16;

/// Base64 whose last character may say more than the last byte.
const LOOSE: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// What is in a token.
pub(super) struct Opened {
    /// Its plain text.
    pub(super) text: Zeroizing<Vec<u8>>,
    /// Its header, if it is another than those that are written here.
    pub(super) header: Option<Map<String, Value>>,
}

/// The parts of a token.
struct Parts<'a> {
    /// As it came, which is what the tag vouches for.
    header: &'a str,
    key: &'a str,
    iv: Vec<u8>,
    text: Vec<u8>,
    tag: Vec<u8>,
    /// Whether nobody could write the same parts otherwise.
    is_exact: bool,
}

/// How a token with some header is to be opened.
struct Lock<'a> {
    encryption: Encryption,
    /// With which keys it may have been made.
    keys: Vec<&'a Keys>,
    header: Option<Map<String, Value>>,
    is_exact: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Encryption {
    Cbc,
    Gcm,
}

#[cfg(test)]
thread_local! {
    /// How often this thread has decrypted what the tag had vouched for.
    pub(super) static DECRYPTIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Opens a token.
///
/// # Errors
/// [`TokenError::Malformed`]: it is no such token. [`TokenError::Forged`]: no key fits.
pub(super) fn open(token: &str, keys: &[Keys], format: Format) -> Result<Opened, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let parts = Parts::of(token, format)?;
    let lock = Lock::of(parts.header, keys, format)?;
    if lock.keys.is_empty() {
        return Err(TokenError::Forged);
    }
    if !parts.fit(lock.encryption, format) {
        return Err(TokenError::Malformed);
    }
    let opened = lock
        .keys
        .into_iter()
        .find_map(|keys| match lock.encryption {
            Encryption::Cbc => open_cbc(&parts, keys),
            Encryption::Gcm => open_gcm(&parts, &keys.gcm),
        });
    let text = opened.ok_or(TokenError::Forged)?;
    // A token that can be written in several ways could be let in after it was shut out by its text.
    if !(parts.is_exact && lock.is_exact) {
        return Err(TokenError::Malformed);
    }
    Ok(Opened {
        text,
        header: lock.header,
    })
}

impl<'a> Lock<'a> {
    fn of(header: &str, keys: &'a [Keys], format: Format) -> Result<Self, TokenError> {
        // Nearly always, it is one that we could have written.
        let known: Vec<&Keys> = keys.iter().filter(|keys| keys.header == header).collect();
        if !known.is_empty() {
            return Ok(Self {
                encryption: Encryption::of(format),
                keys: known,
                header: None,
                is_exact: true,
            });
        }
        let (header, is_exact) = decoded(header, format)?;
        let header = text::json(header.into(), format).ok_or(TokenError::Malformed)?;
        let header: Map<String, Value> =
            serde_json::from_str(&header).map_err(|_| TokenError::Malformed)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        if text("alg") != Some("dir") || header.contains_key("crit") || header.contains_key("zip") {
            return Err(TokenError::Malformed);
        }
        let encryption = match (text("enc"), format) {
            (Some("A256CBC-HS512"), Format::V5) => Encryption::Cbc,
            (Some("A256GCM"), _) => Encryption::Gcm,
            _ => return Err(TokenError::Malformed),
        };
        let keys = match (header.get("kid"), format) {
            (_, Format::V4) => keys.iter().collect(),
            (Some(id), Format::V5) => keys
                .iter()
                .filter(|keys| match encryption {
                    Encryption::Cbc => *id == keys.cbc_id,
                    Encryption::Gcm => *id == keys.gcm_id,
                })
                .collect(),
            // Its packages name the key in each token that they write, and try the first one only when a
            // token names none.
            (None, Format::V5) => keys.iter().take(1).collect(),
        };
        Ok(Self {
            encryption,
            keys,
            header: Some(header),
            is_exact,
        })
    }
}

impl Encryption {
    /// That of the tokens that are written.
    fn of(format: Format) -> Self {
        match format {
            Format::V4 => Self::Gcm,
            Format::V5 => Self::Cbc,
        }
    }
}

impl<'a> Parts<'a> {
    fn of(token: &'a str, format: Format) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let mut next = || parts.next().ok_or(TokenError::Malformed);
        let (header, key, iv, text, tag) = (next()?, next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(TokenError::Malformed);
        }
        let [
            (iv, iv_is_exact),
            (text, text_is_exact),
            (tag, tag_is_exact),
        ] = [
            decoded(iv, format)?,
            decoded(text, format)?,
            decoded(tag, format)?,
        ];
        Ok(Self {
            header,
            key,
            iv,
            text,
            tag,
            is_exact: iv_is_exact && text_is_exact && tag_is_exact,
        })
    }

    /// Whether they can be those of a token: a tag of another length is a wrong one, but for a missing one
    /// and what version 5 says of GCM.
    fn fit(&self, encryption: Encryption, format: Format) -> bool {
        let iv = match encryption {
            Encryption::Cbc => CBC_IV,
            Encryption::Gcm => GCM_IV,
        };
        let is_gcm_of_5 = encryption == Encryption::Gcm && format == Format::V5;
        // With a shared key there is none in the token.
        self.key.is_empty()
            && self.iv.len() == iv
            && !self.tag.is_empty()
            && (!is_gcm_of_5 || self.tag.len() == GCM_TAG)
    }
}

/// The bytes of a part, read as loosely as the packages do, and whether it is strictly base64: what they
/// read and find wrong is forged, and not malformed.
fn decoded(part: &str, format: Format) -> Result<(Vec<u8>, bool), TokenError> {
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(part) {
        return Ok((bytes, true));
    }
    let mut text: Vec<u8> = match format {
        // Node's `Buffer` leaves out what is no base64, to the end or the padding.
        Format::V4 => part
            .bytes()
            .take_while(|byte| *byte != b'=')
            .filter_map(|byte| match byte {
                b'+' => Some(b'-'),
                b'/' => Some(b'_'),
                byte => (byte.is_ascii_alphanumeric() || b"-_".contains(&byte)).then_some(byte),
            })
            .collect(),
        // `atob` takes white space, and padding where it fits.
        Format::V5 => {
            let is_text = |byte: &u8| !byte.is_ascii_whitespace();
            part.bytes().filter(is_text).collect()
        }
    };
    match (format, text.len() % 4) {
        (Format::V4, 1) => drop(text.pop()),
        (Format::V5, 0) => {
            for _ in 0..2 {
                text.pop_if(|last| *last == b'=');
            }
        }
        _ => {}
    }
    let bytes = LOOSE.decode(text).map_err(|_| TokenError::Malformed)?;
    Ok((bytes, false))
}

/// AES-CBC with an HMAC around it (RFC 7518, section 5.2.5). The tag is checked first, so that nobody
/// learns anything of the padding.
fn open_cbc(parts: &Parts<'_>, keys: &Keys) -> Option<Zeroizing<Vec<u8>>> {
    let tag = cbc_tag(keys, parts.header, &parts.iv, &parts.text)?;
    if !bool::from(tag.ct_eq(&parts.tag)) {
        return None;
    }
    #[cfg(test)]
    DECRYPTIONS.set(DECRYPTIONS.get() + 1);
    let key = &*keys.cbc_text;
    let cipher = cbc::Decryptor::<aes::Aes256>::new_from_slices(key, &parts.iv).ok()?;
    let mut text = Zeroizing::new(parts.text.clone());
    let length = cipher.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

pub(super) fn cbc_tag(keys: &Keys, header: &str, iv: &[u8], text: &[u8]) -> Option<[u8; 32]> {
    let bits = u64::try_from(header.len()).ok()?.checked_mul(8)?;
    let mut mac = keys.cbc_tag.clone();
    for part in [header.as_bytes(), iv, text, &bits.to_be_bytes()] {
        mac.update(part);
    }
    mac.finalize().into_bytes()[..32].try_into().ok()
}

fn open_gcm(parts: &Parts<'_>, key: &[u8; GCM_KEY]) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = Aes256Gcm::new_from_slice(key).ok()?;
    let nonce: &Nonce<_> = parts.iv.as_slice().try_into().ok()?;
    let tag: &Tag = parts.tag.as_slice().try_into().ok()?;
    let mut text = Zeroizing::new(parts.text.clone());
    let header = parts.header.as_bytes();
    cipher
        .decrypt_inout_detached(nonce, header, text.as_mut_slice().into(), tag)
        .ok()?;
    Some(text)
}

/// A token with this plain text.
///
/// # Errors
/// [`TokenError::Malformed`]: the system has no random numbers, or the text is too long.
pub(super) fn seal(text: &[u8], keys: &Keys, format: Format) -> Result<String, TokenError> {
    let wrong = || TokenError::Malformed;
    let header = &keys.header;
    let mut random = [0; CBC_IV];
    getrandom::fill(&mut random).map_err(|_| wrong())?;
    let (iv, text, tag) = match format {
        Format::V4 => {
            let iv = &random[..GCM_IV];
            let cipher = Aes256Gcm::new_from_slice(&*keys.gcm).map_err(|_| wrong())?;
            let nonce: &Nonce<_> = iv.try_into().map_err(|_| wrong())?;
            let mut text = text.to_vec();
            let tag = cipher
                .encrypt_inout_detached(nonce, header.as_bytes(), text.as_mut_slice().into())
                .map_err(|_| wrong())?;
            (iv, text, tag.to_vec())
        }
        Format::V5 => {
            let cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(&*keys.cbc_text, &random)
                .map_err(|_| wrong())?;
            let text = cipher.encrypt_padded_vec::<Pkcs7>(text);
            let tag = cbc_tag(keys, header, &random, &text).ok_or_else(wrong)?;
            (&random[..], text, tag.to_vec())
        }
    };
    let parts = [iv, &text, &tag].map(|part| URL_SAFE_NO_PAD.encode(part));
    Ok(format!("{header}..{}", parts.join(".")))
}
