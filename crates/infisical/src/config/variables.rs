//! The environment variables of a provider.

use std::cell::RefCell;
use std::env;

use secretwell_http::{Credential, trim_setting};

/// The environment variables whose names start with `INFISICAL_`.
pub(super) struct Variables<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The names of the variables that were searched for a credential.
    credentials: RefCell<Vec<String>>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            variable,
            credentials: RefCell::default(),
        }
    }

    /// Adds variables that another reader searches for a credential.
    pub(super) fn add_credentials(&self, names: impl IntoIterator<Item = String>) {
        let mut credentials = self.credentials.borrow_mut();
        for name in names {
            if !credentials.contains(&name) {
                credentials.push(name);
            }
        }
    }

    /// Returns the names of the variables that were searched for a credential.
    pub(super) fn into_credentials(self) -> Vec<String> {
        self.credentials.into_inner()
    }

    /// Returns the value of the first of these variables that is set, without white space and byte order marks
    /// around it. A variable that is then empty counts as unset.
    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .filter_map(|name| (self.variable)(&format!("INFISICAL_{name}")))
            .map(|value| trim_setting(&value).to_owned())
            .find(|value| !value.is_empty())
    }

    /// Returns the credential from the first of these variables that is set. If all are unset, returns the
    /// credential from the file that a variable of the same name plus `_FILE` names.
    pub(super) fn credential(&self, names: &[&str]) -> Option<Credential> {
        self.add_credentials(names.iter().map(|name| format!("INFISICAL_{name}")));
        let file = || {
            let names: Vec<_> = names.iter().map(|name| format!("{name}_FILE")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.first(&names).map(Credential::file)
        };
        self.first(names).map(Credential::value).or_else(file)
    }
}

pub(super) fn process_variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
