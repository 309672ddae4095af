//! The code of `docs/guides/frameworks.md`, and its tests. The services of `docs/guides/services.md` are in `bin`.

#[cfg(feature = "sessions")]
pub mod actix;
#[cfg(feature = "sessions")]
pub mod plain;
#[cfg(feature = "sessions")]
pub mod poem;
#[cfg(feature = "sessions")]
pub mod tonic;

#[cfg(test)]
#[cfg(feature = "sessions")]
mod tests;

/// The claims of a session.
#[derive(Debug, Clone, serde::Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The name of the user.
    pub name: String,
}
