//! Reads: their results, their number of requests, and the errors of missing secrets.

use std::time::Duration;

use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{ErrorKind, Freshness, KeyPrefix, Resolver, SecretProvider, Version};
use secretwell_testkit::{Fault, FaultProxy};

use super::place::Place;
use crate::support::{key, remote_faults, response, secs};

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

/// Returns the number of lists with a body (200) and without one (304).
fn list_counts(place: &Place) -> (usize, usize) {
    let fake = place.as_fake();
    let lists = ["GET /api/v3/secrets/raw?", "GET /api/v4/secrets?"];
    let count = |status| lists.iter().map(|start| fake.count(start, status)).sum();
    (count(200), count(304))
}

/// Returns the number of single reads.
fn single_read_count(place: &Place) -> usize {
    let requests = place.as_fake().requests();
    let is_single_read = |line: &&String| {
        line.starts_with("GET /api/v") && line.contains("/secrets/") && !line.contains("/raw?")
    };
    requests.iter().filter(is_single_read).count()
}

#[tokio::test]
async fn two_hundred_secrets_take_one_login_and_one_list_without_a_body_if_unchanged() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let fake = place.as_fake();
        let mut keys = Vec::new();
        for number in 0..200 {
            let name = format!("SECRET_{number}");
            fake.set(&place.project, "dev", &place.folder, &name, "value");
            keys.push(key(&name));
        }
        let provider = place.provider().api(api).build().unwrap();
        for round in 0..3 {
            let results = provider.get_many(&keys).await;
            assert!(results.iter().all(Result::is_ok));
            assert_eq!(list_counts(&place), (1, round));
        }
        assert_eq!(fake.count("POST /api/v1/auth/", 200), 1);
        assert_eq!(fake.requests().len(), 4);

        fake.set(&place.project, "dev", &place.folder, "SECRET_7", "another");
        assert_eq!(text(&provider, "SECRET_7").await, "another");
        assert_eq!(list_counts(&place), (2, 2));
    }
}

#[tokio::test]
async fn api_version_is_detected_once() {
    for (api, v4_requests) in [(ApiVersion::V3, 1), (ApiVersion::V4, 3)] {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        let provider = place.provider().build().unwrap();
        for _ in 0..3 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        let requests = place.as_fake().requests();
        let count = |start: &str| {
            requests
                .iter()
                .filter(|line| line.starts_with(start))
                .count()
        };
        assert_eq!(count("GET /api/v4/secrets?"), v4_requests);
        assert_eq!(
            count("GET /api/v3/secrets/raw?"),
            if api == ApiVersion::V3 { 3 } else { 0 }
        );
    }
}

#[tokio::test]
async fn own_secrets_override_imports_and_later_imports_override_earlier_ones() {
    for api in BOTH {
        let place = Place::new(api).await;
        for (subfolder, value) in [(None, "own"), (Some("one"), "one"), (Some("two"), "two")] {
            place.write(subfolder, "EVERYWHERE", value).await;
        }
        place.write(Some("one"), "TWICE", "one").await;
        place.write(Some("two"), "TWICE", "two").await;
        place.import(Some("one")).await;
        place.import(Some("two")).await;
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "EVERYWHERE").await, "own");
        assert_eq!(text(&provider, "TWICE").await, "two");
        let listed = provider.list(&KeyPrefix::root()).await.unwrap();
        assert!(listed.contains(&key("TWICE")), "{listed:?}");

        let without = place.provider().without_imports().build().unwrap();
        let error = without.get(&key("TWICE")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn references_are_expanded_and_an_unresolved_one_is_named() {
    for api in BOTH {
        let place = Place::new(api).await;
        place.write(None, "HOST", "db.internal").await;
        place.write(None, "URL", "postgres://${HOST}/app").await;
        place
            .write(None, "BROKEN", "postgres://${NO_HOST}/app")
            .await;
        place
            .write(None, "WRONG_ENVIRONMENT", "${no-such-environment.HOST}")
            .await;
        place.write(None, "SHELL", "${HOST:-localhost}").await;
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "URL").await, "postgres://db.internal/app");
        assert_eq!(text(&provider, "SHELL").await, "${HOST:-localhost}");
        for (name, reference) in [
            ("BROKEN", "`NO_HOST`"),
            ("WRONG_ENVIRONMENT", "`no-such-environment.HOST`"),
        ] {
            let error = provider.get(&key(name)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(reference), "{error}");
        }
        let raw = place
            .provider()
            .without_reference_expansion()
            .build()
            .unwrap();
        assert_eq!(text(&raw, "URL").await, "postgres://${HOST}/app");
        assert_eq!(text(&raw, "BROKEN").await, "postgres://${NO_HOST}/app");
    }
}

