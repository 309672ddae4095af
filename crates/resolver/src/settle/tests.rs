use super::*;
use crate::fixtures::{absence, at, denial, key, origin, outage, settings, versioned};

mod order;

const JITTER: Jitter = Jitter {
    refresh: 0.8,
    first_refresh: 0.5,
    retry: 1.0,
};

/// A source with the key `KEY`. The ttl is 100 s, and a value can be stale for 900 s.
struct Fixture {
    state: LinkState,
    cache: Cache,
    is_passing: bool,
    found_later: bool,
    took: Duration,
}

/// What a result has led to.
struct Outcome {
    result: Result<String, String>,
    times: Times,
    superseded: bool,
    is_void: bool,
    events: Vec<String>,
    settled: Settled,
}

fn event_text(event: &Event) -> String {
    match event {
        Event::PassedOn { origin, .. } => format!("passed on by {origin}"),
        Event::SourceLost { origin, .. } => format!("lost by {origin}"),
        Event::Failed { error, .. } => format!("failed: {}", error.message()),
        Event::Recovered { lasted, .. } => format!("recovered after {lasted:?}"),
        Event::Purged { error, .. } => format!("purged: {}", error.message()),
        Event::OlderVersionAccepted { version, .. } => format!("accepted version {version}"),
    }
}

impl Fixture {
    fn new() -> Self {
        Self {
            state: LinkState::new(settings(), at(0)),
            cache: Cache::new(100),
            is_passing: false,
            found_later: false,
            took: Duration::ZERO,
        }
    }

    /// Starts a fetch, which supersedes those under way.
    fn start(&mut self, now: u64) -> u64 {
        let fetch = self.state.in_flight.add(vec![key("KEY")], false, at(now));
        fetch.unwrap().id
    }

    fn finish(
        &mut self,
        id: u64,
        started: u64,
        now: u64,
        result: Result<Secret, Error>,
    ) -> Outcome {
        let found_later = self.found_later;
        let settling = Settling {
            id,
            started: at(started),
            now: at(now),
            took: self.took,
            origin: &origin(),
            cache: &self.cache,
            jitter: Some(JITTER),
            is_passing: self.is_passing,
            detects_changes: true,
            found_later: &|_| found_later,
        };
        let mut settled = Settled::default();
        settling.settle(&mut self.state, key("KEY"), result, &mut settled);
        self.state.in_flight.end(id);
        let result = settled.results.remove(&key("KEY")).unwrap();
        Outcome {
            result: match result.result {
                Ok(resolved) => Ok(resolved.value.expose_text().unwrap().to_owned()),
                Err(error) => Err(error.message().to_owned()),
            },
            times: result.times,
            superseded: result.superseded,
            is_void: result.is_void,
            events: settled.events.iter().map(event_text).collect(),
            settled,
        }
    }

    /// Fetches the key at `now`.
    fn fetch(&mut self, now: u64, result: Result<Secret, Error>) -> Outcome {
        let id = self.start(now);
        self.finish(id, now, now, result)
    }

    /// Returns the cached value, or `absent`, with a mark if it must be read again.
    fn cached(&self) -> Option<String> {
        self.cache.peek(&key("KEY"), |entry| {
            let text = match entry.value() {
                Some(resolved) => resolved.value.expose_text().unwrap(),
                None => "absent",
            };
            match entry.mark() {
                Mark::None => text.to_owned(),
                mark => format!("{text}, {mark:?}"),
            }
        })
    }

    fn failure(&self) -> &Failure {
        self.state.failures.get(&key("KEY")).unwrap()
    }

    /// Returns the newest version of the key that is not cached.
    fn guard(&self) -> Option<u64> {
        self.state.guards.get(&key("KEY"))?.newest.number()
    }
}

fn value(text: &str) -> Result<Secret, Error> {
    Ok(Secret::new(text))
}

fn version(number: u64) -> Result<Secret, Error> {
    let secret = Secret::new(format!("version {number}"));
    Ok(secret.with_version(Version::numbered(number)))
}

const OLDER: &str = "the source returned an older version than the cached one";

