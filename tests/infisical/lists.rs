//! Lists of folders: their number, missing places, and lists that the server refuses.

use std::time::Duration;

use secretwell::backend::Change;
use secretwell::infisical::{ApiVersion, ClientConfig, InfisicalProvider};
use secretwell::notify::NotifyHub;
use secretwell::{
    Chain, ErrorKind, Freshness, KeyPrefix, MemoryProvider, Resolver, SecretKey, SecretProvider,
};
use secretwell_testkit::infisical::{Identity, Personality, Role};
use secretwell_testkit::{Fault, FaultProxy};

use super::place::Place;
use crate::support::{key, response, secs};

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];
const ALL: [Personality; 3] = [
    Personality::July2024,
    Personality::October2024,
    Personality::Newest,
];

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

async fn listed(provider: &InfisicalProvider) -> Vec<String> {
    let keys = provider.list(&KeyPrefix::root()).await.unwrap();
    keys.iter().map(SecretKey::to_string).collect()
}

/// Returns the number of requests that the server counts as lists.
fn list_count(place: &Place) -> usize {
    let is_list = |line: &&String| {
        line.starts_with("GET /api/v3/secrets/raw?") || line.starts_with("GET /api/v4/secrets?")
    };
    place.as_fake().requests().iter().filter(is_list).count()
}

fn single_read_count(place: &Place) -> usize {
    let is_single = |line: &&String| {
        line.starts_with("GET /api/v3/secrets/raw/") || line.starts_with("GET /api/v4/secrets/")
    };
    place.as_fake().requests().iter().filter(is_single).count()
}

#[tokio::test]
async fn standalone_image_of_2024_works_without_an_api_option() {
    for project in ["id", "slug"] {
        let place = Place::fake(ApiVersion::V3).await;
        place.as_fake().use_web_application();
        place.write(None, "A", "value").await;
        let mut builder = place.provider();
        if project == "slug" {
            builder = builder.project("demo");
        }
        let provider = builder.build().unwrap();
        for _ in 0..2 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        assert_eq!(listed(&provider).await, ["A"]);
        provider.health().await.unwrap();
        let error = provider.get(&key("MISSING")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        // The version is detected once.
        assert_eq!(place.as_fake().count("GET /api/v4/secrets", 404), 1);
    }
}

#[tokio::test]
async fn gateway_in_place_of_both_versions_decides_nothing() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    for status in [
        "404 Not Found",
        "405 No",
        "410 Gone",
        "403 Forbidden",
        "200 OK",
    ] {
        let provider = place.provider_at(&url).build().unwrap();
        proxy.set_for("GET ", response(status, "<html>"));
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{status}: {error}");
        assert!(error.is_temporary(), "{status}: {error}");
        assert!(provider.list(&KeyPrefix::root()).await.is_err());
        assert!(provider.health().await.is_err());
        proxy.set(Fault::None);
        assert_eq!(text(&provider, "A").await, "value");
    }
}

/// Lets five minutes pass, in which no request is sent.
async fn pass_five_minutes() {
    tokio::time::pause();
    tokio::time::advance(secs(5 * 60)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn version_that_a_gateway_has_shown_is_checked_again() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let provider = place.provider_at(&url).build().unwrap();
    let v4 = "GET /api/v4/secrets";
    proxy.set_for(v4, response("404 Not Found", "<html>"));
    assert_eq!(text(&provider, "A").await, "value");
    // While the gateway responds, or does not respond, each read succeeds.
    for fault in [
        response("404 Not Found", "<html>"),
        response("403 No", "<html>"),
        Fault::Close,
    ] {
        proxy.set_for(v4, fault);
        let before = proxy.count(v4);
        assert_eq!(text(&provider, "A").await, "value");
        assert_eq!(proxy.count(v4), before);
        pass_five_minutes().await;
        for _ in 0..3 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        assert!(proxy.count(v4) > before);
    }
    proxy.set(Fault::None);
    pass_five_minutes().await;
    assert_eq!(text(&provider, "A").await, "value");
    let before = place.as_fake().count("GET /api/v3/secrets/raw", 200);
    assert_eq!(text(&provider, "A").await, "value");
    let after = place.as_fake().count("GET /api/v3/secrets/raw", 200);
    assert_eq!(after, before, "version 4 is used");
    assert!(format!("{provider:?}").contains("V4"), "{provider:?}");
}

#[tokio::test]
async fn confirmed_version_is_not_checked_again() {
    for (is_image, probes) in [(false, 1), (true, 2)] {
        let place = Place::fake(ApiVersion::V3).await;
        if is_image {
            place.as_fake().use_web_application();
        }
        place.write(None, "A", "value").await;
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "A").await, "value");
        pass_five_minutes().await;
        for _ in 0..3 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        assert_eq!(place.as_fake().count("GET /api/v4/secrets", 404), probes);
    }
}

