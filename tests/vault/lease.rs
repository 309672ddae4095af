//! Dynamic secrets: credentials for a real PostgreSQL database.

use std::time::Duration;

use deadpool_postgres::{Config, Runtime, tokio_postgres::NoTls};
use secretwell::auth::{BuildError, Guard, LazyAuth, SecretPolicy};
use secretwell::vault::{Credential, KvVersion, VaultAuth, VaultProvider};
use secretwell::{Error, ErrorKind, ExposeSecret, Resolver, SecretProvider, SecretString};
use secretwell_resolver::clock::suspend;
use secretwell_testkit::{Fault, FaultProxy};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::database::Fixture;
use super::server::unique;
use crate::support::{key, keys, response, secs};

#[derive(Deserialize)]
struct Secrets {
    db: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: SecretString,
}

/// Sends queries for `duration` through a lazily built pool, and asserts that every query succeeds. Returns the
/// number of pools that were built.
async fn query_for(fixture: &Fixture, provider: VaultProvider, duration: Duration) -> u64 {
    let socket = fixture.postgres.socket.clone();
    let auth = LazyAuth::builder(Resolver::new(provider))
        .activation_delay(Duration::ZERO)
        .secret_policy("db/password", SecretPolicy::Unchecked)
        .unwrap()
        .build(move |secrets: Secrets, _| {
            let socket = socket.clone();
            async move {
                let mut config = Config::new();
                config.host = Some(socket.display().to_string());
                config.dbname = Some("postgres".into());
                config.user = Some(secrets.db.username);
                config.password = Some(secrets.db.password.expose_secret().into());
                Ok::<_, BuildError>(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
            }
        });
    let end = Instant::now() + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let auth = auth.clone();
        tasks.spawn(async move {
            while Instant::now() < end {
                let pool = auth.get().await.unwrap().clone();
                // A new connection for each query, so that each query logs in.
                let client = pool.get().await.unwrap();
                client.query_one("SELECT 1", &[]).await.unwrap();
                let _ = deadpool_postgres::Object::take(client);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    Guard::generation(&auth.get().await.unwrap())
}

#[tokio::test]
async fn pool_is_rebuilt_before_its_credentials_expire() {
    // The credentials are replaced about 3 s before they end. A busy machine needs some of that time.
    let fixture = Fixture::new(json!({"default_ttl": "8s", "max_ttl": "16s"})).await;
    let provider = fixture.provider(json!({"token_ttl": "1h"})).await;
    // More than three times the maximum duration of the credentials.
    let pools = query_for(&fixture, provider, secs(53)).await;
    assert!((4..=8).contains(&pools), "{pools} pools");
}

#[tokio::test]
async fn pool_is_rebuilt_before_the_token_of_its_credentials_expires() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let provider = fixture
        .provider(json!({"token_ttl": "20s", "token_max_ttl": "20s"}))
        .await;
    // A busy machine needs some of the seconds between the rebuild and the expiry.
    let pools = query_for(&fixture, provider, secs(65)).await;
    assert!((3..=6).contains(&pools), "{pools} pools");
}

/// Advances the clock of this process, but not that of the server.
async fn advance(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

const MINUTE: Duration = Duration::from_secs(60);

async fn credentials(provider: &VaultProvider) -> Result<(String, String), Error> {
    let results = provider
        .get_many(&keys(&["db/username", "db/password"]))
        .await;
    let texts = results
        .into_iter()
        .map(|result| Ok(result?.value.expose_text()?.to_owned()));
    let texts: Vec<String> = texts.collect::<Result<_, Error>>()?;
    let [user, password] = texts.try_into().expect("two results");
    Ok((user, password))
}

#[tokio::test]
async fn lease_that_cannot_be_renewed_or_replaced_is_used_until_it_expires() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let renewals = || proxy.count("POST /v1/sys/leases/renew");
    let creations = || proxy.count(&format!("GET /v1/{}/creds/app", fixture.name));
    let first = credentials(&provider).await.unwrap();
    proxy.set(response("502 No", ""));
    advance(20 * MINUTE).await;
    assert_eq!(credentials(&provider).await.unwrap(), first);
    assert_eq!(
        (renewals(), creations()),
        (0, 1),
        "the lease is not due yet"
    );

    advance(11 * MINUTE).await;
    assert_eq!(credentials(&provider).await.unwrap(), first);
    let (failed_renewals, failed_creations) = (renewals(), creations());
    assert!(
        failed_renewals > 0 && failed_creations > 1,
        "both must be attempted"
    );
    assert_eq!(credentials(&provider).await.unwrap(), first);
    assert_eq!(
        (renewals(), creations()),
        (failed_renewals, failed_creations),
        "back off"
    );

    // The lease has expired by this clock, but not by the server's.
    advance(29 * MINUTE).await;
    let error = credentials(&provider).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    proxy.set(Fault::None);
    assert_ne!(credentials(&provider).await.unwrap().0, first.0);
    assert_eq!(
        renewals(),
        failed_renewals,
        "an expired lease is never renewed"
    );
}

/// The resolver subtracts the duration of the call.
#[tokio::test]
async fn lifetime_counts_from_the_start_of_the_call() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let created = format!("GET /v1/{}/creds/app", fixture.name);
    proxy.set_for(&created, Fault::Delay(Duration::from_millis(200)));
    let lifetime = async || provider.get(&key("db/password")).await.unwrap().valid_for;
    assert_eq!(lifetime().await, Some(60 * MINUTE));
    advance(20 * MINUTE).await;
    assert!((39 * MINUTE..=40 * MINUTE).contains(&lifetime().await.unwrap()));
    advance(20 * MINUTE).await;
    assert_eq!(lifetime().await, Some(60 * MINUTE), "it is renewed");
    assert_eq!(proxy.count(&created), 1);
}

#[tokio::test]
async fn suspension_of_the_machine_counts_towards_the_lease() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let resolver = Resolver::new(provider.clone());
    let user = async || resolver.get("db/username").await.map(|user| user.value);
    let lifetime = async || provider.get(&key("db/password")).await.unwrap().valid_for;
    let first = user().await.unwrap();
    suspend(20 * MINUTE);
    assert!((39 * MINUTE..=40 * MINUTE).contains(&lifetime().await.unwrap()));
    suspend(20 * MINUTE);
    assert_eq!(lifetime().await, Some(60 * MINUTE), "it is renewed");
    assert_eq!(user().await.unwrap(), first);
    // The server's clock has not advanced, so it would still accept the lease.
    proxy.set(response("502 No", ""));
    suspend(61 * MINUTE);
    credentials(&provider).await.unwrap_err();
    user().await.unwrap_err();
    proxy.set(Fault::None);
    let second = credentials(&provider).await.unwrap();
    assert_ne!(first.expose_text().unwrap(), second.0);
}

#[tokio::test]
async fn due_lease_is_renewed_once_for_all_readers_and_replaced_if_it_cannot_be_renewed() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let counts = || {
        let created = format!("GET /v1/{}/creds/app", fixture.name);
        (
            proxy.count("POST /v1/sys/leases/renew"),
            proxy.count(&created),
        )
    };
    let read_by_all = async || {
        let mut readers = JoinSet::new();
        for _ in 0..50 {
            let provider = provider.clone();
            readers.spawn(async move { credentials(&provider).await.unwrap() });
        }
        let mut read = readers.join_all().await;
        read.dedup();
        assert_eq!(read.len(), 1, "all readers have the same credential");
        read.remove(0)
    };
    let first = read_by_all().await;
    assert_eq!(counts(), (0, 1));
    // Each renewal extends the lease to an hour.
    for renewals in 1..=3 {
        advance(31 * MINUTE).await;
        assert_eq!(read_by_all().await, first);
        assert_eq!(read_by_all().await, first);
        assert_eq!(counts(), (renewals, 1));
    }
    assert!(fixture.accepts(&first).await);

    // A revoked lease cannot be renewed.
    let prefix = format!("sys/leases/revoke-prefix/{}/creds/app", fixture.name);
    fixture
        .bao
        .root("POST", &prefix, json!({"sync": true}))
        .await;
    advance(31 * MINUTE).await;
    let second = read_by_all().await;
    assert_ne!(second, first);
    assert_eq!(counts(), (4, 2));
    assert!(fixture.accepts(&second).await);
}

