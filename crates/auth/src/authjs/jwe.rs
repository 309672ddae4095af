//! Compact JWE with a shared key, in the two forms that Auth.js writes.
//!
//! Written for these two alone: a general library takes more from a token's header than is good.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::TokenError;
use super::keys::{Format, GCM_KEY, Keys};

/// The longest token that is looked at: a hundred cookies' worth.
const MAX_TOKEN: usize = 400_000;

/// What stands in the header of a token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    zip: Option<serde::de::IgnoredAny>,
}

/// The parts of a token.
struct Parts<'a> {
    /// As it came, which is what the tag vouches for.
    header: &'a str,
    iv: Vec<u8>,
    text: Vec<u8>,
    tag: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Encryption {
    Cbc,
    Gcm,
}

#[cfg(test)]
thread_local! {
    /// How often this thread has decrypted what the tag had vouched for.
    pub(super) static DECRYPTIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The plain text of a token.
///
/// # Errors
/// [`TokenError::Malformed`]: it is no such token. [`TokenError::Forged`]: no key fits.
pub(super) fn open(
    token: &str,
    keys: &[Keys],
    format: Format,
) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let parts = Parts::of(token)?;
    let (encryption, keys) = read_header(parts.header, keys, format)?;
    let opened = keys.into_iter().find_map(|keys| match encryption {
        Encryption::Cbc => open_cbc(&parts, keys),
        Encryption::Gcm => open_gcm(&parts, &keys.gcm),
    });
    opened.ok_or(TokenError::Forged)
}

/// How a token with this header is encrypted, and which keys it may have been with.
fn read_header<'a>(
    header: &str,
    keys: &'a [Keys],
    format: Format,
) -> Result<(Encryption, Vec<&'a Keys>), TokenError> {
    // Nearly always, it is one that we could have written.
    let known: Vec<&Keys> = keys.iter().filter(|keys| keys.header == header).collect();
    if !known.is_empty() {
        return Ok((Encryption::of(format), known));
    }
    let header: Header =
        serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Malformed)?;
    if header.alg != "dir" || header.crit.is_some() || header.zip.is_some() {
        return Err(TokenError::Malformed);
    }
    let encryption = match (header.enc.as_str(), format) {
        ("A256CBC-HS512", Format::V5) => Encryption::Cbc,
        ("A256GCM", _) => Encryption::Gcm,
        _ => return Err(TokenError::Malformed),
    };
    let candidates = match (&header.kid, format) {
        (Some(id), _) => keys
            .iter()
            .filter(|keys| match encryption {
                Encryption::Cbc => keys.cbc_id == *id,
                Encryption::Gcm => keys.gcm_id == *id,
            })
            .collect(),
        (None, Format::V4) => keys.iter().collect(),
        // Its packages name the key in each token that they write, and try the first one only when a
        // token names none.
        (None, Format::V5) => keys.iter().take(1).collect(),
    };
    Ok((encryption, candidates))
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
    fn of(token: &'a str) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let mut next = || parts.next().ok_or(TokenError::Malformed);
        let (header, key, iv, text, tag) = (next()?, next()?, next()?, next()?, next()?);
        // With a shared key there is none in the token.
        if parts.next().is_some() || !key.is_empty() {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            header,
            iv: decoded(iv)?,
            text: decoded(text)?,
            tag: decoded(tag)?,
        })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)
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
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| wrong())?;
    let (iv, text, tag) = match format {
        Format::V4 => {
            let iv = &random[..12];
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
