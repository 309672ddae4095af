//! How a cookie is protected: [`Signed`] or [`Private`].

use cookie::{Cookie, CookieJar, Key};

use super::keys::CookieKeys;

/// How a cookie is protected: [`Signed`] or [`Private`]. Other types cannot implement it.
pub trait Protection: sealed::Cipher + Send + Sync + 'static {}

/// Signs cookies with HMAC-SHA256. The browser can read them.
///
/// The signature does not cover the name. A value that a user can choose in one cookie is therefore valid in
/// every other cookie that is signed with the same key. See
/// [the module documentation](super#signed-or-private).
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_enums, reason = "it has no values")]
pub enum Signed {}

/// Encrypts cookies with AES-256-GCM. The browser cannot read them.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_enums, reason = "it has no values")]
pub enum Private {}

impl Protection for Signed {}
impl Protection for Private {}

/// The functions of a [`Protection`], for a layer that is not generic over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Functions {
    open: fn(&Key, Cookie<'static>) -> Option<Cookie<'static>>,
    seal: fn(&Key, Cookie<'static>) -> Option<Cookie<'static>>,
}

/// A cookie that was signed or encrypted with a key of the ring.
pub(super) struct Opened {
    pub(super) value: String,
    /// Whether the primary key has replaced the key.
    #[cfg_attr(
        not(feature = "axum"),
        expect(dead_code, reason = "`RingJar` reads it")
    )]
    pub(super) is_outdated: bool,
}

impl Functions {
    pub(super) fn of<P: Protection>() -> Self {
        Self {
            open: P::open,
            seal: P::seal,
        }
    }

    /// Verifies or decrypts `value` of the cookie `name` with each key.
    pub(super) fn open(self, keys: &CookieKeys, name: &str, value: &str) -> Option<Opened> {
        let opened = keys.iter().enumerate().find_map(|(position, key)| {
            let cookie = Cookie::new(name.to_owned(), value.to_owned());
            Some((position, (self.open)(key, cookie)?))
        });
        opened.map(|(position, cookie)| Opened {
            value: cookie.value().to_owned(),
            is_outdated: keys.is_outdated(position),
        })
    }

    /// Signs or encrypts `cookie` with the primary key.
    pub(super) fn seal(
        self,
        keys: &CookieKeys,
        cookie: Cookie<'static>,
    ) -> Option<Cookie<'static>> {
        (self.seal)(keys.primary(), cookie)
    }
}

pub(super) mod sealed {
    use super::*;

    pub trait Cipher {
        fn open(key: &Key, cookie: Cookie<'static>) -> Option<Cookie<'static>>;

        /// Returns `None` if the jar of the cookie crate loses the cookie, which does not happen.
        fn seal(key: &Key, cookie: Cookie<'static>) -> Option<Cookie<'static>>;
    }

    impl Cipher for Signed {
        fn open(key: &Key, cookie: Cookie<'static>) -> Option<Cookie<'static>> {
            CookieJar::new().signed(key).verify(cookie)
        }

        fn seal(key: &Key, cookie: Cookie<'static>) -> Option<Cookie<'static>> {
            let mut jar = CookieJar::new();
            jar.signed_mut(key).add(cookie);
            jar.iter().next().cloned()
        }
    }

    impl Cipher for Private {
        fn open(key: &Key, cookie: Cookie<'static>) -> Option<Cookie<'static>> {
            CookieJar::new().private(key).decrypt(cookie)
        }

        fn seal(key: &Key, cookie: Cookie<'static>) -> Option<Cookie<'static>> {
            let mut jar = CookieJar::new();
            jar.private_mut(key).add(cookie);
            jar.iter().next().cloned()
        }
    }
}
