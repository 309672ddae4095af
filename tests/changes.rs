//! Changes: notifications of sources in every situation, and watches, which neither lose nor repeat a change.

mod watches;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell::backend::{Capabilities, Change, ChangeSender, ChangeStream};
use secretwell::notify::NotifyHub;
use secretwell::{
    Error, ErrorKind, MemoryProvider, Origin, Resolver, Secret, SecretKey, SecretProvider,
    SecretProviderExt, Watch,
};
use secretwell_testkit::{Action, FaultyProvider};
use tokio::time::timeout;

use crate::support::{changed_now, denied, down, key, pass, secs, settle, text};

/// A source whose reads and change notifications the test controls.
#[derive(Debug, Clone)]
pub(crate) struct Notifying {
    pub(crate) reads: FaultyProvider<MemoryProvider>,
    capabilities: Capabilities,
    streams: Arc<Mutex<Streams>>,
}

#[derive(Debug, Default)]
struct Streams {
    senders: Vec<ChangeSender>,
    opened: usize,
    /// Whether `watch` returns no stream.
    refused: bool,
    /// Whether each stream ends at once.
    ended: bool,
}

impl Notifying {
    pub(crate) fn new(batch: bool, secrets: &[(&str, &str)]) -> Self {
        let mut capabilities = Capabilities::none().with_versions().with_watch();
        capabilities.batch = batch;
        Self {
            reads: FaultyProvider::new(secrets.iter().copied().collect()),
            capabilities,
            streams: Arc::default(),
        }
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        self.reads.inner().set(name, value).unwrap();
    }

    pub(crate) fn notify(&self, change: Change) {
        let streams = self.streams.lock().unwrap();
        for sender in &streams.senders {
            sender.send(change.clone());
        }
    }

    pub(crate) fn fail(&self, text: &'static str) {
        let streams = self.streams.lock().unwrap();
        for sender in &streams.senders {
            sender.fail(Error::new(ErrorKind::Unavailable, text));
        }
    }

    pub(crate) fn end_streams(&self) {
        self.streams.lock().unwrap().senders.clear();
    }

    fn opened(&self) -> usize {
        self.streams.lock().unwrap().opened
    }
}

#[async_trait]
impl SecretProvider for Notifying {
    fn origin(&self) -> &Origin {
        self.reads.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.reads.get(key).await
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.reads.get_many(keys).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        let mut streams = self.streams.lock().unwrap();
        streams.opened += 1;
        if streams.refused {
            return None;
        }
        let (sender, stream) = ChangeStream::channel();
        // A loop that opens streams without a pause would not end otherwise.
        if !streams.ended || streams.opened > 10_000 {
            streams.senders.push(sender);
        }
        Some(stream)
    }
}

/// Returns `source` alone, and as part of chains and adapters.
fn adapted(source: &Notifying) -> Vec<(&'static str, Arc<dyn SecretProvider>)> {
    let empty = || {
        let capabilities = Capabilities::none().with_ttl(secs(1));
        FaultyProvider::new(MemoryProvider::new()).with_capabilities(capabilities)
    };
    let renamed = source.clone().renamed([("X", "Y")]).unwrap();
    vec![
        ("alone", Arc::new(source.clone())),
        ("renamed", Arc::new(renamed.with_deadline(secs(20)))),
        (
            "with a hub",
            Arc::new(NotifyHub::new().wrap(source.clone())),
        ),
        ("first", Arc::new(source.clone().or_else(empty()))),
        ("last", Arc::new(Box::new(empty().or_else(source.clone())))),
        (
            "middle",
            Arc::new(empty().or_else(source.clone()).or_else_on_failure(empty())),
        ),
    ]
}

/// What the resolver knows about a key when its value changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    Nothing,
    InFlight,
    Cached,
    Used,
    Watched,
    Absent,
    Denied,
    Failed,
}

const KNOWN: [Known; 8] = [
    Known::Nothing,
    Known::InFlight,
    Known::Cached,
    Known::Used,
    Known::Watched,
    Known::Absent,
    Known::Denied,
    Known::Failed,
];

