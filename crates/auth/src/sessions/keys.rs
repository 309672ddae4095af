//! The keys that Auth.js and Better Auth derive from a secret.

use aes::Aes256;
use aes_gcm::Aes256Gcm;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit};
use secretwell_core::{Error, ErrorKind, SecretValue};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

#[cfg(feature = "authjs")]
use crate::KeyRing;

/// Length of the keys in bytes. A CBC key consists of two halves.
const CBC_KEY: usize = 64;
const GCM_KEY: usize = 32;

/// The derivation uses less than this many bytes of the stack: 17,000 in a build without optimization.
const USED_STACK: usize = 32 << 10;

/// The version of the token format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// next-auth 4.
    V4,
    /// `@auth/core` and next-auth 5.
    V5,
    /// Better Auth.
    #[cfg_attr(not(feature = "betterauth"), allow(dead_code))]
    BetterAuth,
}

/// The keys that are derived from one secret and one salt. They are wiped when they are dropped, and they are in boxes,
/// because moving them would leave copies on the stack.
pub(super) struct Keys {
    /// First half of the CBC key, as the initial state of the HMAC for each tag.
    pub(super) cbc_mac: Hmac<Sha512>,
    /// Second half of the CBC key, which encrypts the text. The key is expanded once, because each expansion leaves
    /// copies on the stack.
    pub(super) cbc_cipher: Box<Aes256>,
    pub(super) gcm: Box<Aes256Gcm>,
    /// `kid` of the CBC key in the header of a token.
    pub(super) cbc_id: String,
    /// `kid` of the GCM key in the header of a token.
    pub(super) gcm_id: String,
    /// Header of new tokens, encoded in base64.
    pub(super) header: String,
}

impl Keys {
    /// Derives the keys of one secret.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the lengths of the keys are not supported, which does not happen.
    pub(super) fn derive(secret: &SecretValue, format: Format, salt: &str) -> Result<Self, Error> {
        let keys = Self::derive_on_the_stack(secret, format, salt);
        wipe_stack();
        keys
    }

    /// Derives the keys, and leaves copies of them on the stack.
    #[inline(never)]
    fn derive_on_the_stack(
        secret: &SecretValue,
        format: Format,
        salt: &str,
    ) -> Result<Self, Error> {
        let info = match (format, salt) {
            (Format::V4, "") => "NextAuth.js Generated Encryption Key".to_owned(),
            (Format::V4, salt) => format!("NextAuth.js Generated Encryption Key ({salt})"),
            (Format::V5, salt) => format!("Auth.js Generated Encryption Key ({salt})"),
            (Format::BetterAuth, _) => "BetterAuth.js Generated Encryption Key".to_owned(),
        };
        let hkdf = Hkdf::<Sha256>::new(Some(salt.as_bytes()), secret.expose_bytes());
        let derivation_error = || {
            Error::new(
                ErrorKind::Invalid,
                "the encryption key cannot be derived from the secret",
            )
        };
        let mut cbc = Zeroizing::new([0; CBC_KEY]);
        hkdf.expand(info.as_bytes(), &mut *cbc)
            .map_err(|_| derivation_error())?;
        let mut gcm = Zeroizing::new([0; GCM_KEY]);
        hkdf.expand(info.as_bytes(), &mut *gcm)
            .map_err(|_| derivation_error())?;
        let cbc_thumbprint = thumbprint_input(&*cbc);
        let cbc_id = match format {
            Format::V4 | Format::V5 => URL_SAFE_NO_PAD.encode(Sha512::digest(&*cbc_thumbprint)),
            Format::BetterAuth => URL_SAFE_NO_PAD.encode(Sha256::digest(&*cbc_thumbprint)),
        };
        let gcm_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&*thumbprint_input(&*gcm)));
        let header = match format {
            Format::V4 => r#"{"alg":"dir","enc":"A256GCM"}"#.to_owned(),
            Format::V5 | Format::BetterAuth => {
                format!(r#"{{"alg":"dir","enc":"A256CBC-HS512","kid":"{cbc_id}"}}"#)
            }
        };
        let (mac_key, cipher_key) = cbc.split_at(CBC_KEY / 2);
        let cbc_cipher = Aes256::new_from_slice(cipher_key).map_err(|_| derivation_error())?;
        let gcm = Aes256Gcm::new_from_slice(&*gcm).map_err(|_| derivation_error())?;
        Ok(Self {
            cbc_mac: Hmac::new_from_slice(mac_key).map_err(|_| derivation_error())?,
            cbc_cipher: Box::new(cbc_cipher),
            gcm: Box::new(gcm),
            cbc_id,
            gcm_id,
            header: URL_SAFE_NO_PAD.encode(header),
        })
    }

    /// Derives the keys of all secrets of a ring. The primary secret is the first.
    ///
    /// # Errors
    /// The same as [`derive`](Self::derive).
    #[cfg(feature = "authjs")]
    pub(super) fn derive_all(
        ring: &KeyRing,
        format: Format,
        salt: &str,
    ) -> Result<Vec<Self>, Error> {
        ring.primary_first()
            .map(|secret| Self::derive(secret, format, salt))
            .collect()
    }
}

/// Overwrites the stack that the functions which the caller has called before have used.
#[inline(never)]
fn wipe_stack() {
    std::hint::black_box([0_u8; USED_STACK]);
}

/// Returns the input of a key's thumbprint (RFC 7638): ordered members without white space.
fn thumbprint_input(key: &[u8]) -> Zeroizing<String> {
    let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(key));
    let parts = [r#"{"k":""#, &key, r#"","kty":"oct"}"#];
    // `concat` allocates the whole length at once. A text that grows leaves a copy of the key in freed memory.
    Zeroizing::new(parts.concat())
}
