//! A simulation of a small fleet. `cargo xtask full fleet` runs it with 10,000 instances.

use secretwell_fleet::Promise;

#[test]
fn small_fleet_keeps_all_promises() {
    let report = secretwell_fleet::run(100, 1);
    let broken: Vec<&Promise> = report
        .promises
        .iter()
        .filter(|promise| !promise.is_kept)
        .collect();
    assert!(broken.is_empty(), "{report}");
    let phases: Vec<&str> = report.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(phases.len(), 12, "{phases:?}");
    assert!(report.promises.len() > 50, "{report}");
}
