//! Tests of the rings.

use secretwell_core::Origin;

use super::*;

const TIMING: Timing = Timing {
    activation_delay: Duration::from_secs(10),
    grace_period: Duration::from_secs(100),
    max_previous: 8,
};

/// Rings whose keys are all signing secrets.
#[derive(Default, Clone)]
struct Test(Rings);

impl Test {
    fn read(&self, secrets: &[(&str, &str)], timing: Timing, now: Instant) -> Self {
        let secrets: Vec<(SecretKey, Resolved)> = secrets
            .iter()
            .map(|(name, value)| {
                let secret = Resolved::fixed((*value).into(), Origin::new("test", ""));
                (key(name), secret)
            })
            .collect();
        let signing = secrets.iter().map(|(key, _)| key.clone()).collect();
        let mut rotated = self.0.rotated(&secrets, &signing, timing, now);
        rotated.limit_previous(timing.max_previous, now);
        Self(rotated)
    }

    /// The primary secret of `K`, and all of its secrets joined by commas.
    fn ring(&self, now: Instant) -> (String, String) {
        texts(&self.0.snapshot(&key("K"), now).unwrap())
    }
}

fn key(name: &str) -> SecretKey {
    SecretKey::parse(name).unwrap()
}

fn texts(ring: &KeyRing) -> (String, String) {
    let text = |value: &SecretValue| value.expose_text().unwrap().to_owned();
    let all: Vec<String> = ring.iter().map(text).collect();
    (text(ring.primary()), all.join(","))
}

fn pair(primary: &str, all: &str) -> (String, String) {
    (primary.to_owned(), all.to_owned())
}

#[test]
fn new_secret_verifies_immediately_and_signs_after_the_activation_delay() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);

    let one = Test::default().read(&[("K", "one")], TIMING, start);
    assert_eq!(one.ring(start), pair("one", "one"));
    assert_eq!(one.0.next_transition(start), None);

    let two = one.read(&[("K", "two")], TIMING, at(1));
    assert_eq!(two.ring(at(1)), pair("one", "two,one"));
    assert_eq!(two.0.next_transition(at(1)), Some(at(11)));
    assert_eq!(two.ring(at(11)), pair("two", "two,one"));
    assert_eq!(two.0.next_transition(at(11)), Some(at(111)));
    assert_eq!(two.ring(at(111)), pair("two", "two"));

    // Two rotations within the grace period, then a rotation back to the first secret.
    let three = two.read(&[("K", "three")], TIMING, at(50));
    assert_eq!(three.ring(at(70)), pair("three", "three,two,one"));
    let back = three.read(&[("K", "one")], TIMING, at(80));
    assert_eq!(back.ring(at(80)), pair("one", "one,three,two"));
    assert_eq!(back.ring(at(95)), pair("one", "one,three,two"));

    // A secret that is replaced before it is active never signs.
    let back = two.read(&[("K", "one")], TIMING, at(5));
    assert_eq!(back.ring(at(5)), pair("one", "one,two"));
    assert_eq!(back.ring(at(20)), pair("one", "one,two"));
    let forward = two.read(&[("K", "three")], TIMING, at(5));
    assert_eq!(forward.ring(at(12)), pair("one", "three,two,one"));
    assert_eq!(forward.ring(at(15)), pair("three", "three,two,one"));

    let no_expiry = Timing {
        grace_period: Duration::MAX,
        ..TIMING
    };
    let rings = Test::default().read(&[("K", "one")], no_expiry, start);
    let rings = rings.read(&[("K", "two")], no_expiry, at(1));
    assert_eq!(rings.ring(at(1_000_000)), pair("two", "two,one"));
}

#[test]
fn first_secret_of_a_new_key_signs_until_another_one_is_active() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut test = Test::default().read(&[("OTHER", "x")], TIMING, start);
    for (value, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
        test = test.read(&[("OTHER", "x"), ("K", value)], TIMING, at(seconds));
        assert_eq!(test.ring(at(seconds)).0, "a");
    }
    assert_eq!(test.ring(at(12)), pair("a", "c,b,a"));
    assert_eq!(test.ring(at(13)), pair("c", "c,b,a"));
    assert_eq!(test.ring(at(112)), pair("c", "c,b,a"));
    assert_eq!(test.ring(at(113)), pair("c", "c"));
}

