//! The login method, from a URL and variables.

use std::path::PathBuf;

use secretwell_core::Error;
use secretwell_http::{Credential, UrlOptions};

use super::variables::Variables;
use crate::auth::VaultAuth;
use crate::error::invalid;

/// Returns the token of the variables, or else the file `~/.vault-token` of the `vault` command.
pub(super) fn token(variables: &Variables<'_>) -> Result<Credential, Error> {
    let token_of_the_command = || {
        let home = (variables.0)("HOME").filter(|home| !home.is_empty())?;
        Some(Credential::file(PathBuf::from(home).join(".vault-token")))
    };
    variables
        .credential("TOKEN")
        .or_else(token_of_the_command)
        .ok_or_else(|| {
            invalid("no token is configured")
                .with_hint("set `VAULT_TOKEN`, or choose another login method with `auth`")
        })
}

/// The parts of a URL and the variables that configure the login.
pub(super) struct LoginOptions<'a> {
    pub(super) options: &'a UrlOptions,
    pub(super) variables: Variables<'a>,
}

impl LoginOptions<'_> {
    fn credential(&self, name: &str) -> Result<Credential, Error> {
        let option = format!("{name}_file");
        let variable = name.to_ascii_uppercase();
        let file = self.options.get(&option).map(Credential::file);
        file.or_else(|| self.variables.credential(&variable))
            .ok_or_else(|| {
                invalid(format!("the login needs the credential `{name}`")).with_hint(format!(
                "set `{option}` or `VAULT_{variable}_FILE` to its file, or set `VAULT_{variable}`"
            ))
            })
    }

    pub(super) fn auth(&self) -> Result<VaultAuth, Error> {
        let options = self.options;
        let auth = match options.get("auth").unwrap_or("token") {
            "token" => match options.get("token_file") {
                Some(path) => VaultAuth::token(Credential::file(path)),
                None => VaultAuth::token(token(&self.variables)?),
            },
            "approle" => match options.get("wrapped_secret_id_file") {
                Some(path) => {
                    VaultAuth::app_role_wrapped(options.required("role")?, Credential::file(path))
                }
                None => {
                    VaultAuth::app_role(options.required("role")?, self.credential("secret_id")?)
                }
            },
            "kubernetes" => match options.get("jwt_file") {
                Some(path) => {
                    VaultAuth::kubernetes_with(options.required("role")?, Credential::file(path))
                }
                None => VaultAuth::kubernetes(options.required("role")?),
            },
            "jwt" => VaultAuth::jwt(options.required("role")?, self.credential("jwt")?),
            "userpass" => {
                VaultAuth::userpass(options.required("user")?, self.credential("password")?)
            }
            "cert" => VaultAuth::certificate(options.get("role").map(str::to_owned)),
            "agent" => VaultAuth::agent(),
            _ => {
                return Err(invalid("the login method is unknown").with_hint(
                    "use `token`, `approle`, `kubernetes`, `jwt`, `userpass`, `cert` or `agent`",
                ));
            }
        };
        Ok(match options.get("auth_mount") {
            Some(mount) => auth.mount(mount),
            None => auth,
        })
    }
}
