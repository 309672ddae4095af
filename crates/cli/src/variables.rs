//! Conversion of secrets to environment variables: names, values and their limits.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use secretwell::{Error, ErrorKind, Secret, SecretKey, SecretValue};

use crate::exit::Failure;
use crate::fetch::FetchedSecret;

/// The maximum length of a name and its value together, in bytes, on Linux. It is 32 pages
/// (`MAX_ARG_STRLEN`, execve(2)) minus the equals sign and the NUL terminator. Other systems limit only
/// the total size of all variables.
const MAX_LENGTH: usize = 32 * 4096 - 2;

/// The rules that name the variable of each key, and select the variables that are passed to the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Naming {
    prefix: String,
    names: BTreeMap<SecretKey, String>,
    /// Whether names that are not set for single keys are in upper case.
    pub(crate) upcase: bool,
    /// Whether `_` replaces the characters that shells do not accept, in names that are not set for single keys.
    pub(crate) shell_names: bool,
    /// Whether values that the operating system does not accept in a variable are allowed.
    pub(crate) allows_any_value: bool,
    /// The variables with the paths of the secrets that are passed in files.
    pub(crate) files: BTreeMap<SecretKey, String>,
    /// The variables of the environment that no secret replaces.
    pub(crate) kept: BTreeSet<String>,
    /// The variables with the credentials of this command. They are not passed, although a source such as `env://` lists
    /// them as secrets.
    pub(crate) credentials: BTreeMap<String, SecretValue>,
    /// The keys that are passed, also if they are credentials of this command.
    pub(crate) required: BTreeSet<SecretKey>,
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
            ..Self::default()
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
                let name = name.escape_debug();
                let message = format!("the variable name `{name}` is already used for key {owner}");
                problems.push(invalid_name(key, message));
            }
            if self.kept.contains(&name) || self.is_credential(key, secret) {
                continue;
            }
            let value = secret.value.clone();
            if self.files.contains_key(key) || self.allows_any_value {
                // A file can contain every value.
                variables.push(Variable { name, value });
                continue;
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
            if !fits(&name, &secret.value) {
                problems.push(
                    Error::new(ErrorKind::TooLarge, "the value does not fit in a variable")
                        .with_key(key)
                        .with_hint(
                            "pass the secret in a file, or select the other keys with --only",
                        ),
                );
            }
            variables.push(Variable { name, value });
        }
        Failure::from_errors(&problems).map_or(Ok(variables), Err)
    }

    /// Returns the names of the secrets that the variables of the environment take precedence over.
    pub(crate) fn kept_names(&self, secrets: &[FetchedSecret]) -> Vec<String> {
        let names = secrets.iter().map(|fetched| self.name(&fetched.key));
        names.filter(|name| self.kept.contains(name)).collect()
    }

    /// Returns whether `secret` is a credential of this command that was read from its variable.
    fn is_credential(&self, key: &SecretKey, secret: &Secret) -> bool {
        let origin = secret.origin.as_ref();
        let is_variable = origin.is_some_and(|origin| origin.as_str().starts_with("env://"));
        let mut credentials = self.credentials.iter();
        is_variable
            && !self.required.contains(key)
            && credentials
                .any(|(name, value)| can_be_read_from(key, name) && *value == secret.value)
    }

    pub(crate) fn name(&self, key: &SecretKey) -> String {
        if let Some(name) = self.files.get(key).or_else(|| self.names.get(key)) {
            return name.clone();
        }
        let mut name = format!("{}{}", self.prefix, key.as_str().replace('/', "_"));
        if self.upcase {
            name = name.to_uppercase();
        }
        if self.shell_names {
            name = name.replace(|c: char| !is_shell_char(c), "_");
            if name.starts_with(|c: char| c.is_ascii_digit()) {
                name.insert(0, '_');
            }
        }
        name
    }
}

/// Returns whether an environment can contain a variable with this name and this value.
pub(crate) fn can_hold(name: &str, value: &SecretValue) -> bool {
    fits(name, value) && !value.expose_bytes().contains(&0)
}

fn fits(name: &str, value: &SecretValue) -> bool {
    name.len() + value.len() <= MAX_LENGTH
}

/// Returns whether an `env://` URL exists that reads `key` from the variable `name`. The URL can have a prefix.
fn can_be_read_from(key: &SecretKey, name: &str) -> bool {
    name.ends_with(&key.as_str().replace('/', "_"))
}

/// Returns whether all shells accept `name` as the name of a variable.
pub(crate) fn is_shell_name(name: &str) -> bool {
    let starts_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    !name.is_empty() && !starts_with_digit && name.chars().all(is_shell_char)
}

fn is_shell_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Warns about variables that some shells remove from the environment. Each name is reported once.
#[derive(Debug, Default)]
pub(crate) struct ShellNameWarning {
    reported: BTreeSet<String>,
}

