//! Which secrets are current, which only verify, and which are refused.

use secretwell_core::MemoryProvider;
use secretwell_resolver::Resolver;
use serde::Deserialize;

use super::*;
use crate::{LazyAuth, Mode, NotReady};

/// The default secrets of Better Auth 1.7 and 1.4.
const PUBLISHED: [&str; 2] = [
    "better-auth-secret-12345678901234567890",
    "better-auth-secret-123456789",
];
const NEW: &str = "the new secret, K7gNU3sdo+OL0wNhqoVW";
const OLD: &str = "the old secret; hr3g6s1xYv72ol/pe/Un";
const OLDER: &str = "the older secret; 0wNhqoVWhr3g6s1xYv";

/// The secrets have no comma, which separates the entries of a list.
fn new() -> String {
    NEW.replace(',', ";")
}

fn ring(values: &[&str], primary: usize) -> KeyRing {
    KeyRing {
        primary: values[primary].into(),
        is_active: primary == 0,
        all: values.iter().map(|value| (*value).into()).collect(),
    }
}

fn texts<'a>(secrets: impl IntoIterator<Item = &'a SecretValue>) -> Vec<&'a str> {
    let secrets = secrets.into_iter();
    secrets
        .map(|secret| secret.expose_text().unwrap())
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the tests read the secrets from the key ring")]
struct Secrets {
    better_auth_secrets: Option<String>,
    better_auth_secret: Option<String>,
    auth_secret: Option<String>,
    better_auth_secret_previous: Option<String>,
}

async fn build(mode: Mode, secrets: &[(&str, &str)]) -> Result<BetterAuthSecrets, NotReady> {
    let memory = MemoryProvider::from_iter(secrets.iter().copied());
    let auth = LazyAuth::builder(Resolver::new(memory)).mode(mode).build(
        |_: Secrets, context: BuildContext| async move {
            Ok(BetterAuthSecrets::from_context(&context)?)
        },
    );
    Ok(auth.get().await?.clone())
}

#[tokio::test]
async fn list_has_precedence_and_the_single_secret_is_its_legacy_secret() {
    let list = format!("2:{},1:{OLD}", new());
    let single = [("BETTER_AUTH_SECRET", NEW), ("AUTH_SECRET", OLD)];
    let secrets = build(Mode::Production, &single).await.unwrap();
    assert_eq!(texts(secrets.iter()), [NEW]);
    assert_eq!((secrets.current_version(), secrets.legacy()), (None, None));

    let shared = [("AUTH_SECRET", OLD)];
    let secrets = build(Mode::Production, &shared).await.unwrap();
    assert_eq!(texts(secrets.iter()), [OLD]);

    for legacy in ["BETTER_AUTH_SECRET", "AUTH_SECRET"] {
        let both = [("BETTER_AUTH_SECRETS", &*list), (legacy, OLDER)];
        let secrets = build(Mode::Production, &both).await.unwrap();
        assert_eq!(texts(secrets.iter()), [&new(), OLD, OLDER]);
        assert_eq!(texts(secrets.legacy()), [OLDER]);
        assert_eq!(secrets.current_version(), Some(2));
        assert_eq!(texts(secrets.version(1)), [OLD]);
        assert_eq!(secrets.version(3), None);
    }
}

#[tokio::test]
async fn previous_secret_only_verifies() {
    for current in ["BETTER_AUTH_SECRET", "AUTH_SECRET"] {
        let both = [(current, NEW), ("BETTER_AUTH_SECRET_PREVIOUS", OLD)];
        let secrets = build(Mode::Production, &both).await.unwrap();
        assert_eq!(texts(secrets.current_secrets()), [NEW]);
        assert_eq!(texts(secrets.older_secrets()), [OLD]);
    }
    let alone = [("BETTER_AUTH_SECRET_PREVIOUS", OLD)];
    let failure = build(Mode::Production, &alone).await.unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("no secret that Better Auth uses"),
        "{failure}"
    );
}

#[tokio::test]
async fn published_default_secrets_are_refused_in_every_mode_and_place() {
    let strong = ("BETTER_AUTH_SECRET", NEW);
    for default in PUBLISHED {
        let list = format!("2:{},1:{default}", new());
        let good = format!("2:{},1:{OLD}", new());
        for mode in [Mode::Production, Mode::Development] {
            for secrets in [
                vec![("BETTER_AUTH_SECRET", default)],
                vec![("AUTH_SECRET", default)],
                vec![("BETTER_AUTH_SECRETS", &*list)],
                vec![
                    ("BETTER_AUTH_SECRETS", &*good),
                    ("BETTER_AUTH_SECRET", default),
                ],
                vec![("BETTER_AUTH_SECRETS", &*good), ("AUTH_SECRET", default)],
                vec![strong, ("BETTER_AUTH_SECRET_PREVIOUS", default)],
            ] {
                let failure = build(mode, &secrets).await.unwrap_err().to_string();
                assert!(!failure.contains(default), "{failure}");
                let name = "published default secret of Better Auth";
                assert!(failure.contains(name), "{mode:?}: {failure}");
            }
        }
        let error = BetterAuthSecrets::from_list(list).unwrap_err();
        assert_eq!(
            error.message(),
            "the secret of version 1 is the published default secret of Better Auth"
        );
        let padded = format!(" {default}\n");
        assert!(BetterAuthSecrets::new(padded).is_err());
        let secrets = BetterAuthSecrets::new(NEW).unwrap();
        assert!(secrets.clone().with_legacy(default).is_err());
        assert!(secrets.with_previous(default).is_err());
    }
}

