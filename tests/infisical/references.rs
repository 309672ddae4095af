//! References between secrets, on older and on newer servers.

use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{ErrorKind, SecretProvider, Version};
use secretwell_testkit::FaultProxy;

use super::place::Place;
use crate::support::{key, response};

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

async fn assert_invalid(provider: &InfisicalProvider, name: &str, part: &str) {
    let error = provider.get(&key(name)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
    assert!(error.to_string().contains(part), "{name}: {error}");
}

/// Adds a secret whose reference the login must not read, so that the newest server refuses the expanded list.
async fn add_forbidden_reference(place: &Place) {
    place.write(Some("private"), "X", "value").await;
    let private = place.folder_path(Some("private"));
    let reference = format!("${{dev{}.X}}", private.replace('/', "."));
    place.write(None, "FORBIDDEN", &reference).await;
    place.as_fake().deny(&place.identity, "dev", &private);
}

/// Returns a proxy that refuses each list with values, as newer servers do if the login must not read one of them.
async fn refuse_values(place: &Place) -> FaultProxy {
    let proxy = FaultProxy::start(place.as_fake().address()).await;
    let id = &place.project;
    let start = format!("GET /api/v4/secrets?environment=dev&projectId={id}&viewSecretValue=true");
    let body = r#"{"reqId":"r","statusCode":403,"message":"You are not allowed to read","error":"PermissionDenied","details":[]}"#;
    proxy.set_for(&start, response("403 Forbidden", body));
    proxy
}

fn provider_at(place: &Place, proxy: &FaultProxy) -> InfisicalProvider {
    let url = format!("http://{}", proxy.address());
    place.provider_at(&url).build().unwrap()
}

/// Returns the text between the braces of a value.
fn text_in_braces(value: &str) -> &str {
    let (_, rest) = value.split_once("${").unwrap();
    rest.split_once('}').unwrap().0
}

/// Sets secrets in the test folder. Their names can have any characters.
fn set(place: &Place, secrets: &[(&str, &str)]) {
    for (name, value) in secrets {
        place
            .as_fake()
            .set(&place.project, "dev", &place.folder, name, value);
    }
}

#[tokio::test]
async fn references_with_any_character_are_found() {
    let place = Place::fake(ApiVersion::V3).await;
    set(
        &place,
        &[
            ("S 0", "-${S 1}"),
            ("S 1", "-${S 2}"),
            ("S 2", "leaf"),
            ("VALUE", "v-${S 0}"),
            ("BROKEN", "v-${NO SUCH/ÑAME}"),
        ],
    );
    place.as_fake().use_partial_list_expansion();
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "VALUE").await, "v---leaf");
    let error = provider.get(&key("BROKEN")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("a reference in"), "{error}");
}

#[tokio::test]
async fn error_quotes_no_part_of_a_value_that_is_not_a_name() {
    let long = format!("${{{}hunter2}}", "a".repeat(100));
    for value in [
        r#"{"t":"${a.b","password":"hun.ter2"}"#,
        r#"{"t":"${a","password":"hunter2"}"#,
        "${a.b c=hun.ter2}",
        "${A\nhunter2}",
        &long,
    ] {
        let place = Place::fake(ApiVersion::V3).await;
        // The server leaves the text of a cycle as it is.
        set(&place, &[("A", value), (text_in_braces(value), value)]);
        let provider = place.provider().build().unwrap();
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        for text in [error.to_string(), format!("{error:?}")] {
            let is_quoted = ["hun", "ter2", "password"]
                .iter()
                .any(|it| text.contains(it));
            assert!(!is_quoted, "{text}");
        }
    }
}

#[tokio::test]
async fn padded_reference_is_a_literal_on_newer_servers() {
    for (api, expected) in [(ApiVersion::V3, "<value>"), (ApiVersion::V4, "<${ A }>")] {
        let place = Place::fake(api).await;
        set(&place, &[("A", "value"), ("PADDED", "<${ A }>")]);
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "PADDED").await, expected);
    }
}

