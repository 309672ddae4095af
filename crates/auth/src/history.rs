//! PreviousSecret secrets, from a source that remembers them: so that a restart in the middle of a rotation logs
//! nobody out.

use std::time::{Duration, SystemTime};

use secretwell_core::{SecretKey, SecretValue, Version};
use secretwell_resolver::{Resolved, Resolver};

use crate::ring::RotationTiming;

/// How many previous secrets of a key are looked up at most.
const MOST: usize = 4;

/// How many versions are looked at for them: where several secrets are written together, each writing of
/// one is a version of all.
const MOST_VERSIONS: usize = 50;

/// What a source remembers of a key's rotation.
#[derive(Debug)]
pub(crate) struct History {
    /// How long the current secret only verifies from now on.
    pub(crate) wait: Duration,
    /// The previous ones, the newest first.
    pub(crate) previous: Vec<PreviousSecret>,
}

/// A secret that was replaced.
#[derive(Debug)]
pub(crate) struct PreviousSecret {
    pub(crate) value: SecretValue,
    /// What is left of its grace_period.
    pub(crate) left: Duration,
    /// Whether it has ever signed: it was there for the activation delay, or before all others.
    pub(crate) was_active: bool,
}

/// Looks up the previous secrets of `key` whose grace_period is not over. That costs nothing when the current one
/// is older than that, or the source does not tell its age.
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
    let mut written = vec![Written {
        value: current.value.clone(),
        age: Some(age(&version)?),
    }];
    let mut previous = 0;
    while previous < MOST && written.len() < MOST_VERSIONS {
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
                let is_another = written.last().is_none_or(|it| it.value != secret.value);
                previous += usize::from(is_another);
                written.push(Written {
                    value: secret.value,
                    age: age(&version),
                });
            }
            Err(error) if error.is_not_found() => break,
            Err(error) => {
                tracing::warn!(target: "secretwell::auth", event = "history_incomplete", %key, %version, %error, "a previous secret cannot be read");
                break;
            }
        }
    }
    history(&written, timing)
}

/// One version of a key.
struct Written {
    value: SecretValue,
    age: Option<Duration>,
}

/// What became of a key by its versions, the newest first. A secret is as old as the first of the versions
/// that have had it one after the other.
fn history(written: &[Written], timing: RotationTiming) -> Option<History> {
    let mut spans = written.chunk_by(|newer, older| newer.value == older.value);
    let age = |span: &[Written]| span.iter().rev().find_map(|version| version.age);
    let current = spans.next()?;
    let mut replaced = age(current)?;
    let wait = timing.activation_delay.saturating_sub(replaced);
    let mut previous: Vec<PreviousSecret> = Vec::new();
    for span in spans {
        let value = &span.first()?.value;
        let born = age(span);
        let was_active =
            born.is_none_or(|age| age.saturating_sub(replaced) >= timing.activation_delay);
        if let Some(known) = previous.iter_mut().find(|known| known.value == *value) {
            known.was_active |= was_active;
        } else if !value.is_blank() && *value != current.first()?.value {
            previous.push(PreviousSecret {
                value: value.clone(),
                left: timing.overlap().saturating_sub(replaced),
                was_active,
            });
        }
        let Some(born) = born else { break };
        replaced = born;
    }
    previous.last_mut()?.was_active = true;
    Some(History { wait, previous })
}

/// How long ago a version was written; one of the future was written just now.
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

    /// An previous secret, what is left of it, and whether it was active.
    type Seen = (String, u64, bool);

    /// What has become of the versions of these values and ages: the wait, and the previous secrets.
    fn of(versions: &[(&str, u64)]) -> Option<(u64, Vec<Seen>)> {
        let written: Vec<Written> = versions
            .iter()
            .map(|(value, age)| Written {
                value: (*value).into(),
                age: Some(Duration::from_secs(*age)),
            })
            .collect();
        let history = history(&written, TIMING)?;
        let previous = history.previous.into_iter().map(|previous| {
            let value = previous.value.expose_text().unwrap().to_owned();
            (value, previous.left.as_secs(), previous.was_active)
        });
        Some((history.wait.as_secs(), previous.collect()))
    }

    #[test]
    fn a_secret_is_as_old_as_the_first_of_its_versions() {
        let old = |left| vec![("old".to_owned(), left, true)];
        assert_eq!(of(&[("new", 4), ("old", 90)]), Some((6, old(106))));
        let another_field_was_written = [("new", 1), ("new", 2), ("new", 60), ("old", 90)];
        assert_eq!(of(&another_field_was_written), Some((0, old(50))));
        assert_eq!(of(&[("new", 1), ("new", 60)]), None);
    }

    #[test]
    fn an_earlier_secret_was_active_if_its_versions_together_lasted() {
        let between = |versions| of(versions).unwrap().1[0].2;
        assert!(!between(&[("c", 1), ("b", 9), ("a", 90)]));
        assert!(between(&[("c", 1), ("b", 9), ("b", 11), ("a", 90)]));
        assert!(between(&[
            ("c", 1),
            ("b", 9),
            ("a", 12),
            ("b", 40),
            ("a", 90)
        ]));
        assert!(between(&[("c", 1), ("b", 9)]), "before all others");
    }
}
