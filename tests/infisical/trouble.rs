//! What becomes of a call when the server, the way to it or its limits are in trouble.

use std::time::Duration;

use secretwell::infisical::{ApiVersion, ClientConfig, InfisicalProvider};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};

use super::place::Place;
use crate::support::{key, secs};

/// Reads of secrets, without those that ask for no body.
fn reads(place: &Place) -> usize {
    let requests = place.as_fake().requests();
    let read = |line: &&String| line.starts_with("GET ") && line.contains("/secrets");
    requests.iter().filter(read).count()
}

async fn kind(provider: &InfisicalProvider, name: &str) -> ErrorKind {
    provider.get(&key(name)).await.unwrap_err().kind()
}

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

#[tokio::test]
async fn an_outage_is_no_reference_that_leads_nowhere() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "DEEP", "leaf").await;
    place.write(None, "MID", "<${DEEP}>").await;
    place.write(None, "TOP", "(${MID})").await;
    let fake = place.as_fake();
    fake.break_list_expansion();
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    let single = "GET /api/v3/secrets/raw/";
    for (status, error, expected) in [
        // A database that is down, a proxy without a server, and a reference into nowhere.
        (500, "Find one", ErrorKind::Unavailable),
        (501, "InternalServerError", ErrorKind::Unavailable),
        (500, "InternalServerError", ErrorKind::Invalid),
    ] {
        fake.refuse(single, status, error, "Something went wrong");
        let error = provider.get(&key("TOP")).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{status}: {error}");
        assert!(error.is_temporary(), "{status}: {error}");
        fake.clear_refusals();
    }
    assert_eq!(text(&provider, "TOP").await, "(<leaf>)");
}

#[tokio::test]
async fn health_says_whether_the_next_read_would_be_answered() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        place.write(Some("db"), "A", "value").await;
        let provider = place.provider().api(api).build().unwrap();
        provider.health().await.unwrap();
        let fake = place.as_fake();
        let text = "You are not allowed to read on secret-folders";
        fake.refuse("GET /api/v1/folders", 403, "PermissionDenied", text);
        provider.health().await.unwrap();
        assert_eq!(reads(&place), 0);

        let denied = async |folder| {
            let folder = place.folder_path(folder);
            fake.deny(&place.identity, "dev", &folder);
        };
        denied(None).await;
        assert_eq!(
            provider.health().await.unwrap_err().kind(),
            ErrorKind::Denied
        );
        // What was read last counts, and that is another folder.
        provider.get(&key("db/A")).await.unwrap();
        let before = reads(&place);
        provider.health().await.unwrap();
        assert_eq!(reads(&place), before);
        denied(Some("db")).await;
        assert_eq!(
            provider.health().await.unwrap_err().kind(),
            ErrorKind::Denied
        );

        fake.clear_refusals();
        let nowhere = place.provider().environment("qa").build().unwrap();
        let error = nowhere.health().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[tokio::test]
async fn a_wait_that_was_told_holds_for_the_whole_provider() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    place.write(Some("db"), "A", "value").await;
    let fake = place.as_fake();
    fake.rate_limit(Some(3));
    let quick = |client: ClientConfig| client.deadline(secs(1));
    let provider = || place.provider().client(quick).build().unwrap();
    let (other, provider) = (provider(), provider());
    // Somebody else at the same address has had all of it.
    for _ in 0..3 {
        assert_eq!(text(&other, "A").await, "value");
    }
    let told = |error: secretwell::Error| match error.kind() {
        ErrorKind::RateLimited {
            retry_after: Some(wait),
        } => assert!(wait > secs(10), "{wait:?}"),
        _ => panic!("{error}"),
    };
    told(provider.get(&key("A")).await.unwrap_err());
    let before = fake.requests().len();
    told(provider.get(&key("A")).await.unwrap_err());
    told(provider.get(&key("db/A")).await.unwrap_err());
    let first = secretwell::Version::numbered(1);
    told(provider.get_version(&key("A"), &first).await.unwrap_err());
    told(provider.health().await.unwrap_err());
    assert_eq!(fake.requests().len(), before, "{:?}", fake.requests());
}

#[tokio::test]
async fn one_deadline_is_over_login_and_read_together() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let quick = |client: ClientConfig| client.deadline(Duration::from_millis(600));
    let builder = place.provider_at(&url).api(ApiVersion::V3).client(quick);
    let provider = builder.build().unwrap();
    // Each would be in time, and both are not.
    proxy.set(Fault::Delay(Duration::from_millis(400)));
    assert_eq!(kind(&provider, "A").await, ErrorKind::Timeout);
    proxy.set(Fault::None);
    assert_eq!(text(&provider, "A").await, "value");
}