#[tokio::test]
async fn mistyped_environment_is_a_configuration_error_in_every_command() {
    for personality in ALL {
        let place = Place::fake_as(personality, |identity| identity).await;
        place.write(None, "A", "value").await;
        place.write(Some("db"), "A", "value").await;
        let assert_invalid = |error: secretwell::Error| {
            assert_eq!(
                error.kind(),
                ErrorKind::InvalidConfig,
                "{personality:?}: {error}"
            );
            assert!(error.to_string().contains("environment"), "{error}");
        };
        let provider = || place.provider().environment("qa").build().unwrap();
        assert_invalid(provider().get(&key("A")).await.unwrap_err());
        assert_invalid(provider().get(&key("db/A")).await.unwrap_err());
        assert_invalid(provider().list(&KeyPrefix::root()).await.unwrap_err());
        assert_invalid(provider().health().await.unwrap_err());
        let keys = ["A", "a/A", "b/A", "c/A"].map(key);
        for result in provider().get_many(&keys).await {
            assert_invalid(result.unwrap_err());
        }
    }
}

#[tokio::test]
async fn mistyped_environment_does_not_fall_through_a_chain() {
    for personality in ALL {
        let place = Place::fake_as(personality, |identity| identity).await;
        place.write(Some("auth"), "A", "value").await;
        let provider = place.provider().environment("qa").build().unwrap();
        let fallback: MemoryProvider = [("auth/A", "fallback")].into_iter().collect();
        let chain = Chain::new(provider).or_else(fallback);
        let error = chain.get(&key("auth/A")).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidConfig,
            "{personality:?}: {error}"
        );

        // A missing folder of an existing environment is an absence.
        let provider = place.provider().folder("/none").build().unwrap();
        let fallback: MemoryProvider = [("auth/A", "fallback")].into_iter().collect();
        let chain = Chain::new(provider).or_else(fallback);
        let secret = chain.get(&key("auth/A")).await.unwrap();
        assert_eq!(secret.value.expose_text().unwrap(), "fallback");
    }
}

