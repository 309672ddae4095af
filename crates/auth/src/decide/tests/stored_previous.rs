//! Tests with secrets that the builder takes as previous ones.

use super::*;

impl Test {
    /// An auth whose builder takes the ring of `K` with the secrets of `P` as previous ones.
    fn with_stored_previous() -> Self {
        Self {
            previous_keys: [key("P")].into(),
            ..Self::new()
        }
    }

    fn read_both(&mut self, current: &str, previous: &str) -> Did {
        self.read(&[("K", secret(current, None)), ("P", secret(previous, None))])
    }

    /// The secrets that the builder gets for `P`, joined by commas.
    fn stored_previous(&self) -> String {
        let stored = self.rotation.stored_previous(self.now);
        let stored = stored.get(&key("P")).cloned().unwrap_or_default();
        let texts = stored.iter().map(|value| value.expose_text().unwrap());
        texts.collect::<Vec<_>>().join(",")
    }
}

#[test]
fn stored_previous_secret_is_revoked_by_a_call_and_is_no_problem_afterwards() {
    let mut test = Test::with_stored_previous();
    assert_eq!(test.read_both("new", "old"), Did::Build);
    assert_eq!(test.stored_previous(), "old");
    let revoked = test.rotation.revoke_previous(test.now, time(0));
    assert_eq!(revoked, [key("P")]);
    assert_eq!(test.stored_previous(), "");
    assert!(test.rotation.needs_build(test.now));
    let again = test.rotation.revoke_previous(test.now, time(0));
    assert!(again.is_empty(), "each secret is revoked once");

    test.follows_revocation = true;
    assert_eq!(test.read_both("new", "old"), Did::Build);
    assert_eq!(test.read_both("new", "old"), Did::Keep);
    assert_eq!(test.stored_previous(), "");
    // The next rotation stores the secret that was not revoked.
    assert_eq!(test.read_both("newer", "new"), Did::Build);
    assert_eq!(test.stored_previous(), "new");
}

#[test]
fn secret_that_is_stored_as_previous_after_its_revocation_does_not_verify() {
    let mut test = Test::with_stored_previous();
    test.read_k("old");
    test.read_k("new");
    test.rotation.revoke_previous(test.now, time(0));
    assert_eq!(test.read_both("new", "old"), Did::Build);
    assert_eq!(test.stored_previous(), "");
}

#[test]
fn secret_that_is_stored_before_a_revocation_is_confirmed_does_not_verify() {
    let mut test = Test::with_stored_previous();
    test.read_k("new");
    test.rotation.revoke_previous(test.now, time(0));
    test.follows_revocation = true;
    test.read_both("new", "old");
    assert_eq!(test.stored_previous(), "");
}

#[test]
fn call_before_the_first_build_revokes_the_stored_previous_secret() {
    let mut test = Test::with_stored_previous();
    test.rotation.revoke_previous(test.now, time(0));
    assert_eq!(test.read_both("new", "old"), Did::Build);
    assert_eq!(test.stored_previous(), "");
    assert_eq!(test.read_both("newer", "new"), Did::Build);
    assert_eq!(test.stored_previous(), "new");
}

#[test]
fn current_secret_is_not_revoked_because_it_is_stored_as_previous_too() {
    let mut test = Test::with_stored_previous();
    test.read_both("old", "old");
    test.rotation.revoke_previous(test.now, time(0));
    test.follows_revocation = true;
    test.read_both("old", "old");
    test.pass(1);
    assert_eq!(test.read_both("new", "old"), Did::Build);
    assert_eq!(test.ring(), "new,old");
}

#[test]
fn revocation_time_covers_stored_previous_secrets_that_are_not_known_to_be_newer() {
    let stored = |version: Option<Version>, epoch: Result<Option<Epoch>, Error>| {
        let mut test = Test::with_stored_previous();
        test.epoch = epoch;
        test.read(&[("K", secret("new", None)), ("P", secret("old", version))]);
        test.stored_previous()
    };
    let at_100 = || epoch(100, version(7, 100));
    assert_eq!(stored(Some(version(2, 99)), at_100()), "");
    assert_eq!(stored(Some(version(2, 100)), at_100()), "");
    assert_eq!(stored(Some(version(2, 101)), at_100()), "old");
    assert_eq!(stored(Some(Version::numbered(2)), at_100()), "");
    assert_eq!(stored(None, at_100()), "");
    assert_eq!(stored(None, Ok(None)), "old");
    // Both are fields of one document.
    assert_eq!(
        stored(Some(version(7, 103)), epoch(100, version(7, 103))),
        ""
    );
    // The time might revoke it, but cannot be read.
    let unreadable = Err(Error::new(ErrorKind::Unavailable, "down"));
    assert_eq!(stored(Some(version(2, 101)), unreadable), "");
}

#[test]
fn revocation_time_that_is_read_later_starts_a_build_without_the_stored_previous_secret() {
    let mut test = Test::with_stored_previous();
    test.read_both("new", "old");
    test.epoch = epoch(100, version(7, 100));
    assert_eq!(test.read_both("new", "old"), Did::Build);
    assert_eq!(test.stored_previous(), "");
}
