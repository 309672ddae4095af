//! Sources of secrets for the tests of the clients.

use std::time::Duration;

use secretwell::backend::Capabilities;
use secretwell::{MemoryProvider, Resolver};
use secretwell_testkit::FaultyProvider;

/// A source that does not report changes, and a resolver that reads it every 30 s.
pub(crate) struct Polled {
    pub(crate) source: FaultyProvider<MemoryProvider>,
    pub(crate) resolver: Resolver,
}

impl Polled {
    pub(crate) fn with<const N: usize>(secrets: [(&str, &str); N]) -> Self {
        let memory = MemoryProvider::from_iter(secrets);
        let source = FaultyProvider::new(memory).with_capabilities(Capabilities::none());
        let resolver = Resolver::new(source.clone());
        Self { source, resolver }
    }

    pub(crate) fn set(&self, key: &str, value: &str) {
        self.source.inner().set(key, value).unwrap();
    }
}

/// Waits until `condition` is true, for at most a minute.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.expect("the condition is true within a minute");
}
