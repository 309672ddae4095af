//! Each way to log in, and what becomes of a token.

use std::ops::RangeInclusive;
use std::sync::Arc;

use secretwell::infisical::{ApiVersion, Credential, InfisicalAuth, InfisicalProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::infisical::Identity;
use tempfile::NamedTempFile;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::place::Place;
use crate::support::{key, secs};

async fn place(change: impl FnOnce(Identity) -> Identity) -> Place {
    let place = Place::fake_with(ApiVersion::V3, change).await;
    let fake = place.as_fake();
    fake.set(&place.project, "dev", &place.folder, "A", "value");
    place
}

fn logins(place: &Place) -> usize {
    let requests = place.as_fake().requests();
    requests
        .iter()
        .filter(|line| line.ends_with("/login"))
        .count()
}

fn renewals(place: &Place) -> usize {
    place.as_fake().count("POST /api/v1/auth/token/renew", 200)
}

async fn assert_reads(provider: &InfisicalProvider) {
    let secret = provider.get(&key("A")).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "value");
}

async fn assert_refused(provider: &InfisicalProvider) {
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}

/// Tokens of this kind, read with for a minute by ten tasks.
async fn outlive(
    ttl: u64,
    most: u64,
    logged: RangeInclusive<usize>,
    renewed: RangeInclusive<usize>,
) {
    let place = place(|identity| identity.token_ttl(secs(ttl)).token_max_ttl(secs(most))).await;
    let provider = Arc::new(place.provider().build().unwrap());
    let end = Instant::now() + secs(60);
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let provider = provider.clone();
        tasks.spawn(async move {
            while Instant::now() < end {
                assert_reads(&provider).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
    }
    tasks.join_all().await;
    let (found, again) = (logins(&place), renewals(&place));
    assert!(logged.contains(&found), "{ttl}/{most}: {found} logins");
    assert!(renewed.contains(&again), "{ttl}/{most}: {again} renewals");
    // A renewal that is refused destroys the token.
    assert_eq!(
        place.as_fake().count("POST /api/v1/auth/token/renew", 401),
        0
    );
}

#[tokio::test]
async fn tokens_of_five_seconds_fail_no_read_whatever_becomes_of_them() {
    tokio::join!(
        // Renewed again and again.
        outlive(5, 3600, 1..=2, 10..=25),
        // Renewed for a while, then replaced.
        outlive(5, 12, 4..=10, 3..=25),
        // Never renewed, because that would destroy them.
        outlive(5, 5, 11..=20, 0..=0),
    );
}

#[tokio::test]
async fn a_client_secret_that_may_be_used_once_is_used_once() {
    let place = place(|identity| identity.secret_uses(1)).await;
    let provider = Arc::new(place.provider().build().unwrap());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let provider = provider.clone();
        callers.spawn(async move { assert_reads(&provider).await });
    }
    callers.join_all().await;
    assert_eq!(logins(&place), 1);
    // Then the token is lost, and nothing brings another.
    place.as_fake().revoke_tokens();
    for _ in 0..10 {
        assert_refused(&provider).await;
    }
    assert_eq!(logins(&place), 2);
}

#[tokio::test]
async fn a_token_that_may_be_used_a_few_times_is_replaced() {
    let place = place(|identity| identity.token_uses(3)).await;
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    for _ in 0..12 {
        assert_reads(&provider).await;
    }
    assert_eq!(logins(&place), 4);
}

#[tokio::test]
async fn a_wrong_client_secret_costs_one_login_until_it_changes() {
    let place = place(|identity| identity).await;
    let good = place.client_secret();
    place.write_client_secret("wrong");
    let provider = place.provider().build().unwrap();
    for _ in 0..20 {
        assert_refused(&provider).await;
    }
    assert_eq!(logins(&place), 1);
    place.write_client_secret(&good);
    assert_reads(&provider).await;
    assert_eq!(logins(&place), 2);
}

#[tokio::test]
async fn a_locked_login_is_not_tried_until_its_credential_changes() {
    let place = place(|identity| identity).await;
    let good = place.client_secret();
    place.write_client_secret("wrong");
    let fake = place.as_fake();
    let text = "This identity auth method is temporarily locked, please try again later";
    fake.refuse("POST /api/v1/auth/", 401, "UnauthorizedError", text);
    let provider = place.provider().build().unwrap();
    for _ in 0..5 {
        let error = provider.get(&key("A")).await.unwrap_err();
        let ErrorKind::RateLimited {
            retry_after: Some(wait),
        } = error.kind()
        else {
            panic!("{error}");
        };
        assert!(wait <= secs(300) && wait > secs(200), "{wait:?}");
    }
    assert_eq!(logins(&place), 1);
    fake.clear_refusals();
    place.write_client_secret(&good);
    assert_reads(&provider).await;
}

#[tokio::test]
async fn a_missing_permission_is_no_dead_token() {
    let place = place(|identity| identity).await;
    let provider = place.provider().build().unwrap();
    assert_reads(&provider).await;
    place.as_fake().deny(&place.identity, "dev", &place.folder);
    for _ in 0..10 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(logins(&place), 1);
}

#[tokio::test]
async fn servers_before_august_2024_say_it_the_other_way_round() {
    let place = place(|identity| identity).await;
    place.as_fake().swap_statuses();
    let provider = place.provider().build().unwrap();
    assert_reads(&provider).await;
    place.as_fake().revoke_tokens();
    assert_reads(&provider).await;
    assert_eq!(logins(&place), 2);

    place.as_fake().deny(&place.identity, "dev", &place.folder);
    for _ in 0..3 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(logins(&place), 2);
}

#[tokio::test]
async fn a_login_that_does_not_help_is_not_repeated_for_each_read() {
    let place = place(|identity| identity).await;
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    assert_reads(&provider).await;
    let text = "No identity access token found";
    let fake = place.as_fake();
    fake.refuse("GET ", 401, "UnauthorizedError", text);
    for _ in 0..10 {
        assert_refused(&provider).await;
    }
    // One, or another where this has taken more than five seconds.
    let found = logins(&place);
    assert!((2..=4).contains(&found), "{found} logins");
    fake.clear_refusals();
    assert_reads(&provider).await;
    assert_eq!(logins(&place), found);
}

#[tokio::test]
async fn tokens_of_others_are_read_anew_for_each_login() {
    for (method, auth) in [
        (
            "kubernetes-auth",
            InfisicalAuth::kubernetes_with as fn(String, Credential) -> InfisicalAuth,
        ),
        ("oidc-auth", InfisicalAuth::oidc),
        ("jwt-auth", InfisicalAuth::jwt),
    ] {
        let place = Place::fake(ApiVersion::V4).await;
        let fake = place.as_fake();
        fake.set(&place.project, "dev", &place.folder, "A", "value");
        fake.accept_jwt(&place.identity, method, "second");
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first").unwrap();
        let auth = auth(place.identity.clone(), Credential::file(file.path()));
        let provider = place.provider().auth(auth).build().unwrap();
        assert_refused(&provider).await;
        std::fs::write(file.path(), "second\n").unwrap();
        assert_reads(&provider).await;
        let path = format!("POST /api/v1/auth/{method}/login");
        assert_eq!(fake.count(&path, 200), 1);
    }
}

#[tokio::test]
async fn a_token_at_hand_or_in_a_file_that_is_replaced() {
    let place = place(|identity| identity).await;
    let token = place.token().await;
    let at_hand = InfisicalAuth::token(Credential::value(token.as_str()));
    assert_reads(&place.provider().auth(at_hand).build().unwrap()).await;
    for bad in ["garbage", "eyJ.eyJ.forged", "st.abc.def"] {
        let auth = InfisicalAuth::token(Credential::value(bad));
        assert_refused(&place.provider().auth(auth).build().unwrap()).await;
    }

    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token).unwrap();
    let auth = InfisicalAuth::token(Credential::file(file.path()));
    let provider = place.provider().auth(auth).build().unwrap();
    assert_reads(&provider).await;
    place.as_fake().revoke_tokens();
    std::fs::write(file.path(), place.token().await).unwrap();
    assert_reads(&provider).await;
}
