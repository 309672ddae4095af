//! Readers that run again long after the fetch they wait for has ended: in a runtime that was idle, or behind a
//! task that does not yield.

use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use super::*;

type Source = FaultyProvider<MemoryProvider>;
type ReadResult = Result<Resolved, Error>;

const TTL: Duration = secs(10);

/// Starts `read`, and lets its fetch end without the reader.
async fn start(read: &mut Pin<&mut (impl Future<Output = ReadResult> + ?Sized)>) {
    let poll = read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll.is_pending(), "the fetch has ended before its time");
    pass(secs(1)).await;
}

fn is_fresh(result: &ReadResult, value: &str) -> bool {
    result.as_ref().is_ok_and(|secret| {
        secret.value.expose_bytes() == value.as_bytes() && !secret.freshness.is_stale()
    })
}

/// Returns the result of a read whose fetch has returned `v1` before `event`.
async fn late_read(event: impl AsyncFnOnce(&MemoryProvider, &Source, &Resolver)) -> ReadResult {
    let (memory, faulty) = notifying("v1");
    let resolver = Resolver::builder(faulty.clone()).ttl(TTL).build();
    text(&resolver, "OTHER").await;
    let mut read = pin!(resolver.get("K"));
    faulty.push(Action::Delay(SHORT));
    start(&mut read).await;
    event(&memory, &faulty, &resolver).await;
    read.await
}

#[tokio::test(start_paused = true)]
async fn late_reader_gets_the_result_while_it_is_current() {
    let result = late_read(async |_, faulty, _| faulty.always(Action::Fail(down()))).await;
    assert!(is_fresh(&result, "v1"), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn late_reader_gets_no_expired_value_as_fresh() {
    let result = late_read(async |memory, _, _| {
        tokio::time::advance(TTL * 2).await;
        memory.set("K", "v2").unwrap();
    })
    .await;
    assert!(!is_fresh(&result, "v1"), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn late_reader_gets_a_stale_value_if_the_source_is_down_after_the_ttl() {
    let result = late_read(async |_, faulty, _| {
        faulty.always(Action::Fail(down()));
        tokio::time::advance(TTL * 2).await;
    })
    .await;
    let Freshness::Stale { age, reason } = result.unwrap().freshness else {
        panic!("the value is fresh");
    };
    assert!(age > TTL, "{age:?}");
    assert_eq!(reason.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn late_reader_gets_no_changed_value_as_fresh() {
    let result = late_read(async |memory, faulty, _| {
        faulty.always(Action::Delay(SHORT));
        memory.set("K", "v2").unwrap();
        settle().await;
    })
    .await;
    assert!(!is_fresh(&result, "v1"), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn late_reader_does_not_get_the_value_that_another_reader_has_reported() {
    let result = late_read(async |memory, _, resolver| {
        memory.set("K", "v2").unwrap();
        let replaced = resolver.report_rejected("K", &"v1".into()).await;
        assert!(is_fresh(&replaced, "v2"), "{replaced:?}");
    })
    .await;
    assert!(is_fresh(&result, "v2"), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn late_reader_gets_no_expired_absence_as_confirmed() {
    let (memory, faulty) = faulty_source(&[]);
    let resolver = Resolver::builder(faulty.clone()).ttl(TTL).build();
    faulty.push(Action::Delay(SHORT));
    let mut read = pin!(resolver.get("K"));
    start(&mut read).await;
    tokio::time::advance(TTL * 2).await;
    memory.set("K", "v2").unwrap();
    let result = read.await;
    let is_unconfirmed = |error: &Error| error.to_string().contains("not confirmed for 21s");
    let is_valid = is_fresh(&result, "v2") || result.as_ref().is_err_and(is_unconfirmed);
    assert!(is_valid, "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn late_reader_gets_the_value_that_another_reader_has_found() {
    for reports in [false, true] {
        let (memory, faulty) = faulty_source(&[("K", "v1")]);
        let resolver = Resolver::builder(faulty.clone()).ttl(TTL).build();
        let rejected = resolver.get("K").await.unwrap().value;
        memory.remove("K").unwrap();
        faulty.push(Action::Delay(SHORT));
        let mut read: Pin<Box<dyn Future<Output = ReadResult>>> = match reports {
            true => Box::pin(resolver.report_rejected("K", &rejected)),
            false => {
                resolver.invalidate("K");
                Box::pin(resolver.get("K"))
            }
        };
        start(&mut read.as_mut()).await;
        memory.set("K", "v2").unwrap();
        pass(secs(2)).await;
        assert_eq!(text(&resolver, "K").await, "v2");
        let result = read.await;
        assert!(is_fresh(&result, "v2"), "{reports}: {result:?}");
    }
}
