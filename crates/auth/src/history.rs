//! Reads previous secrets from the version history of a source. With them, a process that starts in
//! the middle of a rotation still accepts what the previous secrets have signed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secretwell_core::backend::{catch_panic, refuse_encrypted};
use secretwell_core::{Error, ErrorKind, Secret, SecretKey, SecretProvider, SecretValue, Version};
use secretwell_resolver::{Resolved, clock};
use tokio::time::Instant;

use crate::mode::Mode;
use crate::panics::catch;
use crate::policy::Policies;
use crate::ring::{Extent, History, KeyHistory, StoredVersion, Timing};

/// Maximum number of versions that are read for one key. A source that stores several secrets in
/// one document adds a version for all of them when one of them is written.
const MAX_VERSIONS: usize = 50;

/// The rules that previous secrets must meet.
#[derive(Debug, Clone)]
pub(crate) struct PreviousRules {
    pub(crate) timing: Timing,
    pub(crate) policies: Arc<Policies>,
    pub(crate) mode: Mode,
    /// Whether a value is accepted although a tool left it encrypted.
    pub(crate) accepts_encrypted: bool,
}

/// Returns whether there are previous secrets to read.
///
/// The result is `false` in these cases:
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
        .and_then(|version| age(version, clock::wall()))
        .is_some_and(|age| age <= timing.overlap());
    let has_versions = || catch(|| provider.capabilities().old_versions).unwrap_or(false);
    is_recent && timing.max_previous > 0 && has_versions()
}

/// Reads the previous secrets of `key` whose grace period has not ended. Stops at `deadline`. If a
/// version is not read that is needed, also returns that version and the reason.
pub(crate) async fn read_history(
    provider: Arc<dyn SecretProvider>,
    key: SecretKey,
    current: Resolved,
    rules: &PreviousRules,
    deadline: Instant,
) -> (KeyHistory, Option<(Version, Error)>) {
    let (mut versions, end) = read_versions(&provider, &key, current, rules, deadline).await;
    versions.reverse();
    // The ages are those at the end of the read.
    let (now, wall) = (Instant::now(), clock::wall());
    for stored in &mut versions {
        stored.age = stored
            .version
            .as_ref()
            .and_then(|version| age(version, wall));
    }
    let (extent, failure) = match end {
        None => (Extent::Complete, None),
        Some(End::Failed(version, error)) => (Extent::Failed, Some((version, error))),
        Some(End::Limited(version)) => (Extent::Limited, Some((version, too_many_versions()))),
    };
    let read = KeyHistory {
        history: History::replay(&versions, rules.timing, now),
        extent,
        key,
    };
    (read, failure)
}

/// Why a read of versions ended before the oldest version that is needed.
enum End {
    Failed(Version, Error),
    Limited(Version),
}