#[tokio::test]
async fn missing_folder_is_an_absence_only_if_its_environment_exists() {
    let place = Place::fake(ApiVersion::V4).await;
    let fake = place.as_fake();
    let provider = place.provider().build().unwrap();
    for (status, name, text, kind) in [
        (
            403,
            "PermissionDenied",
            "not allowed",
            ErrorKind::Unavailable,
        ),
        (
            500,
            "Find one",
            "Something went wrong",
            ErrorKind::Unavailable,
        ),
        (
            404,
            "NotFound",
            "Environment with slug 'dev' not found",
            ErrorKind::InvalidConfig,
        ),
    ] {
        fake.fail_requests("GET /api/v1/folders", status, name, text);
        let error = provider.get(&key("none/A")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        fake.clear_failures();
    }
    let error = provider.get(&key("none/A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn renamed_environment_keeps_cached_values() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let resolver = Resolver::builder(place.provider().build().unwrap())
        .ttl(Duration::from_millis(50))
        .build();
    resolver.get("A").await.unwrap();
    let fake = place.as_fake();
    let path = &place.folder;
    let missing = format!("Folder with path '{path}' in environment 'dev' was not found.");
    fake.fail_requests("GET /api/v4/secrets", 404, "SecretPathNotFound", &missing);
    let missing = "Environment with slug 'dev' in project with ID 'x' not found";
    fake.fail_requests("GET /api/v1/folders", 404, "NotFound", missing);
    tokio::time::sleep(Duration::from_millis(60)).await;
    resolver.refresh(&[key("A")]).await;
    let resolved = resolver.get("A").await.unwrap();
    let Freshness::Stale { reason, .. } = &resolved.freshness else {
        panic!("{:?}", resolved.freshness);
    };
    assert_eq!(reason.kind(), ErrorKind::InvalidConfig, "{reason}");
}

#[tokio::test]
async fn forbidden_reference_denies_only_its_secret() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(Some("private"), "X", "value").await;
        let private = place.folder_path(Some("private"));
        let reference = format!("${{dev{}.X}}", private.replace('/', "."));
        place.write(None, "GOOD", "good").await;
        place.write(None, "LOCAL", "<${GOOD}>").await;
        place.write(None, "FORBIDDEN", &reference).await;
        place.as_fake().deny(&place.identity, "dev", &private);
        let provider = place.provider().build().unwrap();
        for _ in 0..2 {
            assert_eq!(text(&provider, "GOOD").await, "good");
            assert_eq!(text(&provider, "LOCAL").await, "<good>");
            let error = provider.get(&key("FORBIDDEN")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(error.to_string().contains("referenced"), "{error}");
        }
        assert_eq!(listed(&provider).await, ["FORBIDDEN", "GOOD", "LOCAL"]);
        // A value without a reference needs no read of its own.
        assert!(
            single_read_count(&place) <= 4,
            "{:?}",
            place.as_fake().requests()
        );

        // A later change is seen.
        place.write(None, "GOOD", "better").await;
        assert_eq!(text(&provider, "GOOD").await, "better");
        assert_eq!(text(&provider, "LOCAL").await, "<better>");
    }
}

#[tokio::test]
async fn list_with_unreadable_values_is_read_one_by_one() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let url = format!("http://{}", proxy.address());
    let provider = place.provider_at(&url).build().unwrap();
    // Newer servers refuse a list with values if the login must not read one of them.
    let id = &place.project;
    let start = format!("GET /api/v4/secrets?environment=dev&projectId={id}&viewSecretValue=true");
    let body = r#"{"reqId":"r","statusCode":403,"message":"You are not allowed to read","error":"PermissionDenied","details":[]}"#;
    proxy.set_for(&start, response("403 Forbidden", body));
    for _ in 0..2 {
        assert_eq!(text(&provider, "A").await, "value");
    }
    assert_eq!(listed(&provider).await, ["A"]);
    // The view is remembered.
    assert_eq!(proxy.count(&start), 2, "{:?}", proxy.requests());
}

#[tokio::test]
async fn forty_five_folders_take_two_lists() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let fake = place.as_fake();
        for number in 0..45 {
            let folder = place.folder_path(Some(&format!("f{number:02}")));
            fake.set(&place.project, "dev", &folder, "A", "value");
        }
        fake.rate_limit(Some(40));
        let provider = place.provider().api(api).build().unwrap();
        let keys = listed(&provider).await;
        assert_eq!(keys.len(), 45);
        assert_eq!(list_count(&place), 2);
        // The values are in the list that was just read.
        let keys: Vec<_> = keys.iter().map(|text| key(text)).collect();
        let results = provider.get_many(&keys).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(list_count(&place), 2);
    }
}

