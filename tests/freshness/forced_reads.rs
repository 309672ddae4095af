//! Forced reads that meet each other, and calls that remove cached values.

use super::*;

/// Reads `K` after a write, beside a forced refresh of another caller that starts first.
async fn read_beside_a_refresh(faulty: &Source, resolver: &Resolver) -> Result<Resolved, Error> {
    // The last forced refresh was more than a second ago.
    resolver.refresh(["K"]).await.remove(0).unwrap();
    pass(secs(2)).await;
    faulty.inner().set("K", "v2").unwrap();
    let (_, after_write) =
        tokio::join!(resolver.refresh(["K"]), resolver.refresh_after_write(["K"]));
    after_write.into_iter().next().unwrap()
}

type Source = FaultyProvider<MemoryProvider>;

#[tokio::test(start_paused = true)]
async fn read_after_a_write_returns_no_older_value_as_fresh_if_the_source_fails() {
    for delay in [None, Some(SHORT)] {
        let (_, faulty) = faulty_source(&[("K", "v1")]);
        let resolver = Resolver::builder(faulty.clone()).ttl(secs(60)).build();
        text(&resolver, "K").await;
        faulty.push(Action::Forward);
        faulty.always(Action::Fail(down()));
        if let Some(delay) = delay {
            faulty.push(Action::Delay(delay));
        }
        match read_beside_a_refresh(&faulty, &resolver).await {
            Ok(secret) if !secret.freshness.is_stale() => {
                assert_eq!(secret.value.expose_bytes(), b"v2", "{delay:?}");
            }
            Ok(Resolved {
                freshness: Freshness::Stale { reason, .. },
                ..
            }) => assert!(reason.to_string().contains("down"), "{reason}"),
            other => panic!("{delay:?}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn read_after_a_write_has_a_fetch_of_its_own() {
    let (_, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(60)).build();
    text(&resolver, "K").await;
    faulty.always(Action::Delay(SHORT));
    let read = read_beside_a_refresh(&faulty, &resolver).await.unwrap();
    assert_eq!(read.value.expose_bytes(), b"v2");
    assert!(!read.freshness.is_stale(), "{read:?}");
    let calls = faulty.calls();
    assert_eq!(calls, 4, "the first read, and one for each forced read");
}

#[tokio::test(start_paused = true)]
async fn invalidation_does_not_withdraw_the_acceptance_of_an_older_version() {
    let version = |number, value: &str| {
        Action::Return(Secret::new(value).with_version(Version::numbered(number)))
    };
    // The fetch of the newest version is under way while the source is restored.
    let scripted = Scripted::new([
        (Duration::ZERO, version(10, "v10")),
        (secs(1), version(10, "v10")),
        (Duration::ZERO, version(9, "restored")),
        (Duration::ZERO, version(9, "restored")),
    ]);
    let resolver = Resolver::builder(scripted).ttl(secs(60)).build();
    text(&resolver, "K").await;
    let refresh = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.refresh(["K"]).await }
    });
    pass(SHORT).await;
    resolver.accept_older_versions(["K"]);
    resolver.invalidate("K");
    refresh.await.unwrap();
    assert_eq!(text(&resolver, "K").await, "restored");
}

#[tokio::test(start_paused = true)]
async fn revalidation_reads_the_source_and_keeps_leases() {
    let (_, faulty) = faulty_source(&[("K", "v1")]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(60)).build();
    text(&resolver, "K").await;
    faulty.always(Action::Return(Secret::new("v2")));
    let read = resolver.revalidate(["K"]).await.remove(0).unwrap();
    assert_eq!((read.value.expose_bytes(), faulty.calls()), (&b"v2"[..], 2));
    assert!(!read.freshness.is_stale());
    assert!(faulty.discarded().is_empty());

    // At most one read in a second, together with forced reads.
    for _ in 0..10 {
        resolver.revalidate(["K"]).await.remove(0).unwrap();
        resolver.refresh(["K"]).await.remove(0).unwrap();
    }
    assert_eq!(faulty.calls(), 2);
    pass(secs(2)).await;
    resolver.revalidate(["K", "K"]).await.remove(0).unwrap();
    assert_eq!(faulty.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn revalidation_respects_backoff() {
    let (_, faulty) = faulty_source(&[("K", "v1"), ("L", "v1")]);
    let resolver = Resolver::builder(faulty.clone()).ttl(secs(1000)).build();
    text(&resolver, "K").await;
    let calls = |faulty: &Source| faulty.calls();
    faulty.always(Action::Fail(down().with_retry_after(secs(60))));
    let read = resolver.revalidate(["K"]).await.remove(0).unwrap();
    assert!(read.freshness.is_stale(), "{read:?}");
    assert_eq!(calls(&faulty), 2);
    for _ in 0..25 {
        pass(secs(2)).await;
        let read = resolver.revalidate(["K"]).await.remove(0).unwrap();
        assert_eq!(read.value.expose_bytes(), b"v1");
        assert_eq!(calls(&faulty), 2, "the source has requested a wait");
    }
    faulty.clear_faults();
    pass(secs(15)).await;
    let read = resolver.revalidate(["K"]).await.remove(0).unwrap();
    assert!(!read.freshness.is_stale(), "{read:?}");
}
