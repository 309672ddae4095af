//! [`Notified`]: a provider that also reports the change notifications of a hub.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secretwell_core::backend::{Capabilities, Change, ChangeStream, Link, Notice};
use secretwell_core::{
    Error, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, SecretValue, Version,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::hub::{NotifyHub, lock};
use crate::marks::Marks;

/// The minimum time between two notifications of the hub that a stream receives.
const INTERVAL: Duration = Duration::from_millis(100);

impl NotifyHub {
    /// Returns a provider that reads `provider` and reports the notifications of this hub, together with the
    /// provider's own ones. Read secrets only through the returned provider.
    pub fn wrap<P: SecretProvider>(&self, provider: P) -> Notified<P> {
        let mut marks = Marks::new();
        // A lease that is dropped is requested again. That must not happen to every credential, only because
        // the sender did not name the changed keys.
        if provider.capabilities().lease {
            marks = marks.only_named();
        }
        let marks = Arc::new(Mutex::new(marks));
        self.add_marks(&marks);
        Notified {
            provider,
            hub: self.clone(),
            marks,
        }
    }
}

/// A provider that also reports the change notifications of a [`NotifyHub`]. Created by
/// [`NotifyHub::wrap`].
///
/// A changed key is [discarded](SecretProvider::discard) before its next read, so that this read goes to the
/// source. If a notification does not name the changed keys, each key is discarded once. Providers of leases
/// are an exception: they keep the credentials that are not named.
///
/// If the stream of the provider's own notifications ends, the merged stream also ends, so that the consumer
/// opens both again.
#[derive(Debug)]
pub struct Notified<P> {
    provider: P,
    hub: NotifyHub,
    marks: Arc<Mutex<Marks>>,
}

impl<P: SecretProvider> Notified<P> {
    /// Makes the provider drop what it keeps of those `keys` that have changed.
    fn discard_changed(&self, keys: &[SecretKey]) {
        let mut marks = lock(&self.marks);
        let changed: Vec<&SecretKey> = keys.iter().filter(|key| marks.take(key)).collect();
        drop(marks);
        for key in changed {
            self.provider.discard(key, None);
        }
    }
}

#[async_trait]
impl<P: SecretProvider> SecretProvider for Notified<P> {
    fn origin(&self) -> &Origin {
        self.provider.origin()
    }

    fn capabilities(&self) -> Capabilities {
        self.provider.capabilities().with_watch()
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        self.discard_changed(std::slice::from_ref(key));
        self.provider.get(key).await
    }

    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        self.discard_changed(keys);
        self.provider.get_many(keys).await
    }

    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        self.provider.get_version(key, version).await
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        self.provider.list(prefix).await
    }

    async fn notices(&self, prefix: &KeyPrefix) -> Result<Vec<Notice>, Error> {
        self.provider.notices(prefix).await
    }

    fn watch(&self) -> Option<ChangeStream> {
        let mut from_hub = self.hub.subscribe();
        let mut own = self.provider.watch();
        let (sender, merged) = ChangeStream::channel();
        let mut forwarder = JoinSet::new();
        forwarder.spawn(async move {
            let mut listen_from = Instant::now();
            loop {
                // Both futures can be dropped without losing a notification.
                let notification = tokio::select! {
                    notification = next_after(listen_from, &mut from_hub) => {
                        listen_from = Instant::now() + INTERVAL;
                        notification
                    }
                    notification = next_of(own.as_mut()) => notification,
                };
                let open = match notification {
                    Some(Ok(change)) => sender.send(change),
                    Some(Err(error)) => sender.fail(error),
                    None => false,
                };
                if !open {
                    return;
                }
            }
        });
        Some(merged.with_guard(forwarder))
    }

    async fn health(&self) -> Result<(), Error> {
        self.provider.health().await
    }

    fn discard(&self, key: &SecretKey, rejected: Option<&SecretValue>) {
        self.provider.discard(key, rejected);
    }

    /// Each link reports the notifications of the hub, because any of them might have changed.
    fn links(&self) -> Vec<Link> {
        let wrap = |link: Link| link.map(|provider| Arc::new(self.hub.wrap(provider)));
        self.provider.links().into_iter().map(wrap).collect()
    }
}

/// Waits until `time`, and then for the next notification.
async fn next_after(time: Instant, stream: &mut ChangeStream) -> Option<Result<Change, Error>> {
    sleep_until(time).await;
    stream.next().await
}

/// Waits for the next notification. Without a stream, waits forever.
async fn next_of(stream: Option<&mut ChangeStream>) -> Option<Result<Change, Error>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}
