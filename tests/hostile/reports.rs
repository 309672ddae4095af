//! Many reports of the same rejected value, as from a pool of connections.

use std::time::Duration;

use async_trait::async_trait;
use secretwell::backend::Capabilities;
use secretwell::{Error, MemoryProvider, Origin, Resolver, Secret, SecretKey, SecretProvider};
use secretwell_testkit::{Action, FaultyProvider};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{pass, secs};

/// A provider whose secrets have no versions, and perhaps a lease.
#[derive(Debug, Clone)]
struct Unordered {
    memory: MemoryProvider,
    is_leased: bool,
}

#[async_trait]
impl SecretProvider for Unordered {
    fn origin(&self) -> &Origin {
        self.memory.origin()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let secret = Secret::new(self.memory.get(key).await?.value);
        Ok(match self.is_leased {
            true => secret.valid_for(secs(3600)),
            false => secret,
        })
    }
}

const LATENCY: Duration = Duration::from_millis(300);

#[tokio::test(start_paused = true)]
async fn overlapping_reports_get_the_new_value_and_share_its_fetch() {
    for (is_leased, pause) in [(false, 20), (true, 20), (false, 200), (true, 200)] {
        let memory = MemoryProvider::from_iter([("K", "v1")]);
        let source = FaultyProvider::new(Unordered {
            memory: memory.clone(),
            is_leased,
        });
        let resolver = Resolver::new(source.clone());
        let rejected = resolver.get("K").await.unwrap().value;
        source.always(Action::Delay(LATENCY));
        memory.set("K", "v2").unwrap();
        let mut reports = JoinSet::new();
        for _ in 0..100 {
            let (resolver, rejected) = (resolver.clone(), rejected.clone());
            reports.spawn(async move { resolver.report_rejected("K", &rejected).await });
            sleep(Duration::from_millis(pause)).await;
        }
        let failed = reports.join_all().await.into_iter().filter(|result| {
            let is_new = |secret: &secretwell::Resolved| secret.value.expose_bytes() == b"v2";
            !result.as_ref().is_ok_and(is_new)
        });
        assert_eq!(failed.count(), 0, "{is_leased}, {pause} ms");
        assert_eq!(source.calls(), 2, "{is_leased}, {pause} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn notification_during_a_forced_read_does_not_bring_back_the_value_before_it() {
    for reports in [false, true] {
        let memory = MemoryProvider::from_iter([("K", "v1")]);
        let capabilities = Capabilities::none().with_watch();
        let source = FaultyProvider::new(Watched(memory.clone())).with_capabilities(capabilities);
        let resolver = Resolver::new(source.clone());
        let rejected = resolver.get("K").await.unwrap().value;
        pass(secs(5)).await;
        // The read starts, and then the notification of the write arrives.
        source.always(Action::Delay(LATENCY));
        let read = tokio::spawn({
            let resolver = resolver.clone();
            async move {
                match reports {
                    true => resolver.report_rejected("K", &rejected).await,
                    false => resolver.refresh_after_write(["K"]).await.remove(0),
                }
            }
        });
        pass(LATENCY / 3).await;
        memory.set("K", "v2").unwrap();
        let secret = read.await.unwrap().unwrap();
        assert_eq!(secret.value.expose_bytes(), b"v2", "{reports}: {secret:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn value_without_versions_is_replaced_although_notifications_arrive_all_the_time() {
    let memory = MemoryProvider::from_iter([("K", "v1"), ("OTHER", "x")]);
    let capabilities = Capabilities::none().with_watch();
    let source = FaultyProvider::new(Watched(memory.clone())).with_capabilities(capabilities);
    let resolver = Resolver::new(source.clone());
    resolver.get("K").await.unwrap();
    source.always(Action::DelayResult(Duration::from_millis(1500)));
    memory.set("K", "v2").unwrap();
    let mut secret = resolver.get("K").await.unwrap();
    for _ in 0..40 {
        // The same value again, so that only the notification is new.
        memory.set("K", "v2").unwrap();
        secret = resolver.get("K").await.unwrap();
        pass(Duration::from_millis(300)).await;
    }
    assert_eq!(secret.value.expose_bytes(), b"v2", "{secret:?}");
}

/// A provider with change notifications and without versions.
#[derive(Debug, Clone)]
struct Watched(MemoryProvider);

#[async_trait]
impl SecretProvider for Watched {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().with_watch()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        Ok(Secret::new(self.0.get(key).await?.value))
    }

    fn watch(&self) -> Option<secretwell::backend::ChangeStream> {
        self.0.watch()
    }
}
