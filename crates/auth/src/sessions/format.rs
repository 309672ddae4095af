//! [`HasSessions`] and [`SessionFormat`]: what [`SessionLayer`](super::SessionLayer) needs of the sessions
//! of one library.

use std::time::Duration;

use super::TokenError;

/// A type that contains the sessions of one application.
///
/// It is the type that a [`LazyAuth`](crate::LazyAuth) builds. The types `Sessions` of both libraries
/// implement it. A service implements it for its own type in two cases:
///
/// - One [`LazyAuth`](crate::LazyAuth) builds the sessions together with other values.
/// - One router serves the sessions of several applications. Each has its own type, and the argument of
///   a handler selects the application by this type. Each must have its own secret. With the same secret, a
///   session of one application can be valid in the others.
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use secretwell::auth::sessions::HasSessions;
/// use secretwell::auth::sessions::authjs::{Session, Sessions};
/// use secretwell::auth::{Auth, LazyAuth};
/// use serde::Deserialize;
///
/// /// The application of the employees. Customers have another one, with its own secret.
/// struct Staff(Sessions);
///
/// impl HasSessions for Staff {
///     type Sessions = Sessions;
///
///     fn sessions(&self) -> &Sessions {
///         &self.0
///     }
/// }
///
/// #[derive(Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// async fn customer(Auth(session): Auth<Session<User>>) -> String {
///     session.claims.name
/// }
///
/// async fn employee(Auth(session): Auth<Session<User, Staff>>) -> String {
///     session.claims.name
/// }
///
/// fn router(customers: &LazyAuth<Sessions>, staff: &LazyAuth<Staff>) -> Router {
///     Router::new()
///         .route("/me", get(customer))
///         .route("/staff/me", get(employee))
///         .layer(customers.session_layer())
///         .layer(staff.session_layer())
/// }
/// ```
pub trait HasSessions: Send + Sync + 'static {
    /// The reader and writer of the sessions. It also selects the library.
    type Sessions: SessionFormat;

    /// Returns the reader and writer of the sessions.
    fn sessions(&self) -> &Self::Sessions;
}

/// The sessions of one library, as [`SessionLayer`](super::SessionLayer) uses them.
///
/// The types `Sessions` of the libraries implement this trait. Other crates cannot implement it.
pub trait SessionFormat: Sealed + Send + Sync + 'static {
    /// Returns the `Set-Cookie` headers that renew the session in a `Cookie` header, if it expires in
    /// less than `remaining`. Returns no headers if `cookies` has no valid session.
    ///
    /// # Errors
    /// Returns [`TokenError`] if the session cannot be renewed.
    fn renew(&self, cookies: &str, remaining: Duration) -> Result<Vec<String>, TokenError>;

    /// Returns whether a cookie of this name contains the session or a part of it.
    fn is_session_cookie(&self, name: &str) -> bool;

    /// Returns whether a session can also be in the `Authorization` header of a request.
    fn accepts_bearer(&self) -> bool;
}

/// Restricts [`SessionFormat`] to this crate.
pub trait Sealed {}
