//! Revocation of previous secrets: by a call, and by a revocation time in the source.

use std::sync::Mutex;

use secretwell::Error;

use super::scripted::{Reports, Scripted};
use super::*;

const THIRD: &str = "the third secret, thirty-two bytes or more";
const REVOKED_AT: &str = "AUTH_SECRET_REVOKED_AT";

/// A source, and an auth that takes the ring of `AUTH_SECRET`.
struct Service {
    source: Scripted,
    faulty: FaultyProvider<Scripted>,
    resolver: Resolver,
    auth: LazyAuth<KeyRing>,
}

impl Service {
    /// A process that starts with a source. The resolver notices changes by its ttl of 10 s.
    fn start(source: &Scripted) -> Self {
        let faulty = FaultyProvider::new(source.clone());
        let resolver = Resolver::builder(faulty.clone()).ttl(secs(10)).build();
        let auth = LazyAuth::builder(resolver.clone())
            .mode(Mode::Production)
            .activation_delay(secs(20))
            .revocation_key(REVOKED_AT)
            .unwrap()
            .build(|_: Secrets, context: BuildContext| async move {
                Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
            });
        Self {
            source: source.clone(),
            faulty,
            resolver,
            auth,
        }
    }

    /// A process that has seen the rotation from `FIRST` to `SECOND`.
    async fn rotated(reports: Reports) -> Self {
        let source = Scripted::new(reports);
        source.write("AUTH_SECRET", FIRST, secs(10_000));
        let service = Self::start(&source);
        service.auth.get().await.unwrap();
        source.write("AUTH_SECRET", SECOND, secs(50));
        service.auth.rebuild().await.unwrap();
        assert_eq!(
            service.ring(),
            (FIRST.into(), format!("{SECOND},{FIRST}")),
            "{reports:?}"
        );
        service
    }

    fn ring(&self) -> (String, String) {
        ring_text(&self.auth.peek().unwrap())
    }

    /// Asserts that the ring consists of one secret.
    fn assert_only(&self, secret: &str) {
        assert_eq!(self.ring(), (secret.into(), secret.into()));
    }

    fn problem(&self) -> String {
        match self.auth.state() {
            State::Degraded { failure, .. } => failure.to_string(),
            state => panic!("{state:?}"),
        }
    }
}

const ALL: [Reports; 3] = [Reports::Times, Reports::Numbers, Reports::Nothing];

