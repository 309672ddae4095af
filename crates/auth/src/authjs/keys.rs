//! The keys that Auth.js derives from a secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit};
use secretwell_core::{Error, ErrorKind, SecretValue};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use crate::KeyRing;

/// How long a key is for each way to encrypt.
const CBC_KEY: usize = 64;
pub(super) const GCM_KEY: usize = 32;

/// Which version of the packages a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// next-auth 4.
    V4,
    /// `@auth/core`, and next-auth 5.
    V5,
}

/// The keys of one secret, for tokens of one salt.
pub(super) struct Keys {
    /// Of CBC: the one of its tags, in the state that each of them starts from, and that of its texts.
    pub(super) cbc_tag: Hmac<Sha512>,
    pub(super) cbc_text: Zeroizing<[u8; CBC_KEY / 2]>,
    pub(super) gcm: Zeroizing<[u8; GCM_KEY]>,
    /// What names each key in a token's header.
    pub(super) cbc_id: String,
    pub(super) gcm_id: String,
    /// The header of the tokens that are made with it, as it stands in them.
    pub(super) header: String,
}

impl Keys {
    /// # Errors
    /// [`ErrorKind::Invalid`]: the secret is empty.
    fn derive(secret: &SecretValue, format: Format, salt: &str) -> Result<Self, Error> {
        if secret.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the secret is empty")
                .with_hint("make one by `openssl rand -base64 33`"));
        }
        let info = match (format, salt) {
            (Format::V4, "") => "NextAuth.js Generated Encryption Key".to_owned(),
            (Format::V4, salt) => format!("NextAuth.js Generated Encryption Key ({salt})"),
            (Format::V5, salt) => format!("Auth.js Generated Encryption Key ({salt})"),
        };
        let origin = Hkdf::<Sha256>::new(Some(salt.as_bytes()), secret.expose_bytes());
        let underivable = || Error::new(ErrorKind::Invalid, "the key cannot be derived");
        let mut cbc = Zeroizing::new([0; CBC_KEY]);
        origin
            .expand(info.as_bytes(), &mut *cbc)
            .map_err(|_| underivable())?;
        let mut gcm = Zeroizing::new([0; GCM_KEY]);
        origin
            .expand(info.as_bytes(), &mut *gcm)
            .map_err(|_| underivable())?;
        let cbc_id = URL_SAFE_NO_PAD.encode(Sha512::digest(&*thumbprint(&*cbc)));
        let gcm_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&*thumbprint(&*gcm)));
        let header = match format {
            Format::V4 => r#"{"alg":"dir","enc":"A256GCM"}"#.to_owned(),
            Format::V5 => format!(r#"{{"alg":"dir","enc":"A256CBC-HS512","kid":"{cbc_id}"}}"#),
        };
        let (tag, text) = cbc.split_at(CBC_KEY / 2);
        let mut cbc_text = Zeroizing::new([0; CBC_KEY / 2]);
        cbc_text.copy_from_slice(text);
        Ok(Self {
            cbc_tag: Hmac::new_from_slice(tag).map_err(|_| underivable())?,
            cbc_text,
            gcm,
            cbc_id,
            gcm_id,
            header: URL_SAFE_NO_PAD.encode(header),
        })
    }

    /// Those of all secrets of a ring: the one to encrypt with first, and then the others as they are.
    pub(super) fn of(ring: &KeyRing, format: Format, salt: &str) -> Result<Vec<Self>, Error> {
        ring.primary_first()
            .map(|secret| Self::derive(secret, format, salt))
            .collect()
    }
}

/// What the id of a key is the hash of: RFC 7638, members in order and without blanks.
fn thumbprint(key: &[u8]) -> Zeroizing<String> {
    let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(key));
    Zeroizing::new(format!(r#"{{"k":"{}","kty":"oct"}}"#, *key))
}
