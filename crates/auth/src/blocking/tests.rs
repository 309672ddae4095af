//! Blocking calls in every place from which a program can make them.

use std::cell::RefCell;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::{
    Error, ErrorKind, MemoryProvider, Origin, Secret, SecretKey, SecretProvider, SecretValue,
};
use secretwell_resolver::blocking::{Resolver, block_on, block_on_within};
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, block_in_place, spawn_blocking};

use crate::{BuildError, LazyAuth};

/// Longer than any wait on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Secrets {
    api_key: String,
}

fn memory() -> MemoryProvider {
    MemoryProvider::from_iter([("api_key", "first")])
}

fn auth(provider: impl SecretProvider) -> LazyAuth<String> {
    let resolver = secretwell_resolver::Resolver::new(provider);
    LazyAuth::infallible(resolver, |secrets: Secrets, _| secrets.api_key)
}

/// Code that blocks its thread until the test releases it.
#[derive(Clone)]
struct Blocked {
    started: Sender<()>,
    released: Arc<Mutex<Receiver<()>>>,
}

impl Blocked {
    /// Also returns what reports the start, and what releases the code when it is dropped.
    fn new() -> (Self, Receiver<()>, Sender<()>) {
        let (started, has_started) = channel();
        let (release, released) = channel();
        let released = Arc::new(Mutex::new(released));
        (Self { started, released }, has_started, release)
    }

    fn run(&self) {
        let _ = self.started.send(());
        assert_eq!(self.released.lock().unwrap().recv(), Err(RecvError));
    }

    /// Returns an auth whose builder runs this code.
    fn auth(self, deadline: Duration) -> LazyAuth<String> {
        let resolver = secretwell_resolver::Resolver::new(memory());
        let builder = LazyAuth::builder(resolver).deadline(deadline);
        builder.build(move |secrets: Secrets, _| {
            let blocked = self.clone();
            async move {
                blocked.run();
                Ok::<_, BuildError>(secrets.api_key)
            }
        })
    }
}

/// A provider that calls `get` and counts the calls.
#[derive(Clone)]
struct Calls<F> {
    get: F,
    count: Arc<AtomicUsize>,
}

impl<F> Calls<F> {
    fn new(get: F) -> Self {
        let count = Arc::default();
        Self { get, count }
    }
}

impl<F> std::fmt::Debug for Calls<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}

#[async_trait]
impl<F, R> SecretProvider for Calls<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Secret, Error>> + Send,
{
    fn origin(&self) -> &Origin {
        static ORIGIN: std::sync::LazyLock<Origin> =
            std::sync::LazyLock::new(|| Origin::new("calls", ""));
        &ORIGIN
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        self.count.fetch_add(1, Ordering::SeqCst);
        (self.get)().await
    }
}

#[test]
fn main_reads_loads_and_builds() {
    let resolver = Resolver::new(memory());
    assert_eq!(
        resolver.get("api_key").unwrap().value,
        SecretValue::from("first")
    );
    let results = resolver.get_many(["api_key", "absent", "a//b"]);
    let kinds = results
        .iter()
        .map(|result| result.as_ref().err().map(Error::kind));
    let (absent, invalid) = (ErrorKind::NotFound, ErrorKind::InvalidKey);
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [None, Some(absent), Some(invalid)]
    );
    assert_eq!(resolver.load::<Secrets>().unwrap().api_key, "first");
    assert!(resolver.refresh(["api_key"]).pop().unwrap().is_ok());
    let rejected = resolver.report_rejected("api_key", &"older".into());
    assert_eq!(rejected.unwrap().value, SecretValue::from("first"));
    assert_eq!(resolver.as_async().with_cached("api_key", |_| ()), Some(()));

    let auth = auth(memory());
    assert_eq!(*auth.blocking_get().unwrap(), "first");
    assert_eq!(*auth.blocking_get().unwrap(), "first");
}

#[test]
fn callers_in_threads_share_one_fetch() {
    let (open, opened) = tokio::sync::watch::channel(false);
    let provider = Calls::new(move || {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|opened| *opened).await;
            Ok(Secret::new("first"))
        }
    });
    let resolver = Resolver::new(provider.clone());
    thread::scope(|scope| {
        let read = || resolver.get("api_key").unwrap().value;
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(read)).collect();
        open.send_replace(true);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), SecretValue::from("first"));
        }
    });
    assert_eq!(provider.count.load(Ordering::SeqCst), 1);
}

#[test]
fn rotation_is_followed_while_no_call_is_in_progress() {
    let memory = memory();
    let (built, builds) = channel();
    let resolver = secretwell_resolver::Resolver::new(memory.clone());
    let auth = LazyAuth::infallible(resolver, move |secrets: Secrets, _| {
        let _ = built.send(secrets.api_key);
    });
    auth.blocking_get().unwrap();
    assert_eq!(builds.recv_timeout(LONG).unwrap(), "first");
    memory.set("api_key", "second").unwrap();
    assert_eq!(builds.recv_timeout(LONG).unwrap(), "second");
}

