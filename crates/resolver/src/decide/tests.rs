use super::*;
use crate::fixtures::{
    absence, absent_entry, at, denial, failure, key, origin, outage, resolved, times, value_entry,
};

const NOTHING: Known<'static> = Known {
    entry: None,
    failure: None,
    fetching: false,
    outdated: false,
    forced_until: None,
};

fn reply_text(reply: &Reply) -> String {
    match reply {
        Reply::Value(resolved, _) => match &resolved.freshness {
            Freshness::Fresh => "fresh".to_owned(),
            Freshness::Stale { age, reason } => format!("stale {age:?} {}", reason.message()),
        },
        Reply::Absent(_, None) => "absent".to_owned(),
        Reply::Absent(_, Some((age, reason))) => format!("absent {age:?} {}", reason.message()),
        Reply::Failed(error) => format!("failed {}", error.message()),
    }
}

/// Returns the decision as text, with a plus sign if a fetch is started as well.
fn decision(known: &Known<'_>, need: Need, now: u64) -> String {
    match decide(known, need, at(now)) {
        Decision::Return(reply) => reply_text(&reply),
        Decision::ReturnAndFetch(reply) => format!("{} + fetch", reply_text(&reply)),
        Decision::Wait => "wait".to_owned(),
        Decision::Fetch => "fetch".to_owned(),
    }
}

/// Compares the decisions without and with a fetch under way.
#[track_caller]
fn assert_decisions(known: Known<'_>, need: Need, now: u64, expected: [&str; 2]) {
    let fetching = Known {
        fetching: true,
        ..known
    };
    let actual = [decision(&known, need, now), decision(&fetching, need, now)];
    assert_eq!(actual, expected, "at {now} s");
}

const NEEDS: [Need; 2] = [Need::Passing, Need::Final];

#[test]
fn unknown_key_is_fetched() {
    for need in NEEDS {
        assert_decisions(NOTHING, need, 0, ["fetch", "wait"]);
    }
}

#[test]
fn value_is_refreshed_in_its_time_and_fetched_after_it() {
    let entry = value_entry();
    let entry = Some(&entry);
    for need in NEEDS {
        for (now, expected) in [
            (0, ["fresh", "fresh"]),
            (79, ["fresh", "fresh"]),
            (80, ["fresh + fetch", "fresh"]),
            (99, ["fresh + fetch", "fresh"]),
            (100, ["fetch", "wait"]),
            (1000, ["fetch", "wait"]),
        ] {
            assert_decisions(Known { entry, ..NOTHING }, need, now, expected);
        }
    }
}

#[test]
fn value_survives_an_outage_until_it_is_unusable() {
    let entry = value_entry();
    let failed = failure(outage(), 500);
    let known = || Known {
        entry: Some(&entry),
        failure: Some(&failed),
        ..NOTHING
    };
    for need in NEEDS {
        for (now, expected) in [
            (90, ["fresh", "fresh"]),
            (100, ["stale 100s outage", "stale 100s outage"]),
            (499, ["stale 499s outage", "stale 499s outage"]),
            (500, ["stale 500s outage + fetch", "stale 500s outage"]),
            (999, ["stale 999s outage + fetch", "stale 999s outage"]),
            (1000, ["fetch", "wait"]),
        ] {
            assert_decisions(known(), need, now, expected);
        }
    }
    // An unusable value is not returned while the retry is not due, either.
    let failed = failure(outage(), 2000);
    let known = Known {
        entry: Some(&entry),
        failure: Some(&failed),
        ..NOTHING
    };
    assert_decisions(known, Need::Passing, 1000, ["failed outage", "wait"]);
}

#[test]
fn fresh_value_is_refreshed_again_when_its_failed_refresh_is_due() {
    let entry = value_entry();
    let failed = failure(outage(), 90);
    let known = || Known {
        entry: Some(&entry),
        failure: Some(&failed),
        ..NOTHING
    };
    for (now, expected) in [
        (79, ["fresh", "fresh"]),
        (89, ["fresh", "fresh"]),
        (90, ["fresh + fetch", "fresh"]),
    ] {
        assert_decisions(known(), Need::Final, now, expected);
    }
}

