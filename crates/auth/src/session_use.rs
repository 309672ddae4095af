//! [`SessionUse`]: whether the response to a request depends on its session.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::{Extensions, StatusCode};

use crate::lazy::LazyAuth;
use crate::rejection::Rejection;

/// The response depends on the session.
const USED: u8 = 1;
/// The user is logged in.
const ACCEPTED: u8 = 2;
/// A principal was rejected with 401.
const REJECTED: u8 = 4;

/// Request extension of a session layer. It records how handlers authenticate the request.
///
/// `A` is the type that the auth of the layer builds, so layers of different types do not affect each
/// other. Of two layers of one type, the inner one replaces the extension of the outer one.
pub(crate) struct SessionUse<A> {
    auth: LazyAuth<A>,
    /// A combination of the constants above.
    state: Arc<AtomicU8>,
}

#[allow(
    dead_code,
    reason = "the layers of sessions create it, and they depend on features"
)]
impl<A: Send + Sync + 'static> SessionUse<A> {
    /// Inserts the extension for a layer with `auth`.
    pub(crate) fn insert(auth: &LazyAuth<A>, extensions: &mut Extensions) -> Self {
        let outside = extensions.get::<UsedOutside<A>>();
        let state = outside.map_or(0, |outside| outside.state);
        let session_use = Self {
            auth: auth.clone(),
            state: Arc::new(AtomicU8::new(state)),
        };
        extensions.insert(session_use.clone());
        session_use
    }

    /// Returns the auth of the innermost layer around the request, if there is one.
    pub(crate) fn auth(extensions: &Extensions) -> Option<&LazyAuth<A>> {
        extensions.get::<Self>().map(|found| &found.auth)
    }
}

#[allow(
    dead_code,
    reason = "the layers of sessions use it, and they depend on features"
)]
impl<A> SessionUse<A> {
    /// Returns whether the response depends on the session.
    pub(crate) fn is_used(&self) -> bool {
        self.has(USED)
    }

    /// Returns whether the session can be renewed. It is not if all principals were rejected.
    pub(crate) fn is_renewable(&self) -> bool {
        self.has(ACCEPTED) || !self.has(REJECTED)
    }

    /// Returns whether a sign-in can help. It does not help a logged-in user whose request is rejected by
    /// another auth, or by the handler.
    pub(crate) fn needs_sign_in(&self) -> bool {
        self.has(REJECTED) || !self.has(ACCEPTED)
    }

    fn has(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) & state != 0
    }
}

/// Request extension that records an authentication by an auth for `A` outside of each session layer. A
/// session layer inside starts with its state, because the response depends on it.
struct UsedOutside<A> {
    state: u8,
    auth: PhantomData<fn() -> A>,
}

/// Records the result of an authentication for session layers that follow.
pub(crate) fn mark_result_outside<A: Send + Sync + 'static, T>(
    extensions: &mut Extensions,
    result: Result<&T, &Rejection>,
) {
    let has_sessions = cfg!(any(feature = "authjs", feature = "betterauth"));
    if !has_sessions || extensions.get::<SessionUse<A>>().is_some() {
        return;
    }
    let state = USED | state_of(result);
    match extensions.get_mut::<UsedOutside<A>>() {
        Some(outside) => outside.state |= state,
        None => {
            let auth = PhantomData;
            extensions.insert(UsedOutside::<A> { state, auth });
        }
    }
}

/// Marks the session of a request as used. Does nothing without a session layer.
pub(crate) fn mark_session_used<A: Send + Sync + 'static>(extensions: &Extensions) {
    mark::<A>(extensions, USED);
}

/// Records the result of an authentication by an auth for `A`. Does nothing without a session layer.
pub(crate) fn mark_result<A: Send + Sync + 'static, T>(
    extensions: &Extensions,
    result: &Result<T, Rejection>,
) {
    mark::<A>(extensions, state_of(result.as_ref()));
}

fn state_of<T>(result: Result<&T, &Rejection>) -> u8 {
    match result.map_err(Rejection::status) {
        Ok(_) | Err(StatusCode::FORBIDDEN) => ACCEPTED,
        Err(StatusCode::UNAUTHORIZED) => REJECTED,
        Err(_) => 0,
    }
}

fn mark<A: Send + Sync + 'static>(extensions: &Extensions, state: u8) {
    if let Some(found) = extensions.get::<SessionUse<A>>() {
        found.state.fetch_or(state, Ordering::Relaxed);
    }
}

impl<A> Clone for SessionUse<A> {
    fn clone(&self) -> Self {
        Self {
            auth: self.auth.clone(),
            state: self.state.clone(),
        }
    }
}

impl<A> Clone for UsedOutside<A> {
    fn clone(&self) -> Self {
        Self {
            state: self.state,
            auth: PhantomData,
        }
    }
}
