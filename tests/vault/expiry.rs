//! Tokens of two seconds, whatever they were given for.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::login::{Stage, assert_reads, claims, signed, signed_by_the_cluster};
use crate::support::secs;

/// Reads for `time`, as fast as ten tasks can, and wants every read to succeed.
pub(super) async fn read_for(provider: &Arc<VaultProvider>, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let provider = provider.clone();
        tasks.spawn(async move {
            let mut reads = 0;
            while Instant::now() < end {
                assert_reads(&provider).await;
                reads += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            reads
        });
    }
    tasks.join_all().await.into_iter().sum()
}

/// Tokens that live for two seconds, read with for a minute.
async fn outlive(settings: Value, logins: RangeInclusive<usize>, renewals: RangeInclusive<usize>) {
    let stage = Stage::new().await;
    let (role_id, secret_id) = stage.app_role(settings.clone()).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&stage.name);
    let provider = Arc::new(stage.provider(auth));
    let reads = read_for(&provider, secs(60)).await;
    assert!(reads > 1_000, "{reads} reads");
    let (asked, renewed) = (stage.logins(), stage.renewals());
    assert!(logins.contains(&asked), "{settings}: {asked} logins");
    let fits = renewals.contains(&renewed);
    assert!(fits, "{settings}: {renewed} renewals");
}

#[tokio::test]
async fn tokens_of_two_seconds_fail_no_read_whatever_becomes_of_them() {
    let for_ever = json!({"token_period": "2s"});
    let to_a_maximum = json!({"token_ttl": "2s", "token_max_ttl": "5s"});
    let never = json!({"token_ttl": "2s", "token_type": "batch"});
    tokio::join!(
        outlive(for_ever, 1..=3, 20..=60),
        outlive(to_a_maximum, 10..=24, 10..=60),
        outlive(never, 28..=50, 0..=0),
    );
}

/// Reads with tokens of two seconds for ten, by a login that is not AppRole.
async fn outlive_briefly(stage: &Stage, auth: VaultAuth) {
    let provider = Arc::new(stage.provider(auth.mount(&stage.name)));
    let reads = read_for(&provider, secs(10)).await;
    assert!(reads > 100, "{reads} reads");
    let (asked, renewed) = (stage.logins(), stage.renewals());
    assert!(
        (4..=20).contains(&(asked + renewed)),
        "{asked} and {renewed}"
    );
}

#[tokio::test]
async fn tokens_of_every_login_are_followed_by_the_next() {
    let settings = || json!({"token_ttl": "2s", "token_max_ttl": "4s"});
    let by_password = async {
        let stage = Stage::new().await;
        stage.method("userpass").await;
        let mut user = settings();
        user["password"] = json!("pass");
        user["token_policies"] = json!([stage.name]);
        stage.root("users/me", user).await;
        outlive_briefly(&stage, VaultAuth::userpass("me", Credential::value("pass"))).await;
    };
    let by_jwt = async {
        let stage = Stage::new().await;
        stage.jwt(settings()).await;
        let jwt = signed(claims("vault", i64::from(i32::MAX)));
        outlive_briefly(&stage, VaultAuth::jwt("app", Credential::value(jwt))).await;
    };
    let by_service_account = async {
        let stage = Stage::new().await;
        let _cluster = stage.kubernetes(settings()).await;
        let jwt = Credential::value(signed_by_the_cluster());
        outlive_briefly(&stage, VaultAuth::kubernetes_with("app", jwt)).await;
    };
    tokio::join!(by_password, by_jwt, by_service_account);
}
