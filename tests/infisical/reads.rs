//! What is read, how often, and what is said when it is not there.

use std::time::Duration;

use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{ErrorKind, Freshness, KeyPrefix, Resolver, SecretProvider, Version};
use secretwell_testkit::{Fault, FaultProxy};

use super::place::Place;
use crate::support::{answer, key, remote_faults, secs};

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

/// Lists so far, and how many of them were answered without a body.
fn lists(place: &Place) -> (usize, usize) {
    let fake = place.as_fake();
    let lists = ["GET /api/v3/secrets/raw?", "GET /api/v4/secrets?"];
    let count = |status| lists.iter().map(|start| fake.count(start, status)).sum();
    (count(200), count(304))
}

fn singles(place: &Place) -> usize {
    let requests = place.as_fake().requests();
    let single = |line: &&String| {
        line.starts_with("GET /api/v") && line.contains("/secrets/") && !line.contains("/raw?")
    };
    requests.iter().filter(single).count()
}

#[tokio::test]
async fn two_hundred_secrets_cost_one_login_and_one_list_and_unchanged_ones_no_body() {
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
            let answers = provider.get_many(&keys).await;
            assert!(answers.iter().all(Result::is_ok));
            assert_eq!(lists(&place), (1, round));
        }
        assert_eq!(fake.count("POST /api/v1/auth/", 200), 1);
        assert_eq!(fake.requests().len(), 4);

        fake.set(&place.project, "dev", &place.folder, "SECRET_7", "another");
        assert_eq!(text(&provider, "SECRET_7").await, "another");
        assert_eq!(lists(&place), (2, 2));
    }
}

#[tokio::test]
async fn the_version_of_the_api_is_found_out_once() {
    for (api, newer) in [(ApiVersion::V3, 1), (ApiVersion::V4, 3)] {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        let provider = place.provider().build().unwrap();
        for _ in 0..3 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        let requests = place.as_fake().requests();
        let asked = |start: &str| {
            requests
                .iter()
                .filter(|line| line.starts_with(start))
                .count()
        };
        assert_eq!(asked("GET /api/v4/secrets?"), newer);
        assert_eq!(
            asked("GET /api/v3/secrets/raw?"),
            if newer == 1 { 3 } else { 0 }
        );
    }
}

#[tokio::test]
async fn imports_count_after_what_the_folder_has_and_the_later_one_first() {
    for api in BOTH {
        let place = Place::new(api).await;
        for (directory, value) in [(None, "own"), (Some("one"), "one"), (Some("two"), "two")] {
            place.write(directory, "EVERYWHERE", value).await;
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
async fn references_are_replaced_and_one_that_leads_nowhere_is_named() {
    for api in BOTH {
        let place = Place::new(api).await;
        place.write(None, "HOST", "db.internal").await;
        place.write(None, "URL", "postgres://${HOST}/app").await;
        place
            .write(None, "BROKEN", "postgres://${NO_HOST}/app")
            .await;
        place
            .write(None, "ASTRAY", "${no-such-environment.HOST}")
            .await;
        place.write(None, "SHELL", "${HOST:-localhost}").await;
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "URL").await, "postgres://db.internal/app");
        assert_eq!(text(&provider, "SHELL").await, "${HOST:-localhost}");
        for (name, reference) in [
            ("BROKEN", "`NO_HOST`"),
            ("ASTRAY", "`no-such-environment.HOST`"),
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
async fn a_half_expanded_list_is_confirmed_by_a_single_read() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "DEEP", "leaf").await;
    place.write(None, "MID", "<${DEEP}>").await;
    place.write(None, "TOP", "(${MID})").await;
    place.as_fake().break_list_expansion();
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "MID").await, "<leaf>");
    assert_eq!(singles(&place), 0);
    // Once for as long as the list is the same.
    for _ in 0..3 {
        assert_eq!(text(&provider, "TOP").await, "(<leaf>)");
    }
    assert_eq!(singles(&place), 1);
    place.write(None, "DEEP", "root").await;
    assert_eq!(text(&provider, "TOP").await, "(<root>)");
    assert_eq!(singles(&place), 2);
}

