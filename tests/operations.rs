//! Tests of what a service reports about itself: metrics, spans and callbacks.
//!
//! | module | content |
//! | --- | --- |
//! | `metrics` | the Prometheus exposition of a service, during outages, rotations and leases |
//! | `spans` | the spans of fetches, logins and builds |
//! | `audit` | the callbacks for fetches, changes and accesses |

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use secretwell::backend::{Capabilities, ChangeSender, ChangeStream};
use secretwell::infisical::{ApiVersion, InfisicalProvider};
use secretwell::{Error, Origin, Secret, SecretKey, SecretProvider, SecretString};
use secretwell_testkit::{Canary, FaultyProvider};
use serde::Deserialize;

use crate::infisical::place::Place;

mod audit;
mod metrics;
mod spans;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the tests only build from it")]
struct Secrets {
    auth_secret: SecretString,
}

/// Returns the tokens in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A fake Infisical with one secret, whose value, folder and login must not be reported.
struct Remote {
    place: Place,
    secret: Canary,
}

impl Remote {
    async fn new() -> Self {
        let remote = Self {
            place: Place::fake(ApiVersion::V4).await,
            secret: Canary::new("secret"),
        };
        remote.set(&remote.secret);
        remote
    }

    fn set(&self, value: &Canary) {
        let Place {
            project,
            environment,
            folder,
            ..
        } = &self.place;
        let fake = self.place.as_fake();
        fake.set(project, environment, folder, "AUTH_SECRET", value.text());
    }

    /// Returns a provider whose reads can be made to fail.
    fn provider(&self) -> FaultyProvider<InfisicalProvider> {
        FaultyProvider::new(self.place.provider().build().unwrap())
    }

    fn client_secret(&self) -> Canary {
        Canary::from_text(self.place.client_secret()).with_label("client secret")
    }
}

/// A source with any origin, leases and change notifications.
#[derive(Debug)]
struct Custom {
    origin: Origin,
    lease: Option<Duration>,
    changes: Mutex<Option<ChangeStream>>,
}

impl Custom {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            lease: None,
            changes: Mutex::default(),
        }
    }

    fn with_lease(self, lease: Duration) -> Self {
        Self {
            lease: Some(lease),
            ..self
        }
    }

    fn with_changes(self) -> (Self, ChangeSender) {
        let (sender, stream) = ChangeStream::channel();
        let changes = Mutex::new(Some(stream));
        (Self { changes, ..self }, sender)
    }
}

#[async_trait]
impl SecretProvider for Custom {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn capabilities(&self) -> Capabilities {
        match self.changes.lock().unwrap().is_some() {
            true => Capabilities::none().with_watch(),
            false => Capabilities::none(),
        }
    }

    async fn get(&self, _: &SecretKey) -> Result<Secret, Error> {
        let secret = Secret::new("value");
        Ok(match self.lease {
            Some(lease) => secret.valid_for(lease),
            None => secret,
        })
    }

    fn watch(&self) -> Option<ChangeStream> {
        self.changes.lock().unwrap().take()
    }
}
