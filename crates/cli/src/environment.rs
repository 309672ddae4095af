//! From keys to the names of environment variables.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use secretwell::{Error, ErrorKind, SecretKey, SecretValue};

use crate::exit::Failure;
use crate::read::Found;

/// The longest name and value together that Linux gives to a program: 32 pages, less an equals sign and a NUL
/// (`MAX_ARG_STRLEN`, execve(2)). Others have no such limit, but one for all variables together.
const LONGEST: usize = 32 * 4096 - 2;

/// How variables are named.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    prefix: String,
    names: BTreeMap<SecretKey, String>,
}

/// A variable of the program's environment. Its value is compared without telling how far it agrees.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: SecretValue,
}

impl Variable {
    pub(crate) fn os_value(&self) -> OsString {
        OsString::from_vec(self.value.expose_bytes().to_vec())
    }
}

impl Naming {
    pub(crate) fn new(prefix: &str, names: impl IntoIterator<Item = (SecretKey, String)>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            names: names.into_iter().collect(),
        }
    }

    /// The variables that hold `secrets`, values to the letter.
    ///
    /// # Errors
    /// Every name that there cannot be, or that two secrets would have, and every value that no variable
    /// can hold.
    pub(crate) fn variables(&self, secrets: &[Found]) -> Result<Vec<Variable>, Failure> {
        let mut problems = Vec::new();
        let mut owners: BTreeMap<String, &SecretKey> = BTreeMap::new();
        let mut variables = Vec::with_capacity(secrets.len());
        for Found { key, secret } in secrets {
            let name = self.name(key);
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.push(bad_name(
                    key,
                    "no variable's name may be empty or hold `=` or NUL",
                ));
            } else if let Some(owner) = owners.insert(name.clone(), key) {
                let flaw = format!("its variable would be `{name}`, as that of {owner} is");
                problems.push(bad_name(key, flaw));
            }
            if secret.value.expose_bytes().contains(&0) {
                problems.push(
                    Error::new(ErrorKind::Invalid, "it holds a NUL, which no variable can")
                        .with_key(key)
                        .with_hint(
                            "store it encoded, say in base64, or name the other keys by --only",
                        ),
                );
            }
            if name.len() + secret.value.len() > LONGEST {
                problems.push(
                    Error::new(ErrorKind::TooLarge, "no variable can hold so much")
                        .with_key(key)
                        .with_hint("read it from a file instead, or name the other keys by --only"),
                );
            }
            let value = secret.value.clone();
            variables.push(Variable { name, value });
        }
        Failure::of(&problems).map_or(Ok(variables), Err)
    }

    fn name(&self, key: &SecretKey) -> String {
        match self.names.get(key) {
            Some(name) => name.clone(),
            None => format!("{}{}", self.prefix, key.as_str().replace('/', "_")),
        }
    }
}

fn bad_name(key: &SecretKey, flaw: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidKey, flaw)
        .with_key(key)
        .with_hint(format!("name its variable by --map '{key}=NAME'"))
}

#[cfg(test)]
mod tests {
    use secretwell::Secret;

    use super::*;

    fn found(key: &str, value: &[u8]) -> Found {
        Found {
            key: SecretKey::parse(key).unwrap(),
            secret: Secret::new(value),
        }
    }

    fn names(naming: &Naming, secrets: &[Found]) -> Vec<String> {
        let variables = naming.variables(secrets).unwrap();
        variables
            .into_iter()
            .map(|variable| variable.name)
            .collect()
    }

    #[test]
    fn segments_are_joined_and_maps_have_their_way() {
        let secrets = [found("db/PASSWORD", b"x"), found("PORT", b"1")];
        let plain = Naming::new("", []);
        assert_eq!(names(&plain, &secrets), ["db_PASSWORD", "PORT"]);
        let map = [(secrets[0].key.clone(), "PGPASSWORD".to_owned())];
        let naming = Naming::new("APP_", map);
        assert_eq!(names(&naming, &secrets), ["PGPASSWORD", "APP_PORT"]);
    }

    #[test]
    fn values_are_kept_to_the_letter() {
        let value = b"$HOME `id` \"'\\\r\n \xff\n";
        let variables = Naming::new("", []).variables(&[found("A", value)]).unwrap();
        assert_eq!(variables[0].os_value().into_vec(), value);
    }

    #[test]
    fn everything_that_cannot_be_is_told_at_once() {
        let secrets = [
            found("a=b", b"x"),
            found("db/A", b"x"),
            found("db_A", b"x"),
            found("C", b"c4n4ry\0"),
        ];
        let failure = Naming::new("", []).variables(&secrets).unwrap_err();
        let told = failure.problems();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("--map 'a=b=NAME'"), "{told:?}");
        assert!(told[1].contains("that of db/A"), "{told:?}");
        assert!(
            told[2].contains("NUL") && !told[2].contains("c4n4ry"),
            "{told:?}"
        );
    }
}