#[tokio::test]
async fn partially_expanded_list_entry_is_read_again_by_itself() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "DEEP", "leaf").await;
    place.write(None, "MID", "<${DEEP}>").await;
    place.write(None, "TOP", "(${MID})").await;
    place.as_fake().use_partial_list_expansion();
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "MID").await, "<leaf>");
    assert_eq!(single_read_count(&place), 0);
    // The single read is repeated only after a change of the list.
    for _ in 0..3 {
        assert_eq!(text(&provider, "TOP").await, "(<leaf>)");
    }
    assert_eq!(single_read_count(&place), 1);
    place.write(None, "DEEP", "root").await;
    assert_eq!(text(&provider, "TOP").await, "(<root>)");
    assert_eq!(single_read_count(&place), 2);
    provider.discard(&key("TOP"), None);
    assert_eq!(text(&provider, "TOP").await, "(<root>)");
    assert_eq!(single_read_count(&place), 3);
}

#[tokio::test]
async fn result_of_a_single_read_is_reused_only_while_it_cannot_change() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "BROKEN", "${MISSING}").await;
    place.write(Some("x"), "DEEP", "first").await;
    let reference_into = |folder| {
        format!(
            "${{dev{}",
            place.folder_path(Some(folder)).replace('/', ".")
        )
    };
    let deep = format!("{}.DEEP}}", reference_into("x"));
    place.write(Some("y"), "MID", &deep).await;
    let mid = format!("{}.MID}}", reference_into("y"));
    place.write(None, "TOP", &mid).await;
    place.as_fake().use_partial_list_expansion();
    let provider = place.provider().build().unwrap();
    for _ in 0..3 {
        let error = provider.get(&key("BROKEN")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(single_read_count(&place), 1);
    // The list of `TOP` does not change when the secret that its reference leads to changes.
    assert_eq!(text(&provider, "TOP").await, "first");
    place.write(Some("x"), "DEEP", "second").await;
    assert_eq!(text(&provider, "TOP").await, "second");
}

#[tokio::test]
async fn unresolved_reference_in_an_earlier_version_is_an_error() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "${MISSING}").await;
    place.write(None, "A", "value").await;
    let first = Version::numbered(1);
    let provider = place.provider().build().unwrap();
    let error = provider.get_version(&key("A"), &first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("`MISSING`"), "{error}");
    let raw = place
        .provider()
        .without_reference_expansion()
        .build()
        .unwrap();
    let secret = raw.get_version(&key("A"), &first).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "${MISSING}");
}

#[tokio::test]
async fn missing_secret_folder_environment_and_project_are_distinguished() {
    for api in BOTH {
        let place = Place::new(api).await;
        let error_of = async |provider: InfisicalProvider, name: &str| {
            let error = provider.get(&key(name)).await.unwrap_err();
            (error.kind(), error.message().to_owned())
        };
        let builder = || place.provider();
        let secret = (ErrorKind::NotFound, "the secret does not exist".to_owned());
        // The secret is missing in an empty folder, and then in a folder with another secret.
        assert_eq!(error_of(builder().build().unwrap(), "A").await, secret);
        place.write(None, "B", "value").await;
        assert_eq!(error_of(builder().build().unwrap(), "A").await, secret);

        let folder = (ErrorKind::NotFound, "the folder does not exist".to_owned());
        assert_eq!(error_of(builder().build().unwrap(), "none/A").await, folder);
        let provider = builder().folder("/none/such").build().unwrap();
        assert_eq!(error_of(provider, "A").await, folder);

        let environment = "the project does not have this environment".to_owned();
        for typo in ["qa", "DEV"] {
            let provider = builder().environment(typo).build().unwrap();
            let found = error_of(provider, "A").await;
            assert_eq!(found, (ErrorKind::InvalidConfig, environment.clone()));
        }
        let project = (
            ErrorKind::InvalidConfig,
            "the project does not exist".to_owned(),
        );
        for wrong in ["no-such-project", "00000000-0000-4000-8000-00000000dead"] {
            let provider = builder().project(wrong).build().unwrap();
            assert_eq!(error_of(provider, "A").await, project, "{wrong}");
        }
    }
}

