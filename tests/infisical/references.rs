//! References between secrets, on older and on newer servers.

use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{ErrorKind, SecretProvider};

use super::place::Place;
use crate::support::key;

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
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
    assert!(error.to_string().contains("`NO SUCH/ÑAME`"), "{error}");
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
