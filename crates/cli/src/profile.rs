//! The configuration file `secretwell.toml`, which contains named profiles.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use secretwell::SecretKey;
use serde::Deserialize;
use toml::Spanned;

use crate::exit::{Failure, Reason};

/// A profile of the configuration file: sources, required keys and variable names.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// The URLs of the sources. A key that one source lacks is read from the next source.
    pub(crate) from: Vec<String>,
    /// Keys that must exist, in addition to all keys that the sources list.
    pub(crate) require: Vec<SecretKey>,
    /// If not empty, only these keys are read, and all of them must exist.
    pub(crate) only: Vec<SecretKey>,
    /// Keys whose secrets are used for signing or encryption.
    pub(crate) signing: Vec<SecretKey>,
    /// The variable names of single keys.
    pub(crate) map: Vec<(SecretKey, String)>,
    /// The prefix of all variable names that `map` does not set.
    pub(crate) prefix: Option<String>,
    /// Whether the other variable names are in upper case.
    pub(crate) upcase: bool,
    /// Whether `_` replaces the characters that shells do not accept in the other variable names.
    pub(crate) shell_names: bool,
    /// Whether variables that are already set are kept.
    pub(crate) keep_env: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    profile: BTreeMap<String, RawProfile>,
}

/// A profile before validation, with the position of each value.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawProfile {
    from: Vec<Spanned<String>>,
    require: Vec<Spanned<String>>,
    only: Vec<Spanned<String>>,
    signing: Vec<Spanned<String>>,
    map: BTreeMap<String, Spanned<String>>,
    prefix: Option<String>,
    upcase: bool,
    shell_names: bool,
    keep_env: bool,
}

impl Profile {
    /// Reads the profile `name` of the file at `path`.
    pub(crate) fn read(path: &Path, name: &str) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            let message = match error.kind() {
                ErrorKind::NotFound => {
                    "the configuration file does not exist; set its path with --config".into()
                }
                kind => format!("the configuration file cannot be read: {kind}"),
            };
            Failure::new(
                Reason::Configuration,
                format!("{}: {message}", path.display()),
            )
        })?;
        Self::parse(&text, name).map_err(|errors| errors.into_failure(path))
    }

    fn parse(text: &str, name: &str) -> Result<Self, FileErrors> {
        let mut errors = FileErrors(Vec::new());
        let document: Document = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line_number(text, &span));
            FileErrors(vec![(line, without_quoted_text(error.message()))])
        })?;
        let Some(raw) = document.profile.get(name) else {
            let known: Vec<_> = document.profile.keys().map(String::as_str).collect();
            let known = match known[..] {
                [] => "the file has no profiles".into(),
                _ => format!("available profiles: {}", known.join(", ")),
            };
            let message =
                format!("profile `{name}` does not exist; {known}; add a table [profile.{name}]");
            return Err(FileErrors(vec![(None, message)]));
        };

        let mut parse_keys = |raw: &[Spanned<String>]| {
            let keys = raw.iter().filter_map(|key| errors.parse_key(text, key));
            keys.collect::<Vec<_>>()
        };
        let (require, only, signing) = (
            parse_keys(&raw.require),
            parse_keys(&raw.only),
            parse_keys(&raw.signing),
        );
        let mut map = Vec::new();
        for (key, variable) in &raw.map {
            let key = Spanned::new(variable.span(), key.clone());
            let key = errors.parse_key(text, &key);
            map.extend(key.map(|key| (key, variable.as_ref().clone())));
        }
        let mut from = Vec::new();
        for url in &raw.from {
            match secretwell::from_url(url.as_ref()) {
                Ok(_) => from.push(url.as_ref().clone()),
                Err(error) => errors.push(text, &url.span(), error.to_string()),
            }
        }
        if !errors.0.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            from,
            require,
            only,
            signing,
            map,
            prefix: raw.prefix.clone(),
            upcase: raw.upcase,
            shell_names: raw.shell_names,
            keep_env: raw.keep_env,
        })
    }
}

