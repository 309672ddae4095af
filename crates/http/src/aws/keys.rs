//! The keys that sign requests to AWS.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use secretwell_core::{Error, SecretValue};

use crate::credential::{trim_setting, trimmed};
use crate::error::invalid;

/// The keys of an AWS user or role.
///
/// White space around a key is ignored.
#[derive(Debug, Clone)]
pub struct AwsKeys {
    id: String,
    secret: SecretValue,
    session_token: Option<SecretValue>,
}

impl AwsKeys {
    /// Creates keys from an access key id and its secret access key.
    pub fn new(access_key_id: &str, secret_access_key: impl Into<SecretValue>) -> Self {
        Self {
            id: trim_setting(access_key_id).to_owned(),
            secret: trimmed(secret_access_key.into().expose_bytes()).into(),
            session_token: None,
        }
    }

    /// Sets the session token, which belongs to temporary keys.
    #[must_use]
    pub fn with_session_token(mut self, token: impl Into<SecretValue>) -> Self {
        self.session_token = Some(trimmed(token.into().expose_bytes()).into());
        self
    }

    /// Returns the access key id, which is not secret.
    pub fn access_key_id(&self) -> &str {
        &self.id
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.expose_bytes()
    }

    pub(super) fn session_token(&self) -> Option<&[u8]> {
        self.session_token.as_ref().map(SecretValue::expose_bytes)
    }
}

/// Where the keys for requests to AWS come from. They are read again for each login.
///
/// There is no support for the credentials of an instance, a container or a profile. A closure can get them
/// from the official SDK:
///
/// ```
/// use secretwell_http::{AwsCredentials, AwsKeys};
///
/// # async fn keys_of_the_sdk() -> Result<(String, String, String), secretwell_core::Error> {
/// #     Ok(("id".into(), "secret".into(), "token".into()))
/// # }
/// let credentials = AwsCredentials::from_fn(|| async {
///     let (id, secret, token) = keys_of_the_sdk().await?;
///     Ok(AwsKeys::new(&id, secret).with_session_token(token))
/// });
/// ```
#[derive(Clone)]
pub struct AwsCredentials(Source);

#[derive(Clone)]
enum Source {
    Keys(AwsKeys),
    Variables,
    Function(Arc<ReadFn>),
}

type ReadFn =
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<AwsKeys, Error>> + Send>> + Send + Sync;

impl AwsCredentials {
    /// The variables that [`from_env`](Self::from_env) reads.
    pub const VARIABLES: [&str; 3] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ];

    /// Creates credentials with fixed keys.
    pub fn keys(keys: AwsKeys) -> Self {
        Self(Source::Keys(keys))
    }

    /// Creates credentials that are read from the variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
    /// `AWS_SESSION_TOKEN`. The last one is optional.
    pub fn from_env() -> Self {
        Self(Source::Variables)
    }

    /// Creates credentials from a closure that is called for each login.
    ///
    /// The closure should return an error of the kind
    /// [`ErrorKind::Unavailable`](secretwell_core::ErrorKind::Unavailable) if it can succeed later. Its error
    /// must not contain a secret.
    pub fn from_fn<F, Fut>(read: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<AwsKeys, Error>> + Send + 'static,
    {
        Self(Source::Function(Arc::new(move || Box::pin(read()))))
    }

    /// Returns the current keys.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if a variable is missing.
    /// - The error of the closure.
    pub async fn read(&self) -> Result<AwsKeys, Error> {
        match &self.0 {
            Source::Keys(keys) => Ok(keys.clone()),
            Source::Variables => from_variables(&|name| std::env::var(name).ok()),
            Source::Function(read) => read().await,
        }
    }
}

/// Omits the keys.
impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Keys(_) => "AwsCredentials::Keys",
            Source::Variables => "AwsCredentials::Variables",
            Source::Function(_) => "AwsCredentials::Function",
        })
    }
}

fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<AwsKeys, Error> {
    let get = |name: &str| variable(name).filter(|value| !trim_setting(value).is_empty());
    let required = |name: &str| {
        get(name).ok_or_else(|| {
            invalid(format!("the variable `{name}` is not set"))
                .with_hint("set it, or pass other AWS credentials to the login")
        })
    };
    let [id, secret, token] = AwsCredentials::VARIABLES;
    let keys = AwsKeys::new(&required(id)?, required(secret)?);
    Ok(match get(token) {
        Some(token) => keys.with_session_token(token),
        None => keys,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_trimmed_and_missing_ones_are_named() {
        let all = [
            ("AWS_ACCESS_KEY_ID", "\u{FEFF} id\n"),
            ("AWS_SECRET_ACCESS_KEY", "secret\r\n"),
            ("AWS_SESSION_TOKEN", "token\n"),
        ];
        let read = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            from_variables(&|name| {
                let (_, value) = set.iter().find(|(known, _)| *known == name)?;
                Some((*value).to_owned())
            })
        };
        let keys = read(&all).unwrap();
        assert_eq!(
            (keys.access_key_id(), keys.secret()),
            ("id", &b"secret"[..])
        );
        assert_eq!(keys.session_token(), Some(&b"token"[..]));
        assert_eq!(read(&all[..2]).unwrap().session_token(), None);
        let error = read(&all[..1]).unwrap_err();
        assert!(
            error.to_string().contains("`AWS_SECRET_ACCESS_KEY`"),
            "{error}"
        );
        assert!(!format!("{:?}", AwsCredentials::keys(keys)).contains("secret"));
    }
}
