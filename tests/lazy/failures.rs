//! User code that panics, runtimes that end or lack a timer, and auths that are dropped.

use std::fmt;
use std::sync::{Mutex, mpsc};

use serde::Deserializer;
use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A text whose `Deserialize` panics for values that begin with `panic`.
struct Fragile(String);

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        assert!(!text.starts_with("panic"), "this type panics");
        Ok(Self(text))
    }
}

#[derive(Deserialize)]
struct FragileSecrets {
    token: Fragile,
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_field_type_is_a_failure_with_backoff() {
    let reads = Arc::new(AtomicUsize::new(0));
    let memory = MemoryProvider::from_iter([("token", "good")]);
    let (log, count) = (CanaryLog::install(), reads.clone());
    let auth = LazyAuth::infallible(
        Resolver::new(memory.clone()),
        move |s: FragileSecrets, _| {
            count.fetch_add(1, Ordering::SeqCst);
            s.token.0
        },
    );
    assert_eq!(*auth.get().await.unwrap(), "good");
    memory.set("token", "panic c4n4ry").unwrap();
    pass(secs(600)).await;
    let State::Degraded { failure, .. } = auth.state() else {
        panic!("{:?}", auth.state())
    };
    let problem = &failure.problems()[0];
    assert_eq!(problem.kind(), ErrorKind::Invalid, "{problem}");
    assert_eq!(log.lines_with("state=degraded").len(), 1, "{}", log.text());
    assert!(!log.text().contains("c4n4ry"));
    assert_eq!(*auth.get().await.unwrap(), "good");
    memory.set("token", "better").unwrap();
    pass(secs(10)).await;
    assert_eq!(*auth.get().await.unwrap(), "better");
    assert_eq!(reads.load(Ordering::SeqCst), 2);

    let failing = MemoryProvider::from_iter([("token", "panic")]);
    let auth = LazyAuth::infallible(Resolver::new(failing), |s: FragileSecrets, _| s.token.0);
    assert!(!auth.preflight(Mode::Production).await.is_ready());
    assert!(auth.get().await.is_err());
}

/// An error whose text cannot be formatted.
#[derive(Debug)]
struct PanicsInDisplay;

impl fmt::Display for PanicsInDisplay {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("this error panics")
    }
}

impl std::error::Error for PanicsInDisplay {}

/// A build that panics when it is dropped.
struct PanicsOnDrop(#[expect(dead_code, reason = "only the drop matters")] String);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("this build panics");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panics_of_errors_and_of_previous_builds_do_not_stop_the_rotation() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = LazyAuth::new(
        Resolver::new(memory.clone()),
        |secrets: Secrets, _| async move {
            let text = secrets.auth_secret.expose_secret().to_owned();
            match text.starts_with("reject") {
                true => Err(PanicsInDisplay.into()),
                false => Ok(PanicsOnDrop(text)),
            }
        },
    );
    auth.get().await.unwrap();
    memory
        .set("AUTH_SECRET", "reject, thirty-two bytes or more of it")
        .unwrap();
    pass(secs(60)).await;
    let State::Degraded { failure, .. } = auth.state() else {
        panic!("{:?}", auth.state())
    };
    assert!(
        failure.to_string().contains("its error panicked"),
        "{failure}"
    );
    for (generation, secret) in [(2, SECOND), (3, FIRST)] {
        memory.set("AUTH_SECRET", secret).unwrap();
        pass(secs(60)).await;
        assert_eq!(auth.state(), ready(generation));
    }
    // The last build must not panic in the test.
    std::mem::forget(auth);
}

/// A value that panics when it is dropped while `ARMED` is set.
#[derive(Debug, Default)]
struct Bomb;