#[tokio::test]
async fn existence_of_an_empty_folder_is_checked_once() {
    let place = Place::fake(ApiVersion::V4).await;
    let provider = place.provider().build().unwrap();
    for _ in 0..3 {
        assert!(provider.get(&key("A")).await.unwrap_err().is_not_found());
    }
    assert_eq!(place.as_fake().count("GET /api/v1/folders", 200), 1);
    assert_eq!(list_counts(&place), (1, 2));
}

#[tokio::test]
async fn keys_of_many_folders_take_one_list_and_one_more_for_an_imported_key() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let folders = ["a", "b", "c", "d"];
        for folder in folders {
            place.write(Some(folder), "OWN", folder).await;
        }
        place.write(Some("shared"), "IMPORTED", "shared").await;
        let into = place.folder_path(Some("d"));
        let from = place.folder_path(Some("shared"));
        place
            .as_fake()
            .import(&place.project, ("dev", &into), ("dev", &from));

        let provider = place.provider().api(api).build().unwrap();
        let mut keys: Vec<_> = folders
            .iter()
            .map(|folder| key(&format!("{folder}/OWN")))
            .collect();
        let results = provider.get_many(&keys).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(list_counts(&place), (1, 0));

        keys.push(key("d/IMPORTED"));
        let results = provider.get_many(&keys).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(list_counts(&place), (2, 1));
    }
}

#[tokio::test]
async fn project_slug_is_resolved_once() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        let provider = place.provider().project("demo").build().unwrap();
        for _ in 0..2 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        // Version 3 accepts a slug.
        let requests = place.as_fake().count("GET /api/v2/workspace/demo", 200);
        assert_eq!(requests, if api == ApiVersion::V3 { 0 } else { 1 });
        let missing_routes = place.as_fake().count("GET /api/v4/secrets", 404);
        assert_eq!(missing_routes, if api == ApiVersion::V3 { 1 } else { 0 });
    }
}

#[tokio::test]
async fn hidden_values_and_denied_folders_are_denied() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    place.write(Some("secret"), "A", "value").await;
    let provider = place.provider().build().unwrap();
    let fake = place.as_fake();
    fake.deny(&place.identity, "dev", &place.folder_path(Some("secret")));
    let error = provider.get(&key("secret/A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(text(&provider, "A").await, "value");

    fake.hide_values(&place.identity);
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error:?}").contains("<hidden"), "{error:?}");
    assert_eq!(
        fake.count("POST /api/v1/auth/", 200),
        2,
        "a missing permission must not cause a login"
    );
}

#[tokio::test]
async fn reference_to_an_unreadable_secret_is_denied() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(Some("private"), "B", "value").await;
    let path = place.folder_path(Some("private")).replace('/', ".");
    place.write(None, "A", &format!("${{dev{path}.B}}")).await;
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "A").await, "value");
    let denied = place.folder_path(Some("private"));
    place.as_fake().deny(&place.identity, "dev", &denied);
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn personal_values_override_shared_ones_only_on_request() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "A", "shared").await;
        let (fake, folder) = (place.as_fake(), &place.folder);
        fake.set_personal(&place.project, "dev", folder, "A", "personal");
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "A").await, "shared");
        let provider = place.provider().personal_overrides().build().unwrap();
        assert_eq!(text(&provider, "A").await, "personal");
    }
}

