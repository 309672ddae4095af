use super::*;
use crate::fixtures::{
    TIMES, absence, at, denial, failure, key, outage, resolved, settings, times, versioned,
};

struct Fixture {
    state: LinkState,
    cache: Cache,
}

impl Fixture {
    fn new() -> Self {
        Self {
            state: LinkState::new(settings(), at(0)),
            cache: Cache::new(100),
        }
    }

    fn insert(&mut self, name: &str, answer: Answer) {
        self.state.insert(&self.cache, &key(name), answer, times());
    }

    fn insert_value(&mut self, name: &str) {
        self.insert(name, Answer::Value(resolved("value")));
    }

    fn fail(&mut self, name: &str, error: Error, retry_at: u64) {
        self.state.fail(&key(name), failure(error, retry_at));
    }

    fn is_cached(&self, name: &str) -> bool {
        self.cache.peek(&key(name), |_| ()).is_some()
    }

    /// Returns the keys of the new fetch, or the message of the error.
    fn prepare(
        &mut self,
        keys: &[&str],
        retries: &[&str],
        now: u64,
    ) -> Result<Vec<SecretKey>, String> {
        let fetch = self
            .state
            .prepare_fetch(&self.cache, all(keys), all(retries), at(now));
        keys_of(fetch)
    }

    /// Returns the time in seconds at which the refresher checks `name`.
    fn planned(&mut self, name: &str, earliest: u64, now: u64) -> Option<u64> {
        self.state
            .plan(&self.cache, &key(name), at(earliest), at(now), false);
        // The plan of cached keys has a resolution of 8 ms.
        self.state.next().map(|next| next.since(at(0)).as_secs())
    }

    fn watch(&mut self, name: &str) -> Arc<Signal> {
        let signal = Arc::new(Signal::default());
        self.state.watch(&self.cache, &key(name), &signal, 0);
        signal
    }
}

fn all(names: &[&str]) -> Vec<SecretKey> {
    names.iter().map(|name| key(name)).collect()
}

fn keys_of(fetch: Result<Option<NewFetch>, Error>) -> Result<Vec<SecretKey>, String> {
    match fetch {
        Ok(fetch) => Ok(fetch.and_then(|fetch| fetch.keys).unwrap_or_default()),
        Err(error) => Err(error.message().to_owned()),
    }
}

/// The ttl is 100 s.
#[test]
fn first_refresh_is_between_one_and_seven_eighths_of_the_ttl() {
    let mut fixture = Fixture::new();
    let fraction = fixture.state.first_refresh(at(0));
    assert!((0.125..0.875).contains(&fraction), "{fraction}");
    assert_eq!(fixture.state.first_refresh(at(12)), fraction);
}

#[test]
fn forced_read_of_a_key_is_limited_to_one_per_second() {
    let mut fixture = Fixture::new();
    fixture.state.force(&all(&["A"]), at(10));
    for (now, is_forced) in [(10, true), (11, false), (12, false)] {
        assert_eq!(
            fixture.state.is_forced(&key("A"), at(now)),
            is_forced,
            "{now}"
        );
        assert!(!fixture.state.is_forced(&key("B"), at(now)));
        let due = fixture
            .state
            .due_for_force(&all(&["A", "B"]), Joins::Forced, at(now));
        assert_eq!(
            due,
            if is_forced {
                all(&["B"])
            } else {
                all(&["A", "B"])
            }
        );
    }
    let known = fixture.state.known(None, &key("A"));
    assert_eq!(known.forced_until, Some(at(11)));
    // The result of a slow forced read plans another refresh than that of a planned one, so the read is known for as
    // long as a call can take.
    fixture.state.force(&all(&["B"]), at(12));
    assert!(fixture.state.is_forced(&key("A"), at(10)));
    // What limits nothing any more is forgotten, and the rest is kept.
    fixture.state.force(&all(&["B"]), at(1000));
    assert!(fixture.state.forced.get(&key("A")).is_none());
    fixture.state.force(&all(&["C"]), at(1000));
    assert!(fixture.state.forced.get(&key("B")).is_some());
}

#[test]
fn forced_read_joins_the_fetches_that_it_may_join() {
    let mut fixture = Fixture::new();
    fixture.prepare(&["A"], &[], 0).unwrap();
    let due = |joins| fixture.state.due_for_force(&all(&["A", "B"]), joins, at(5));
    assert_eq!(due(Joins::Any), all(&["B"]));
    assert_eq!(due(Joins::Forced), all(&["A", "B"]));
}