#[tokio::test]
async fn lease_is_replaced_in_the_same_read_if_its_renewal_hangs() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let first = credentials(&provider).await.unwrap();
    proxy.set_for("POST /v1/sys/leases/renew", Fault::Stall);
    advance(31 * MINUTE).await;
    let second = credentials(&provider).await.unwrap();
    assert_ne!(second.0, first.0);
    assert_eq!(credentials(&provider).await.unwrap(), second);
    assert_eq!(proxy.count("POST /v1/sys/leases/renew"), 1);
    assert_eq!(fixture.leases().await, 2);
}

#[tokio::test]
async fn created_lease_is_kept_if_the_lookup_of_its_token_hangs() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let policies = json!({"policies": [fixture.name]});
    let token = fixture.bao.root("POST", "auth/token/create", policies);
    let token = token.await["auth"]["client_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let auth = VaultAuth::token(Credential::value(token));
    let builder = VaultProvider::builder([format!("http://{}", proxy.address())], auth);
    let builder = builder.unwrap().client(|client| client.deadline(secs(1)));
    let path = format!("{}/creds/app", fixture.name);
    let provider = builder.kv_version(KvVersion::V2).dynamic("db", path);
    let provider = provider.build().unwrap();
    proxy.set_for("GET /v1/auth/token/lookup-self", Fault::Stall);
    let first = credentials(&provider).await.unwrap();
    assert_eq!(credentials(&provider).await.unwrap(), first);
    assert_eq!(fixture.leases().await, 1);
}

