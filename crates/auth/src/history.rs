//! Previous secrets, read from the version history of a source. With them, a process that starts in
//! the middle of a rotation still accepts what the previous secrets have signed.

use std::time::{Duration, SystemTime};

use secretwell_core::{SecretKey, SecretValue, Version};
use secretwell_resolver::{Resolved, Resolver};

use crate::ring::RotationTiming;

/// Maximum number of previous secrets that are read for one key.
const MAX_PREVIOUS: usize = 4;

/// Maximum number of versions that are read for one key. A source that stores several secrets in
/// one document adds a version for all of them when one of them is written.
const MAX_VERSIONS: usize = 50;

/// The rotation state of one key, according to the version history of its source.
#[derive(Debug)]
pub(crate) struct History {
    /// Time until the current secret becomes active.
    pub(crate) activates_in: Duration,
    /// The secrets before the current one, newest first.
    pub(crate) previous: Vec<PreviousSecret>,
}

/// A secret that was replaced, and whose grace period has not ended.
#[derive(Debug)]
pub(crate) struct PreviousSecret {
    pub(crate) value: SecretValue,
    /// Time until the grace period ends.
    pub(crate) expires_in: Duration,
    /// Whether the secret might have signed. That is true if it lasted for the activation delay, or
    /// if it is the oldest known secret.
    pub(crate) was_active: bool,
}

/// Reads the previous secrets of `key` whose grace period has not ended.
///
/// Reads nothing in these cases:
/// - The source keeps no old versions.
/// - The source does not report the age of the current version.
/// - The current version is so old that all grace periods have ended.
pub(crate) async fn load_history(
    resolver: &Resolver,
    key: &SecretKey,
    current: &Resolved,
    timing: RotationTiming,
) -> Option<History> {
    let provider = resolver.provider();
    if !provider.capabilities().old_versions {
        return None;
    }
    let mut version = current.version.clone()?;
    let mut versions = vec![StoredVersion {
        value: current.value.clone(),
        age: Some(age(&version)?),
    }];
    let mut previous = 0;
    while previous < MAX_PREVIOUS && versions.len() < MAX_VERSIONS {
        if age(&version).is_none_or(|age| age > timing.overlap()) {
            break;
        }
        let Some(number) = version.number().filter(|number| *number > 1) else {
            break;
        };
        version = Version::numbered(number - 1);
        match provider.get_version(key, &version).await {
            Ok(secret) => {
                version = secret.version.unwrap_or(version);
                let differs = versions.last().is_none_or(|it| it.value != secret.value);
                previous += usize::from(differs);
                versions.push(StoredVersion {
                    value: secret.value,
                    age: age(&version),
                });
            }
            Err(error) if error.is_not_found() => break,
            Err(error) => {
                tracing::warn!(target: "secretwell::auth", event = "history_incomplete", %key, %version, %error, "cannot read a previous version of the secret; older secrets do not verify");
                break;
            }
        }
    }
    rotation_history(&versions, timing)
}

/// One version of a key in its source.
struct StoredVersion {
    value: SecretValue,
    age: Option<Duration>,
}

/// Derives the history of a key from its versions, which are ordered newest first.
///
/// Consecutive versions with an equal value are one secret. Its age is the age of the oldest of
/// them.
fn rotation_history(versions: &[StoredVersion], timing: RotationTiming) -> Option<History> {
    let mut spans = versions.chunk_by(|newer, older| newer.value == older.value);
    let age_of = |span: &[StoredVersion]| span.iter().rev().find_map(|version| version.age);
    let current = spans.next()?;
    let mut replaced_ago = age_of(current)?;
    let activates_in = timing.activation_delay.saturating_sub(replaced_ago);
    let mut previous: Vec<PreviousSecret> = Vec::new();
    for span in spans {
        let value = &span.first()?.value;
        let age = age_of(span);
        let was_active =
            age.is_none_or(|age| age.saturating_sub(replaced_ago) >= timing.activation_delay);
        if let Some(known) = previous.iter_mut().find(|known| known.value == *value) {
            known.was_active |= was_active;
        } else if !value.is_blank() && *value != current.first()?.value {
            previous.push(PreviousSecret {
                value: value.clone(),
                expires_in: timing.overlap().saturating_sub(replaced_ago),
                was_active,
            });
        }
        let Some(age) = age else { break };
        replaced_ago = age;
    }
    previous.last_mut()?.was_active = true;
    Some(History {
        activates_in,
        previous,
    })
}

/// Returns the time since a version was written, or zero if its timestamp is in the future.
fn age(version: &Version) -> Option<Duration> {
    let age = SystemTime::now().duration_since(version.created_at()?);
    Some(age.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: RotationTiming = RotationTiming {
        activation_delay: Duration::from_secs(10),
        grace_period: Duration::from_secs(100),
    };

    /// The value of a previous secret, its remaining seconds, and whether it was active.
    type Previous = (String, u64, bool);

    /// Derives the history of versions with these values and ages, both in seconds: the time until
    /// activation, and the previous secrets.
    fn history(versions: &[(&str, u64)]) -> Option<(u64, Vec<Previous>)> {
        let versions: Vec<StoredVersion> = versions
            .iter()
            .map(|(value, age)| StoredVersion {
                value: (*value).into(),
                age: Some(Duration::from_secs(*age)),
            })
            .collect();
        let history = rotation_history(&versions, TIMING)?;
        let previous = history.previous.into_iter().map(|previous| {
            let value = previous.value.expose_text().unwrap().to_owned();
            (value, previous.expires_in.as_secs(), previous.was_active)
        });
        Some((history.activates_in.as_secs(), previous.collect()))
    }

    #[test]
    fn age_of_a_secret_is_the_age_of_its_oldest_version() {
        let old = |expires_in| vec![("old".to_owned(), expires_in, true)];
        assert_eq!(history(&[("new", 4), ("old", 90)]), Some((6, old(106))));
        let another_field_was_written = [("new", 1), ("new", 2), ("new", 60), ("old", 90)];
        assert_eq!(history(&another_field_was_written), Some((0, old(50))));
        assert_eq!(history(&[("new", 1), ("new", 60)]), None);
    }

    #[test]
    fn previous_secret_was_active_if_it_lasted_for_the_activation_delay() {
        let b_was_active = |versions| history(versions).unwrap().1[0].2;
        assert!(!b_was_active(&[("c", 1), ("b", 9), ("a", 90)]));
        assert!(b_was_active(&[("c", 1), ("b", 9), ("b", 11), ("a", 90)]));
        assert!(b_was_active(&[
            ("c", 1),
            ("b", 9),
            ("a", 12),
            ("b", 40),
            ("a", 90)
        ]));
        assert!(b_was_active(&[("c", 1), ("b", 9)]), "oldest known secret");
    }
}
