//! What only the author of a backend needs: capabilities, change notifications and a helper for
//! concurrent reads.
//!
//! A backend implements [`SecretProvider`](crate::SecretProvider). It reports what it can do with
//! [`Capabilities`], and sends a [`Change`] through a [`ChangeSender`] when its source reports one.

pub use crate::capabilities::Capabilities;
pub use crate::change::{Change, ChangeSender, ChangeStream};
pub use crate::join::join_bounded;
