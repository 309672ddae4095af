//! [`Source`]: what the rebuild task reads through the resolver.

use std::time::Duration;

use secretwell_core::{Error, SecretKey};
use secretwell_resolver::{Resolved, Resolver, Watch};
use tokio::time::Instant;

use crate::revocation::Epoch;

/// The minimum time between two forced fetches of a key by the resolver.
const FORCE_INTERVAL: Duration = Duration::from_secs(1);

/// The secrets of an auth in their resolver.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) resolver: Resolver,
    /// The keys of the fields, and the revocation key if it is not one of them.
    keys: Vec<SecretKey>,
    /// The number of fields.
    fields: usize,
    /// The key of the revocation time, with its position in `keys`.
    revocation: Option<(SecretKey, usize)>,
}

/// The results of one read: one for each key.
pub(crate) type Results = Vec<Result<Resolved, Error>>;

impl Source {
    pub(crate) fn new(
        resolver: Resolver,
        fields: Vec<SecretKey>,
        revocation_key: Option<SecretKey>,
    ) -> Self {
        let (mut keys, count) = (fields.clone(), fields.len());
        let revocation = revocation_key.map(|key| {
            let position = keys.iter().position(|field| *field == key);
            let position = position.unwrap_or_else(|| {
                keys.push(key.clone());
                count
            });
            (key, position)
        });
        Self {
            resolver,
            keys,
            fields: count,
            revocation,
        }
    }

    /// Reads all keys. A fresh read starts at the source after this call.
    pub(crate) async fn read(&self, fresh: bool) -> Results {
        match fresh {
            true => self.resolver.refresh_after_write(&self.keys).await,
            false => self.resolver.get_many(&self.keys).await,
        }
    }

    /// Reads all keys before their ttl ends, as far as the source responds.
    pub(crate) async fn revalidate(&self) -> Results {
        self.resolver.revalidate(&self.keys).await
    }

    /// Reports the values in `rejected` as rejected, and reads all keys. `rejected` has one result for each key.
    pub(crate) async fn report_rejected(&self, rejected: Results) -> Results {
        let fields = self.keys.iter().zip(rejected).take(self.fields);
        let values = fields.filter_map(|(key, result)| Some((key.clone(), result.ok()?.value)));
        let values: Vec<_> = values.collect();
        let reported = self.resolver.report_rejected_together(values.clone()).await;
        if reported.iter().any(Result::is_err) {
            // The resolver might have refused the fetch, because of another one within a second.
            tokio::time::sleep(FORCE_INTERVAL).await;
            self.resolver.report_rejected_together(values).await;
        }
        self.read(false).await
    }

    /// Separates the results of the fields from the revocation time.
    pub(crate) fn split(&self, mut results: Results) -> (Results, Result<Option<Epoch>, Error>) {
        let epoch = match &self.revocation {
            None => Ok(None),
            Some((key, position)) => match results.get(*position) {
                Some(result) => Epoch::read(key, result.clone()),
                None => Err(Error::wrong_result_count().with_key(key)),
            },
        };
        results.truncate(self.fields);
        (results, epoch)
    }

    /// Returns the time of the next retry of a failed key.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let wait = self.resolver.retry_in(&self.keys)?;
        Some(Instant::now() + wait)
    }

    /// Returns a watch that keeps all keys fresh. The keys are valid, so this does not fail.
    pub(crate) fn watch(&self) -> Result<Watch, Error> {
        self.resolver.watch(&self.keys)
    }
}
