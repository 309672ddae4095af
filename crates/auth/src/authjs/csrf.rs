//! Tokens against forged requests, as Auth.js keeps them: in a cookie with their hash, and in the form.

use std::collections::HashSet;
use std::fmt;

use secretwell_core::SecretValue;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::TokenError;
use super::cookie::{self, Scheme};
use super::text::{percent_decoded, percent_encoded};
use crate::KeyRing;
use crate::hex::hex;

/// What a request proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
/// use secretwell::auth::KeyRing;
/// use secretwell::auth::authjs::{Csrf, CsrfTokens};
///
/// # fn main() -> Result<(), secretwell::auth::authjs::TokenError> {
/// let tokens = CsrfTokens::new(&KeyRing::new("a secret of thirty-two bytes or more"));
/// let (token, cookie) = tokens.generate()?;
/// assert_eq!(tokens.verify_post(&cookie, Some(&token)), Csrf::Verified);
/// assert_eq!(tokens.verify_cookie(&cookie), Csrf::CookieOnly);
/// assert_eq!(tokens.verify_post("made-up|made-up", Some("made-up")), Csrf::Rejected);
/// # Ok(())
/// # }
/// ```
pub struct CsrfTokens {
    /// What may stand behind a token when it is hashed; the first is what we write.
    endings: Vec<SecretValue>,
    /// All secrets, joined: the one that signs first, and the newest first.
    lists: [SecretValue; 2],
}

impl CsrfTokens {
    /// Those of a ring. A cookie counts that was made with any of its secrets, and one that was made with
    /// several that follow each other: the packages join a list of secrets by commas. Their list begins with
    /// the secret that signs, which in a rotation need not be the newest.
    pub fn new(secrets: &KeyRing) -> Self {
        let orders: [Vec<&SecretValue>; 2] =
            [secrets.primary_first().collect(), secrets.iter().collect()];
        let mut endings: Vec<SecretValue> = secrets.primary_first().cloned().collect();
        for order in &orders {
            for length in 2..=order.len() {
                endings.extend(order.windows(length).map(joined));
            }
        }
        let mut known = HashSet::new();
        endings.retain(|ending| known.insert(ending.fingerprint()));
        let lists = orders.map(|order| joined(&order));
        Self { endings, lists }
    }

    /// A new token, and the value of the cookie that goes with it, for [`CsrfCookie::set`].
    ///
    /// # Errors
    /// [`TokenError::Malformed`]: the system has no random numbers.
    pub fn generate(&self) -> Result<(String, String), TokenError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| TokenError::Malformed)?;
        let token = hex(&random);
        let ending = self.endings.first().ok_or(TokenError::Forged)?;
        let cookie = format!("{token}|{}", hash(&token, ending));
        Ok((token, cookie))
    }

    /// Has only the whole list of secrets count, and makes tokens with that, as the packages do where they
    /// have a list. Then each rotation rejects the tokens that are out.
    #[must_use]
    pub fn list_only(mut self) -> Self {
        self.endings = self.lists.to_vec();
        self
    }

    /// Verifies a `POST` request by its cookie, as [`CsrfCookie::find`] returns it, and by the
    /// `csrfToken` of its body.
    pub fn verify_post(&self, cookie: &str, body: Option<&str>) -> Csrf {
        self.verify(cookie, body)
    }

    /// Verifies the cookie alone, for every request that is not a `POST`. Never returns
    /// [`Csrf::Verified`].
    pub fn verify_cookie(&self, cookie: &str) -> Csrf {
        self.verify(cookie, None)
    }

    fn verify(&self, cookie: &str, body: Option<&str>) -> Csrf {
        let Some((token, given)) = cookie.split_once('|') else {
            return Csrf::Rejected;
        };
        let given = given.split('|').next().unwrap_or_default();
        let is_ours = |ending: &SecretValue| {
            bool::from(hash(token, ending).as_bytes().ct_eq(given.as_bytes()))
        };
        // All of them, so that the time does not tell which one it was.
        let ours = self.endings.iter().filter(|ending| is_ours(ending)).count() > 0;
        let repeated = body.is_some_and(|body| body.as_bytes().ct_eq(token.as_bytes()).into());
        match (ours, repeated) {
            (false, _) => Csrf::Rejected,
            (true, true) => Csrf::Verified,
            (true, false) => Csrf::CookieOnly,
        }
    }
}

/// The cookie of a CSRF token, as the packages name and write it.
///
/// ```
/// use secretwell::auth::KeyRing;
/// use secretwell::auth::authjs::{Csrf, CsrfCookie, CsrfTokens, Scheme};
///
/// # fn main() -> Result<(), secretwell::auth::authjs::TokenError> {
/// let cookie = CsrfCookie::v5(Scheme::Https);
/// let tokens = CsrfTokens::new(&KeyRing::new("a secret of thirty-two bytes or more"));
///
/// let (token, value) = tokens.generate()?;
/// let set_cookie = cookie.set(&value);
/// assert!(set_cookie.starts_with("__Host-authjs.csrf-token="));
///
/// let sent = set_cookie.split(';').next().unwrap_or_default();
/// let value = cookie.find(sent).unwrap_or_default();
/// assert_eq!(tokens.verify_post(&value, Some(&token)), Csrf::Verified);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CsrfCookie {
    name: String,
}

impl CsrfCookie {
    /// That of `@auth/core` and next-auth 5: `authjs.csrf-token`, over HTTPS with `__Host-` before it.
    pub fn v5(scheme: Scheme) -> Self {
        Self::new("authjs.csrf-token", scheme)
    }

    /// That of next-auth 4: `next-auth.csrf-token`, over HTTPS with `__Host-` before it.
    pub fn v4(scheme: Scheme) -> Self {
        Self::new("next-auth.csrf-token", scheme)
    }

    fn new(name: &str, scheme: Scheme) -> Self {
        let prefix = match scheme {
            Scheme::Https => "__Host-",
            Scheme::Http => "",
        };
        Self {
            name: format!("{prefix}{name}"),
        }
    }

    /// The same by another name, where the application has configured one. It is sent over HTTPS only if
    /// it begins with `__Secure-` or `__Host-`.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value in a `Cookie` header, for [`CsrfTokens::verify`].
    pub fn find(&self, header: &str) -> Option<String> {
        let (_, value) = cookie::pairs(header).find(|(name, _)| *name == self.name)?;
        (!value.is_empty()).then(|| percent_decoded(value))
    }

    /// The `Set-Cookie` header for a value that [`CsrfTokens::generate`] has made: for as long as the browser
    /// is open.
    pub fn set(&self, value: &str) -> String {
        let secure = if cookie::is_secure(&self.name) {
            "; Secure"
        } else {
            ""
        };
        let (name, value) = (&self.name, percent_encoded(value));
        format!("{name}={value}; Path=/; HttpOnly{secure}; SameSite=Lax")
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
