//! Tests of the decisions.

use secretwell_core::{Origin, Version};
use secretwell_resolver::Freshness;

use super::*;
use crate::ring::{History, StoredVersion};

mod stored_previous;

/// An auth whose builder takes the ring of `K`, and no ring of `PASSWORD`.
struct Test {
    rotation: Rotation,
    rules: Rules,
    now: Instant,
    epoch: Result<Option<Epoch>, Error>,
    histories: Vec<KeyHistory>,
    follows_revocation: bool,
    /// The keys whose secrets the builder takes as previous ones.
    previous_keys: BTreeSet<SecretKey>,
}

#[derive(Debug, PartialEq)]
enum Did {
    Build,
    Keep,
    Fail,
}

fn key(name: &str) -> SecretKey {
    SecretKey::parse(name).unwrap()
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn version(number: u64, seconds: u64) -> Version {
    Version::numbered(number).with_created_at(time(seconds))
}

fn stale(value: &str, version: Option<Version>) -> Resolved {
    let mut stale = secret(value, version);
    stale.freshness = Freshness::Stale {
        age: Duration::ZERO,
        reason: Error::new(ErrorKind::Unavailable, "down"),
    };
    stale
}

fn epoch(seconds: u64, version: Version) -> Result<Option<Epoch>, Error> {
    Ok(Some(Epoch {
        time: time(seconds),
        version: Some(version),
    }))
}

fn secret(value: &str, version: Option<Version>) -> Resolved {
    let mut secret = Resolved::fixed(value.into(), Origin::new("test", ""));
    secret.version = version;
    secret
}

/// The complete history of `K`, with these values and the times of their versions, oldest first. The age of
/// the current one is 20 s, and that of the others 50 s.
fn history(versions: &[(&str, u64)], timing: Timing, now: Instant) -> KeyHistory {
    let stored = |(index, (value, seconds)): (usize, &(&str, u64))| StoredVersion {
        value: (*value).into(),
        version: Some(version(index as u64 + 1, *seconds)),
        age: Some(Duration::from_secs(match index + 1 == versions.len() {
            true => 20,
            false => 50,
        })),
        refused: None,
    };
    let versions: Vec<StoredVersion> = versions.iter().enumerate().map(stored).collect();
    KeyHistory {
        key: key("K"),
        history: History::replay(&versions, timing, now),
        extent: Extent::Complete,
    }
}

impl Test {
    fn new() -> Self {
        Self {
            rotation: Rotation::default(),
            rules: Rules {
                timing: Timing {
                    activation_delay: Duration::from_secs(10),
                    grace_period: Duration::from_secs(100),
                    max_previous: 8,
                },
                ttl: Duration::from_secs(30),
                named: BTreeSet::new(),
                candidates: [key("K")].into(),
            },
            now: Instant::now(),
            epoch: Ok(None),
            histories: Vec::new(),
            follows_revocation: false,
            previous_keys: BTreeSet::new(),
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn read(&mut self, secrets: &[(&str, Resolved)]) -> Did {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|(name, secret)| (key(name), secret.clone()))
            .collect();
        let snapshot = Snapshot {
            secrets: &secrets,
            read_from: self.now,
            epoch: self.epoch.clone(),
            histories: &self.histories,
            forced: false,
            follows_revocation: self.follows_revocation,
        };
        let (next, did) = match decide(&self.rotation, &snapshot, &self.rules, self.now) {
            Decision::Fail(problems) => {
                assert!(problems.iter().all(Error::is_temporary), "{problems:?}");
                return Did::Fail;
            }
            Decision::Keep(next) => (next, Did::Keep),
            Decision::Build(next) => (next, Did::Build),
        };
        self.rotation = next.rotation;
        if did == Did::Build {
            let requested = [key("K")].into();
            let previous = self.previous_keys.clone();
            self.rotation
                .built(&secrets, requested, previous, &self.rules, self.now);
        }
        did
    }

    fn read_k(&mut self, value: &str) -> Did {
        self.read(&[("K", secret(value, None))])
    }

    /// All secrets of the ring of `K`, joined by commas.
    fn ring(&self) -> String {
        let ring = self.rotation.rings.snapshot(&key("K"), self.now).unwrap();
        let texts: Vec<&str> = ring.iter().map(|it| it.expose_text().unwrap()).collect();
        texts.join(",")
    }

    fn add_history(&mut self, versions: &[(&str, u64)]) {
        let history = history(versions, self.rules.timing, self.now);
        self.histories.push(history);
    }

    /// Ages the rotation. Returns the number of revoked secrets, or `None` if nothing has changed.
    fn advance(&mut self) -> Option<usize> {
        let next = advance(&self.rotation, &self.rules, self.now)?;
        self.rotation = next.rotation;
        Some(next.revoked.len())
    }

    fn revoke_previous(&mut self) -> usize {
        self.rotation.revoke_previous(self.now, time(0)).len()
    }
}

#[test]
fn build_follows_only_from_a_changed_input() {
    let mut test = Test::new();
    let secrets =
        |k: &str, password: &str| [("K", secret(k, None)), ("PASSWORD", secret(password, None))];
    assert_eq!(test.read(&secrets("a", "p")), Did::Build);
    assert_eq!(test.read(&secrets("a", "p")), Did::Keep);
    assert_eq!(test.read(&secrets("a", "q")), Did::Build, "one key");
    for _ in 0..3 {
        test.pass(60);
        assert_eq!(test.read(&secrets("a", "q")), Did::Keep, "no ring of it");
    }
    assert_eq!(test.read(&secrets("b", "r")), Did::Build, "both keys");
    for (seconds, did) in [
        (9, Did::Keep),
        (1, Did::Build),
        (99, Did::Keep),
        (1, Did::Build),
        (1000, Did::Keep),
    ] {
        test.pass(seconds);
        assert_eq!(test.read(&secrets("b", "r")), did);
    }
    assert_eq!(
        test.read(&secrets("b", "q")),
        Did::Build,
        "a value from before"
    );
    assert_eq!(test.read(&secrets("b", "q")[..1]), Did::Build, "absent");
}

#[test]
fn only_requested_and_named_keys_keep_previous_secrets() {
    let mut test = Test::new();
    test.rules.candidates = [key("K"), key("PASSWORD")].into();
    test.rules.named = [key("NAMED")].into();
    for value in ["a", "b", "c"] {
        let value = secret(value, None);
        let secrets = ["K", "NAMED", "PASSWORD"].map(|name| (name, value.clone()));
        test.read(&secrets);
    }
    let count = |name| {
        let ring = test.rotation.rings.snapshot(&key(name), test.now);
        ring.unwrap().iter().len()
    };
    assert_eq!((count("K"), count("NAMED"), count("PASSWORD")), (3, 3, 1));
}

#[test]
fn revoked_secret_is_never_accepted_again() {
    let mut test = Test::new();
    for value in ["a", "b"] {
        test.read_k(value);
    }
    assert_eq!(test.revoke_previous(), 1);
    assert_eq!(test.read_k("b"), Did::Build);
    assert_eq!(test.ring(), "b");
    assert_eq!(test.read_k("a"), Did::Fail, "as the current secret");
    let other_key = [("K", secret("b", None)), ("PASSWORD", secret("a", None))];
    assert_eq!(
        test.read(&other_key),
        Did::Fail,
        "as the secret of another key"
    );
    test.add_history(&[("a", 1), ("b", 2)]);
    assert_eq!(test.read_k("b"), Did::Keep, "from the history");
    assert_eq!(test.ring(), "b");
}

#[test]
fn secret_that_was_replaced_before_the_revocation_was_read_is_revoked_too() {
    let mut test = Test::new();
    for value in ["a", "b"] {
        test.read_k(value);
    }
    test.revoke_previous();
    // This read started before the revocation, or its result is stale.
    test.read_k("c");
    assert_eq!(test.ring(), "c,b");
    test.follows_revocation = true;
    test.read(&[("K", stale("d", None))]);
    assert_eq!(test.ring(), "d,c,b");
    assert!(test.rotation.unconfirmed);
    test.read_k("e");
    assert_eq!(test.ring(), "e");
    assert!(!test.rotation.unconfirmed);
    test.read_k("f");
    assert_eq!(test.ring(), "f,e", "the next rotation has a grace period");
    for revoked in ["a", "b", "c", "d"] {
        assert_eq!(test.read_k(revoked), Did::Fail);
    }
}

#[test]
fn call_covers_older_versions_until_fresh_secrets_end_it() {
    let mut test = Test::new();
    let versioned = |name, number, seconds| secret(name, Some(version(number, seconds)));
    test.read(&[("K", versioned("a", 1, 0))]);
    test.rotation.revoke_previous(test.now, time(100));
    test.pass(119);
    test.read(&[("K", versioned("a", 1, 0))]);
    test.pass(3600);
    test.read(&[("K", stale("b", Some(version(2, 100))))]);
    assert_eq!(test.ring(), "b");
    test.read(&[("K", stale("c", Some(version(3, 101))))]);
    assert_eq!(test.ring(), "c,b");
    for (value, number) in [("c", 3), ("d", 4)] {
        test.read(&[("K", versioned(value, number, 50))]);
        test.pass(1);
    }
    assert_eq!(test.ring(), "d,c,b", "the clock of the source is behind");
}

#[test]
fn newest_secret_of_another_key_stays_valid_until_it_is_replaced_there() {
    let mut test = Test::new();
    test.rules.named = [key("K_1")].into();
    test.read(&[("K", secret("old", None))]);
    let moved = [("K", secret("new", None)), ("K_1", secret("old", None))];
    test.read(&moved);
    assert_eq!(test.ring(), "new,old");
    test.revoke_previous();
    assert_eq!(test.read(&moved), Did::Build);
    assert_eq!(test.ring(), "new");

    let replaced = [("K", secret("new", None)), ("K_1", secret("other", None))];
    assert_eq!(test.read(&replaced), Did::Build);
    let other = test.rotation.rings.snapshot(&key("K_1"), test.now);
    assert_eq!(
        other.unwrap().iter().len(),
        1,
        "it is not a previous secret"
    );
    assert_eq!(test.read(&moved), Did::Fail, "it returns");
    assert_eq!(test.read(&moved[..1]), Did::Build, "absent");
    assert_eq!(test.read(&moved), Did::Fail);
    assert_eq!(test.read_k("old"), Did::Fail);
}

#[test]
fn call_revokes_the_histories_that_were_not_read_whatever_the_clocks_say() {
    for reads_before in [0, 1] {
        let mut test = Test::new();
        for _ in 0..reads_before {
            test.read_k("b");
        }
        test.revoke_previous();
        // By the clock of the source, `b` was written after the call.
        test.add_history(&[("a", 10), ("b", 20)]);
        test.read_k("b");
        assert_eq!(test.ring(), "b", "the source has not confirmed the call");
        test.follows_revocation = true;
        test.read_k("b");
        test.follows_revocation = false;
        test.read_k("b");
        assert_eq!(test.ring(), "b");
        let current = [(key("K"), secret("b", None))];
        assert!(
            test.rotation
                .missing_histories(&current, &test.rules)
                .is_empty()
        );
    }
}

#[test]
fn revocation_time_counts_from_the_earliest_possible_replacement() {
    for (number, ring) in [(2, "b,a"), (3, "b")] {
        // The new secret is read with the version that introduced it, or with a later one.
        let mut test = Test::new();
        test.read(&[("K", secret("a", Some(version(1, 10))))]);
        test.epoch = epoch(25, version(1, 26));
        test.read(&[("K", secret("b", Some(version(number, 30))))]);
        assert_eq!(test.ring(), ring);
        // A later rotation has a grace period again.
        test.read(&[("K", secret("c", Some(version(9, 90))))]);
        assert_eq!(test.ring(), format!("c,{ring}"));
    }
    // The revocation time is read before the new secret.
    for (seconds, ring) in [(60, "b"), (301, "b,a")] {
        let mut test = Test::new();
        let first = [("K", secret("a", Some(version(1, 10))))];
        test.read(&first);
        test.epoch = epoch(25, version(1, 26));
        test.read(&first);
        test.pass(seconds);
        test.read(&[("K", secret("b", Some(version(3, 30))))]);
        assert_eq!(test.ring(), ring, "{seconds}");
    }
    // The previous secret was read with a version that is newer than the revocation time.
    let mut test = Test::new();
    test.read(&[("K", secret("a", Some(version(1, 10))))]);
    test.read(&[("K", secret("a", Some(version(3, 30))))]);
    test.epoch = epoch(25, version(1, 26));
    test.read(&[("K", secret("b", Some(version(5, 50))))]);
    assert_eq!(test.ring(), "b,a");
}

#[test]
fn time_alone_changes_the_rings() {
    let mut test = Test::new();
    assert_eq!(test.advance(), None);
    for value in ["a", "b"] {
        test.read_k(value);
    }
    for (seconds, changes, ring) in [(9, false, "b,a"), (1, true, "b,a"), (100, true, "b")] {
        test.pass(seconds);
        let advanced = test.advance();
        assert_eq!(advanced.is_some(), changes, "{ring}");
        assert_eq!(test.ring(), ring);
        // A read finds that no input has changed once it was built from.
        assert_eq!(test.read_k("b") == Did::Build, changes);
        assert_eq!(test.advance(), None);
    }
}

#[test]
fn revocation_time_is_applied_without_the_secrets() {
    let mut test = Test::new();
    test.read(&[("K", secret("a", Some(version(1, 10))))]);
    test.read(&[("K", secret("b", Some(version(2, 20))))]);
    let advance =
        |test: &Test, epoch| advance_with_epoch(&test.rotation, epoch, &test.rules, test.now);
    assert!(advance(&test, None).is_none());
    for (seconds, revoked, ring) in [(15, 0, "b,a"), (25, 1, "b")] {
        let next = advance(&test, epoch(seconds, version(1, 40)).unwrap()).unwrap();
        assert_eq!(next.revoked.len(), revoked);
        test.rotation = next.rotation;
        assert_eq!(test.rotation.needs_build(test.now), revoked > 0);
        assert_eq!(test.ring(), ring);
        assert!(advance(&test, epoch(seconds, version(1, 40)).unwrap()).is_none() || revoked > 0);
    }
    assert_eq!(test.read_k("a"), Did::Fail);
}

#[test]
fn history_with_too_many_versions_is_incomplete_until_all_of_them_have_expired() {
    let mut test = Test::new();
    test.add_history(&[("a", 10), ("b", 20)]);
    test.histories[0].extent = Extent::Limited;
    test.read_k("b");
    assert_eq!(test.ring(), "b,a");
    let current = [(key("K"), secret("b", None))];
    let missing = test.rotation.missing_histories(&current, &test.rules);
    assert!(missing.is_empty(), "it is not read again");
    assert!(test.rotation.history_is_cut(test.now));
    test.pass(110);
    assert!(!test.rotation.history_is_cut(test.now));
}

#[test]
fn revocation_time_excludes_what_was_replaced_at_or_before_it() {
    for (revoked_at, ring) in [(19, "c,b,a"), (20, "c,b"), (29, "c,b"), (30, "c")] {
        let mut test = Test::new();
        for (value, number) in [("a", 1), ("b", 2), ("c", 3)] {
            test.read(&[("K", secret(value, Some(version(number, 10 * number))))]);
        }
        test.epoch = epoch(revoked_at, version(1, 40));
        let current = secret("c", Some(version(3, 30)));
        let did = test.read(&[("K", current.clone())]);
        assert_eq!(did == Did::Build, ring != "c,b,a", "{revoked_at}");
        assert_eq!(test.ring(), ring, "{revoked_at}");
        assert_eq!(test.read(&[("K", current)]), Did::Keep);
        // A later rotation has a grace period again.
        test.read(&[("K", secret("d", Some(version(4, 50))))]);
        assert_eq!(test.ring(), format!("d,{ring}"));
    }
}

#[test]
fn late_rotation_that_is_older_than_the_revocation_time_has_no_grace_period() {
    let mut test = Test::new();
    test.epoch = epoch(25, version(1, 25));
    test.read(&[("K", secret("a", Some(version(1, 10))))]);
    test.read(&[("K", secret("b", Some(version(2, 20))))]);
    assert_eq!(test.ring(), "b");
}

#[test]
fn document_with_secret_and_revocation_time_revokes_what_changed_with_it() {
    // The secret was written as version 2, and the time 25 as version 3. Both are read as version 3.
    let mut test = Test::new();
    test.read(&[("K", secret("a", Some(version(1, 10))))]);
    test.epoch = epoch(25, version(3, 26));
    test.read(&[("K", secret("b", Some(version(3, 26))))]);
    assert_eq!(test.ring(), "b");
    // The same time in a later version does not cause a revocation.
    test.epoch = epoch(25, version(4, 40));
    test.read(&[("K", secret("c", Some(version(4, 40))))]);
    assert_eq!(test.ring(), "c,b");
}

#[test]
fn without_creation_times_a_changed_revocation_time_excludes_all_previous_secrets() {
    let mut test = Test::new();
    for value in ["a", "b"] {
        test.read_k(value);
    }
    test.epoch = epoch(5, Version::numbered(1));
    test.read_k("b");
    assert_eq!(test.ring(), "b");
    test.read_k("c");
    assert_eq!(test.ring(), "c,b", "the time has not changed");
    test.epoch = epoch(6, Version::numbered(2));
    test.read_k("c");
    assert_eq!(test.ring(), "c");
    test.epoch = Ok(None);
    test.read_k("d");
    assert_eq!(test.ring(), "d,c");
    assert_eq!(test.read_k("a"), Did::Fail);
}

#[test]
fn history_is_used_only_with_a_known_revocation_time() {
    let mut test = Test::new();
    test.add_history(&[("a", 10), ("b", 20), ("c", 30)]);
    let down = || Err(Error::new(ErrorKind::Unavailable, "down"));
    test.epoch = down();
    test.read_k("c");
    assert_eq!(test.ring(), "c");
    assert!(!test.rotation.accepts_history());
    test.epoch = epoch(20, version(1, 20));
    test.read_k("c");
    assert_eq!(test.ring(), "c,b");
    // The last known time stays in force.
    test.epoch = down();
    test.read(&[("K", secret("d", Some(version(9, 20))))]);
    assert_eq!(test.ring(), "d,b", "`c` was replaced before the time");
}
