//! Selection of the login method from URL options and environment variables.

use secretwell_core::Error;
use secretwell_http::{AwsCredentials, AwsIdentity, Credential, UrlOptions};

use super::variables::Variables;
use crate::auth::InfisicalAuth;
use crate::error::invalid_config;

/// The options of a URL that configure the login.
pub(super) const OPTIONS: &[&str] = &[
    "auth",
    "client_id",
    "client_secret_file",
    "token_file",
    "identity",
    "jwt_file",
    "user",
    "password_file",
    "aws_region",
    "sub_organization",
    "api",
    "imports",
    "expand",
    "personal",
    "tags",
    "allow_http",
    "proxy",
];

/// The options that are rejected because they are credentials, each with the variable to use instead.
pub(super) const CREDENTIALS: &[(&str, &str)] = &[
    ("client_secret", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"),
    ("token", "INFISICAL_TOKEN"),
    ("jwt", "INFISICAL_JWT"),
    ("password", "INFISICAL_LDAP_PASSWORD"),
];

const CLIENT_ID: &[&str] = &["UNIVERSAL_AUTH_CLIENT_ID", "CLIENT_ID"];
const CLIENT_SECRET: &[&str] = &["UNIVERSAL_AUTH_CLIENT_SECRET", "CLIENT_SECRET"];

/// Returns the login method for which the URL has options. If the URL has no such options, returns the
/// method for which variables are set. Among the variables, a token takes precedence over Universal Auth.
fn default_method(options: &UrlOptions, variables: &Variables<'_>) -> Result<&'static str, Error> {
    let is_set = |name: &str| options.get(name).is_some();
    if is_set("client_id") || is_set("client_secret_file") {
        Ok("universal")
    } else if is_set("token_file") {
        Ok("token")
    } else if [
        "identity",
        "jwt_file",
        "user",
        "password_file",
        "aws_region",
    ]
    .into_iter()
    .any(is_set)
    {
        Err(invalid_config("the login method is missing").with_hint(
            "add `&auth=` to the URL, with `kubernetes`, `oidc`, `jwt`, `ldap` or `aws`",
        ))
    } else if variables.credential(&["TOKEN"]).is_some() {
        Ok("token")
    } else if variables.first(CLIENT_ID).is_some() || variables.credential(CLIENT_SECRET).is_some()
    {
        Ok("universal")
    } else {
        Err(invalid_config("no login is configured").with_hint(
            "set `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID` and \
             `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET`, or `INFISICAL_TOKEN`",
        ))
    }
}

/// Returns the login that the URL and the variables configure.
pub(super) fn login(
    options: &UrlOptions,
    variables: &Variables<'_>,
) -> Result<InfisicalAuth, Error> {
    let auth = method(options, variables)?;
    Ok(match options.get("sub_organization") {
        Some(name) => auth.sub_organization(name),
        None => auth,
    })
}

fn method(options: &UrlOptions, variables: &Variables<'_>) -> Result<InfisicalAuth, Error> {
    let identity = || {
        let from_url = options.get("identity").map(str::to_owned);
        from_url
            .or_else(|| variables.first(&["MACHINE_IDENTITY_ID"]))
            .ok_or_else(|| {
                invalid_config("the login needs a machine identity").with_hint(
                    "add `&identity=…` to the URL, or set `INFISICAL_MACHINE_IDENTITY_ID`",
                )
            })
    };
    let file = |name: &str| options.get(name).map(Credential::file);
    let jwt = || {
        file("jwt_file")
            .or_else(|| variables.credential(&["JWT"]))
            .ok_or_else(|| {
                invalid_config("the login needs a JWT").with_hint(
                    "set the path of its file in `jwt_file` or `INFISICAL_JWT_FILE`, or set \
                     `INFISICAL_JWT`",
                )
            })
    };
    match options
        .get("auth")
        .map_or_else(|| default_method(options, variables), Ok)?
    {
        "universal" => {
            let client_id = options.get("client_id").map(str::to_owned);
            let client_id = client_id
                .or_else(|| variables.first(CLIENT_ID))
                .ok_or_else(|| {
                    invalid_config("the login needs a client id").with_hint(
                        "add `&client_id=…` to the URL, or set \
                         `INFISICAL_UNIVERSAL_AUTH_CLIENT_ID`",
                    )
                })?;
            let secret = file("client_secret_file").map_or_else(|| client_secret(variables), Ok)?;
            Ok(InfisicalAuth::universal(client_id, secret))
        }
        "token" => {
            let token = file("token_file").or_else(|| variables.credential(&["TOKEN"]));
            let token = token.ok_or_else(|| {
                invalid_config("the login needs a token").with_hint(
                    "set the path of its file in `token_file` or `INFISICAL_TOKEN_FILE`, or set \
                     `INFISICAL_TOKEN`",
                )
            })?;
            Ok(InfisicalAuth::token(token))
        }
        "kubernetes" => match file("jwt_file") {
            Some(jwt) => Ok(InfisicalAuth::kubernetes_with(identity()?, jwt)),
            None => Ok(InfisicalAuth::kubernetes(identity()?)),
        },
        "oidc" => Ok(InfisicalAuth::oidc(identity()?, jwt()?)),
        "jwt" => Ok(InfisicalAuth::jwt(identity()?, jwt()?)),
        "ldap" => {
            let user = options.get("user").map(str::to_owned);
            let user = user.or_else(|| variables.first(&["LDAP_USERNAME"]));
            let user = user.ok_or_else(|| {
                invalid_config("the login needs a user name")
                    .with_hint("add `&user=…` to the URL, or set `INFISICAL_LDAP_USERNAME`")
            })?;
            let password =
                file("password_file").or_else(|| variables.credential(&["LDAP_PASSWORD"]));
            let password = password.ok_or_else(|| {
                invalid_config("the login needs a password").with_hint(
                    "set the path of its file in `password_file` or \
                     `INFISICAL_LDAP_PASSWORD_FILE`, or set `INFISICAL_LDAP_PASSWORD`",
                )
            })?;
            Ok(InfisicalAuth::ldap(identity()?, user, password))
        }
        "aws" => {
            variables.add_credentials(AwsCredentials::VARIABLES.map(str::to_owned));
            let aws = AwsIdentity::new(AwsCredentials::from_env());
            let aws = match options.get("aws_region") {
                Some(region) => aws.region(region),
                None => aws,
            };
            Ok(InfisicalAuth::aws(identity()?, aws))
        }
        _ => Err(invalid_config("the login method is not supported")
            .with_hint("use `universal`, `token`, `kubernetes`, `oidc`, `jwt`, `ldap` or `aws`")),
    }
}

fn client_secret(variables: &Variables<'_>) -> Result<Credential, Error> {
    variables.credential(CLIENT_SECRET).ok_or_else(|| {
        invalid_config("the login needs a client secret").with_hint(
            "set the path of its file in `client_secret_file` or \
             `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET_FILE`, or set \
             `INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET`",
        )
    })
}
