//! The profiles of a configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use secretwell::SecretKey;
use serde::Deserialize;
use toml::Spanned;

use crate::config_file::ConfigFile;
use crate::exit::{Failure, Reason};
use crate::suggest::closest;
use crate::urls::absolute_urls;
use crate::variables::Naming;

/// A profile of the configuration file: sources, required keys and variable names.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// The URLs of the sources, with absolute paths. A key that one source lacks is read from the next source.
    pub(crate) from: Vec<String>,
    /// Keys that must exist, in addition to all keys that the sources list.
    pub(crate) require: Vec<SecretKey>,
    /// If not empty, only these keys are read, and all of them must exist.
    pub(crate) only: Vec<SecretKey>,
    /// Keys whose secrets are used for signing or encryption.
    pub(crate) signing: Vec<SecretKey>,
    /// Keys whose secrets are not used for signing or encryption, although their names suggest it.
    pub(crate) unchecked: Vec<SecretKey>,
    /// The variable names of single keys.
    pub(crate) map: Vec<(SecretKey, String)>,
    /// The prefix of all variable names that `map` does not set.
    pub(crate) prefix: Option<String>,
    /// The names of the variables that hold the secrets before the last rotation.
    pub(crate) previous: Vec<(SecretKey, String)>,
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
#[serde(deny_unknown_fields, default, expecting = "a table of settings")]
struct RawProfile {
    from: Vec<Spanned<String>>,
    require: Vec<Spanned<String>>,
    only: Vec<Spanned<String>>,
    signing: Vec<Spanned<String>>,
    unchecked: Vec<Spanned<String>>,
    map: BTreeMap<String, Spanned<String>>,
    prefix: Option<Spanned<String>>,
    previous: BTreeMap<String, Spanned<String>>,
    upcase: bool,
    shell_names: bool,
    keep_env: bool,
}

impl Profile {
    /// Reads the profile `name` of `file`.
    pub(crate) fn read(file: &ConfigFile, name: &str) -> Result<Self, Failure> {
        let folder = file.path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        Self::parse(&file.text, name, folder).map_err(|errors| errors.into_failure(&file.path))
    }

    /// Parses the profile `name`. Relative paths are those of `folder`.
    fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, FileErrors> {
        let mut errors = FileErrors(Vec::new());
        let document = Document::parse(text)?;
        let Some(raw) = document.profile.get(name) else {
            let known = document.profile.keys();
            let known: Vec<_> = known.map(|name| name.escape_debug().to_string()).collect();
            let name = name.escape_debug();
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
        let (require, only) = (parse_keys(&raw.require), parse_keys(&raw.only));
        let (signing, unchecked) = (parse_keys(&raw.signing), parse_keys(&raw.unchecked));
        for key in raw.unchecked.iter().filter(|key| {
            let is_same = |other: &Spanned<String>| other.as_ref() == key.as_ref();
            raw.signing.iter().any(is_same)
        }) {
            let message = format!("`{}` is in `signing` too; remove one of them", key.as_ref());
            errors.push(text, &key.span(), message);
        }
        let mut map = Vec::new();
        for (key, variable) in &raw.map {
            let key = Spanned::new(variable.span(), key.clone());
            let key = errors.parse_key(text, &key);
            if !is_variable_name(variable.as_ref()) {
                errors.push(text, &variable.span(), VARIABLE_NAME.to_owned());
            }
            map.extend(key.map(|key| (key, variable.as_ref().clone())));
        }
        if let Some(prefix) = raw
            .prefix
            .as_ref()
            .filter(|it| it.as_ref().contains(['=', '\0']))
        {
            let message = "the prefix of variable names must not contain `=` or NUL";
            errors.push(text, &prefix.span(), message.to_owned());
        }
        let mut from = Vec::new();
        for raw in &raw.from {
            let url = absolute_urls(raw.as_ref(), folder).and_then(|url| {
                secretwell::from_url(&url)?;
                Ok(url)
            });
            match url {
                Ok(url) => from.push(url),
                Err(failure) => errors.push(text, &raw.span(), failure.problems().join("; ")),
            }
        }
        let prefix = raw.prefix.as_ref().map(|it| it.as_ref().clone());
        let mut naming = Naming::new(prefix.as_deref().unwrap_or_default(), map.clone());
        (naming.upcase, naming.shell_names) = (raw.upcase, raw.shell_names);
        let previous = raw.parse_previous(text, &naming, &mut errors);
        if !errors.0.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            from,
            require,
            only,
            signing,
            unchecked,
            map,
            prefix,
            previous,
            upcase: raw.upcase,
            shell_names: raw.shell_names,
            keep_env: raw.keep_env,
        })
    }
}