#[tokio::test]
async fn reference_to_an_empty_secret_is_empty() {
    for api in BOTH {
        let place = Place::fake(api).await;
        set(
            &place,
            &[
                ("EMPTY", ""),
                ("TO_EMPTY", "${EMPTY}"),
                ("AROUND", "[${EMPTY}]${EMPTY}"),
                ("BOTH", "${EMPTY}${MISSING}"),
            ],
        );
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "TO_EMPTY").await, "");
        assert_eq!(text(&provider, "AROUND").await, "[]");
        let error = provider.get(&key("BOTH")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("`MISSING`"), "{error}");
    }
}

#[tokio::test]
async fn shell_syntax_is_a_literal() {
    for api in BOTH {
        let place = Place::fake(api).await;
        let values = [
            "${HOME:-/root}",
            "${A:?missing}",
            "${}",
            "$HOME",
            "${",
            "${\"A\"}",
        ];
        for (number, value) in values.iter().enumerate() {
            set(&place, &[(&format!("S{number}"), value)]);
        }
        let provider = place.provider().build().unwrap();
        for (number, value) in values.iter().enumerate() {
            assert_eq!(text(&provider, &format!("S{number}")).await, *value);
        }
    }
}

#[tokio::test]
async fn literal_that_might_be_a_reference_affects_only_its_own_key() {
    for api in BOTH {
        let place = Place::fake(api).await;
        set(&place, &[("A", "value"), ("SCRIPT", "cd ${HOME}")]);
        let provider = place.provider().build().unwrap();
        let results = provider.get_many(&[key("A"), key("SCRIPT")]).await;
        assert!(results[0].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("SCRIPT"), "{error}");
    }
}

#[tokio::test]
async fn personal_value_with_a_broken_reference_is_invalid() {
    for api in BOTH {
        let place = Place::fake(api).await;
        set(&place, &[("A", "a"), ("PREF", "shared-${A}")]);
        let (fake, folder) = (place.as_fake(), &place.folder);
        fake.set_personal(&place.project, "dev", folder, "PREF", "mine-${NOPE}");
        let provider = place.provider().personal_overrides().build().unwrap();
        let error = provider.get(&key("PREF")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("`NOPE`"), "{error}");
        let requests = fake.requests();
        let single = requests
            .iter()
            .find(|line| line.contains("/PREF?"))
            .unwrap();
        assert!(single.contains("type=personal"), "{single}");

        let shared = place.provider().build().unwrap();
        assert_eq!(text(&shared, "PREF").await, "shared-a");
    }
}

