//! CSRF tokens that are compatible with Auth.js. A form contains the token, and a cookie contains the
//! token together with its hash.

use std::collections::HashSet;
use std::fmt;

use secretwell_core::{Error, SecretValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::KeyRing;
use crate::hex::hex;
use crate::sessions::cookie::{Cookie, Limits};
use crate::sessions::{SameSite, Scheme, TokenError};

/// The result of verifying the CSRF token of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Csrf {
    /// The cookie is valid and the body repeats its token, so the application's own page sent the request.
    Verified,
    /// The cookie is valid, but the body does not repeat its token.
    CookieOnly,
    /// The cookie is missing or invalid. The response must set a new one.
    Rejected,
}

/// Generator and verifier of CSRF tokens, with the secrets of one [`KeyRing`].
///
/// ```
/// use secretwell::auth::KeyRing;
/// use secretwell::auth::sessions::authjs::{Csrf, CsrfTokens};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = CsrfTokens::new(&KeyRing::new("a secret of thirty-two bytes or more")?);
/// let (token, cookie) = tokens.generate()?;
/// assert_eq!(tokens.verify_post(&cookie, Some(&token)), Csrf::Verified);
/// assert_eq!(tokens.verify_cookie(&cookie), Csrf::CookieOnly);
/// assert_eq!(tokens.verify_post("made-up|made-up", Some("made-up")), Csrf::Rejected);
/// # Ok(())
/// # }
/// ```
pub struct CsrfTokens {
    /// The texts that are appended to a token before it is hashed. A cookie is valid with any of them. New
    /// tokens use the first one.
    hash_suffixes: Vec<SecretValue>,
    /// All secrets joined by commas: with the primary secret first, and with the newest first.
    joined_lists: [SecretValue; 2],
}

impl CsrfTokens {
    /// Creates a generator and verifier with the secrets of a key ring.
    ///
    /// The packages hash a token with all secrets of their list, joined by commas. A cookie is accepted
    /// if its list is one secret of the ring, or several consecutive secrets of the ring.
    ///
    /// Two orders of the ring are accepted: with the primary secret first, and with the newest secret
    /// first. They differ during the activation delay of a rotation.
    pub fn new(secrets: &KeyRing) -> Self {
        let orders: [Vec<&SecretValue>; 2] =
            [secrets.primary_first().collect(), secrets.iter().collect()];
        let mut hash_suffixes: Vec<SecretValue> = secrets.primary_first().cloned().collect();
        for order in &orders {
            for length in 2..=order.len() {
                hash_suffixes.extend(order.windows(length).map(join_with_commas));
            }
        }
        let mut known = HashSet::new();
        hash_suffixes.retain(|suffix| known.insert(suffix.fingerprint()));
        let joined_lists = orders.map(|order| join_with_commas(&order));
        Self {
            hash_suffixes,
            joined_lists,
        }
    }

    /// Generates a token and the value of its cookie, in this order. Pass the second one to
    /// [`CsrfCookie::set`].
    ///
    /// # Errors
    /// Returns [`TokenError::Malformed`] if the system's random number generator fails.
    pub fn generate(&self) -> Result<(String, String), TokenError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| TokenError::Malformed)?;
        let token = hex(&random);
        let suffix = self.hash_suffixes.first().ok_or(TokenError::Forged)?;
        let cookie = format!("{token}|{}", hash(&token, suffix));
        Ok((token, cookie))
    }

    /// Restricts generation and verification to the whole list of secrets, as in the packages.
    ///
    /// Every rotation then invalidates the existing tokens.
    #[must_use]
    pub fn whole_list_only(mut self) -> Self {
        self.hash_suffixes = self.joined_lists.to_vec();
        self
    }

    /// Verifies a `POST` request.
    ///
    /// `cookie` is the value that [`CsrfCookie::find`] returns. `body` is the `csrfToken` field of the
    /// body.
    pub fn verify_post(&self, cookie: &str, body: Option<&str>) -> Csrf {
        self.verify(cookie, body)
    }

    /// Verifies the cookie of a request that is not a `POST`. Never returns [`Csrf::Verified`].
    pub fn verify_cookie(&self, cookie: &str) -> Csrf {
        self.verify(cookie, None)
    }

    fn verify(&self, cookie: &str, body: Option<&str>) -> Csrf {
        let Some((token, received_hash)) = cookie.split_once('|') else {
            return Csrf::Rejected;
        };
        let received_hash = received_hash.split('|').next().unwrap_or_default();
        let matches = |suffix: &SecretValue| {
            bool::from(
                hash(token, suffix)
                    .as_bytes()
                    .ct_eq(received_hash.as_bytes()),
            )
        };
        // Checks all suffixes, so that the duration does not reveal which one matches.
        let cookie_is_valid = self
            .hash_suffixes
            .iter()
            .filter(|suffix| matches(suffix))
            .count()
            > 0;
        let body_matches = body.is_some_and(|body| body.as_bytes().ct_eq(token.as_bytes()).into());
        match (cookie_is_valid, body_matches) {
            (false, _) => Csrf::Rejected,
            (true, true) => Csrf::Verified,
            (true, false) => Csrf::CookieOnly,
        }
    }
}