#[tokio::test]
async fn discarded_lease_is_replaced_but_not_revoked() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let provider = fixture.provider(json!({})).await;
    let (user, password) = (key("db/username"), key("db/password"));
    let first = credentials(&provider).await.unwrap();
    provider.discard(&user, None);
    let second = credentials(&provider).await.unwrap();
    assert_ne!(second.0, first.0);
    assert!(fixture.accepts(&first).await && fixture.accepts(&second).await);

    // These discards concern another value, another key or another secret.
    provider.discard(&user, Some(&first.0.as_str().into()));
    provider.discard(&password, Some(&first.1.as_str().into()));
    provider.discard(&password, Some(&second.0.as_str().into()));
    provider.discard(&key("db/nothing"), Some(&second.0.as_str().into()));
    provider.discard(&key("other/username"), None);
    provider.discard(&key("username"), Some(&second.0.as_str().into()));
    assert_eq!(credentials(&provider).await.unwrap(), second);

    provider.discard(&password, Some(&second.1.as_str().into()));
    let third = credentials(&provider).await.unwrap();
    assert_ne!(third.0, second.0);
    assert_eq!(fixture.leases().await, 3);
}

#[tokio::test]
async fn discard_during_a_request_drops_the_old_secret_but_not_the_new_one() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let provider = fixture.provider_at(proxy.address(), json!({})).await;
    let creation = format!("GET /v1/{}/creds/app", fixture.name);
    let renewal = "POST /v1/sys/leases/renew";
    // Runs a read and discards `rejected` while the first request that starts with `line` is under way.
    let read_and_discard = async |line: &str, rejected: Option<&str>| {
        let before = proxy.count(line);
        let discard = async {
            while proxy.count(line) == before {
                tokio::task::yield_now().await;
            }
            provider.discard(&key("db/username"), rejected.map(Into::into).as_ref());
        };
        tokio::join!(credentials(&provider), discard).0
    };

    let first = read_and_discard(&creation, None).await.unwrap();
    assert_eq!(credentials(&provider).await.unwrap(), first);
    assert_eq!(proxy.count(&creation), 1, "the new secret is kept");

    advance(31 * MINUTE).await;
    let second = read_and_discard(renewal, Some(&first.0)).await.unwrap();
    assert_ne!(
        second.0, first.0,
        "a renewal does not restore a discarded lease"
    );
    assert_eq!(credentials(&provider).await.unwrap(), second);

    advance(31 * MINUTE).await;
    proxy.set(response("502 No", ""));
    let error = read_and_discard(&creation, Some(&second.0))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    proxy.set(Fault::None);
    assert_ne!(credentials(&provider).await.unwrap().0, second.0);
}

#[tokio::test]
async fn discard_bypasses_the_cache_of_an_agent() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let agent = fixture.agent().await;
    let provider = || {
        VaultProvider::builder([format!("http://{}", agent.address())], VaultAuth::agent())
            .unwrap()
            .kv_version(KvVersion::V2)
            .dynamic("db", format!("{}/creds/app", fixture.name))
            .build()
            .unwrap()
    };
    let (one, other) = (provider(), provider());
    let first = credentials(&one).await.unwrap();
    assert_eq!(
        credentials(&other).await.unwrap(),
        first,
        "the agent caches"
    );
    one.discard(&key("db/username"), Some(&first.0.as_str().into()));
    let second = credentials(&one).await.unwrap();
    assert_ne!(second.0, first.0);
    other.discard(&key("db/username"), None);
    let third = credentials(&other).await.unwrap();
    assert!(third.0 != first.0 && third.0 != second.0);
    // A later request for a new lease does not get the discarded one.
    advance(61 * MINUTE).await;
    assert_eq!(credentials(&one).await.unwrap(), second);
}