#[tokio::test]
async fn one_import_below_does_not_list_each_folder() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let (fake, project) = (place.as_fake(), &place.project);
        let folder = |number: usize| place.folder_path(Some(&format!("f{number:02}")));
        for number in 0..45 {
            fake.set(project, "dev", &folder(number), "A", "value");
        }
        fake.set(
            project,
            "dev",
            &place.folder_path(Some("shared")),
            "B",
            "value",
        );
        let shared = place.folder_path(Some("shared"));
        // Newer servers list an import once that several folders have.
        for into in [&place.folder, &folder(7), &folder(30)] {
            fake.import(project, ("dev", into), ("dev", &shared));
        }
        fake.rate_limit(Some(40));
        let provider = place.provider().api(api).build().unwrap();
        let keys = listed(&provider).await;
        assert_eq!(keys.len(), 49, "{keys:?}");
        assert!(
            ["B", "f07/B", "f30/B"]
                .iter()
                .all(|key| keys.contains(&(*key).to_owned()))
        );
        assert_eq!(list_count(&place), 4);

        // Without the permission to list imports, each folder is listed.
        fake.rate_limit(None);
        fake.fail_requests(
            "GET /api/v1/secret-imports",
            403,
            "PermissionDenied",
            "not allowed",
        );
        let provider = place.provider().api(api).build().unwrap();
        assert_eq!(listed(&provider).await.len(), 49);
        // An outage does not hide keys.
        fake.clear_failures();
        fake.fail_requests(
            "GET /api/v1/secret-imports",
            500,
            "Find",
            "Something went wrong",
        );
        let error = provider.list(&KeyPrefix::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn imports_of_a_folder_below_are_listed() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(Some("a"), "OWN", "value").await;
        place.write(Some("shared"), "IMPORTED", "value").await;
        let into = place.folder_path(Some("a"));
        let from = place.folder_path(Some("shared"));
        let project = &place.project;
        place
            .as_fake()
            .import(project, ("dev", &into), ("dev", &from));
        let provider = place.provider().api(api).build().unwrap();
        let expected = ["a/IMPORTED", "a/OWN", "shared/IMPORTED"];
        assert_eq!(listed(&provider).await, expected);
    }
}

#[tokio::test]
async fn thirty_keys_one_after_the_other_take_one_list() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let fake = place.as_fake();
        let names: Vec<_> = (0..30).map(|number| format!("KEY_{number}")).collect();
        for name in &names {
            fake.set(&place.project, "dev", &place.folder, name, "value");
        }
        let resolver = Resolver::new(place.provider().api(api).build().unwrap());
        for name in &names {
            resolver.get(name).await.unwrap();
        }
        let lists = list_count(&place);
        assert!(lists <= 2, "{lists} lists");
        assert_eq!(fake.count("POST /api/v1/auth/", 200), 1);
    }
}

#[tokio::test]
async fn thirty_missing_keys_one_after_the_other_take_one_list() {
    for api in BOTH {
        for folder in ["", "none/"] {
            let place = Place::fake(api).await;
            place.write(None, "A", "value").await;
            let resolver = Resolver::new(place.provider().api(api).build().unwrap());
            for number in 0..30 {
                let error = resolver
                    .get(&format!("{folder}KEY_{number}"))
                    .await
                    .unwrap_err();
                assert!(error.is_not_found(), "{error}");
            }
            let lists = list_count(&place);
            assert!(lists <= 2, "{lists} lists");
            let folders = place.as_fake().count("GET /api/v1/folders", 200);
            assert!(folders <= 2, "{folders} requests for folders");
        }
    }
}

#[tokio::test]
async fn updated_key_is_read_again_within_the_second() {
    for api in BOTH {
        let place = Place::fake(api).await;
        for name in ["A", "B"] {
            place.write(None, name, "first").await;
        }
        let provider = place.provider().api(api).build().unwrap();
        assert_eq!(text(&provider, "A").await, "first");
        assert_eq!(text(&provider, "B").await, "first");
        for value in ["second", "third"] {
            place.write(None, "A", value).await;
            assert_eq!(text(&provider, "A").await, value);
        }
        // The last list also shows that a key is missing, but only once.
        place.write(None, "NEW", "value").await;
        let _ = provider.get(&key("NEW")).await;
        assert_eq!(text(&provider, "NEW").await, "value");
        // A deleted key is not served from the list.
        place.delete(None, "A").await;
        let error = provider.get(&key("A")).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        // A rejected value is not served again.
        place.write(None, "B", "second").await;
        provider.discard(&key("B"), None);
        assert_eq!(text(&provider, "B").await, "second");
    }
}

