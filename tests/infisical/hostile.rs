//! Names that cannot be keys, and responses that contradict each other. None of them is an absent secret.

use std::time::SystemTime;

use secretwell::infisical::{ApiVersion, Credential, InfisicalAuth};
use secretwell::{ErrorKind, KeyPrefix, SecretProvider, Version};

use super::place::Place;
use crate::support::{assert_lists, key, secs};

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];

/// Returns the beginning of the requests for secrets.
fn reads(api: ApiVersion) -> &'static str {
    match api {
        ApiVersion::V3 => "GET /api/v3/secrets/raw",
        _ => "GET /api/v4/secrets",
    }
}

/// A name that is left out silently would be missing in the environment of a program.
#[tokio::test]
async fn names_that_cannot_be_keys_are_notices() {
    for api in BOTH {
        let place = Place::fake(api).await;
        for folder in [None, Some("db")] {
            let path = place.folder_path(folder);
            for name in ["OK", "a/b", "..", " space"] {
                place
                    .as_fake()
                    .set(&place.project, "dev", &path, name, "value");
            }
        }
        let provider = place.provider().build().unwrap();
        for (prefix, listed, named) in [
            (
                "",
                &["OK", "db/OK"][..],
                &[" space", "..", "a/b", "db/ space", "db/..", "db/a/b"][..],
            ),
            ("db", &["db/OK"], &["db/ space", "db/..", "db/a/b"]),
        ] {
            assert_lists(&provider, prefix, listed, named).await;
        }
    }
}

#[tokio::test]
async fn notices_of_a_server_that_fails_are_an_error() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let provider = place.provider().build().unwrap();
    place
        .as_fake()
        .fail_requests(reads(ApiVersion::V4), 500, "Find", "Something went wrong");
    let error = provider.notices(&KeyPrefix::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(error.origin(), Some(provider.origin()));
}

#[tokio::test]
async fn slug_of_a_project_is_found_by_the_newer_route_alone() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let fake = place.as_fake();
    let message = "Route GET:/api/v2/workspace/demo not found";
    fake.fail_requests("GET /api/v2/workspace/", 404, "Not Found", message);
    let provider = place.provider().project("demo").build().unwrap();
    for _ in 0..2 {
        let secret = provider.get(&key("A")).await.unwrap();
        assert_eq!(secret.value.expose_text().unwrap(), "value");
    }
    assert_eq!(fake.count("GET /api/v1/projects/slug/demo", 200), 1);

    // A project that neither route has is a mistake in the configuration, and not an absent secret.
    let provider = place.provider().project("other").build().unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
}

#[tokio::test]
async fn status_that_explains_nothing_about_a_secret_is_not_an_absence() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        let provider = place.provider().api(api).build().unwrap();
        let fake = place.as_fake();
        for (status, kind) in [
            (431, ErrorKind::InvalidKey),
            (402, ErrorKind::Unavailable),
            (418, ErrorKind::Unavailable),
            (451, ErrorKind::Unavailable),
        ] {
            fake.fail_requests(reads(api), status, "Error", "message");
            let error = provider.get(&key("A")).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            fake.clear_failures();
        }
        provider.get(&key("A")).await.unwrap();
    }
}

#[tokio::test]
async fn missing_folder_that_exists_is_not_an_absence() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        let provider = place.provider().api(api).build().unwrap();
        provider.get(&key("A")).await.unwrap();
        let fake = place.as_fake();
        let message = format!("Folder with path '{}' not found", place.folder);
        fake.fail_requests(reads(api), 404, "NotFound", &message);
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let first = Version::numbered(1);
        if api == ApiVersion::V4 {
            let error = provider.get_version(&key("A"), &first).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        fake.clear_failures();
        provider.get(&key("A")).await.unwrap();
    }
}

#[tokio::test]
async fn version_that_is_not_a_number_from_1_upwards_is_not_requested() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let provider = place.provider().build().unwrap();
    provider.get(&key("A")).await.unwrap();
    let before = place.as_fake().requests().len();
    for version in [Version::numbered(0), Version::opaque("1")] {
        let error = provider.get_version(&key("A"), &version).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(place.as_fake().requests().len(), before);
}

#[tokio::test]
async fn time_of_the_server_needs_no_login() {
    let place = Place::fake(ApiVersion::V4).await;
    let auth = InfisicalAuth::token(Credential::value("wrong"));
    let provider = place.provider().auth(auth).build().unwrap();
    let time = provider.server_time().await.unwrap();
    let difference = SystemTime::now().duration_since(time).unwrap_or_default();
    assert!(difference < secs(60), "{difference:?}");
}