#[test]
fn value_that_is_kept_after_a_refusal_is_stale() {
    let entry = value_entry();
    for error in [absence(), denial()] {
        let expected = format!("stale 200s {}", error.message());
        let failed = failure(error, 300);
        let known = Known {
            entry: Some(&entry),
            failure: Some(&failed),
            ..NOTHING
        };
        for need in NEEDS {
            let known = Known { ..known };
            assert_decisions(known, need, 200, [&expected, &expected]);
        }
    }
}

#[test]
fn reported_absence_is_checked_with_backoff() {
    let entry = absent_entry();
    for (error, confirmed) in [(absence(), "absent"), (outage(), "absent 49s outage")] {
        let failed = failure(error, 50);
        let known = || Known {
            entry: Some(&entry),
            failure: Some(&failed),
            ..NOTHING
        };
        assert_decisions(known(), Need::Final, 49, [confirmed, "wait"]);
        assert_decisions(known(), Need::Final, 50, ["fetch", "wait"]);
        // The entry has no use after its end.
        let unusable = Known {
            entry: Some(&entry),
            ..known()
        };
        assert_decisions(unusable, Need::Final, 1000, ["fetch", "wait"]);
    }
    // Without the backoff, it is checked at once.
    let known = Known {
        entry: Some(&entry),
        ..NOTHING
    };
    assert_decisions(known, Need::Final, 0, ["fetch", "wait"]);
}

#[test]
fn absence_without_a_retry_says_so() {
    let entry = absent_entry();
    for (error, expected) in [
        (
            absence(),
            "absent 60s no request was sent, because the retry budget is exhausted",
        ),
        (outage(), "absent 60s outage"),
    ] {
        let failed = Failure {
            is_postponed: true,
            ..failure(error, 70)
        };
        let known = Known {
            entry: Some(&entry),
            failure: Some(&failed),
            ..NOTHING
        };
        assert_decisions(known, Need::Final, 60, [expected, "wait"]);
    }
}

#[test]
fn absence_of_an_earlier_source_has_the_ttl() {
    let entry = absent_entry();
    let entry = Some(&entry);
    // The backoff of the reported absence does not count.
    let failed = failure(absence(), 5000);
    for failure in [None, Some(&failed)] {
        for (now, expected) in [
            (79, ["absent", "absent"]),
            (80, ["absent + fetch", "absent"]),
            (100, ["fetch", "wait"]),
            (1000, ["fetch", "wait"]),
        ] {
            let known = Known {
                entry,
                failure,
                ..NOTHING
            };
            assert_decisions(known, Need::Passing, now, expected);
        }
    }
    // During an outage, it is not confirmed.
    let failed = failure(outage(), 5000);
    let known = Known {
        entry,
        failure: Some(&failed),
        ..NOTHING
    };
    let expected = "absent 200s outage";
    assert_decisions(known, Need::Passing, 200, [expected, expected]);
}

#[test]
fn absence_that_is_not_usable_is_reported_as_the_failure() {
    let entry = absent_entry();
    for (error, expected) in [(absence(), "absent"), (outage(), "failed outage")] {
        let failed = failure(error, 2000);
        let known = Known {
            entry: Some(&entry),
            failure: Some(&failed),
            ..NOTHING
        };
        assert_decisions(known, Need::Final, 1000, [expected, "wait"]);
    }
}

#[test]
fn failure_without_an_answer_limits_the_retries() {
    for (error, is_absence, expected) in [
        (absence(), true, "absent"),
        (outage(), false, "failed outage"),
        (denial(), false, "failed denial"),
    ] {
        let failed = failure(error, 50);
        let known = || Known {
            failure: Some(&failed),
            ..NOTHING
        };
        assert_decisions(known(), Need::Final, 49, [expected, "wait"]);
        assert_decisions(known(), Need::Final, 50, ["fetch", "wait"]);
        assert_decisions(known(), Need::Passing, 50, ["fetch", "wait"]);
        // The next source must not be read because of an old absence.
        let expected = if is_absence { "fetch" } else { expected };
        assert_decisions(known(), Need::Passing, 49, [expected, "wait"]);
    }
}