impl ShellNameWarning {
    pub(crate) fn warn(&mut self, variables: &[Variable]) {
        let mut new = Vec::new();
        for Variable { name, .. } in variables {
            // Functions that bash exports are only for bash.
            let is_for_shells = is_shell_name(name) || name.starts_with("BASH_FUNC_");
            if !is_for_shells && self.reported.insert(name.clone()) {
                new.push(format!("`{}`", name.escape_debug()));
            }
        }
        if !new.is_empty() {
            let names = new.join(", ");
            tracing::warn!(target: "secretwell::command", event = "name_not_for_shells", names, "shells such as dash remove these variables, so programs that a shell starts do not get them: {names}; add --shell-names, or set other names with --map");
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
    fn names_are_in_upper_case_and_accepted_by_shells() {
        let secrets = [
            "db/api_key",
            "tls.crt",
            "my-key",
            "3d",
            "größe ß",
            "a=b",
            "exact-key",
        ];
        let secrets = secrets.map(|key| fetched(key, b"x"));
        let map = (secrets[6].key.clone(), "exact-key".to_owned());
        let mut naming = Naming::new("", [map.clone()]);
        naming.shell_names = true;
        let expected = [
            "db_api_key",
            "tls_crt",
            "my_key",
            "_3d",
            "gr__e__",
            "a_b",
            "exact-key",
        ];
        assert_eq!(names(&naming, &secrets), expected);
        naming.upcase = true;
        let expected = [
            "DB_API_KEY",
            "TLS_CRT",
            "MY_KEY",
            "_3D",
            "GR_SSE_SS",
            "A_B",
            "exact-key",
        ];
        assert_eq!(names(&naming, &secrets), expected);
        let mut naming = Naming::new("9-app.", [map]);
        (naming.upcase, naming.shell_names) = (true, true);
        assert_eq!(names(&naming, &secrets[..1]), ["_9_APP_DB_API_KEY"]);
    }

    #[test]
    fn collision_of_changed_names_names_both_keys() {
        for (first, second) in [("api_key", "API_KEY"), ("a.b", "A-B"), ("3", "_3")] {
            let mut naming = Naming::new("", []);
            (naming.upcase, naming.shell_names) = (true, true);
            let secrets = [fetched(first, b"x"), fetched(second, b"y")];
            let failure = naming.variables(&secrets).unwrap_err();
            let problem = failure.problems().concat();
            assert!(
                problem.starts_with(&format!("{second}: invalid key")),
                "{problem}"
            );
            assert!(
                problem.contains(&format!("used for key {first}")),
                "{problem}"
            );
        }
    }

    #[test]
    fn kept_variables_are_left_out_and_files_contain_every_value() {
        let secrets = [
            fetched("A", b"x"),
            fetched("B", b"y"),
            fetched("C", b"a\0b"),
        ];
        let mut naming = Naming::new("", []);
        naming.kept = BTreeSet::from(["A".to_owned(), "OTHER".to_owned()]);
        naming.files = BTreeMap::from([(secrets[2].key.clone(), "C_PATH".to_owned())]);
        assert_eq!(names(&naming, &secrets), ["B", "C_PATH"]);
        assert_eq!(naming.kept_names(&secrets), ["A"]);
        let large = [fetched("C", &vec![b'x'; MAX_LENGTH + 1])];
        assert_eq!(names(&naming, &large), ["C_PATH"]);
        let mut naming = Naming::new("", []);
        naming.variables(&secrets).unwrap_err();
        naming.variables(&large).unwrap_err();
        naming.allows_any_value = true;
        assert_eq!(names(&naming, &secrets), ["A", "B", "C"]);
        assert_eq!(names(&naming, &large), ["C"]);
    }

    #[test]
    fn credentials_that_env_lists_are_withheld_unless_they_are_required() {
        let from = |key: &str, value: &[u8], origin: &str| {
            let mut fetched = fetched(key, value);
            fetched.secret.origin = origin
                .split_once("://")
                .map(|(scheme, place)| secretwell::Origin::new(scheme, place));
            fetched
        };
        let secrets = [
            from("VAULT_TOKEN", b"t", "env://"),
            from("A", b"t", "env://"),
            from("BAO_TOKEN", b"other", "file:///run/secrets"),
        ];
        let pair = |name: &str| (name.to_owned(), SecretValue::from("t"));
        let mut naming = Naming::new("P_", []);
        naming.credentials = BTreeMap::from(["VAULT_TOKEN", "BAO_TOKEN"].map(pair));
        assert_eq!(names(&naming, &secrets), ["P_A", "P_BAO_TOKEN"]);
        // The source can have a prefix.
        let prefixed = [from("TOKEN", b"t", "env://VAULT_")];
        assert_eq!(names(&naming, &prefixed), [""; 0]);
        naming.required = BTreeSet::from([secrets[0].key.clone()]);
        assert_eq!(names(&naming, &secrets).len(), 3);
        // A secret of another source, or with another value, is not the credential.
        naming.required.clear();
        let stored = [
            from("VAULT_TOKEN", b"t", "file:///run/secrets"),
            from("BAO_TOKEN", b"new", "env://"),
        ];
        assert_eq!(names(&naming, &stored).len(), 2);
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