#[tokio::test]
async fn only_secrets_with_the_configured_tag_are_read() {
    let place = Place::fake(ApiVersion::V3).await;
    for (name, tag) in [("A", "app"), ("B", "other")] {
        place.write(None, name, "value").await;
        let fake = place.as_fake();
        fake.set_metadata(&place.project, "dev", &place.folder, name, "", &[tag]);
    }
    let provider = place.provider().tags(["app"]).build().unwrap();
    assert_eq!(text(&provider, "A").await, "value");
    let error = provider.get(&key("B")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn current_version_is_not_returned_as_an_earlier_one() {
    // The API version is detected, so the capabilities still include old versions.
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "first").await;
    place.write(None, "A", "second").await;
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "A").await, "second");
    let result = provider.get_version(&key("A"), &Version::numbered(1)).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let result = provider.get_version(&key("A"), &Version::numbered(2)).await;
    assert_eq!(result.unwrap().value.expose_text().unwrap(), "second");
}

#[tokio::test]
async fn rate_limited_resolver_serves_the_cached_value_as_stale() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    place.as_fake().rate_limit(Some(3));
    let short_deadline = |client: secretwell::infisical::ClientConfig| client.deadline(secs(1));
    let provider = place.provider().client(short_deadline).build().unwrap();
    let ttl = Duration::from_millis(100);
    let resolver = Resolver::builder(provider).ttl(ttl).build();
    resolver.get("A").await.unwrap();
    // Refreshes until the limit is reached.
    let stale = async {
        loop {
            let resolved = resolver.get("A").await.unwrap();
            if let Freshness::Stale { reason, .. } = &resolved.freshness {
                break (resolved.value.clone(), reason.clone());
            }
            resolver.refresh(&[key("A")]).await;
            tokio::time::sleep(ttl).await;
        }
    };
    let (value, reason) = tokio::time::timeout(secs(30), stale).await.unwrap();
    assert_eq!(value.expose_text().unwrap(), "value");
    let ErrorKind::RateLimited {
        retry_after: Some(wait),
    } = reason.kind()
    else {
        panic!("{reason}");
    };
    assert!(wait > secs(10), "{wait:?}");
    let refused = place.as_fake().count("GET /api/v4/secrets", 429);
    assert!(refused <= 1, "{refused} requests were refused with 429");
}

#[tokio::test]
async fn fault_is_reported_within_the_deadline_and_the_next_read_succeeds() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let short_deadline = |client: secretwell::infisical::ClientConfig| {
        client
            .deadline(Duration::from_millis(2500))
            .attempt_timeout(Duration::from_secs(2))
            .max_bytes(1 << 20)
    };
    let url = format!("http://{}", proxy.address());
    let provider = place
        .provider_at(&url)
        .client(short_deadline)
        .build()
        .unwrap();
    assert_eq!(text(&provider, "A").await, "value");

    let other_server = FaultProxy::start(place.as_fake().address()).await;
    let redirect = format!("http://{}/api/v4/secrets", other_server.address());
    let duplicate =
        r#"{"secrets":[{"secretKey":"A","secretValue":"1","secretValue":"2","version":1}]}"#;
    let infisical_faults = [
        (
            "a proxy's 401",
            response("401 Unauthorized", "<html>"),
            ErrorKind::Unavailable,
        ),
        (
            "a proxy's 403",
            response("403 Forbidden", "<html>"),
            ErrorKind::Unavailable,
        ),
        (
            "a proxy's 404",
            response("404 Not Found", "<html>"),
            ErrorKind::Unavailable,
        ),
        (
            "internal error",
            response("500 No", "{}"),
            ErrorKind::Unavailable,
        ),
        ("not ready", response("503 No", ""), ErrorKind::Unavailable),
    ];
    let faults = remote_faults("secrets", duplicate, &redirect, 40);
    for (name, fault, kind) in faults.into_iter().chain(infisical_faults) {
        proxy.set(fault);
        let result = tokio::time::timeout(secs(5), provider.get(&key("A"))).await;
        let error = result
            .unwrap_or_else(|_| panic!("{name}: no result within 5 s"))
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        proxy.set(Fault::None);
        assert_eq!(text(&provider, "A").await, "value");
    }
    assert!(
        other_server.requests().is_empty(),
        "the provider must not follow a redirect to another server"
    );
}
