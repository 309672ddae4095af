//! [`Fixture`], the secrets of a test of a service.

use std::time::Duration;

use secretwell_auth::{Guard, LazyAuth};
use secretwell_core::{Error, ErrorKind, MemoryProvider, SecretValue};
use secretwell_resolver::Resolver;

use crate::faulty::{Action, FaultyProvider};

/// How long [`await_ready`] waits. It is longer than the wait between two attempts of a build.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The secrets of a test, in memory. The test changes them, and makes their source fail.
///
/// ```
/// use secretwell::auth::{LazyAuth, State};
/// use secretwell_testkit::{Fixture, await_ready};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
/// struct Secrets {
///     api_token: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let fixture = Fixture::with([("API_TOKEN", "first")]);
/// let auth = LazyAuth::infallible(fixture.resolver(), |secrets: Secrets, _| secrets.api_token);
/// assert_eq!(*await_ready(&auth).await, "first");
/// assert_eq!(*fixture.rotate(&auth, "API_TOKEN", "second").await, "second");
///
/// fixture.fail_source();
/// assert!(auth.rebuild().await.unwrap_err().is_temporary());
/// assert!(matches!(auth.state(), State::Degraded { .. }));
/// assert_eq!(*auth.get().await.unwrap(), "second");
/// # }
/// ```
#[derive(Debug)]
pub struct Fixture {
    source: FaultyProvider<MemoryProvider>,
    resolver: Resolver,
}

impl Fixture {
    /// Creates the secrets of a test from keys and values. A prefix of a key is part of the key: `db/PASSWORD`.
    ///
    /// # Panics
    /// Panics if a key is not valid.
    pub fn with<K: AsRef<str>, V: Into<SecretValue>>(
        secrets: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let fixture = Self::default();
        for (key, value) in secrets {
            fixture.set(key, value);
        }
        fixture
    }

    /// Returns a resolver for the secrets. All calls return the same resolver, with one cache.
    pub fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }

    /// Returns the source, for a resolver with other settings, for slow reads and for counters.
    pub fn source(&self) -> &FaultyProvider<MemoryProvider> {
        &self.source
    }

    /// Writes a secret, and notifies resolvers and auths.
    ///
    /// # Panics
    /// Panics if `key` is not valid.
    pub fn set(&self, key: impl AsRef<str>, value: impl Into<SecretValue>) {
        let key = key.as_ref();
        let written = self.source.inner().set(key, value);
        written.unwrap_or_else(|error| panic!("`{key}` cannot be set: {error}"));
    }

    /// Removes a secret, and notifies resolvers and auths. Does nothing if it does not exist.
    ///
    /// # Panics
    /// Panics if `key` is not valid.
    pub fn remove(&self, key: impl AsRef<str>) {
        let key = key.as_ref();
        let removed = self.source.inner().remove(key);
        removed.unwrap_or_else(|error| panic!("`{key}` cannot be removed: {error}"));
    }

    /// Writes a secret, and waits until `auth` is built from it. Returns that build.
    ///
    /// The value of a key ring verifies from then on. It signs after the activation delay of the auth, which is
    /// 1 s by default here. Within a second of the last call, this waits until that second is over.
    ///
    /// # Panics
    /// Panics if `key` is not valid, if the build fails, or if `auth` does not read `key` from this fixture. The
    /// message contains the reason.
    pub async fn rotate<A: Send + Sync + 'static>(
        &self,
        auth: &LazyAuth<A>,
        key: impl AsRef<str>,
        value: impl Into<SecretValue>,
    ) -> Guard<A> {
        let (key, reads) = (key.as_ref(), self.source.calls());
        self.set(key, value);
        let built = auth.rebuild().await;
        let built =
            built.unwrap_or_else(|failure| panic!("no build after `{key}` was set: {failure}"));
        let batches = self.source.batches();
        let mut keys = batches.iter().skip(reads).flatten();
        assert!(
            keys.any(|read| read.as_str() == key),
            "`{key}` was set, but the auth does not read it from this fixture"
        );
        built
    }

    /// Lets all reads fail as if the source could not be reached, until [`restore_source`](Self::restore_source).
    /// For other faults, use [`source`](Self::source).
    ///
    /// Values that are already cached stay fresh until their ttl ends. To test the outage, advance the paused clock or
    /// call [`LazyAuth::rebuild`].
    pub fn fail_source(&self) {
        let error = Error::new(
            ErrorKind::Unavailable,
            "the source fails on request of the test",
        );
        self.source.always(Action::Fail(error));
    }

    /// Ends all faults of the source.
    pub fn restore_source(&self) {
        self.source.clear_faults();
    }
}

/// A fixture without secrets.
impl Default for Fixture {
    fn default() -> Self {
        let source = FaultyProvider::new(MemoryProvider::new());
        let resolver = Resolver::new(source.clone());
        Self { source, resolver }
    }
}