#[tokio::test]
async fn what_is_left_in_a_list_is_looked_into_once_while_that_can_be_the_same() {
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "BROKEN", "${NONE}").await;
    place.write(Some("x"), "DEEP", "first").await;
    let inside = |folder| {
        format!(
            "${{dev{}",
            place.folder_path(Some(folder)).replace('/', ".")
        )
    };
    let deep = format!("{}.DEEP}}", inside("x"));
    place.write(Some("y"), "MID", &deep).await;
    let mid = format!("{}.MID}}", inside("y"));
    place.write(None, "TOP", &mid).await;
    place.as_fake().break_list_expansion();
    let provider = place.provider().build().unwrap();
    for _ in 0..3 {
        let error = provider.get(&key("BROKEN")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(singles(&place), 1);
    // It stands in a list that stays the same when what it leads to does not.
    assert_eq!(text(&provider, "TOP").await, "first");
    place.write(Some("x"), "DEEP", "second").await;
    assert_eq!(text(&provider, "TOP").await, "second");
}

#[tokio::test]
async fn a_reference_that_leads_nowhere_is_none_of_an_earlier_version_either() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "${NONE}").await;
    place.write(None, "A", "value").await;
    let first = Version::numbered(1);
    let provider = place.provider().build().unwrap();
    let error = provider.get_version(&key("A"), &first).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("`NONE`"), "{error}");
    let raw = place
        .provider()
        .without_reference_expansion()
        .build()
        .unwrap();
    let secret = raw.get_version(&key("A"), &first).await.unwrap();
    assert_eq!(secret.value.expose_text().unwrap(), "${NONE}");
}

#[tokio::test]
async fn what_is_missing_is_said() {
    for api in BOTH {
        let place = Place::new(api).await;
        let missing = async |provider: InfisicalProvider, name: &str| {
            let error = provider.get(&key(name)).await.unwrap_err();
            (error.kind(), error.message().to_owned())
        };
        let provider = || place.provider();
        let secret = (ErrorKind::NotFound, "there is no such secret".to_owned());
        // An empty folder, and one that is not.
        assert_eq!(missing(provider().build().unwrap(), "A").await, secret);
        place.write(None, "B", "value").await;
        assert_eq!(missing(provider().build().unwrap(), "A").await, secret);

        let folder = (ErrorKind::NotFound, "there is no such folder".to_owned());
        assert_eq!(missing(provider().build().unwrap(), "none/A").await, folder);
        let nowhere = provider().folder("/none/such").build().unwrap();
        assert_eq!(missing(nowhere, "A").await, folder);

        let environment = "the project has no such environment".to_owned();
        for typo in ["qa", "DEV"] {
            let nowhere = provider().environment(typo).build().unwrap();
            let found = missing(nowhere, "A").await;
            assert_eq!(found, (ErrorKind::InvalidConfig, environment.clone()));
        }
        let project = (
            ErrorKind::InvalidConfig,
            "there is no such project".to_owned(),
        );
        for wrong in ["no-such-project", "00000000-0000-4000-8000-00000000dead"] {
            let nowhere = provider().project(wrong).build().unwrap();
            assert_eq!(missing(nowhere, "A").await, project, "{wrong}");
        }
    }
}

#[tokio::test]
async fn whether_an_empty_folder_is_there_is_asked_once() {
    let place = Place::fake(ApiVersion::V4).await;
    let provider = place.provider().build().unwrap();
    for _ in 0..3 {
        assert!(provider.get(&key("A")).await.unwrap_err().is_not_found());
    }
    assert_eq!(place.as_fake().count("GET /api/v1/folders", 200), 1);
    assert_eq!(lists(&place), (1, 2));
}

#[tokio::test]
async fn keys_of_many_folders_cost_one_list_and_one_more_for_what_is_imported() {
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
        let answers = provider.get_many(&keys).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(lists(&place), (1, 0));

        keys.push(key("d/IMPORTED"));
        let answers = provider.get_many(&keys).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(lists(&place), (2, 1));
    }
}

#[tokio::test]
async fn a_slug_names_a_project_as_well() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "A", "value").await;
        let provider = place.provider().project("demo").build().unwrap();
        for _ in 0..2 {
            assert_eq!(text(&provider, "A").await, "value");
        }
        let asked = place.as_fake().count("GET /api/v2/workspace/demo", 200);
        assert_eq!(asked, 1);
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
        "no login is tried for a permission"
    );
}