#[tokio::test(start_paused = true)]
async fn previous_secrets_are_revoked_while_the_source_is_down_or_hangs_or_denies() {
    for reports in ALL {
        for (fault, waits) in [
            (Action::Fail(down()), false),
            (Action::Fail(denied()), false),
            (Action::Hang, true),
        ] {
            let service = Service::rotated(reports).await;
            service.faulty.always(fault.clone());
            let cached = service.resolver.get("AUTH_SECRET").await.unwrap();
            assert_eq!(cached.value.expose_text().unwrap(), SECOND);

            let start = Instant::now();
            let revoked = tokio::spawn({
                let auth = service.auth.clone();
                async move { auth.revoke_previous().await.map(|ring| ring_text(&ring)) }
            });
            settle().await;
            service.assert_only(SECOND);
            assert_eq!(start.elapsed(), secs(0), "{fault:?}");
            let revoked = revoked.await.unwrap().unwrap();
            assert_eq!(revoked, (SECOND.into(), SECOND.into()));
            assert_eq!(start.elapsed() >= secs(10), waits, "{fault:?}");

            // Another user of the resolver keeps the cached value, unless the source denied access.
            if !matches!(&fault, Action::Fail(error) if error.is_refusal()) {
                let cached = service.resolver.get("AUTH_SECRET").await.unwrap();
                assert_eq!(cached.value.expose_text().unwrap(), SECOND);
            }
            pass(secs(3600)).await;
            service.assert_only(SECOND);
            service.faulty.clear_faults();
            pass(secs(600)).await;
            assert_eq!(service.auth.state().name(), "ready", "{fault:?}");
            service.assert_only(SECOND);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_secret_of_a_lagging_replica_is_refused() {
    for reports in ALL {
        let service = Service::rotated(reports).await;
        pass(secs(2)).await;
        service.source.lag("AUTH_SECRET", Some(1));
        let revoked = service.auth.revoke_previous().await.unwrap();
        assert_eq!(ring_text(&revoked), (SECOND.into(), SECOND.into()));
        for _ in 0..20 {
            pass(secs(5)).await;
            service.assert_only(SECOND);
        }
        let problem = service.problem();
        if reports == Reports::Nothing {
            assert!(problem.contains("unavailable: the source returned a secret that was revoked"));
        }
        service.source.lag("AUTH_SECRET", None);
        pass(secs(120)).await;
        assert_eq!(service.auth.state().name(), "ready", "{reports:?}");
        service.assert_only(SECOND);

        // The next rotation has a grace period.
        service.source.write("AUTH_SECRET", THIRD, secs(0));
        pass(secs(60)).await;
        assert_eq!(service.ring(), (THIRD.into(), format!("{THIRD},{SECOND}")));
    }
}

/// By the clock of the source, which is behind, the next secret is older than the call.
#[tokio::test(start_paused = true)]
async fn call_covers_older_versions_for_90_s_and_the_ttl() {
    for (wait, ring) in [(50, THIRD.to_owned()), (101, format!("{THIRD},{SECOND}"))] {
        let service = Service::rotated(Reports::Times).await;
        service.auth.revoke_previous().await.unwrap();
        pass(secs(wait)).await;
        service.source.write("AUTH_SECRET", THIRD, secs(3600));
        pass(secs(60)).await;
        assert_eq!(service.ring(), (THIRD.into(), ring), "after {wait} s");
    }
}

#[tokio::test(start_paused = true)]
async fn secret_that_was_not_read_before_the_revocation_replaces_the_one_in_memory() {
    for reports in ALL {
        let service = Service::rotated(reports).await;
        service.source.write("AUTH_SECRET", THIRD, secs(0));
        let revoked = service.auth.revoke_previous().await.unwrap();
        assert_eq!(ring_text(&revoked), (THIRD.into(), THIRD.into()));
        pass(secs(100)).await;
        service.assert_only(THIRD);
    }
}

#[tokio::test(start_paused = true)]
async fn source_is_read_later_if_it_is_down_during_the_revocation() {
    for reports in ALL {
        let service = Service::rotated(reports).await;
        service.source.write("AUTH_SECRET", THIRD, secs(0));
        service.faulty.always(Action::Fail(down()));
        service.auth.revoke_previous().await.unwrap();
        service.assert_only(SECOND);
        pass(secs(100)).await;
        service.faulty.clear_faults();
        pass(secs(60)).await;
        service.assert_only(THIRD);
        assert_eq!(service.auth.state().name(), "ready", "{reports:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_without_previous_secrets_needs_the_source() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(10_000));
    let service = Service::start(&source);
    service.auth.get().await.unwrap();
    service.faulty.always(Action::Fail(down()));
    let failure = service.auth.revoke_previous().await.unwrap_err();
    assert!(failure.to_string().contains("the source is down"));
    source.write("AUTH_SECRET", SECOND, secs(0));
    service.faulty.clear_faults();
    pass(secs(60)).await;
    service.assert_only(SECOND);
}

#[tokio::test(start_paused = true)]
async fn revocation_interrupts_an_attempt_that_hangs() {
    for rebuilding in [false, true] {
        let service = Service::rotated(Reports::Times).await;
        pass(secs(2)).await;
        service.faulty.push(Action::Hang);
        if rebuilding {
            let auth = service.auth.clone();
            tokio::spawn(async move { auth.rebuild().await.map(drop) });
            settle().await;
        }
        let auth = service.auth.clone();
        let revoked = tokio::spawn(async move { auth.revoke_previous().await.map(drop) });
        settle().await;
        service.assert_only(SECOND);
        revoked.await.unwrap().unwrap();
        service.assert_only(SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_secret_does_not_return_with_the_history() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(500));
    source.always_old(Some(super::scripted::Old::Fail(down())));
    let service = Service::start(&source);
    service.auth.get().await.unwrap();
    service.assert_only(SECOND);
    // The first secret was never in memory.
    service.auth.revoke_previous().await.unwrap();
    source.always_old(None);
    pass(secs(1000)).await;
    assert_eq!(service.auth.state(), ready(1));
    service.assert_only(SECOND);
}

#[tokio::test(start_paused = true)]
async fn revocation_before_the_first_build_excludes_the_history() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(500));
    let service = Service::start(&source);
    service.auth.revoke_previous().await.unwrap();
    service.assert_only(SECOND);
    pass(secs(1000)).await;
    service.assert_only(SECOND);
}

#[tokio::test(start_paused = true)]
async fn call_revokes_the_history_although_the_clock_of_the_source_is_ahead() {
    for is_started in [false, true] {
        let source = Scripted::new(Reports::Times);
        source.set_clock_ahead(secs(5));
        source.write("AUTH_SECRET", FIRST, secs(1000));
        source.write("AUTH_SECRET", SECOND, secs(1));
        source.always_old(Some(super::scripted::Old::Fail(down())));
        let service = Service::start(&source);
        if is_started {
            service.auth.get().await.unwrap();
            service.assert_only(SECOND);
        }
        service.auth.revoke_previous().await.unwrap();
        source.always_old(None);
        pass(secs(600)).await;
        service.assert_only(SECOND);
        assert_eq!(service.auth.state(), ready(1), "{is_started}");
        // The next rotation has a grace period.
        source.write("AUTH_SECRET", THIRD, secs(0));
        pass(secs(60)).await;
        assert_eq!(service.ring(), (THIRD.into(), format!("{THIRD},{SECOND}")));
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_secret_that_another_key_still_has_does_not_return() {
    #[derive(Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    #[expect(dead_code, reason = "the build uses the key rings")]
    struct Shifted {
        auth_secret: SecretString,
        auth_secret_1: Option<SecretString>,
    }
    let source = Scripted::new(Reports::Nothing);
    source.write("AUTH_SECRET", FIRST, secs(0));
    let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
    let builder = LazyAuth::builder(resolver).activation_delay(secs(0));
    let auth = builder.build(|_: Shifted, context: BuildContext| async move {
        let newest = context.key_ring("AUTH_SECRET")?;
        let previous = context.key_ring("AUTH_SECRET_1").ok();
        let rings = [Some(newest), previous].into_iter().flatten();
        KeyRing::merge(rings).ok_or_else(|| BuildError::msg("no ring"))
    });
    auth.get().await.unwrap();
    source.write("AUTH_SECRET", SECOND, secs(0));
    source.write("AUTH_SECRET_1", FIRST, secs(0));
    auth.rebuild().await.unwrap();
    let both = (SECOND.to_owned(), format!("{SECOND},{FIRST}"));
    let revoked = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&revoked), both, "it is the secret of another key");
    source.write("AUTH_SECRET_1", SECOND, secs(0));
    pass(secs(30)).await;
    assert_eq!(
        ring_text(&auth.peek().unwrap()),
        (SECOND.into(), SECOND.into())
    );
    // A replica lags.
    source.write("AUTH_SECRET", FIRST, secs(0));
    pass(secs(30)).await;
    assert_eq!(
        ring_text(&auth.peek().unwrap()),
        (SECOND.into(), SECOND.into())
    );
    assert_eq!(auth.state().name(), "degraded");
}

#[tokio::test(start_paused = true)]
async fn revocation_time_revokes_a_secret_whose_replacement_is_read_with_a_later_version() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(10_000));
    let service = Service::start(&source);
    service.auth.get().await.unwrap();
    // The last version changes another field of the document.
    source.write("AUTH_SECRET", SECOND, secs(30));
    source.write("AUTH_SECRET", SECOND, secs(10));
    source.write(REVOKED_AT, &unix(secs(20)), secs(20));
    pass(secs(60)).await;
    service.assert_only(SECOND);
    let started = Service::start(&source);
    started.auth.get().await.unwrap();
    started.assert_only(SECOND);
}

#[tokio::test(start_paused = true)]
async fn revocation_key_that_cannot_be_read_keeps_the_history_out() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(500));
    source.write(REVOKED_AT, "no time", secs(500));
    source.always_old(Some(super::scripted::Old::Fail(down())));
    let service = Service::start(&source);
    service.auth.get().await.unwrap();
    pass(secs(3600)).await;
    source.always_old(None);
    pass(secs(3600)).await;
    service.assert_only(SECOND);
    source.write(REVOKED_AT, &unix(secs(5000)), secs(0));
    pass(secs(400)).await;
    assert_eq!(service.ring().1, format!("{SECOND},{FIRST}"));
}

