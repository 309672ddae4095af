//! Failures: outages, missing permissions, rate limits and deadlines.

use std::time::Duration;

use secretwell::infisical::{
    ApiVersion, ClientConfig, Credential, InfisicalAuth, InfisicalProvider,
};
use secretwell::{ErrorKind, SecretProvider};
use secretwell_testkit::{Fault, FaultProxy};

use super::place::Place;
use crate::support::{key, response, secs};

/// Returns the number of `GET` requests for secrets.
fn read_count(place: &Place) -> usize {
    let requests = place.as_fake().requests();
    let is_read = |line: &&String| line.starts_with("GET ") && line.contains("/secrets");
    requests.iter().filter(is_read).count()
}

async fn error_kind(provider: &InfisicalProvider, name: &str) -> ErrorKind {
    provider.get(&key(name)).await.unwrap_err().kind()
}

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

#[tokio::test]
async fn outage_is_not_reported_as_an_unresolved_reference() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "DEEP", "leaf").await;
    place.write(None, "MID", "<${DEEP}>").await;
    place.write(None, "TOP", "(${MID})").await;
    let fake = place.as_fake();
    fake.use_partial_list_expansion();
    let provider = place.provider().api(ApiVersion::V3).build().unwrap();
    let single = "GET /api/v3/secrets/raw/";
    for (status, error, expected) in [
        // A failed database, a proxy without a server, and a reference into a missing folder.
        (500, "Find one", ErrorKind::Unavailable),
        (501, "InternalServerError", ErrorKind::Unavailable),
        (500, "InternalServerError", ErrorKind::Invalid),
    ] {
        fake.fail_requests(single, status, error, "Something went wrong");
        let error = provider.get(&key("TOP")).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{status}: {error}");
        assert!(error.is_temporary(), "{status}: {error}");
        fake.clear_failures();
    }
    assert_eq!(text(&provider, "TOP").await, "(<leaf>)");
}

#[tokio::test]
async fn health_reports_whether_the_next_read_would_succeed() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        place.write(Some("db"), "A", "value").await;
        let provider = place.provider().api(api).build().unwrap();
        provider.health().await.unwrap();
        let fake = place.as_fake();
        let text = "You are not allowed to read on secret-folders";
        fake.fail_requests("GET /api/v1/folders", 403, "PermissionDenied", text);
        provider.health().await.unwrap();
        assert_eq!(read_count(&place), 0);

        let deny = async |folder| {
            let folder = place.folder_path(folder);
            fake.deny(&place.identity, "dev", &folder);
        };
        deny(None).await;
        assert_eq!(
            provider.health().await.unwrap_err().kind(),
            ErrorKind::Denied
        );
        // After a read of another folder, health checks that folder.
        provider.get(&key("db/A")).await.unwrap();
        let before = read_count(&place);
        provider.health().await.unwrap();
        assert_eq!(read_count(&place), before);
        deny(Some("db")).await;
        assert_eq!(
            provider.health().await.unwrap_err().kind(),
            ErrorKind::Denied
        );

        fake.clear_failures();
        let wrong_environment = place.provider().environment("qa").build().unwrap();
        let error = wrong_environment.health().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[tokio::test]
async fn retry_after_applies_to_every_request_of_the_provider() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    place.write(Some("db"), "A", "value").await;
    let fake = place.as_fake();
    fake.rate_limit(Some(3));
    let short_deadline = |client: ClientConfig| client.deadline(secs(1));
    let provider = || place.provider().client(short_deadline).build().unwrap();
    let (other, provider) = (provider(), provider());
    // Another provider at the same address uses up the limit.
    for _ in 0..3 {
        assert_eq!(text(&other, "A").await, "value");
    }
    let assert_rate_limited = |error: secretwell::Error| match error.kind() {
        ErrorKind::RateLimited {
            retry_after: Some(wait),
        } => assert!(wait > secs(10), "{wait:?}"),
        _ => panic!("{error}"),
    };
    assert_rate_limited(provider.get(&key("A")).await.unwrap_err());
    let before = fake.requests().len();
    assert_rate_limited(provider.get(&key("A")).await.unwrap_err());
    assert_rate_limited(provider.get(&key("db/A")).await.unwrap_err());
    let first = secretwell::Version::numbered(1);
    assert_rate_limited(provider.get_version(&key("A"), &first).await.unwrap_err());
    assert_rate_limited(provider.health().await.unwrap_err());
    assert_eq!(fake.requests().len(), before, "{:?}", fake.requests());
}

