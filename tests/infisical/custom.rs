//! Logins that are not built in, and those with the identity of a cloud or an LDAP directory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use secretwell::infisical::{ApiVersion, AwsIdentity, Credential, InfisicalAuth, json_object};
use secretwell::{ErrorKind, SecretProvider};
use serde_json::{Value, json};

use super::login::assert_reads;
use super::place::Place;
use crate::aws::{AwsLogin, Front};
use crate::support::{key, secs};

async fn place() -> Place {
    let place = Place::fake(ApiVersion::V4).await;
    let fake = place.as_fake();
    fake.set(&place.project, "dev", &place.folder, "A", "value");
    place
}

#[tokio::test]
async fn custom_login_creates_its_body_for_each_login() {
    let place = place().await;
    let fake = place.as_fake();
    fake.accept_jwt(&place.identity, "gcp-auth", "second");
    let jwt = Arc::new(Mutex::new("first"));
    let login = {
        let (identity, jwt) = (place.identity.clone(), jwt.clone());
        move || {
            let jwt = *jwt.lock().unwrap();
            let body = json_object(&[("identityId", &identity), ("jwt", jwt)]);
            async move { body }
        }
    };
    let auth = InfisicalAuth::custom("gcp-auth", login);
    let provider = place.provider().auth(auth).build().unwrap();
    for _ in 0..20 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    }
    let path = "POST /api/v1/auth/gcp-auth/login";
    let logins = || {
        fake.requests()
            .iter()
            .filter(|line| line.contains("/login"))
            .count()
    };
    let failed = logins();
    assert!(failed <= 3, "{failed} logins");
    *jwt.lock().unwrap() = "second";
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_reads(&provider).await;
    assert_eq!((fake.count(path, 200), logins()), (1, failed + 1));
}

#[tokio::test]
async fn locked_custom_login_waits_although_each_body_differs() {
    let place = place().await;
    let fake = place.as_fake();
    fake.accept_jwt(&place.identity, "gcp-auth", "jwt");
    let bodies = Arc::new(AtomicUsize::new(0));
    let login = {
        let (identity, bodies) = (place.identity.clone(), bodies.clone());
        move || {
            let nonce = bodies.fetch_add(1, Ordering::SeqCst).to_string();
            let fields = [
                ("identityId", &*identity),
                ("jwt", "jwt"),
                ("nonce", &nonce),
            ];
            let body = json_object(&fields);
            async move { body }
        }
    };
    let auth = InfisicalAuth::custom("gcp-auth", login);
    let provider = place.provider().auth(auth).build().unwrap();
    let text = "This identity auth method is temporarily locked, please try again later";
    fake.fail_requests("POST /api/v1/auth/", 401, "UnauthorizedError", text);
    let path = "POST /api/v1/auth/gcp-auth/login";
    for _ in 0..5 {
        let error = provider.get(&key("A")).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::RateLimited { .. }),
            "{error}"
        );
    }
    assert_eq!(fake.count(path, 401), 1);
    assert!(bodies.load(Ordering::SeqCst) > 1);

    fake.clear_failures();
    provider.get(&key("A")).await.unwrap_err();
    tokio::time::pause();
    tokio::time::advance(secs(31)).await;
    tokio::time::resume();
    assert_reads(&provider).await;
    assert_eq!((fake.count(path, 401), fake.count(path, 200)), (1, 1));
}

#[tokio::test]
async fn wrong_password_of_ldap_is_named_and_held_back() {
    let place = place().await;
    let fake = place.as_fake();
    let path = "POST /api/v1/auth/ldap-auth/login";
    for (message, expected, is_held) in [
        (
            "LDAP authentication failed",
            "the user name or the password is wrong; replace the credential",
            true,
        ),
        (
            "Access denied: user does not have the required attributes",
            "does not match the restrictions of the machine identity",
            false,
        ),
        (
            "The identity does not have LDAP auth method attached: auth method not found",
            "the machine identity does not have this login method",
            false,
        ),
    ] {
        fake.clear_failures();
        fake.fail_requests(path, 401, "UnauthorizedError", message);
        let auth = InfisicalAuth::ldap(&*place.identity, "me", Credential::value("hunter2"));
        let provider = place.provider().auth(auth).build().unwrap();
        let before = fake.count(path, 401);
        for _ in 0..5 {
            let error = provider.get(&key("A")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        // The pause of a credential that is not held back has passed.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        provider.get(&key("A")).await.unwrap_err();
        let logins = fake.count(path, 401) - before;
        assert_eq!(logins == 1, is_held, "{message}: {logins} logins");
    }
}

#[tokio::test]
async fn ldap_login_names_the_user_and_the_suborganization() {
    let place = place().await;
    let auth = InfisicalAuth::ldap(&*place.identity, "me", Credential::value("password\n"));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let front = {
        let (sent, token) = (sent.clone(), place.token().await);
        axum::Router::new().route(
            "/api/v1/auth/ldap-auth/login",
            axum::routing::post(move |axum::Json(body): axum::Json<Value>| async move {
                sent.lock().unwrap().push(body);
                axum::Json(json!({
                    "accessToken": token, "expiresIn": 600, "accessTokenMaxTTL": 600, "tokenType": "Bearer",
                }))
            }),
        )
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, front).await.unwrap() });
    let provider = place
        .provider_at(&url)
        .auth(auth.sub_organization("team"))
        .build()
        .unwrap();
    // The server has no secrets. The login succeeds.
    provider.get(&key("A")).await.unwrap_err();
    serving.abort();
    let expected = json!({
        "identityId": place.identity,
        "username": "me",
        "password": "password",
        "subOrganizationName": "team",
    });
    assert_eq!(*sent.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn aws_login_sends_a_request_that_aws_accepts() {
    let place = place().await;
    place.as_fake().accept_jwt(&place.identity, "aws-auth", "");
    let login = AwsLogin {
        path: "/api/v1/auth/aws-auth/login",
        fields: ["iamRequestHeaders", "iamRequestBody"],
        accepted: None,
        refused: (
            401,
            json!({"statusCode": 401, "error": "UnauthorizedError", "message": "Access denied"}),
        ),
    };
    let front = Front::start(place.as_fake().address(), login).await;
    for region in [None, Some("eu-central-1")] {
        let aws = AwsIdentity::new(front.credentials.clone());
        let aws = match region {
            Some(region) => aws.region(region),
            None => aws,
        };
        let provider = place
            .provider_at(&format!("http://{}", front.address))
            .auth(InfisicalAuth::aws(&*place.identity, aws))
            .build()
            .unwrap();
        assert_reads(&provider).await;
    }
    let logins = front.logins();
    assert_eq!(logins.len(), 2);
    for login in logins {
        assert_eq!(login["identityId"], place.identity.as_str());
        assert_eq!(login["iamHttpRequestMethod"], "POST");
    }
}
