//! Reads previous secrets from the version history of a source. With them, a process that starts in
//! the middle of a rotation still accepts what the previous secrets have signed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secretwell_core::backend::catch_panic;
use secretwell_core::{Error, ErrorKind, SecretKey, SecretProvider, SecretValue, Version};
use secretwell_resolver::Resolved;
use tokio::time::Instant;

use crate::panics::catch;
use crate::ring::{History, KeyHistory, PreviousSecret, Timing, later};

/// Maximum number of versions that are read for one key. A source that stores several secrets in
/// one document adds a version for all of them when one of them is written.
const MAX_VERSIONS: usize = 50;

/// Returns whether there are previous secrets to read.
///
/// There are none in these cases:
/// - The source keeps no old versions.
/// - The source does not report the age of the current version.
/// - The current version is the first one, or so old that all grace periods have ended.
pub(crate) fn has_history(
    provider: &dyn SecretProvider,
    current: &Resolved,
    timing: Timing,
) -> bool {
    let version = current.version.as_ref();
    let is_recent = version
        .filter(|version| version.number().is_some_and(|number| number > 1))
        .and_then(|version| age(version, SystemTime::now()))
        .is_some_and(|age| age <= timing.overlap());
    let has_versions = || catch(|| provider.capabilities().old_versions).unwrap_or(false);
    is_recent && timing.max_previous > 0 && has_versions()
}

/// Reads the previous secrets of `key` whose grace period has not ended. Stops at `deadline`. If a
/// version cannot be read, also returns that version and the error.
pub(crate) async fn read_history(
    provider: Arc<dyn SecretProvider>,
    key: SecretKey,
    current: Resolved,
    timing: Timing,
    deadline: Instant,
) -> (KeyHistory, Option<(Version, Error)>) {
    let mut versions = Vec::new();
    let failure = read_versions(&provider, &key, current, timing, deadline, &mut versions).await;
    let now = (Instant::now(), SystemTime::now());
    let read = KeyHistory {
        history: rotation_history(&versions, timing, now),
        is_complete: failure.is_none(),
        key,
    };
    (read, failure)
}

/// One version of a key in its source.
struct StoredVersion {
    value: SecretValue,
    version: Version,
}

/// Fills `versions`, newest first. Returns the failure that ended the read before the oldest version
/// that is needed.
async fn read_versions(
    provider: &Arc<dyn SecretProvider>,
    key: &SecretKey,
    current: Resolved,
    timing: Timing,
    deadline: Instant,
    versions: &mut Vec<StoredVersion>,
) -> Option<(Version, Error)> {
    let mut version = current.version?;
    versions.push(StoredVersion {
        value: current.value,
        version: version.clone(),
    });
    let mut previous = 0;
    while previous < timing.max_previous && versions.len() < MAX_VERSIONS {
        let age = age(&version, SystemTime::now());
        if age.is_none_or(|age| age > timing.overlap()) {
            break;
        }
        let number = version.number().filter(|number| *number > 1)?;
        version = Version::numbered(number - 1);
        let read = catch_panic(|| provider.get_version(key, &version));
        let error = match tokio::time::timeout_at(deadline, read).await {
            Ok(Ok(Ok(secret))) => {
                version = secret.version.unwrap_or(version);
                let differs = versions.last().is_none_or(|it| it.value != secret.value);
                previous += usize::from(differs);
                versions.push(StoredVersion {
                    value: secret.value,
                    version: version.clone(),
                });
                continue;
            }
            // The source has deleted the version, or it keeps fewer versions.
            Ok(Ok(Err(error))) if error.is_not_found() => break,
            Ok(Ok(Err(error))) if error.kind() == ErrorKind::Unsupported => break,
            Ok(Ok(Err(error))) => error,
            Ok(Err(panic)) => panic,
            Err(_) => Error::new(
                ErrorKind::Timeout,
                "the version history was not read within the build deadline",
            ),
        };
        return Some((version, error));
    }
    None
}

/// Derives the history of a key from its versions, which are ordered newest first.
///
/// Consecutive versions with an equal value are one secret. Its age is the age of the oldest of
/// them.
fn rotation_history(
    versions: &[StoredVersion],
    timing: Timing,
    (now, wall): (Instant, SystemTime),
) -> Option<History> {
    let mut spans = versions.chunk_by(|newer, older| newer.value == older.value);
    let oldest = |span: &[StoredVersion]| {
        let ages = span.iter().rev().map(|stored| &stored.version);
        let mut dated = ages.filter_map(|version| Some((version.clone(), age(version, wall)?)));
        dated.next()
    };
    let first = spans.next()?;
    let current = first.first()?.value.clone();
    let (mut replaced_by, mut replaced_ago) = oldest(first)?;
    let activates_in = timing.activation_delay.saturating_sub(replaced_ago);
    let mut previous: Vec<PreviousSecret> = Vec::new();
    for span in spans {
        let value = &span.first()?.value;
        let next = oldest(span);
        let was_active = next
            .as_ref()
            .is_none_or(|(_, age)| age.saturating_sub(replaced_ago) >= timing.activation_delay);
        if let Some(known) = previous.iter_mut().find(|known| known.value == *value) {
            known.was_active |= was_active;
        } else if !value.is_blank() && *value != current {
            let expires_in = timing.overlap().saturating_sub(replaced_ago);
            previous.push(PreviousSecret {
                value: value.clone(),
                was_active,
                expires_at: later(now, expires_in),
                replaced_by: Some(replaced_by),
            });
        }
        let Some(next) = next else { break };
        (replaced_by, replaced_ago) = next;
    }
    previous.last_mut()?.was_active = true;
    Some(History {
        current,
        active_from: later(now, activates_in),
        previous,
    })
}

/// Returns the time since a version was written, or zero if its timestamp is in the future.
fn age(version: &Version, now: SystemTime) -> Option<Duration> {
    let age = now.duration_since(version.created_at()?);
    Some(age.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        activation_delay: Duration::from_secs(10),
        grace_period: Duration::from_secs(100),
        max_previous: 8,
    };

    /// A previous secret: its value, its remaining seconds, and whether it was active.
    type Previous = (String, u64, bool);

    /// Derives the history of versions with these values and ages, both in seconds: the time until
    /// activation, and the previous secrets.
    fn history(versions: &[(&str, u64)]) -> Option<(u64, Vec<Previous>)> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let versions: Vec<StoredVersion> = versions
            .iter()
            .map(|(value, age)| StoredVersion {
                value: (*value).into(),
                version: Version::numbered(1).with_created_at(wall - Duration::from_secs(*age)),
            })
            .collect();
        let history = rotation_history(&versions, TIMING, (now, wall))?;
        let previous = history.previous.into_iter().map(|previous| {
            let value = previous.value.expose_text().unwrap().to_owned();
            let expires_in = previous.expires_at - now;
            (value, expires_in.as_secs(), previous.was_active)
        });
        let activates_in = history.active_from - now;
        Some((activates_in.as_secs(), previous.collect()))
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