#[test]
fn lost_fetch_does_not_limit_the_next_one() {
    let mut fixture = Fixture::new();
    fixture.state.force(&all(&["A"]), at(0));
    fixture.prepare(&["A"], &[], 0).unwrap();
    fixture.state.drop_lost(&key("A"), at(0));
    assert!(fixture.state.in_flight.contains(&key("A")));
    assert!(fixture.state.forced.get(&key("A")).is_some());
    fixture.state.drop_lost(&key("A"), at(1));
    assert!(!fixture.state.in_flight.contains(&key("A")));
    assert!(fixture.state.forced.get(&key("A")).is_none());
}

#[test]
fn fetch_contains_the_keys_and_the_retries() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.prepare(&[], &[], 0), Ok(vec![]));
    assert!(!fixture.state.in_flight.has_fetched());
    assert_eq!(fixture.prepare(&["A"], &[], 0), Ok(all(&["A"])));
    assert_eq!(fixture.prepare(&["B"], &["C"], 0), Ok(all(&["B", "C"])));
    assert_eq!(fixture.prepare(&[], &["D"], 0), Ok(all(&["D"])));
}

#[test]
fn exhausted_budget_postpones_retries_but_no_other_keys() {
    let mut fixture = Fixture::new();
    // The budget has two retries and gets another one each second.
    fixture.prepare(&[], &["X"], 10).unwrap();
    fixture.prepare(&[], &["X"], 10).unwrap();
    fixture.fail("A", outage(), 10);
    fixture.fail("B", outage(), 50);
    assert_eq!(fixture.prepare(&["C"], &["A", "B"], 10), Ok(all(&["C"])));
    for (name, retry_at) in [("A", 11), ("B", 50)] {
        let failure = fixture.state.failures.get(&key(name)).unwrap();
        assert!(failure.is_postponed);
        assert_eq!(failure.retry_at, at(retry_at), "{name}");
    }
    let expected = Err(not_attempted().message().to_owned());
    assert_eq!(fixture.prepare(&[], &["A"], 10), expected);
    // New keys cost nothing.
    assert_eq!(fixture.prepare(&["D"], &[], 10), Ok(all(&["D"])));
    assert_eq!(fixture.prepare(&[], &["A"], 11), Ok(all(&["A"])));
}

#[test]
fn breaker_counts_calls_without_any_response_and_rate_limits() {
    let value = || Ok(Secret::new("a"));
    let limited = || Error::new(ErrorKind::RateLimited { retry_after: None }, "limited");
    for (results, is_failure) in [
        (vec![value()], false),
        (vec![Err(outage())], true),
        (vec![Err(outage()), Err(outage())], true),
        (vec![Err(outage()), value()], false),
        (vec![Err(outage()), Err(absence())], false),
        (vec![Err(absence())], false),
        (vec![Err(limited()), value()], true),
        (vec![Err(limited()), Err(absence())], true),
    ] {
        let mut fixture = Fixture::new();
        let keys = [key("A"), key("B")];
        update_breaker(&mut fixture.state, &keys, &results, at(0));
        let error = fixture.state.breaker.error();
        assert_eq!(error.is_some(), is_failure, "{results:?}");
    }
    // The rate limit counts, not the outage before it.
    let mut fixture = Fixture::new();
    let results = [Err(outage()), Err(limited())];
    update_breaker(&mut fixture.state, &[key("A")], &results, at(0));
    let error = fixture.state.breaker.error().unwrap();
    assert_eq!(error.message(), "limited");
}

#[test]
fn open_breaker_blocks_fetches() {
    let mut fixture = Fixture::new();
    for now in [0, 1, 2] {
        fixture
            .state
            .update_breaker(&all(&["A", "B"]), Some(&outage()), at(now));
    }
    assert_eq!(fixture.prepare(&["A"], &[], 2), Err("outage".to_owned()));
    let forced = fixture.state.prepare_forced_fetch(all(&["A"]), at(2));
    assert_eq!(keys_of(forced), Ok(all(&["A"])));
    let forced = fixture.state.prepare_forced_fetch(all(&["A"]), at(2));
    assert_eq!(keys_of(forced), Err("outage".to_owned()));
    fixture.state.update_breaker(&all(&["A"]), None, at(3));
    assert_eq!(fixture.prepare(&["A"], &[], 3), Ok(all(&["A"])));
}