#[tokio::test]
async fn rate_limit_window_of_years_does_not_stop_the_provider() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let short_deadline = |client: ClientConfig| client.deadline(secs(1));
    let builder = || place.provider_at(&url).client(short_deadline);
    let limited = r#"{"statusCode":429,"message":"Rate limit","error":"RateLimitExceeded"}"#;
    for (status, body) in [("200 OK", r#"{"secrets":[]}"#), ("429 No", limited)] {
        let provider = builder().build().unwrap();
        // A gateway that states the time of the reset in place of the wait.
        let headers =
            "x-ratelimit-limit: 40\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1790000000";
        let fault = response(&format!("{status}\r\n{headers}"), body);
        proxy.set_for("GET /api/v4/secrets", fault);
        provider.get(&key("A")).await.unwrap_err();
        proxy.set(Fault::None);
        assert_eq!(text(&provider, "A").await, "value", "{status}");
    }
}

#[tokio::test]
async fn deadline_covers_login_and_read_together() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let short_deadline = |client: ClientConfig| client.deadline(Duration::from_millis(600));
    let builder = place
        .provider_at(&url)
        .api(ApiVersion::V3)
        .client(short_deadline);
    let provider = builder.build().unwrap();
    // One request would finish before the deadline, but login and read together do not.
    proxy.set(Fault::Delay(Duration::from_millis(400)));
    assert_eq!(error_kind(&provider, "A").await, ErrorKind::Timeout);
    proxy.set(Fault::None);
    assert_eq!(text(&provider, "A").await, "value");
}

#[tokio::test]
async fn login_at_a_hanging_server_lasts_to_the_deadline_and_is_sent_once() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let login = "POST /api/v1/auth/";
    let provider = |deadline| {
        let client = move |client: ClientConfig| {
            let hedge = Duration::from_millis(100);
            client.deadline(deadline).hedge_delay(hedge)
        };
        let builder = place.provider_at(&url).api(ApiVersion::V3);
        builder.client(client).build().unwrap()
    };
    // The database responds later than a read would be sent again.
    proxy.set_for(login, Fault::Delay(Duration::from_millis(600)));
    assert_eq!(text(&provider(secs(10)), "A").await, "value");
    assert_eq!(proxy.count(login), 1);
    proxy.set_for(login, Fault::Stall);
    let short = Duration::from_millis(600);
    assert_eq!(error_kind(&provider(short), "A").await, ErrorKind::Timeout);
    assert_eq!(proxy.count(login), 2);
}

#[tokio::test]
async fn key_outside_the_folder_of_a_service_token_is_missing_with_a_hint() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        place.write(Some("db"), "B", "value").await;
        let folder = place.folder_path(Some("db"));
        let (fake, identity) = (place.as_fake(), &place.identity);
        let token = fake.service_token(identity, &place.project, "dev", &folder);
        let auth = InfisicalAuth::token(Credential::value(token));
        let provider = place.provider().auth(auth).build().unwrap();
        assert_eq!(text(&provider, "db/B").await, "value");
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("service token"), "{error}");
    }
}

#[tokio::test]
async fn restricted_list_of_all_folders_does_not_read_each_secret_by_itself() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        let folders = ["a", "b", "c", "d"];
        for folder in folders {
            place.write(Some(folder), "X", folder).await;
            place.write(Some(folder), "REFERENCE", "<${X}>").await;
        }
        place.write(Some("private"), "Y", "value").await;
        let private = place.folder_path(Some("private"));
        let forbidden = format!("${{dev{}.Y}}", private.replace('/', "."));
        place.write(Some("d"), "FORBIDDEN", &forbidden).await;
        place.as_fake().deny(&place.identity, "dev", &private);
        let provider = place.provider().build().unwrap();
        let keys = folders.map(|folder| key(&format!("{folder}/REFERENCE")));
        for (folder, result) in folders.iter().zip(provider.get_many(&keys).await) {
            let secret = result.unwrap();
            let expected = format!("<{folder}>");
            assert_eq!(secret.value.expose_text().unwrap(), expected);
        }
        // Only the folder with the forbidden reference has no expanded list.
        let requests = place.as_fake().requests();
        let singles = requests.iter().filter(|line| line.contains("/REFERENCE?"));
        assert!(singles.count() <= 1, "{requests:?}");
    }
}
