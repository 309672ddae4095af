//! The code of `docs/guides/frameworks.md`, and its tests.

pub mod actix;
pub mod plain;
pub mod poem;
pub mod tonic;

#[cfg(test)]
mod tests;

/// The claims of a session.
#[derive(Debug, Clone, serde::Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The name of the user.
    pub name: String,
}
