//! Runtimes that are kept, but do not run.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use secretwell::Resolver;
use secretwell_testkit::Action;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::support::{faulty_source, key, secs};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn keys_do_not_wait_for_a_batch_of_an_idle_runtime() {
    for polls in [0, 1, 2] {
        let (_, faulty) = faulty_source(&[("A", "a"), ("B", "b")]);
        let resolver = Resolver::new(faulty.clone());
        let idle = runtime();
        // The batch is created, but never starts, although its task might have run.
        idle.block_on(async {
            assert!(start(resolver.get("A")).is_pending());
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(faulty.calls(), 0, "{polls}");
        for name in ["B", "A"] {
            let read = runtime().block_on(async { timeout(secs(5), resolver.get(name)).await });
            assert!(
                read.is_ok_and(|result| result.is_ok()),
                "{name} waits for the idle runtime after {polls} polls"
            );
        }
    }
}

#[test]
fn close_does_not_wait_for_an_idle_runtime() {
    let (_, faulty) = faulty_source(&[("A", "a")]);
    let resolver = Resolver::new(faulty.clone());
    let idle = runtime();
    idle.block_on(resolver.get("A")).unwrap();
    faulty.always(Action::Hang);
    idle.block_on(async { assert!(start(resolver.get("B")).is_pending()) });
    let closed = runtime().block_on(async { timeout(secs(5), resolver.close()).await });
    assert!(closed.is_ok(), "`close` waits for the idle runtime");
    assert_eq!(resolver.watch(["A"]).unwrap().keys(), [key("A")]);
}

/// Polls a read once, which creates its fetch.
fn start<T>(read: impl Future<Output = T>) -> Poll<T> {
    pin!(read).poll(&mut Context::from_waker(Waker::noop()))
}
