//! Conversion of secrets to environment variables: names, values and their limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use secretwell::{Error, ErrorKind, SecretKey, SecretValue};

use crate::exit::Failure;
use crate::fetch::FetchedSecret;

/// The maximum length of a name and its value together, in bytes, on Linux. It is 32 pages
/// (`MAX_ARG_STRLEN`, execve(2)) minus the equals sign and the NUL terminator. Other systems limit only
/// the total size of all variables.
const MAX_LENGTH: usize = 32 * 4096 - 2;

/// The rules that name the variable of each key.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    prefix: String,
    names: BTreeMap<SecretKey, String>,
}

/// An environment variable with a secret value. Values are compared in constant time.
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
    /// Creates naming rules. `names` sets the names of single keys, and `prefix` is added to all others.
    pub(crate) fn new(prefix: &str, names: impl IntoIterator<Item = (SecretKey, String)>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            names: names.into_iter().collect(),
        }
    }

    /// Returns the variables for `secrets`. Values are copied byte for byte.
    ///
    /// # Errors
    /// Reports every invalid name, every name that two keys share, and every value that cannot be stored
    /// in a variable.
    pub(crate) fn variables(&self, secrets: &[FetchedSecret]) -> Result<Vec<Variable>, Failure> {
        let mut problems = Vec::new();
        let mut owners: BTreeMap<String, &SecretKey> = BTreeMap::new();
        let mut variables = Vec::with_capacity(secrets.len());
        for FetchedSecret { key, secret } in secrets {
            let name = self.name(key);
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.push(invalid_name(
                    key,
                    "a variable name must not be empty and must not contain `=` or NUL",
                ));
            } else if let Some(owner) = owners.insert(name.clone(), key) {
                let message = format!("the variable name `{name}` is already used for key {owner}");
                problems.push(invalid_name(key, message));
            }
            if secret.value.expose_bytes().contains(&0) {
                problems.push(
                    Error::new(
                        ErrorKind::Invalid,
                        "the value contains a NUL byte, which a variable cannot hold",
                    )
                    .with_key(key)
                    .with_hint(
                        "encode the value, for example in base64, or select the other keys with --only",
                    ),
                );
            }
            if name.len() + secret.value.len() > MAX_LENGTH {
                problems.push(
                    Error::new(ErrorKind::TooLarge, "the value does not fit in a variable")
                        .with_key(key)
                        .with_hint(
                            "pass the secret in a file, or select the other keys with --only",
                        ),
                );
            }
            let value = secret.value.clone();
            variables.push(Variable { name, value });
        }
        Failure::from_errors(&problems).map_or(Ok(variables), Err)
    }

    fn name(&self, key: &SecretKey) -> String {
        match self.names.get(key) {
            Some(name) => name.clone(),
            None => format!("{}{}", self.prefix, key.as_str().replace('/', "_")),
        }
    }
}

fn invalid_name(key: &SecretKey, message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidKey, message)
        .with_key(key)
        .with_hint(format!("set a variable name with --map '{key}=NAME'"))
}

#[cfg(test)]
mod tests {
    use secretwell::Secret;

    use super::*;

    fn fetched(key: &str, value: &[u8]) -> FetchedSecret {
        FetchedSecret {
            key: SecretKey::parse(key).unwrap(),
            secret: Secret::new(value),
        }
    }

    fn names(naming: &Naming, secrets: &[FetchedSecret]) -> Vec<String> {
        let variables = naming.variables(secrets).unwrap();
        variables
            .into_iter()
            .map(|variable| variable.name)
            .collect()
    }

    #[test]
    fn segments_are_joined_and_mapped_names_take_precedence() {
        let secrets = [fetched("db/PASSWORD", b"x"), fetched("PORT", b"1")];
        let plain = Naming::new("", []);
        assert_eq!(names(&plain, &secrets), ["db_PASSWORD", "PORT"]);
        let map = [(secrets[0].key.clone(), "PGPASSWORD".to_owned())];
        let naming = Naming::new("APP_", map);
        assert_eq!(names(&naming, &secrets), ["PGPASSWORD", "APP_PORT"]);
    }

    #[test]
    fn values_are_copied_byte_for_byte() {
        let value = b"$HOME `id` \"'\\\r\n \xff\n";
        let variables = Naming::new("", [])
            .variables(&[fetched("A", value)])
            .unwrap();
        assert_eq!(variables[0].os_value().into_vec(), value);
    }

    #[test]
    fn all_invalid_names_and_values_are_reported_together() {
        let secrets = [
            fetched("a=b", b"x"),
            fetched("db/A", b"x"),
            fetched("db_A", b"x"),
            fetched("C", b"c4n4ry\0"),
        ];
        let failure = Naming::new("", []).variables(&secrets).unwrap_err();
        let problems = failure.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("--map 'a=b=NAME'"), "{problems:?}");
        assert!(problems[1].contains("used for key db/A"), "{problems:?}");
        assert!(
            problems[2].contains("NUL") && !problems[2].contains("c4n4ry"),
            "{problems:?}"
        );
    }
}
