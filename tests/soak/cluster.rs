//! The events of OpenBao: a raft cluster of three servers, each behind a proxy, with a database.

use std::sync::Arc;
use std::time::Duration;

use secretwell_testkit::{Fault, FaultProxy, gateway_responses};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::observed::{Marks, PASSWORD_LETTERS, Process, Traffic};
use super::schedule::{Event, Schedule};
use super::{Kinds, Source};
use crate::support::secs;
use crate::vault::database::Postgres;
use crate::vault::server::Bao;

const SNAPSHOT: &str = "sys/storage/raft/snapshot";

pub(super) struct Cluster {
    servers: [Bao; 3],
    proxies: Arc<Vec<FaultProxy>>,
    pub(super) postgres: Postgres,
    role_id: String,
    secret_id: String,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    KillLeader,
    StopLeader,
    SealLeader,
    StepDown,
    /// The standbys are stopped.
    LoseQuorum,
    /// The connections to all servers are closed.
    Cut,
    /// The connections to all servers, or to one of them, are silent.
    Freeze,
    FreezeOne,
    Slow,
    /// Another program responds in the place of all servers.
    Gateway,
    RevokeTokens,
    /// The leases of the database are revoked.
    RevokeLeases,
    Rotate,
    RotateTwice,
    Weak,
    Revoke,
    /// A snapshot from before the last rotation is restored, and then the secret is rotated.
    Restore,
}

const KINDS: &[Kind] = &[
    Kind::KillLeader,
    Kind::StopLeader,
    Kind::SealLeader,
    Kind::StepDown,
    Kind::LoseQuorum,
    Kind::Cut,
    Kind::Freeze,
    Kind::FreezeOne,
    Kind::Slow,
    Kind::Gateway,
    Kind::RevokeTokens,
    Kind::RevokeLeases,
    Kind::Rotate,
    Kind::RotateTwice,
    Kind::Weak,
    Kind::Revoke,
    Kind::Restore,
];

