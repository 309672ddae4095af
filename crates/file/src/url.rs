//! Creation of a provider from a `file://` URL.

use secretwell_core::{Error, ErrorKind};

use crate::config::Format;
use crate::provider::FileProvider;

impl FileProvider {
    /// Creates a provider from a URL: `file:///run/secrets`, or `file:///etc/app/config?format=yaml`.
    ///
    /// The options are `format=env|json|yaml|toml|directory`, `permissions=strict` and `encrypted=accept`. Without
    /// `format`, the extension of the path decides, as in [`new`](Self::new).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the part of the URL that is invalid.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let rest = url.strip_prefix("file://").ok_or_else(|| {
            invalid("the URL does not start with `file://`")
                .with_hint("write it like `file:///run/secrets`")
        })?;
        let (path, query) = rest
            .split_once('?')
            .map_or((rest, None), |(path, query)| (path, Some(query)));
        from_parts(path, query)
    }
}

fn from_parts(path: &str, query: Option<&str>) -> Result<FileProvider, Error> {
    if !path.starts_with('/') {
        return Err(invalid("the path is not absolute")
            .with_hint("write three slashes, like `file:///run/secrets`"));
    }
    let path = percent_decoded(path)?;
    let mut format = None;
    let mut strict = false;
    let mut accept_encrypted = false;
    for option in query.into_iter().flat_map(|query| query.split('&')) {
        match option {
            "format=directory" => format = Some(None),
            "format=env" => format = Some(Some(Format::Env)),
            "format=json" => format = Some(Some(Format::Json)),
            "format=yaml" => format = Some(Some(Format::Yaml)),
            "format=toml" => format = Some(Some(Format::Toml)),
            "permissions=strict" => strict = true,
            "encrypted=accept" => accept_encrypted = true,
            "encrypted=refuse" => accept_encrypted = false,
            _ => {
                let name: String = option
                    .split('=')
                    .next()
                    .unwrap_or_default()
                    .escape_debug()
                    .collect();
                return Err(invalid(format!(
                    "the option `{name}` or its value is not valid for `file://`"
                ))
                .with_hint(
                    "use `format=env|json|yaml|toml|directory`, `permissions=strict` or `encrypted=accept`",
                ));
            }
        }
    }
    let provider = match format {
        None => FileProvider::new(path),
        Some(None) => FileProvider::directory(path),
        Some(Some(format)) => FileProvider::document(path).format(format),
    };
    let provider = match strict {
        true => provider.strict_permissions(),
        false => provider,
    };
    Ok(match accept_encrypted {
        true => provider.accept_encrypted(),
        false => provider,
    })
}

/// Returns `path` with its percent-encoded bytes decoded.
fn percent_decoded(path: &str) -> Result<String, Error> {
    let invalid_escape = || invalid("a `%` in the path is not followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(invalid_escape)?;
        let digits = std::str::from_utf8(digits).map_err(|_| invalid_escape())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| invalid_escape())?);
        rest = after;
    }
    match String::from_utf8(bytes) {
        Ok(path) if !path.contains('\0') => Ok(path),
        _ => Err(invalid("the path is not UTF-8 text or contains a NUL")),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}
