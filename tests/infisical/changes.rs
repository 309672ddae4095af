//! Changes on the server, as a resolver handles them.

use secretwell::infisical::ApiVersion;
use secretwell::{Freshness, Resolver};

use super::place::Place;
use crate::support::key;

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
