//! [`SecretOrder`]: which secrets each package uses, and in which order.

use std::collections::HashMap;

use secretwell_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::{BuildContext, KeyRing};

/// The order in which an Auth.js package uses its secrets.
///
/// A service that uses the same order encrypts with the same secret as the package. The packages read
/// `AUTH_SECRET`, `AUTH_SECRET_1` to `AUTH_SECRET_3` and `NEXTAUTH_SECRET`. The struct of secrets has a
/// field for each of them that is in use.
///
/// # Previous secrets
/// `AUTH_SECRET_PREVIOUS` and `NEXTAUTH_SECRET_PREVIOUS` are names of this crate. The packages do not read
/// them. Their secrets only verify, in every mode, and never encrypt. With them, a service whose source
/// keeps no version history (files, environment variables) can restart during a rotation without logging
/// anybody out. The fields are `Option`s, because they are absent between two rotations.
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
///     #[expect(dead_code, reason = "the build uses its key ring")]
///     auth_secret: SecretString,
///     #[expect(dead_code, reason = "the build uses its key ring")]
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
    /// `AUTH_SECRET_PREVIOUS` verifies.
    AuthCore,
    /// next-auth 5: `AUTH_SECRET`, or else `NEXTAUTH_SECRET`. The numbered secrets are used only if both
    /// are missing, the highest number first. `AUTH_SECRET_PREVIOUS` and `NEXTAUTH_SECRET_PREVIOUS` verify.
    #[serde(rename = "next_auth_5")]
    NextAuth5,
    /// next-auth 4: `NEXTAUTH_SECRET`, or else `AUTH_SECRET`. The numbered secrets are not used.
    /// `NEXTAUTH_SECRET_PREVIOUS` and `AUTH_SECRET_PREVIOUS` verify, whichever of the two encrypts.
    #[serde(rename = "next_auth_4")]
    NextAuth4,
}

const NUMBERED: [&str; 3] = ["AUTH_SECRET_3", "AUTH_SECRET_2", "AUTH_SECRET_1"];

impl SecretOrder {
    /// Returns the keys of the secrets that the package might use, in its order.
    ///
    /// They need not be named with [`LazyAuthBuilder::signing`](crate::LazyAuthBuilder::signing), because they
    /// have [names of signing secrets](crate::SecretPolicy::of_key). A key that is named there must be the key
    /// of a field.
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

