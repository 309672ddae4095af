//! The keys that Auth.js and Better Auth derive from a secret.

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
pub(super) const GCM_KEY: usize = 32;

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

/// A key that is wiped when it is dropped. It is in a box, because moving an array leaves a copy on the stack.
type WipedKey<const LENGTH: usize> = Box<Zeroizing<[u8; LENGTH]>>;

/// The keys that are derived from one secret and one salt.
pub(super) struct Keys {
    /// First half of the CBC key, as the initial state of the HMAC for each tag.
    pub(super) cbc_mac: Hmac<Sha512>,
    /// Second half of the CBC key, which encrypts the text.
    pub(super) cbc_cipher: WipedKey<{ CBC_KEY / 2 }>,
    pub(super) gcm: WipedKey<GCM_KEY>,
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
        let mut gcm = WipedKey::<GCM_KEY>::default();
        hkdf.expand(info.as_bytes(), &mut **gcm)
            .map_err(|_| derivation_error())?;
        let cbc_thumbprint = thumbprint_input(&*cbc);
        let cbc_id = match format {
            Format::V4 | Format::V5 => URL_SAFE_NO_PAD.encode(Sha512::digest(&*cbc_thumbprint)),
            Format::BetterAuth => URL_SAFE_NO_PAD.encode(Sha256::digest(&*cbc_thumbprint)),
        };
        let gcm_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&*thumbprint_input(&**gcm)));
        let header = match format {
            Format::V4 => r#"{"alg":"dir","enc":"A256GCM"}"#.to_owned(),
            Format::V5 | Format::BetterAuth => {
                format!(r#"{{"alg":"dir","enc":"A256CBC-HS512","kid":"{cbc_id}"}}"#)
            }
        };
        let (mac_key, cipher_key) = cbc.split_at(CBC_KEY / 2);
        let mut cbc_cipher = WipedKey::<{ CBC_KEY / 2 }>::default();
        cbc_cipher.copy_from_slice(cipher_key);
        Ok(Self {
            cbc_mac: Hmac::new_from_slice(mac_key).map_err(|_| derivation_error())?,
            cbc_cipher,
            gcm,
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

/// Returns the input of a key's thumbprint (RFC 7638): ordered members without white space.
fn thumbprint_input(key: &[u8]) -> Zeroizing<String> {
    let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(key));
    Zeroizing::new(format!(r#"{{"k":"{}","kty":"oct"}}"#, *key))
}