thread_local! {
    static ARMED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if ARMED.get() && !std::thread::panicking() {
            panic!("this drop panics");
        }
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

/// A field that panics when it is dropped.
#[derive(Deserialize)]
struct WithBomb {
    auth_secret: String,
    #[serde(skip)]
    bomb: Bomb,
}

/// Asserts that attempts that panic are repeated with backoff for an hour.
async fn assert_backoff<A: Send + Sync + 'static>(auth: &LazyAuth<A>, attempts: &AtomicUsize) {
    ARMED.set(true);
    let failure = auth.get().await.err().unwrap();
    assert!(failure.to_string().contains("panicked"), "{failure}");
    assert!(auth.rebuild().await.is_err());
    pass(secs(3600)).await;
    let attempts = attempts.load(Ordering::SeqCst);
    assert!((10..100).contains(&attempts), "{attempts} attempts");
    assert_eq!(auth.state().name(), "failed");
    ARMED.set(false);
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_drop_of_an_error_of_the_builder_is_a_failure_with_backoff() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = LazyAuth::new(Resolver::new(memory), move |_: Secrets, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(BuildError::from(Bomb)) }
    });
    let log = CanaryLog::install();
    assert_backoff(&auth, &attempts).await;
    assert_eq!(log.lines_with("state=failed").len(), 1, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_drop_of_a_refused_build_is_a_failure_with_backoff() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    let memory = MemoryProvider::from_iter([("token", "short")]);
    let auth = LazyAuth::builder(Resolver::new(memory))
        .mode(Mode::Production)
        .build(move |_: FragileSecrets, context: BuildContext| {
            count.fetch_add(1, Ordering::SeqCst);
            // The secret is too weak to sign with, which the builder ignores.
            let _ = context.key_ring("token");
            async { Ok::<_, BuildError>(Bomb) }
        });
    assert_backoff(&auth, &attempts).await;
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_drop_of_the_secrets_does_not_end_the_task() {
    let (memory, faulty) = faulty_source(&[("auth_secret", FIRST)]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(10)).build();
    let auth = LazyAuth::infallible(resolver, |secrets: WithBomb, _| {
        std::mem::forget(secrets.bomb);
        secrets.auth_secret
    });
    auth.get().await.unwrap();
    ARMED.set(true);
    // Attempts without a build drop the secrets.
    faulty.always(Action::Fail(down()));
    pass(secs(60)).await;
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(*auth.get().await.unwrap(), FIRST);
        assert_eq!(start.elapsed(), secs(0));
        pass(Duration::from_millis(100)).await;
    }
    assert_eq!(auth.state().name(), "degraded");
    faulty.clear_faults();
    memory.set("auth_secret", SECOND).unwrap();
    pass(secs(60)).await;
    assert_eq!(*auth.get().await.unwrap(), SECOND);
    ARMED.set(false);
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_log_subscriber_does_not_start_a_loop() {
    struct PanickingLayer(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for PanickingLayer {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            if event.metadata().target() == "secretwell::auth" {
                self.0.fetch_add(1, Ordering::SeqCst);
                panic!("this layer panics");
            }
        }
    }

    use tracing_subscriber::layer::SubscriberExt;
    let events = Arc::new(AtomicUsize::new(0));
    let layer = PanickingLayer(events.clone());
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    assert_eq!(fixture.auth.get().await.unwrap().secret, FIRST);
    pass(secs(600)).await;
    let events = events.load(Ordering::SeqCst);
    assert!((1..10).contains(&events), "{events} events");
}

/// An auth, and how many errors of its source were dropped.
type GuardedAuth = Arc<(std::sync::OnceLock<LazyAuth<String>>, AtomicUsize)>;

/// An error that reads the state of the auth when it is dropped.
struct Guarded(GuardedAuth);

impl Drop for Guarded {
    fn drop(&mut self) {
        let (auth, dropped) = &*self.0;
        let _ = auth.get().unwrap().state();
        dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reason")
    }
}

impl std::error::Error for Guarded {}

#[test]
fn error_of_the_source_can_read_the_state_when_it_is_dropped() {
    let (send_end, end) = mpsc::channel();
    // A deadlock must not hang the test.
    std::thread::spawn(move || {
        let guarded = GuardedAuth::default();
        let (_, faulty) = faulty_source(&[("AUTH_SECRET", FIRST)]);
        let resolver = Resolver::builder(faulty.clone()).ttl(secs(10)).build();
        let auth = LazyAuth::infallible(resolver, |secrets: Secrets, _| {
            secrets.auth_secret.expose_secret().to_owned()
        });
        guarded.0.set(auth.clone()).unwrap();
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            auth.get().await.unwrap();
            for _ in 0..100 {
                // Each failure is another error, so the auth can be the last owner of one.
                faulty.always(Action::Fail(down().with_source(Guarded(guarded.clone()))));
                pass(secs(1)).await;
            }
            assert_eq!(auth.state().name(), "degraded");
            faulty.clear_faults();
            pass(secs(60)).await;
            assert_eq!(auth.state().name(), "ready");
        });
        send_end.send(guarded.1.load(Ordering::SeqCst)).unwrap();
    });
    let dropped = end.recv_timeout(secs(60));
    let dropped = dropped.expect("the drop of an error waits for a lock");
    assert!(dropped > 0);
}

