//! Which of two results counts: by their versions, and by their starts.

use super::*;

#[test]
fn older_version_is_a_failure_and_keeps_the_newer_value() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, version(5)).result.unwrap();
    let outcome = fixture.fetch(10, version(4));
    assert_eq!(outcome.result, Err(OLDER.to_owned()));
    assert_eq!(outcome.events, [format!("failed: {OLDER}")]);
    assert_eq!(fixture.cached().as_deref(), Some("version 5"));
    assert_eq!(fixture.guard(), Some(5));
    // The newest version ends the failure, and so does a newer one.
    for number in [5, 6] {
        let outcome = fixture.fetch(20, version(number));
        assert_eq!(outcome.result, Ok(format!("version {number}")));
        assert_eq!(fixture.guard(), None);
    }
}

#[test]
fn older_version_is_accepted_when_it_is_confirmed_over_a_minute() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, version(5)).result.unwrap();
    for now in [10, 40, 69] {
        assert!(fixture.fetch(now, version(4)).result.is_err(), "{now}");
    }
    let outcome = fixture.fetch(70, version(4));
    assert_eq!(outcome.result.as_deref(), Ok("version 4"));
    assert_eq!(
        outcome.events,
        ["accepted version 4", "recovered after 60s"]
    );
    assert_eq!(fixture.cached().as_deref(), Some("version 4"));
    assert_eq!(fixture.guard(), None);
}

#[test]
fn two_confirmations_of_an_older_version_are_not_enough() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, version(5)).result.unwrap();
    for now in [10, 200] {
        assert!(fixture.fetch(now, version(4)).result.is_err(), "{now}");
    }
    assert!(fixture.fetch(201, version(4)).result.is_ok());
}

#[test]
fn confirmations_start_again_with_another_version() {
    for interruption in [3, 5] {
        let mut fixture = Fixture::new();
        fixture.fetch(0, version(5)).result.unwrap();
        for now in [10, 100] {
            assert!(fixture.fetch(now, version(4)).result.is_err());
        }
        let _ = fixture.fetch(110, version(interruption));
        for now in [120, 170] {
            let outcome = fixture.fetch(now, version(4));
            assert!(outcome.result.is_err(), "{interruption} at {now}");
        }
    }
}

#[test]
fn newest_version_ends_the_confirmations_even_if_its_lease_is_over() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, version(5)).result.unwrap();
    for now in [10, 100] {
        assert!(fixture.fetch(now, version(4)).result.is_err());
    }
    let expired = version(5).map(|secret| secret.valid_for(Duration::ZERO));
    assert!(fixture.fetch(105, expired).result.is_err());
    assert!(fixture.fetch(110, version(4)).result.is_err());
}

#[test]
fn versions_of_different_origins_are_not_compared() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, version(5)).result.unwrap();
    let mut secret = version(4).unwrap();
    secret.origin = Some(Origin::new("fixture", "other"));
    let outcome = fixture.fetch(10, Ok(secret));
    assert_eq!(outcome.result.as_deref(), Ok("version 4"));
    let cached = fixture
        .cache
        .peek(&key("KEY"), |entry| entry.value().unwrap().origin.clone());
    assert_eq!(cached, Some(Origin::new("fixture", "other")));
}

#[test]
fn late_result_counts_only_if_it_is_newer() {
    // The cached version, the version of the late result, what it returns, and what is cached after it.
    for (cached, late, expected, then) in [
        (5, 6, Ok("version 6"), "version 6, Changed"),
        (5, 5, Ok("version 5"), "version 5"),
        (5, 4, Err(OLDER), "version 5"),
    ] {
        let mut fixture = Fixture::new();
        let slow = fixture.start(0);
        fixture.fetch(10, version(cached)).result.unwrap();
        let outcome = fixture.finish(slow, 0, 20, version(late));
        assert!(outcome.superseded);
        assert_eq!(outcome.result.as_deref().map_err(|text| &**text), expected);
        assert_eq!(fixture.cached().as_deref(), Some(then));
        assert!(fixture.state.failures.get(&key("KEY")).is_none());
    }
}

#[test]
fn late_result_of_the_cached_version_raises_no_doubt() {
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    fixture.fetch(10, version(5)).result.unwrap();
    let same = Secret::new("other").with_version(Version::numbered(5));
    fixture.finish(slow, 0, 20, Ok(same)).result.unwrap();
    assert_eq!(fixture.cached().as_deref(), Some("version 5"));
}