#[test]
fn value_is_fresh_for_the_ttl_and_usable_for_max_stale() {
    let mut fixture = Fixture::new();
    let outcome = fixture.fetch(10, value("a"));
    assert_eq!(outcome.result.as_deref(), Ok("a"));
    assert!(!outcome.superseded && !outcome.is_void);
    let Times {
        fetched_at,
        refresh_at,
        expires_at,
        unusable_at,
    } = outcome.times;
    assert_eq!(
        [fetched_at, refresh_at, expires_at, unusable_at],
        [10, 60, 110, 1010].map(at)
    );
    assert_eq!(fixture.cached().as_deref(), Some("a"));
    assert!(outcome.settled.events.is_empty() && !outcome.settled.has_removals);
}

#[test]
fn only_a_planned_refresh_plans_the_next_one_late() {
    // When the value is read, and after how many seconds it is refreshed. A refresh that is due within 1/8 of the ttl
    // joins a batch, so it counts as planned.
    let mut fixture = Fixture::new();
    for (now, refresh_after) in [
        (0, 50),
        (50, 80),
        (130, 80),
        (150, 50),
        (188, 80),
        (255, 50),
    ] {
        let times = fixture.fetch(now, value("a")).times;
        assert_eq!(times.refresh_at, at(now + refresh_after), "{now}");
    }
    let _ = fixture.fetch(305, Err(outage()));
    let times = fixture.fetch(310, value("a")).times;
    assert_eq!(times.refresh_at, at(360), "after a failure");
    let _ = fixture.fetch(360, Err(absence()));
    let times = fixture.fetch(361, value("a")).times;
    assert_eq!(times.refresh_at, at(411), "after an absence");
    // A refresh would be due, but many processes might make a forced read at once.
    fixture.state.force(&[key("KEY")], at(411));
    let times = fixture.fetch(411, value("a")).times;
    assert_eq!(times.refresh_at, at(461), "after a forced read");

    let mut absent = Fixture::new();
    for (now, refresh_after) in [(0, 50), (50, 80), (130, 80)] {
        let times = absent.fetch(now, Err(absence())).times;
        assert_eq!(times.refresh_at, at(now + refresh_after), "absent at {now}");
    }
}

#[test]
fn lease_limits_every_time() {
    // The lease in milliseconds, and when its value is refreshed, expires and is unusable.
    for (lease, refresh, expires, unusable) in [
        (40_000, 25_600, 32_000, 40_000),
        (200_000, 80_000, 100_000, 200_000),
        (2_000_000, 80_000, 100_000, 1_000_000),
        (100, 250, 80, 100),
        (20, 250, 16, 20),
    ] {
        let mut fixture = Fixture::new();
        // A part of the lease passed during the call.
        fixture.took = Duration::from_secs(10);
        let lifetime = Duration::from_millis(lease + 10_000);
        let outcome = fixture.fetch(0, Ok(Secret::new("a").valid_for(lifetime)));
        assert_eq!(outcome.result.as_deref(), Ok("a"), "{lease}");
        let times = outcome.times;
        let times = [times.refresh_at, times.expires_at, times.unusable_at];
        let millis = times.map(|time| time.since(at(0)).as_millis());
        assert_eq!(millis, [refresh, expires, unusable], "{lease}");
    }
}

#[test]
fn lease_that_is_almost_over_is_a_failure() {
    let mut fixture = Fixture::new();
    fixture.took = Duration::from_secs(10);
    for lifetime in [0, 10_000, 10_019] {
        let secret = Secret::new("a").valid_for(Duration::from_millis(lifetime));
        let outcome = fixture.fetch(0, Ok(secret));
        let message = "the lease of the returned value has already expired";
        assert_eq!(outcome.result, Err(message.to_owned()), "{lifetime}");
        assert_eq!(fixture.cached(), None);
        assert!(fixture.failure().error.is_temporary());
        assert_eq!(fixture.failure().error.key(), Some(&key("KEY")));
    }
}

#[test]
fn outage_keeps_the_value_and_is_reported_once() {
    let mut fixture = Fixture::new();
    fixture.fetch(0, value("a")).result.unwrap();
    for (now, expected) in [(100, &["failed: outage"][..]), (110, &[])] {
        let outcome = fixture.fetch(now, Err(outage()));
        assert_eq!(outcome.events, expected);
        assert!(!outcome.settled.has_removals);
    }
    let timeout = Error::new(ErrorKind::Timeout, "timeout");
    assert_eq!(fixture.fetch(120, Err(timeout)).events, ["failed: timeout"]);
    assert_eq!(fixture.cached().as_deref(), Some("a"));
    assert_eq!(fixture.failure().since, at(100));
    assert_eq!(fixture.failure().error.origin(), Some(&origin()));
    let outcome = fixture.fetch(150, value("a"));
    assert_eq!(outcome.events, ["recovered after 50s"]);
    assert!(fixture.state.failures.get(&key("KEY")).is_none());
}

