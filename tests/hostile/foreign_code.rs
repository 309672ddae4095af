//! Code of others that runs inside of the resolver: providers that panic, and log layers, wakers and destructors
//! that use the resolver.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;
use secretwell::backend::{Capabilities, Change, ChangeSender, ChangeStream};
use secretwell::{
    Error, ErrorKind, MemoryProvider, Origin, Resolver, Secret, SecretKey, SecretProvider,
    SecretProviderExt, SecretValue, Version,
};
use secretwell_testkit::{Action, CanaryLog};
use tokio::runtime::{Builder, Handle};
use tokio::time::timeout;
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

use super::{Computed, alone_and_chained};
use crate::changes::Notifying;
use crate::support::{denied, down, pass, secs, text};

/// Where a provider panics.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Call,
    Future,
    /// The drop of a future that has completed.
    DropOfFuture,
    /// The drop of a future that never completes.
    Cancellation,
    Discard,
    Watch,
    /// The drop of the guard of a stream that has ended.
    Guard,
    Origin,
    Capabilities,
}

#[derive(Debug, Clone)]
struct Panicking {
    memory: MemoryProvider,
    batch: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    place: Option<Place>,
    panics: usize,
    senders: Vec<ChangeSender>,
}

impl Panicking {
    fn new(batch: bool) -> Self {
        let memory = MemoryProvider::from_iter([("K", "one")]);
        Self {
            memory,
            batch,
            state: Arc::default(),
        }
    }

    fn is_at(&self, place: Place) -> bool {
        let mut state = self.state.lock().unwrap();
        // The test ends even if the resolver calls the provider in a loop.
        let is_at = state.place == Some(place) && state.panics < 10_000;
        state.panics += usize::from(is_at);
        is_at
    }

    fn pass(&self, place: Place) {
        assert!(!self.is_at(place), "the provider panics in {place:?}");
    }

    fn panics(&self) -> usize {
        self.state.lock().unwrap().panics
    }

    fn start(&self, place: Place) {
        let mut state = self.state.lock().unwrap();
        (state.place, state.panics) = (Some(place), 0);
        if place == Place::Guard {
            // The streams end.
            state.senders.clear();
        }
    }

    fn stop(&self) {
        self.state.lock().unwrap().place = None;
    }
}

/// Panics when it is dropped.
struct Panics(Panicking, Place);

impl Drop for Panics {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.pass(self.1);
        }
    }
}

type Results<'a> = Pin<Box<dyn Future<Output = Vec<Result<Secret, Error>>> + Send + 'a>>;

struct Call<'a>(
    Results<'a>,
    #[expect(dead_code, reason = "its drop panics")] Panics,
);

impl Future for Call<'_> {
    type Output = Vec<Result<Secret, Error>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

#[async_trait]
impl SecretProvider for Panicking {
    fn origin(&self) -> &Origin {
        self.pass(Place::Origin);
        self.memory.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.pass(Place::Capabilities);
        let mut capabilities = Capabilities::none().with_versions().with_watch();
        capabilities.batch = self.batch;
        capabilities
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.memory.get(key).await
    }

    fn get_many<'a, 'k, 'r>(&'a self, keys: &'k [SecretKey]) -> Results<'r>
    where
        'a: 'r,
        'k: 'r,
        Self: 'r,
    {
        self.pass(Place::Call);
        let hangs = self.state.lock().unwrap().place == Some(Place::Cancellation);
        let call = async move {
            self.pass(Place::Future);
            let _cancelled = hangs.then(|| Panics(self.clone(), Place::Cancellation));
            if hangs {
                std::future::pending::<()>().await;
            }
            self.memory.get_many(keys).await
        };
        let drop = Panics(self.clone(), Place::DropOfFuture);
        Box::pin(Call(Box::pin(call), drop))
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.pass(Place::Watch);
        let (sender, stream) = ChangeStream::channel();
        let mut state = self.state.lock().unwrap();
        if state.place != Some(Place::Guard) || state.panics >= 10_000 {
            state.senders.push(sender);
        }
        Some(stream.with_guard(Panics(self.clone(), Place::Guard)))
    }

    fn discard(&self, _: &SecretKey, _: Option<&SecretValue>) {
        self.pass(Place::Discard);
    }
}