#[test]
fn secret_of_another_key_stays_active_when_it_moves() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let merged = |test: &Test, now| {
        let parts = ["K_1", "K"].map(|name| test.0.snapshot(&key(name), now));
        texts(&KeyRing::merge(parts.into_iter().flatten()).unwrap())
    };
    let one = Test::default().read(&[("K", "old")], TIMING, start);
    let two = one.read(&[("K", "old"), ("K_1", "new")], TIMING, at(1));
    assert_eq!(merged(&two, at(1)), pair("old", "new,old"));
    assert_eq!(merged(&two, at(11)), pair("new", "new,old"));
    let moved = two.read(&[("K", "new")], TIMING, at(20));
    assert_eq!(merged(&moved, at(20)), pair("new", "new,old"));
    assert!(KeyRing::merge([]).is_none());
}

#[test]
fn number_of_previous_secrets_is_bounded_and_the_signing_secret_is_kept() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let bounded = |max_previous| Timing {
        max_previous,
        ..TIMING
    };
    let rotate = |max_previous, values: [(&str, u64); 4]| {
        let first = Test::default();
        let last = values.iter().fold(first, |test, (value, seconds)| {
            test.read(&[("K", value)], bounded(max_previous), at(*seconds))
        });
        last.ring(at(values[3].1))
    };
    let slow = [("a", 0), ("b", 20), ("c", 40), ("d", 60)];
    assert_eq!(rotate(2, slow), pair("c", "d,c,b"));
    assert_eq!(rotate(1, slow), pair("c", "d,c"));
    assert_eq!(rotate(0, slow), pair("d", "d"));
    // None but the first secret is active.
    let fast = [("a", 0), ("b", 1), ("c", 2), ("d", 3)];
    assert_eq!(rotate(2, fast), pair("a", "d,c,a"));
    assert_eq!(rotate(1, fast), pair("a", "d,a"));
}

#[test]
fn previous_secrets_of_other_keys_are_not_kept() {
    let start = Instant::now();
    let read = |rings: &Rings, value: &str| {
        let secret = Resolved::fixed(value.into(), Origin::new("test", ""));
        rings.rotated(&[(key("K"), secret)], &BTreeSet::new(), TIMING, start)
    };
    let mut rings = Rings::default();
    for number in 0..1000 {
        rings = read(&rings, &number.to_string());
        assert_eq!(rings.len(), 1);
    }
    assert_eq!(Test(rings).ring(start), pair("999", "999"));
}

/// The history of a key whose versions have these values and ages in seconds, oldest first.
fn history(versions: &[(&str, u64)], now: Instant) -> History {
    let stored = |(index, (value, age)): (usize, &(&str, u64))| StoredVersion {
        value: (*value).into(),
        version: Some(Version::numbered(index as u64 + 1)),
        age: Some(Duration::from_secs(*age)),
        refused: None,
    };
    let versions: Vec<StoredVersion> = versions.iter().enumerate().map(stored).collect();
    History::replay(&versions, TIMING, now)
}

impl Test {
    /// Adds the history to the ring of `K`.
    fn add(&mut self, versions: &[(&str, u64)], extent: Extent, now: Instant) {
        let history = history(versions, now);
        self.0.add_history(&key("K"), &history, extent, TIMING, now);
    }

    /// A process that starts with these versions.
    fn started(versions: &[(&str, u64)], now: Instant) -> Self {
        let (current, _) = versions.last().unwrap();
        let mut test = Self::default().read(&[("K", current)], TIMING, now);
        test.add(versions, Extent::Complete, now);
        test
    }