#[tokio::test(start_paused = true)]
async fn builder_that_always_panics_is_called_ever_more_rarely() {
    let fixture = fixture(&[("AUTH_SECRET", "panic, thirty-two bytes or more of it")]);
    let log = CanaryLog::install();
    fixture.auth.get().await.unwrap_err();
    pass(secs(3600)).await;
    assert!(
        (10..100).contains(&fixture.builds()),
        "{}",
        fixture.builds()
    );
    assert_eq!(log.lines_with("state=failed").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_auth_during_a_hanging_build_ends_all_tasks() {
    struct Dropped(Arc<AtomicUsize>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = dropped.clone();
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let before = tasks();
    let auth = LazyAuth::new(Resolver::new(memory), move |_: Secrets, _| {
        let dropped = Dropped(token.clone());
        async move {
            let _dropped = dropped;
            std::future::pending::<Result<(), BuildError>>().await
        }
    });
    auth.get_within(secs(1)).await.unwrap_err();
    assert!(tasks() > before);
    let mut states = auth.watch_state();
    let clone = auth.clone();
    drop(auth);
    settle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "a clone is left");
    drop(clone);
    assert_eq!(states.changed().await, None);
    settle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(tasks(), before);
}

#[test]
fn every_method_names_the_missing_timer() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    let auth = &fixture.auth;
    runtime.block_on(async {
        for failure in [
            auth.get().await.err().unwrap(),
            auth.get_within(secs(1)).await.err().unwrap(),
            auth.ready(secs(1)).await.err().unwrap(),
            auth.rebuild().await.err().unwrap(),
            auth.revoke_previous().await.err().unwrap(),
            auth.try_get().err().unwrap(),
        ] {
            assert!(failure.to_string().contains("enable_time"), "{failure}");
            assert!(!failure.is_temporary());
        }
        assert!(auth.peek().is_none() && auth.with(|_| ()).is_none());
        assert!(!auth.preflight(Mode::Production).await.is_ready());
    });
    // A build of another runtime is returned, although it cannot be kept up to date here.
    self::runtime().block_on(auth.get()).unwrap();
    let mut reader = auth.reader().unwrap();
    runtime.block_on(async {
        assert!(auth.get().await.is_ok() && auth.get_within(secs(1)).await.is_ok());
        assert!(
            auth.try_get().is_ok() && auth.peek().is_some() && auth.ready(secs(1)).await.is_ok()
        );
        assert_eq!(reader.get().secret, FIRST);
        assert!(auth.rebuild().await.is_err());
    });
}

#[test]
fn every_way_to_read_restarts_the_task_of_a_runtime_that_ended() {
    type Read = fn(&LazyAuth<Built>, &Mutex<secretwell::auth::Reader<Built>>);
    let reads: [(&str, Read); 4] = [
        ("with", |auth, _| {
            drop(auth.with(|built| built.secret.clone()))
        }),
        ("peek", |auth, _| drop(auth.peek())),
        ("try_get", |auth, _| drop(auth.try_get())),
        ("reader", |_, reader| {
            drop(reader.lock().unwrap().get().secret.clone())
        }),
    ];
    for (name, read) in reads {
        let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
        runtime().block_on(fixture.auth.get()).unwrap();
        let reader = Mutex::new(fixture.auth.reader().unwrap());
        fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
        // Outside of a runtime, the last build is returned.
        read(&fixture.auth, &reader);
        assert_eq!(reader.lock().unwrap().get().secret, FIRST);
        runtime().block_on(async {
            let mut states = fixture.auth.watch_state();
            read(&fixture.auth, &reader);
            let rotated = states.wait_for(|state| state.generation() == Some(2));
            let rotated = tokio::time::timeout(secs(30), rotated).await;
            assert!(rotated.is_ok(), "{name}");
        });
        assert_eq!(reader.lock().unwrap().get().secret, SECOND, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn reader_outlives_the_auth_with_the_last_build() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.auth.get().await.unwrap();
    let mut reader = fixture.auth.reader().unwrap();
    drop(fixture.auth);
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    pass(secs(1000)).await;
    assert_eq!(reader.get().secret, FIRST);
}

#[tokio::test(start_paused = true)]
async fn ready_waits_through_failures_until_there_is_a_build() {
    let fixture = fixture(&[]);
    let failure = fixture.auth.ready(secs(5)).await.err().unwrap();
    assert!(failure.to_string().contains("AUTH_SECRET"), "{failure}");
    assert_eq!(failure.problems()[0].kind(), ErrorKind::NotFound);

    fixture.memory.set("AUTH_SECRET", FIRST).unwrap();
    assert!(fixture.auth.get().await.is_err(), "within the backoff");
    let start = Instant::now();
    let built = fixture.auth.ready(secs(5)).await.unwrap();
    assert_eq!(built.secret, FIRST);
    assert!(start.elapsed() < secs(2));
    drop(built);

    let hanging = super::fixture(&[("AUTH_SECRET", FIRST)]);
    hanging.faulty.always(Action::Hang);
    let failure = hanging.auth.ready(secs(5)).await.err().unwrap();
    assert!(failure.to_string().contains("in progress"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn name_of_an_auth_is_in_each_of_its_events() {
    let log = CanaryLog::install();
    let named = fixture_with(&[("AUTH_SECRET", FIRST)], |builder| builder.name("db"));
    named.auth.get().await.unwrap();
    named.auth.revoke_previous().await.unwrap();
    let text = log.text();
    let events: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("secretwell::auth"))
        .collect();
    assert!(
        !events.is_empty() && events.iter().all(|line| line.contains("name=db")),
        "{text}"
    );
    assert!(text.contains("message=db is ready"), "{text}");
    assert_eq!(named.auth.name(), Some("db"));

    let unnamed = fixture(&[("AUTH_SECRET", FIRST)]);
    unnamed.auth.get().await.unwrap();
    let lines = log.lines_with("message=auth is ready");
    assert!(lines.len() == 1 && !lines[0].contains("name="), "{lines:?}");
}