#[tokio::test(start_paused = true)]
async fn preflight_and_build_agree_on_a_revoked_secret() {
    let service = Service::rotated(Reports::Times).await;
    service.auth.revoke_previous().await.unwrap();
    assert!(service.auth.preflight(Mode::Production).await.is_ready());
    service.source.write("AUTH_SECRET", FIRST, secs(0));
    pass(secs(60)).await;
    let report = service.auth.preflight(Mode::Production).await;
    let failure = service.auth.rebuild().await.err().unwrap();
    let texts = |problems: &[Error]| problems.iter().map(Error::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(report.problems()),
        texts(failure.problems()),
        "{report}"
    );
    let checks: Vec<_> = report.checks().iter().map(|check| &check.status).collect();
    assert!(matches!(checks[0], Status::Failed(_)), "{report}");
}

#[tokio::test(start_paused = true)]
async fn builder_that_fails_on_the_remaining_secret_is_reported() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    fixture
        .memory
        .set("AUTH_SECRET", "reject, thirty-two bytes or more of it")
        .unwrap();
    pass(secs(2)).await;
    let failure = fixture.auth.revoke_previous().await.err().unwrap();
    assert!(
        failure.to_string().contains("the builder failed"),
        "{failure}"
    );
    // The next secret replaces both without a grace period.
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    pass(secs(60)).await;
    let ring = fixture.auth.peek().unwrap().ring.clone();
    assert_eq!(ring_text(&ring), (SECOND.into(), SECOND.into()));
}

