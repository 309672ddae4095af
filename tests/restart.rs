//! A restart in the middle of a rotation: what the backend remembers of the earlier secrets.

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
    #[expect(dead_code, reason = "the ring is what the tests look at")]
    auth_secret: SecretString,
}

/// Longer than any secret here is old: those of the fake are of January 2026.
const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The auth of a process that has just started.
fn started(provider: impl SecretProvider, delay: Duration, grace: Duration) -> LazyAuth<KeyRing> {
    LazyAuth::builder(Resolver::new(provider))
        .activation_delay(delay)
        .grace_period(grace)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        })
}

/// Writes one secret after the other, and restarts after each.
async fn rotates_and_restarts<P: SecretProvider>(
    write: impl AsyncFn(&str),
    provider: impl Fn() -> P,
) {
    let [first, second, third] = SECRETS;
    let all = format!("{third},{second},{first}");
    let ring =
        async |delay, grace| ring_text(&started(provider(), delay, grace).get().await.unwrap());

    write(first).await;
    assert_eq!(ring(AGES, AGES).await, (first.into(), first.into()));
    write(second).await;
    write(third).await;
    // The second was replaced before everybody knew it, so nobody has ever signed with it.
    assert_eq!(ring(AGES, AGES).await, (first.into(), all.clone()));
    assert_eq!(ring(Duration::ZERO, AGES).await, (third.into(), all));
    let none = Duration::ZERO;
    assert_eq!(ring(none, none).await, (third.into(), third.into()));

    let auth = started(provider(), AGES, AGES);
    auth.get().await.unwrap();
    let revoked = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&revoked), (third.into(), third.into()));
}

#[tokio::test]
async fn vault_remembers_the_earlier_secrets_until_they_are_deleted() {
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
    rotates_and_restarts(write, provider).await;

    let versions = json!({"versions": [2]});
    bao.root("POST", &format!("{mount}/delete/app"), versions)
        .await;
    let auth = started(provider(), AGES, AGES);
    let third = SECRETS[2];
    assert_eq!(
        ring_text(&auth.get().await.unwrap()),
        (third.into(), third.into())
    );
}

/// A version of Vault's is one of all fields: one that is written later makes no secret new again.
#[tokio::test]
async fn a_finished_rotation_stays_finished_when_another_field_is_written() {
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
    // So much time that the versions before and after it cannot be taken for each other.
    for other in 0..200 {
        write("elsewhere", first, other).await;
    }
    write("app", second, 1).await;
    let delay = written.elapsed();

    let auth = vault::VaultAuth::token(vault::Credential::value(ROOT));
    let builder = VaultProvider::builder([format!("http://{}", bao.address)], auth).unwrap();
    let provider = builder.mount(&mount).path("app").build().unwrap();
    let auth = started(provider, delay, AGES);
    let ring = ring_text(&auth.get().await.unwrap());
    assert_eq!(ring, (second.into(), format!("{second},{first}")));
}

#[tokio::test]
async fn infisical_remembers_the_earlier_secrets() {
    let place = Place::fake(ApiVersion::V4).await;
    let write = async |secret: &str| place.write(None, "AUTH_SECRET", secret).await;
    rotates_and_restarts(write, || place.provider().build().unwrap()).await;
}