#[test]
fn late_result_without_an_order_makes_the_cached_value_doubtful() {
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    fixture.fetch(10, value("new")).result.unwrap();
    let outcome = fixture.finish(slow, 0, 20, value("late"));
    assert_eq!(outcome.result.as_deref(), Ok("late"));
    assert_eq!(fixture.cached().as_deref(), Some("new, Changed"));

    // The same value raises no doubt.
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    fixture.fetch(10, value("same")).result.unwrap();
    fixture.finish(slow, 0, 20, value("same")).result.unwrap();
    assert_eq!(fixture.cached().as_deref(), Some("same"));
}

#[test]
fn superseded_result_replaces_an_answer_from_before_its_start() {
    for (before, superseded, then) in [
        (value("old"), value("new"), "new, Changed"),
        (value("same"), value("same"), "same"),
        (version(5), version(6), "version 6, Changed"),
        (Err(absence()), value("new"), "new, Changed"),
    ] {
        let mut fixture = Fixture::new();
        let _ = fixture.fetch(0, before);
        let slow = fixture.start(10);
        fixture.start(15);
        let outcome = fixture.finish(slow, 10, 20, superseded);
        assert!(outcome.superseded && outcome.result.is_ok());
        assert_eq!(fixture.cached().as_deref(), Some(then));
    }
    // An answer at the start of the fetch is not from before it.
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    fixture.fetch(0, value("new")).result.unwrap();
    fixture.finish(slow, 0, 20, value("late")).result.unwrap();
    assert_eq!(fixture.cached().as_deref(), Some("new, Changed"));
}

#[test]
fn superseded_failure_is_returned_but_not_recorded() {
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    fixture.start(5);
    let outcome = fixture.finish(slow, 0, 10, Err(outage()));
    assert_eq!(outcome.result, Err("outage".to_owned()));
    assert!(outcome.superseded && outcome.events.is_empty());
    assert!(fixture.state.failures.get(&key("KEY")).is_none());
}

#[test]
fn late_value_does_not_revive_a_deleted_secret() {
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    let _ = fixture.fetch(10, Err(absence()));
    fixture.finish(slow, 0, 20, version(5)).result.unwrap();
    assert_eq!(fixture.cached().as_deref(), Some("absent"));
    assert_eq!(fixture.guard(), Some(5));
    // Without an order, the absence is read again.
    let slow = fixture.start(30);
    let _ = fixture.fetch(40, Err(absence()));
    fixture.finish(slow, 30, 50, value("late")).result.unwrap();
    assert_eq!(fixture.cached().as_deref(), Some("absent, Changed"));
}

#[test]
fn newest_version_that_was_removed_is_cached_again() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, version(5)).result.unwrap();
    let slow = fixture.start(10);
    fixture.start(11);
    fixture.state.remove(&fixture.cache, &key("KEY"));
    assert_eq!(fixture.guard(), Some(5));
    fixture.finish(slow, 10, 20, version(5)).result.unwrap();
    assert_eq!(fixture.cached().as_deref(), Some("version 5, Changed"));
}

#[test]
fn superseded_value_after_an_invalidation_is_not_cached() {
    let mut fixture = Fixture::new();
    let slow = fixture.start(0);
    let newer = fixture.start(1);
    let _ = fixture.finish(newer, 1, 2, Err(outage()));
    fixture.finish(slow, 0, 3, version(7)).result.unwrap();
    assert_eq!((fixture.cached(), fixture.guard()), (None, Some(7)));
}

#[test]
fn result_from_before_an_invalidation_is_not_cached() {
    for (reason, result, guard) in [
        (Void::Invalidated, version(7), Some(7)),
        (Void::Invalidated, value("a"), None),
        (Void::OlderAccepted, version(7), None),
    ] {
        let mut fixture = Fixture::new();
        let slow = fixture.start(0);
        fixture.state.in_flight.invalidate(&key("KEY"), reason);
        let outcome = fixture.finish(slow, 0, 5, result);
        assert!(outcome.is_void && outcome.result.is_ok());
        assert_eq!((fixture.cached(), fixture.guard()), (None, guard));
    }
    // The version of a value that was cached since is newer, or it is not.
    for (late, guard, cached) in [(7, Some(7), "version 5, Changed"), (4, None, "version 5")] {
        let mut fixture = Fixture::new();
        let slow = fixture.start(0);
        fixture
            .state
            .in_flight
            .invalidate(&key("KEY"), Void::Invalidated);
        fixture.fetch(2, version(5)).result.unwrap();
        fixture.finish(slow, 0, 5, version(late)).result.unwrap();
        assert_eq!(fixture.guard(), guard);
        assert_eq!(fixture.cached().as_deref(), Some(cached));
    }
}
