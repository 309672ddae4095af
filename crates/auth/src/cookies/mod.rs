//! Cookies that are signed or encrypted with every key of a [`KeyRing`](crate::KeyRing).
//!
//! The jars of axum-extra and the sessions of tower-sessions have one key. When it is replaced, every cookie
//! becomes invalid. Here, a cookie is accepted with each key of a ring, and a new cookie uses the primary
//! key. The keys come from a [`LazyAuth`](crate::LazyAuth), so they can arrive late and rotate.
//!
//! | task | API |
//! | --- | --- |
//! | cookies in the handlers of axum | [`RingJar`], features `cookies` and `axum` |
//! | the session cookie of tower-sessions, or any other cookie of an inner service | [`CookieLayer`] |
//!
//! The format is that of the [cookie crate](cookie), which axum-extra and tower-cookies use as well. Cookies
//! of these libraries stay valid if the keys are derived in the same way: see [`CookieKeys`].
//!
//! # Signed or private
//! - A [`Signed`] cookie can be read by the browser, but not changed. The signature covers the value and
//!   not the name, in the cookie crate and in everything that is compatible with it. A user can therefore copy
//!   the signed value of one cookie to another cookie that is signed with the same key. If one cookie
//!   contains a text that the user chooses, such as a search term, and another one the id of the user, then
//!   the user can take any id. Use `Private`, or one secret for each kind of cookie.
//! - A [`Private`] cookie cannot be read either, and its name is part of what is authenticated.
//!
//! A signature does not expire. A cookie is valid as long as its key is in the ring, whatever its `Max-Age`
//! says.

mod header;
#[cfg(feature = "axum")]
mod jar;
mod keys;
mod layer;
mod protection;
#[cfg(test)]
mod tests;

pub use cookie;

#[cfg(feature = "axum")]
pub use jar::RingJar;
pub use keys::CookieKeys;
pub use layer::{CookieLayer, CookieService};
pub use protection::{Private, Protection, Signed};