async fn panics_are_contained(
    place: Place,
    batch: bool,
    provider: Arc<dyn SecretProvider>,
    source: &Panicking,
) {
    let case = format!("{place:?}, batch: {batch}, {provider:?}");
    source.memory.set("K", "one").unwrap();
    let resolver = Resolver::builder(provider)
        .ttl(secs(10))
        .deadline(secs(5))
        .build();
    let mut watch = resolver.watch(["K"]).unwrap();
    watch.next().await.unwrap();
    source.start(place);
    source.memory.set("K", "two").unwrap();
    let updates = tokio::spawn(async move {
        loop {
            let update = watch.next().await.unwrap().remove(0);
            let value = update.result.map(|value| value.value);
            if value.is_ok_and(|value| value == secretwell::SecretValue::from("two")) {
                return;
            }
        }
    });
    for round in 0..60 {
        let mut results = vec![
            resolver.get("K").await,
            resolver.get(format!("NEW{round}")).await,
        ];
        results.extend(resolver.refresh(["K"]).await);
        results.push(resolver.report_rejected("K", &"other".into()).await);
        for error in results.into_iter().filter_map(Result::err) {
            let text = error.to_string();
            match place {
                Place::Call | Place::Future | Place::DropOfFuture => {
                    assert!(text.contains("panicked"), "{case}: {text}");
                }
                Place::Cancellation => assert!(!text.contains("runtime"), "{case}: {text}"),
                _ => assert!(error.is_not_found(), "{case}: {text}"),
            }
        }
        pass(secs(1)).await;
    }
    let panics = source.panics();
    assert!(panics <= 250, "{case}: {panics} panics");
    source.stop();
    // The longest backoff is 7 min, and up to 10 % longer.
    pass(secs(470)).await;
    assert_eq!(text(&resolver, "K").await, "two", "{case}");
    assert!(
        updates.is_finished(),
        "{case}: the watch did not return the change"
    );
    resolver.close().await;
}

#[tokio::test(start_paused = true)]
async fn panics_of_a_provider_are_failures_with_backoff() {
    let log = CanaryLog::install();
    for place in [
        Place::Call,
        Place::Future,
        Place::DropOfFuture,
        Place::Cancellation,
        Place::Discard,
        Place::Watch,
        Place::Guard,
    ] {
        for batch in [true, false] {
            let source = Panicking::new(batch);
            for provider in alone_and_chained(source.clone()) {
                panics_are_contained(place, batch, provider, &source).await;
            }
        }
        assert!(log.contains("panicked"), "{place:?} is not in the log");
    }
}

/// A source without batches, whose key `BAD` panics.
#[derive(Debug, Clone)]
struct PanickingKey(MemoryProvider);