#[test]
fn postponed_probe_leaves_the_breaker_to_another_one() {
    let mut fixture = Fixture::new();
    fixture.prepare(&[], &["X"], 10).unwrap();
    fixture.prepare(&[], &["X"], 10).unwrap();
    let error = outage().with_retry_after(Duration::from_secs(1));
    fixture
        .state
        .update_breaker(&all(&["A"]), Some(&error), at(9));
    assert!(fixture.prepare(&[], &["A"], 10).is_err());
    assert_eq!(fixture.prepare(&["B"], &[], 10), Ok(all(&["B"])));
}

#[test]
fn forced_fetch_forgets_the_failure() {
    let mut fixture = Fixture::new();
    fixture.fail("A", outage(), 50);
    assert!(matches!(
        fixture.state.prepare_forced_fetch(vec![], at(0)),
        Ok(None)
    ));
    let fetch = fixture.state.prepare_forced_fetch(all(&["A"]), at(0));
    assert_eq!(keys_of(fetch), Ok(all(&["A"])));
    assert!(fixture.state.last_error(&key("A")).is_none());
}

#[test]
fn fetch_of_a_rejected_value_limits_the_next_one() {
    let mut fixture = Fixture::new();
    for (name, mark) in [
        ("A", Mark::Rejected),
        ("B", Mark::Changed),
        ("C", Mark::None),
    ] {
        fixture.insert_value(name);
        fixture.state.mark(&fixture.cache, &key(name), mark);
    }
    fixture.prepare(&["A", "B", "C", "D"], &[], 10).unwrap();
    let forced = ["A", "B", "C", "D"].map(|name| fixture.state.is_forced(&key(name), at(10)));
    assert_eq!(forced, [true, false, false, false]);
}

#[test]
fn revalidation_of_failed_keys_uses_the_budget() {
    let mut fixture = Fixture::new();
    fixture.prepare(&[], &["X"], 10).unwrap();
    fixture.prepare(&[], &["X"], 10).unwrap();
    fixture.fail("A", outage(), 10);
    let keys = all(&["A", "B"]);
    let fetch = fixture
        .state
        .prepare_revalidation(&fixture.cache, &keys, at(10));
    assert_eq!(keys_of(fetch), Ok(all(&["B"])));
    let fetch = fixture
        .state
        .prepare_revalidation(&fixture.cache, &keys, at(11));
    assert_eq!(keys_of(fetch), Ok(keys));
}

#[test]
fn failed_key_backs_off_until_its_retry() {
    let mut fixture = Fixture::new();
    fixture.fail("A", denial(), 50);
    for (now, expected) in [(49, true), (50, false), (51, false)] {
        assert_eq!(
            fixture.state.is_backing_off(&key("A"), at(now)),
            expected,
            "{now}"
        );
    }
    assert!(!fixture.state.is_backing_off(&key("B"), at(0)));
    let error = fixture.state.last_error(&key("A")).unwrap();
    assert_eq!(error.message(), "denial");
    assert_eq!(fixture.state.recover(&key("A")), Some(at(10)));
    assert_eq!(fixture.state.recover(&key("A")), None);
}

#[test]
fn cached_values_are_counted() {
    let mut fixture = Fixture::new();
    let absent = || Answer::Absent(absence());
    fixture.insert_value("A");
    fixture.insert_value("B");
    fixture.insert("C", absent());
    assert_eq!(fixture.state.values, 2);
    fixture.insert_value("A");
    fixture.insert("B", absent());
    fixture.insert_value("C");
    assert_eq!(fixture.state.values, 2);
    assert!(!fixture.state.remove(&fixture.cache, &key("B")));
    assert_eq!(fixture.state.values, 2);
    assert!(fixture.state.remove(&fixture.cache, &key("A")));
    assert_eq!(fixture.state.values, 1);
    assert!(!fixture.state.remove(&fixture.cache, &key("A")));
    assert!(!fixture.is_cached("A") && fixture.is_cached("C"));
}

#[test]
fn entries_above_the_maximum_are_evicted() {
    let mut fixture = Fixture::new();
    fixture.state.settings.max_entries = 2;
    for name in ["A", "B"] {
        fixture.insert_value(name);
    }
    assert!(fixture.is_cached("A") && fixture.is_cached("B"));
    fixture.insert_value("C");
    let cached = ["A", "B", "C"].map(|name| fixture.is_cached(name));
    assert_eq!(cached, [false, true, true]);
    // A watched key stays, and its entry counts.
    let signal = fixture.watch("B");
    fixture.insert_value("D");
    let cached = ["B", "C", "D"].map(|name| fixture.is_cached(name));
    assert_eq!(cached, [true, false, true]);
    fixture.state.unwatch(&fixture.cache, &key("B"), &signal);
    for name in ["E", "F", "G", "H"] {
        fixture.insert_value(name);
    }
    assert!(!fixture.is_cached("B"));
}

