//! [`TokenSigner`]: the signed cookie `session_token`.

use std::fmt;

use base64::Engine;
use secretwell_core::Error;

use super::mac::{Accept, MacKeys, Signer};
use super::secrets::BetterAuthSecrets;
use crate::sessions::TokenError;
use crate::sessions::encoding::STANDARD;

/// Number of characters of a signature in base64, which ends with one padding character.
const SIGNATURE: usize = 44;

/// Signs and verifies the tokens in the cookie `session_token`: `token.signature`, where the signature is an
/// HMAC-SHA256 with the secret of the application.
///
/// A signature has no time. It remains valid as long as its secret is accepted, also after a sign-out.
/// A [`VerifiedToken`] is therefore not a session: it must be found in the database of the application.
///
/// ```
/// use secretwell::auth::sessions::betterauth::{BetterAuthSecrets, TokenSigner};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secrets = BetterAuthSecrets::new("a secret of thirty-two bytes or more")?;
/// let signer = TokenSigner::new(&secrets)?;
/// let signed = signer.sign("tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123")?;
/// let verified = signer.verify(signed.expose())?;
/// // select * from session where token = $1 and "expiresAt" > now()
/// assert_eq!(verified.expose(), "tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123");
/// # Ok(())
/// # }
/// ```
pub struct TokenSigner {
    keys: MacKeys,
    accept: Accept,
}

impl TokenSigner {
    /// Creates a signer that accepts the tokens of the current secret only, like the package.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if a secret cannot be used as a
    /// key.
    pub fn new(secrets: &BetterAuthSecrets) -> Result<Self, Error> {
        Ok(Self {
            keys: MacKeys::new(secrets)?,
            accept: Accept::Current,
        })
    }

    /// Accepts the tokens of all secrets. Default: those of the current secret.
    ///
    /// After a rotation, the package rejects the tokens of the previous secret. With this option, the service
    /// still accepts those users, although they are logged out in the application. Use it if the
    /// application signs the tokens of previous secrets again.
    #[must_use]
    pub fn accept_previous_tokens(mut self) -> Self {
        self.accept = Accept::All;
        self
    }

    /// Signs `token` with the current secret.
    ///
    /// # Errors
    /// Returns [`TokenError::Malformed`] if `token` is empty, because the package refuses it.
    pub fn sign(&self, token: &str) -> Result<SignedToken, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Malformed);
        }
        let signature = STANDARD.encode(self.keys.sign(&[token.as_bytes()]));
        Ok(SignedToken(format!("{token}.{signature}")))
    }

    /// Verifies `token.signature` and returns the token. The text must not be percent-encoded.
    ///
    /// The signature must be in canonical base64, so each token has one signature for each secret.
    ///
    /// # Errors
    /// - [`TokenError::Malformed`] if the text has no signature, or one of a wrong length
    /// - [`TokenError::UnknownKey`] if the signature is not that of an accepted secret
    pub fn verify(&self, signed: &str) -> Result<VerifiedToken, TokenError> {
        let (token, signature) = signed.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let length = match signature.is_ascii() {
            true => signature.len(),
            false => signature.encode_utf16().count(),
        };
        if token.is_empty() || length != SIGNATURE || !signature.ends_with('=') {
            return Err(TokenError::Malformed);
        }
        // A signature that is not base64 is compared as well, and matches no tag.
        let signature = STANDARD.decode(signature).unwrap_or_default();
        let signer = self
            .keys
            .verify(&[token.as_bytes()], &signature, self.accept);
        Ok(VerifiedToken {
            token: token.to_owned(),
            signer: signer.ok_or(TokenError::UnknownKey)?,
        })
    }
}

/// A token with its signature, `token.signature`. It is a credential and must not be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedToken(String);

impl SignedToken {
    /// Returns the text. In a cookie, it is percent-encoded.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A token that was signed with a secret of the application.
///
/// It is not a session. Whether the session still lives, and of which user it is, is known by the database
/// of the application (table `session`, column `token`), or by its secondary storage (key `<token>`).
///
/// The application signs other texts with the same secret, such as `true` in the cookie `dont_remember`.
/// Their signatures are valid here as well, which is a further reason to find the token in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    token: String,
    signer: Signer,
}

impl VerifiedToken {
    /// Returns the token without its signature. With the `bearer` plugin of the package, it can be a
    /// credential of its own, so it must not be logged.
    pub fn expose(&self) -> &str {
        &self.token
    }

    /// Returns whether the token was signed with a previous secret. The application does not accept such
    /// a token.
    pub fn has_previous_signature(&self) -> bool {
        self.signer == Signer::Older
    }
}

/// Omits the keys.
impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSigner")
            .field("accept", &self.accept)
            .finish_non_exhaustive()
    }
}

/// Omits the text.
impl fmt::Debug for SignedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedToken").finish_non_exhaustive()
    }
}

/// Omits the token.
impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("signer", &self.signer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signature of the right form could belong to another secret, which is a reason to read the secret again.
    #[test]
    fn malformed_signature_differs_from_one_of_an_unknown_key() {
        let secrets = BetterAuthSecrets::new("a secret of thirty-two bytes or more").unwrap();
        let signer = TokenSigner::new(&secrets).unwrap();
        let error = |signed: &str| signer.verify(signed).unwrap_err();
        let (short, long) = ("A".repeat(SIGNATURE - 2), "A".repeat(SIGNATURE));
        for malformed in [
            "token".to_owned(),
            format!(".{short}A="),
            format!("token.{short}="),
            format!("token.{long}="),
            format!("token.{long}"),
            "token.=".to_owned(),
            "token.".to_owned(),
            // A character that has two bytes counts once.
            format!("token.{}é=", &short[1..]),
        ] {
            assert_eq!(error(&malformed), TokenError::Malformed, "{malformed}");
        }
        for unknown in [
            format!("token.{short}A="),
            format!("token.{short}-="),
            format!("token.{short}é="),
        ] {
            assert_eq!(error(&unknown), TokenError::UnknownKey, "{unknown}");
        }
    }
}
