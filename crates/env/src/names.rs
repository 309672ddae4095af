//! The mapping of keys to the names of variables, and back.

use std::borrow::Cow;

use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey};

use crate::config::Config;

/// What the name of a variable is to a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Key(SecretKey),
    /// The name has another prefix.
    Outside,
    /// The name has the prefix, and no key is read from it.
    NotAKey,
}

impl Config {
    /// Returns the name of the variable for `key`.
    pub(crate) fn variable_name(&self, key: &SecretKey) -> Result<String, Error> {
        let name = format!("{}{}", self.prefix, self.joined(key.as_str()));
        match name.contains(['=', '\0']) {
            false => Ok(name),
            true => Err(Error::new(
                ErrorKind::InvalidKey,
                "the name of a variable cannot contain `=` or NUL",
            )
            .with_hint("rename the key, or map it to another key with `renamed`")),
        }
    }

    /// Returns the name of the variable that contains the path of a file, if `file_suffix` is set.
    pub(crate) fn file_variable_name(&self, name: &str) -> Option<String> {
        let suffix = self.file_suffix.as_ref()?;
        Some(format!("{name}{suffix}"))
    }

    /// Returns the name of the variable whose value is in the file that the variable `name` names. Returns `None` if
    /// `name` is not the name of such a variable.
    pub(crate) fn named_by<'a>(&self, name: &'a str) -> Option<&'a str> {
        let suffix = self.file_suffix.as_deref()?;
        let named = self.case.strip_suffix(name, suffix)?;
        (named.len() > self.prefix.len()).then_some(named)
    }

    /// Returns the key below `prefix` that is read from the variable `name`.
    ///
    /// With the separator `_`, the name is below every prefix that it starts with, and the rest is one segment.
    /// Otherwise, the separator splits the rest into segments, unless one of them would be empty.
    pub(crate) fn listed(&self, name: &str, prefix: &KeyPrefix) -> Listed {
        let Some(path) = self.case.strip_prefix(name, &self.prefix) else {
            return Listed::Outside;
        };
        let start = match prefix.as_str() {
            "" => String::new(),
            folder => format!("{}{}", self.joined(folder), self.separator),
        };
        let Some(rest) = self.case.strip_prefix(path, &start) else {
            return Listed::Outside;
        };
        let below = |rest: &str| {
            let key = match prefix.as_str() {
                "" => SecretKey::parse(rest),
                folder => SecretKey::parse(format!("{folder}/{rest}")),
            };
            // For example, `A/B` is a valid key, but it is read from `A_B`.
            let is_read_from = |key: &SecretKey| {
                let read = self.variable_name(key);
                read.is_ok_and(|read| self.case.is_equal(&read, name))
            };
            key.ok().filter(is_read_from)
        };
        let nested = match self.separator.as_str() {
            "_" => None,
            separator => below(&rest.replace(separator, "/")),
        };
        match nested.or_else(|| below(rest)) {
            Some(key) => Listed::Key(key),
            None => Listed::NotAKey,
        }
    }

    fn joined<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match path.contains('/') {
            true => path.replace('/', &self.separator).into(),
            false => path.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CaseRule;

    fn config(prefix: &str, separator: &str, case: CaseRule) -> Config {
        Config {
            separator: separator.into(),
            case,
            ..Config::new(prefix.into())
        }
    }

    fn listed(config: &Config, name: &str, prefix: &str) -> String {
        match config.listed(name, &KeyPrefix::parse(prefix).unwrap()) {
            Listed::Key(key) => key.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn separator_makes_nested_keys() {
        let config = config("APP_", "__", CaseRule::Sensitive);
        for (name, key) in [
            ("APP_PORT", "PORT"),
            ("APP_DB_HOST", "DB_HOST"),
            ("APP_DB__PASSWORD", "DB/PASSWORD"),
            ("APP_A__B__C", "A/B/C"),
            ("APP_A___B", "A/_B"),
            // A segment would be empty.
            ("APP___A", "__A"),
            ("APP_A__", "A__"),
            ("APP_A____B", "A____B"),
            ("APP_", "NotAKey"),
            ("OTHER", "Outside"),
        ] {
            assert_eq!(listed(&config, name, ""), key, "{name}");
        }
        for (name, key) in [
            ("APP_DB__PASSWORD", "DB/PASSWORD"),
            ("APP_DB__A__B", "DB/A/B"),
            ("APP_DB____A", "DB/__A"),
            ("APP_DB_HOST", "Outside"),
            ("APP_DB", "Outside"),
        ] {
            assert_eq!(listed(&config, name, "DB"), key, "{name}");
        }
    }

    #[test]
    fn names_that_no_key_is_read_from_are_not_keys() {
        let config = config("", "_", CaseRule::Sensitive);
        for name in [
            "", "A/B", "A\\B", "A\tB", " A", "A ", "a=b", "..", "A//B", "=C:",
        ] {
            assert_eq!(listed(&config, name, ""), "NotAKey", "{name}");
        }
        for name in ["A", "a b", "BASH_FUNC_f%%", "A.B-C", "ß", "_", "__A", "A__"] {
            assert_eq!(listed(&config, name, ""), name);
        }
        assert_eq!(listed(&config, "A_B/C", "A"), "NotAKey");
        assert_eq!(listed(&config, "A_", "A"), "NotAKey");
    }

    #[test]
    fn prefix_ignores_case_where_names_do() {
        let windows = config("app_", "_", CaseRule::Insensitive);
        assert_eq!(listed(&windows, "APP_PORT", ""), "PORT");
        assert_eq!(listed(&windows, "App_db_user", "DB"), "DB/user");
        assert_eq!(listed(&windows, "äpp_X", ""), "Outside");
        let unix = config("app_", "_", CaseRule::Sensitive);
        assert_eq!(listed(&unix, "APP_PORT", ""), "Outside");

        let windows = Config {
            file_suffix: Some("_FILE".into()),
            ..windows
        };
        assert_eq!(windows.named_by("APP_PORT_file"), Some("APP_PORT"));
        assert_eq!(windows.named_by("ß_F"), None);
    }

    #[test]
    fn suffix_alone_names_no_file() {
        let config = Config {
            file_suffix: Some("_FILE".into()),
            ..Config::new("APP_".into())
        };
        assert_eq!(config.named_by("APP_KEY_FILE"), Some("APP_KEY"));
        for name in ["APP__FILE", "_FILE", "APP_FILE", "FILE", "APP_KEY"] {
            assert_eq!(config.named_by(name), None, "{name}");
        }
    }
}
