//! The policy of each key, and the check of secrets against it. `check`, `doctor` and `run` share this code.

use secretwell::auth::{PreflightOptions, PreflightReport, SecretPolicy};
use secretwell::{Resolver, SecretKey, SecretProvider};
use std::sync::Arc;

use crate::fetch::FetchedSecret;
use crate::profile::Profile;

/// The advice of the library to a service, and that of the command.
const ADVICE: [(&str, &str); 1] = [(
    "set `SecretPolicy::Unchecked` for this key if its secret does not sign",
    "exempt the key with `--unchecked`, or with `unchecked` of the profile, if its secret does not sign",
)];

/// The keys whose policy is not the default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    signing: Vec<SecretKey>,
    unchecked: Vec<SecretKey>,
}

impl Policies {
    pub(crate) fn of_profile(profile: &Profile) -> Self {
        Self {
            signing: profile.signing.clone(),
            unchecked: profile.unchecked.clone(),
        }
    }

    /// Adds keys that are named on the command line. They take precedence over those of the profile.
    pub(crate) fn with_options(mut self, signing: &[SecretKey], unchecked: &[SecretKey]) -> Self {
        self.signing.retain(|key| !unchecked.contains(key));
        self.unchecked.retain(|key| !signing.contains(key));
        self.signing.extend_from_slice(signing);
        self.unchecked.extend_from_slice(unchecked);
        self
    }

    /// Returns the keys that are named as signing keys.
    pub(crate) fn signing(&self) -> &[SecretKey] {
        &self.signing
    }

    pub(crate) fn of(&self, key: &SecretKey) -> SecretPolicy {
        match () {
            () if self.unchecked.contains(key) => SecretPolicy::Unchecked,
            () if self.signing.contains(key) => SecretPolicy::of_signing_key(key),
            () => SecretPolicy::of_key(key),
        }
    }

    /// Reads and checks `keys`, all of which are required.
    pub(crate) async fn check(
        &self,
        provider: &Arc<dyn SecretProvider>,
        keys: &[SecretKey],
        options: &[PreflightOptions],
    ) -> Vec<PreflightReport> {
        let keys: Vec<_> = keys.iter().map(|key| (key.clone(), self.of(key))).collect();
        let resolver = Resolver::new(provider.clone());
        let mut reports = Vec::new();
        for options in options {
            reports.push(PreflightReport::for_keys(&resolver, &keys, options).await);
        }
        reports
    }

    /// Logs a warning for each secret that a service would refuse. The program might accept it.
    pub(crate) fn warn<'a>(
        &self,
        secrets: impl IntoIterator<Item = &'a FetchedSecret>,
        provider: &dyn SecretProvider,
    ) {
        for FetchedSecret { key, secret } in secrets {
            // An empty value is reported if its key is required.
            if secret.value.is_empty() || self.of(key).weakness(&secret.value).is_none() {
                continue;
            }
            let origin = secret.origin.as_ref().unwrap_or(provider.origin());
            tracing::warn!(target: "secretwell::command", event = "weak_secret", %key, %origin, "{key} from {origin}: the secret is too weak to sign or encrypt with; run `secretwell check` for the reason");
        }
    }

    /// Logs a warning for each of `keys` that signs. The program has lost its value by a change.
    pub(crate) fn warn_replaced<'a>(&self, keys: impl IntoIterator<Item = &'a SecretKey>) {
        for key in keys.into_iter().filter(|key| self.signs(key)) {
            tracing::warn!(target: "secretwell::command", event = "signing_secret_replaced", %key, "the program does not get the previous value of {key}, so sessions of that value are lost; add --previous '{key}={key}_PREVIOUS' if the program accepts two secrets");
        }
    }

    /// Returns whether the secret of `key` signs. A previous secret only verifies.
    fn signs(&self, key: &SecretKey) -> bool {
        self.of(key) == SecretPolicy::SigningKey && !key.name().ends_with("_PREVIOUS")
    }
}

/// Replaces the advice to the author of a service by that to the user of the command.
pub(crate) fn with_advice_of_command(text: &str) -> String {
    let replace = |text: String, (of_library, of_command): &(&str, &str)| {
        text.replace(of_library, of_command)
    };
    ADVICE.iter().fold(text.to_owned(), replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SecretKey {
        SecretKey::parse(text).unwrap()
    }

    #[test]
    fn options_take_precedence_over_the_profile() {
        let profile = Profile {
            signing: vec![key("A"), key("B")],
            unchecked: vec![key("AUTH_SECRET"), key("NEXTAUTH_SECRET")],
            ..Profile::default()
        };
        let policies = Policies::of_profile(&profile);
        let of = |policies: &Policies, name| policies.of(&key(name));
        assert_eq!(of(&policies, "A"), SecretPolicy::SigningKey);
        assert_eq!(of(&policies, "AUTH_SECRET"), SecretPolicy::Unchecked);
        assert_eq!(
            of(&policies, "BETTER_AUTH_SECRET"),
            SecretPolicy::SigningKey
        );
        let policies = policies.with_options(&[key("AUTH_SECRET")], &[key("B")]);
        assert_eq!(of(&policies, "AUTH_SECRET"), SecretPolicy::SigningKey);
        assert_eq!(of(&policies, "NEXTAUTH_SECRET"), SecretPolicy::Unchecked);
        assert_eq!(of(&policies, "B"), SecretPolicy::Unchecked);
    }

    #[test]
    fn previous_secrets_and_unchecked_secrets_do_not_sign() {
        let profile = Profile {
            signing: vec![key("A")],
            unchecked: vec![key("NEXTAUTH_SECRET")],
            ..Profile::default()
        };
        let policies = Policies::of_profile(&profile);
        for name in ["A", "AUTH_SECRET", "AUTH_SECRET_1"] {
            assert!(policies.signs(&key(name)), "{name}");
        }
        for name in ["B", "NEXTAUTH_SECRET", "AUTH_SECRET_PREVIOUS"] {
            assert!(!policies.signs(&key(name)), "{name}");
        }
    }

    #[tokio::test]
    async fn advice_of_the_library_is_replaced() {
        let memory = secretwell::MemoryProvider::from_iter([("AUTH_SECRET", "weak")]);
        let provider: Arc<dyn SecretProvider> = Arc::new(memory);
        let options = [PreflightOptions::new(secretwell::auth::Mode::Production)];
        let policies = Policies::default();
        let reports = policies
            .check(&provider, &[key("AUTH_SECRET")], &options)
            .await;
        let text = with_advice_of_command(&reports[0].to_string());
        assert!(
            text.contains("`--unchecked`") && !text.contains("SecretPolicy"),
            "{text}"
        );
    }
}