#[tokio::test]
async fn a_reference_to_what_may_not_be_read_is_denied() {
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
async fn personal_values_count_when_they_are_asked_for() {
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
async fn tags_choose() {
    let place = Place::fake(ApiVersion::V3).await;
    for (name, tag) in [("A", "app"), ("B", "other")] {
        place.write(None, name, "value").await;
        let fake = place.as_fake();
        fake.describe(&place.project, "dev", &place.folder, name, "", &[tag]);
    }
    let provider = place.provider().tags(["app"]).build().unwrap();
    assert_eq!(text(&provider, "A").await, "value");
    let error = provider.get(&key("B")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn an_earlier_version_is_never_the_current_one() {
    // Found out to be of the older version, so that earlier versions are still claimed.
    let place = Place::fake(ApiVersion::V3).await;
    place.write(None, "A", "first").await;
    place.write(None, "A", "second").await;
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "A").await, "second");
    let asked = provider.get_version(&key("A"), &Version::numbered(1)).await;
    let error = asked.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let asked = provider.get_version(&key("A"), &Version::numbered(2)).await;
    assert_eq!(asked.unwrap().value.expose_text().unwrap(), "second");
}

#[tokio::test]
async fn a_rate_limit_makes_it_slower_and_serves_what_is_held() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    place.as_fake().rate_limit(Some(3));
    let quick = |client: secretwell::infisical::ClientConfig| client.deadline(secs(1));
    let provider = place.provider().client(quick).build().unwrap();
    let ttl = Duration::from_millis(100);
    let resolver = Resolver::builder(provider).ttl(ttl).build();
    resolver.get("A").await.unwrap();
    // Asked for again and again, and once too often.
    let stale = async {
        loop {
            let held = resolver.get("A").await.unwrap();
            if let Freshness::Stale { reason, .. } = &held.freshness {
                break (held.value.clone(), reason.clone());
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
    assert!(refused <= 1, "{refused} requests too many");
}

#[tokio::test]
async fn faults_are_typed_within_the_deadline_and_leave_nothing_behind() {
    let place = Place::fake(ApiVersion::V4).await;
    place.write(None, "A", "value").await;
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let quick = |client: secretwell::infisical::ClientConfig| {
        client
            .deadline(Duration::from_millis(2500))
            .attempt_timeout(Duration::from_secs(2))
            .max_bytes(1 << 20)
    };
    let url = format!("http://{}", proxy.address());
    let provider = place.provider_at(&url).client(quick).build().unwrap();
    assert_eq!(text(&provider, "A").await, "value");

    let elsewhere = FaultProxy::start(place.as_fake().address()).await;
    let redirect = format!("http://{}/api/v4/secrets", elsewhere.address());
    let twice =
        r#"{"secrets":[{"secretKey":"A","secretValue":"1","secretValue":"2","version":1}]}"#;
    let of_infisical = [
        (
            "a proxy's 401",
            answer("401 Unauthorized", "<html>"),
            ErrorKind::Malformed,
        ),
        (
            "a proxy's 403",
            answer("403 Forbidden", "<html>"),
            ErrorKind::Malformed,
        ),
        (
            "a proxy's 404",
            answer("404 Not Found", "<html>"),
            ErrorKind::Malformed,
        ),
        ("broken", answer("500 No", "{}"), ErrorKind::Unavailable),
        ("starting", answer("503 No", ""), ErrorKind::Unavailable),
    ];
    let faults = remote_faults("secrets", twice, &redirect, 40);
    for (name, fault, kind) in faults.into_iter().chain(of_infisical) {
        proxy.set(fault);
        let asked = tokio::time::timeout(secs(5), provider.get(&key("A"))).await;
        let error = asked
            .unwrap_or_else(|_| panic!("{name}: no answer"))
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        proxy.set(Fault::None);
        assert_eq!(text(&provider, "A").await, "value");
    }
    assert!(
        elsewhere.requests().is_empty(),
        "no token leaves the configured server"
    );
}