/// The cookie of a CSRF token, with the name and format of the packages.
///
/// ```
/// use secretwell::auth::KeyRing;
/// use secretwell::auth::sessions::authjs::{Csrf, CsrfCookie, CsrfTokens};
/// use secretwell::auth::sessions::Scheme;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cookie = CsrfCookie::v5(Scheme::Https);
/// let tokens = CsrfTokens::new(&KeyRing::new("a secret of thirty-two bytes or more")?);
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
    cookie: Cookie,
}

impl CsrfCookie {
    /// Creates the cookie of `@auth/core` and next-auth 5.
    ///
    /// Its name is `authjs.csrf-token` for [`Scheme::Http`] and `__Host-authjs.csrf-token` for
    /// [`Scheme::Https`].
    pub fn v5(scheme: Scheme) -> Self {
        Self::new("authjs.csrf-token", scheme)
    }

    /// Creates the cookie of next-auth 4.
    ///
    /// Its name is `next-auth.csrf-token` for [`Scheme::Http`] and `__Host-next-auth.csrf-token` for
    /// [`Scheme::Https`].
    pub fn v4(scheme: Scheme) -> Self {
        Self::new("next-auth.csrf-token", scheme)
    }

    fn new(name: &str, scheme: Scheme) -> Self {
        let prefix = match scheme {
            Scheme::Https => "__Host-",
            Scheme::Http => "",
        };
        Self {
            cookie: Cookie::new(format!("{prefix}{name}"), scheme, Limits::WHOLE),
        }
    }

    /// Sets another name, for an application that configures one.
    ///
    /// The cookie is `Secure` if it was created with [`Scheme::Https`], or if the name begins with
    /// `__Secure-` or `__Host-`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if browsers do not
    /// accept a cookie of this name, or do not accept it with the attributes that are already set.
    pub fn with_name(self, name: impl Into<String>) -> Result<Self, Error> {
        Ok(Self {
            cookie: self.cookie.with_name(name)?,
        })
    }

    /// Sets the domain, for an application that configures one. Default: only the host that set the
    /// cookie.
    ///
    /// With [`Scheme::Https`], set a name that does not begin with `__Host-` first.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if `domain` is not
    /// a host name, or if the name of the cookie begins with `__Host-`.
    pub fn domain(self, domain: &str) -> Result<Self, Error> {
        Ok(Self {
            cookie: self.cookie.domain(domain)?,
        })
    }

    /// Sets which requests from other sites contain the cookie. Default: [`SameSite::Lax`].
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) for
    /// [`SameSite::None`] if the cookie is not `Secure`.
    pub fn same_site(self, same_site: SameSite) -> Result<Self, Error> {
        Ok(Self {
            cookie: self.cookie.same_site(same_site)?,
        })
    }

    /// Returns the name of the cookie.
    pub fn name(&self) -> &str {
        self.cookie.name()
    }

    /// Returns the value of the cookie in a `Cookie` header, for [`CsrfTokens::verify_post`] and
    /// [`CsrfTokens::verify_cookie`].
    ///
    /// If there are several, the first is returned, as in the packages. Returns `None` if the cookie is
    /// missing or empty.
    pub fn find(&self, header: &str) -> Option<String> {
        self.cookie.candidates(header).next()
    }

    /// Returns the `Set-Cookie` header for a value from [`CsrfTokens::generate`].
    ///
    /// The browser keeps the cookie until it is closed.
    pub fn set(&self, value: &str) -> String {
        self.cookie.header(value, None)
    }
}

/// Omits the secrets.
impl fmt::Debug for CsrfTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfTokens").finish_non_exhaustive()
    }
}

fn join_with_commas(secrets: &[&SecretValue]) -> SecretValue {
    let length = secrets.iter().map(|secret| secret.len() + 1).sum();
    // The full capacity prevents reallocation, which would leave copies of the secrets in memory.
    let mut list = Zeroizing::new(Vec::with_capacity(length));
    for (index, secret) in secrets.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend_from_slice(secret.expose_bytes());
    }
    list.as_slice().into()
}

fn hash(token: &str, suffix: &SecretValue) -> String {
    let mut hasher = Sha256::new();
    hasher.update(token);
    hasher.update(suffix.expose_bytes());
    hex(&hasher.finalize())
}
