//! Several sources, asked one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::{Capabilities, Change, ChangeStream};
use crate::{Error, ErrorKind, KeyPrefix, Origin, Secret, SecretKey, SecretProvider, Version};

/// Asks its links in order and goes on to the next only when a secret is *absent*.
///
/// A link that failed fails the chain: an outage of the strong source must not silently hand the
/// service a weaker secret. Who wants that nevertheless says so, link by link, with
/// [`or_else_on_failure`](Self::or_else_on_failure).
///
/// ```
/// use secretwell::{MemoryProvider, SecretProvider, SecretProviderExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), secretwell::Error> {
/// let overrides = MemoryProvider::new();
/// let defaults = MemoryProvider::from_iter([("PORT", "8080")]);
/// let chain = overrides.clone().or_else(defaults);
///
/// assert_eq!(chain.get(&"PORT".parse()?).await?.value.expose_text()?, "8080");
/// overrides.set("PORT", "9090")?;
/// assert_eq!(chain.get(&"PORT".parse()?).await?.value.expose_text()?, "9090");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
    origin: Origin,
}

#[derive(Debug)]
struct Link {
    provider: Arc<dyn SecretProvider>,
    /// Whether a failure of the link *before* this one leads here too.
    on_failure: bool,
}

impl Chain {
    /// A chain of one link.
    pub fn new(first: impl SecretProvider) -> Self {
        let origin = first.origin().clone();
        Self {
            links: vec![Link {
                provider: Arc::new(first),
                on_failure: false,
            }],
            origin,
        }
    }

    /// The same chain with one more link, asked for what is absent before it.
    #[must_use]
    pub fn or_else(self, next: impl SecretProvider) -> Self {
        self.push(next, false)
    }

    /// The same chain with one more link, asked for what is absent before it **and for what the
    /// link before it failed to read**. A secret of lower rank may then be used during an outage.
    #[must_use]
    pub fn or_else_on_failure(self, next: impl SecretProvider) -> Self {
        self.push(next, true)
    }

    fn push(mut self, next: impl SecretProvider, on_failure: bool) -> Self {
        self.links.push(Link {
            provider: Arc::new(next),
            on_failure,
        });
        self.origin = Origin::joined(self.links.iter().map(|link| link.provider.origin()));
        self
    }

    /// Whether what the links before `next` answered leads on to `next`. A failure anywhere before it
    /// does so only if `next` itself stands in for failures.
    fn falls_through(asked: &[Result<Secret, Error>], next: &Link) -> bool {
        asked.iter().all(|outcome| match outcome {
            Ok(_) => false,
            Err(error) => error.is_not_found() || next.on_failure,
        })
    }

    /// The error of a key that every link reported as absent. It quotes what each link reported.
    fn absent_everywhere(&self, key: &SecretKey, reports: &[Error]) -> Error {
        let mut message = String::from("no source has it");
        for (index, report) in reports.iter().enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            let origin = report.origin().map_or("unknown", Origin::as_str);
            message.push_str(&format!("{separator}{origin} ({})", report.message()));
        }
        Error::new(ErrorKind::NotFound, message)
            .with_origin(&self.origin)
            .with_key(key)
            .with_hint("add it to one of these sources")
    }

    /// The outcome of the whole chain, given the outcomes of the links that were read.
    fn conclude(
        &self,
        key: &SecretKey,
        mut outcomes: Vec<Result<Secret, Error>>,
    ) -> Result<Secret, Error> {
        match outcomes.pop() {
            Some(Ok(secret)) => Ok(secret),
            // A failure on the way matters more than the absence at the end.
            Some(Err(last)) if last.is_not_found() && self.links.len() > 1 => {
                let mut errors: Vec<Error> = outcomes.into_iter().filter_map(Result::err).collect();
                match errors.iter().find(|error| !error.is_not_found()) {
                    Some(failure) => Err(failure.clone()),
                    None => {
                        errors.push(last);
                        Err(self.absent_everywhere(key, &errors))
                    }
                }
            }
            Some(Err(last)) => Err(last),
            None => Err(self.absent_everywhere(key, &[])),
        }
    }
}

