//! Changes on the server, as a resolver handles them.

use secretwell::infisical::ApiVersion;
use secretwell::{ErrorKind, Freshness, Resolver, SecretProvider, Version};
use secretwell_testkit::{Fault, FaultProxy};

use super::place::Place;
use crate::support::{key, response};

/// Refreshes `A` and returns its new value. Panics if the resolver returns a cached value.
async fn refresh(resolver: &Resolver) -> String {
    let mut results = resolver.refresh(&[key("A")]).await;
    let resolved = results.remove(0).unwrap();
    assert!(
        matches!(resolved.freshness, Freshness::Fresh),
        "{:?}",
        resolved.freshness
    );
    resolved.value.expose_text().unwrap().to_owned()
}

#[tokio::test]
async fn other_secret_of_the_same_name_is_not_a_version_regression() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(Some("shared"), "A", "imported").await;
        place.import(Some("shared")).await;
        for value in ["first", "second", "third"] {
            place.write(None, "A", value).await;
        }
        let provider = || place.provider().api(api).build().unwrap();
        let assert_third = async |resolver: &Resolver| {
            let resolved = resolver.get("A").await.unwrap();
            assert_eq!(resolved.value.expose_text().unwrap(), "third");
        };
        let (first, second) = (Resolver::new(provider()), Resolver::new(provider()));
        assert_third(&first).await;
        assert_third(&second).await;
        // An imported secret has no creation time. Only its id shows that it is another secret.
        place.delete(None, "A").await;
        assert_eq!(refresh(&first).await, "imported");
        place.write(None, "A", "recreated").await;
        assert_eq!(refresh(&second).await, "recreated");
    }
}

#[tokio::test]
async fn version_of_another_secret_of_the_same_name_is_not_returned() {
    let place = Place::fake(ApiVersion::V4).await;
    for value in ["leaked", "also leaked"] {
        place.write(None, "A", value).await;
    }
    let provider = place.provider().build().unwrap();
    let deleted = provider.get(&key("A")).await.unwrap().version.unwrap();
    place.delete(None, "A").await;
    for value in ["new", "newer", "newest"] {
        place.write(None, "A", value).await;
    }
    // A recent list still contains the deleted secret.
    provider.discard(&key("A"), None);
    let read = async |version: &Version| provider.get_version(&key("A"), version).await;
    // The server returns the versions of the deleted secret.
    for version in [Version::numbered(1), Version::numbered(2), deleted] {
        let error = read(&version).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{version:?}: {error}");
    }
    let current = provider.get(&key("A")).await.unwrap();
    let secret = read(&current.version.unwrap()).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "newest");

    // The server returns the imported secret in place of a version that it does not keep.
    place.write(Some("shared"), "B", "imported").await;
    place.import(Some("shared")).await;
    place.write(None, "C", "own").await;
    place.write(Some("shared"), "C", "imported").await;
    place.write(Some("shared"), "C", "imported again").await;
    let second = Version::numbered(2);
    let error = provider.get_version(&key("C"), &second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let first = Version::numbered(1);
    let secret = provider.get_version(&key("B"), &first).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "imported");
}

#[tokio::test]
async fn server_of_another_version_is_detected_again() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let provider = place.provider_at(&url).build().unwrap();
    let configured = place.provider_at(&url).api(ApiVersion::V4).build().unwrap();
    for known in ["V4", "V3", "V4"] {
        let secret = provider.get(&key("A")).await.unwrap();
        assert_eq!(secret.value.expose_text().unwrap(), "value");
        assert!(format!("{provider:?}").contains(known), "{provider:?}");
        // The other version is rolled out.
        let path = match known {
            "V4" => "/api/v4/secrets",
            _ => "/api/v3/secrets/raw",
        };
        let body = format!(
            r#"{{"message":"Route GET:{path} not found","error":"Not Found","statusCode":404}}"#
        );
        proxy.set(Fault::None);
        proxy.set_for(&format!("GET {path}"), response("404 Not Found", &body));
    }
    proxy.set(Fault::None);
    let body =
        r#"{"message":"Route GET:/api/v4/secrets not found","error":"Not Found","statusCode":404}"#;
    proxy.set_for("GET /api/v4/secrets", response("404 Not Found", body));
    let error = configured.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
}

#[tokio::test]
async fn listed_secret_that_is_not_returned_is_not_absent() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(None, "A", "${MISSING}").await;
        let provider = place.provider().build().unwrap();
        let fake = place.as_fake();
        let message = "Secret with name 'A' not found";
        for start in ["GET /api/v3/secrets/raw/A", "GET /api/v4/secrets/A"] {
            fake.fail_requests(start, 404, "NotFound", message);
        }
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        place.delete(None, "A").await;
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}