#[tokio::test]
async fn referenced_lines_in_quotes_are_invalid() {
    for api in BOTH {
        let place = Place::fake(api).await;
        set(
            &place,
            &[
                ("PEM", "line1\nline2"),
                ("PEM_REF", "${PEM}"),
                ("QUOTED", r#""line1\nline2""#),
                ("PLAIN_REF", "${PEM}"),
            ],
        );
        for name in ["PEM", "PEM_REF", "QUOTED"] {
            let (project, folder) = (&place.project, &place.folder);
            place
                .as_fake()
                .skip_multiline_encoding(project, "dev", folder, name);
        }
        let provider = place.provider().build().unwrap();
        let error = provider.get(&key("PEM_REF")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(!error.is_temporary(), "{error}");
        // A value that is stored in this form is returned as it is.
        assert_eq!(text(&provider, "QUOTED").await, r#""line1\nline2""#);
        assert_eq!(text(&provider, "PEM").await, "line1\nline2");
        assert_eq!(text(&provider, "PLAIN_REF").await, "line1\nline2");
    }
}

#[tokio::test]
async fn referenced_lines_in_quotes_are_invalid_in_each_kind_of_read() {
    const QUOTED: &str = r#""line1\nline2""#;
    for api in BOTH {
        let place = Place::fake(api).await;
        set(
            &place,
            &[
                ("PEM", "line1\nline2"),
                ("MID", "${PEM}"),
                ("PEM_REF", "${MID}"),
                ("QUOTED", QUOTED),
                ("EMPTY", ""),
                ("QUOTED_REF", "${QUOTED}"),
            ],
        );
        for name in ["PEM_REF", "QUOTED"] {
            let (project, folder) = (&place.project, &place.folder);
            let fake = place.as_fake();
            fake.skip_multiline_encoding(project, "dev", folder, name);
        }
        add_forbidden_reference(&place).await;
        if api == ApiVersion::V3 {
            place.as_fake().use_partial_list_expansion();
        }
        let mut providers = vec![place.provider().build().unwrap()];
        let proxy = refuse_values(&place).await;
        if api == ApiVersion::V4 {
            // The list is refused, and the raw list has the stored value.
            assert_eq!(text(&providers[0], "QUOTED").await, QUOTED);
            let requests = place.as_fake().requests();
            assert!(
                !requests.iter().any(|it| it.contains("/QUOTED?")),
                "{requests:?}"
            );
            providers.push(provider_at(&place, &proxy));
        }
        for provider in &providers {
            for _ in 0..2 {
                assert_invalid(provider, "PEM_REF", "one line in quotes").await;
                assert_eq!(text(provider, "QUOTED").await, QUOTED);
                assert_eq!(text(provider, "QUOTED_REF").await, QUOTED);
                assert_eq!(text(provider, "PEM").await, "line1\nline2");
            }
            let first = Version::numbered(1);
            let error = provider.get_version(&key("PEM_REF"), &first).await;
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
            let secret = provider.get_version(&key("QUOTED"), &first).await.unwrap();
            assert_eq!(secret.value.expose_text().unwrap(), QUOTED);
        }
    }
}

#[tokio::test]
async fn imported_reference_is_not_resolved_in_another_folder_than_in_the_list() {
    for (api, expected) in [(ApiVersion::V3, "s"), (ApiVersion::V4, "a")] {
        let place = Place::fake(api).await;
        let shared = [
            ("URL", "${HOST}"),
            ("DEEP", "<${URL}>"),
            ("HOST", "s"),
            ("PLAIN", "plain"),
            ("BROKEN", "${NOPE}"),
        ];
        for (name, value) in shared {
            place.write(Some("shared"), name, value).await;
        }
        place.write(None, "HOST", "a").await;
        place.import(Some("shared")).await;
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "URL").await, expected);
        assert_eq!(text(&provider, "PLAIN").await, "plain");
        assert_invalid(&provider, "BROKEN", "`NOPE`").await;

        if api == ApiVersion::V4 {
            let proxy = refuse_values(&place).await;
            let names_only = provider_at(&place, &proxy);
            assert_invalid(&names_only, "URL", "`HOST` of an imported secret").await;
            assert_eq!(text(&names_only, "PLAIN").await, "plain");
            assert_eq!(text(&names_only, "HOST").await, "a");
        }
        add_forbidden_reference(&place).await;
        for provider in [provider, place.provider().build().unwrap()] {
            match api {
                // The list is not refused. A single read has the same result.
                ApiVersion::V3 => assert_eq!(text(&provider, "URL").await, expected),
                _ => assert_invalid(&provider, "URL", "`HOST` of an imported secret").await,
            }
            assert_eq!(text(&provider, "PLAIN").await, "plain");
            assert_eq!(text(&provider, "HOST").await, "a");
        }
        if api == ApiVersion::V3 {
            place.as_fake().use_partial_list_expansion();
            let provider = place.provider().build().unwrap();
            assert_eq!(text(&provider, "DEEP").await, "<s>");
        }
    }
}

#[tokio::test]
async fn half_expanded_reference_with_unusual_characters_is_resolved() {
    let place = Place::fake(ApiVersion::V3).await;
    set(
        &place,
        &[
            ("S:5", "leaf"),
            ("S\"6\"", "leaf"),
            ("MID", "-${S:5}"),
            ("MID_6", "-${S\"6\"}"),
            ("VALUE", "v-${MID}"),
            ("VALUE_6", "v-${MID_6}"),
            ("CYCLE:A", "${CYCLE:A}"),
        ],
    );
    place.as_fake().use_partial_list_expansion();
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "VALUE").await, "v--leaf");
    assert_eq!(text(&provider, "VALUE_6").await, "v--leaf");
    assert_invalid(&provider, "CYCLE:A", "a reference in").await;

    // Newer servers do not replace such a name.
    let place = Place::fake(ApiVersion::V4).await;
    set(&place, &[("SLICE", "${PATH:5}")]);
    let provider = place.provider().build().unwrap();
    assert_eq!(text(&provider, "SLICE").await, "${PATH:5}");
}