#[test]
fn refusal_purges_the_value_unless_it_is_kept() {
    for (error, then) in [(absence(), Some("absent")), (denial(), None)] {
        let mut fixture = Fixture::new();
        fixture.fetch(0, version(5)).result.unwrap();
        let outcome = fixture.fetch(10, Err(error.clone()));
        let message = error.message();
        let expected = [format!("failed: {message}"), format!("purged: {message}")];
        assert_eq!(outcome.events, expected);
        assert!(outcome.settled.has_removals);
        assert_eq!(fixture.cached().as_deref(), then);
        // The value cannot come back in an older version.
        assert!(fixture.fetch(20, version(4)).result.is_err());

        let mut fixture = Fixture::new();
        fixture.state.settings.on_denied = OnDenied::KeepUntilMaxStale;
        let outcome = fixture.fetch(0, Err(error.clone()));
        assert_eq!(outcome.events, [format!("failed: {message}")]);
        assert_eq!(fixture.cached().as_deref(), then);
        fixture.fetch(5, value("a")).result.unwrap();
        let outcome = fixture.fetch(10, Err(error.clone()));
        assert_eq!(outcome.events, [format!("failed: {message}")]);
        assert!(!outcome.settled.has_removals);
        assert_eq!(fixture.cached().as_deref(), Some("a"));
    }
}

#[test]
fn absence_is_passed_on_to_the_next_source() {
    let mut fixture = Fixture::new();
    fixture.is_passing = true;
    let outcome = fixture.fetch(0, Err(absence()));
    assert_eq!(outcome.events, ["passed on by fixture://place"]);
    // A value is no recovery, because nobody was without a value.
    assert!(fixture.fetch(10, value("a")).events.is_empty());
    let outcome = fixture.fetch(20, Err(absence()));
    let expected = ["passed on by fixture://place", "lost by fixture://place"];
    assert_eq!(outcome.events, expected);
    assert!(fixture.fetch(30, Err(absence())).events.is_empty());
    // A denial is not passed on.
    let outcome = fixture.fetch(40, Err(denial()));
    assert_eq!(outcome.events, ["failed: denial"]);
    assert_eq!(
        fixture.fetch(50, value("a")).events,
        ["recovered after 30s"]
    );
}

#[test]
fn confirmed_absence_is_not_reported_again_after_a_notification() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.fetch(0, Err(absence())).events, ["failed: absence"]);
    fixture.state.recover(&key("KEY"));
    assert!(fixture.fetch(10, Err(absence())).events.is_empty());
    fixture.state.recover(&key("KEY"));
    assert_eq!(fixture.fetch(20, Err(outage())).events, ["failed: outage"]);
    // A cached value does not make an absence known.
    fixture.fetch(30, value("a")).result.unwrap();
    let outcome = fixture.fetch(40, Err(absence()));
    assert_eq!(outcome.events, ["failed: absence", "purged: absence"]);
}

#[test]
fn retry_waits_for_the_backoff_and_the_requested_time() {
    let limited = |wait| {
        let retry_after = Some(Duration::from_secs(wait));
        Error::new(ErrorKind::RateLimited { retry_after }, "limited")
    };
    // The error, the length of the failure, and the wait in seconds.
    for (error, lasted, expected) in [
        (outage(), 0, 1),
        (outage(), 80, 10),
        (outage(), 80_000, 400),
        (absence(), 80, 10),
        (absence(), 80_000, 30),
        (denial(), 80_000, 30),
        (outage().with_backoff_limit(Duration::from_secs(5)), 80, 5),
        (limited(3), 80, 10),
        (limited(60), 80, 60),
        (limited(80_000), 80, 3600),
    ] {
        let mut fixture = Fixture::new();
        let _ = fixture.fetch(0, Err(error.clone()));
        let _ = fixture.fetch(lasted, Err(error.clone()));
        let wait = fixture.failure().retry_at.since(at(lasted));
        assert_eq!(wait.as_secs(), expected, "{error} after {lasted} s");
        assert!(!fixture.failure().is_postponed);
    }
}