#[tokio::test]
async fn weak_entry_of_a_list_fails_a_build_in_production_and_is_named_by_its_version() {
    let list = format!("2:{},1:changeme", new());
    let secrets = [("BETTER_AUTH_SECRETS", &*list)];
    let failure = build(Mode::Production, &secrets).await.unwrap_err();
    let [problem] = failure.problems() else {
        panic!("{failure}")
    };
    let message = problem.message();
    assert!(
        message.contains("the secret of version 1 is too weak"),
        "{message}"
    );
    assert!(!failure.to_string().contains("changeme"));
    let secrets = build(Mode::Development, &secrets).await.unwrap();
    assert_eq!(texts(secrets.version(1)), ["changeme"]);

    for short in [
        vec![("BETTER_AUTH_SECRET", "short")],
        vec![("AUTH_SECRET", "short")],
    ] {
        assert!(build(Mode::Production, &short).await.is_err());
    }
}

#[tokio::test]
async fn text_that_is_not_a_list_is_an_error_in_every_mode_without_its_text() {
    for (list, reason) in [
        (
            NEW.to_owned(),
            "entry 1 of the list of secrets has no colon",
        ),
        (
            format!("1:{OLD},"),
            "entry 2 of the list of secrets has no colon",
        ),
        (
            format!("v1:{OLD}"),
            "the version of entry 1 of the list of secrets is not a whole number",
        ),
        (format!("2:{OLD},1:"), "the secret of version 1 is empty"),
        (
            format!("1:{OLD},1:{OLDER}"),
            "version 1 occurs twice in the list of secrets",
        ),
    ] {
        for mode in [Mode::Production, Mode::Development] {
            let failure = build(mode, &[("BETTER_AUTH_SECRETS", &*list)])
                .await
                .unwrap_err();
            let failure = failure.to_string();
            assert!(failure.contains(reason), "{failure}");
            assert!(
                !failure.contains("secret; ") && !failure.contains("K7g"),
                "{failure}"
            );
        }
        let error = BetterAuthSecrets::from_list(list).unwrap_err();
        assert_eq!(error.message(), reason);
    }
}

#[tokio::test]
async fn entry_of_a_list_is_removed_from_the_errors_of_the_builder() {
    let list = format!("2:{},1:{OLD}", new());
    let memory = MemoryProvider::from_iter([("BETTER_AUTH_SECRETS", &*list)]);
    let auth = LazyAuth::new(Resolver::new(memory), |_: Secrets, _| async move {
        Err::<(), _>(crate::BuildError::msg(format!("cannot use {OLD}")))
    });
    let failure = auth.get().await.unwrap_err().to_string();
    assert!(
        failure.contains("cannot use <BETTER_AUTH_SECRETS>"),
        "{failure}"
    );
}

#[test]
fn secrets_of_previous_lists_verify_until_their_grace_period_ends() {
    let after = format!("3:{},2:{OLD}", new());
    let before = format!("2:{OLD},1:{OLDER}");
    let secrets = BetterAuthSecrets::from_lists(&ring(&[&after, &before], 0)).unwrap();
    assert_eq!(texts(secrets.current_secrets()), [&new()]);
    assert_eq!(texts(secrets.older_secrets()), [OLD, OLDER]);
    let versions: Vec<u64> = secrets.versions().map(|(version, _)| version).collect();
    assert_eq!(versions, [3, 2, 1]);
    assert_eq!(secrets.current_version(), Some(3));

    // A version number that was used again belongs to the newest list.
    let again = format!("2:{}", new());
    let secrets = BetterAuthSecrets::from_lists(&ring(&[&again, &before], 0)).unwrap();
    assert_eq!(texts(secrets.version(2)), [&new()]);
    assert_eq!(texts(secrets.iter()), [&new(), OLD, OLDER]);
}

#[test]
fn new_and_signing_secret_are_both_current_during_the_activation_delay() {
    let secrets = BetterAuthSecrets::from_ring(SECRET, &ring(&[NEW, OLD, OLDER], 1)).unwrap();
    assert_eq!(texts([secrets.current()]), [OLD]);
    assert_eq!(texts(secrets.current_secrets()), [OLD, NEW]);
    assert_eq!(texts(secrets.older_secrets()), [OLDER]);

    let after = format!("3:{},2:{OLD}", new());
    let before = format!("2:{OLD},1:{OLDER}");
    let secrets = BetterAuthSecrets::from_lists(&ring(&[&after, &before], 1)).unwrap();
    assert_eq!(texts(secrets.current_secrets()), [OLD, &new()]);
    assert_eq!(texts(secrets.older_secrets()), [OLDER]);
    assert_eq!(secrets.current_version(), Some(2));
    assert_eq!(texts(secrets.version(3)), [&new()]);
}

#[test]
fn empty_secret_is_refused() {
    assert!(BetterAuthSecrets::new("").is_err());
    assert!(BetterAuthSecrets::from_list("").is_err());
    let secrets = BetterAuthSecrets::new(NEW).unwrap();
    assert!(secrets.clone().with_legacy("").is_err());
    assert!(secrets.with_previous("").is_err());
}