#[tokio::test]
async fn resolver_replaces_a_revoked_credential_after_a_report() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let provider = fixture.provider(json!({})).await;
    let resolver = Resolver::new(provider);
    let first = resolver.get("db/username").await.unwrap();
    let prefix = format!("sys/leases/revoke-prefix/{}/creds/app", fixture.name);
    fixture
        .bao
        .root("POST", &prefix, json!({"sync": true}))
        .await;
    let second = resolver
        .report_rejected("db/username", &first.value)
        .await
        .unwrap();
    assert_ne!(second.value, first.value);
    assert_eq!(fixture.leases().await, 1);
    // A second report about the first credential does not create a third one.
    let again = resolver
        .report_rejected("db/username", &first.value)
        .await
        .unwrap();
    assert_eq!(again.value, second.value);
    assert_eq!(fixture.leases().await, 1);
}

#[tokio::test]
async fn static_role_is_read_again_because_it_can_be_rotated_early() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let user = unique("app");
    let user = user.replace('-', "_");
    fixture.static_role(&user).await;
    let proxy = FaultProxy::start(fixture.bao.address).await;
    let path = format!("{}/static-creds/{user}", fixture.name);
    let token = VaultAuth::token(Credential::value(fixture.bao.root_token()));
    let provider = VaultProvider::builder([format!("http://{}", proxy.address())], token)
        .unwrap()
        .kv_version(KvVersion::V2)
        .dynamic("db", &path)
        .build()
        .unwrap();
    let reads = || proxy.count(&format!("GET /v1/{path}"));
    let first = credentials(&provider).await.unwrap();
    let rotate = format!("{}/rotate-role/{user}", fixture.name);
    fixture.bao.root("POST", &rotate, json!({})).await;
    let second = credentials(&provider).await.unwrap();
    assert_ne!(second.1, first.1);
    let current = fixture.bao.root("GET", &path, Value::Null).await;
    assert_eq!(current["data"]["password"], second.1.as_str());
    assert_eq!(reads(), 2, "the keys of one read share a request");

    let lifetime = provider.get(&key("db/password")).await.unwrap().valid_for;
    assert!(
        lifetime.is_some_and(|lifetime| lifetime <= 60 * MINUTE),
        "{lifetime:?}"
    );
    // Reads that wait for a request share its successor.
    let before = reads();
    let many = (0..50).map(|_| credentials(&provider));
    for result in secretwell::backend::join_bounded(50, many).await {
        assert_eq!(result.unwrap(), second);
    }
    assert_eq!(reads(), before + 2);
    // A failed read is reported, because the resolver caches the value.
    proxy.set(response("502 No", ""));
    let error = credentials(&provider).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn concurrent_reads_share_one_lease_and_it_can_be_revoked() {
    let fixture = Fixture::new(json!({"default_ttl": "1h"})).await;
    let provider = fixture.provider(json!({})).await;
    let mut readers = JoinSet::new();
    for _ in 0..50 {
        let provider = provider.clone();
        readers.spawn(async move {
            let results = provider
                .get_many(&[key("db/username"), key("db/password")])
                .await;
            let text = |secret: &secretwell::Secret| secret.value.expose_text().unwrap().to_owned();
            let [user, password] = &results[..] else {
                panic!("expected two results")
            };
            let user = user.as_ref().unwrap();
            assert!(
                user.valid_for
                    .is_some_and(|lifetime| lifetime > secs(2_000))
            );
            (text(user), text(password.as_ref().unwrap()))
        });
    }
    let credentials = readers.join_all().await;
    assert!(credentials.iter().all(|pair| *pair == credentials[0]));
    assert_eq!(fixture.leases().await, 1);
    let (user, password) = &credentials[0];
    let pool = fixture.postgres.pool(user, password);
    pool.get()
        .await
        .unwrap()
        .query_one("SELECT 1", &[])
        .await
        .unwrap();

    provider.revoke_leases().await.unwrap();
    for _ in 0..1_200 {
        if fixture.leases().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(fixture.postgres.pool(user, password).get().await.is_err());
    let replacement = provider.get(&key("db/username")).await.unwrap();
    assert_ne!(replacement.value.expose_text().unwrap(), user);
    assert!(
        provider
            .get(&key("db/nothing"))
            .await
            .unwrap_err()
            .is_not_found()
    );
}