/// The errors in a configuration file, with their line numbers if known.
#[derive(Debug)]
struct FileErrors(Vec<(Option<usize>, String)>);

impl FileErrors {
    fn push(&mut self, text: &str, span: &Range<usize>, message: String) {
        self.0.push((Some(line_number(text, span)), message));
    }

    /// Parses a key. On failure, records the error and returns `None`.
    fn parse_key(&mut self, text: &str, raw: &Spanned<String>) -> Option<SecretKey> {
        SecretKey::parse(raw.as_ref())
            .map_err(|error| self.push(text, &raw.span(), error.to_string()))
            .ok()
    }

    fn into_failure(self, path: &Path) -> Failure {
        let path = path.display();
        let problems = self.0.into_iter().map(|(line, message)| match line {
            Some(line) => format!("{path}:{line}: {message}"),
            None => format!("{path}: {message}"),
        });
        Failure::with_problems(Reason::Configuration, problems.collect())
    }
}

/// Returns the message of the parser on one line, without the text that it quotes from the file. That text
/// might be a URL with a password.
fn without_quoted_text(message: &str) -> String {
    let message = message.replace('\n', " ");
    match (message.find('"'), message.rfind('"')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}…{}", &message[..start], &message[end + 1..])
        }
        _ => message,
    }
}

/// Returns the line number of the start of `span`. The first line is 1.
fn line_number(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(span.start);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_errors(text: &str) -> Vec<(Option<usize>, String)> {
        Profile::parse(text, "production").unwrap_err().0
    }

    #[test]
    fn all_settings_of_a_profile_are_parsed() {
        let profile = Profile::parse(
            r#"
            [profile.production]
            from = ["env://", "memory://"]
            require = ["AUTH_SECRET"]
            signing = ["AUTH_SECRET"]
            prefix = "APP_"
            upcase = true
            shell_names = true
            keep_env = true
            map = { "db/PASSWORD" = "PGPASSWORD" }

            [profile.development]
            "#,
            "production",
        )
        .unwrap();
        assert_eq!(profile.from, ["env://", "memory://"]);
        assert_eq!(profile.require[0].as_str(), "AUTH_SECRET");
        assert_eq!(profile.require, profile.signing);
        assert_eq!(profile.map[0].0.as_str(), "db/PASSWORD");
        assert_eq!(profile.prefix.as_deref(), Some("APP_"));
        assert!(profile.upcase && profile.shell_names && profile.keep_env);
    }

    #[test]
    fn all_invalid_values_are_reported_with_line_numbers() {
        let errors = parse_errors(
            "[profile.production]\nfrom = [\n  \"env://\",\n  \"ftp://user:c4n4ry@host\",\n]\n\
             require = [\"a//b\"]\nmap = { \"..\" = \"X\" }\n",
        );
        let lines: Vec<_> = errors.iter().filter_map(|(line, _)| *line).collect();
        assert_eq!(lines, [6, 7, 4]);
        assert!(!format!("{errors:?}").contains("c4n4ry"));
    }

    #[test]
    fn invalid_files_and_missing_profiles_are_reported() {
        for (text, line, message) in [
            ("[profile.production]\nform = []", Some(2), "unknown field"),
            ("x = 1", Some(1), "unknown field"),
            ("[profile.production", Some(1), "unclosed table"),
            (
                "[profile.production]\nfrom = \"vault://user:c4n4ry@host\"",
                Some(2),
                "string …, expected a sequence",
            ),
            ("[profile.staging]", None, "available profiles: staging"),
            ("", None, "the file has no profiles"),
        ] {
            let errors = parse_errors(text);
            assert_eq!(errors[0].0, line, "{errors:?}");
            assert!(errors[0].1.contains(message), "{errors:?}");
        }
    }
}
