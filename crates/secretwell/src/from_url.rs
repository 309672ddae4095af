//! Creation of providers from URLs, so that the sources of secrets are part of the configuration.

use std::borrow::Cow;
use std::sync::Arc;

use secretwell_core::{Chain, Error, ErrorKind, MemoryProvider, SecretProvider};

/// Creates a provider from a URL, or a [`Chain`] of providers from several URLs separated by commas.
///
/// | URL | source | feature |
/// | --- | --- | --- |
/// | `env://`, `env://APP_` | environment variables: all, or those with a prefix | `env` |
/// | `file:///run/secrets` | a directory with one file per secret | `file` |
/// | `file:///etc/app/.env`, `….json`, `….yaml`, `….toml` | one document | `file` |
/// | `infisical://host/project/environment/folder?auth=universal` | Infisical over TLS | `infisical` |
/// | `infisical+http://127.0.0.1:8080/project/environment` | Infisical over plain HTTP, on this machine only | `infisical` |
/// | `vault://host:8200/mount/path?auth=approle&role_id=…` | Vault or OpenBao over TLS | `vault` |
/// | `vault+http://127.0.0.1:8200/mount/path` | Vault or OpenBao over plain HTTP, on this machine only | `vault` |
/// | `memory://` | an empty [`MemoryProvider`], for tests | |
/// | `env://,file:///run/secrets` | a chain: keys that are missing in the first source are read from the second | |
///
/// The crates `secretwell-env`, `secretwell-infisical` and `secretwell-vault` list the options of their URLs. The
/// options of a file URL are joined by `&`:
///
/// - `format=env|json|yaml|toml|directory` sets the format if the path does not determine it.
/// - `dialect=strict|node|docker|shell` sets the dialect of a `.env` document.
/// - `encrypted=accept` accepts values that a tool left encrypted.
/// - `newline=keep` keeps a newline at the end of a file in a directory.
/// - `permissions=strict` rejects files that other users can access.
/// - `max_bytes=4096` sets the size limit of a file.
/// - `rewrite_grace=30s` sets the time after which an emptied file counts as empty.
///
/// This function does no I/O. A missing secret or file is therefore not an error here.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] if the URL is invalid, contains credentials, or needs a cargo feature that is
/// not enabled. Credentials must never be part of a URL.
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
        .unwrap_or_else(|| Err(invalid("the URL is empty")))?;
    let mut chain = Chain::new(first.clone());
    let mut links = 1;
    for provider in providers {
        chain = chain.or_else(provider?);
        links += 1;
    }
    Ok(if links == 1 { first } else { Arc::new(chain) })
}

/// Returns the names of the environment variables that [`from_url`] searches for the credentials of logins, for one
/// URL or several URLs separated by commas.
///
/// A program that starts other programs can remove these variables from their environment. A variable in the list
/// might not be set. Variables that contain an address, an id or the path of a file are not in the list.
///
/// # Errors
/// The same as those of [`from_url`], for the URLs of sources that log in.
///
/// ```
/// # fn main() -> Result<(), secretwell::Error> {
/// # #[cfg(feature = "vault")] {
/// let names = secretwell::credential_variables("env://,vault://host/secret/app?auth=token")?;
/// assert_eq!(names, ["BAO_TOKEN", "VAULT_TOKEN"]);
/// # }
/// # Ok(())
/// # }
/// ```
pub fn credential_variables(urls: &str) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for url in split_urls(urls) {
        for name in credential_variables_of_one(url)? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

fn credential_variables_of_one(url: &str) -> Result<Vec<String>, Error> {
    let (scheme, _) = url.split_once("://").unwrap_or_default();
    Ok(match scheme {
        #[cfg(feature = "infisical")]
        "infisical" | "infisical+http" => secretwell_infisical::InfisicalBuilder::from_url(url)?
            .credential_variables()
            .to_vec(),
        #[cfg(feature = "vault")]
        "vault" | "vault+http" => secretwell_vault::VaultBuilder::from_url(url)?
            .credential_variables()
            .to_vec(),
        _ => Vec::new(),
    })
}

/// Splits a comma-separated list of URLs in the same way as [`from_url`].
///
/// A comma separates two URLs only if a scheme and `://` follow it, because paths can contain commas too.
///
/// ```
/// use secretwell::split_urls;
///
/// let urls = split_urls("env://,file:///run/a,b");
/// assert_eq!(urls, ["env://", "file:///run/a,b"]);
/// ```
pub fn split_urls(urls: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (comma, _) in urls.match_indices(',') {
        let next = &urls[comma + 1..];
        let scheme = next.split("://").next().unwrap_or_default();
        if next.contains("://") && is_scheme(scheme.trim_start()) {
            parts.push(urls[start..comma].trim());
            start = comma + 1;
        }
    }
    parts.push(urls[start..].trim());
    parts
}

fn is_scheme(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '-' || c == '.';
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_allowed)
}

/// Creates the provider of one URL.
fn single(url: &str) -> Result<Arc<dyn SecretProvider>, Error> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        invalid("a source URL must start with a scheme")
            .with_hint("use a URL such as `env://` or `file:///run/secrets`")
    })?;
    let (location, query) = rest
        .split_once('?')
        .map_or((rest, None), |(location, query)| (location, Some(query)));
    if location.split('/').next().unwrap_or_default().contains('@') {
        return Err(invalid("a URL must not contain credentials").with_hint(
            "remove the part before the `@`; set credentials in the variables or files of the backend",
        ));
    }
    match scheme {
        "env" => env(url),
        "file" => file(url),
        "infisical" | "infisical+http" => infisical(url),
        "vault" | "vault+http" => vault(url),
        "memory" if location.is_empty() && query.is_none() => Ok(Arc::new(MemoryProvider::new())),
        "memory" => Err(invalid("`memory://` accepts no path and no options")),
        _ if is_scheme(scheme) => Err(invalid(format!("unknown scheme `{scheme}://`"))
            .with_hint(
                "use `env://`, `file://`, `infisical://`, `vault://` or `memory://`; for a server with plain HTTP, \
                 `infisical+http://` or `vault+http://`",
            )),
        _ => Err(invalid("the text before `://` is not a valid scheme")
            .with_hint("use a URL such as `env://` or `file:///run/secrets`")),
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

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
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
        "enable it in Cargo.toml: `secretwell = {{ version = \"…\", features = [\"{feature}\"] }}`"
    ))
}

#[cfg(all(test, feature = "file", feature = "env"))]
mod tests {
    use super::*;

    #[test]
    fn urls_create_providers_and_chains() {
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
    fn invalid_urls_are_rejected_without_printing_credentials() {
        for (url, expected) in [
            ("", "must start with a scheme"),
            ("env", "must start with a scheme"),
            ("redis://host", "unknown scheme `redis://`"),
            ("http://host", "`infisical+http://` or `vault+http://`"),
            ("://x", "not a valid scheme"),
            ("memory://x", "accepts no path"),
            ("env://A/B", "prefix"),
            ("env://A?b", "prefix"),
            ("file://run/secrets", "absolute"),
            ("file:///a%zz", "hexadecimal"),
            ("file:///a%00", "NUL"),
            ("file:///a?mode=x", "option `mode`"),
            ("env://user:c4n4ry@host", "credentials"),
            ("env://,ftp://x", "unknown scheme `ftp://`"),
        ] {
            let error = from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(expected), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("c4n4ry"));
        }
    }
}
