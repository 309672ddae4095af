//! Dynamic secrets that are created by a write, and the revocation of leases, with OpenBao's PKI engine.

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};
use serde_json::{Value, json};

use super::server::{Bao, shared, unique};
use crate::support::{key, keys, response, secs};

/// A certificate authority that issues certificates with leases.
struct Fixture {
    bao: &'static Bao,
    proxy: FaultProxy,
    name: String,
}

impl Fixture {
    async fn new() -> Self {
        let bao = shared().await;
        let name = unique("pki");
        let root = async |path: String, body| bao.root("POST", &path, body).await;
        root(format!("sys/mounts/{name}"), json!({"type": "pki"})).await;
        let authority = json!({"common_name": "the tests' authority", "ttl": "2h"});
        root(format!("{name}/root/generate/internal"), authority).await;
        let role = json!({"allow_any_name": true, "generate_lease": true, "ttl": "1h"});
        root(format!("{name}/roles/app"), role).await;
        Self {
            proxy: FaultProxy::start(bao.address).await,
            bao,
            name,
        }
    }

    /// Returns a provider with a separate certificate for each prefix.
    fn provider(&self, prefixes: &[&str]) -> VaultProvider {
        let token = VaultAuth::token(Credential::value(self.bao.root_token()));
        let address = format!("http://{}", self.proxy.address());
        let mut builder = VaultProvider::builder([address], token).unwrap();
        for prefix in prefixes {
            let path = format!("{}/issue/app", self.name);
            let body = format!(r#"{{"common_name": "{prefix}.internal"}}"#);
            builder = builder.dynamic_with(*prefix, path, body);
        }
        builder.kv_version(KvVersion::V2).build().unwrap()
    }

    async fn leases(&self) -> usize {
        let path = format!("sys/leases/lookup/{}/issue/app?list=true", self.name);
        let root = self.bao.root_token();
        let (_, response) = self.bao.request(root, "GET", &path, Value::Null).await;
        response["data"]["keys"].as_array().map_or(0, Vec::len)
    }

    fn revocations(&self) -> usize {
        self.proxy.count("POST /v1/sys/leases/revoke")
    }
}

#[tokio::test]
async fn certificate_and_private_key_are_from_one_lease() {
    let fixture = Fixture::new().await;
    let provider = fixture.provider(&["web"]);
    let requested = keys(&["web/certificate", "web/private_key", "web/no-such-field"]);
    let [certificate, private, absent] = &provider.get_many(&requested).await[..] else {
        panic!("expected three results")
    };
    let (certificate, private) = (certificate.as_ref().unwrap(), private.as_ref().unwrap());
    let text = certificate.value.expose_text().unwrap();
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(private.value.expose_text().unwrap().contains("PRIVATE KEY"));
    assert_eq!(certificate.version, private.version);
    let lifetime = certificate.valid_for.unwrap();
    assert!(
        (secs(3_000)..=secs(3_600)).contains(&lifetime),
        "{lifetime:?}"
    );
    assert!(absent.as_ref().unwrap_err().is_not_found());
    assert_eq!(fixture.leases().await, 1);
}

#[tokio::test]
async fn certificate_without_a_lease_is_kept_until_it_is_discarded() {
    let fixture = Fixture::new().await;
    let role = json!({"allow_any_name": true, "generate_lease": false, "ttl": "1h"});
    let path = format!("{}/roles/app", fixture.name);
    fixture.bao.root("POST", &path, role).await;
    let provider = fixture.provider(&["web"]);
    let certificate = key("web/certificate");
    let first = provider.get(&certificate).await.unwrap();
    assert!(
        first
            .valid_for
            .is_some_and(|lifetime| lifetime > secs(3_000))
    );
    assert_eq!(provider.get(&certificate).await.unwrap().value, first.value);
    assert_eq!(fixture.leases().await, 0);
    provider.discard(&certificate, Some(&first.value));
    assert_ne!(provider.get(&certificate).await.unwrap().value, first.value);
    assert_eq!(fixture.proxy.count("POST /v1/pki"), 2);
}

#[tokio::test]
async fn secret_that_states_its_end_without_a_lease_is_read_each_time() {
    let bao = shared().await;
    let name = unique("totp");
    let mount = format!("sys/mounts/{name}");
    bao.root("POST", &mount, json!({"type": "totp"})).await;
    let code = json!({"generate": true, "issuer": "tests", "account_name": "app"});
    bao.root("POST", &format!("{name}/keys/app"), code).await;
    let proxy = FaultProxy::start(bao.address).await;
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([format!("http://{}", proxy.address())], token)
        .unwrap()
        .kv_version(KvVersion::V2)
        .dynamic("otp", format!("{name}/code/app"))
        .build()
        .unwrap();
    for count in 1..=3 {
        let code = provider.get(&key("otp/code")).await.unwrap();
        assert_eq!(code.value.len(), 6);
        assert!(code.valid_for.is_some_and(|end| end <= secs(30)));
        assert_eq!(proxy.count(&format!("GET /v1/{name}/code/app")), count);
    }
}

#[tokio::test]
async fn signed_ssh_key_without_a_lease_is_signed_each_time() {
    const PUBLIC_KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    let bao = shared().await;
    let name = unique("ssh");
    let root = async |path: String, body| bao.root("POST", &path, body).await;
    root(format!("sys/mounts/{name}"), json!({"type": "ssh"})).await;
    let authority = json!({"generate_signing_key": true, "key_type": "ed25519"});
    root(format!("{name}/config/ca"), authority).await;
    let role = json!({
        "key_type": "ca",
        "allow_user_certificates": true,
        "allowed_users": "*",
        "default_user": "app",
        "ttl": "30m",
    });
    root(format!("{name}/roles/app"), role).await;
    let token = VaultAuth::token(Credential::value(bao.root_token()));
    let provider = VaultProvider::builder([format!("http://{}", bao.address)], token)
        .unwrap()
        .kv_version(KvVersion::V2)
        .dynamic_with(
            "ssh",
            format!("{name}/sign/app"),
            json!({"public_key": PUBLIC_KEY}).to_string(),
        )
        .build()
        .unwrap();
    let mut serial_numbers = Vec::new();
    for _ in 0..2 {
        let results = provider
            .get_many(&keys(&["ssh/signed_key", "ssh/serial_number"]))
            .await;
        let [certificate, serial_number] = &results[..] else {
            panic!("expected two results")
        };
        let certificate = certificate.as_ref().unwrap().value.clone();
        let text = certificate.expose_text().unwrap();
        assert!(text.starts_with("ssh-ed25519-cert-v01@openssh.com "));
        serial_numbers.push(serial_number.as_ref().unwrap().value.clone());
    }
    assert_ne!(serial_numbers[0], serial_numbers[1]);
}

#[tokio::test]
async fn readers_of_a_hung_server_end_by_their_own_deadlines() {
    let fixture = Fixture::new().await;
    let token = || VaultAuth::token(Credential::value(fixture.bao.root_token()));
    let address = || [format!("http://{}", fixture.proxy.address())];
    let deadline = |client: secretwell::vault::ClientConfig| client.deadline(secs(2));
    let certificate = VaultProvider::builder(address(), token())
        .unwrap()
        .client(deadline)
        .dynamic_with("web", format!("{}/issue/app", fixture.name), "{}")
        .build()
        .unwrap();
    // The version of the mount is detected first.
    let stored = VaultProvider::builder(address(), token()).unwrap();
    let stored = stored.path("app").client(deadline).build().unwrap();
    fixture.proxy.set(Fault::Stall);
    for (provider, name) in [(&certificate, "web/certificate"), (&stored, "A")] {
        let started = tokio::time::Instant::now();
        let name = key(name);
        let reads = (0..10).map(|_| provider.get(&name));
        for result in secretwell::backend::join_bounded(10, reads).await {
            assert!(result.unwrap_err().is_temporary());
        }
        assert!(started.elapsed() < secs(4), "{:?}", started.elapsed());
    }
    assert_eq!(fixture.proxy.count("POST /v1/pki"), 1);
}

#[tokio::test]
async fn all_keys_of_a_dynamic_secret_share_one_failed_attempt() {
    let fixture = Fixture::new().await;
    let provider = fixture.provider(&["web"]);
    provider.health().await.unwrap();
    fixture.proxy.set(response("502 No", ""));
    let requested = keys(&["web/certificate", "web/private_key", "web/issuing_ca"]);
    for result in provider.get_many(&requested).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // A certificate might have been issued, so the request is not repeated.
    assert_eq!(fixture.proxy.count("POST /v1/pki"), 1);
    fixture.proxy.set(Fault::None);
    provider.get(&key("web/certificate")).await.unwrap();
}

#[tokio::test]
async fn lease_that_could_not_be_revoked_is_revoked_by_the_next_call() {
    let fixture = Fixture::new().await;
    let provider = fixture.provider(&["one", "two"]);
    for result in provider
        .get_many(&keys(&["one/certificate", "two/certificate"]))
        .await
    {
        result.unwrap();
    }
    assert_eq!(fixture.leases().await, 2);
    let denial = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
    fixture.proxy.set(response("403 Forbidden", denial));
    let error = provider.revoke_leases().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(
        fixture.revocations(),
        2,
        "a failed revocation must not prevent the others"
    );

    fixture.proxy.set(Fault::None);
    provider.revoke_leases().await.unwrap();
    assert_eq!(fixture.revocations(), 4);
    for _ in 0..1_200 {
        if fixture.leases().await == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(fixture.leases().await, 0);
    provider.revoke_leases().await.unwrap();
    assert_eq!(
        fixture.revocations(),
        4,
        "a revoked lease must not be revoked again"
    );
}
