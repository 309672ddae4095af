//! The events of Infisical: a fake server of each personality, behind a proxy.

use std::sync::Arc;
use std::time::Duration;

use secretwell_testkit::infisical::{FakeIdentity, FakeInfisical, Identity, Personality, Role};
use secretwell_testkit::{Fault, FaultProxy, gateway_responses};
use serde_json::{Value, json};

use super::observed::{Marks, Process, Traffic};
use super::schedule::{Event, Schedule};
use super::{Kinds, Source};
use crate::support::secs;

const KEY: &str = "AUTH_SECRET";
const PLACE: (&str, &str) = ("prod", "/app");

/// The time for which the server does not allow further reads after its rate limit.
const RATE_WINDOW: Duration = secs(60);

/// A fake server with one secret.
pub(super) struct Server {
    name: &'static str,
    fake: Arc<FakeInfisical>,
    proxy: Arc<FaultProxy>,
    project: String,
    identity: FakeIdentity,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The connections are closed.
    Cut,
    /// The connections are silent.
    Freeze,
    Slow,
    /// Another program responds.
    Gateway,
    ServerError,
    RateLimit,
    RevokeTokens,
    Rotate,
    RotateTwice,
    Weak,
    Revoke,
    /// The last one, because a chain continues with its next source.
    Absent,
}

const KINDS: &[Kind] = &[
    Kind::Cut,
    Kind::Freeze,
    Kind::Slow,
    Kind::Gateway,
    Kind::ServerError,
    Kind::RateLimit,
    Kind::RevokeTokens,
    Kind::Rotate,
    Kind::RotateTwice,
    Kind::Weak,
    Kind::Revoke,
    Kind::Absent,
];

impl Server {
    pub(super) async fn start_both(marks: &Marks) -> (Self, Self) {
        let newest = Self::start("infisical", Personality::Newest, marks).await;
        let older = Self::start("infisical-2024", Personality::October2024, marks).await;
        (newest, older)
    }

    async fn start(name: &'static str, personality: Personality, marks: &Marks) -> Self {
        let fake = FakeInfisical::start_as(personality).await;
        let project = fake.project("shop");
        fake.environment(&project, PLACE.0);
        let identity = Identity::new().member(&project, Role::Viewer);
        let identity = identity.token_ttl(secs(60)).token_max_ttl(secs(120));
        let identity = fake.identity(identity);
        marks.add(&identity.client_secret);
        let proxy = FaultProxy::start(fake.address()).await;
        Self {
            name,
            fake: Arc::new(fake),
            proxy: Arc::new(proxy),
            project,
            identity,
        }
    }

    pub(super) fn config(&self, has_fallback: bool) -> Value {
        json!({
            "url": format!("http://{}", self.proxy.address()),
            "project": self.project,
            "environment": PLACE.0,
            "folder": PLACE.1,
            "client_id": self.identity.client_id,
            "client_secret": self.identity.client_secret,
            "has_fallback": has_fallback,
        })
    }

    pub(super) fn traffic(&self) -> Traffic {
        let proxy = self.proxy.clone();
        Traffic {
            name: self.name,
            servers: 1,
            count: Box::new(move || {
                let logins = proxy.count("POST /api/v1/auth");
                (logins, proxy.count("GET /api/v"))
            }),
        }
    }

    pub(super) fn write_first(&self, source: &Source) {
        self.write(source);
    }

    fn write(&self, source: &Source) {
        source.write(&source.soak.marks.strong(), true, |text| self.set(text));
    }

    fn set(&self, text: &str) {
        self.fake.set(&self.project, PLACE.0, PLACE.1, KEY, text);
    }

    pub(super) async fn run(
        &self,
        source: &Source,
        process: &Process,
        mut schedule: Schedule,
        has_fallback: bool,
    ) -> Kinds {
        let kinds = &KINDS[..KINDS.len() - usize::from(has_fallback)];
        while !source.soak.is_over() {
            let event = schedule.next(kinds);
            tokio::time::sleep(event.pause).await;
            source.log(format_args!("{:?} for {:?}", event.kind, event.length));
            if self.is_fault(event, source).await {
                continue;
            }
            match event.kind {
                Kind::RotateTwice => {
                    self.write(source);
                    tokio::time::sleep(event.pause / 4).await;
                }
                Kind::Weak => {
                    let weak = source.soak.marks.weak();
                    source.write(&weak, false, |text| self.set(text));
                    source.recovered().await;
                    tokio::time::sleep(event.length).await;
                }
                Kind::Absent => {
                    let (environment, folder) = PLACE;
                    source.remove(|| self.fake.remove(&self.project, environment, folder, KEY));
                    source.recovered().await;
                    tokio::time::sleep(event.length).await;
                }
                _ => {}
            }
            self.write(source);
            source.recovered().await;
            if let Kind::Revoke = event.kind {
                source.revoke(process).await;
            }
        }
        schedule.counts(source.name, kinds)
    }

    /// Runs an event that makes the server unavailable. Returns whether it is one.
    async fn is_fault(&self, event: Event<Kind>, source: &Source) -> bool {
        let gateways = gateway_responses();
        let fault = match event.kind {
            Kind::Cut if event.variant.is_multiple_of(2) => Fault::Close,
            Kind::Cut => Fault::Reset,
            Kind::Freeze => Fault::Stall,
            Kind::Slow => Fault::Delay(Duration::from_millis(1_500)),
            Kind::Gateway => {
                let response = gateways[event.variant % gateways.len()].clone();
                source.log(response.name);
                Fault::Foreign(response)
            }
            Kind::ServerError | Kind::RateLimit | Kind::RevokeTokens => Fault::None,
            _ => return false,
        };
        let run = async {
            self.proxy.set(fault);
            match event.kind {
                Kind::ServerError => {
                    let text = "the database is down";
                    self.fake
                        .fail_requests("", 500, "InternalServerError", text);
                }
                Kind::RateLimit => self.fake.rate_limit(Some(5)),
                Kind::RevokeTokens => return self.fake.revoke_tokens(),
                _ => {}
            }
            let length = match event.kind {
                Kind::RateLimit => RATE_WINDOW,
                _ => event.length,
            };
            tokio::time::sleep(length / 2).await;
            // The service cannot notice this rotation yet.
            if event.variant.is_multiple_of(3) {
                self.write(source);
            }
            tokio::time::sleep(length / 2).await;
            self.proxy.set(Fault::None);
            self.fake.clear_failures();
            self.fake.rate_limit(None);
        };
        source.disturbed(run).await;
        true
    }
}
