//! Typed loading: fills a struct with secrets, with its field names as keys.

mod assemble;
mod json;
mod list;
mod map;
mod number;
mod plan;
mod reason;
mod scalar;
mod shape;
mod text;
mod trace;

#[cfg(test)]
mod tests;

pub use plan::{Loaded, Plan};
pub use trace::PlannedField;

use serde::de::DeserializeOwned;

use crate::Resolver;
use crate::error::LoadError;

impl Resolver {
    /// Loads a `T` with its field names as keys. [`Plan`] lists the supported types of fields.
    ///
    /// Cached values are used. The other keys are fetched in one batch.
    ///
    /// # Errors
    /// Returns all problems at once. Each one has its key, its origin and its reason. No problem
    /// contains a secret value.
    ///
    /// ```
    /// use secretwell::{MemoryProvider, Resolver, SecretString};
    /// use serde::Deserialize;
    ///
    /// #[derive(Debug, Deserialize)]
    /// #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    /// struct Settings {
    ///     auth_secret: SecretString,
    ///     port: u16,
    ///     workers: Option<u8>,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let memory = MemoryProvider::from_iter([("AUTH_SECRET", "s3cr3t"), ("PORT", "8080")]);
    /// let settings: Settings = Resolver::new(memory).load().await?;
    /// assert_eq!((settings.port, settings.workers), (8080, None));
    ///
    /// let empty = MemoryProvider::from_iter([("PORT", "eighty")]);
    /// let error = Resolver::new(empty).load::<Settings>().await.unwrap_err();
    /// assert_eq!(error.problems().len(), 2, "AUTH_SECRET is absent, PORT is invalid");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        let plan = Plan::<T>::new().map_err(|error| LoadError::new::<T>(vec![error]))?;
        plan.assemble(self.get_many(plan.keys()).await)
            .map(|loaded| loaded.value)
    }
}
