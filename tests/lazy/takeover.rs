//! Rebuild tasks whose runtime has ended, is idle or shuts down. A caller in another runtime takes over.
//!
//! The runtimes have paused clocks of their own, so the time of a runtime that is not driven does not advance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use tokio::runtime::{Builder, Handle, Runtime};

use super::scripted::{Old, Reports, Scripted};
use super::*;

/// A caller waits for about a second for a sign of the task, and the new task needs some time.
const TAKEOVER: Duration = Duration::from_millis(1500);

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

/// Returns the output of a call, and how long it has taken in `runtime`.
fn timed<T>(runtime: &Runtime, call: impl Future<Output = T>) -> (T, Duration) {
    runtime.block_on(async {
        let start = Instant::now();
        (call.await, start.elapsed())
    })
}

#[test]
fn rebuild_takes_over_from_an_idle_runtime() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    let idle = runtime();
    idle.block_on(fixture.auth.get()).unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let (rebuilt, took) = timed(&runtime(), fixture.auth.rebuild());
    assert_eq!(rebuilt.unwrap().secret, SECOND);
    assert!(took < TAKEOVER, "{took:?}");
}

#[test]
fn revocation_takes_over_from_an_idle_runtime() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    let idle = runtime();
    idle.block_on(fixture.auth.get()).unwrap();
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let rebuilt = idle.block_on(fixture.auth.rebuild()).unwrap();
    assert_eq!(rebuilt.ring(), (FIRST, vec![SECOND, FIRST]));
    drop(rebuilt);
    let live = runtime();
    fixture.faulty.always(Action::Fail(down()));
    let (revoked, took) = timed(&live, fixture.auth.revoke_previous());
    assert_eq!(revoked.unwrap().ring(), (SECOND, vec![SECOND]));
    assert!(took < TAKEOVER, "{took:?}");
}

#[test]
fn first_read_takes_over_from_an_attempt_in_an_idle_runtime() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    fixture.faulty.push(Action::Hang);
    let idle = runtime();
    let first = fixture.auth.get_within(Duration::from_millis(20));
    assert!(idle.block_on(first).is_err());
    let live = runtime();
    let (built, took) = timed(&live, fixture.auth.ready(secs(40)));
    assert_eq!(built.unwrap().secret, FIRST);
    // The resolver replaces the fetch of the idle runtime when its own deadline has passed.
    assert!(took < secs(35), "{took:?}");
    assert_eq!(fixture.builds(), 1);
}

#[test]
fn task_of_a_runtime_that_never_runs_it_is_replaced() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    let idle = runtime();
    let _ = idle.block_on(async { fixture.auth.try_get().is_err() });
    let live = runtime();
    let (built, took) = timed(&live, fixture.auth.get());
    assert_eq!(built.unwrap().secret, FIRST);
    assert!(took < TAKEOVER, "{took:?}");
    drop((idle, live));

    // Another one is started by a read that does not wait.
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    let idle = runtime();
    idle.block_on(async { fixture.auth.with(|_| ()) });
    let (rebuilt, took) = timed(&runtime(), fixture.auth.rebuild());
    assert_eq!(rebuilt.unwrap().secret, SECOND);
    assert!(took < TAKEOVER, "{took:?}");
}

#[test]
fn calls_after_a_takeover_reach_the_new_task() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    let (idle, live) = (runtime(), runtime());
    idle.block_on(fixture.auth.get()).unwrap();
    live.block_on(async {
        pass(secs(60)).await;
        fixture.auth.get().await.unwrap();
        fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
        pass(secs(2)).await;
        let ring = fixture.auth.peek().unwrap().ring.clone();
        assert_eq!(ring_text(&ring).1, format!("{SECOND},{FIRST}"));
    });
    let (revoked, took) = timed(&live, fixture.auth.revoke_previous());
    assert_eq!(revoked.unwrap().ring(), (SECOND, vec![SECOND]));
    assert!(took <= secs(1), "{took:?}");
    let (rebuilt, took) = timed(&live, fixture.auth.rebuild());
    assert!(rebuilt.is_ok());
    // Forced reads are at least a second apart.
    assert!(took <= secs(1), "{took:?}");
}

