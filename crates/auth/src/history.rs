//! Earlier secrets, from a source that remembers them: so that a restart in the middle of a rotation logs
//! nobody out.

use std::time::{Duration, SystemTime};

use secretwell_core::{Resolved, Resolver, SecretKey, SecretValue, Version};

use crate::ring::Pace;

/// How many earlier secrets of a key are looked up at most.
const MOST: usize = 4;

/// What a source remembers of a key's rotation.
#[derive(Debug)]
pub(crate) struct History {
    /// How long the current secret only verifies from now on.
    pub(crate) wait: Duration,
    /// The earlier ones, the newest first.
    pub(crate) earlier: Vec<Earlier>,
}

/// A secret that was replaced.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) value: SecretValue,
    /// What is left of its grace.
    pub(crate) left: Duration,
    /// Whether it has ever signed: it was there for the activation delay, or before all others.
    pub(crate) was_active: bool,
}

/// Looks up the earlier secrets of `key` whose grace is not over. That costs nothing when the current one
/// is older than that, or the source does not tell its age.
pub(crate) async fn recall(
    resolver: &Resolver,
    key: &SecretKey,
    current: &Resolved,
    pace: Pace,
) -> Option<History> {
    let provider = resolver.provider();
    if !provider.capabilities().old_versions {
        return None;
    }
    let mut version = current.version.clone()?;
    let overlap = pace.activation_delay.saturating_add(pace.grace);
    let mut history = History {
        wait: pace.activation_delay.saturating_sub(age(&version)?),
        earlier: Vec::new(),
    };
    while history.earlier.len() < MOST {
        let replaced = age(&version);
        let Some(left) = replaced.and_then(|age| overlap.checked_sub(age)) else {
            break;
        };
        let Some(number) = version.number().filter(|number| *number > 1) else {
            break;
        };
        version = Version::numbered(number - 1);
        match provider.get_version(key, &version).await {
            Ok(secret) => {
                version = secret.version.unwrap_or(version);
                let lived = age(&version).zip(replaced);
                let known = history.earlier.iter().any(|it| it.value == secret.value);
                if !secret.value.is_blank() && secret.value != current.value && !known {
                    history.earlier.push(Earlier {
                        value: secret.value,
                        left,
                        was_active: lived.is_none_or(|(age, replaced)| {
                            age.saturating_sub(replaced) >= pace.activation_delay
                        }),
                    });
                }
            }
            Err(error) if error.is_not_found() => break,
            Err(error) => {
                tracing::warn!(%key, %version, %error, "an earlier secret cannot be read");
                break;
            }
        }
    }
    history.earlier.last_mut()?.was_active = true;
    Some(history)
}

/// How long ago a version was written; one of the future was written just now.
fn age(version: &Version) -> Option<Duration> {
    let age = SystemTime::now().duration_since(version.created_at()?);
    Some(age.unwrap_or_default())
}