/// Waits until `auth` has a build, and returns it. Failed attempts are repeated for up to 60 s.
///
/// # Panics
/// Panics if there is no build by then. The message contains the reason of the last failure.
pub async fn await_ready<A: Send + Sync + 'static>(auth: &LazyAuth<A>) -> Guard<A> {
    let built = auth.ready(MAX_WAIT).await;
    built.unwrap_or_else(|failure| panic!("{failure}"))
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use secretwell_auth::{BuildContext, BuildError, KeyRing, State};
    use secretwell_core::SecretKey;
    use serde::Deserialize;
    use tokio::time::Instant;

    use super::*;
    use crate::Canary;

    #[derive(Deserialize)]
    struct Secrets {
        token: SecretValue,
    }

    fn auth(fixture: &Fixture) -> LazyAuth<SecretValue> {
        LazyAuth::infallible(fixture.resolver(), |secrets: Secrets, _| secrets.token)
    }

    fn ring(fixture: &Fixture) -> LazyAuth<KeyRing> {
        LazyAuth::new(
            fixture.resolver(),
            |_: Secrets, context: BuildContext| async move {
                Ok::<_, BuildError>(context.key_ring("token")?)
            },
        )
    }

    #[tokio::test(start_paused = true)]
    async fn late_secret_and_outage_end_in_a_build() {
        let fixture = Fixture::default();
        let auth = auth(&fixture);
        assert!(!auth.get().await.unwrap_err().is_temporary());
        fixture.set("token", "first");
        assert_eq!(*await_ready(&auth).await, SecretValue::from("first"));

        fixture.fail_source();
        assert!(auth.rebuild().await.unwrap_err().is_temporary());
        fixture.restore_source();
        let second = fixture.rotate(&auth, "token", "second").await;
        assert_eq!(*second, SecretValue::from("second"));
        assert!(matches!(auth.state(), State::Ready { .. }));

        fixture.remove("token");
        assert!(!auth.rebuild().await.unwrap_err().is_temporary());
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_many_rotations_returns_its_own_value() {
        let fixture = Fixture::with([("token", "0")]);
        let auth = auth(&fixture);
        for number in 1..=20 {
            let value = number.to_string();
            // The same value again is a build as well.
            for _ in 0..2 {
                let built = fixture.rotate(&auth, "token", value.as_str()).await;
                assert_eq!(*built, SecretValue::from(value.as_str()));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rotated_ring_contains_both_secrets() {
        let (first, second) = (Canary::new("first"), Canary::new("second"));
        let fixture = Fixture::with([("token", first.text())]);
        let auth = ring(&fixture);
        await_ready(&auth).await;
        let ring = fixture.rotate(&auth, "token", second.text()).await;
        assert_eq!(ring.iter().count(), 2);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no build after `token` was set: not ready: (1) token")]
    async fn rotation_that_fails_names_the_reason() {
        let first = Canary::new("first");
        let fixture = Fixture::with([("token", first.text())]);
        let auth = ring(&fixture);
        await_ready(&auth).await;
        fixture.rotate(&auth, "token", "too short").await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "`TOKEN` was set, but the auth does not read it from this fixture")]
    async fn rotation_of_a_key_that_the_auth_does_not_read_is_noticed() {
        let fixture = Fixture::with([("token", "first")]);
        fixture.rotate(&auth(&fixture), "TOKEN", "second").await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "`token` was set, but the auth does not read it from this fixture")]
    async fn rotation_in_another_fixture_is_noticed() {
        let (fixture, other) = (
            Fixture::with([("token", "first")]),
            Fixture::with([("token", "first")]),
        );
        let auth = auth(&fixture);
        await_ready(&auth).await;
        other.rotate(&auth, "token", "second").await;
    }

    #[tokio::test(start_paused = true)]
    async fn missing_secret_ends_the_wait_with_its_key() {
        let started = Instant::now();
        let waiting = tokio::spawn(async { drop(await_ready(&auth(&Fixture::default())).await) });
        let panic = waiting.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("token"), "{message}");
        assert_eq!(started.elapsed().as_secs(), MAX_WAIT.as_secs());
    }

    #[test]
    fn panic_of_an_invalid_key_does_not_contain_the_value() {
        let canary = Canary::new("value");
        let value = canary.text().to_owned();
        let panic = catch_unwind(|| Fixture::with([("a//b", value)])).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.starts_with("`a//b` cannot be set: "), "{message}");
        canary.assert_hidden(message);
    }

    #[tokio::test]
    async fn resolvers_share_a_cache_and_the_source_counts_reads() {
        let fixture = Fixture::with([("db/PASSWORD", "s3cr3t")]);
        for _ in 0..2 {
            assert!(fixture.resolver().get("db/PASSWORD").await.is_ok());
        }
        let expected: SecretKey = "db/PASSWORD".parse().unwrap();
        assert_eq!(fixture.source().batches(), [[expected]]);
    }
}
