//! The resolver under many interleavings of its threads, which shuttle chooses.
//!
//! Run with `cargo xtask full concurrency`.

use std::sync::Arc;

use async_trait::async_trait;
use secretwell_core::backend::Capabilities;
use secretwell_core::{Error, Origin, Secret, SecretKey, SecretProvider, Version};
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use crate::in_flight::Void;
use crate::reading::Mode;
use crate::shared::Shared;
use crate::{Resolved, ResolverBuilder};

/// The number of interleavings that each test tries.
const SCHEDULES: usize = 2000;

/// A source with one version number for all keys. A read takes a while.
#[derive(Debug)]
struct Numbered {
    origin: Origin,
    batch: bool,
    version: AtomicU64,
    calls: AtomicU64,
}

#[async_trait]
impl SecretProvider for Numbered {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        match self.batch {
            true => Capabilities::none().with_versions().with_batch(),
            false => Capabilities::none().with_versions(),
        }
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let version = self.version.load(Ordering::SeqCst);
        shuttle::future::yield_now().await;
        Ok(Secret::new(version.to_string().as_str()).with_version(Version::numbered(version)))
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let result = self.get(&keys[0]).await;
        keys.iter().map(|_| result.clone()).collect()
    }
}

fn numbered(batch: bool) -> (Arc<Numbered>, Arc<Shared>) {
    let provider = Arc::new(Numbered {
        origin: Origin::new("numbered", ""),
        batch,
        version: AtomicU64::new(1),
        calls: AtomicU64::new(0),
    });
    let shared = ResolverBuilder::new(provider.clone()).shared();
    (provider, Arc::new(shared))
}

fn key(name: &str) -> SecretKey {
    SecretKey::parse(name).unwrap()
}

fn read(shared: &Arc<Shared>, name: &str, mode: Mode) -> Resolved {
    let mut replies = block_on(shared.get_many(&[key(name)], mode));
    replies.remove(0).into_result().unwrap()
}

fn number(resolved: &Resolved) -> u64 {
    resolved.version.as_ref().unwrap().number().unwrap()
}

fn check(test: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    // Without optimizations, a read needs more stack than the default.
    config.stack_size = 0x8_0000;
    let scheduler = shuttle::scheduler::PctScheduler::new(3, SCHEDULES);
    shuttle::Runner::new(scheduler, config).run(test);
}

#[test]
fn first_readers_share_one_call() {
    for batch in [false, true] {
        check(move || {
            let (provider, shared) = numbered(batch);
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || number(&read(&shared, "K", Mode::Cached)))
                })
                .collect();
            for reader in readers {
                assert_eq!(reader.join().unwrap(), 1);
            }
            assert_eq!(provider.calls.load(Ordering::SeqCst), 1);
        });
    }
}

#[test]
fn reader_sees_a_change_that_was_reported_before_its_read() {
    for batch in [false, true] {
        check(move || {
            let (provider, shared) = numbered(batch);
            let other = {
                let shared = shared.clone();
                thread::spawn(move || number(&read(&shared, "K", Mode::Cached)))
            };
            let writer = {
                let (provider, shared) = (provider.clone(), shared.clone());
                thread::spawn(move || {
                    provider.version.store(2, Ordering::SeqCst);
                    shared.mark_changed(0, vec![key("K")]);
                    let resolved = read(&shared, "K", Mode::Cached);
                    assert!(number(&resolved) == 2 || resolved.freshness.is_stale());
                })
            };
            other.join().unwrap();
            writer.join().unwrap();
            assert_eq!(number(&read(&shared, "K", Mode::Cached)), 2);
        });
    }
}

#[test]
fn no_reader_goes_back_to_an_older_version() {
    for batch in [false, true] {
        check(move || {
            let (provider, shared) = numbered(batch);
            let reader = {
                let shared = shared.clone();
                thread::spawn(move || {
                    let mut newest = 0;
                    for mode in [Mode::Cached, Mode::Forced, Mode::Cached] {
                        let seen = number(&read(&shared, "K", mode));
                        assert!(seen >= newest, "{seen} after {newest}");
                        newest = seen;
                    }
                })
            };
            let writer = {
                let (provider, shared) = (provider.clone(), shared.clone());
                thread::spawn(move || {
                    provider.version.store(2, Ordering::SeqCst);
                    shared.mark_changed(0, vec![key("K")]);
                    provider.version.store(3, Ordering::SeqCst);
                    shared.sources[0].invalidate(&key("K"), Void::Invalidated, crate::clock::now());
                })
            };
            reader.join().unwrap();
            writer.join().unwrap();
            assert_eq!(number(&read(&shared, "K", Mode::Cached)), 3);
        });
    }
}

#[test]
fn every_reader_of_a_batch_gets_the_value_of_its_key() {
    check(|| {
        let (_, shared) = numbered(true);
        let readers: Vec<_> = ["A", "B", "A"]
            .into_iter()
            .map(|name| {
                let shared = shared.clone();
                thread::spawn(move || number(&read(&shared, name, Mode::Cached)))
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), 1);
        }
        let state = shared.sources[0].state();
        assert!(state.in_flight.keys().next().is_none());
        assert_eq!(state.values, 2);
    });
}