#[test]
fn builder_that_blocks_its_thread_is_not_replaced() {
    let (started, is_started) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let ended = Arc::new(std::sync::Mutex::new(ended));
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = LazyAuth::infallible(Resolver::new(memory), move |_: Secrets, _| {
        count.fetch_add(1, Ordering::SeqCst);
        started.send(()).unwrap();
        ended.lock().unwrap().recv().unwrap();
    });
    let blocked = std::thread::spawn({
        let auth = auth.clone();
        move || runtime().block_on(auth.get()).map(drop)
    });
    is_started.recv().unwrap();
    let waits = runtime().block_on(auth.get_within(secs(20)));
    assert!(waits.is_err());
    assert_eq!(builds.load(Ordering::SeqCst), 1);
    end.send(()).unwrap();
    blocked.join().unwrap().unwrap();
    assert_eq!(builds.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn slow_first_build_after_a_hanging_history_is_not_replaced() {
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    source.write("AUTH_SECRET", SECOND, secs(10));
    source.always_old(Some(Old::Hang));
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let auth = LazyAuth::builder(Resolver::new(source))
        .mode(Mode::Production)
        .build_deadline(secs(300))
        .build(move |_: Secrets, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(secs(130)).await;
                Ok::<_, BuildError>(())
            }
        });
    let start = Instant::now();
    while auth.get().await.is_err() {
        assert!(start.elapsed() < secs(500), "{:?}", auth.state());
    }
    assert_eq!(builds.load(Ordering::SeqCst), 1);
    assert_eq!(start.elapsed().as_secs(), 430);
}

/// A fixture whose runtime has ended after the first build.
fn after_runtime() -> Fixture {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    runtime().block_on(fixture.auth.get()).unwrap();
    fixture
}

#[test]
fn build_that_no_task_keeps_up_to_date_is_degraded() {
    let fixture = after_runtime();
    let states = fixture.auth.watch_state();
    for state in [fixture.auth.state(), states.current()] {
        let State::Degraded { failure, .. } = state else {
            panic!("{state:?}")
        };
        assert!(failure.to_string().contains("not running"), "{failure}");
    }
    assert!(format!("{:?}", fixture.auth).contains("not running"));
    fixture.memory.set("AUTH_SECRET", SECOND).unwrap();
    // A probe that reads only the state starts another task.
    runtime().block_on(async {
        let mut states = fixture.auth.watch_state();
        assert_eq!(fixture.auth.state().name(), "degraded");
        states.wait_for(|state| *state == ready(2)).await.unwrap();
    });

    let idle = runtime();
    idle.block_on(fixture.auth.get()).unwrap();
    runtime().block_on(async {
        pass(secs(60)).await;
        assert_eq!(fixture.auth.state().name(), "degraded");
        pass(secs(1)).await;
        assert_eq!(fixture.auth.state().name(), "ready");
    });
}

#[test]
fn state_watch_reports_the_end_of_the_runtime() {
    let fixture = fixture(&[("AUTH_SECRET", FIRST)]);
    let first = runtime();
    first.block_on(fixture.auth.get()).unwrap();
    let mut states = fixture.auth.watch_state();
    drop(first);
    let state = runtime().block_on(states.changed()).unwrap();
    assert_eq!(state.name(), "degraded");
}

#[test]
fn late_task_does_not_delay_a_reader_beyond_its_deadline() {
    let fixture = after_runtime();
    let live = runtime();
    live.block_on(pass(secs(200)));
    fixture.faulty.always(Action::Hang);
    let deadline = Duration::from_millis(10);
    let (built, took) = timed(&live, fixture.auth.get_within(deadline));
    assert_eq!(built.unwrap().secret, FIRST);
    assert!(took <= deadline, "{took:?}");
}

#[test]
fn calls_in_a_runtime_that_shuts_down_do_not_panic() {
    let (fixture, unused) = (fixture(&[("AUTH_SECRET", FIRST)]), fixture(&[]));
    let mut builder = Builder::new_multi_thread();
    let ending = builder.worker_threads(1).enable_all().build().unwrap();
    ending.block_on(fixture.auth.get()).unwrap();
    let (go, wait) = mpsc::channel();
    let (send, results) = mpsc::channel();
    let (auth, unused) = (fixture.auth.clone(), unused.auth.clone());
    ending.spawn_blocking(move || {
        let handle = Handle::current();
        wait.recv().unwrap();
        let tick = || tokio::time::sleep(Duration::from_millis(1));
        let runs = || catch_unwind(AssertUnwindSafe(|| handle.block_on(async { tick().await })));
        while runs().is_ok() {}
        let calls = catch_unwind(AssertUnwindSafe(|| {
            handle.block_on(async {
                let current = [
                    auth.get().await.map(drop),
                    auth.get_within(secs(1)).await.map(drop),
                    auth.ready(secs(1)).await.map(drop),
                ];
                let failures = [
                    auth.rebuild().await.map(drop),
                    auth.revoke_previous().await.map(drop),
                    unused.get().await.map(drop),
                    unused.ready(secs(1)).await.map(drop),
                ];
                (current, failures)
            })
        }));
        send.send(calls.map_err(drop)).unwrap();
    });
    ending.shutdown_background();
    go.send(()).unwrap();
    let (current, failures) = results.recv().unwrap().expect("no call panics");
    assert!(current.iter().all(Result::is_ok), "{current:?}");
    for failure in failures {
        let text = failure.unwrap_err().to_string();
        assert!(text.contains("shutting down"), "{text}");
    }
}
