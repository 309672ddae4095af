//! The errors of tokens and of their claims.

/// The reason why a token cannot be decoded or created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text is not a session token, or its claims are invalid.
    ///
    /// This is also the error of a token that cannot be created.
    #[error("not a valid session token")]
    Malformed,
    /// The token names a key that is not in the key ring. Or it names none, and no key verifies it.
    ///
    /// The secret might have been rotated at the application, the application might use another secret, or
    /// the token is forged.
    #[error("no secret of the key ring has created the session token")]
    UnknownKey,
    /// The token names a key of the ring, which does not verify it. The token was modified.
    #[error("the session token does not match the secret that it names")]
    Forged,
    /// The `exp` time of the token has passed.
    #[error("the session token has expired")]
    Expired,
    /// The cache has another version than the service expects. The application raises the version to end
    /// all caches.
    #[error("the session cache has another version")]
    OtherVersion,
    /// The cache belongs to another session than the token beside it.
    #[error("the session cache belongs to another session token")]
    OtherToken,
    /// The session does not fit into its cookies, or servers would reject a request with these cookies.
    #[error(
        "the session is too large for its cookies; reduce the claims, or raise the maximum size of the cookie"
    )]
    TooLarge,
    /// The `nbf` time of the token is in the future.
    #[error("the session token is not valid yet")]
    NotYetValid,
    /// The token is authentic and valid, but its claims do not fit the requested type.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
}

impl TokenError {
    /// Returns how much this error explains, if a request has several tokens that cannot be used.
    fn rank(&self) -> u8 {
        match self {
            Self::Claims(_) => 2,
            Self::UnknownKey => 1,
            _ => 0,
        }
    }
}

/// The reason why the claims of an authentic token do not fit the requested type.
///
/// It contains names of claims, and no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} not fit the type: {problem}", self.subject())]
#[non_exhaustive]
pub struct ClaimsError {
    /// The path of the claim, such as `user.roles[0]`. Keys of maps are replaced by `*`.
    ///
    /// `None` if it is not known which claim does not fit.
    pub field: Option<String>,
    /// What the type expects, and which kind of value the claim has.
    pub problem: String,
}

impl ClaimsError {
    fn subject(&self) -> String {
        match &self.field {
            Some(field) => format!("the claim `{field}` does"),
            None => "the claims do".to_owned(),
        }
    }
}

/// A token that was rejected. It has no `Debug`, because the token might be valid elsewhere.
pub(super) struct Rejected {
    pub(super) token: String,
    pub(super) error: TokenError,
}

/// Decodes the session tokens of a request until one is valid, and returns it. If none is valid, returns
/// the one whose error explains the most. Returns `None` if there are no tokens.
pub(super) fn first_valid<T>(
    tokens: impl IntoIterator<Item = String>,
    mut decode: impl FnMut(&str) -> Result<T, TokenError>,
) -> Result<Option<T>, Rejected> {
    let mut rejected: Option<Rejected> = None;
    for token in tokens {
        match decode(&token) {
            Ok(session) => return Ok(Some(session)),
            Err(error) => {
                let rank = rejected.as_ref().map(|rejected| rejected.error.rank());
                if rank.is_none_or(|rank| rank < error.rank()) {
                    rejected = Some(Rejected { token, error });
                }
            }
        }
    }
    rejected.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_token_wins_and_otherwise_the_error_that_explains_most() {
        let claims = || {
            TokenError::Claims(ClaimsError {
                field: Some("role".to_owned()),
                problem: "it is missing".to_owned(),
            })
        };
        let decode = |token: &str| match token {
            "valid" => Ok("valid"),
            "claims" => Err(claims()),
            "unknown" => Err(TokenError::UnknownKey),
            "expired" => Err(TokenError::Expired),
            _ => Err(TokenError::Malformed),
        };
        let outcome = |tokens: &[&str]| {
            let tokens = tokens.iter().map(|token| (*token).to_owned());
            first_valid(tokens, decode).map_err(|rejected| rejected.error)
        };
        assert_eq!(outcome(&[]), Ok(None));
        assert_eq!(outcome(&["x", "claims", "valid"]), Ok(Some("valid")));
        assert_eq!(outcome(&["unknown", "claims", "x"]), Err(claims()));
        assert_eq!(outcome(&["claims", "unknown"]), Err(claims()));
        assert_eq!(
            outcome(&["x", "unknown", "expired"]),
            Err(TokenError::UnknownKey)
        );
        assert_eq!(outcome(&["expired", "x"]), Err(TokenError::Expired));
        assert_eq!(outcome(&["x", "expired"]), Err(TokenError::Malformed));
    }

    #[test]
    fn error_of_claims_names_the_field() {
        let error = |field: Option<&str>| ClaimsError {
            field: field.map(str::to_owned),
            problem: "it is missing".to_owned(),
        };
        assert_eq!(
            TokenError::from(error(Some("user.role"))).to_string(),
            "the claim `user.role` does not fit the type: it is missing"
        );
        assert_eq!(
            error(None).to_string(),
            "the claims do not fit the type: it is missing"
        );
    }
}
