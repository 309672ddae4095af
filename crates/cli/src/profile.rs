//! The configuration file `secretwell.toml`: named profiles of sources, keys and names.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use secretwell::SecretKey;
use serde::Deserialize;
use toml::Spanned;

use crate::exit::{Failure, Reason};

/// What a profile says.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// Sources as URLs, the first asked first.
    pub(crate) from: Vec<String>,
    /// Keys that must be there.
    pub(crate) require: Vec<SecretKey>,
    /// The only keys that count, all of which must be there.
    pub(crate) only: Vec<SecretKey>,
    /// Keys of secrets that something is signed with.
    pub(crate) signing: Vec<SecretKey>,
    /// Names of variables.
    pub(crate) map: Vec<(SecretKey, String)>,
    /// What the other names begin with.
    pub(crate) prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    profile: BTreeMap<String, Written>,
}

/// A profile as it is written, with the place of each part.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    from: Vec<Spanned<String>>,
    require: Vec<Spanned<String>>,
    only: Vec<Spanned<String>>,
    signing: Vec<Spanned<String>>,
    map: BTreeMap<String, Spanned<String>>,
    prefix: Option<String>,
}

impl Profile {
    /// Reads the profile `name` of the file at `path`.
    pub(crate) fn read(path: &Path, name: &str) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            let what = match error.kind() {
                ErrorKind::NotFound => "there is no such file; name another by --config".into(),
                kind => format!("it cannot be read as text: {kind}"),
            };
            Failure::new(Reason::Configuration, format!("{}: {what}", path.display()))
        })?;
        Self::parse(&text, name).map_err(|flaws| flaws.into_failure(path))
    }

    fn parse(text: &str, name: &str) -> Result<Self, Flaws> {
        let mut flaws = Flaws(Vec::new());
        let document: Document = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line(text, &span));
            Flaws(vec![(line, unquoted(error.message()))])
        })?;
        let Some(written) = document.profile.get(name) else {
            let known: Vec<_> = document.profile.keys().map(String::as_str).collect();
            let known = match known[..] {
                [] => "it has none".into(),
                _ => format!("it has {}", known.join(", ")),
            };
            let flaw =
                format!("there is no profile `{name}`; {known}; write one as [profile.{name}]");
            return Err(Flaws(vec![(None, flaw)]));
        };

        let mut keys = |written: &[Spanned<String>]| {
            let keys = written.iter().filter_map(|key| flaws.key(text, key));
            keys.collect::<Vec<_>>()
        };
        let (require, only, signing) = (
            keys(&written.require),
            keys(&written.only),
            keys(&written.signing),
        );
        let mut map = Vec::new();
        for (key, variable) in &written.map {
            let key = Spanned::new(variable.span(), key.clone());
            let key = flaws.key(text, &key);
            map.extend(key.map(|key| (key, variable.as_ref().clone())));
        }
        let mut from = Vec::new();
        for url in &written.from {
            match secretwell::from_url(url.as_ref()) {
                Ok(_) => from.push(url.as_ref().clone()),
                Err(error) => flaws.push(text, &url.span(), error.to_string()),
            }
        }
        if !flaws.0.is_empty() {
            return Err(flaws);
        }
        Ok(Self {
            from,
            require,
            only,
            signing,
            map,
            prefix: written.prefix.clone(),
        })
    }
}

/// What is wrong with a file, and in which line.
#[derive(Debug)]
struct Flaws(Vec<(Option<usize>, String)>);

impl Flaws {
    fn push(&mut self, text: &str, place: &Range<usize>, flaw: String) {
        self.0.push((Some(line(text, place)), flaw));
    }

    fn key(&mut self, text: &str, written: &Spanned<String>) -> Option<SecretKey> {
        SecretKey::parse(written.as_ref())
            .map_err(|error| self.push(text, &written.span(), error.to_string()))
            .ok()
    }

    fn into_failure(self, path: &Path) -> Failure {
        let path = path.display();
        let problems = self.0.into_iter().map(|(line, flaw)| match line {
            Some(line) => format!("{path}:{line}: {flaw}"),
            None => format!("{path}: {flaw}"),
        });
        Failure::several(Reason::Configuration, problems.collect())
    }
}

/// A parser's message on one line, without the text that it quotes: that may be a URL with a password.
fn unquoted(message: &str) -> String {
    let message = message.replace('\n', " ");
    match (message.find('"'), message.rfind('"')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}…{}", &message[..start], &message[end + 1..])
        }
        _ => message,
    }
}

/// The line that a place is in, from 1 on.
fn line(text: &str, place: &Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(place.start);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(text: &str) -> Vec<(Option<usize>, String)> {
        Profile::parse(text, "production").unwrap_err().0
    }

    #[test]
    fn a_profile_says_what_it_says() {
        let profile = Profile::parse(
            r#"
            [profile.production]
            from = ["env://", "memory://"]
            require = ["AUTH_SECRET"]
            signing = ["AUTH_SECRET"]
            prefix = "APP_"
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
    }

    #[test]
    fn flaws_are_all_told_with_their_lines() {
        let flaws = flaws(
            "[profile.production]\nfrom = [\n  \"env://\",\n  \"ftp://user:c4n4ry@host\",\n]\n\
             require = [\"a//b\"]\nmap = { \"..\" = \"X\" }\n",
        );
        let lines: Vec<_> = flaws.iter().filter_map(|(line, _)| *line).collect();
        assert_eq!(lines, [6, 7, 4]);
        assert!(!format!("{flaws:?}").contains("c4n4ry"));
    }

    #[test]
    fn what_is_no_profile_is_told() {
        for (text, place, told) in [
            ("[profile.production]\nform = []", Some(2), "unknown field"),
            ("x = 1", Some(1), "unknown field"),
            ("[profile.production", Some(1), "unclosed table"),
            (
                "[profile.production]\nfrom = \"vault://user:c4n4ry@host\"",
                Some(2),
                "string …, expected a sequence",
            ),
            ("[profile.staging]", None, "it has staging"),
            ("", None, "it has none"),
        ] {
            let flaws = flaws(text);
            assert_eq!(flaws[0].0, place, "{flaws:?}");
            assert!(flaws[0].1.contains(told), "{flaws:?}");
        }
    }
}