    /// The rings from `now` on: the seconds until each change, with the ring after it.
    fn future(&self, now: Instant) -> Vec<(u64, (String, String))> {
        let mut times = vec![now];
        while let Some(next) = self.0.next_transition(times[times.len() - 1]) {
            times.push(next);
        }
        let mut rings: Vec<_> = times
            .into_iter()
            .map(|time| ((time - now).as_secs(), self.ring(time)))
            .collect();
        rings.dedup_by(|next, last| next.1 == last.1);
        rings
    }
}

#[test]
fn starting_process_has_the_ring_of_a_running_one() {
    let histories: [&[(&str, u64)]; 11] = [
        &[("a", 1000), ("b", 4)],
        &[("a", 1000), ("b", 60), ("b", 2), ("b", 1)],
        // Secrets that were replaced before they were active.
        &[("a", 1000), ("b", 9), ("c", 0)],
        &[("a", 1000), ("b", 17), ("c", 8), ("d", 0)],
        &[("a", 1000), ("b", 112), ("c", 105), ("d", 97), ("e", 90)],
        // Rotations back and forth.
        &[("a", 1000), ("b", 5), ("a", 1)],
        &[("a", 1000), ("b", 5), ("a", 3), ("b", 1)],
        &[("a", 1000), ("b", 50), ("a", 40), ("b", 20), ("c", 5)],
        &[("a", 1000), ("b", 40), ("c", 3), ("b", 2), ("d", 1)],
        &[("z", 2000), ("a", 100), ("b", 80), ("a", 60), ("b", 40)],
        // An empty version.
        &[("a", 1000), ("", 50), ("b", 20)],
    ];
    for versions in histories {
        assert_starting_equals_running(versions);
    }
}

#[test]
fn starting_process_has_the_ring_of_a_running_one_for_all_short_histories() {
    const GAPS: [u64; 4] = [1, 9, 12, 115];
    const VALUES: [&str; 3] = ["a", "b", "c"];
    let choices = GAPS.len() * VALUES.len();
    for number in 0..choices.pow(4) {
        let mut age = 0;
        let mut versions: Vec<(&str, u64)> = (0..4)
            .map(|position| {
                let choice = number / choices.pow(position) % choices;
                age += GAPS[choice / VALUES.len()];
                (VALUES[choice % VALUES.len()], age)
            })
            .collect();
        versions.reverse();
        assert_starting_equals_running(&[&[("a", 2000)], &versions[..]].concat());
    }
}

/// Compares a process that has read each version when it was written with one that starts now.
fn assert_starting_equals_running(versions: &[(&str, u64)]) {
    let now = Instant::now() + Duration::from_secs(10_000);
    let mut running = Test::default();
    for (value, age) in versions.iter().filter(|(value, _)| !value.is_empty()) {
        let written = now - Duration::from_secs(*age);
        running = running.read(&[("K", value)], TIMING, written);
    }
    let started = Test::started(versions, now);
    assert_eq!(started.future(now), running.future(now), "{versions:?}");
}

#[test]
fn grace_period_is_not_extended_by_a_return_to_the_signing_secret() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut test = Test::default();
    for (value, seconds) in [("a", 0), ("b", 10), ("c", 50), ("b", 51)] {
        test = test.read(&[("K", value)], TIMING, at(seconds));
    }
    assert_eq!(test.ring(at(51)), pair("b", "b,c,a"));
    assert_eq!(test.ring(at(119)), pair("b", "b,c,a"));
    assert_eq!(test.ring(at(120)), pair("b", "b,c"));
}

#[test]
fn complete_history_replaces_an_incomplete_one() {
    let now = Instant::now() + Duration::from_secs(10_000);
    let versions = [("a", 1000), ("b", 9), ("c", 2)];
    let mut test = Test::default().read(&[("K", "c")], TIMING, now);
    test.add(&versions[1..], Extent::Failed, now);
    assert_eq!(test.ring(now), pair("b", "c,b"), "the oldest known secret");
    test.add(&versions[2..], Extent::Failed, now);
    assert_eq!(
        test.ring(now),
        pair("b", "c,b"),
        "the next read fails earlier"
    );
    for _ in 0..2 {
        test.add(&versions, Extent::Complete, now);
        let started = Test::started(&versions, now);
        assert_eq!(test.future(now), started.future(now));
    }
}

