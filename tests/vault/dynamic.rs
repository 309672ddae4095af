//! Secrets that are made by a write, on a real certificate authority of OpenBao, and what becomes of leases.

use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};
use serde_json::{Value, json};

use super::server::{Bao, shared, unique};
use crate::support::{answer, key, keys, secs};

/// An authority that issues certificates with leases.
struct Stage {
    bao: &'static Bao,
    proxy: FaultProxy,
    name: String,
}

impl Stage {
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

    /// A provider whose keys in each of these directories are of a certificate of their own.
    fn provider(&self, directories: &[&str]) -> VaultProvider {
        let token = VaultAuth::token(Credential::value(self.bao.root_token()));
        let address = format!("http://{}", self.proxy.address());
        let mut builder = VaultProvider::builder([address], token).unwrap();
        for directory in directories {
            let path = format!("{}/issue/app", self.name);
            let body = format!(r#"{{"common_name": "{directory}.internal"}}"#);
            builder = builder.dynamic_with(*directory, path, body);
        }
        builder.kv_version(KvVersion::V2).build().unwrap()
    }

    async fn leases(&self) -> usize {
        let path = format!("sys/leases/lookup/{}/issue/app?list=true", self.name);
        let root = self.bao.root_token();
        let (_, answer) = self.bao.ask(root, "GET", &path, Value::Null).await;
        answer["data"]["keys"].as_array().map_or(0, Vec::len)
    }

    fn revocations(&self) -> usize {
        self.proxy.count("POST /v1/sys/leases/revoke")
    }
}

#[tokio::test]
async fn a_certificate_and_its_key_are_of_one_issue() {
    let stage = Stage::new().await;
    let provider = stage.provider(&["web"]);
    let wanted = keys(&["web/certificate", "web/private_key", "web/no-such-field"]);
    let [certificate, private, absent] = &provider.get_many(&wanted).await[..] else {
        panic!("three keys have three results")
    };
    let (certificate, private) = (certificate.as_ref().unwrap(), private.as_ref().unwrap());
    let text = certificate.value.expose_text().unwrap();
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(private.value.expose_text().unwrap().contains("PRIVATE KEY"));
    assert_eq!(certificate.version, private.version);
    let life = certificate.valid_for.unwrap();
    assert!((secs(3_000)..=secs(3_600)).contains(&life), "{life:?}");
    assert!(absent.as_ref().unwrap_err().is_not_found());
    assert_eq!(stage.leases().await, 1);
}

#[tokio::test]
async fn all_keys_of_a_path_share_one_attempt_that_fails() {
    let stage = Stage::new().await;
    let provider = stage.provider(&["web"]);
    provider.health().await.unwrap();
    stage.proxy.set(answer("502 No", ""));
    let wanted = keys(&["web/certificate", "web/private_key", "web/issuing_ca"]);
    for outcome in provider.get_many(&wanted).await {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // Nobody knows whether a certificate was issued, so that it is not asked for again.
    assert_eq!(stage.proxy.count("POST /v1/pki"), 1);
    stage.proxy.set(Fault::None);
    provider.get(&key("web/certificate")).await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_revoked_is_not_forgotten() {
    let stage = Stage::new().await;
    let provider = stage.provider(&["one", "two"]);
    for outcome in provider
        .get_many(&keys(&["one/certificate", "two/certificate"]))
        .await
    {
        outcome.unwrap();
    }
    assert_eq!(stage.leases().await, 2);
    let denial = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
    stage.proxy.set(answer("403 Forbidden", denial));
    let error = provider.revoke_leases().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(
        stage.revocations(),
        2,
        "one that fails keeps none from being tried"
    );

    stage.proxy.set(Fault::None);
    provider.revoke_leases().await.unwrap();
    assert_eq!(stage.revocations(), 4);
    for _ in 0..200 {
        if stage.leases().await == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(stage.leases().await, 0);
    provider.revoke_leases().await.unwrap();
    assert_eq!(stage.revocations(), 4, "what has ended is not ended again");
}
