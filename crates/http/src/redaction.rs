//! Tests that no debug output contains a secret.

use std::fmt::Debug;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use secretwell_core::{ErrorKind, Origin, SecretValue};
use tokio::time::Instant;

use crate::servers::tests::AnyResponse;
use crate::token::{Token, TokenLease};
use crate::{
    AwsCredentials, AwsIdentity, AwsKeys, Client, ClientConfig, Credential, LoginBody, Request,
    Response,
};

const CANARY: &str = "canary-5f1b9c";

/// Asserts that the debug output contains `shown`, in both formats, and not the canary, whatever its notation.
fn assert_redacted(value: &dyn Debug, shown: &str) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        assert!(text.contains(shown), "{text}");
        assert!(!text.contains(CANARY), "{text}");
        let bytes = format!("{:?}", CANARY.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        let numbers: String = text.split_whitespace().collect();
        assert!(!numbers.contains(&bytes.replace(' ', "")), "{text}");
    }
}

#[test]
fn requests_and_responses_are_shown_without_headers_and_bodies() {
    let request = Request::new(Method::POST, "/v1/login")
        .secret_header(AUTHORIZATION, CANARY.as_bytes())
        .unwrap()
        .header(
            HeaderName::from_static("x-custom"),
            HeaderValue::from_static(CANARY),
        )
        .json(CANARY.into());
    assert_redacted(&request, "/v1/login");
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(CANARY))]);
    let response = Response::new(StatusCode::CREATED, headers, CANARY.into());
    assert_redacted(&response, "201");
}

#[test]
fn token_that_cannot_be_a_header_is_an_error_without_it() {
    for end in ["\n", "\0", "\r\nx-other: 1"] {
        let token = format!("{CANARY}{end}");
        let error = Request::new(Method::GET, "/")
            .secret_header(AUTHORIZATION, token.as_bytes())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_redacted(&error, "line break");
        let token = Token::new(TokenLease::new(token.as_str().into()), Instant::now());
        let error = token.header().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_redacted(&error, "line break");
    }
}

#[test]
fn tokens_and_credentials_are_shown_without_their_values() {
    let canary = || SecretValue::from(CANARY);
    let lease = TokenLease::new(canary());
    assert_redacted(&lease, "TokenLease");
    assert_redacted(&Token::new(lease, Instant::now()), "Token");
    assert_redacted(&Credential::value(CANARY), "Value");
    assert_redacted(&Credential::from(CANARY.to_owned()), "Value");
    assert_redacted(&Credential::from(&CANARY.to_owned()), "Value");
    let function = Credential::from_fn(async || Ok(CANARY.into()));
    assert_redacted(&function, "Function");
    let login: Box<dyn LoginBody> = Box::new(async || Ok(CANARY.into()));
    assert_redacted(&login, "LoginBody");
}

#[tokio::test]
async fn aws_keys_and_proofs_are_shown_without_keys_and_signatures() {
    let keys = AwsKeys::new("AKIDEXAMPLE", CANARY).with_session_token(CANARY);
    assert_redacted(&keys, "AwsKeys");
    let credentials = AwsCredentials::keys(keys.clone());
    assert_redacted(&credentials, "Keys");
    let function = AwsCredentials::from_fn(move || {
        let keys = keys.clone();
        async move { Ok(keys) }
    });
    assert_redacted(&function, "Function");
    let identity = AwsIdentity::new(function);
    assert_redacted(&identity, "AwsIdentity");
    let proof = identity.prove().await.unwrap();
    assert_redacted(&proof, "https://sts.amazonaws.com/");
    assert!(!format!("{proof:?}").contains("Signature"));
}

#[test]
fn client_is_shown_without_the_credentials_of_its_proxy() {
    let proxy = format!("http://user:{CANARY}@proxy.example:3128");
    let config = ClientConfig::new(["https://vault.example"]).unwrap();
    let config = config.proxy(&proxy);
    assert_redacted(&config, "vault.example");
    let client = Client::new(config, AnyResponse, Origin::new("plain", "test")).unwrap();
    assert_redacted(&client, "vault.example");
}