#[test]
fn version_of_a_removed_value_is_remembered() {
    let mut fixture = Fixture::new();
    let guard = |fixture: &Fixture, name| {
        let guard = fixture.state.guards.get(&key(name));
        guard.and_then(|guard| guard.newest.number())
    };
    fixture.insert("A", Answer::Value(versioned("value", 5)));
    fixture.insert_value("B");
    for name in ["A", "B"] {
        fixture.state.remove(&fixture.cache, &key(name));
    }
    assert_eq!(
        (guard(&fixture, "A"), guard(&fixture, "B")),
        (Some(5), None)
    );
    // A guard is the newest version that was seen, so the version of the entry does not replace it.
    let newer = versioned("value", 7);
    fixture
        .state
        .guard(&key("A"), newer.origin, newer.version.unwrap());
    fixture.insert("A", Answer::Value(versioned("value", 6)));
    fixture.state.remove(&fixture.cache, &key("A"));
    assert_eq!(guard(&fixture, "A"), Some(7));
}

#[test]
fn guards_and_failures_are_limited_except_those_of_watched_keys() {
    let mut fixture = Fixture::new();
    fixture.state.settings.max_entries = 2;
    fixture.watch("A");
    for name in ["A", "B", "C", "D", "E"] {
        fixture.fail(name, outage(), 50);
        let newest = versioned("value", 1);
        fixture
            .state
            .guard(&key(name), newest.origin, newest.version.unwrap());
    }
    let names = ["A", "B", "C", "D", "E"].map(key);
    let failures = names
        .each_ref()
        .map(|key| fixture.state.failures.get(key).is_some());
    assert_eq!(failures, [true, false, false, false, true]);
    let guards = names
        .each_ref()
        .map(|key| fixture.state.guards.get(key).is_some());
    assert_eq!(guards, [true, false, true, true, true]);
}

#[test]
fn removed_errors_are_returned_to_be_dropped_without_the_lock() {
    let mut fixture = Fixture::new();
    let garbage = |fixture: &mut Fixture| {
        let (errors, retired) = fixture.state.take_garbage();
        let messages = errors.iter().map(|error| error.message().to_owned());
        (messages.collect::<Vec<_>>(), retired)
    };
    assert_eq!(garbage(&mut fixture), (vec![], false));
    fixture.insert("A", Answer::Absent(absence()));
    assert_eq!(garbage(&mut fixture), (vec![], true));
    fixture.insert_value("A");
    assert_eq!(garbage(&mut fixture), (vec!["absence".to_owned()], true));
    fixture.insert("A", Answer::Absent(denial()));
    fixture.state.remove(&fixture.cache, &key("A"));
    assert_eq!(garbage(&mut fixture), (vec!["denial".to_owned()], true));
    fixture.fail("A", outage(), 50);
    fixture.fail("A", denial(), 50);
    assert_eq!(garbage(&mut fixture), (vec!["outage".to_owned()], false));
    fixture
        .state
        .update_breaker(&all(&["A"]), Some(&outage()), at(0));
    fixture.state.update_breaker(&all(&["A"]), None, at(0));
    assert_eq!(garbage(&mut fixture), (vec!["outage".to_owned()], false));
}

#[test]
fn unused_entry_is_checked_when_it_is_unusable() {
    let [_, refresh, expires, unusable] = TIMES;
    let mut fixture = Fixture::new();
    fixture.insert_value("A");
    // Before its refresh is due, it might still be used.
    for (now, expected) in [
        (0, refresh),
        (refresh - 1, refresh),
        (refresh, unusable),
        (500, unusable),
    ] {
        assert_eq!(fixture.planned("A", 0, now), Some(expected), "{now}");
    }
    // A used entry is refreshed, but not before the earliest time.
    fixture.cache.read("A", |_| ()).unwrap();
    for (earliest, expected) in [(0, refresh), (90, 90), (5000, unusable)] {
        assert_eq!(
            fixture.planned("A", earliest, 85),
            Some(expected),
            "{earliest}"
        );
    }
    // Its watch is notified when it expires.
    fixture.watch("A");
    for (now, expected) in [(85, expires), (expires - 1, expires), (expires, 200)] {
        assert_eq!(fixture.planned("A", 200, now), Some(expected), "{now}");
    }
}

