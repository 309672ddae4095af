//! Creation of a provider from a `file://` URL.

use std::collections::HashSet;
use std::time::Duration;

use secretwell_core::{Error, ErrorKind};

use crate::config::{Dialect, Format, Layout, MAX_REWRITE_GRACE};
use crate::provider::FileProvider;

/// The options and their values, for error messages.
const OPTIONS: [(&str, &str); 7] = [
    ("format", "env, json, yaml, toml or directory"),
    ("dialect", "strict, node, docker or shell"),
    ("permissions", "strict"),
    ("encrypted", "accept"),
    ("newline", "keep"),
    ("max_bytes", "a number of bytes"),
    (
        "rewrite_grace",
        "a time of at most 1 h, such as `30s` or `5m`",
    ),
];

impl FileProvider {
    /// Creates a provider from a URL: `file:///run/secrets`, or `file:///etc/app/config?format=yaml`.
    ///
    /// | option | meaning |
    /// | --- | --- |
    /// | `format=env`, `json`, `yaml`, `toml`, `directory` | [`format`](Self::format), or [`directory`](Self::directory); by default the extension of the path decides, as in [`new`](Self::new) |
    /// | `dialect=strict`, `node`, `docker`, `shell` | [`dialect`](Self::dialect) of a `.env` document |
    /// | `permissions=strict` | [`strict_permissions`](Self::strict_permissions) |
    /// | `encrypted=accept` | [`accept_encrypted`](Self::accept_encrypted) |
    /// | `newline=keep` | [`keep_trailing_newline`](Self::keep_trailing_newline) of a directory |
    /// | `max_bytes=4096` | [`max_bytes`](Self::max_bytes) |
    /// | `rewrite_grace=30s` | [`rewrite_grace`](Self::rewrite_grace): a number with the unit `ms`, `s`, `m` or `h` |
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the part of the URL that is invalid. An option that has no effect on this
    /// place, or that is given twice, is invalid too.
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
    let mut options = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .map(|option| option.split_once('=').unwrap_or((option, "")))
        .collect::<Vec<_>>();
    let mut names = HashSet::new();
    if let Some((name, _)) = options.iter().find(|(name, _)| !names.insert(*name)) {
        return Err(invalid(format!(
            "the option `{}` is given twice",
            name.escape_debug()
        )));
    }
    let format = options.iter().position(|(name, _)| *name == "format");
    let provider = match format.map(|index| options.remove(index).1) {
        None => FileProvider::new(path),
        Some("directory") => FileProvider::directory(path),
        Some(format) => FileProvider::document(path)
            .format(parse_format(format).ok_or_else(|| invalid_option("format"))?),
    };
    options.into_iter().try_fold(provider, apply)
}

fn apply(provider: FileProvider, (name, value): (&str, &str)) -> Result<FileProvider, Error> {
    let parsed = match name {
        "dialect" => {
            require(
                provider.config().document_format() == Some(Format::Env),
                name,
                "a `.env` document",
            )?;
            parse_dialect(value).map(|it| provider.dialect(it))
        }
        "permissions" => (value == "strict").then(|| provider.strict_permissions()),
        "encrypted" => (value == "accept").then(|| provider.accept_encrypted()),
        "newline" => {
            require(
                provider.config().layout == Layout::Directory,
                name,
                "a directory",
            )?;
            (value == "keep").then(|| provider.keep_trailing_newline())
        }
        "max_bytes" => value.parse().ok().map(|bytes| provider.max_bytes(bytes)),
        "rewrite_grace" => parse_time(value)
            .filter(|time| *time <= MAX_REWRITE_GRACE)
            .map(|time| provider.rewrite_grace(time)),
        _ => None,
    };
    parsed.ok_or_else(|| invalid_option(name))
}

/// Returns an error if an option has no effect.
fn require(has_effect: bool, name: &str, place: &str) -> Result<(), Error> {
    match has_effect {
        true => Ok(()),
        false => Err(
            invalid(format!("the option `{name}` has an effect on {place} only"))
                .with_hint("remove it, or set `format`"),
        ),
    }
}

fn invalid_option(name: &str) -> Error {
    match OPTIONS.iter().find(|(option, _)| *option == name) {
        Some((_, values)) => invalid(format!("the value of the option `{name}` is not valid"))
            .with_hint(format!("use {values}")),
        None => {
            let options = OPTIONS.map(|(option, _)| format!("`{option}`")).join(", ");
            let name = name.escape_debug();
            invalid(format!("the option `{name}` is not valid for `file://`"))
                .with_hint(format!("use one of {options}"))
        }
    }
}

fn parse_format(text: &str) -> Option<Format> {
    let formats = [Format::Env, Format::Json, Format::Yaml, Format::Toml];
    formats
        .into_iter()
        .find(|format| format.to_string() == text)
}

fn parse_dialect(text: &str) -> Option<Dialect> {
    Some(match text {
        "strict" => Dialect::Strict,
        "node" => Dialect::Node,
        "docker" => Dialect::Docker,
        "shell" => Dialect::Shell,
        _ => return None,
    })
}

/// Parses a whole number with a unit, such as `30s`.
fn parse_time(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_millis(number.checked_mul(millis)?))
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
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(digits[0])
            .zip(digit(digits[1]))
            .map(|(high, low)| high * 16 + low);
        let value = value.and_then(|it| u8::try_from(it).ok());
        bytes.push(value.ok_or_else(invalid_escape)?);
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