#[async_trait]
impl SecretProvider for PanickingKey {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        assert_ne!(key.as_str(), "BAD", "the provider panics");
        self.0.get(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_one_key_does_not_affect_other_keys() {
    let source = PanickingKey(MemoryProvider::from_iter([("GOOD", "v")]));
    for provider in alone_and_chained(source) {
        let resolver = Resolver::builder(provider).ttl(secs(10)).build();
        let _watch = resolver.watch(["GOOD", "BAD"]).unwrap();
        for _ in 0..30 {
            let results = resolver.get_many(["GOOD", "BAD"]).await;
            let good = results[0].as_ref();
            assert!(
                good.is_ok_and(|value| !value.freshness.is_stale()),
                "{good:?}"
            );
            assert!(
                results[1]
                    .as_ref()
                    .unwrap_err()
                    .to_string()
                    .contains("panicked")
            );
            pass(secs(2)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn origin_and_capabilities_are_read_only_at_the_start() {
    for place in [Place::Origin, Place::Capabilities] {
        let source = Panicking::new(true);
        let renamed = source
            .clone()
            .renamed([("X", "Y")])
            .unwrap()
            .with_deadline(secs(9));
        let [alone, chained] = alone_and_chained(source.clone());
        for provider in [alone, chained, Arc::new(renamed)] {
            let resolver = Resolver::builder(provider).ttl(secs(10)).build();
            source.start(place);
            let mut watch = resolver.watch(["K"]).unwrap();
            watch.next().await.unwrap();
            for _ in 0..10 {
                text(&resolver, "K").await;
                assert!(resolver.get("ABSENT").await.unwrap_err().is_not_found());
                assert!(resolver.refresh(["K"]).await[0].is_ok());
                assert!(resolver.report_rejected("K", &"x".into()).await.is_ok());
                resolver.invalidate("K");
                pass(secs(3)).await;
            }
            source.stop();
            assert_eq!(source.panics(), 0, "{place:?} was called");
        }
    }
}

/// Runs `test` with a paused clock on a thread of its own. Fails if it does not end.
fn without_deadlock<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(test());
        let _ = sender.send(());
    });
    match receiver.recv_timeout(secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("deadlock"),
        _ => thread.join().unwrap(),
    }
}

fn poll_once<T>(future: impl Future<Output = T>, waker: &Waker) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(waker))
}

/// Calls the resolver's methods, without waiting for their results.
fn use_resolver(resolver: &Resolver) {
    let (waker, value) = (Waker::noop(), SecretValue::from("x"));
    resolver.with_cached("K", |_| ());
    let _ = (
        resolver.retry_in(["K", "B"]),
        resolver.counters(),
        resolver.len(),
    );
    let _ = poll_once(resolver.get("K"), waker);
    let _ = poll_once(resolver.get_many(["K", "LOG_TOKEN"]), waker);
    let _ = poll_once(resolver.refresh(["K"]), waker);
    let _ = poll_once(resolver.refresh_after_write(["B"]), waker);
    let _ = poll_once(resolver.report_rejected("K", &value), waker);
    if let Ok(mut watch) = resolver.watch(["K", "B"]) {
        let _ = poll_once(watch.next(), waker);
    }
    resolver.accept_older_versions(["LOG_TOKEN"]);
    resolver.invalidate("K");
    if Handle::try_current().is_ok() {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.refresh(["LOG_TOKEN"]).await });
    }
}

/// Uses the resolver when it is called. Each use can cause another call, so their number is limited.
#[derive(Clone, Default)]
struct User {
    resolver: Arc<OnceLock<Resolver>>,
    calls: Arc<AtomicUsize>,
}

