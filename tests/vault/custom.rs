//! Logins that are not built in, and those with the identity of a cloud, an LDAP directory or only a role id.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use secretwell::vault::{
    AwsCredentials, AwsIdentity, AwsKeys, Credential, LoginBody, VaultAuth, VaultProvider,
    json_object,
};
use secretwell::{Error, ErrorKind, SecretProvider, SecretValue};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::login::{Fixture, assert_reads, claims, signed, wrapped_secret_id};
use crate::aws::{AwsLogin, Front};
use crate::support::{key, response};

/// The body of a JWT login, as an own type. It counts how often it is created.
#[derive(Clone, Default)]
struct JwtLogin(Arc<AtomicUsize>);

#[async_trait::async_trait]
impl LoginBody for JwtLogin {
    async fn body(&self) -> Result<SecretValue, Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let jwt = signed(claims("vault", i64::from(i32::MAX)));
        json_object(&[("role", "app"), ("jwt", &jwt)])
    }
}

#[tokio::test]
async fn custom_login_creates_its_body_for_each_login() {
    let fixture = Fixture::new().await;
    let login = JwtLogin::default();
    let provider = fixture.provider(VaultAuth::custom(&fixture.name, login.clone()));
    // The login method does not exist yet. The refusal is remembered for a second, although each body differs.
    for _ in 0..20 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    }
    let failed = login.0.load(Ordering::SeqCst);
    assert!(failed <= 5, "{failed} bodies");
    fixture.jwt(json!({})).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_reads(&provider).await;
    assert_eq!(login.0.load(Ordering::SeqCst), failed + 1);
    assert_eq!(fixture.logins(), failed + 1);

    // A closure is a login as well. Its error is returned without a request.
    let down = || async { Err(Error::new(ErrorKind::Unavailable, "no identity yet")) };
    let provider = fixture.provider(VaultAuth::custom("other", down).mount(&fixture.name));
    let error = provider.get(&key("A")).await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("no identity yet"));
    let text = || async { Ok("eyJ.eyJ.a".into()) };
    let provider = fixture.provider(VaultAuth::custom("other", text).mount(&fixture.name));
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(!error.to_string().contains("eyJ"), "{error}");
    assert_eq!(fixture.logins(), failed + 1);
}

#[tokio::test]
async fn app_role_without_secret_id_and_with_a_role_id_from_a_file() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{role_id}\r\n")).unwrap();
    let auth = VaultAuth::app_role(Credential::file(file.path()), secret_id.as_str().into());
    assert_reads(&fixture.provider(auth.mount(&fixture.name))).await;

    let settings = json!({
        "token_policies": [fixture.name],
        "bind_secret_id": false,
        "token_bound_cidrs": ["127.0.0.0/8", "::1/128"],
    });
    fixture.root("role/app", settings).await;
    let auth = VaultAuth::app_role_without_secret(role_id.as_str()).mount(&fixture.name);
    assert_reads(&fixture.provider(auth)).await;

    let url = format!(
        "vault+http://{}/{}/app?auth=approle&auth_mount={}&role_id={role_id}&bind_secret_id=false",
        fixture.proxy.address(),
        fixture.name,
        fixture.name
    );
    assert_reads(&VaultProvider::from_url(&url).unwrap()).await;
}

#[tokio::test]
async fn wrapping_token_can_be_the_json_of_the_command() {
    let fixture = Fixture::new().await;
    let (role_id, secret_id) = fixture.app_role(json!({})).await;
    let token = wrapped_secret_id(&fixture).await;
    let file = NamedTempFile::new().unwrap();
    let provider = || {
        let token = Credential::file(file.path());
        fixture.provider(VaultAuth::app_role_wrapped(role_id.as_str(), token).mount(&fixture.name))
    };
    let wrong = json!({"data": {"secret_id": secret_id}});
    std::fs::write(file.path(), serde_json::to_vec_pretty(&wrong).unwrap()).unwrap();
    let error = provider().get(&key("A")).await.unwrap_err();
    assert!(error.to_string().contains("is JSON"), "{error}");
    assert!(!error.to_string().contains(&secret_id), "{error}");
    assert_eq!(fixture.proxy.count("POST /v1/sys/wrapping/unwrap"), 0);

    let output = json!({"request_id": "", "data": null, "wrap_info": {"token": token, "ttl": 60}});
    std::fs::write(file.path(), serde_json::to_vec_pretty(&output).unwrap()).unwrap();
    assert_reads(&provider()).await;
}

