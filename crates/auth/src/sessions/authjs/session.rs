//! The data types of sessions: [`Session`], [`SessionTokens`] and [`Sessions`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::diagnosis::Diagnosis;
use super::{CsrfCookie, CsrfTokens, SessionCookie};
use crate::KeyRing;
use crate::sessions::keys::{Format, Keys};

/// The decoded content of a session token.
///
/// `C` is the type of the claims. `A` is the type that a [`LazyAuth`](crate::LazyAuth) builds. It is
/// [`Sessions`], unless a router serves several applications. Each application then has its own type
/// `A`, which implements [`HasSessions`](crate::sessions::HasSessions).
#[non_exhaustive]
pub struct Session<C, A = Sessions> {
    /// The claims of the token, deserialized from its JSON object.
    pub claims: C,
    /// The end of the session.
    ///
    /// `None` if the token has no `exp` claim, or if [`SystemTime`] cannot represent that time.
    pub expires: Option<SystemTime>,
    pub(super) auth: PhantomData<fn() -> A>,
}

/// Encoder and decoder for the tokens of one cookie, with the secrets of one [`KeyRing`].
pub struct SessionTokens {
    pub(super) format: Format,
    /// The first entry encrypts; all entries decrypt.
    pub(super) keys: Vec<Keys>,
}

/// Reader and writer of the sessions of one Auth.js application.
///
/// A service that shares its login with a Next.js application lets a [`LazyAuth`](crate::LazyAuth)
/// build this type.
///
/// With the feature `axum`, a handler takes `Auth<Session<User>>` as an argument. It takes
/// `Option<Auth<Session<User>>>` if login is optional. A cookie that cannot be decoded counts as
/// absent, and it is not cleared: it might be valid with another key ring.
///
/// ```
/// use secretwell::auth::sessions::authjs::{SecretOrder, SessionCookie, Sessions};
/// use secretwell::auth::sessions::Scheme;
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     #[expect(dead_code, reason = "the build uses its key ring")]
///     auth_secret: SecretString,
/// }
///
/// #[derive(Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([("AUTH_SECRET", "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=")]);
/// let auth = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
///     Ok(Sessions::new(SessionCookie::v5(Scheme::Https), &SecretOrder::AuthCore.key_ring(&cx)?)?)
/// });
///
/// let sessions = auth.get().await?;
/// let set_cookie = sessions.start(&serde_json::json!({"name": "Ada"}), "")?;
/// let cookies = set_cookie[0].split(';').next().unwrap_or_default();
/// let session = sessions.find::<User>(cookies)?;
/// assert_eq!(session.unwrap().claims.name, "Ada");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sessions {
    pub(super) cookie: SessionCookie,
    pub(super) tokens: SessionTokens,
    pub(super) max_age: Duration,
    pub(super) accepts_bearer: bool,
    pub(super) csrf_cookie: CsrfCookie,
    /// For `csrf`.
    pub(super) secrets: KeyRing,
    /// Created on first use: its size is quadratic in the number of secrets.
    pub(super) csrf: OnceLock<CsrfTokens>,
    /// Shared with the rejections of requests, which might outlive this build.
    pub(super) diagnosis: Arc<Diagnosis>,
}

// `A` is not a value, so it needs no bound.
impl<C: Clone, A> Clone for Session<C, A> {
    fn clone(&self) -> Self {
        Self {
            claims: self.claims.clone(),
            expires: self.expires,
            auth: PhantomData,
        }
    }
}

impl<C: fmt::Debug, A> fmt::Debug for Session<C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("claims", &self.claims)
            .field("expires", &self.expires)
            .finish()
    }
}
