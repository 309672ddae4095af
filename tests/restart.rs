//! Restarts in the middle of a rotation: previous secrets are read from the backend's version
//! history.

use std::time::Duration;

use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth};
use secretwell::infisical::ApiVersion;
use secretwell::vault::{self, VaultProvider};
use secretwell::{Resolver, SecretProvider, SecretString};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::infisical::place::Place;
use crate::support::ring_text;
use crate::vault::server::{ROOT, shared, unique};

const SECRETS: [&str; 3] = [
    "the first secret, thirty-two bytes or more",
    "the second secret, thirty-two bytes or more",
    "the third secret, thirty-two bytes or more",
];

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the tests read the key ring")]
    auth_secret: SecretString,
}

/// Longer than the age of any secret here. The secrets of the fake Infisical date from January
/// 2026.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The auth of a process that has just started.
fn fresh_auth(
    provider: impl SecretProvider,
    activation_delay: Duration,
    grace_period: Duration,
) -> LazyAuth<KeyRing> {
    LazyAuth::builder(Resolver::new(provider))
        .activation_delay(activation_delay)
        .grace_period(grace_period)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        })
}

/// Writes three secrets one after the other, and checks the key ring of newly started processes.
async fn assert_history_is_used_after_restart<P: SecretProvider>(
    write: impl AsyncFn(&str),
    provider: impl Fn() -> P,
) {
    let [first, second, third] = SECRETS;
    let all = format!("{third},{second},{first}");
    let ring = async |activation_delay, grace_period| {
        let auth = fresh_auth(provider(), activation_delay, grace_period);
        ring_text(&auth.get().await.unwrap())
    };
    let zero = Duration::ZERO;

    write(first).await;
    assert_eq!(ring(CENTURY, CENTURY).await, (first.into(), first.into()));
    write(second).await;
    write(third).await;
    // The second secret was replaced before its activation delay was over, so it never signed.
    assert_eq!(ring(CENTURY, CENTURY).await, (first.into(), all.clone()));
    assert_eq!(ring(zero, CENTURY).await, (third.into(), all));
    assert_eq!(ring(zero, zero).await, (third.into(), third.into()));

    let auth = fresh_auth(provider(), CENTURY, CENTURY);
    auth.get().await.unwrap();
    let revoked = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&revoked), (third.into(), third.into()));
}

#[tokio::test]
async fn previous_secrets_are_read_from_vault_until_they_are_deleted() {
    let bao = shared().await;
    let mount = unique("rotation");
    bao.mount(&mount, 2).await;
    let provider = || {
        let auth = vault::VaultAuth::token(vault::Credential::value(ROOT));
        let builder = VaultProvider::builder([format!("http://{}", bao.address)], auth).unwrap();
        builder.mount(&mount).path("app").build().unwrap()
    };
    let write = async |secret: &str| {
        let body = json!({"data": {"AUTH_SECRET": secret}});
        bao.root("POST", &format!("{mount}/data/app"), body).await;
    };
    assert_history_is_used_after_restart(write, provider).await;

    let versions = json!({"versions": [2]});
    bao.root("POST", &format!("{mount}/delete/app"), versions)
        .await;
    let auth = fresh_auth(provider(), CENTURY, CENTURY);
    let third = SECRETS[2];
    assert_eq!(
        ring_text(&auth.get().await.unwrap()),
        (third.into(), third.into())
    );
}

/// A KV version of Vault contains all fields. A write to another field must not restart the
/// activation delay.
#[tokio::test]
async fn write_to_another_field_does_not_restart_the_activation_delay() {
    let bao = shared().await;
    let mount = unique("rotation");
    bao.mount(&mount, 2).await;
    let write = async |path: &str, secret: &str, other: u32| {
        let body = json!({"data": {"AUTH_SECRET": secret, "OTHER": other}});
        bao.root("POST", &format!("{mount}/data/{path}"), body)
            .await;
    };
    let [first, second, _] = SECRETS;
    write("app", first, 0).await;
    write("app", second, 0).await;
    let written = Instant::now();
    // These writes take time, so that the ages of the versions of `app` differ clearly.
    for other in 0..200 {
        write("elsewhere", first, other).await;
    }
    write("app", second, 1).await;
    let activation_delay = written.elapsed();

    let auth = vault::VaultAuth::token(vault::Credential::value(ROOT));
    let builder = VaultProvider::builder([format!("http://{}", bao.address)], auth).unwrap();
    let provider = builder.mount(&mount).path("app").build().unwrap();
    let auth = fresh_auth(provider, activation_delay, CENTURY);
    let ring = ring_text(&auth.get().await.unwrap());
    assert_eq!(ring, (second.into(), format!("{second},{first}")));
}

#[tokio::test]
async fn previous_secrets_are_read_from_infisical() {
    let place = Place::fake(ApiVersion::V4).await;
    let write = async |secret: &str| place.write(None, "AUTH_SECRET", secret).await;
    assert_history_is_used_after_restart(write, || place.provider().build().unwrap()).await;
}