#[tokio::test(start_paused = true)]
async fn revocation_is_logged_without_the_secrets() {
    let log = CanaryLog::install();
    let service = Service::rotated(Reports::Times).await;
    service.auth.revoke_previous().await.unwrap();
    let lines = log.lines_with("event=previous_secrets_revoked");
    assert_eq!(lines.len(), 1, "{}", log.text());
    assert!(lines[0].contains("key=AUTH_SECRET") && lines[0].contains("count=1"));
    log.assert_clean(&[&Canary::from_text(FIRST), &Canary::from_text(SECOND)]);
}

/// The time `age` ago in Unix seconds.
fn unix(age: Duration) -> String {
    let time = std::time::SystemTime::now() - age;
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().to_string()
}

#[tokio::test(start_paused = true)]
async fn revocation_time_revokes_in_running_and_in_starting_processes() {
    for (revoked_at, is_revoked) in [(secs(40), true), (secs(60), false)] {
        let service = Service::rotated(Reports::Times).await;
        service.source.write(REVOKED_AT, &unix(revoked_at), secs(0));
        pass(secs(60)).await;
        let expected = match is_revoked {
            true => SECOND.to_owned(),
            false => format!("{SECOND},{FIRST}"),
        };
        assert_eq!(service.ring(), (SECOND.into(), expected.clone()));
        assert_eq!(service.auth.state().name(), "ready");

        let started = Service::start(&service.source);
        started.auth.get().await.unwrap();
        assert_eq!(started.ring(), (SECOND.into(), expected));
    }
}

