//! The login method, from a URL and variables.

use std::path::PathBuf;

use secretwell_core::Error;
use secretwell_http::{AwsCredentials, AwsIdentity, Credential, UrlOptions};

use super::variables::Variables;
use crate::auth::VaultAuth;
use crate::error::invalid;

/// Returns the token of the variables, or else the file `~/.vault-token` of the `vault` command.
pub(super) fn token(variables: &Variables<'_>) -> Result<Credential, Error> {
    const HINT: &str = "set `VAULT_TOKEN` or `VAULT_TOKEN_FILE`, log in with the `vault` command, or choose \
                        another login method with `auth`";
    let token_of_the_command = || {
        let home = (variables.variable)("HOME").filter(|home| !home.is_empty())?;
        let file = PathBuf::from(home).join(".vault-token");
        Some(Credential::file(file).with_hint(HINT))
    };
    variables
        .credential("TOKEN")
        .or_else(token_of_the_command)
        .ok_or_else(|| invalid("no token is configured").with_hint(HINT))
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

    /// Returns the role id of an AppRole. The option `role` is its older name.
    fn role_id(&self) -> Result<Credential, Error> {
        let options = self.options;
        let value = options.get("role_id").or_else(|| options.get("role"));
        match value {
            Some(value) => Ok(value.into()),
            None => self.credential("role_id"),
        }
    }

    fn app_role(&self) -> Result<VaultAuth, Error> {
        let role_id = self.role_id()?;
        if let Some(path) = self.options.get("wrapped_secret_id_file") {
            return Ok(VaultAuth::app_role_wrapped(role_id, Credential::file(path)));
        }
        let binds_secret_id = self.options.flag("bind_secret_id")?.unwrap_or(true);
        Ok(match binds_secret_id {
            true => VaultAuth::app_role(role_id, self.credential("secret_id")?),
            false => VaultAuth::app_role_without_secret(role_id),
        })
    }

    fn aws(&self) -> Result<VaultAuth, Error> {
        self.variables.add_credentials(&AwsCredentials::VARIABLES);
        let mut identity = AwsIdentity::new(AwsCredentials::from_env());
        if let Some(region) = self.options.get("aws_region") {
            identity = identity.region(region);
        }
        if let Some(id) = self.options.get("aws_server_id") {
            identity = identity.header("X-Vault-AWS-IAM-Server-ID", id);
        }
        Ok(VaultAuth::aws(self.options.required("role")?, identity))
    }

    pub(super) fn auth(&self) -> Result<VaultAuth, Error> {
        let options = self.options;
        let auth = match options.get("auth").unwrap_or("token") {
            "token" => match options.get("token_file") {
                Some(path) => VaultAuth::token(Credential::file(path)),
                None => VaultAuth::token(token(&self.variables)?),
            },
            "approle" => self.app_role()?,
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
            "ldap" => VaultAuth::ldap(options.required("user")?, self.credential("password")?),
            "aws" => self.aws()?,
            "cert" => VaultAuth::certificate(options.get("role").map(str::to_owned)),
            "agent" => VaultAuth::agent(),
            unknown => {
                // A long text might be a credential.
                let is_like_a_name = unknown.len() <= 16
                    && unknown
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
                let message = match is_like_a_name {
                    true => format!("the login method `{unknown}` is not supported"),
                    false => "the login method is not supported".into(),
                };
                return Err(invalid(message).with_hint(
                    "use `token`, `approle`, `kubernetes`, `jwt`, `userpass`, `ldap`, `cert`, `aws` or `agent`",
                ));
            }
        };
        Ok(match options.get("auth_mount") {
            Some(mount) => auth.mount(mount),
            None => auth,
        })
    }
}