#[test]
fn watched_entry_is_refreshed_although_nobody_reads_it() {
    let [_, refresh, ..] = TIMES;
    let mut fixture = Fixture::new();
    fixture.insert_value("A");
    fixture.watch("A");
    assert_eq!(fixture.planned("A", 0, 90), Some(refresh));
}

#[test]
fn fetch_under_way_is_checked_when_it_must_have_started() {
    let [_, _, expires, _] = TIMES;
    let mut fixture = Fixture::new();
    fixture.insert_value("A");
    fixture.cache.read("A", |_| ()).unwrap();
    fixture.prepare(&["A"], &[], 20).unwrap();
    // A fetch has a quarter of a second to start.
    assert_eq!(fixture.planned("A", 0, 20), Some(20));
    assert_eq!(fixture.planned("A", 70, 20), Some(70));
    fixture.watch("A");
    assert_eq!(fixture.planned("A", 500, 20), Some(expires));
    // If a change was reported since it started, another fetch follows.
    fixture.state.in_flight.outdate(&key("A"));
    assert_eq!(fixture.planned("A", 30, 20), Some(30));
}

#[test]
fn watched_key_without_an_answer_is_polled() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.planned("A", 7, 0), None);
    let signal = fixture.watch("A");
    assert_eq!(fixture.planned("A", 7, 0), Some(7));
    fixture.fail("A", outage(), 50);
    assert_eq!(fixture.planned("A", 7, 0), Some(50));
    assert_eq!(fixture.state.pop(at(49)), None);
    assert_eq!(fixture.state.pop(at(50)), Some(key("A")));
    assert_eq!(
        (fixture.state.next(), fixture.state.pop(at(50))),
        (None, None)
    );
    // A fetch under way is the next attempt. It is checked when it must have started.
    fixture.prepare(&["A"], &[], 60).unwrap();
    assert_eq!(fixture.planned("A", 0, 60), Some(60));
    assert_eq!(fixture.planned("A", 65, 60), Some(65));
    fixture.state.unwatch(&fixture.cache, &key("A"), &signal);
    assert_eq!(fixture.state.next(), None);
    assert_eq!(fixture.planned("A", 0, 60), None);
}

#[test]
fn cached_key_is_not_polled_as_well() {
    let mut fixture = Fixture::new();
    fixture.watch("A");
    assert_eq!(fixture.planned("A", 7, 0), Some(7));
    fixture.insert_value("A");
    assert_eq!(fixture.planned("A", 0, 0), Some(80));
    assert_eq!(fixture.state.pop(at(79)), None);
    assert_eq!(fixture.state.pop(at(81)), Some(key("A")));
    assert_eq!(fixture.state.pop(at(5000)), None);
}

#[test]
fn signals_belong_to_the_watches_of_a_key() {
    let mut fixture = Fixture::new();
    let (first, second, other) = (fixture.watch("A"), fixture.watch("A"), fixture.watch("B"));
    assert_eq!(fixture.state.signals(&key("A")).len(), 2);
    assert_eq!(fixture.state.all_signals().len(), 3);
    let mut watched: Vec<_> = fixture.state.watched().cloned().collect();
    watched.sort();
    assert_eq!(watched, all(&["A", "B"]));
    fixture.state.unwatch(&fixture.cache, &key("A"), &first);
    assert!(Arc::ptr_eq(&fixture.state.signals(&key("A"))[0].0, &second));
    assert!(fixture.state.is_watched(&key("A")));
    fixture.state.unwatch(&fixture.cache, &key("A"), &second);
    assert!(!fixture.state.is_watched(&key("A")));
    // A watch that is not known changes nothing.
    fixture.state.unwatch(&fixture.cache, &key("A"), &other);
    assert_eq!(fixture.state.all_signals().len(), 1);
    assert!(fixture.state.signals(&key("A")).is_empty());
}

#[test]
fn mark_reports_whether_the_entry_was_used() {
    let mut fixture = Fixture::new();
    fixture.insert_value("A");
    let mark = |fixture: &Fixture, name| {
        fixture
            .state
            .mark(&fixture.cache, &key(name), Mark::Changed)
    };
    assert!(!mark(&fixture, "A") && !mark(&fixture, "B"));
    fixture.cache.read("A", |_| ()).unwrap();
    assert!(mark(&fixture, "A"));
    let is_fresh = fixture.cache.peek(&key("A"), |entry| entry.is_fresh(at(0)));
    assert_eq!(is_fresh, Some(false));
}
