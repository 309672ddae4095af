//! What a resolver makes of what changes on the server.

use secretwell::infisical::ApiVersion;
use secretwell::{Freshness, Resolver};

use super::place::Place;
use crate::support::key;

/// Reads `A` again, and is content with nothing that is held.
async fn refreshed(resolver: &Resolver) -> String {
    let mut answers = resolver.refresh(&[key("A")]).await;
    let answer = answers.remove(0).unwrap();
    assert!(
        matches!(answer.freshness, Freshness::Fresh),
        "{:?}",
        answer.freshness
    );
    answer.value.expose_text().unwrap().to_owned()
}

#[tokio::test]
async fn another_secret_of_the_same_name_is_no_older_version() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        place.write(Some("shared"), "A", "imported").await;
        place.import(Some("shared")).await;
        for value in ["first", "second", "third"] {
            place.write(None, "A", value).await;
        }
        let provider = || place.provider().api(api).build().unwrap();
        let held = async |resolver: &Resolver| {
            let held = resolver.get("A").await.unwrap();
            assert_eq!(held.value.expose_text().unwrap(), "third");
        };
        let (one, other) = (Resolver::new(provider()), Resolver::new(provider()));
        held(&one).await;
        held(&other).await;
        // An imported one tells no time, only that it is another.
        place.delete(None, "A").await;
        assert_eq!(refreshed(&one).await, "imported");
        place.write(None, "A", "anew").await;
        assert_eq!(refreshed(&other).await, "anew");
    }
}