#[tokio::test]
async fn reference_to_an_empty_secret_of_another_folder_is_empty() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(Some("x"), "EMPTY", "").await;
        let folder = place.folder_path(Some("x")).replace('/', ".");
        place
            .write(None, "TO_EMPTY", &format!("[${{dev{folder}.EMPTY}}]"))
            .await;
        place
            .write(None, "BROKEN", &format!("[${{dev{folder}.NOPE}}]"))
            .await;
        place.write(None, "NO_PLACE", "[${qa.EMPTY}]").await;
        let provider = place.provider().build().unwrap();
        assert_eq!(text(&provider, "TO_EMPTY").await, "[]");
        assert_invalid(&provider, "BROKEN", ".NOPE`").await;
        assert_invalid(&provider, "NO_PLACE", "`qa.EMPTY`").await;
        if api == ApiVersion::V3 {
            // Each name is read once, and none after an unresolved one.
            let (empty, rest) = (
                format!("${{dev{folder}.EMPTY}}"),
                format!("${{dev{folder}.X}}"),
            );
            let value = format!("{empty}{empty}${{MISSING}}{rest}");
            set(&place, &[("SEVERAL", &value)]);
            let count = |name: &str| {
                let requests = place.as_fake().requests();
                let start = format!("GET /api/v3/secrets/raw/{name}?");
                requests
                    .iter()
                    .filter(|line| line.starts_with(&start))
                    .count()
            };
            provider.discard(&key("SEVERAL"), None);
            let before = count("EMPTY");
            assert_invalid(&provider, "SEVERAL", "`MISSING`").await;
            assert_eq!((count("EMPTY") - before, count("X")), (1, 0));
        }
        // A later value is seen.
        place.write(Some("x"), "EMPTY", "full").await;
        assert_eq!(text(&provider, "TO_EMPTY").await, "[full]");
    }
}

#[tokio::test]
async fn personal_value_is_compared_with_the_personal_value() {
    const QUOTED: &str = r#""line1\nline2""#;
    for api in BOTH {
        let place = Place::fake(api).await;
        let (fake, folder) = (place.as_fake(), &place.folder);
        set(&place, &[("A", "shared")]);
        fake.set_personal(&place.project, "dev", folder, "A", QUOTED);
        // Only the personal value is marked.
        fake.remove(&place.project, "dev", folder, "A");
        fake.skip_multiline_encoding(&place.project, "dev", folder, "A");
        set(&place, &[("A", "shared")]);
        let provider = place.provider().personal_overrides().build().unwrap();
        assert_eq!(text(&provider, "A").await, QUOTED);
    }
}

#[tokio::test]
async fn listed_personal_value_is_neither_missing_nor_the_shared_one() {
    let place = Place::fake(ApiVersion::V4).await;
    let (fake, folder) = (place.as_fake(), &place.folder);
    set(&place, &[("A", "shared")]);
    fake.set_personal(&place.project, "dev", folder, "A", "personal");
    let proxy = refuse_values(&place).await;
    let url = format!("http://{}", proxy.address());
    let builder = || place.provider_at(&url).personal_overrides();
    assert_eq!(text(&builder().build().unwrap(), "A").await, "personal");
    // Not every server returns the personal value in a single read.
    let message = "Secret with name 'A' not found";
    fake.fail_requests("GET /api/v4/secrets/A", 404, "NotFound", message);
    let provider = builder().build().unwrap();
    let error = provider.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