/// Returns the names of the profiles of `file`.
pub(crate) fn profile_names(file: &ConfigFile) -> Result<Vec<String>, Failure> {
    let document = Document::parse(&file.text);
    let document = document.map_err(|errors| errors.into_failure(&file.path))?;
    Ok(document.profile.into_keys().collect())
}

impl Document {
    fn parse(text: &str) -> Result<Self, FileErrors> {
        toml::from_str(text).map_err(|error| {
            let position = error.span().map(|span| position(text, &span));
            let mut message = without_quoted_text(error.message());
            if let Some(field) = closest_field(&message) {
                message = format!("{message}; did you mean `{field}`?");
            }
            FileErrors(vec![(position, message)])
        })
    }
}

impl RawProfile {
    /// Returns the keys of the table `previous`, with the names of their variables.
    fn parse_previous(
        &self,
        text: &str,
        naming: &Naming,
        errors: &mut FileErrors,
    ) -> Vec<(SecretKey, String)> {
        let mut previous = Vec::new();
        let mut names = BTreeSet::new();
        for (key, raw) in &self.previous {
            let name = raw.as_ref();
            let Some(key) = errors.parse_key(text, &Spanned::new(raw.span(), key.clone())) else {
                continue;
            };
            let problem = if !is_variable_name(name) {
                VARIABLE_NAME.to_owned()
            } else if *name == naming.name(&key) {
                format!("the variable `{name}` holds the current secret; set another name")
            } else if !names.insert(name) {
                format!("the variable `{name}` is used for another key too; set another name")
            } else {
                previous.push((key, name.clone()));
                continue;
            };
            errors.push(text, &raw.span(), problem);
        }
        previous
    }
}

const VARIABLE_NAME: &str = "a variable name must not be empty and must not contain `=` or NUL";

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// The line and the column of a character. The first ones are 1.
type Position = (usize, usize);

/// The errors in a configuration file, with their positions if known.
#[derive(Debug)]
struct FileErrors(Vec<(Option<Position>, String)>);

impl FileErrors {
    fn push(&mut self, text: &str, span: &Range<usize>, message: String) {
        self.0.push((Some(position(text, span)), message));
    }

    /// Parses a key. On failure, records the error and returns `None`.
    fn parse_key(&mut self, text: &str, raw: &Spanned<String>) -> Option<SecretKey> {
        SecretKey::parse(raw.as_ref())
            .map_err(|error| self.push(text, &raw.span(), error.to_string()))
            .ok()
    }

