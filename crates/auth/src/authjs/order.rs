//! Which of the packages' variables counts, and which comes first.

use secretwell_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::{BuildContext, KeyRing};

/// The order in which a package takes its secrets, so that a service beside it signs with the same one.
///
/// The packages read `AUTH_SECRET`, `AUTH_SECRET_1` to `_3` and `NEXTAUTH_SECRET`. The struct of secrets
/// has a field for each of those that are used:
///
/// ```
/// use secrecy::SecretString;
/// use secretwell::auth::authjs::{SecretOrder, SessionTokens};
/// use secretwell::auth::{BuildContext, LazyAuth};
/// use secretwell::{MemoryProvider, Resolver};
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
///     let ring = SecretOrder::AuthCore.ring(&cx)?;
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
    /// `@auth/core`: `AUTH_SECRET_3`, `_2`, `_1`, and then `AUTH_SECRET`.
    AuthCore,
    /// next-auth 5: `AUTH_SECRET`, else `NEXTAUTH_SECRET`; the numbered ones only if neither is there, the
    /// highest first.
    NextAuth5,
    /// next-auth 4: `NEXTAUTH_SECRET`, else `AUTH_SECRET`; never the numbered ones.
    NextAuth4,
}

const NUMBERED: [&str; 3] = ["AUTH_SECRET_3", "AUTH_SECRET_2", "AUTH_SECRET_1"];

impl SecretOrder {
    /// The ring of those secrets of a build that the package would use, in its order.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: the build has none of them.
    pub fn ring(self, context: &BuildContext) -> Result<KeyRing, Error> {
        let ring = |name: &&str| context.key_ring(name).ok();
        let joined = |names: &[&str]| KeyRing::merge(names.iter().filter_map(ring));
        let first = |names: &[&str]| names.iter().find_map(ring);
        let found = match self {
            Self::AuthCore => {
                let [three, two, one] = NUMBERED;
                joined(&[three, two, one, "AUTH_SECRET"])
            }
            Self::NextAuth5 => {
                first(&["AUTH_SECRET", "NEXTAUTH_SECRET"]).or_else(|| joined(&NUMBERED))
            }
            Self::NextAuth4 => first(&["NEXTAUTH_SECRET", "AUTH_SECRET"]),
        };
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("none of the secrets of {self:?} is among those of this build"),
            )
            .with_hint("give the loaded type a field for `AUTH_SECRET`, which must be there")
        })
    }
}
