//! Types and functions for authors of backends: capabilities, change notifications and concurrent
//! reads.
//!
//! A backend implements [`SecretProvider`](crate::SecretProvider). It reports its optional features as
//! [`Capabilities`]. If its source reports changes, the backend sends each one as a [`Change`] through
//! a [`ChangeSender`].

pub use crate::batch::require_one_result_per_key;
pub use crate::capabilities::Capabilities;
pub use crate::change::{Change, ChangeSender, ChangeStream};
pub use crate::combine::combine_errors;
pub use crate::encrypted::{
    encrypted_by, encrypted_document, refuse_encrypted, refuse_encrypted_document,
};
pub use crate::join::join_bounded;
pub use crate::notice::{Notice, NoticeKind, collect_notices};
pub use crate::origin::source_label;
pub use crate::panics::catch_panic;
pub use crate::provider::Link;