#[test]
fn history_that_arrives_after_a_rotation_is_the_same_as_one_at_the_start() {
    let start = Instant::now() + Duration::from_secs(10_000);
    let at = |seconds| start + Duration::from_secs(seconds);
    // `b` is replaced before or after it is active.
    for replaced in [2, 8] {
        let versions = [("a", 1000), ("b", 4)];
        let early = Test::started(&versions, start);
        let early = early.read(&[("K", "c")], TIMING, at(replaced));
        let late = Test::default().read(&[("K", "b")], TIMING, start);
        let mut late = late.read(&[("K", "c")], TIMING, at(replaced));
        let history = history(&versions, start);
        late.0
            .add_history(&key("K"), &history, Extent::Complete, TIMING, at(15));
        assert_eq!(late.future(at(15)), early.future(at(15)), "{replaced}");
    }
}

#[test]
fn secret_that_is_active_under_another_key_signs_immediately_after_a_start() {
    let now = Instant::now() + Duration::from_secs(10_000);
    let mut test = Test::default().read(&[("K", "b"), ("K_1", "a")], TIMING, now);
    test.add(&[("a", 1000), ("b", 1)], Extent::Complete, now);
    assert_eq!(test.ring(now), pair("a", "b,a"));
    let other = history(&[("b", 1000), ("a", 1)], now);
    test.0
        .add_history(&key("K_1"), &other, Extent::Complete, TIMING, now);
    test.0.activate_known(now);
    assert_eq!(test.ring(now), pair("b", "b,a"));
}

#[test]
fn time_of_a_replacement_is_uncertain_if_versions_between_were_not_read() {
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let version = |number, seconds| Version::numbered(number).with_created_at(time(seconds));
    let earliest = |last, next| earliest_replacement(Some(&last), Some(&next));
    assert_eq!(earliest(version(1, 10), version(2, 20)), Some(time(20)));
    assert_eq!(earliest(version(1, 10), version(3, 30)), Some(time(10)));
    let recreated = version(2, 20).with_identity("another");
    assert_eq!(earliest(version(1, 10), recreated), Some(time(10)));
    assert_eq!(earliest(Version::numbered(1), version(3, 30)), None);
    assert_eq!(earliest_replacement(None, Some(&version(2, 20))), None);
}

#[test]
fn newest_secret_signs_after_a_revocation_only_if_no_other_can() {
    let now = Instant::now() + Duration::from_secs(10_000);
    let versions = [("a", 1000), ("b", 60), ("c", 2)];
    for (revoked, primary, all) in [("a", "b", "c,b"), ("b", "a", "c,a"), ("a,b", "c", "c")] {
        let mut test = Test::started(&versions, now);
        assert_eq!(test.ring(now), pair("b", "c,b,a"));
        let revoked: Vec<SecretValue> = revoked.split(',').map(SecretValue::from).collect();
        let is_revoked = |_: &SecretKey, value: &SecretValue, _: &Replaced| revoked.contains(value);
        let removed = test.0.remove_previous(now, is_revoked);
        assert_eq!(removed.len(), revoked.len());
        assert_eq!(test.ring(now), pair(primary, all));
    }
}

