//! [`SessionUse`]: whether the response to a request depends on its session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Extensions;

use crate::lazy::LazyAuth;

/// Request extension of a session layer. It is set when a handler authenticates the request.
///
/// `A` is the type that the auth of the layer builds, so layers of different types do not affect each
/// other. Of two layers of one type, the inner one replaces the extension of the outer one.
pub(crate) struct SessionUse<A> {
    auth: LazyAuth<A>,
    used: Arc<AtomicBool>,
}

#[allow(
    dead_code,
    reason = "the layers of sessions create it, and they depend on features"
)]
impl<A: Send + Sync + 'static> SessionUse<A> {
    /// Inserts the extension for a layer with `auth`.
    pub(crate) fn insert(auth: &LazyAuth<A>, extensions: &mut Extensions) -> Self {
        let session_use = Self {
            auth: auth.clone(),
            used: Arc::new(AtomicBool::new(false)),
        };
        extensions.insert(session_use.clone());
        session_use
    }

    /// Returns the auth of the innermost layer around the request, if there is one.
    pub(crate) fn auth(extensions: &Extensions) -> Option<&LazyAuth<A>> {
        extensions.get::<Self>().map(|found| &found.auth)
    }

    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

/// Marks the session of a request as used. Does nothing without a session layer.
pub(crate) fn mark_session_used<A: Send + Sync + 'static>(extensions: &Extensions) {
    if let Some(found) = extensions.get::<SessionUse<A>>() {
        found.used.store(true, Ordering::Relaxed);
    }
}

impl<A> Clone for SessionUse<A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            used: self.used.clone(),
        }
    }
}
