//! Key rings during slow builds, runtime restarts and revocation.

use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, State};
use secretwell::{MemoryProvider, Resolver, SecretString};
use serde::Deserialize;

use crate::support::{pass, ring_text, secs};

const FIRST: &str = "the first secret, thirty-two bytes or more";
const NEXT: &str = "the next secret, thirty-two bytes or more";
const LAST: &str = "the last secret, thirty-two bytes or more";

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the tests read the key ring")]
    auth_secret: SecretString,
}

/// An auth that builds a key ring.
fn ring_auth(memory: &MemoryProvider) -> LazyAuth<KeyRing> {
    LazyAuth::new(
        Resolver::new(memory.clone()),
        |_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        },
    )
}

#[tokio::test(start_paused = true)]
async fn build_slower_than_the_activation_delay_still_activates_the_new_secret() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = LazyAuth::builder(Resolver::new(memory.clone()))
        .activation_delay(secs(1))
        .build(|_: Secrets, context: BuildContext| async move {
            tokio::time::sleep(secs(2)).await;
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        });
    auth.get().await.unwrap();
    memory.set("AUTH_SECRET", NEXT).unwrap();
    pass(secs(20)).await;
    let primary = auth.get().await.unwrap().primary().clone();
    assert_eq!(primary.expose_text().unwrap(), NEXT);
}

#[tokio::test(start_paused = true)]
async fn state_watch_reports_a_change_that_happened_before_the_wait() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = ring_auth(&memory);
    auth.get().await.unwrap();
    let mut watch = auth.watch_state();
    memory.remove("AUTH_SECRET").unwrap();
    pass(secs(10)).await;
    assert!(matches!(
        watch.changed().await,
        Some(State::Degraded { .. })
    ));
}

#[test]
fn previous_secrets_are_kept_when_the_runtime_ends() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = ring_auth(&memory);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    runtime().block_on(auth.get()).unwrap();
    memory.set("AUTH_SECRET", NEXT).unwrap();
    let ring = runtime().block_on(async { auth.rebuild().await.unwrap().clone() });
    // The next secret does not sign before the activation delay is over.
    assert_eq!(ring_text(&ring), (FIRST.into(), format!("{NEXT},{FIRST}")));
}

#[tokio::test(start_paused = true)]
async fn revoked_secret_does_not_verify() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = ring_auth(&memory);
    auth.get().await.unwrap();
    memory.set("AUTH_SECRET", NEXT).unwrap();
    let rotated = auth.rebuild().await.unwrap();
    assert_eq!(
        ring_text(&rotated),
        (FIRST.into(), format!("{NEXT},{FIRST}"))
    );
    // The write follows a forced read by less than a second. `revoke_previous` must read it anyway.
    memory.set("AUTH_SECRET", LAST).unwrap();
    let revoked = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&revoked), (LAST.into(), LAST.into()));
    pass(secs(100)).await;
    assert_eq!(
        ring_text(&auth.get().await.unwrap()),
        (LAST.into(), LAST.into())
    );
}
