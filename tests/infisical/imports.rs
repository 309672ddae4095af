//! Imports: which value counts, and imports that the login must not read.

use secretwell::backend::NoticeKind;
use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{Chain, ErrorKind, KeyPrefix, MemoryProvider, Resolver, SecretProvider};

use super::place::Place;
use crate::support::key;

const BOTH: [ApiVersion; 2] = [ApiVersion::V3, ApiVersion::V4];

async fn text(provider: &InfisicalProvider, name: &str) -> String {
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

/// Makes the folder `into` import the folder `from`. Both are below the test folder, and `None` is the test folder.
fn import(place: &Place, into: Option<&str>, from: Option<&str>) {
    let (into, from) = (place.folder_path(into), place.folder_path(from));
    let project = &place.project;
    place
        .as_fake()
        .import(project, ("dev", &into), ("dev", &from));
}

#[tokio::test]
async fn imported_folder_overrides_the_folders_that_it_imports() {
    for api in BOTH {
        let place = Place::fake(api).await;
        for (folder, name) in [("team", "A"), ("base", "A"), ("base", "B")] {
            place.write(Some(folder), name, folder).await;
        }
        import(&place, None, Some("team"));
        import(&place, Some("team"), Some("base"));
        // The imports are a circle.
        import(&place, Some("base"), Some("team"));
        let expanding = place.provider().build().unwrap();
        let raw = place.provider().without_reference_expansion();
        for provider in [expanding, raw.build().unwrap()] {
            assert_eq!(text(&provider, "A").await, "team", "{api:?}");
            assert_eq!(text(&provider, "B").await, "base", "{api:?}");
        }
    }
}

#[tokio::test]
async fn secret_of_an_unreadable_import_is_denied_and_not_absent() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "OWN", "value").await;
        place.write(Some("readable"), "B", "value").await;
        place.write(Some("private"), "A", "strong").await;
        place
            .as_fake()
            .folder(&place.project, "dev", &place.folder_path(Some("empty")));
        for folder in ["private", "readable", "empty"] {
            import(&place, None, Some(folder));
        }
        let provider = place.provider().build().unwrap();
        let fallback: MemoryProvider = [("A", "weak"), ("NONE", "weak")].into_iter().collect();
        let resolver = Resolver::new(Chain::new(provider.clone()).or_else(fallback));
        // An import without secrets does not matter.
        let found = resolver.get("NONE").await.unwrap();
        assert_eq!(found.value.expose_text().unwrap(), "weak");
        assert_eq!(text(&provider, "A").await, "strong");

        let private = place.folder_path(Some("private"));
        place.as_fake().deny(&place.identity, "dev", &private);
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{api:?}: {error}");
        assert!(error.to_string().contains("/private"), "{error}");
        let error = resolver.get("A").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{api:?}: {error}");
        for name in ["OWN", "B"] {
            assert_eq!(text(&provider, name).await, "value");
        }
        // The imports are not checked at each read.
        let before = place.as_fake().count("GET /api/v1/secret-imports", 200);
        for _ in 0..3 {
            provider.get(&key("A")).await.unwrap_err();
        }
        let after = place.as_fake().count("GET /api/v1/secret-imports", 200);
        assert_eq!(after, before);

        // A program that gets all secrets misses those of the import.
        let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert_eq!(notices[0].kind, NoticeKind::Unreadable);
        assert!(notices[0].message.contains("/private"), "{notices:?}");

        let without_imports = place.provider().without_imports().build().unwrap();
        let notices = without_imports.notices(&KeyPrefix::root()).await;
        assert!(notices.unwrap().is_empty());
        let error = without_imports.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn outage_of_the_imports_is_not_an_absence() {
    for api in BOTH {
        let place = Place::fake(api).await;
        place.write(None, "OWN", "value").await;
        let provider = place.provider().build().unwrap();
        let fake = place.as_fake();
        let imports = "GET /api/v1/secret-imports";
        fake.fail_requests(imports, 500, "Find", "Something went wrong");
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        fake.clear_failures();
        // Not every login has the permission to list imports.
        fake.fail_requests(imports, 403, "PermissionDenied", "not allowed");
        let error = provider.get(&key("A")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}