/// Returns the versions that are needed, newest first.
async fn read_versions(
    provider: &Arc<dyn SecretProvider>,
    key: &SecretKey,
    current: Resolved,
    rules: &PreviousRules,
    deadline: Instant,
) -> (Vec<StoredVersion>, Option<End>) {
    let mut number = current.version.as_ref().and_then(Version::number);
    let mut versions = vec![stored(current.value, current.version)];
    while !is_enough(&versions, rules.timing) {
        let Some(previous) = number.filter(|number| *number > 1) else {
            break;
        };
        let version = Version::numbered(previous - 1);
        if versions.len() == MAX_VERSIONS {
            return (versions, Some(End::Limited(version)));
        }
        let read = catch_panic(|| provider.get_version(key, &version));
        let error = match tokio::time::timeout_at(deadline, read).await {
            Ok(Ok(Ok(secret))) => {
                let read = secret.version.clone().unwrap_or(version);
                number = read.number().min(Some(previous - 1));
                let refused = rules.refuse(key, &secret);
                versions.push(StoredVersion {
                    refused,
                    ..stored(secret.value, Some(read))
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
        return (versions, Some(End::Failed(version, error)));
    }
    (versions, None)
}

/// Returns whether no older version than these, which are ordered newest first, is needed.
///
/// All secrets before one that was active have expired when the grace period after its activation has
/// ended. The secret that signs and the ones after it are needed, and at most
/// [`max_previous`](Timing::max_previous) others. One more shows that there are too many. Refused secrets do
/// not count towards that limit.
fn is_enough(versions: &[StoredVersion], timing: Timing) -> bool {
    let mut previous: Vec<&SecretValue> = Vec::new();
    let mut is_any_active = false;
    let mut replaced_ago = Duration::ZERO;
    let known = versions.iter().filter(|stored| !stored.value.is_empty());
    let known: Vec<&StoredVersion> = known.collect();
    for span in known.chunk_by(|newer, older| newer.value == older.value) {
        let (Some(newest), Some(oldest)) = (span.first(), span.last()) else {
            continue;
        };
        let is_accepted = newest.refused.is_none();
        let is_previous = newest.value != known[0].value && is_accepted;
        if is_previous && !previous.contains(&&newest.value) {
            previous.push(&newest.value);
        }
        let Some(age) = oldest.age else { return true };
        if age.saturating_sub(replaced_ago) >= timing.activation_delay {
            is_any_active |= is_accepted;
            if age > timing.overlap() {
                return true;
            }
        }
        replaced_ago = age;
    }
    is_any_active && previous.len() > timing.max_previous
}

fn stored(value: SecretValue, version: Option<Version>) -> StoredVersion {
    let now = clock::wall();
    StoredVersion {
        age: version.as_ref().and_then(|version| age(version, now)),
        value,
        refused: None,
        // The versions of the history have no identity, and all of them belong to one secret.
        version: version.map(|version| match (version.number(), version.created_at()) {
            (Some(number), Some(time)) => Version::numbered(number).with_created_at(time),
            (Some(number), None) => Version::numbered(number),
            (None, _) => version,
        }),
    }
}

impl PreviousRules {
    /// Returns why a previous secret of `key` must not verify, or `None` if it can.
    fn refuse(&self, key: &SecretKey, secret: &Secret) -> Option<Cow<'static, str>> {
        if secret.value.is_empty() {
            return None;
        }
        // The resolver has not seen this value.
        if !self.accepts_encrypted
            && let Err(error) = refuse_encrypted(secret.clone())
        {
            return Some(error.message().to_owned().into());
        }
        self.policies.refuse_previous(key, &secret.value, self.mode)
    }
}

fn too_many_versions() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the source has more versions within the grace period than are read",
    )
    .with_hint("store the secret in a document of its own, so that other secrets add no versions")
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

    /// Versions with these values and ages in seconds, newest first.
    fn versions(versions: &[(&str, u64)]) -> Vec<StoredVersion> {
        let stored = |(value, age): &(&str, u64)| StoredVersion {
            value: (*value).into(),
            version: Some(Version::numbered(1)),
            age: Some(Duration::from_secs(*age)),
            refused: None,
        };
        versions.iter().map(stored).collect()
    }

    #[test]
    fn reading_ends_at_the_secret_before_which_all_have_expired() {
        let is_enough = |it: &[(&str, u64)]| is_enough(&versions(it), TIMING);
        assert!(is_enough(&[("a", 111)]));
        assert!(!is_enough(&[("a", 110)]));
        assert!(!is_enough(&[("b", 1), ("a", 90)]));
        assert!(is_enough(&[("b", 1), ("a", 111)]));
        assert!(
            !is_enough(&[("c", 105), ("b", 111)]),
            "`b` was never active"
        );
        assert!(is_enough(&[("c", 105), ("b", 106), ("b", 116)]));
        assert!(
            !is_enough(&[("b", 1), ("", 111)]),
            "an empty version is not a secret"
        );
    }

    #[test]
    fn refused_secrets_do_not_count_towards_the_limit() {
        let timing = Timing {
            max_previous: 1,
            ..TIMING
        };
        let mut versions = versions(&[("c", 1), ("b", 30), ("a", 31)]);
        assert!(is_enough(&versions, timing));
        versions[1].refused = Some("it is weak".into());
        assert!(!is_enough(&versions, timing));
        // What it has replaced has expired nevertheless.
        versions[1].age = Some(Duration::from_secs(112));
        assert!(is_enough(&versions, timing));
    }

    #[test]
    fn reading_ends_beyond_the_limit_of_different_secrets_if_one_of_them_signs() {
        let timing = Timing {
            max_previous: 1,
            ..TIMING
        };
        let is_enough = |it: &[(&str, u64)]| is_enough(&versions(it), timing);
        let alternating = [("b", 20), ("a", 40), ("b", 60), ("a", 80)];
        assert!(!is_enough(&alternating));
        assert!(is_enough(&[&alternating[..], &[("z", 100)]].concat()));
        let fast = [("d", 1), ("c", 2), ("b", 3), ("b", 4)];
        assert!(!is_enough(&fast));
        assert!(is_enough(&[&fast[..], &[("a", 20)]].concat()));
    }
}
