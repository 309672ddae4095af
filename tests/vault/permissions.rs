//! Logins with few permissions, and secrets that end by themselves.

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, KeyPrefix, SecretProvider};
use serde_json::{Value, json};

use super::server::{Bao, shared, unique};
use crate::support::{key, keys, secs};

/// A mount with three secrets.
struct Fixture {
    bao: &'static Bao,
    name: String,
}

impl Fixture {
    async fn new() -> Self {
        let bao = shared().await;
        let name = unique("permissions");
        bao.mount(&name, 2).await;
        for path in ["app", "app/db", "app/hidden"] {
            let secret = json!({"data": {"A": "1", "B": "2"}});
            bao.root("POST", &format!("{name}/data/{path}"), secret)
                .await;
        }
        Self { bao, name }
    }

    /// Returns a provider whose policy has only these capabilities.
    async fn provider(&self, rules: &[(&str, &str)]) -> VaultProvider {
        let rule = |(path, capability): &(&str, &str)| {
            let name = &self.name;
            format!("path \"{name}/{path}\" {{ capabilities = [\"{capability}\"] }}\n")
        };
        let rules: String = rules.iter().map(rule).collect();
        let policy = unique("permissions");
        self.bao.policy(&policy, &rules).await;
        self.provider_with(json!({"policies": [policy]})).await
    }

    /// Returns a provider whose token has these settings.
    async fn provider_with(&self, settings: Value) -> VaultProvider {
        let response = self.bao.root("POST", "auth/token/create", settings).await;
        let token = response["auth"]["client_token"].as_str().unwrap();
        let auth = VaultAuth::token(Credential::value(token));
        VaultProvider::builder([format!("http://{}", self.bao.address)], auth)
            .unwrap()
            .mount(&self.name)
            .path("app")
            .kv_version(KvVersion::V2)
            .build()
            .unwrap()
    }
}

#[tokio::test]
async fn one_readable_path_is_enough_for_list_and_run() {
    let fixture = Fixture::new().await;
    let provider = fixture.provider(&[("data/app", "read")]).await;
    let listed = provider.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed, keys(&["A", "B"]));
    for result in provider.get_many(&listed).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn denied_paths_are_left_out_of_a_listing_and_named_if_nothing_is_left() {
    let fixture = Fixture::new().await;
    let provider = fixture
        .provider(&[("metadata/app", "list"), ("data/app/db", "read")])
        .await;
    let listed = provider.list(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed, keys(&["db/A", "db/B"]));
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let path = format!("`{}/data/app`", fixture.name);
    assert!(error.to_string().contains(&path), "{error}");

    let provider = fixture.provider(&[("data/other", "read")]).await;
    let error = provider.list(&KeyPrefix::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    for path in ["metadata/app", "data/app"] {
        let path = format!("`{}/{path}`", fixture.name);
        assert!(error.to_string().contains(&path), "{error}");
    }
}

/// Asserts that the health is that of a login that must not read the path of the provider.
async fn assert_denied_health(fixture: &Fixture, provider: &VaultProvider) {
    let error = provider.health().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let path = format!("`{}/data/app`", fixture.name);
    assert!(error.to_string().contains(&path), "{error}");
}

#[tokio::test]
async fn health_is_denied_if_every_read_is() {
    let fixture = Fixture::new().await;
    let provider = fixture.provider(&[("data/app/db", "read")]).await;
    assert_denied_health(&fixture, &provider).await;
    provider.get(&key("A")).await.unwrap_err();
    assert_denied_health(&fixture, &provider).await;
    provider.get(&key("db/A")).await.unwrap();
    provider.health().await.unwrap();
}

#[tokio::test]
async fn health_before_the_first_read_is_good_if_the_path_or_secrets_below_it_can_be_read() {
    let fixture = Fixture::new().await;
    for rule in ["data/app", "data/app/*", "data/+", "data/*", "*"] {
        let provider = fixture.provider(&[(rule, "read")]).await;
        let health = provider.health().await;
        health.unwrap_or_else(|error| panic!("{rule}: {error}"));
    }
    let provider = fixture.provider(&[("data/app", "list")]).await;
    assert_denied_health(&fixture, &provider).await;
}

#[tokio::test]
async fn health_follows_changes_of_the_policy_without_a_read() {
    let fixture = Fixture::new().await;
    for has_default_policy in [true, false] {
        let policy = unique("permissions");
        let grant = async |path: &str| {
            let name = &fixture.name;
            let rules = format!("path \"{name}/{path}\" {{ capabilities = [\"read\"] }}");
            fixture.bao.policy(&policy, &rules).await;
        };
        grant("data/other").await;
        let settings = json!({"policies": [policy], "no_default_policy": !has_default_policy});
        let provider = fixture.provider_with(settings).await;
        provider.get(&key("A")).await.unwrap_err();
        assert_denied_health(&fixture, &provider).await;
        grant("data/app").await;
        provider.health().await.unwrap();
        grant("data/other").await;
        if has_default_policy {
            assert_denied_health(&fixture, &provider).await;
        }
    }
}

#[tokio::test]
async fn value_ends_at_its_deletion_time() {
    let fixture = Fixture::new().await;
    let metadata = format!("{}/metadata/app", fixture.name);
    let settings = json!({"delete_version_after": "20s"});
    fixture.bao.root("POST", &metadata, settings).await;
    let secret = json!({"data": {"A": "1"}});
    let path = format!("{}/data/app", fixture.name);
    fixture.bao.root("POST", &path, secret).await;
    let provider = fixture.provider(&[("data/*", "read")]).await;
    let secret = provider.get(&key("A")).await.unwrap();
    let remaining = secret.valid_for.unwrap();
    assert!(
        remaining > secs(10) && remaining <= secs(20),
        "{remaining:?}"
    );
    let other = provider.get(&key("db/A")).await.unwrap();
    assert_eq!(other.valid_for, None);
}