#[test]
fn refusal_and_outage_have_their_own_durations() {
    let mut fixture = Fixture::new();
    for (now, error, since) in [
        (10, outage(), 10),
        (20, outage(), 10),
        (30, denial(), 30),
        (40, absence(), 30),
        (50, outage(), 50),
    ] {
        let _ = fixture.fetch(now, Err(error));
        assert_eq!(fixture.failure().since, at(since), "{now}");
    }
}

#[test]
fn changes_of_a_cached_value_are_counted() {
    let mut fixture = Fixture::new();
    // The result, whether it changes what is cached, and whether it is a rotation.
    for (result, changed, rotations) in [
        (value("a"), 0, 0),
        (value("a"), 0, 0),
        (value("b"), 1, 1),
        (Err(outage()), 0, 0),
        (Err(absence()), 1, 0),
        (Err(absence()), 0, 0),
        (value("c"), 1, 0),
        (Err(denial()), 1, 0),
        (value("c"), 0, 0),
    ] {
        let settled = fixture.fetch(0, result).settled;
        assert_eq!(
            (settled.changed.len(), settled.rotations),
            (changed, rotations)
        );
        assert!(settled.moved.is_empty() && settled.signals.is_empty());
    }
}

#[test]
fn watches_of_a_key_are_notified_of_changes_only() {
    let mut fixture = Fixture::new();
    let signal = Arc::new(Signal::default());
    fixture.state.watch(&fixture.cache, &key("KEY"), &signal, 3);
    // The result, whether the watch is notified, and whether the key became present or absent.
    for (result, notified, moved) in [
        (Err(outage()), 1, 1),
        (Err(outage()), 0, 0),
        (value("a"), 1, 1),
        (value("a"), 0, 0),
        (value("b"), 1, 0),
        (Err(absence()), 1, 1),
        (Err(absence()), 0, 0),
        (Err(denial()), 1, 0),
    ] {
        let settled = fixture.fetch(0, result).settled;
        assert_eq!(
            (settled.signals.len(), settled.moved.len()),
            (notified, moved)
        );
        assert!(settled.signals.iter().all(|(_, position)| *position == 3));
    }
}

#[test]
fn watched_absence_waits_for_the_ttl_if_a_later_source_has_the_key() {
    for (found_later, expected) in [(false, 1), (true, 50)] {
        let mut fixture = Fixture::new();
        fixture.found_later = found_later;
        let signal = Arc::new(Signal::default());
        fixture.state.watch(&fixture.cache, &key("KEY"), &signal, 0);
        let _ = fixture.fetch(0, Err(absence()));
        let next = fixture.state.next().unwrap().since(at(0));
        assert_eq!(next.as_secs(), expected);
    }
}

#[test]
fn watch_compares_values_and_kinds_of_failures() {
    let resolved = |text: &str| versioned(text, 1);
    let at_any_time = Times::at(at(0));
    let present = |text| Reply::Value(resolved(text), at_any_time);
    let stale = |error| Reply::Value(resolved("a").stale(Duration::ZERO, error), at_any_time);
    let absent = |reason: Option<Error>| {
        Reply::Absent(absence(), reason.map(|reason| (Duration::ZERO, reason)))
    };
    let limited = |seconds| {
        let retry_after = Some(Duration::from_secs(seconds));
        Error::new(ErrorKind::RateLimited { retry_after }, "limited")
    };
    let replies = [
        present("a"),
        present("b"),
        stale(outage()),
        stale(denial()),
        absent(None),
        absent(Some(outage())),
        absent(Some(denial())),
        Reply::Failed(outage()),
        Reply::Failed(denial()),
        Reply::Failed(limited(1)),
    ];
    for (i, one) in replies.iter().enumerate() {
        for (j, other) in replies.iter().enumerate() {
            assert_eq!(Seen::of(one) == Seen::of(other), i == j, "{i} {j}");
            let is_same = i == j || (4..7).contains(&i) && (4..7).contains(&j);
            assert_eq!(
                Seen::by_caller(one) == Seen::by_caller(other),
                is_same,
                "{i} {j}"
            );
        }
    }
    // Another wait is not another failure.
    let other = Seen::of(&Reply::Failed(limited(2)));
    assert_eq!(Seen::of(&Reply::Failed(limited(1))), other);
}
