//! What becomes of the key ring when time and runtimes are not kind to it.

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
    #[expect(dead_code, reason = "the ring is what the tests look at")]
    auth_secret: SecretString,
}

/// An auth that is its own key ring.
fn ring(memory: &MemoryProvider) -> LazyAuth<KeyRing> {
    LazyAuth::new(
        Resolver::new(memory.clone()),
        |_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(context.key_ring("AUTH_SECRET")?)
        },
    )
}

#[tokio::test(start_paused = true)]
async fn a_build_that_outlasts_the_activation_delay_delays_no_more_than_itself() {
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
    let signing = auth.get().await.unwrap().primary().clone();
    assert_eq!(signing.expose_text().unwrap(), NEXT);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_the_state_misses_no_change_between_two_looks() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = ring(&memory);
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
fn the_earlier_secrets_outlive_the_runtime_that_knew_them() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = ring(&memory);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    runtime().block_on(auth.get()).unwrap();
    memory.set("AUTH_SECRET", NEXT).unwrap();
    let ring = runtime().block_on(async { auth.rebuild().await.unwrap().clone() });
    // The next one signs when everybody knows it.
    assert_eq!(ring_text(&ring), (FIRST.into(), format!("{NEXT},{FIRST}")));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_secret_verifies_nothing_any_more() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
    let auth = ring(&memory);
    auth.get().await.unwrap();
    memory.set("AUTH_SECRET", NEXT).unwrap();
    let rotated = auth.rebuild().await.unwrap();
    assert_eq!(
        ring_text(&rotated),
        (FIRST.into(), format!("{NEXT},{FIRST}"))
    );
    // Written a moment after a forced reading, which is not repeated within a second.
    memory.set("AUTH_SECRET", LAST).unwrap();
    let revoked = auth.revoke_previous().await.unwrap();
    assert_eq!(ring_text(&revoked), (LAST.into(), LAST.into()));
    pass(secs(100)).await;
    assert_eq!(
        ring_text(&auth.get().await.unwrap()),
        (LAST.into(), LAST.into())
    );
}
