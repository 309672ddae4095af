//! Tokens against forged requests, as Auth.js keeps them: in a cookie with their hash, and in the form.

use std::fmt;

use secretwell_core::SecretValue;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::TokenError;
use crate::KeyRing;
use crate::hex::hex;

/// What a request proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Csrf {
    /// It is a `POST` of the token that is in its cookie: it was sent by our own page.
    Verified,
    /// The cookie is ours, and the request does not prove more.
    CookieOnly,
    /// The cookie is none of ours, or there is none: answer with another.
    Rejected,
}

/// Makes and verifies CSRF tokens with the secrets of one ring.
///
/// ```
/// use secretwell_auth::KeyRing;
/// use secretwell_auth::authjs::{Csrf, CsrfTokens};
///
/// # fn main() -> Result<(), secretwell_auth::authjs::TokenError> {
/// let tokens = CsrfTokens::new(&KeyRing::of("a secret of thirty-two bytes or more"));
/// let (token, cookie) = tokens.make()?;
/// assert_eq!(tokens.verify(&cookie, Some(&token), true), Csrf::Verified);
/// assert_eq!(tokens.verify(&cookie, None, false), Csrf::CookieOnly);
/// assert_eq!(tokens.verify("made-up|made-up", Some("made-up"), true), Csrf::Rejected);
/// # Ok(())
/// # }
/// ```
pub struct CsrfTokens {
    /// What may stand behind a token when it is hashed; the first is what we write.
    endings: Vec<SecretValue>,
    /// All secrets, joined.
    list: SecretValue,
}

/// How many secrets the packages have at most.
const LONGEST_LIST: usize = 4;

impl CsrfTokens {
    /// Those of a ring. A cookie counts that was made with any of its secrets, and one that was made with
    /// several that follow each other: the packages join a list of secrets by commas.
    pub fn new(secrets: &KeyRing) -> Self {
        let all: Vec<&SecretValue> = secrets.verifying().collect();
        let mut endings: Vec<SecretValue> = secrets.signing_first().cloned().collect();
        for length in 2..=all.len().min(LONGEST_LIST) {
            endings.extend(all.windows(length).map(joined));
        }
        let list = joined(&all);
        Self { endings, list }
    }

    /// A new token, and the value of the cookie that goes with it, not yet percent-encoded.
    ///
    /// # Errors
    /// [`TokenError::Malformed`]: the system has no random numbers.
    pub fn make(&self) -> Result<(String, String), TokenError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| TokenError::Malformed)?;
        let token = hex(&random);
        let ending = self.endings.first().ok_or(TokenError::Forged)?;
        let cookie = format!("{token}|{}", hash(&token, ending));
        Ok((token, cookie))
    }

    /// Has only the whole list of secrets count, and makes tokens with that, as the packages do where they
    /// have a list. Then each rotation rejects the tokens that are out.
    pub fn joined_only(mut self) -> Self {
        self.endings = vec![self.list.clone()];
        self
    }

    /// What a request proves: by its cookie, percent-decoded, by the `csrfToken` of its body, and by
    /// whether it is a `POST`.
    pub fn verify(&self, cookie: &str, body: Option<&str>, is_post: bool) -> Csrf {
        let Some((token, given)) = cookie.split_once('|') else {
            return Csrf::Rejected;
        };
        let given = given.split('|').next().unwrap_or_default();
        let is_ours = |ending: &SecretValue| {
            bool::from(hash(token, ending).as_bytes().ct_eq(given.as_bytes()))
        };
        // All of them, so that the time does not tell which one it was. An empty token proves nothing.
        let ours = self.endings.iter().filter(|ending| is_ours(ending)).count() > 0;
        let repeated = body.is_some_and(|body| body.as_bytes().ct_eq(token.as_bytes()).into());
        match (ours && !token.is_empty(), is_post && repeated) {
            (false, _) => Csrf::Rejected,
            (true, true) => Csrf::Verified,
            (true, false) => Csrf::CookieOnly,
        }
    }
}

/// Without the secrets.
impl fmt::Debug for CsrfTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfTokens").finish_non_exhaustive()
    }
}

fn joined(secrets: &[&SecretValue]) -> SecretValue {
    let length = secrets.iter().map(|secret| secret.len() + 1).sum();
    // With room for all, so that no copy is left behind.
    let mut list = Zeroizing::new(Vec::with_capacity(length));
    for (place, secret) in secrets.iter().enumerate() {
        if place > 0 {
            list.push(b',');
        }
        list.extend_from_slice(secret.expose_bytes());
    }
    list.as_slice().into()
}

fn hash(token: &str, ending: &SecretValue) -> String {
    let mut hasher = Sha256::new();
    hasher.update(token);
    hasher.update(ending.expose_bytes());
    hex(&hasher.finalize())
}
