//! Code that both PostgreSQL pools use.

/// Returns whether PostgreSQL reports with the SQLSTATE `code` that it does not accept the credentials of a login.
///
/// It reports 28P01 for a wrong or expired password and usually for a role that does not exist, and 28000 for a role
/// that was dropped or must not log in.
pub(crate) fn rejects_credentials(code: &str) -> bool {
    matches!(code, "28P01" | "28000")
}
