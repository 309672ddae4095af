//! The error of tokens.

/// The reason why a token cannot be decoded or created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text is not a session token, its claims are invalid, or its `nbf` time is in the future.
    ///
    /// This is also the error of a token that cannot be created.
    #[error("not a valid session token")]
    Malformed,
    /// No secret of the key ring created this token, or the token was modified.
    ///
    /// The two cases are not distinguished, because the difference would help an attacker.
    #[error("the session token does not match any secret of the key ring")]
    Forged,
    /// The `exp` time of the token has passed.
    #[error("the session token has expired")]
    Expired,
    /// The session does not fit into its cookies, or servers would reject a request with these cookies.
    #[error(
        "the session is too large for its cookies; reduce the claims, or raise the maximum size of the cookie"
    )]
    TooLarge,
}