#[tokio::test(start_paused = true)]
async fn secret_that_a_failed_build_has_revoked_is_not_built_again() {
    for reports in [Reports::Times, Reports::Numbers, Reports::Nothing] {
        let source = Scripted::new(reports);
        source.write("AUTH_SECRET", FIRST, secs(10_000));
        let (built, fails) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (rings, failing) = (built.clone(), fails.clone());
        let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
        let auth = LazyAuth::builder(resolver)
            .activation_delay(secs(60))
            .revocation_key(REVOKED_AT)
            .unwrap()
            .build(move |_: Secrets, context: BuildContext| {
                let ring = context.key_ring("AUTH_SECRET");
                let is_failing = failing.load(Ordering::SeqCst);
                let rings = rings.clone();
                async move {
                    rings.lock().unwrap().push(ring_text(&ring?));
                    match is_failing {
                        true => Err(BuildError::msg("not now")),
                        false => Ok(()),
                    }
                }
            });
        auth.get().await.unwrap();
        source.write("AUTH_SECRET", SECOND, secs(50));
        auth.rebuild().await.unwrap();

        fails.store(true, Ordering::SeqCst);
        built.lock().unwrap().clear();
        source.write(REVOKED_AT, &unix(secs(40)), secs(0));
        // After 60 s, `SECOND` would be active.
        pass(secs(120)).await;
        let rings = built.lock().unwrap().clone();
        assert!(rings.len() > 3, "{reports:?}: {} builds", rings.len());
        let only = (SECOND.to_owned(), SECOND.to_owned());
        assert!(
            rings.iter().all(|ring| *ring == only),
            "{reports:?}: {rings:?}"
        );

        fails.store(false, Ordering::SeqCst);
        auth.rebuild().await.unwrap();
        assert_eq!(built.lock().unwrap().last(), Some(&only), "{reports:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_time_without_creation_times_revokes_when_it_changes() {
    for reports in [Reports::Numbers, Reports::Nothing] {
        let service = Service::rotated(reports).await;
        service.source.write(REVOKED_AT, "1000", secs(0));
        pass(secs(60)).await;
        service.assert_only(SECOND);
        service.source.write("AUTH_SECRET", THIRD, secs(0));
        pass(secs(60)).await;
        assert_eq!(service.ring(), (THIRD.into(), format!("{THIRD},{SECOND}")));
        service.source.write(REVOKED_AT, "2000", secs(0));
        pass(secs(60)).await;
        service.assert_only(THIRD);
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_revocation_time_degrades_and_the_last_one_stays_in_force() {
    let service = Service::rotated(Reports::Times).await;
    service.source.write(REVOKED_AT, &unix(secs(40)), secs(0));
    pass(secs(60)).await;
    service.assert_only(SECOND);
    service.source.write(REVOKED_AT, "yesterday", secs(0));
    pass(secs(60)).await;
    let problem = service.problem();
    assert!(problem.contains(REVOKED_AT) && problem.contains("is not a revocation time"));
    assert!(!problem.contains("yesterday"), "{problem}");
    // This version is older than the revocation time.
    service.source.write("AUTH_SECRET", THIRD, secs(45));
    pass(secs(60)).await;
    service.assert_only(THIRD);

    // A process that starts now knows no revocation time, so it uses no history.
    let started = Service::start(&service.source);
    started.auth.get().await.unwrap();
    started.assert_only(THIRD);
    assert!(started.problem().contains(REVOKED_AT));
    let history = started.auth.state().history();
    assert_eq!(history, Some(VersionHistory::Incomplete));
    started.source.write(REVOKED_AT, &unix(secs(5000)), secs(0));
    pass(secs(60)).await;
    assert_eq!(
        started.auth.state().history(),
        Some(VersionHistory::Complete)
    );
    assert_eq!(started.auth.peek().unwrap().iter().len(), 3);
    assert_eq!(started.auth.state().name(), "ready");
}

#[tokio::test(start_paused = true)]
async fn secret_that_the_revoking_read_replaces_is_revoked_without_room_for_previous_secrets() {
    for max_previous in [0, 1] {
        let source = Scripted::new(Reports::Times);
        source.write("AUTH_SECRET", FIRST, secs(10_000));
        let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
        let auth = LazyAuth::builder(resolver)
            .mode(Mode::Production)
            .max_previous(max_previous)
            .build(|_: Secrets, context: BuildContext| async move {
                Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
            });
        auth.get().await.unwrap();
        pass(secs(5)).await;
        source.write("AUTH_SECRET", SECOND, secs(0));
        let revoked = auth.revoke_previous().await.unwrap();
        assert_eq!(ring_text(&revoked), (SECOND.into(), SECOND.into()));
        // Somebody writes the revoked secret again.
        source.write("AUTH_SECRET", FIRST, secs(0));
        pass(secs(60)).await;
        let kept = ring_text(&auth.peek().unwrap());
        assert_eq!(kept, (SECOND.into(), SECOND.into()), "{max_previous}");
        assert_eq!(auth.state().name(), "degraded", "{max_previous}");
    }
}