impl Cluster {
    pub(super) async fn start(marks: &Marks) -> Self {
        let servers = Bao::cluster().await;
        let mut proxies = Vec::new();
        for server in &servers {
            proxies.push(FaultProxy::start(server.address).await);
        }
        let postgres = Postgres::start();
        let active = &servers[0];
        active.mount("secret", 2).await;
        let root = async |path: &str, body| active.root("POST", path, body).await;
        let letters = format!("rule \"charset\" {{ charset = \"{PASSWORD_LETTERS}\" }}");
        let policy = json!({"policy": format!("length = 40\n{letters}")});
        root("sys/policies/password/soak", policy).await;
        root("sys/mounts/database", json!({"type": "database"})).await;
        let host = postgres.socket.display();
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@/postgres?host={host}"),
            "username": "postgres",
            "password": "",
            "password_policy": "soak",
        });
        root("database/config/pg", connection).await;
        let create = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';";
        let role = json!({
            "db_name": "pg",
            "creation_statements": [create],
            "default_ttl": "40s",
            "max_ttl": "80s",
        });
        root("database/roles/app", role).await;
        let rules = r#"
            path "secret/*" { capabilities = ["read", "list"] }
            path "database/creds/app" { capabilities = ["read"] }
            path "sys/leases/renew" { capabilities = ["update"] }
            path "sys/leases/revoke" { capabilities = ["update"] }
        "#;
        active.policy("app", rules).await;
        root("sys/auth/approle", json!({"type": "approle"})).await;
        let role = json!({"token_policies": ["app"], "token_ttl": "60s", "token_max_ttl": "120s"});
        root("auth/approle/role/app", role).await;
        let path = "auth/approle/role/app/role-id";
        let role_id = active.root("GET", path, Value::Null).await;
        let secret_id = root("auth/approle/role/app/secret-id", json!({})).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let secret_id = text(&secret_id["data"]["secret_id"]);
        marks.add(&secret_id);
        Self {
            proxies: Arc::new(proxies),
            postgres,
            role_id: text(&role_id["data"]["role_id"]),
            secret_id,
            servers,
        }
    }

    pub(super) fn config(&self) -> Value {
        let address = |proxy: &FaultProxy| format!("http://{}", proxy.address());
        json!({
            "addresses": self.proxies.iter().map(address).collect::<Vec<_>>(),
            "role_id": self.role_id,
            "secret_id": self.secret_id,
        })
    }

    /// Returns the process id of PostgreSQL.
    pub(super) fn postgres_id(&self) -> String {
        let file = self.postgres.socket.join("postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().next().unwrap().to_owned()
    }

    pub(super) fn traffic(&self) -> Traffic {
        let proxies = self.proxies.clone();
        let count = move |start| proxies.iter().map(|proxy| proxy.count(start)).sum();
        Traffic {
            name: "openbao",
            servers: self.proxies.len(),
            count: Box::new(move || {
                let logins = count("POST /v1/auth/approle/login");
                (logins, count("GET /v1/secret/data/app"))
            }),
        }
    }

    pub(super) async fn write_first(&self, source: &Source) {
        self.write(source, &source.soak.marks.strong(), true).await;
    }

    async fn rotate(&self, source: &Source) {
        self.write(source, &source.soak.marks.strong(), true).await;
    }

    async fn write(&self, source: &Source, text: &str, is_strong: bool) {
        source.truth().begin(Some(text), is_strong);
        let secret = json!({"data": {"AUTH_SECRET": text}});
        self.root("POST", "secret/data/app", secret).await;
        source.truth().complete();
    }

    /// Sends a request as root to one server after the other, until it succeeds.
    async fn root(&self, method: &str, path: &str, body: Value) -> Value {
        for _ in 0..300 {
            for server in &self.servers {
                let request = server.try_request(server.root_token(), method, path, body.clone());
                if let Ok(Some((status, response))) = timeout(secs(3), request).await
                    && status.is_success()
                {
                    return response;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{method} {path} does not succeed")
    }

    async fn leader(&self) -> usize {
        for _ in 0..1_200 {
            for (index, server) in self.servers.iter().enumerate() {
                if server.is_active().await {
                    return index;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the cluster has no leader")
    }

    pub(super) async fn run(
        &mut self,
        source: &Source,
        process: &Process,
        mut schedule: Schedule,
    ) -> Kinds {
        while !source.soak.is_over() {
            let event = schedule.next(KINDS);
            tokio::time::sleep(event.pause).await;
            source.log(format_args!("{:?} for {:?}", event.kind, event.length));
            match event.kind {
                Kind::Rotate => self.rotate(source).await,
                Kind::RotateTwice => {
                    self.rotate(source).await;
                    tokio::time::sleep(event.pause / 4).await;
                    self.rotate(source).await;
                }
                Kind::Weak => {
                    let weak = source.soak.marks.weak();
                    self.write(source, &weak, false).await;
                    source.recovered().await;
                    tokio::time::sleep(event.length).await;
                    self.rotate(source).await;
                }
                Kind::Revoke => {
                    self.rotate(source).await;
                    source.recovered().await;
                    source.revoke(process).await;
                }
                _ => {
                    source.disturbed(self.fault(event, source)).await;
                    continue;
                }
            }
            source.recovered().await;
        }
        schedule.counts(source.name, KINDS)
    }

    /// Runs an event that makes the cluster unavailable, for its length or until it has a leader again.
    async fn fault(&mut self, event: Event<Kind>, source: &Source) {
        let leader = self.leader().await;
        let rest = |servers: &[Bao; 3], signal: &str| {
            servers[(leader + 1) % 3].signal(signal);
            servers[(leader + 2) % 3].signal(signal);
        };
        match event.kind {
            Kind::KillLeader => {
                self.servers[leader].signal("KILL");
                self.during(event, source).await;
                self.servers[leader].restart().await;
            }
            Kind::StopLeader => {
                self.servers[leader].signal("STOP");
                self.during(event, source).await;
                self.servers[leader].signal("CONT");
            }
            Kind::SealLeader => {
                self.servers[leader]
                    .root("PUT", "sys/seal", Value::Null)
                    .await;
                self.during(event, source).await;
                self.servers[leader].join().await;
            }
            Kind::StepDown => {
                self.root("PUT", "sys/step-down", Value::Null).await;
            }
            Kind::LoseQuorum => {
                rest(&self.servers, "STOP");
                tokio::time::sleep(event.length).await;
                rest(&self.servers, "CONT");
            }
            Kind::RevokeTokens => {
                let path = "sys/leases/revoke-prefix/auth/approle/login";
                self.root("POST", path, json!({"sync": true})).await;
            }
            Kind::RevokeLeases => {
                let path = "sys/leases/revoke-prefix/database/creds/app";
                self.root("POST", path, json!({"sync": true})).await;
            }
            Kind::Restore => self.restore(source).await,
            _ => self.network(event, source).await,
        }
        self.leader().await;
    }

    /// Waits, and rotates meanwhile in some variants of the event.
    async fn during(&self, event: Event<Kind>, source: &Source) {
        tokio::time::sleep(event.length / 2).await;
        if event.variant.is_multiple_of(3) {
            self.rotate(source).await;
        }
        tokio::time::sleep(event.length / 2).await;
    }

    /// Runs a fault of the network.
    async fn network(&self, event: Event<Kind>, source: &Source) {
        let fault = match event.kind {
            Kind::Cut if event.variant.is_multiple_of(2) => Fault::Close,
            Kind::Cut => Fault::Reset,
            Kind::Slow => Fault::Delay(Duration::from_millis(700)),
            Kind::Gateway => {
                let responses = gateway_responses();
                let response = responses[event.variant % responses.len()].clone();
                source.log(response.name);
                Fault::Foreign(response)
            }
            _ => Fault::Stall,
        };
        let all = 0..self.proxies.len();
        let some = match event.kind {
            Kind::FreezeOne => event.variant % 3..event.variant % 3 + 1,
            _ => all.clone(),
        };
        for proxy in &self.proxies[some] {
            proxy.set(fault.clone());
        }
        self.during(event, source).await;
        for proxy in &self.proxies[all] {
            proxy.set(Fault::None);
        }
    }

    /// Restores a snapshot from before a rotation. The service keeps the newer secret until it is rotated again.
    async fn restore(&mut self, source: &Source) {
        let snapshot = self.snapshot(None).await;
        self.rotate(source).await;
        source.recovered().await;
        self.snapshot(Some(snapshot)).await;
        source.log("restored");
        self.leader().await;
        tokio::time::sleep(secs(5)).await;
        self.rotate(source).await;
        self.repair().await;
    }

    /// Restarts all servers, and waits until each of them can forward requests to the active one. After a restore, the
    /// servers of OpenBao 2.7 cannot open connections to each other ("tls: internal error"), so that no other one becomes
    /// active.
    async fn repair(&mut self) {
        for server in &mut self.servers {
            server.signal("KILL");
            server.restart().await;
        }
        for _ in 0..120 {
            if self.forwards().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("the cluster was not repaired");
    }

    /// Returns whether each server accepts a write, which only the active one can do itself.
    async fn forwards(&self) -> bool {
        for server in &self.servers {
            let (method, path, body) = ("POST", "secret/data/probe", json!({"data": {}}));
            let write = server.try_request(server.root_token(), method, path, body);
            let response = timeout(secs(3), write).await.ok().flatten();
            if !response.is_some_and(|(status, _)| status.is_success()) {
                return false;
            }
        }
        true
    }

    /// Returns a snapshot, or restores one.
    async fn snapshot(&self, snapshot: Option<Vec<u8>>) -> Vec<u8> {
        let client = reqwest::Client::new();
        for _ in 0..30 {
            let server = &self.servers[self.leader().await];
            let url = format!("http://{}/v1/{SNAPSHOT}", server.address);
            let request = match &snapshot {
                None => client.get(url),
                Some(snapshot) => client.post(url).body(snapshot.clone()),
            };
            let request = request.header("x-vault-token", server.root_token());
            if let Ok(response) = request.timeout(secs(20)).send().await
                && response.status().is_success()
                && let Ok(bytes) = response.bytes().await
            {
                return bytes.into();
            }
            tokio::time::sleep(secs(1)).await;
        }
        panic!("the snapshot does not succeed")
    }
}