    /// Returns the keys of the previous secrets, which only verify.
    pub fn previous_keys(self) -> &'static [&'static str] {
        match self {
            Self::AuthCore => &["AUTH_SECRET_PREVIOUS"],
            Self::NextAuth5 => &["AUTH_SECRET_PREVIOUS", "NEXTAUTH_SECRET_PREVIOUS"],
            Self::NextAuth4 => &["NEXTAUTH_SECRET_PREVIOUS", "AUTH_SECRET_PREVIOUS"],
        }
    }

    /// Returns a key ring with the secrets that the package uses, in its order, followed by the previous
    /// secrets. Secrets that the build does not have are omitted.
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`] if the build has none of the secrets that encrypt. A previous secret is
    ///   not enough.
    /// - [`ErrorKind::Invalid`] if a secret is too weak, in [`Mode::Production`](crate::Mode::Production).
    ///   This also applies to a secret that the package would ignore, because another one is set.
    pub fn key_ring(self, context: &BuildContext) -> Result<KeyRing, Error> {
        // All of them are signing secrets, also while another one has precedence.
        let mut rings: HashMap<&str, KeyRing> = HashMap::new();
        for name in self.keys() {
            match context.key_ring(name) {
                Ok(ring) => drop(rings.insert(name, ring)),
                Err(absent) if absent.is_not_found() => {}
                Err(unusable) => return Err(unusable),
            }
        }
        let mut previous = Vec::new();
        for name in self.previous_keys() {
            previous.extend(context.stored_previous(name)?);
        }
        let ring = |name: &&str| rings.get(name).cloned();
        let merged = |names: &[&str]| KeyRing::merge(names.iter().filter_map(ring));
        let first = |names: &[&str]| names.iter().find_map(ring);
        let found = match self {
            Self::AuthCore => merged(self.keys()),
            Self::NextAuth5 => {
                first(&["AUTH_SECRET", "NEXTAUTH_SECRET"]).or_else(|| merged(&NUMBERED))
            }
            Self::NextAuth4 => first(self.keys()),
        };
        match found {
            Some(ring) => previous.into_iter().try_fold(ring, KeyRing::with_previous),
            None => Err(self.no_secret(previous.is_empty())),
        }
    }

    /// The error that no secret can encrypt.
    fn no_secret(self, has_no_previous: bool) -> Error {
        let (message, hint) = match has_no_previous {
            true => (
                format!("this build loads no secret that {self:?} uses"),
                "add a field for `AUTH_SECRET` to the struct of secrets, and check that the source has a value",
            ),
            false => (
                format!(
                    "this build loads a previous secret, but no secret that {self:?} encrypts with"
                ),
                "write the new secret to `AUTH_SECRET`; a previous secret only verifies",
            ),
        };
        Error::new(ErrorKind::NotFound, message).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use secretwell_core::{MemoryProvider, Origin, Secret, SecretKey, SecretProvider};
    use secretwell_resolver::Resolver;
    use serde::Deserialize;

    use super::SecretOrder::{AuthCore, NextAuth4, NextAuth5};
    use super::*;
    use crate::{LazyAuth, Mode, NotReady};

    const NEW: &str = "the new secret, K7gNU3sdo+OL0wNhqoVW";
    const OLD: &str = "the old secret, hr3g6s1xYv72ol/pe/Un";
    const OLDER: &str = "the older secret, 0wNhqoVWhr3g6s1xYv";
    const ORDERS: [SecretOrder; 3] = [AuthCore, NextAuth5, NextAuth4];

    #[derive(Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    #[expect(dead_code, reason = "the tests read the secrets from the key ring")]
    struct Secrets {
        auth_secret: Option<String>,
        auth_secret_1: Option<String>,
        nextauth_secret: Option<String>,
        auth_secret_previous: Option<String>,
        nextauth_secret_previous: Option<String>,
    }

    async fn ring_in(
        mode: Mode,
        order: SecretOrder,
        secrets: &[(&str, &str)],
    ) -> Result<String, NotReady> {
        let memory = MemoryProvider::from_iter(secrets.iter().copied());
        let auth = LazyAuth::builder(Resolver::new(memory)).mode(mode).build(
            move |_: Secrets, context: BuildContext| async move { Ok(order.key_ring(&context)?) },
        );
        let ring = auth.get().await?;
        let texts: Vec<_> = ring.iter().map(|it| it.expose_text().unwrap()).collect();
        assert_eq!(ring.primary().expose_text().unwrap(), texts[0]);
        Ok(texts.join(" | "))
    }

    async fn ring(order: SecretOrder, secrets: &[(&str, &str)]) -> Result<String, NotReady> {
        ring_in(Mode::Production, order, secrets).await
    }

    #[tokio::test]
    async fn previous_secret_follows_the_secrets_of_each_package() {
        let both = format!("{NEW} | {OLD}");
        for order in ORDERS {
            for mode in [Mode::Production, Mode::Development] {
                let secrets = [("AUTH_SECRET", NEW), ("AUTH_SECRET_PREVIOUS", OLD)];
                assert_eq!(ring_in(mode, order, &secrets).await.unwrap(), both);
            }
        }
        for order in [NextAuth4, NextAuth5] {
            for previous in ["NEXTAUTH_SECRET_PREVIOUS", "AUTH_SECRET_PREVIOUS"] {
                let secrets = [("NEXTAUTH_SECRET", NEW), (previous, OLD)];
                assert_eq!(ring(order, &secrets).await.unwrap(), both);
            }
        }
        let numbered = [
            ("AUTH_SECRET", OLD),
            ("AUTH_SECRET_1", NEW),
            ("AUTH_SECRET_PREVIOUS", OLDER),
        ];
        let expected = format!("{NEW} | {OLD} | {OLDER}");
        assert_eq!(ring(AuthCore, &numbered).await.unwrap(), expected);
        let expected = format!("{OLD} | {OLDER}");
        assert_eq!(ring(NextAuth5, &numbered).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn both_previous_secrets_of_next_auth_4_verify() {
        let secrets = [
            ("NEXTAUTH_SECRET", NEW),
            ("AUTH_SECRET_PREVIOUS", OLDER),
            ("NEXTAUTH_SECRET_PREVIOUS", OLD),
        ];
        let expected = format!("{NEW} | {OLD} | {OLDER}");
        assert_eq!(ring(NextAuth4, &secrets).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn previous_secret_that_is_the_current_one_is_one_entry() {
        let secrets = [("AUTH_SECRET", NEW), ("AUTH_SECRET_PREVIOUS", NEW)];
        for order in ORDERS {
            assert_eq!(ring(order, &secrets).await.unwrap(), NEW);
        }
    }

    #[tokio::test]
    async fn previous_secret_alone_is_an_error_that_names_the_next_step() {
        let secrets = [
            ("AUTH_SECRET_PREVIOUS", OLD),
            ("NEXTAUTH_SECRET_PREVIOUS", OLD),
        ];
        for order in ORDERS {
            let failure = ring(order, &secrets).await.unwrap_err().to_string();
            assert!(failure.contains("previous secret"), "{failure}");
            assert!(
                failure.contains("write the new secret to `AUTH_SECRET`"),
                "{failure}"
            );
        }
    }

    #[tokio::test]
    async fn weak_secret_is_an_error_of_its_own_key_and_not_an_absent_one() {
        let strong = ("AUTH_SECRET", NEW);
        for (name, order) in [
            ("AUTH_SECRET", AuthCore),
            ("NEXTAUTH_SECRET", NextAuth4),
            ("AUTH_SECRET_1", NextAuth5),
            ("AUTH_SECRET_PREVIOUS", NextAuth5),
            ("NEXTAUTH_SECRET_PREVIOUS", NextAuth4),
        ] {
            let weak = [strong, (name, "changeme")];
            let failure = ring(order, &weak).await.unwrap_err();
            let [problem] = failure.problems() else {
                panic!("{failure}")
            };
            assert_eq!(problem.key().map(|key| key.as_str()), Some(name));
            assert!(problem.message().contains("too weak"), "{problem}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn previous_secret_never_signs_during_the_activation_delay_of_a_numbered_one() {
        let delay = std::time::Duration::from_secs(60);
        let memory =
            MemoryProvider::from_iter([("AUTH_SECRET", OLD), ("AUTH_SECRET_PREVIOUS", OLDER)]);
        let auth = LazyAuth::builder(Resolver::new(memory.clone()))
            .activation_delay(delay)
            .build(
                |_: Secrets, context: BuildContext| async move { Ok(AuthCore.key_ring(&context)?) },
            );
        let texts = |ring: &KeyRing| {
            let all = ring.iter().map(|it| it.expose_text().unwrap().to_owned());
            let primary = ring.primary().expose_text().unwrap().to_owned();
            (primary, all.collect::<Vec<_>>())
        };
        let first = auth.get().await.unwrap();
        assert_eq!(
            texts(&first),
            (OLD.to_owned(), vec![OLD.to_owned(), OLDER.to_owned()])
        );
        memory.set("AUTH_SECRET_1", NEW).unwrap();
        let all = [NEW, OLD, OLDER].map(str::to_owned).to_vec();
        let staged = auth.rebuild().await.unwrap();
        assert_eq!(texts(&staged), (OLD.to_owned(), all.clone()));
        tokio::time::sleep(delay * 2).await;
        let active = auth.rebuild().await.unwrap();
        assert_eq!(texts(&active), (NEW.to_owned(), all));
    }

    #[tokio::test]
    async fn failed_read_of_a_previous_secret_is_not_an_absent_one() {
        for kind in [
            ErrorKind::Unavailable,
            ErrorKind::Denied,
            ErrorKind::Malformed,
        ] {
            for name in ["AUTH_SECRET_PREVIOUS", "NEXTAUTH_SECRET_PREVIOUS"] {
                for mode in [Mode::Production, Mode::Development] {
                    let memory = MemoryProvider::from_iter([("AUTH_SECRET", NEW)]);
                    let source = Failing { memory, name, kind };
                    let auth = LazyAuth::builder(Resolver::new(source)).mode(mode).build(
                        |_: Secrets, context: BuildContext| async move {
                            Ok(NextAuth5.key_ring(&context)?)
                        },
                    );
                    let failure = auth.get().await.unwrap_err();
                    let [problem] = failure.problems() else {
                        panic!("{failure}")
                    };
                    assert_eq!(problem.key().unwrap().as_str(), name);
                    assert_eq!(problem.kind(), kind);
                }
            }
        }
    }

    #[tokio::test]
    async fn encrypted_previous_secret_is_an_error() {
        for name in ["AUTH_SECRET_PREVIOUS", "NEXTAUTH_SECRET_PREVIOUS"] {
            let encrypted = "ENC[AES256_GCM,data:p673w==,iv:YY=,aad:UQ=,tag:A=]";
            let secrets = [("AUTH_SECRET", NEW), (name, encrypted)];
            let failure = ring(NextAuth5, &secrets).await.unwrap_err();
            assert_eq!(failure.problems()[0].key().unwrap().as_str(), name);
        }
    }

    #[tokio::test]
    async fn setting_that_names_a_key_without_a_field_is_an_error_that_says_so() {
        let memory = MemoryProvider::from_iter([("AUTH_SECRET", NEW)]);
        let auth =
            LazyAuth::builder(Resolver::new(memory))
                .signing(NextAuth5.keys())
                .unwrap()
                .build(|_: Secrets, context: BuildContext| async move {
                    Ok(NextAuth5.key_ring(&context)?)
                });
        let failure = auth.get().await.unwrap_err();
        let named = failure.problems().iter().map(|it| it.key().unwrap());
        let named: Vec<&str> = named.map(SecretKey::as_str).collect();
        assert_eq!(named, ["AUTH_SECRET_2", "AUTH_SECRET_3"]);
        let text = failure.to_string();
        assert!(text.contains("has no such field"), "{text}");
    }

    /// Fails for one key.
    #[derive(Debug)]
    struct Failing {
        memory: MemoryProvider,
        name: &'static str,
        kind: ErrorKind,
    }

    #[async_trait::async_trait]
    impl SecretProvider for Failing {
        fn origin(&self) -> &Origin {
            self.memory.origin()
        }

        async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
            match key.as_str() == self.name {
                true => Err(Error::new(self.kind, "it fails").with_key(key)),
                false => self.memory.get(key).await,
            }
        }
    }

    #[tokio::test]
    async fn empty_secret_of_a_source_without_variables_is_an_error() {
        for name in ["AUTH_SECRET", "AUTH_SECRET_PREVIOUS"] {
            let secrets = [("NEXTAUTH_SECRET", NEW), (name, "")];
            for order in [NextAuth4, NextAuth5] {
                let failure = ring(order, &secrets).await.unwrap_err();
                assert_eq!(failure.problems()[0].key().unwrap().as_str(), name);
            }
        }
    }
}
