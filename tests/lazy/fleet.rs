//! Revocation in several processes that share a source. Case S9.

use std::time::SystemTime;

use secretwell::auth::sessions::authjs::{SecretOrder, SessionTokens};
use serde_json::{Value, json};

use super::scripted::{Reports, Scripted};
use super::*;

const REVOKED_AT: &str = "AUTH_SECRET_REVOKED_AT";

fn start(source: &Scripted) -> LazyAuth<SessionTokens> {
    let resolver = Resolver::builder(source.clone()).ttl(secs(10)).build();
    LazyAuth::builder(resolver)
        .revocation_key(REVOKED_AT)
        .unwrap()
        .build(|_: Secrets, context: BuildContext| async move {
            let ring = SecretOrder::NextAuth5.key_ring(&context)?;
            Ok::<_, BuildError>(SessionTokens::v5("session", &ring)?)
        })
}

fn token(secret: &str) -> String {
    let tokens = SessionTokens::v5("session", &KeyRing::new(secret).unwrap()).unwrap();
    tokens
        .encode(&json!({"name": "Ada"}), secs(30 * 24 * 3600))
        .unwrap()
}

async fn accepts(auth: &LazyAuth<SessionTokens>, token: &str) -> bool {
    let tokens = auth.get().await.unwrap();
    tokens.decode::<Value>(token).is_ok()
}

/// Writes the current time as the revocation time.
fn revoke_everywhere(source: &Scripted) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    source.write(REVOKED_AT, &now.as_secs().to_string(), secs(0));
}

#[tokio::test(start_paused = true)]
async fn call_revokes_in_one_process_and_a_revocation_time_in_all() {
    for reports in [Reports::Times, Reports::Numbers, Reports::Nothing] {
        let source = Scripted::new(reports);
        source.write("AUTH_SECRET", FIRST, secs(1000));
        let [a, b] = [start(&source), start(&source)];
        let (leaked, good) = (token(FIRST), token(SECOND));
        for process in [&a, &b] {
            assert!(accepts(process, &leaked).await);
        }
        source.write("AUTH_SECRET", SECOND, secs(100));
        pass(secs(30)).await;
        for process in [&a, &b] {
            assert!(accepts(process, &leaked).await && accepts(process, &good).await);
        }

        a.revoke_previous().await.unwrap();
        assert!(!accepts(&a, &leaked).await);
        assert!(
            accepts(&b, &leaked).await,
            "the call is documented as per process"
        );

        revoke_everywhere(&source);
        pass(secs(30)).await;
        let started = start(&source);
        for process in [&a, &b, &started] {
            assert!(!accepts(process, &leaked).await, "{reports:?}");
            assert!(accepts(process, &good).await, "{reports:?}");
            assert_eq!(process.state().name(), "ready");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_after_a_revocation_has_a_grace_period_in_all_processes() {
    const THIRD: &str = "the third secret, thirty-two bytes or more";
    let source = Scripted::new(Reports::Times);
    source.write("AUTH_SECRET", FIRST, secs(1000));
    let [a, b] = [start(&source), start(&source)];
    for process in [&a, &b] {
        assert!(accepts(process, &token(FIRST)).await);
    }
    source.write("AUTH_SECRET", SECOND, secs(400));
    pass(secs(30)).await;
    a.revoke_previous().await.unwrap();
    let revoked = SystemTime::now() - secs(300);
    let revoked = revoked.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    source.write(REVOKED_AT, &revoked.as_secs().to_string(), secs(300));
    pass(secs(400)).await;
    source.write("AUTH_SECRET", THIRD, secs(0));
    pass(secs(30)).await;
    for process in [&a, &b, &start(&source)] {
        assert!(!accepts(process, &token(FIRST)).await);
        assert!(accepts(process, &token(SECOND)).await);
        assert!(accepts(process, &token(THIRD)).await);
    }
}