#[tokio::test]
async fn ldap_login_sends_the_user_in_the_path_and_holds_a_wrong_password_back() {
    let fixture = Fixture::new().await;
    // The tests have no directory. The login method `userpass` has the same requests and responses.
    fixture.method("userpass").await;
    let settings = json!({"password": "right", "token_policies": [fixture.name]});
    fixture.root("users/my.name", settings).await;
    let auth = |password: &str| {
        VaultAuth::ldap("my.name", Credential::value(password)).mount(&fixture.name)
    };
    assert_reads(&fixture.provider(auth("right"))).await;
    let path = format!("POST /v1/auth/{}/login/my.name", fixture.name);
    assert_eq!(fixture.proxy.count(&path), 1);

    // The text of the method `ldap` for a wrong password.
    let body = json!({"errors": ["ldap operation failed: failed to bind as user"]});
    fixture
        .proxy
        .set(response("400 Bad Request", &body.to_string()));
    let provider = fixture.provider(auth("wrong"));
    for _ in 0..20 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert!(error.to_string().contains("password is wrong"), "{error}");
    }
    assert_eq!(fixture.proxy.count(&path), 2);
}

#[tokio::test]
async fn login_that_needs_a_second_factor_is_named() {
    let fixture = Fixture::new().await;
    let body = json!({
        "request_id": "1",
        "lease_id": "",
        "auth": {
            "client_token": "",
            "lease_duration": 0,
            "mfa_requirement": {"mfa_request_id": "1", "mfa_constraints": {}},
        },
    });
    fixture.proxy.set(response("200 OK", &body.to_string()));
    let provider = fixture.provider(VaultAuth::userpass("me", Credential::value("password")));
    for _ in 0..10 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        assert!(error.to_string().contains("second factor (MFA)"), "{error}");
    }
    assert!(fixture.logins() <= 3, "{} logins", fixture.logins());
}

#[tokio::test]
async fn aws_login_sends_a_request_that_aws_accepts() {
    let fixture = Fixture::new().await;
    let token = fixture.bao.root_token();
    let login = AwsLogin {
        path: "/v1/auth/aws/login",
        fields: ["iam_request_headers", "iam_request_body"],
        accepted: Some(json!({
            "lease_id": "",
            "auth": {"client_token": token, "lease_duration": 3600, "renewable": false},
        })),
        refused: (400, json!({"errors": ["error making upstream request"]})),
    };
    let front = Front::start(fixture.bao.address, login).await;
    let provider = |identity: AwsIdentity| {
        let address = format!("http://{}", front.address);
        VaultProvider::builder([address], VaultAuth::aws("app", identity))
            .unwrap()
            .mount(&fixture.name)
            .path("app")
            .build()
            .unwrap()
    };
    let identity = AwsIdentity::new(front.credentials.clone());
    let with_region = identity.clone().region("eu-central-1");
    let with_header = identity
        .clone()
        .header("X-Vault-AWS-IAM-Server-ID", "vault.example.com");
    for identity in [identity, with_region, with_header] {
        assert_reads(&provider(identity)).await;
    }
    let logins = front.logins();
    let url = |login: &Value| login["iam_request_url"].as_str().unwrap().to_owned();
    assert_eq!(url(&logins[0]), "aHR0cHM6Ly9zdHMuYW1hem9uYXdzLmNvbS8=");
    assert_ne!(url(&logins[0]), url(&logins[1]));
    assert_eq!(
        (&logins[0]["role"], &logins[0]["iam_http_request_method"]),
        (&json!("app"), &json!("POST"))
    );

    // The secret key of another user.
    let wrong = AwsCredentials::from_fn({
        let credentials = front.credentials.clone();
        move || {
            let credentials = credentials.clone();
            async move {
                let keys = credentials.read().await?;
                Ok(AwsKeys::new(keys.access_key_id(), "another secret key"))
            }
        }
    });
    let provider = provider(AwsIdentity::new(wrong));
    for _ in 0..10 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    }
    let attempts = front.logins().len() - logins.len();
    assert!(attempts <= 3, "{attempts} logins");
}
