//! The command, which supervises a program that it has started with a secret.

use super::sources::Place;
use super::{Found, Needles, Program, canary};
use crate::cli::secretwell;

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn supervisor_keeps_only_the_current_value() {
    assert_only_current_value(&[], "printf %s $CANARY | wc -c; exec sleep 1000");
    let script = "wc -c < $CANARY_FILE; exec sleep 1000";
    assert_only_current_value(&["--file", "CANARY=CANARY_FILE"], script);
}

/// Asserts that the memory contains what the program has and what the last read has returned, and that the environment
/// of the program leaves no copy.
fn assert_only_current_value(options: &[&str], script: &str) {
    let (place, old, new) = (Place::directory(), canary(), canary());
    place.write(&old);
    let mut command = secretwell(["run", "--watch=restart", "--from", &place.url]);
    command.args(options).args(["--", "sh", "-c", script]);
    let mut supervisor = Program::spawn(command);
    supervisor.reach("96");
    assert_copies_in_use(&supervisor, &old);
    place.write(&new);
    supervisor.reach("96");
    assert_copies_in_use(&supervisor, &new);
    let old = Needles::default().text("the previous value", &old);
    supervisor.assert_clean(&old, "the previous value");
}

#[track_caller]
fn assert_copies_in_use(supervisor: &Program, secret: &str) {
    let found = supervisor.remaining(&Needles::default().text("secret", secret));
    assert!((1..=2).contains(&found.len()), "{found:#?}");
    assert!(found.iter().all(|found| found.length == 96), "{found:#?}");
    let is_on_stack = |found: &Found| found.mapping.contains("stack");
    assert!(!found.iter().any(is_on_stack), "{found:#?}");
}
