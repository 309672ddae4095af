//! Rotations that are frequent compared with the grace period. Case S8.

use super::scripted::{Reports, Scripted};
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A day for tests in which time passes.
const SHORT_DAY: Duration = Duration::from_secs(10);

fn secret(number: u32) -> String {
    format!("{FIRST}, {number}")
}

/// A source with one rotation per `interval`, for 40 days. The newest secret is one hour old.
fn rotated(days: u32, day: Duration) -> Scripted {
    let source = Scripted::new(Reports::Times);
    for age in (0..=40 / days).rev() {
        source.write("AUTH_SECRET", &secret(age), day * days * age + day / 24);
    }
    source
}

/// The auth of a process that has just started, with a grace period of 30 days.
fn start(
    source: &Scripted,
    day: Duration,
    settings: impl FnOnce(LazyAuthBuilder) -> LazyAuthBuilder,
) -> LazyAuth<KeyRing> {
    let resolver = Resolver::builder(source.clone()).ttl(day / 2).build();
    let builder = LazyAuth::builder(resolver)
        .activation_delay(day / 100)
        .grace_period(day * 30);
    settings(builder).build(|_: Secrets, context: BuildContext| async move {
        Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
    })
}

#[tokio::test(start_paused = true)]
async fn every_secret_of_the_grace_period_verifies_after_a_restart() {
    for days in [7, 5, 1] {
        let auth = start(&rotated(days, DAY), DAY, |builder| builder);
        let ring = auth.get().await.unwrap();
        // The secret with the number `n` was replaced `n - 1` intervals and one hour ago.
        let is_valid = |number: u32| number == 0 || (number - 1) * days < 30;
        let expected: Vec<String> = (0..=40).filter(|it| is_valid(*it)).map(secret).collect();
        let found = ring.iter().map(|it| it.expose_text().unwrap().to_owned());
        assert_eq!(found.collect::<Vec<_>>(), expected, "every {days} days");
        assert_eq!(auth.state(), ready(1));
    }
}

#[tokio::test(start_paused = true)]
async fn limit_that_ends_a_grace_period_early_is_reported_at_the_start() {
    for (days, limit, is_enough) in [(7, 4, false), (7, 5, true), (5, 4, false), (1, 8, false)] {
        let log = CanaryLog::install();
        let auth = start(&rotated(days, DAY), DAY, |builder| {
            builder.max_previous(limit)
        });
        assert_eq!(auth.get().await.unwrap().iter().len(), limit + 1);
        let expected = match is_enough {
            true => VersionHistory::Complete,
            false => VersionHistory::Incomplete,
        };
        assert_eq!(auth.state().history(), Some(expected), "{days}, {limit}");
        let dropped = log.lines_with("previous_secrets_dropped");
        assert_eq!(dropped.len(), usize::from(!is_enough), "{dropped:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn limit_is_reported_by_a_running_process_until_the_grace_period_is_over() {
    let source = Scripted::new(Reports::Nothing);
    source.write("AUTH_SECRET", &secret(0), secs(0));
    let auth = start(&source, SHORT_DAY, |builder| builder.max_previous(2));
    auth.get().await.unwrap();
    for number in 1..=4 {
        source.write("AUTH_SECRET", &secret(number), secs(0));
        pass(SHORT_DAY * 2).await;
        let expected = match number {
            1 | 2 => VersionHistory::Complete,
            _ => VersionHistory::Incomplete,
        };
        assert_eq!(auth.state().history(), Some(expected), "{number}");
    }
    assert_eq!(auth.peek().unwrap().iter().len(), 3);
    pass(SHORT_DAY * 32).await;
    assert_eq!(auth.state().history(), Some(VersionHistory::Complete));
}

#[tokio::test(start_paused = true)]
async fn limit_of_zero_is_a_choice_and_not_reported() {
    let source = rotated(1, SHORT_DAY);
    let auth = start(&source, SHORT_DAY, |builder| builder.max_previous(0));
    auth.get().await.unwrap();
    source.write("AUTH_SECRET", SECOND, secs(0));
    pass(SHORT_DAY * 2).await;
    assert_eq!(auth.peek().unwrap().iter().len(), 1);
    assert_eq!(auth.state().history(), Some(VersionHistory::Complete));
}