/// Requires that the calls of this thread return an error, although the values are cached.
fn assert_refused(resolver: &Resolver, auth: &LazyAuth<String>) {
    let expected = ErrorKind::Unsupported;
    let error = resolver.get("api_key").unwrap_err();
    assert_eq!(error.kind(), expected);
    assert!(!error.is_temporary());
    assert!(error.to_string().contains("within async code"), "{error}");
    let results = resolver.get_many(["api_key", "api_key"]);
    assert_eq!(results.len(), 2);
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().is_err_and(|e| e.kind() == expected))
    );
    let error = resolver.load::<Secrets>().err().unwrap();
    assert_eq!(error.problems()[0].kind(), expected);
    let failure = auth.blocking_get().unwrap_err();
    assert_eq!(failure.problems()[0].kind(), expected);
    assert!(!failure.is_temporary());
}

fn assert_allowed(resolver: &Resolver, auth: &LazyAuth<String>) {
    assert!(resolver.get("api_key").is_ok());
    assert!(resolver.refresh(["api_key"]).pop().unwrap().is_ok());
    assert!(auth.blocking_get().is_ok());
}

fn runtimes() -> [Runtime; 3] {
    let paused = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    let current_thread = Builder::new_current_thread().enable_all().build();
    let multi_thread = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    [
        paused.unwrap(),
        current_thread.unwrap(),
        multi_thread.unwrap(),
    ]
}

#[test]
fn async_code_gets_an_error_and_threads_of_its_runtime_can_block() {
    let (resolver, auth) = (Resolver::new(memory()), auth(memory()));
    assert_allowed(&resolver, &auth);
    for runtime in runtimes() {
        runtime.block_on(async { assert_refused(&resolver, &auth) });
        let (cloned, auth_cloned) = (resolver.clone(), auth.clone());
        let task = runtime.spawn(async move { assert_refused(&cloned, &auth_cloned) });
        runtime.block_on(task).unwrap();
        let local = async { assert_refused(&resolver, &auth) };
        LocalSet::new().block_on(&runtime, local);

        let (cloned, auth_cloned) = (resolver.clone(), auth.clone());
        let task = async { spawn_blocking(move || assert_allowed(&cloned, &auth_cloned)).await };
        runtime.block_on(task).unwrap();
        let entered = runtime.enter();
        assert_allowed(&resolver, &auth);
        drop(entered);
    }
    let [.., multi_thread] = runtimes();
    let (cloned, auth_cloned) = (resolver.clone(), auth.clone());
    let task = async move { block_in_place(|| assert_allowed(&cloned, &auth_cloned)) };
    multi_thread.block_on(multi_thread.spawn(task)).unwrap();
}

#[test]
fn drop_within_a_runtime_does_not_panic() {
    for runtime in runtimes() {
        let (resolver, auth) = (Resolver::new(memory()), auth(memory()));
        assert_allowed(&resolver, &auth);
        runtime.block_on(async move { drop((resolver, auth)) });
    }
}

#[test]
fn code_in_the_shared_runtime_gets_an_error_instead_of_a_deadlock() {
    let inner = Resolver::new(memory());
    let outer = Resolver::new(Calls::new(move || {
        let result = inner.get("api_key");
        async { result.map(|resolved| Secret::new(resolved.value)) }
    }));
    let error = outer.get("api_key").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let inner = auth(memory());
    let resolver = secretwell_resolver::Resolver::new(memory());
    let outer = LazyAuth::new(resolver, move |_: Secrets, _| {
        let built = inner.blocking_get().map(|value| value.clone());
        async { Ok::<_, BuildError>(built?) }
    });
    let failure = outer.blocking_get().unwrap_err();
    assert!(
        failure.to_string().contains("within async code"),
        "{failure}"
    );
}

#[test]
fn deadlines_hold_while_the_source_hangs() {
    let hanging = Calls::new(std::future::pending);
    let builder = secretwell_resolver::Resolver::builder(hanging).deadline(SHORT);
    let resolver = builder.build();
    let error = Resolver::from(resolver.clone()).get("api_key").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let builder = LazyAuth::builder(resolver).deadline(SHORT);
    let auth = builder.build(|secrets: Secrets, _| async { Ok::<_, BuildError>(secrets.api_key) });
    assert!(auth.blocking_get().unwrap_err().is_temporary());
}