#[test]
fn rejected_value_is_fetched_at_most_once_per_second() {
    let entry = value_entry();
    entry.set_mark(Mark::Rejected);
    let known = |forced_until| Known {
        entry: Some(&entry),
        forced_until,
        ..NOTHING
    };
    let rejected = "stale 20s the value was rejected, and the source was asked for another one less than 1 s ago";
    for need in NEEDS {
        assert_decisions(known(None), need, 20, ["fetch", "wait"]);
        assert_decisions(known(Some(at(20))), need, 20, ["fetch", "wait"]);
        assert_decisions(known(Some(at(21))), need, 20, [rejected, "wait"]);
        assert_decisions(known(Some(at(1001))), need, 1000, ["fetch", "wait"]);
    }
}

#[test]
fn changed_value_is_fetched_first_even_after_a_forced_read() {
    let entry = value_entry();
    entry.set_mark(Mark::Changed);
    let known = Known {
        entry: Some(&entry),
        forced_until: Some(at(21)),
        ..NOTHING
    };
    assert_decisions(known, Need::Final, 20, ["fetch", "wait"]);
}

#[test]
fn fetch_settles_a_key_unless_a_change_was_reported_since() {
    for (fetching, outdated, expected) in [
        (false, false, false),
        (false, true, false),
        (true, true, false),
        (true, false, true),
    ] {
        let known = Known {
            fetching,
            outdated,
            ..NOTHING
        };
        assert_eq!(known.is_settling(), expected);
    }
}

#[test]
fn peek_returns_what_is_known_without_a_fetch() {
    let (value, absent) = (value_entry(), absent_entry());
    let (failed, missing) = (failure(outage(), 500), failure(absence(), 500));
    for (entry, failure, now, expected) in [
        (None, None, 0, None),
        (Some(&value), None, 99, Some("fresh")),
        (Some(&value), None, 100, None),
        (Some(&value), Some(&failed), 99, Some("fresh")),
        (Some(&value), Some(&failed), 100, Some("stale 100s outage")),
        (
            Some(&value),
            Some(&missing),
            100,
            Some("stale 100s absence"),
        ),
        (Some(&value), Some(&failed), 999, Some("stale 999s outage")),
        (Some(&value), Some(&failed), 1000, None),
        (Some(&absent), Some(&missing), 99, Some("absent")),
        (Some(&absent), Some(&missing), 100, None),
        (
            Some(&absent),
            Some(&failed),
            100,
            Some("absent 100s outage"),
        ),
        (Some(&absent), Some(&failed), 1000, None),
        (None, Some(&failed), 499, Some("failed outage")),
        (None, Some(&failed), 500, Some("failed outage")),
        (None, Some(&missing), 499, Some("absent")),
        (None, Some(&missing), 500, None),
    ] {
        let known = Known {
            entry,
            failure,
            ..NOTHING
        };
        let reply = peek(&known, at(now));
        assert_eq!(
            reply.as_ref().map(reply_text).as_deref(),
            expected,
            "at {now} s"
        );
    }
}

