//! Reads with tokens that expire after two seconds.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::login::{Fixture, assert_reads, claims, signed, signed_by_the_cluster};
use crate::support::secs;

/// Reads with ten tasks for `duration`, and asserts that every read succeeds. Returns the number of reads.
pub(super) async fn read_for(provider: &Arc<VaultProvider>, duration: Duration) -> usize {
    let end = Instant::now() + duration;
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

/// Reads for a minute with tokens of these `settings`. Asserts that every read succeeds, and that the numbers
/// of logins and renewals are in the given ranges.
async fn assert_reads_with_app_role(
    settings: Value,
    logins: RangeInclusive<usize>,
    renewals: RangeInclusive<usize>,
) {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(settings.clone()).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = Arc::new(fixture.provider(auth));
    let reads = read_for(&provider, secs(60)).await;
    assert!(reads > 1_000, "{reads} reads");
    let login_count = fixture.logins();
    assert!(
        logins.contains(&login_count),
        "{settings}: {login_count} logins"
    );
    let renewal_count = fixture.renewals();
    assert!(
        renewals.contains(&renewal_count),
        "{settings}: {renewal_count} renewals"
    );
}

#[tokio::test]
async fn no_read_fails_with_periodic_limited_or_batch_tokens() {
    let periodic = json!({"token_period": "2s"});
    let limited = json!({"token_ttl": "2s", "token_max_ttl": "5s"});
    let batch = json!({"token_ttl": "2s", "token_type": "batch"});
    tokio::join!(
        assert_reads_with_app_role(periodic, 1..=3, 20..=60),
        assert_reads_with_app_role(limited, 10..=24, 10..=60),
        assert_reads_with_app_role(batch, 28..=50, 0..=0),
    );
}

/// Reads for ten seconds with tokens of two seconds. Asserts that every read succeeds.
async fn assert_reads_with(fixture: &Fixture, auth: VaultAuth) {
    let provider = Arc::new(fixture.provider(auth.mount(&fixture.name)));
    let reads = read_for(&provider, secs(10)).await;
    assert!(reads > 100, "{reads} reads");
    let (logins, renewals) = (fixture.logins(), fixture.renewals());
    assert!(
        (4..=20).contains(&(logins + renewals)),
        "{logins} logins and {renewals} renewals"
    );
}

#[tokio::test]
async fn expiring_tokens_of_every_login_method_are_replaced() {
    let settings = || json!({"token_ttl": "2s", "token_max_ttl": "4s"});
    let by_password = async {
        let fixture = Fixture::new().await;
        fixture.method("userpass").await;
        let mut user = settings();
        user["password"] = json!("pass");
        user["token_policies"] = json!([fixture.name]);
        fixture.root("users/me", user).await;
        assert_reads_with(
            &fixture,
            VaultAuth::userpass("me", Credential::value("pass")),
        )
        .await;
    };
    let by_jwt = async {
        let fixture = Fixture::new().await;
        fixture.jwt(settings()).await;
        let jwt = signed(claims("vault", i64::from(i32::MAX)));
        assert_reads_with(&fixture, VaultAuth::jwt("app", Credential::value(jwt))).await;
    };
    let by_service_account = async {
        let fixture = Fixture::new().await;
        let _cluster = fixture.kubernetes(settings()).await;
        let jwt = Credential::value(signed_by_the_cluster());
        assert_reads_with(&fixture, VaultAuth::kubernetes_with("app", jwt)).await;
    };
    tokio::join!(by_password, by_jwt, by_service_account);
}
