//! Reads secrets once, and where it was told to, waits for them.

use std::time::Duration;

use secretwell::{Error, ErrorKind, KeyPrefix, Secret, SecretKey, SecretProvider};
use tokio::time::{Instant, timeout};

use crate::exit::Failure;

/// The first wait before what was not there is looked for again; each is longer by half.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Which secrets count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These, all of which must be there.
    Only(Vec<SecretKey>),
    /// All that the sources list, among them these.
    All { require: Vec<SecretKey> },
}

impl Wanted {
    /// The same, and that these keys must be there.
    pub(crate) fn with(&self, keys: &[SecretKey]) -> Self {
        match self {
            Self::Only(_) => self.clone(),
            Self::All { require } => Self::All {
                require: require.iter().chain(keys).cloned().collect(),
            },
        }
    }
}

/// A secret that is there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: SecretKey,
    pub(crate) secret: Secret,
}

/// Reads what is wanted. What is absent, and a source that cannot be asked, is asked again until `wait`
/// is over, and at once when the source says that something has changed.
///
/// # Errors
/// Everything that is the matter with anything that is wanted.
pub(crate) async fn read(
    provider: &dyn SecretProvider,
    wanted: &Wanted,
    wait: Duration,
) -> Result<Vec<Found>, Failure> {
    let end = Instant::now() + wait;
    let mut changes = (!wait.is_zero()).then(|| provider.watch()).flatten();
    let mut pause = FIRST_WAIT;
    loop {
        let problems = match once(provider, wanted).await {
            Ok(found) => return Ok(found),
            Err(problems) => problems,
        };
        let passes = |error: &Error| error.is_not_found() || error.is_temporary();
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !problems.iter().all(passes) {
            return Failure::of(&problems).map_or(Ok(Vec::new()), Err);
        }
        for problem in &problems {
            tracing::info!(target: "secretwell::command", event = "waiting", "waiting: {problem}");
        }
        let told = async {
            match &mut changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        // That nothing was told is as good a reason to look as that something was.
        if let Ok(None) = timeout(pause.min(left), told).await {
            changes = None;
        }
        pause = (pause * 3 / 2).min(LONGEST_WAIT);
    }
}

/// Reads what is wanted, now. The errors are one at least.
async fn once(provider: &dyn SecretProvider, wanted: &Wanted) -> Result<Vec<Found>, Vec<Error>> {
    let (keys, required) = match wanted {
        Wanted::Only(keys) => (keys.clone(), keys),
        Wanted::All { require } => {
            let listed = keys(provider, require).await;
            (listed.map_err(|error| vec![error])?, require)
        }
    };
    let answers = provider.get_many(&keys).await;
    let mut found = Vec::with_capacity(keys.len());
    let mut problems = Vec::new();
    for (key, answer) in keys.into_iter().zip(answers) {
        let is_required = required.contains(&key);
        match answer {
            Ok(secret) if is_required && secret.value.is_blank() => {
                problems.push(blank(provider, &key, &secret));
            }
            Ok(secret) => found.push(Found { key, secret }),
            // It was listed, and went before it could be read.
            Err(error) if error.is_not_found() && !is_required => {}
            Err(error) => problems.push(error),
        }
    }
    match problems.is_empty() {
        true => Ok(found),
        false => Err(problems),
    }
}

/// All keys that the sources list, and those of `require` that they do not.
pub(crate) async fn keys(
    provider: &dyn SecretProvider,
    require: &[SecretKey],
) -> Result<Vec<SecretKey>, Error> {
    let listed = provider.list(&KeyPrefix::root()).await;
    let mut all = listed.map_err(|error| match error.kind() {
        ErrorKind::Denied | ErrorKind::Unsupported => error.with_hint(
            "name the keys that are needed, by --only, or by --require of `check` and `doctor`",
        ),
        _ => error,
    })?;
    for key in require {
        if !all.contains(key) {
            all.push(key.clone());
        }
    }
    if all.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no secret")
            .with_origin(provider.origin())
            .with_hint("is the place right? If so, write one there"));
    }
    Ok(all)
}

fn blank(provider: &dyn SecretProvider, key: &SecretKey, secret: &Secret) -> Error {
    let origin = secret.origin.as_ref().unwrap_or(provider.origin());
    Error::new(ErrorKind::NotFound, "it is there and empty")
        .with_origin(origin)
        .with_key(key)
        .with_hint("write a value, or take it out of the required ones")
}

#[cfg(test)]
mod tests {
    use secretwell::MemoryProvider;

    use super::*;
    use crate::exit::Reason;

    fn key(text: &str) -> SecretKey {
        SecretKey::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn all_problems_are_told_at_once_and_a_late_secret_is_waited_for() {
        let memory = MemoryProvider::from_iter([("BLANK", " ")]);
        let wanted = Wanted::Only(vec![key("A"), key("BLANK")]);
        let problems = once(&memory, &wanted).await.unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let failure = read(&memory, &wanted, Duration::from_secs(9)).await;
        assert_eq!(failure.unwrap_err().reason(), Reason::Absent);

        let writer = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            memory.set("A", "1").unwrap();
            memory.set("BLANK", "2").unwrap();
        };
        let reader = read(&memory, &wanted, Duration::from_secs(60));
        let (found, ()) = tokio::join!(reader, writer);
        assert_eq!(found.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_is_listed_need_not_be_good_and_what_is_required_must_be() {
        let memory = MemoryProvider::from_iter([("BLANK", ""), ("A", "1")]);
        let all = |require| Wanted::All { require };
        assert_eq!(once(&memory, &all(vec![])).await.unwrap().len(), 2);
        once(&memory, &all(vec![key("B")])).await.unwrap_err();
        let nothing = once(&MemoryProvider::new(), &all(vec![])).await;
        assert!(nothing.unwrap_err()[0].is_not_found());
    }
}
