//! Providers from URLs, so that where the secrets are is a matter of configuration.

use std::sync::Arc;

use secretwell_core::{Chain, Error, ErrorKind, MemoryProvider, SecretProvider};

/// The provider that `url` names, or the chain of those that it names, separated by commas.
///
/// | URL | secrets from | feature |
/// | --- | --- | --- |
/// | `env://`, `env://APP_` | environment variables, all or those with a prefix | `env` |
/// | `file:///run/secrets` | a directory of one file for each secret | `file` |
/// | `file:///etc/app/.env`, `….json`, `….yaml`, `….toml` | one document | `file` |
/// | `infisical://host/project/environment/folder?auth=universal` | Infisical, over TLS; its crate lists the options | `infisical` |
/// | `infisical+http://127.0.0.1:8080/project/environment` | the same over plain HTTP, on this machine only | `infisical` |
/// | `vault://host:8200/mount/path?auth=approle&role=…` | Vault or OpenBao, over TLS; its crate lists the options | `vault` |
/// | `vault+http://127.0.0.1:8200/mount/path` | the same over plain HTTP, on this machine only | `vault` |
/// | `memory://` | nowhere: an empty memory, for tests | |
/// | `env://,file:///run/secrets` | the first, and for what is absent there, the second | |
///
/// A file URL may end in `?format=env|json|yaml|toml|directory` where the path does not tell, and in
/// `?permissions=strict` to refuse files that others may read (both joined by `&`).
///
/// Nothing is read yet, so a secret or a file that is not there is no error here.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`]: what in the URL is wrong, or which cargo feature it needs.
/// Credentials never belong in a URL, and one that holds any is refused.
///
/// ```
/// let provider = secretwell::from_url("env://APP_,memory://")?;
/// assert_eq!(provider.origin().as_str(), "env://APP_,memory://");
/// # Ok::<(), secretwell::Error>(())
/// ```
pub fn from_url(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    let mut providers = split_urls(url).into_iter().map(single);
    let first = providers
        .next()
        .unwrap_or_else(|| Err(invalid("there is no URL")))?;
    let mut chain = Chain::new(first.clone());
    let mut links = 1;
    for provider in providers {
        chain = chain.or_else(provider?);
        links += 1;
    }
    Ok(if links == 1 { first } else { Arc::new(chain) })
}

/// The URLs of a chain one by one, as [`from_url`] takes them: it is split at those commas that another URL
/// follows, for a path may hold commas too.
///
/// ```
/// let urls = secretwell::split_urls("env://,file:///run/a,b");
/// assert_eq!(urls, ["env://", "file:///run/a,b"]);
/// ```
pub fn split_urls(urls: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (comma, _) in urls.match_indices(',') {
        let scheme = urls[comma + 1..].split("://").next().unwrap_or_default();
        let follows = urls[comma + 1..].contains("://") && is_scheme(scheme.trim_start());
        if follows {
            parts.push(urls[start..comma].trim());
            start = comma + 1;
        }
    }
    parts.push(urls[start..].trim());
    parts
}

fn is_scheme(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '-' || c == '.';
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(letter)
}

fn single(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        invalid("a source needs a scheme")
            .with_hint("write it like `env://` or `file:///run/secrets`")
    })?;
    let (place, query) = rest
        .split_once('?')
        .map_or((rest, None), |(place, query)| (place, Some(query)));
    if place.split('/').next().unwrap_or_default().contains('@') {
        return Err(invalid("a URL must not hold credentials").with_hint(
            "take out what stands before the `@`; the backend's own variables or files hold them",
        ));
    }
    match scheme {
        "env" => env(url),
        "file" => file(url),
        "infisical" | "infisical+http" => infisical(url),
        "vault" | "vault+http" => vault(url),
        "memory" if place.is_empty() && query.is_none() => Ok(Arc::new(MemoryProvider::new())),
        "memory" => Err(invalid("`memory://` takes nothing after it")),
        _ if is_scheme(scheme) => Err(invalid(format!("there is no source `{scheme}://`"))
            .with_hint(
                "there are `env://`, `file://`, `infisical://`, `vault://` and `memory://`",
            )),
        _ => Err(invalid("the scheme before `://` is none")),
    }
}

#[cfg(feature = "env")]
fn env(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Ok(Arc::new(secretwell_env::EnvProvider::from_url(url)?))
}

#[cfg(not(feature = "env"))]
fn env(_: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Err(needs_feature("env"))
}

#[cfg(feature = "infisical")]
fn infisical(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Ok(Arc::new(secretwell_infisical::InfisicalProvider::from_url(
        url,
    )?))
}

#[cfg(not(feature = "infisical"))]
fn infisical(_: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Err(needs_feature("infisical"))
}

#[cfg(feature = "vault")]
fn vault(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Ok(Arc::new(secretwell_vault::VaultProvider::from_url(url)?))
}

#[cfg(not(feature = "vault"))]
fn vault(_: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Err(needs_feature("vault"))
}

#[cfg(feature = "file")]
fn file(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Ok(Arc::new(secretwell_file::FileProvider::from_url(url)?))
}

#[cfg(not(feature = "file"))]
fn file(_: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    Err(needs_feature("file"))
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(not(all(
    feature = "env",
    feature = "file",
    feature = "infisical",
    feature = "vault"
)))]
fn needs_feature(feature: &str) -> Error {
    invalid(format!(
        "`{feature}://` needs the cargo feature `{feature}` of secretwell"
    ))
    .with_hint(format!(
        "write `secretwell = {{ version = \"…\", features = [\"{feature}\"] }}`"
    ))
}

#[cfg(all(test, feature = "file", feature = "env"))]
mod tests {
    use super::*;

    #[test]
    fn sources_and_chains_are_made() {
        for (url, origin) in [
            ("env://", "env://"),
            ("env://APP_", "env://APP_"),
            ("memory://", "memory://"),
            ("file:///run/secrets", "file:///run/secrets"),
            ("file:///etc/my%20app/.env", "file:///etc/my app/.env"),
            (
                "file:///etc/app?format=yaml&permissions=strict",
                "file:///etc/app",
            ),
            ("file:///a,b/c", "file:///a,b/c"),
            (
                "env://, file:///run/secrets,memory://",
                "env://,file:///run/secrets,memory://",
            ),
        ] {
            assert_eq!(from_url(url).unwrap().origin().as_str(), origin);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_credentials_are_not() {
        for (url, expected) in [
            ("", "needs a scheme"),
            ("env", "needs a scheme"),
            ("redis://host", "no source `redis://`"),
            ("://x", "the scheme before"),
            ("memory://x", "takes nothing"),
            ("env://A/B", "prefix"),
            ("env://A?b", "prefix"),
            ("file://run/secrets", "absolute"),
            ("file:///a%zz", "hexadecimal"),
            ("file:///a%00", "NUL"),
            ("file:///a?mode=x", "option `mode`"),
            ("env://user:c4n4ry@host", "credentials"),
            ("env://,ftp://x", "no source `ftp://`"),
        ] {
            let error = from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(expected), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("c4n4ry"));
        }
    }
}