#[test]
fn deadlines_hold_while_a_builder_blocks_the_shared_runtime() {
    let ready = auth(memory());
    ready.blocking_get().unwrap();
    let (blocked, has_started, release) = Blocked::new();
    let late = blocked.auth(SHORT);
    assert!(late.blocking_get().unwrap_err().is_temporary());
    has_started.recv_timeout(LONG).unwrap();

    let error = block_on_within(SHORT, std::future::pending::<()>()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(*ready.blocking_get().unwrap(), "first");

    drop(release);
    let built = block_on(late.ready(LONG)).unwrap();
    assert_eq!(*built.unwrap(), "first");
}

#[test]
fn builder_that_blocks_in_place_delays_nobody() {
    let (blocked, has_started, release) = Blocked::new();
    let resolver = secretwell_resolver::Resolver::new(memory());
    let builder = LazyAuth::builder(resolver).deadline(LONG);
    let late = builder.build(move |_: Secrets, _| {
        let blocked = blocked.clone();
        async move {
            block_in_place(|| blocked.run());
            Ok::<_, BuildError>(())
        }
    });
    thread::scope(|scope| {
        let late = scope.spawn(|| late.blocking_get().map(drop));
        has_started.recv_timeout(LONG).unwrap();
        assert!(Resolver::new(memory()).get("api_key").is_ok());
        assert!(auth(memory()).blocking_get().is_ok());
        drop(release);
        late.join().unwrap().unwrap();
    });
}

#[test]
fn nested_calls_take_no_wake_up_of_the_outer_one() {
    let timer = || tokio::time::sleep(Duration::from_millis(1));
    let nested = async { block_on(async { timer().await }).unwrap() };
    let outer = async { tokio::join!(async { timer().await }, nested, async { timer().await }) };
    block_on_within(LONG, outer).unwrap();
}

#[test]
fn panics_reach_the_caller_and_later_calls_succeed() {
    let panicked = catch_unwind(|| block_on(async { panic!("the future of a caller panics") }));
    assert!(panicked.is_err());
    let panics = Calls::new(|| async { panic!("the provider panics") });
    let error = Resolver::new(panics).get("api_key").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(Resolver::new(memory()).get("api_key").is_ok());
}

#[test]
fn limit_zero_returns_only_what_is_ready() {
    assert_eq!(block_on_within(Duration::ZERO, async { 1 }).unwrap(), 1);
    let error = block_on_within(Duration::ZERO, std::future::pending::<()>()).unwrap_err();
    assert!(error.to_string().contains("within 0s"), "{error}");
}

/// A thread-local value whose destructor makes a call.
struct ReadsOnDrop(Resolver, Sender<bool>);

impl Drop for ReadsOnDrop {
    fn drop(&mut self) {
        let result = self.0.get("api_key");
        let expected = |error: Error| error.kind() == ErrorKind::Unsupported;
        let _ = self.1.send(result.map_or_else(expected, |_| true));
    }
}

#[test]
fn thread_that_ends_gets_the_value_or_an_error() {
    thread_local! {
        static LAST: RefCell<Option<ReadsOnDrop>> = const { RefCell::new(None) };
    }
    let (sender, results) = channel();
    for is_first in [true, false] {
        let last = ReadsOnDrop(Resolver::new(memory()), sender.clone());
        // The destructors run in an order that depends on the first use of each thread-local value.
        let thread = thread::spawn(move || {
            let read = || Resolver::new(memory()).get("api_key").map(drop);
            if is_first {
                read().unwrap();
            }
            LAST.with(|slot| *slot.borrow_mut() = Some(last));
            read().unwrap();
        });
        thread.join().unwrap();
        assert!(results.recv_timeout(LONG).unwrap());
    }
}

#[test]
fn drop_during_a_panic_in_async_code_gets_an_error() {
    for runtime in runtimes() {
        let (sender, results) = channel();
        let last = ReadsOnDrop(Resolver::new(memory()), sender);
        let task = runtime.spawn(async move {
            let _last = last;
            panic!("a task with a value that reads when it is dropped panics");
        });
        assert!(runtime.block_on(task).unwrap_err().is_panic());
        assert!(results.recv_timeout(LONG).unwrap());
    }
}

#[test]
fn call_in_a_callback_of_a_fetch_gets_an_error_and_does_not_affect_the_read() {
    let (sender, results) = channel();
    let inner = Resolver::new(memory());
    let builder = secretwell_resolver::Resolver::builder(memory()).on_fetch(move |_| {
        let _ = sender.send(inner.get("api_key").map(drop));
    });
    let resolver = Resolver::from(builder.build());
    assert!(resolver.get("api_key").is_ok());
    let error = results.recv_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn cancelled_read_leaves_its_fetch_to_later_calls() {
    let (open, opened) = tokio::sync::watch::channel(false);
    let provider = Calls::new(move || {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|opened| *opened).await;
            Ok(Secret::new("first"))
        }
    });
    let resolver = Resolver::new(provider.clone());
    let read = resolver.as_async().get("api_key");
    let error = block_on_within(SHORT, read).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    open.send_replace(true);
    assert_eq!(
        resolver.get("api_key").unwrap().value,
        SecretValue::from("first")
    );
    assert_eq!(provider.count.load(Ordering::SeqCst), 1);
}