/// Brings the resolver into the state `known` about the key `K`. The watch must be kept.
async fn prepare(source: &Notifying, resolver: &Resolver, known: Known) -> Option<Watch> {
    let mut watch = None;
    match known {
        Known::Nothing => {}
        Known::InFlight => {
            source.reads.push(Action::DelayResult(secs(5)));
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.get("K").await });
        }
        Known::Cached => drop(text(resolver, "K").await),
        Known::Used => drop((text(resolver, "K").await, text(resolver, "K").await)),
        Known::Watched => {
            watch = Some(resolver.watch(["K"]).unwrap());
            watch.as_mut().unwrap().next().await.unwrap();
        }
        Known::Absent | Known::Denied => {
            if known == Known::Denied {
                source.reads.always(Action::Fail(denied()));
            }
            // The backoff is a few seconds afterwards.
            for _ in 0..40 {
                resolver.get("K").await.unwrap_err();
                pass(secs(1)).await;
            }
            source.reads.clear_faults();
        }
        Known::Failed => {
            source.reads.push(Action::Fail(down()));
            resolver.get("K").await.unwrap_err();
        }
    }
    settle().await;
    watch
}

#[tokio::test(start_paused = true)]
async fn every_notification_is_followed_in_every_state_of_a_key() {
    type Notify = fn(&Notifying);
    let notifications: [(&str, Notify); 4] = [
        ("keys", |source| {
            source.notify(Change::Keys([key("K")].into()))
        }),
        ("all", |source| source.notify(Change::All)),
        ("error", |source| {
            source.fail("notifications may have been lost")
        }),
        ("end", Notifying::end_streams),
    ];
    let mut failures = Vec::new();
    for known in KNOWN {
        for (notification, notify) in notifications {
            for batch in [true, false] {
                let source = Notifying::new(batch, &[("OTHER", "x")]);
                for (name, provider) in adapted(&source) {
                    let case = format!("{known:?}, {notification}, {name}, batch: {batch}");
                    let old = if known == Known::Absent {
                        source.reads.inner().remove("K")
                    } else {
                        source.reads.inner().set("K", "old")
                    };
                    old.unwrap();
                    let resolver = Resolver::builder(provider).ttl(secs(300)).build();
                    text(&resolver, "OTHER").await;
                    let _watch = prepare(&source, &resolver, known).await;
                    source.set("K", "new");
                    notify(&source);
                    let wait = match (known, notification) {
                        (Known::InFlight, _) => secs(7),
                        (_, "end") => secs(2),
                        _ => Duration::from_millis(200),
                    };
                    pass(wait).await;
                    match timeout(Duration::from_millis(1), resolver.get("K")).await {
                        Ok(Ok(value))
                            if value.value.expose_bytes() == b"new"
                                && !value.freshness.is_stale() => {}
                        result => failures.push(format!("{case}: {result:?}")),
                    }
                    resolver.close().await;
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} cases:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[tokio::test(start_paused = true)]
async fn flood_of_notifications_forces_one_call_per_second_at_a_source_that_is_down() {
    let limited = |wait| {
        let kind = ErrorKind::RateLimited { retry_after: wait };
        Action::Fail(Error::new(kind, "slow down"))
    };
    let mut failures = Vec::new();
    for (fault, name) in [
        (Action::Fail(down()), "down"),
        (Action::Hang, "hanging"),
        (Action::Panic, "panicking"),
        (limited(None), "limited"),
        (limited(Some(Duration::ZERO)), "limited for 0 s"),
        (
            limited(Some(Duration::from_millis(10))),
            "limited for 10 ms",
        ),
    ] {
        for (batch, change) in [
            (true, Change::All),
            (false, Change::Keys([key("K")].into())),
        ] {
            let source = Notifying::new(batch, &[("K", "v")]);
            for (adapter, provider) in adapted(&source) {
                source.reads.clear_faults();
                let resolver = Resolver::new(provider);
                let _watch = resolver.watch(["K"]).unwrap();
                text(&resolver, "K").await;
                source.reads.always(fault.clone());
                let before = source.reads.calls();
                for _ in 0..4_000 {
                    source.notify(change.clone());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let calls = source.reads.calls() - before;
                if calls > 28 {
                    failures.push(format!(
                        "{name}, {adapter}, batch: {batch}: {calls} calls in 20 s"
                    ));
                }
                resolver.close().await;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn ended_stream_is_opened_again_and_everything_is_read_again() {
    for batch in [true, false] {
        let source = Notifying::new(batch, &[("K", "v0"), ("OTHER", "v0")]);
        for (name, provider) in adapted(&source) {
            let resolver = Resolver::builder(provider).ttl(secs(100_000)).build();
            let mut watch = resolver.watch(["K"]).unwrap();
            text(&resolver, "OTHER").await;
            watch.next().await.unwrap();
            for round in 1..4 {
                let value = format!("{name} {round}");
                // No notification is sent for this change.
                source.end_streams();
                source.set("K", &value);
                source.set("OTHER", &value);
                pass(secs(10)).await;
                assert_eq!(text(&resolver, "OTHER").await, value);
                let update = watch.next().await.unwrap().remove(0);
                assert_eq!(update.result.unwrap().value.expose_text().unwrap(), value);
            }
            // The last stream works.
            source.set("K", "notified");
            source.notify(Change::All);
            pass(secs(1)).await;
            assert_eq!(text(&resolver, "K").await, "notified", "{name}");
            resolver.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_cannot_be_opened_for_a_while_is_opened_later() {
    let source = Notifying::new(true, &[("K", "old")]);
    let resolver = Resolver::builder(source.clone()).ttl(secs(100_000)).build();
    text(&resolver, "K").await;
    source.streams.lock().unwrap().refused = true;
    source.end_streams();
    pass(secs(600)).await;
    let opened = source.opened();
    assert!((4..20).contains(&opened), "{opened}");
    source.set("K", "new");
    source.streams.lock().unwrap().refused = false;
    pass(secs(301)).await;
    assert_eq!(text(&resolver, "K").await, "new");
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_at_once_are_opened_rarely() {
    for batch in [true, false] {
        let source = Notifying::new(batch, &[("K", "v")]);
        source.streams.lock().unwrap().ended = true;
        for (name, provider) in adapted(&source) {
            let (opened, calls) = (source.opened(), source.reads.calls());
            let resolver = Resolver::builder(provider).ttl(secs(100_000)).build();
            let mut watch = resolver.watch(["K"]).unwrap();
            watch.next().await.unwrap();
            for _ in 0..600 {
                text(&resolver, "K").await;
                assert!(changed_now(&mut watch).is_empty(), "{name}");
                pass(secs(1)).await;
            }
            let (opened, calls) = (source.opened() - opened, source.reads.calls() - calls);
            assert!(
                opened < 20 && calls < 40,
                "{name}: {opened} streams, {calls} calls"
            );
            resolver.close().await;
        }
    }
}

/// A source whose subscription takes until the test allows it.
#[derive(Debug)]
struct SlowToSubscribe {
    memory: MemoryProvider,
    allowed: Mutex<std::sync::mpsc::Receiver<()>>,
    subscribing: std::sync::mpsc::SyncSender<()>,
}

#[async_trait]
impl SecretProvider for SlowToSubscribe {
    fn origin(&self) -> &Origin {
        self.memory.origin()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().with_watch()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.memory.get(key).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.subscribing.send(()).ok()?;
        self.allowed.lock().unwrap().recv().ok()?;
        self.memory.watch()
    }
}

#[test]
fn change_is_not_missed_that_another_thread_has_read_before_the_first_subscription() {
    let memory = MemoryProvider::from_iter([("A", "a1"), ("B", "b1")]);
    let (allow, allowed) = std::sync::mpsc::channel();
    let (subscribing, subscribed) = std::sync::mpsc::sync_channel(1);
    let resolver = Resolver::builder(SlowToSubscribe {
        memory: memory.clone(),
        allowed: Mutex::new(allowed),
        subscribing,
    })
    .ttl(secs(3600))
    .build();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let read = first.spawn({
        let resolver = resolver.clone();
        async move { text(&resolver, "A").await }
    });
    subscribed.recv().unwrap();
    assert_eq!(second.block_on(text(&resolver, "B")), "b1");
    memory.set("B", "b2").unwrap();
    allow.send(()).unwrap();
    assert_eq!(second.block_on(read).unwrap(), "a1");
    let replaced = second.block_on(async {
        let is_replaced = async {
            while text(&resolver, "B").await != "b2" {
                tokio::task::yield_now().await;
            }
        };
        timeout(secs(20), is_replaced).await
    });
    assert!(replaced.is_ok(), "the change was missed");
}