#[tokio::test]
async fn recent_list_does_not_answer_after_a_notification() {
    for api in BOTH {
        for (name, change) in [
            ("NEW", Change::Keys([key("NEW")].into())),
            ("NEW", Change::All),
            ("db/NEW", Change::All),
        ] {
            let place = Place::fake(api).await;
            place.write(None, "A", "value").await;
            place.write(Some("db"), "A", "value").await;
            let hub = NotifyHub::new();
            let provider = hub.wrap(place.provider().api(api).build().unwrap());
            let resolver = Resolver::new(provider);
            for name in ["A", "db/A", "a/A", "b/A"] {
                let _ = resolver.get(name).await;
            }
            // This list is recursive.
            let _ = resolver.get_many(&["B", "db/B", "a/B", "b/B"]).await;
            let (folder, new) = name
                .split_once('/')
                .map_or((None, name), |(f, n)| (Some(f), n));
            place.write(folder, new, "value").await;
            hub.notify(change.clone());
            let secret = resolver.get(name).await.unwrap();
            assert_eq!(secret.value.expose_text().unwrap(), "value", "{change:?}");
        }
    }
}

#[tokio::test]
async fn sibling_folder_with_the_same_prefix_is_not_listed() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(Some("api"), "KEY", "value").await;
        place.write(Some("api/v1"), "KEY", "value").await;
        place.write(Some("api-gateway"), "GATEWAY", "value").await;
        let provider = place
            .provider()
            .folder(place.folder_path(Some("api")))
            .build()
            .unwrap();
        assert_eq!(listed(&provider).await, ["KEY", "v1/KEY"]);
        let prefixed = place.provider().build().unwrap();
        let prefix = KeyPrefix::parse("api").unwrap();
        let keys = prefixed.list(&prefix).await.unwrap();
        let keys: Vec<_> = keys.iter().map(SecretKey::to_string).collect();
        assert_eq!(keys, ["api/KEY", "api/v1/KEY"]);
    }
}

#[tokio::test]
async fn name_of_150_characters_does_not_block_its_folder() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let long = "L".repeat(150);
        let fake = place.as_fake();
        fake.set(&place.project, "dev", &place.folder, &long, "long");
        fake.set(&place.project, "dev", &place.folder, "A", "value");
        let broken = "B".repeat(150);
        fake.set(&place.project, "dev", &place.folder, &broken, "${MISSING}");
        let provider = place.provider().build().unwrap();
        let keys: Vec<_> = listed(&provider)
            .await
            .iter()
            .map(|text| key(text))
            .collect();
        let results = provider.get_many(&keys).await;
        assert_eq!(results.len(), 3);
        assert_eq!(text(&provider, &long).await, "long");
        assert_eq!(text(&provider, "A").await, "value");
        // Only a name that must be read by itself is too long.
        let error = provider.get(&key(&broken)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey, "{error}");
    }
}

#[tokio::test]
async fn list_without_permission_is_denied_with_and_without_imports() {
    let place = Place::fake_with(ApiVersion::V3, |identity| identity).await;
    let fake = place.as_fake();
    let identity = Identity::new().member(&place.project, Role::NoAccess);
    let identity = fake.identity(identity);
    let secret = secretwell::infisical::Credential::value(identity.client_secret.as_str());
    let auth = secretwell::infisical::InfisicalAuth::universal(identity.client_id, secret);
    let builder = || place.provider().auth(auth.clone());
    for provider in [builder().build(), builder().without_imports().build()] {
        let error = provider
            .unwrap()
            .list(&KeyPrefix::root())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
}

#[tokio::test]
async fn wait_for_the_rate_limit_is_named() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "value").await;
    place.as_fake().rate_limit(Some(2));
    let short_deadline = |client: ClientConfig| client.deadline(secs(1));
    let builder = place.provider().api(ApiVersion::V3).client(short_deadline);
    let provider = builder.build().unwrap();
    let mut error = None;
    for _ in 0..4 {
        error = provider.get(&key("A")).await.err();
    }
    let error = error.unwrap().to_string();
    assert!(error.contains("rate limit"), "{error}");
    assert!(!error.contains("load"), "{error}");
}
