//! Refused logins and refused tokens: how often they are repeated, and when an operator's repair is noticed.

use std::time::Duration;

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, Resolver, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::time::Instant;

use super::login::{Fixture, assert_reads, claims, signed};
use crate::support::{key, response, secs};

fn jwt(fixture: &Fixture) -> VaultAuth {
    let jwt = signed(claims("vault", i64::from(i32::MAX)));
    VaultAuth::jwt("app", Credential::value(jwt)).mount(&fixture.name)
}

async fn read_error(provider: &VaultProvider) -> Error {
    provider.get(&key("A")).await.unwrap_err()
}

/// Waits until a read succeeds, at most 10 s.
async fn wait_until_readable(provider: &VaultProvider) {
    let started = Instant::now();
    while let Err(error) = provider.get(&key("A")).await {
        assert!(started.elapsed() < secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn role_and_login_method_that_are_created_later_are_used_soon() {
    let fixture = Fixture::new().await;
    let provider = fixture.provider(jwt(&fixture));
    let error = read_error(&provider).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    // The login method exists from now on, and then its role.
    fixture.jwt(json!({})).await;
    let role = format!("auth/{}/role/app", fixture.name);
    let (status, settings) = fixture
        .bao
        .request(fixture.bao.root_token(), "GET", &role, Value::Null)
        .await;
    assert!(status.is_success());
    fixture.bao.root("DELETE", &role, Value::Null).await;
    let error = read_error(&fixture.provider(jwt(&fixture))).await;
    assert!(error.to_string().contains("role does not exist"), "{error}");
    let mut settings = settings["data"].clone();
    settings["role_type"] = json!("jwt");
    fixture.bao.root("POST", &role, settings).await;
    wait_until_readable(&provider).await;
}

/// The situation of a service that starts before its login is configured.
#[tokio::test]
async fn resolver_uses_a_late_role_after_negative_ttl_or_at_once_with_a_refresh() {
    let fixture = Fixture::new().await;
    let resolver = |negative_ttl| {
        Resolver::builder(fixture.provider(jwt(&fixture)))
            .ttl(secs(60))
            .negative_ttl(negative_ttl)
            .build()
    };
    let (patient, forced) = (resolver(secs(2)), resolver(secs(600)));
    for resolver in [&patient, &forced] {
        let error = resolver.get("A").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    }
    fixture.jwt(json!({})).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let started = Instant::now();
    let secret = forced.refresh(["A"]).await.remove(0).unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "value");
    assert!(started.elapsed() < secs(2), "{:?}", started.elapsed());
    while let Err(error) = patient.get("A").await {
        assert!(started.elapsed() < secs(8), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn refusal_of_a_gateway_does_not_hold_a_credential_back() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    for (status, body) in [
        ("403 Forbidden", "<html>blocked</html>"),
        ("400 Bad Request", "<html>invalid role or secret ID</html>"),
        ("404 Not Found", "404 page not found"),
        (
            "401 Unauthorized",
            r#"{"statusCode":401,"message":"denied"}"#,
        ),
        ("200 OK", "<html>sign in</html>"),
    ] {
        let provider = fixture.provider(auth.clone());
        fixture.proxy.set(response(status, body));
        let before = fixture.logins();
        let error = read_error(&provider).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{body}: {error}");
        assert_eq!(fixture.logins() - before, 1, "{body}");
        fixture.proxy.set(Fault::None);
        assert_reads(&provider).await;
    }
}

#[tokio::test]
async fn wrong_path_in_the_address_is_a_configuration_error() {
    let fixture = Fixture::new().await;
    let token = Credential::value(fixture.bao.root_token());
    for auth in [
        VaultAuth::token(token),
        VaultAuth::userpass("me", Credential::value("password")),
        VaultAuth::app_role_without_secret("role"),
        VaultAuth::agent(),
    ] {
        let address = format!("http://{}/vault", fixture.proxy.address());
        let provider = VaultProvider::builder([address], auth)
            .unwrap()
            .path("app")
            .build()
            .unwrap();
        let error = read_error(&provider).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        let expected = "remove the path from the address";
        assert!(error.to_string().contains(expected), "{error}");
        let error = provider.health().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[tokio::test]
async fn missing_secret_behind_an_agent_is_absent() {
    let fixture = Fixture::new().await;
    let (_agent, provider) = fixture.agent().await;
    for name in ["B", "none/A"] {
        let error = provider.get(&key(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn slow_login_with_a_credential_for_one_use_is_sent_once() {
    let fixture = Fixture::new().await;
    fixture.method("approle").await;
    let settings = json!({"token_policies": [fixture.name], "secret_id_num_uses": 1});
    fixture.root("role/app", settings).await;
    let path = format!("auth/{}/role/app/role-id", fixture.name);
    let role_id = fixture.bao.root("GET", &path, Value::Null).await;
    let secret_id = fixture.root("role/app/secret-id", json!({})).await;
    let role_id = role_id["data"]["role_id"].as_str().unwrap();
    let secret_id = secret_id["data"]["secret_id"].as_str().unwrap();

    let second = FaultProxy::start(fixture.bao.address).await;
    let addresses = [&fixture.proxy, &second].map(|proxy| format!("http://{}", proxy.address()));
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = VaultProvider::builder(addresses, auth)
        .unwrap()
        .mount(&fixture.name)
        .path("app")
        .kv_version(KvVersion::V2)
        .build()
        .unwrap();
    fixture.proxy.set(Fault::Delay(Duration::from_millis(1500)));
    assert_reads(&provider).await;
    let logins = fixture.logins() + second.count("POST /v1/auth/");
    assert_eq!(logins, 1);
}

#[tokio::test]
async fn token_for_other_addresses_causes_few_logins_and_names_the_reason() {
    let fixture = Fixture::new().await;
    let settings = json!({"token_bound_cidrs": ["10.255.0.0/16"]});
    let (role_id, secret_id) = fixture.app_role(settings).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = fixture.provider(auth);
    for _ in 0..26 {
        let error = read_error(&provider).await;
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(error.to_string().contains("token_bound_cidrs"), "{error}");
    }
    assert!(fixture.logins() <= 2, "{} logins", fixture.logins());
}

#[tokio::test]
async fn tokens_with_one_use_are_replaced_and_not_spent_on_lookups() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({"token_num_uses": 1})).await;
    let auth = VaultAuth::app_role(role_id, Credential::value(secret_id)).mount(&fixture.name);
    let provider = fixture.provider(auth);
    for count in 1..=5 {
        assert_reads(&provider).await;
        assert_eq!(fixture.logins(), count);
    }
    assert_eq!(fixture.proxy.count("GET /v1/auth/token/lookup-self"), 0);
}

#[tokio::test]
async fn configured_token_with_few_uses_is_spent_on_reads() {
    let fixture = Fixture::new().await;
    let lookups = || fixture.proxy.count("GET /v1/auth/token/lookup-self");
    for uses in 1..=3 {
        let token = fixture.token(json!({"num_uses": uses})).await;
        let provider = fixture.provider(VaultAuth::token(Credential::value(token)));
        let before = lookups();
        for _ in 0..uses {
            assert_reads(&provider).await;
        }
        assert_eq!(lookups() - before, 0);
        for _ in 0..3 {
            let error = read_error(&provider).await;
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
            assert!(error.to_string().contains("no uses left"), "{error}");
        }
    }
}

#[tokio::test]
async fn lookup_of_a_configured_token_takes_one_use() {
    let fixture = Fixture::new().await;
    let token = fixture.token(json!({"num_uses": 5})).await;
    let provider = fixture.provider(VaultAuth::token(Credential::value(token)));
    assert_reads(&provider).await;
    tokio::time::sleep(secs(2)).await;
    for _ in 0..3 {
        assert_reads(&provider).await;
    }
    let lookups = fixture.proxy.count("GET /v1/auth/token/lookup-self");
    assert_eq!(lookups, 1);
    let error = read_error(&provider).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn configured_token_that_expires_is_renewed() {
    let fixture = Fixture::new().await;
    let token = fixture.token(json!({"period": "4s"})).await;
    let provider = fixture.provider(VaultAuth::token(Credential::value(token)));
    let started = Instant::now();
    while started.elapsed() < secs(10) {
        assert_reads(&provider).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(fixture.renewals() >= 2, "{} renewals", fixture.renewals());
}

#[tokio::test]
async fn wrong_token_is_named_and_its_file_is_read_again() {
    let fixture = Fixture::new().await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no-such-token").unwrap();
    let provider = fixture.provider(VaultAuth::token(Credential::file(file.path())));
    for _ in 0..5 {
        let error = read_error(&provider).await;
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(error.to_string().contains("is not valid"), "{error}");
    }
    std::fs::write(file.path(), fixture.bao.root_token()).unwrap();
    assert_reads(&provider).await;
}
