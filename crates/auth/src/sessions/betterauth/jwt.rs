//! The strategy `jwt`: a JWT with HS256.

use base64::Engine;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::mac::{Accept, MacKeys};
use crate::sessions::TokenError;
use crate::sessions::encoding::URL_SAFE_NO_PAD;

/// `{"alg":"HS256"}` in base64.
const ENCODED_HEADER: &str = "eyJhbGciOiJIUzI1NiJ9";
/// Number of characters of a signature in base64, which are 43, and of the two dots.
const SIGNATURE_LENGTH: usize = 45;

/// Verifies a token and returns the text of its claims. The signature is verified before the header is parsed.
pub(super) fn open(
    token: &str,
    keys: &MacKeys,
    accept: Accept,
) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let malformed = TokenError::Malformed;
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let decode = |part: &str| {
        let decoded = URL_SAFE_NO_PAD.decode(part);
        decoded.map_err(|_| TokenError::Malformed)
    };
    // Most tokens have the header of new tokens, which needs no check.
    let header = match header == ENCODED_HEADER {
        true => None,
        false => Some(decode(header)?),
    };
    let claims = Zeroizing::new(decode(claims)?);
    let signature = decode(signature)?;
    keys.verify(&[signed.as_bytes()], &signature, accept)
        .ok_or(TokenError::UnknownKey)?;
    if let Some(header) = header {
        let header: Map<String, Value> =
            serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        let algorithm = header.get("alg").and_then(Value::as_str);
        if algorithm != Some("HS256") || header.contains_key("crit") {
            return Err(TokenError::Malformed);
        }
    }
    Ok(claims)
}

/// Signs the text of the claims and returns the token.
pub(super) fn seal(claims: &[u8], keys: &MacKeys) -> String {
    let claims_length = claims.len().div_ceil(3) * 4;
    let capacity = ENCODED_HEADER.len() + claims_length + SIGNATURE_LENGTH;
    let mut token = String::with_capacity(capacity);
    token += ENCODED_HEADER;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = keys.sign(&[token.as_bytes()]);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::betterauth::BetterAuthSecrets;

    /// Base64 without padding is up to two characters shorter than the capacity.
    #[test]
    fn token_fits_its_first_allocation() {
        let secrets = BetterAuthSecrets::new("a secret of thirty-two bytes or more").unwrap();
        let keys = MacKeys::new(&secrets).unwrap();
        for length in 300..310 {
            let token = seal(&vec![b'x'; length], &keys);
            let unused = token.capacity() - token.len();
            assert!(unused <= 2, "{unused} of a token of {length} bytes");
        }
    }
}