#[test]
fn refused_previous_secret_is_left_out_and_ends_the_grace_period_of_older_ones() {
    let now = Instant::now();
    let replayed = |versions: &[(&str, u64)]| {
        let stored = |(index, (value, age)): (usize, &(&str, u64))| StoredVersion {
            value: (*value).into(),
            version: Some(Version::numbered(index as u64 + 1)),
            age: Some(Duration::from_secs(*age)),
            refused: value.starts_with("weak").then(|| "it is weak".into()),
        };
        let versions: Vec<StoredVersion> = versions.iter().enumerate().map(stored).collect();
        let history = History::replay(&versions, TIMING, now);
        let (current, _) = versions.split_last().unwrap();
        let value = current.value.expose_text().unwrap();
        let mut test = Test::default().read(&[("K", value)], TIMING, now);
        test.0
            .add_history(&key("K"), &history, Extent::Complete, TIMING, now);
        let refused = history.refused().iter().map(|it| it.version.clone());
        let refused: Vec<_> = refused
            .map(|version| version.unwrap().number().unwrap())
            .collect();
        (test.ring(now), refused, history.refused_until())
    };
    // The secret before it signs until the next one is active.
    let (ring, refused, until) = replayed(&[("a", 1000), ("weak", 50), ("b", 4)]);
    assert_eq!((ring, refused), (pair("a", "b,a"), vec![2]));
    assert!(until.unwrap() > now);
    // `a` has expired while `weak` was current.
    let (ring, refused, _) = replayed(&[("a", 1000), ("weak", 500), ("b", 4)]);
    assert_eq!((ring, refused), (pair("b", "b"), vec![2]));
    // An expired one is not reported.
    let (ring, refused, until) = replayed(&[("weak", 1000), ("b", 500)]);
    assert_eq!((ring, refused, until), (pair("b", "b"), vec![], None));
    // A current secret is judged by the build.
    let (ring, refused, _) = replayed(&[("a", 1000), ("weak", 50)]);
    assert_eq!((ring, refused), (pair("weak", "weak,a"), vec![]));
}

#[test]
fn history_belongs_to_one_version_of_one_key() {
    let now = Instant::now();
    let read = KeyHistory {
        key: key("K"),
        history: history(&[("a", 50), ("b", 4)], now),
        extent: Extent::Complete,
    };
    let is_of = |history: &KeyHistory, name: &str, value: &str, number: Option<u64>| {
        let mut secret = Resolved::fixed(value.into(), Origin::new("test", ""));
        secret.version = number.map(Version::numbered);
        history.is_of(&(key(name), secret))
    };
    assert!(is_of(&read, "K", "b", Some(2)));
    assert!(!is_of(&read, "OTHER", "b", Some(2)));
    assert!(!is_of(&read, "K", "a", Some(2)));
    assert!(!is_of(&read, "K", "b", Some(3)));
    assert!(!is_of(&read, "K", "b", None));
    let empty = KeyHistory {
        history: history(&[], now),
        ..read
    };
    assert!(!is_of(&empty, "K", "b", Some(2)));
}

#[test]
fn expired_secrets_are_removed_from_all_rings() {
    let start = Instant::now();
    let one = Test::default().read(&[("K", "one"), ("K_1", "one")], TIMING, start);
    let mut two = one.read(&[("K", "two"), ("K_1", "two")], TIMING, start);
    for (seconds, count) in [(109, 4), (110, 2)] {
        two.0.remove_expired(start + Duration::from_secs(seconds));
        assert_eq!(two.0.len(), count, "after {seconds} s");
    }
}

#[test]
fn newest_secret_signs_at_once_if_no_other_one_may() {
    let start = Instant::now();
    let one = Test::default().read(&[("K", "one")], TIMING, start);
    let two = one.read(&[("K", "two")], TIMING, start).0;
    let is_active = |rings: &Rings| rings.snapshot(&key("K"), start).unwrap().is_active;
    let mut revoked = two.clone();
    assert_eq!(revoked.remove_previous(start, |_, _, _| true).len(), 1);
    assert!(is_active(&revoked));
    let mut activated = two.clone();
    activated.activate_newest(start);
    assert_eq!(Test(activated).ring(start), pair("two", "two,one"));
    // Without a revocation, the activation delay applies.
    let mut alone = two;
    alone.keep_previous_of(&BTreeSet::new());
    assert!(alone.remove_previous(start, |_, _, _| false).is_empty());
    assert!(!is_active(&alone));
}

#[test]
fn each_key_that_was_read_has_a_ring() {
    let now = Instant::now();
    let rings = Test::default().read(&[("K", "one")], TIMING, now).0;
    assert!(rings.contains(&key("K")) && !rings.contains(&key("OTHER")));
    let snapshots = rings.snapshots(now);
    assert_eq!(snapshots.len(), 1);
    assert_eq!(texts(&snapshots[&key("K")]), pair("one", "one"));
}
