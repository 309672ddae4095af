//! A restart in the middle of a rotation: what the server remembers of the earlier secrets.

use std::time::Duration;

use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth};
use secretwell::vault::{Auth, Credential, VaultProvider};
use secretwell::{Resolver, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::server::{Bao, ROOT, shared, unique};
use crate::support::ring_text;

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

/// The auth of a process that has just started.
fn started(bao: &Bao, mount: &str, delay: Duration, grace: Duration) -> LazyAuth<KeyRing> {
    let auth = Auth::token(Credential::value(ROOT));
    let provider = VaultProvider::builder([format!("http://{}", bao.address)], auth)
        .unwrap()
        .mount(mount)
        .path("app")
        .build()
        .unwrap();
    LazyAuth::builder(Resolver::new(provider))
        .activation_delay(delay)
        .grace(grace)
        .build(|_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        })
}

#[tokio::test]
async fn a_process_that_starts_after_a_rotation_knows_the_earlier_secrets_until_their_grace_is_over()
 {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let bao = shared().await;
    let mount = unique("rotation");
    bao.mount(&mount, 2).await;
    let write = async |secret: &str| {
        let body = json!({"data": {"AUTH_SECRET": secret}});
        bao.root("POST", &format!("{mount}/data/app"), body).await;
    };
    let [first, second, third] = SECRETS;
    let all = format!("{third},{second},{first}");
    let ring =
        async |delay, grace| ring_text(&started(bao, &mount, delay, grace).get().await.unwrap());

    write(first).await;
    assert_eq!(ring(DAY, DAY).await, (first.into(), first.into()));
    write(second).await;
    write(third).await;
    // The second was replaced before everybody knew it, so nobody has ever signed with it.
    assert_eq!(ring(DAY, DAY).await, (first.into(), all.clone()));
    assert_eq!(ring(Duration::ZERO, DAY).await, (third.into(), all));
    let none = Duration::ZERO;
    assert_eq!(ring(none, none).await, (third.into(), third.into()));

    let auth = started(bao, &mount, DAY, DAY);
    auth.get().await.unwrap();
    let revoked = auth.revoke_earlier().await.unwrap();
    assert_eq!(ring_text(&revoked), (third.into(), third.into()));

    // What is deleted on the server is not given back.
    let versions = json!({"versions": [2]});
    bao.root("POST", &format!("{mount}/delete/app"), versions)
        .await;
    assert_eq!(ring(DAY, DAY).await, (third.into(), third.into()));
}
