//! A service for the alert rules.

use std::sync::Arc;
use std::time::Duration;

use secretwell::auth::{BuildError, LazyAuth, Mode};
use secretwell::backend::{Change, ChangeSender};
use secretwell::infisical::ApiVersion;
use secretwell::{Error, ErrorKind, MemoryProvider, Origin, Resolver};
use secretwell_testkit::infisical::Identity;
use secretwell_testkit::{Action, Canary, FaultyProvider};
use tokio::runtime::{Builder, Runtime};

use crate::infisical::place::Place;
use crate::operations::{Custom, Remote, Secrets};
use crate::support::{denied, down, faulty_source, key, pass, secs, settle, text};

/// The metrics are reported within this time.
const REPORTED: Duration = secs(6);
const LEASE: Duration = secs(1000);

/// A service with four sources. Its metrics are recorded by the recorder of this thread.
pub(super) struct Service {
    /// Runs what needs only time. The clock stands still between two calls.
    clock: Runtime,
    /// Runs the reads of `remote`, which needs sockets and thus the real time.
    real: Runtime,
    local: Local,
    remote: Option<(Remote, Resolver)>,
}

struct Local {
    memory: FaultyProvider<MemoryProvider>,
    resolver: Resolver,
    sessions: LazyAuth<()>,
    policies: FaultyProvider<MemoryProvider>,
    refused: Resolver,
    unready: LazyAuth<()>,
    database: Arc<FaultyProvider<Custom>>,
    leases: Resolver,
    changes: ChangeSender,
}

impl Service {
    pub(super) fn start() -> Self {
        let clock = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let real = Builder::new_current_thread().enable_all().build().unwrap();
        let local = clock.block_on(Local::start());
        let remote = real.block_on(async {
            let remote = Remote::new().await;
            let resolver = Resolver::new(remote.provider());
            resolver.get("AUTH_SECRET").await.unwrap();
            (remote, resolver)
        });
        Self {
            clock,
            real,
            local,
            remote: Some(remote),
        }
    }

    /// Makes further attempts to build. Prometheus computes no rate from those before it has seen their counter first.
    pub(super) fn build_again(&mut self) {
        self.clock.block_on(async {
            pass(secs(60)).await;
            self.local.unready.get().await.unwrap_err();
            pass(REPORTED).await;
        });
    }

    /// Makes the situation of each alert.
    pub(super) fn break_everything(&mut self) {
        self.clock.block_on(self.local.break_everything());
        let (old, resolver) = self.remote.take().unwrap();
        self.remote = Some(self.real.block_on(async {
            resolver.close().await;
            drop(resolver);
            settle().await;
            let wrong = Canary::new("wrong client secret");
            old.place.write_client_secret(wrong.text());
            let refused = Resolver::new(old.provider());
            refused.get("AUTH_SECRET").await.unwrap_err();
            drop(refused);
            settle().await;
            // A login that ends soon.
            let change = |identity: Identity| identity.token_ttl(secs(120));
            let place = Place::fake_with(ApiVersion::V4, change).await;
            let remote = Remote::at(place);
            let resolver = Resolver::new(remote.provider());
            resolver.get("AUTH_SECRET").await.unwrap();
            settle().await;
            (remote, resolver)
        }));
    }
}

impl Local {
    async fn start() -> Self {
        let [first, second] = ["first secret", "second secret"].map(Canary::new);
        let (secrets, memory) = faulty_source(&[("AUTH_SECRET", first.text()), ("TOKEN", "token")]);
        let resolver = Resolver::new(memory.clone());
        let sessions = auth(&resolver, "sessions");
        sessions.get().await.unwrap();
        text(&resolver, "TOKEN").await;
        // A rotation is no reason for an alert.
        secrets.set("AUTH_SECRET", second.value()).unwrap();
        sessions.rebuild().await.unwrap();

        let (_, policies) = faulty_source(&[("ALLOWED", "value")]);
        let refused = Resolver::builder(policies.clone())
            .source_names(["policies"])
            .retry_budget(10, 1)
            .build();
        text(&refused, "ALLOWED").await;
        let unready = auth(&refused, "unready");

        let custom = Custom::new(Origin::new("database", "")).with_lease(LEASE);
        let (custom, changes) = custom.with_changes();
        let database = Arc::new(FaultyProvider::new(custom));
        let leases = Resolver::new(database.clone());
        text(&leases, "DB_PASSWORD").await;
        changes.send(Change::Keys([key("DB_PASSWORD")].into()));
        pass(REPORTED).await;
        Self {
            memory,
            resolver,
            sessions,
            policies,
            refused,
            unready,
            database,
            leases,
            changes,
        }
    }

    async fn break_everything(&self) {
        // The source is down for hours, while two keys are in use.
        self.memory.always(Action::Fail(down()));
        for _ in 0..24 {
            pass(secs(300)).await;
            text(&self.resolver, "TOKEN").await;
            self.sessions.get().await.unwrap();
        }
        self.resolver.get("NEVER_CACHED").await.unwrap_err();

        for reason in ["first", "second", "third"] {
            self.changes
                .fail(Error::new(ErrorKind::Unavailable, reason));
            pass(secs(1)).await;
        }
        // A lease of the database is not renewed.
        text(&self.leases, "DB_PASSWORD").await;
        self.database.always(Action::Fail(down()));
        pass(LEASE - secs(200)).await;

        // A policy refuses many keys, which are read again and again.
        self.unready.get().await.unwrap_err();
        let invalid = Error::new(ErrorKind::Invalid, "not the content that was expected");
        self.policies.push(Action::Fail(invalid));
        self.refused.get("INVALID").await.unwrap_err();
        self.policies.always(Action::Fail(denied()));
        for _ in 0..2 {
            for number in 0..40 {
                let name = format!("REFUSED_{number}");
                self.refused.get(name.as_str()).await.unwrap_err();
            }
            pass(secs(2)).await;
        }
        pass(REPORTED).await;
    }
}

fn auth(resolver: &Resolver, name: &'static str) -> LazyAuth<()> {
    LazyAuth::builder(resolver.clone())
        .name(name)
        .mode(Mode::Production)
        .build(|_: Secrets, _| async { Ok::<_, BuildError>(()) })
}