    fn into_failure(mut self, path: &Path) -> Failure {
        let path = path.display();
        self.0.sort_by_key(|(position, _)| *position);
        let problems = self
            .0
            .into_iter()
            .map(|(position, message)| match position {
                Some((line, column)) => format!("{path}:{line}:{column}: {message}"),
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

/// Returns the field that a message about an unknown field might mean.
fn closest_field(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`').step_by(2);
    closest(quoted.next()?, quoted)
}

/// Returns the position of the start of `span`.
fn position(text: &str, span: &Range<usize>) -> Position {
    let before = text.get(..span.start).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    (line, 1 + last_line.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Profile, FileErrors> {
        Profile::parse(text, "production", Path::new("/app"))
    }

    fn parse_errors(text: &str) -> Vec<(Option<Position>, String)> {
        parse(text).unwrap_err().0
    }

    #[test]
    fn all_settings_of_a_profile_are_parsed() {
        let profile = parse(
            r#"
            [profile.production]
            from = ["env://", "file:.env"]
            require = ["AUTH_SECRET"]
            signing = ["AUTH_SECRET"]
            unchecked = ["NEXTAUTH_SECRET"]
            prefix = "APP_"
            upcase = true
            shell_names = true
            keep_env = true
            map = { "db/PASSWORD" = "PGPASSWORD" }

            [profile.production.previous]
            AUTH_SECRET = "AUTH_SECRET_PREVIOUS"

            [profile.development]
            "#,
        )
        .unwrap();
        assert_eq!(profile.from, ["env://", "file:///app/.env"]);
        assert_eq!(profile.require[0].as_str(), "AUTH_SECRET");
        assert_eq!(profile.require, profile.signing);
        assert_eq!(profile.unchecked[0].as_str(), "NEXTAUTH_SECRET");
        assert_eq!(profile.map[0].0.as_str(), "db/PASSWORD");
        assert_eq!(profile.prefix.as_deref(), Some("APP_"));
        let [(key, name)] = &profile.previous[..] else {
            panic!("{:?}", profile.previous);
        };
        assert_eq!(
            (key.as_str(), &name[..]),
            ("AUTH_SECRET", "AUTH_SECRET_PREVIOUS")
        );
        assert!(profile.upcase && profile.shell_names && profile.keep_env);
    }

    #[test]
    fn all_invalid_values_are_reported_with_their_positions() {
        let errors = parse_errors(
            "[profile.production]\nfrom = [\n  \"env://\", # ä\n  \"ftp://user:c4n4ry@host\", \"file://.env\",\n]\n\
             require = [\"a//b\"]\nmap = { \"..\" = \"X\" }\nsigning = [\"A\"]\nunchecked = [\"B\", \"A\"]\n",
        );
        let mut positions: Vec<_> = errors
            .iter()
            .filter_map(|(position, _)| *position)
            .collect();
        positions.sort_unstable();
        assert_eq!(positions, [(4, 3), (4, 29), (6, 12), (7, 16), (9, 19)]);
        assert!(!format!("{errors:?}").contains("c4n4ry"));
    }

    #[test]
    fn names_of_previous_secrets_are_checked() {
        let errors = parse_errors(
            "[profile.production]\nprefix = \"P_\"\nmap = { B = \"MAPPED\" }\n[profile.production.previous]\n\
             A = \"P_A\"\nB = \"MAPPED\"\nC = \"\"\nD = \"X=Y\"\nE = \"OLD\"\nF = \"OLD\"\n\"g//h\" = \"G\"\nI = \"I\"\n",
        );
        let found: Vec<_> = errors
            .iter()
            .map(|(position, message)| (position.unwrap().0, &message[..20]))
            .collect();
        assert_eq!(
            found,
            [
                (5, "the variable `P_A` h"),
                (6, "the variable `MAPPED"),
                (7, "a variable name must"),
                (8, "a variable name must"),
                (10, "the variable `OLD` i"),
                (11, "invalid key: `g//h` "),
            ]
        );
    }

    #[test]
    fn invalid_files_and_missing_profiles_are_reported() {
        for (text, position, message) in [
            (
                "[profile.production]\nform = []",
                Some((2, 1)),
                "did you mean `from`?",
            ),
            ("prfile = 1", Some((1, 1)), "did you mean `profile`?"),
            (
                "x = 1",
                Some((1, 1)),
                "unknown field `x`, expected `profile`",
            ),
            ("[profile.production", Some((1, 20)), "unclosed table"),
            (
                "[profile.production]\nfrom = \"vault://user:c4n4ry@host\"",
                Some((2, 8)),
                "string …, expected a sequence",
            ),
            (
                "[profile.production.previous]\nA = 1",
                Some((2, 5)),
                "invalid type: integer",
            ),
            ("[profile.staging]", None, "available profiles: staging"),
            ("", None, "the file has no profiles"),
        ] {
            let errors = parse_errors(text);
            assert_eq!(errors[0].0, position, "{errors:?}");
            assert!(errors[0].1.contains(message), "{errors:?}");
        }
    }
}