impl User {
    fn call(&self) {
        if let Some(resolver) = self.resolver.get()
            && self.calls.fetch_add(1, Ordering::SeqCst) < 300
        {
            use_resolver(resolver);
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for User {
    fn on_event(&self, _: &tracing::Event<'_>, _: LayerContext<'_, S>) {
        self.call();
    }
}

impl Wake for User {
    fn wake(self: Arc<Self>) {
        self.call();
    }
}

/// Causes every kind of event.
async fn eventful_life(source: &Notifying, resolver: &Resolver) {
    let version =
        |number| Action::Return(Secret::new("older").with_version(Version::numbered(number)));
    let mut watch = resolver.watch(["K", "B"]).unwrap();
    watch.next().await.unwrap();
    for fault in [
        Action::Fail(down()),
        Action::Fail(denied()),
        Action::Panic,
        version(50),
        version(1),
        Action::Hang,
        Action::Forward,
    ] {
        source.reads.always(fault);
        for _ in 0..30 {
            source.notify(Change::All);
            source.fail("notifications may have been lost");
            let _ = timeout(secs(1), resolver.get("K")).await;
            let _ = timeout(secs(1), resolver.report_rejected("K", &"one".into())).await;
            pass(secs(3)).await;
        }
        source.end_streams();
    }
    pass(secs(600)).await;
    text(resolver, "K").await;
    resolver.close().await;
    assert!(watch.next().await.is_none());
}

async fn life_with(user: User, batch: bool, chained: usize) {
    let source = Notifying::new(batch, &[("K", "one"), ("B", "b")]);
    let provider = alone_and_chained(source.clone())[chained].clone();
    let resolver = Resolver::builder(provider)
        .ttl(secs(10))
        .max_entries(2)
        .build();
    let _ = user.resolver.set(resolver.clone());
    eventful_life(&source, &resolver).await;
    let calls = user.calls.load(Ordering::SeqCst);
    assert!(calls > 10, "the resolver was not used");
}

#[test]
fn log_layer_can_use_the_resolver() {
    for (batch, chained) in [(true, 0), (false, 0), (true, 1), (false, 1)] {
        without_deadlock(move || {
            // Another subscriber, so that each event is sent to the one of its thread.
            let log = CanaryLog::install();
            let user = User::default();
            let subscriber = tracing_subscriber::registry().with(user.clone());
            let guard = tracing::subscriber::set_default(subscriber);
            let life = life_with(user, batch, chained);
            async move {
                life.await;
                drop((guard, log));
            }
        });
    }
}

#[test]
fn waker_can_use_the_resolver() {
    for (batch, chained) in [(true, 0), (false, 0), (true, 1), (false, 1)] {
        without_deadlock(move || async move {
            let source = Notifying::new(batch, &[("K", "one"), ("B", "b")]);
            let provider = alone_and_chained(source.clone())[chained].clone();
            let resolver = Resolver::builder(provider).ttl(secs(10)).build();
            let user = User::default();
            let _ = user.resolver.set(resolver.clone());
            let waker = Waker::from(Arc::new(user.clone()));
            for round in 0..10 {
                source.reads.push(Action::Delay(secs(1)));
                let mut watch = resolver.watch(["K"]).unwrap();
                let mut next: Pin<Box<dyn Future<Output = _>>> = Box::pin(watch.next());
                let mut get = Box::pin(resolver.get("B"));
                let mut refresh = Box::pin(resolver.refresh(["K"]));
                let mut context = Context::from_waker(&waker);
                let _ = get.as_mut().poll(&mut context);
                let _ = refresh.as_mut().poll(&mut context);
                for _ in 0..3 {
                    if next.as_mut().poll(&mut context).is_ready() {
                        next = Box::pin(poll_fn(|_| Poll::Pending));
                    }
                    source.set("K", &format!("{round}"));
                    source.notify(Change::All);
                    pass(secs(3)).await;
                }
            }
            assert!(
                user.calls.load(Ordering::SeqCst) > 10,
                "the waker was not called"
            );
            let mut watch = resolver.watch(["K"]).unwrap();
            let _ = poll_once(watch.next(), &waker);
            resolver.close().await;
        });
    }
}

/// The source of an error, which uses the resolver when it is dropped.
struct Cause(User);

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cause")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cause")
    }
}

impl std::error::Error for Cause {}

impl Drop for Cause {
    fn drop(&mut self) {
        self.0.call();
    }
}

#[test]
fn destructor_of_an_error_can_use_the_resolver() {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Unavailable,
        ErrorKind::Denied,
    ];
    for (kind, chained) in kinds.into_iter().flat_map(|kind| [(kind, 0), (kind, 1)]) {
        without_deadlock(move || async move {
            let user = User::default();
            let cause = user.clone();
            let calls = AtomicUsize::new(0);
            let provider = Computed::new(move |keys| {
                // The last calls succeed.
                let fails = calls.fetch_add(1, Ordering::SeqCst) % 10 < 7;
                let error = || Error::new(kind, "failed").with_source(Cause(cause.clone()));
                let result = || {
                    if fails {
                        Err(error())
                    } else {
                        Ok(Secret::new("v"))
                    }
                };
                keys.iter().map(|_| result()).collect()
            });
            let provider = alone_and_chained(provider)[chained].clone();
            let resolver = Resolver::builder(provider)
                .ttl(secs(5))
                .max_entries(2)
                .build();
            let _ = user.resolver.set(resolver.clone());
            let watch = resolver.watch(["WATCHED"]).unwrap();
            for round in 0..200 {
                for name in ["K", "B", "C", "D"] {
                    drop(resolver.get(name).await);
                }
                match round % 4 {
                    0 => resolver.invalidate("K"),
                    1 => drop(resolver.refresh(["K", "B"]).await),
                    2 => resolver.accept_older_versions(["K"]),
                    _ => drop(resolver.report_rejected("B", &"v".into()).await),
                }
                pass(Duration::from_millis(700)).await;
            }
            assert!(
                user.calls.load(Ordering::SeqCst) > 10,
                "no error was dropped"
            );
            drop(watch);
            resolver.close().await;
        });
    }
}
