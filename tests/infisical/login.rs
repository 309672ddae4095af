//! Login methods, and the renewal and replacement of tokens.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use secretwell::infisical::{ApiVersion, Credential, InfisicalAuth, InfisicalProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::FaultProxy;
use secretwell_testkit::infisical::{Identity, Personality};
use tempfile::NamedTempFile;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::place::Place;
use crate::support::{key, response, secs};

/// Creates a fake with the secret `A` and a changed identity.
async fn place(change: impl FnOnce(Identity) -> Identity) -> Place {
    let place = Place::fake_with(ApiVersion::V3, change).await;
    let fake = place.as_fake();
    fake.set(&place.project, "dev", &place.folder, "A", "value");
    place
}

fn login_count(place: &Place) -> usize {
    let requests = place.as_fake().requests();
    requests
        .iter()
        .filter(|line| line.ends_with("/login"))
        .count()
}

fn renewal_count(place: &Place) -> usize {
    place.as_fake().count("POST /api/v1/auth/token/renew", 200)
}

pub(super) async fn assert_reads(provider: &InfisicalProvider) {
    let secret = provider.get(&key("A")).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "value");
}

async fn assert_unauthenticated(provider: &InfisicalProvider) {
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}

/// Reads with ten tasks for a minute, and checks the numbers of logins and renewals. `ttl` and `max_ttl`
/// are the lifetimes of the tokens in seconds.
async fn read_for_a_minute(
    ttl: u64,
    max_ttl: u64,
    expected_logins: RangeInclusive<usize>,
    expected_renewals: RangeInclusive<usize>,
) {
    let place = place(|identity| identity.token_ttl(secs(ttl)).token_max_ttl(secs(max_ttl))).await;
    let provider = Arc::new(place.provider().build().unwrap());
    let end = Instant::now() + secs(60);
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let provider = provider.clone();
        tasks.spawn(async move {
            while Instant::now() < end {
                assert_reads(&provider).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    tasks.join_all().await;
    let (logins, renewals) = (login_count(&place), renewal_count(&place));
    assert!(
        expected_logins.contains(&logins),
        "{ttl}/{max_ttl}: {logins} logins"
    );
    assert!(
        expected_renewals.contains(&renewals),
        "{ttl}/{max_ttl}: {renewals} renewals"
    );
    // The server deletes a token when it refuses a renewal, so a refusal must not happen.
    assert_eq!(
        place.as_fake().count("POST /api/v1/auth/token/renew", 401),
        0
    );
}

#[tokio::test]
async fn no_read_fails_while_short_lived_tokens_are_renewed_or_replaced() {
    tokio::join!(
        // These tokens are renewed.
        read_for_a_minute(5, 3600, 1..=2, 10..=25),
        // These are renewed until their maximum lifetime, and then replaced.
        read_for_a_minute(5, 12, 4..=10, 3..=25),
        // These are never renewed, because the server would delete them.
        read_for_a_minute(5, 5, 11..=20, 0..=0),
    );
}

#[tokio::test]
async fn concurrent_callers_share_one_login() {
    let place = place(|identity| identity.secret_uses(1)).await;
    let provider = Arc::new(place.provider().build().unwrap());
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let provider = provider.clone();
        callers.spawn(async move { assert_reads(&provider).await });
    }
    callers.join_all().await;
    assert_eq!(login_count(&place), 1);
    // Without its token, the provider tries one more login, which fails.
    place.as_fake().revoke_tokens();
    for _ in 0..10 {
        assert_unauthenticated(&provider).await;
    }
    assert_eq!(login_count(&place), 2);
}

#[tokio::test]
async fn token_with_a_usage_limit_is_replaced() {
    let place = place(|identity| identity.token_uses(3)).await;
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    for _ in 0..12 {
        assert_reads(&provider).await;
    }
    assert_eq!(login_count(&place), 4);
}

#[tokio::test]
async fn wrong_client_secret_is_sent_once_until_it_changes() {
    let place = place(|identity| identity).await;
    let good = place.client_secret();
    place.write_client_secret("wrong");
    let provider = place.provider().build().unwrap();
    for _ in 0..20 {
        assert_unauthenticated(&provider).await;
    }
    assert_eq!(login_count(&place), 1);
    place.write_client_secret(&good);
    assert_reads(&provider).await;
    assert_eq!(login_count(&place), 2);
}

#[tokio::test]
async fn locked_login_is_retried_after_31_seconds() {
    let place = place(|identity| identity).await;
    let good = place.client_secret();
    place.write_client_secret("wrong");
    let fake = place.as_fake();
    let text = "This identity auth method is temporarily locked, please try again later";
    let lock = || fake.fail_requests("POST /api/v1/auth/", 401, "UnauthorizedError", text);
    let assert_locked = async |provider: &InfisicalProvider| {
        let error = provider.get(&key("A")).await.unwrap_err();
        let ErrorKind::RateLimited {
            retry_after: Some(wait),
        } = error.kind()
        else {
            panic!("{error}");
        };
        assert!(wait <= secs(31) && wait > secs(20), "{wait:?}");
    };
    lock();
    let provider = place.provider().build().unwrap();
    for _ in 0..5 {
        assert_locked(&provider).await;
    }
    assert_eq!(login_count(&place), 1);

    // A changed credential is used at once.
    fake.clear_failures();
    place.write_client_secret(&good);
    assert_reads(&provider).await;
    assert_eq!(login_count(&place), 2);

    // The same one is used again after the wait.
    let provider = place.provider().build().unwrap();
    lock();
    assert_locked(&provider).await;
    fake.clear_failures();
    assert_locked(&provider).await;
    assert_eq!(login_count(&place), 3);
    tokio::time::pause();
    tokio::time::advance(secs(31)).await;
    tokio::time::resume();
    assert_reads(&provider).await;
    assert_eq!(login_count(&place), 4);
}

#[tokio::test]
async fn kubernetes_api_failure_is_temporary_and_refusal_is_not() {
    let place = place(|identity| identity).await;
    let fake = place.as_fake();
    let auth = InfisicalAuth::kubernetes_with(&*place.identity, Credential::value("token"));
    fake.accept_jwt(&place.identity, "kubernetes-auth", "token");
    for (name, kind, is_temporary) in [
        (
            "KubernetesTokenReviewRequestError",
            ErrorKind::Unavailable,
            true,
        ),
        (
            "KubernetesTokenReviewError",
            ErrorKind::Unauthenticated,
            false,
        ),
    ] {
        fake.fail_requests("POST /api/v1/auth/", 401, name, "unauthorized");
        let provider = place.provider().auth(auth.clone()).build().unwrap();
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.is_temporary(), is_temporary, "{error}");
        fake.clear_failures();
        // Neither of them holds the credential back for long.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_reads(&provider).await;
    }
}

#[tokio::test]
async fn base_path_is_corrected() {
    let place = place(|identity| identity).await;
    let error_at = async |path: &str| {
        let url = format!("{}{path}", place.as_fake().url());
        match place.provider_at(&url).build() {
            Ok(provider) => provider.get(&key("A")).await.unwrap_err(),
            Err(error) => error,
        }
    };
    let root = place.as_fake().url();
    for (path, correction) in [
        ("/api/v3", root.as_str()),
        ("/api", &root),
        ("/base/v3", "/base/v3"),
    ] {
        let error = error_at(path).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{path}: {error}");
        assert!(
            error.to_string().contains(&format!("`{correction}`")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn missing_login_route_is_unsupported() {
    let place = place(|identity| identity).await;
    let auth = InfisicalAuth::jwt(&*place.identity, Credential::value("token"));
    let provider = place.provider().auth(auth).build().unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn missing_permission_does_not_cause_a_login() {
    let place = place(|identity| identity).await;
    let provider = place.provider().build().unwrap();
    assert_reads(&provider).await;
    place.as_fake().deny(&place.identity, "dev", &place.folder);
    for _ in 0..10 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(login_count(&place), 1);
}

#[tokio::test]
async fn statuses_of_servers_before_august_2024_are_understood() {
    let place = place(|identity| identity).await;
    place.as_fake().use_legacy_statuses();
    let provider = place.provider().build().unwrap();
    assert_reads(&provider).await;
    place.as_fake().revoke_tokens();
    assert_reads(&provider).await;
    assert_eq!(login_count(&place), 2);

    place.as_fake().deny(&place.identity, "dev", &place.folder);
    for _ in 0..3 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(login_count(&place), 2);
}

#[tokio::test]
async fn dead_tokens_of_july_2024_are_replaced() {
    let place = Place::fake_as(Personality::July2024, |identity| identity.token_uses(3)).await;
    place
        .as_fake()
        .set(&place.project, "dev", &place.folder, "A", "value");
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    for _ in 0..8 {
        assert_reads(&provider).await;
    }
    let logins = login_count(&place);
    for message in [
        "jwt expired",
        "jwt malformed",
        "invalid token",
        "invalid signature",
    ] {
        let proxy = FaultProxy::start(place.as_fake().address()).await;
        let provider = place.provider_at(&format!("http://{}", proxy.address()));
        let provider = provider.api(ApiVersion::V3).build().unwrap();
        let body = format!(r#"{{"error":"Internal Server Error","message":"{message}"}}"#);
        let response = response("500 Internal Server Error", &body);
        proxy.set_for("GET ", response);
        assert_unauthenticated(&provider).await;
        assert_eq!(proxy.count("POST "), 2, "{message}");
    }
    assert!(logins >= 3, "{logins}");
}

#[tokio::test]
async fn login_that_does_not_help_is_not_repeated_for_each_read() {
    let place = place(|identity| identity).await;
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    assert_reads(&provider).await;
    let text = "No identity access token found";
    let fake = place.as_fake();
    fake.fail_requests("GET ", 401, "UnauthorizedError", text);
    for _ in 0..10 {
        assert_unauthenticated(&provider).await;
    }
    // One new login, and further ones if the reads took more than five seconds.
    let logins = login_count(&place);
    assert!((2..=4).contains(&logins), "{logins} logins");
    fake.clear_failures();
    assert_reads(&provider).await;
    assert_eq!(login_count(&place), logins);
}

#[tokio::test]
async fn jwt_file_is_read_for_each_login() {
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
        assert_unauthenticated(&provider).await;
        std::fs::write(file.path(), "second\n").unwrap();
        assert_reads(&provider).await;
        let path = format!("POST /api/v1/auth/{method}/login");
        assert_eq!(fake.count(&path, 200), 1);
    }
}

#[tokio::test]
async fn static_token_is_used_and_replaced_token_file_is_read_again() {
    let place = place(|identity| identity).await;
    let token = place.token().await;
    let static_token = InfisicalAuth::token(Credential::value(token.as_str()));
    assert_reads(&place.provider().auth(static_token).build().unwrap()).await;
    for invalid in ["garbage", "eyJ.eyJ.forged", "st.abc.def"] {
        let auth = InfisicalAuth::token(Credential::value(invalid));
        assert_unauthenticated(&place.provider().auth(auth).build().unwrap()).await;
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
