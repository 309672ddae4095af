//! [`SecretOrder`]: which secrets each package uses, and in which order.

use std::collections::HashMap;

use secretwell_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::{BuildContext, KeyRing};

/// The order in which an Auth.js package uses its secrets.
///
/// A service that uses the same order encrypts with the same secret as the package. The packages read
/// `AUTH_SECRET`, `AUTH_SECRET_1` to `AUTH_SECRET_3` and `NEXTAUTH_SECRET`. The struct of secrets has a
/// field for each of them that is in use:
///
/// ```
/// use secretwell::auth::sessions::authjs::{SecretOrder, SessionTokens};
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver, SecretString};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     auth_secret: SecretString,
///     auth_secret_1: Option<SecretString>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = MemoryProvider::from_iter([
///     ("AUTH_SECRET", "old-K7gNU3sdo+OL0wNhqoVWhr3g6s1x"),
///     ("AUTH_SECRET_1", "new-K7gNU3sdo+OL0wNhqoVWhr3g6s1x"),
/// ]);
/// let tokens = LazyAuth::new(Resolver::new(memory), |_: Secrets, cx: BuildContext| async move {
///     let ring = SecretOrder::AuthCore.key_ring(&cx)?;
///     assert_eq!(ring.primary().expose_text()?, "new-K7gNU3sdo+OL0wNhqoVWhr3g6s1x");
///     Ok(SessionTokens::v5("authjs.session-token", &ring)?)
/// });
/// tokens.get().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecretOrder {
    /// `@auth/core`: `AUTH_SECRET_3`, `AUTH_SECRET_2`, `AUTH_SECRET_1`, `AUTH_SECRET`, in this order.
    AuthCore,
    /// next-auth 5: `AUTH_SECRET`, or else `NEXTAUTH_SECRET`. The numbered secrets are used only if both
    /// are missing, the highest number first.
    #[serde(rename = "next_auth_5")]
    NextAuth5,
    /// next-auth 4: `NEXTAUTH_SECRET`, or else `AUTH_SECRET`. The numbered secrets are not used.
    #[serde(rename = "next_auth_4")]
    NextAuth4,
}

const NUMBERED: [&str; 3] = ["AUTH_SECRET_3", "AUTH_SECRET_2", "AUTH_SECRET_1"];

impl SecretOrder {
    /// Returns the keys of the secrets that the package might use, for
    /// [`LazyAuthBuilder::signing`](crate::LazyAuthBuilder::signing).
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::AuthCore => &[
                "AUTH_SECRET_3",
                "AUTH_SECRET_2",
                "AUTH_SECRET_1",
                "AUTH_SECRET",
            ],
            Self::NextAuth5 => &[
                "AUTH_SECRET",
                "NEXTAUTH_SECRET",
                "AUTH_SECRET_3",
                "AUTH_SECRET_2",
                "AUTH_SECRET_1",
            ],
            Self::NextAuth4 => &["NEXTAUTH_SECRET", "AUTH_SECRET"],
        }
    }

    /// Returns a key ring with the secrets that the package uses, in its order. Secrets that the build
    /// does not have are omitted.
    ///
    /// # Errors
    /// Returns [`ErrorKind::NotFound`] if the build has none of these secrets.
    pub fn key_ring(self, context: &BuildContext) -> Result<KeyRing, Error> {
        // All of them are signing secrets, also while another one has precedence.
        let rings: HashMap<&str, KeyRing> = self
            .keys()
            .iter()
            .filter_map(|name| Some((*name, context.key_ring(name).ok()?)))
            .collect();
        let ring = |name: &&str| rings.get(name).cloned();
        let merged = |names: &[&str]| KeyRing::merge(names.iter().filter_map(ring));
        let first = |names: &[&str]| names.iter().find_map(ring);
        let found = match self {
            Self::AuthCore => {
                let [three, two, one] = NUMBERED;
                merged(&[three, two, one, "AUTH_SECRET"])
            }
            Self::NextAuth5 => {
                first(&["AUTH_SECRET", "NEXTAUTH_SECRET"]).or_else(|| merged(&NUMBERED))
            }
            Self::NextAuth4 => first(&["NEXTAUTH_SECRET", "AUTH_SECRET"]),
        };
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("this build loads no secret that {self:?} uses"),
            )
            .with_hint("add a field for `AUTH_SECRET` to the struct of secrets, and check that the source has a value")
        })
    }
}
