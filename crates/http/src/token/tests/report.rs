//! The reported lifetime of a token.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::*;

/// Returns the reported remaining lifetime in seconds, or `None` if nothing was reported.
fn remaining(recorder: &PrometheusRecorder) -> Option<f64> {
    let text = recorder.handle().render();
    let mut values = text.lines().filter_map(|line| {
        line.strip_prefix(r#"secretwell_login_remaining_seconds{source="fake"} "#)
    });
    values.next().map(|value| value.parse().unwrap())
}

#[track_caller]
fn assert_remaining(recorder: &PrometheusRecorder, expected: std::ops::RangeInclusive<f64>) {
    let actual = remaining(recorder);
    assert!(
        actual.is_some_and(|actual| expected.contains(&actual)),
        "{actual:?} is not in {expected:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn remaining_lifetime_follows_renewals_expiry_and_a_new_login() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let login = FakeLogin::new(Some(100), Ok(100));
    let manager = login.manager();
    assert_eq!(remaining(&recorder), None);
    token_text(&manager).await;
    advance(1).await;
    assert_remaining(&recorder, 99.0..=100.0);
    advance(50).await;
    assert_remaining(&recorder, 44.0..=55.0);
    // The renewal.
    advance(30).await;
    assert_remaining(&recorder, 75.0..=100.0);
    assert_eq!(login.renewals(), 1);

    *login.0.renewal.lock().unwrap() = Err(ErrorKind::Unavailable);
    login.set_login_error(Some(ErrorKind::Unavailable));
    advance(200).await;
    assert_remaining(&recorder, 0.0..=0.0);
    manager.token().await.unwrap_err();

    login.set_login_error(None);
    token_text(&manager).await;
    advance(6).await;
    assert_remaining(&recorder, 90.0..=100.0);
}

#[tokio::test(start_paused = true)]
async fn remaining_lifetime_is_not_a_number_without_a_token_a_known_expiry_or_a_manager() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let login = FakeLogin::new(None, Ok(100));
    let manager = login.manager();
    let token = manager.token().await.unwrap();
    advance(6).await;
    assert!(remaining(&recorder).unwrap().is_nan(), "no known expiry");

    *login.0.lifetime.lock().unwrap() = Some(100);
    manager.refused(&token).unwrap();
    advance(6).await;
    assert!(remaining(&recorder).unwrap().is_nan(), "no token");
    token_text(&manager).await;
    advance(6).await;
    assert_remaining(&recorder, 90.0..=100.0);

    drop(manager);
    advance(1).await;
    assert!(remaining(&recorder).unwrap().is_nan(), "no manager");
}