#[test]
fn next_read_in_the_background_depends_on_the_last_event() {
    let marked = |mark| {
        let entry = value_entry();
        entry.set_mark(mark);
        entry
    };
    let [value, changed, rejected] = [Mark::None, Mark::Changed, Mark::Rejected].map(marked);
    let absent = absent_entry();
    let (failed, missing) = (failure(outage(), 500), failure(absence(), 600));
    let due = |entry, failure, forced_until, found_later| {
        let known = Known {
            entry,
            failure,
            forced_until,
            ..NOTHING
        };
        due_at(&known, found_later)
    };
    for found_later in [false, true] {
        assert_eq!(due(None, None, None, found_later), Time::MIN);
        assert_eq!(due(Some(&value), None, Some(at(7)), found_later), at(80));
        assert_eq!(
            due(Some(&changed), None, Some(at(7)), found_later),
            Time::MIN
        );
        assert_eq!(due(Some(&rejected), None, Some(at(7)), found_later), at(7));
        assert_eq!(due(Some(&rejected), None, None, found_later), Time::MIN);
        assert_eq!(
            due(Some(&rejected), Some(&failed), None, found_later),
            at(500)
        );
        assert_eq!(
            due(Some(&changed), Some(&failed), None, found_later),
            at(500)
        );
        assert_eq!(due(None, Some(&missing), None, found_later), at(600));
        assert_eq!(
            due(Some(&value), Some(&missing), None, found_later),
            at(600)
        );
        assert_eq!(
            due(Some(&absent), Some(&failed), None, found_later),
            at(500)
        );
    }
    // Nobody sees the absence if a later source has the key.
    assert_eq!(due(Some(&absent), Some(&missing), None, true), at(80));
    assert_eq!(due(Some(&absent), Some(&missing), None, false), at(600));
}

#[test]
fn unconfirmed_absence_names_its_age_and_reason() {
    let age = Duration::from_secs(90);
    let error = Reply::Absent(absence(), Some((age, outage()))).into_result();
    let error = error.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.message(), "absence; not confirmed for 90s: outage");
    assert!(std::error::Error::source(&error).is_some());
    let error = Reply::Absent(absence(), None).into_result().unwrap_err();
    assert_eq!(error.message(), "absence");
    let error = Reply::Failed(denial()).into_result().unwrap_err();
    assert_eq!(error.message(), "denial");
    let value = Reply::Value(resolved("value"), times()).into_result();
    assert_eq!(value.unwrap().value.expose_bytes(), b"value");
}

#[test]
fn superseded_value_replaces_only_a_temporary_failure() {
    let value = || Some(Reply::Value(resolved("value"), times()));
    for (reply, superseded, expected) in [
        (Reply::Failed(outage()), value(), "fresh"),
        (Reply::Failed(outage()), None, "failed outage"),
        (Reply::Failed(denial()), value(), "failed denial"),
        (Reply::Absent(absence(), None), value(), "absent"),
    ] {
        assert_eq!(reply_text(&reply.or_superseded(superseded)), expected);
    }
}

#[test]
fn error_of_a_reply_names_the_key_and_the_origin_once() {
    let (origin, other) = (origin(), Origin::new("fixture", "other"));
    let located = |reply: Reply| match reply.located(&origin, &key("KEY")) {
        Reply::Value(resolved, _) => match resolved.freshness {
            Freshness::Stale { reason, .. } => Some(reason),
            Freshness::Fresh => None,
        },
        Reply::Absent(error, None) | Reply::Failed(error) => Some(error),
        Reply::Absent(_, Some((_, reason))) => Some(reason),
    };
    let stale = |reason| resolved("value").stale(Duration::ZERO, reason);
    for reply in [
        Reply::Value(stale(outage()), times()),
        Reply::Absent(absence(), Some((Duration::ZERO, outage()))),
        Reply::Failed(outage()),
    ] {
        let error = located(reply).unwrap();
        assert_eq!(
            (error.key(), error.origin()),
            (Some(&key("KEY")), Some(&origin))
        );
    }
    // An error that was located by its source stays as it is.
    let error = outage().with_key(&key("OTHER")).with_origin(&other);
    let error = located(Reply::Failed(error)).unwrap();
    assert_eq!(
        (error.key(), error.origin()),
        (Some(&key("OTHER")), Some(&other))
    );
    assert!(located(Reply::Value(resolved("value"), times())).is_none());
    assert_eq!(located(Reply::Absent(absence(), None)).unwrap().key(), None);
}

#[test]
fn reasons_are_temporary_and_have_a_next_step() {
    for error in [
        still_refreshing(),
        not_attempted(),
        rejected(),
        expired(),
        changed(),
    ] {
        assert!(error.is_temporary(), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}
