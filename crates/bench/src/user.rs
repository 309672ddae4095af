//! The user of the sessions that are measured.

use serde::{Deserialize, Serialize};

/// The columns of a user in Better Auth. Auth.js names the first one `sub`.
#[derive(Clone, Serialize, Deserialize)]
pub struct User {
    #[serde(alias = "sub")]
    pub id: String,
    pub name: String,
    pub email: String,
    pub image: String,
}

/// Returns a user with columns of typical lengths.
pub fn ada() -> User {
    User {
        id: "00000000-0000-4000-8000-000000000001".into(),
        name: "Ada Lovelace".into(),
        email: "ada@example.com".into(),
        image: "https://example.com/pictures/ada-lovelace.png".into(),
    }
}
