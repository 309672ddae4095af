//! The events that are logged about a key. They are collected under the lock and logged after it, because a
//! log subscriber might read a secret.

use std::time::Duration;

use secretwell_core::{Error, Origin, SecretKey, Version};

/// Something that is logged about a key.
#[derive(Debug)]
pub(crate) enum Event {
    /// The source does not have the key, and the next source is read.
    PassedOn {
        key: SecretKey,
        origin: Origin,
    },
    /// The source had a value of the key, but does not have it any more, and the next source is read.
    SourceLost {
        key: SecretKey,
        origin: Origin,
    },
    Failed {
        key: SecretKey,
        error: Error,
    },
    Recovered {
        key: SecretKey,
        origin: Origin,
        lasted: Duration,
    },
    Purged {
        key: SecretKey,
        error: Error,
    },
    OlderVersionAccepted {
        key: SecretKey,
        origin: Origin,
        version: Version,
    },
}

/// Logs `events`. Must be called without a lock.
pub(crate) fn log(events: Vec<Event>) {
    for event in events {
        match event {
            Event::PassedOn { key, origin } => {
                tracing::debug!(target: "secretwell::resolver", event = "secret_passed_on", %key, %origin, "the source does not have the secret, so the next source is read");
            }
            Event::SourceLost { key, origin } => {
                tracing::warn!(target: "secretwell::resolver", event = "secret_source_lost", %key, %origin, "the source does not have the secret any more, so the next source is read");
            }
            Event::Failed { key, error } => {
                tracing::warn!(target: "secretwell::resolver", event = "secret_failed", %key, %error, temporary = error.is_temporary(), "the secret cannot be read");
            }
            Event::Recovered {
                key,
                origin,
                lasted,
            } => {
                let lasted_ms = lasted.as_millis();
                tracing::info!(target: "secretwell::resolver", event = "secret_recovered", %key, %origin, lasted_ms, "the secret can be read again");
            }
            Event::Purged { key, error } => {
                tracing::warn!(target: "secretwell::resolver", event = "secret_purged", %key, %error, "the cached value was purged because the source refused it");
            }
            Event::OlderVersionAccepted {
                key,
                origin,
                version,
            } => {
                tracing::warn!(target: "secretwell::resolver", event = "older_version_accepted", %key, %origin, %version, "the source confirmed an older version, which is accepted");
            }
        }
    }
}
