//! Custom logins.

use std::fmt;

use async_trait::async_trait;
use secretwell_core::{Error, ErrorKind, SecretValue};
use serde::de::IgnoredAny;

use crate::recognition::parse_object;

/// A custom login: it creates the body of the login request, again for each login. Closures implement it.
///
/// ```
/// use secretwell_core::{Error, SecretValue};
/// use secretwell_http::LoginBody;
///
/// fn cloud_login() -> impl LoginBody {
///     || async { Ok(SecretValue::from(r#"{"role":"app","jwt":"..."}"#)) }
/// }
/// ```
#[async_trait]
pub trait LoginBody: Send + Sync + 'static {
    /// Returns the JSON object that the login request sends.
    ///
    /// # Errors
    /// The error of the login. It should be of the kind [`ErrorKind::Unavailable`] if the next login can
    /// succeed. It must not contain a secret.
    async fn body(&self) -> Result<SecretValue, Error>;
}

#[async_trait]
impl<F, Fut> LoginBody for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<SecretValue, Error>> + Send,
{
    async fn body(&self) -> Result<SecretValue, Error> {
        self().await
    }
}

impl dyn LoginBody {
    /// Returns the [`body`](LoginBody::body), and checks it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if it is not a JSON object, or the error of the login.
    pub async fn checked(&self) -> Result<SecretValue, Error> {
        let body = self.body().await?;
        if parse_object::<IgnoredAny>(body.expose_bytes()).is_some() {
            return Ok(body);
        }
        let message = "the body of the custom login is not a JSON object";
        Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(
            "return the JSON text that the server expects, such as that of `json_object`",
        ))
    }
}

/// Omits what the login consists of.
impl fmt::Debug for dyn LoginBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginBody")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn body_that_is_not_a_json_object_is_refused() {
        for (text, is_valid) in [
            (" {\"jwt\": \"a\"}\n", true),
            ("{}", true),
            ("{", false),
            ("[]", false),
            ("eyJ.eyJ.a", false),
        ] {
            let login: Box<dyn LoginBody> = Box::new(move || async move { Ok(text.into()) });
            let result = login.checked().await;
            assert_eq!(result.is_ok(), is_valid, "{text}");
            let kind = result.err().map(|error| error.kind());
            assert!(matches!(kind, None | Some(ErrorKind::InvalidConfig)));
        }
    }
}