fn stamped(outcome: Result<Secret, Error>, origin: &Origin) -> Result<Secret, Error> {
    outcome.map(|mut secret| {
        secret.origin.get_or_insert_with(|| origin.clone());
        secret
    })
}

#[async_trait]
impl SecretProvider for Chain {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What all links can do; the ttl is the shortest of them. It watches when any link does: what the
    /// others change is seen when that ttl is over.
    fn capabilities(&self) -> Capabilities {
        let mut links = self.links.iter().map(|link| link.provider.capabilities());
        let first = links.next().unwrap_or(Capabilities::none());
        links.fold(first, |all, link| Capabilities {
            versions: all.versions && link.versions,
            old_versions: all.old_versions && link.old_versions,
            watch: all.watch || link.watch,
            batch: all.batch && link.batch,
            list: all.list && link.list,
            lease: all.lease || link.lease,
            ttl: all.ttl.min(link.ttl),
        })
    }

    async fn get(&self, key: &SecretKey) -> Result<Secret, Error> {
        let mut asked = Vec::with_capacity(self.links.len());
        for link in &self.links {
            if !Self::falls_through(&asked, link) {
                continue;
            }
            asked.push(stamped(
                link.provider.get(key).await,
                link.provider.origin(),
            ));
        }
        self.conclude(key, asked)
    }

    /// One batch to each link, of the keys that fell through to it.
    async fn get_many(&self, keys: &[SecretKey]) -> Vec<Result<Secret, Error>> {
        let mut asked: Vec<Vec<Result<Secret, Error>>> = keys.iter().map(|_| Vec::new()).collect();
        for link in &self.links {
            let open: Vec<usize> = (0..keys.len())
                .filter(|&index| Self::falls_through(&asked[index], link))
                .collect();
            if open.is_empty() {
                continue;
            }
            let batch: Vec<SecretKey> = open.iter().map(|&index| keys[index].clone()).collect();
            let mut outcomes = link.provider.get_many(&batch).await;
            outcomes.resize_with(batch.len(), || {
                Err(Error::wrong_result_count().with_origin(link.provider.origin()))
            });
            for (index, outcome) in open.into_iter().zip(outcomes) {
                asked[index].push(stamped(outcome, link.provider.origin()));
            }
        }
        keys.iter()
            .zip(asked)
            .map(|(key, asked)| self.conclude(key, asked))
            .collect()
    }

    /// From the first link that has the key at all, because versions of two sources do not compare.
    async fn get_version(&self, key: &SecretKey, version: &Version) -> Result<Secret, Error> {
        let mut last = self.absent_everywhere(key, &[]);
        for link in &self.links {
            match stamped(
                link.provider.get_version(key, version).await,
                link.provider.origin(),
            ) {
                Err(error) if error.is_not_found() => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<SecretKey>, Error> {
        let mut keys = BTreeSet::new();
        for link in &self.links {
            keys.extend(link.provider.list(prefix).await?);
        }
        Ok(keys.into_iter().collect())
    }

    /// The notices of every link that has them.
    fn watch(&self) -> Option<ChangeStream> {
        let streams: Vec<ChangeStream> = self
            .links
            .iter()
            .filter_map(|link| link.provider.watch())
            .collect();
        if streams.is_empty() {
            return None;
        }
        let (sender, merged) = ChangeStream::channel();
        let mut forwarders = tokio::task::JoinSet::new();
        for mut stream in streams {
            let sender = sender.clone();
            forwarders.spawn(async move {
                while let Some(notice) = stream.next().await {
                    let heard = match notice {
                        // A key that vanished from one link may now come from another.
                        Ok(change) => sender.send(change),
                        Err(error) => sender.send(Change::All) && sender.fail(error),
                    };
                    if !heard {
                        return;
                    }
                }
            });
        }
        Some(merged.with_guard(forwarders))
    }

    /// Healthy when every link is: any of them may be asked next.
    async fn health(&self) -> Result<(), Error> {
        for link in &self.links {
            link.provider.health().await?;
        }
        Ok(())
    }
}
