use secretwell_core::{ErrorKind, SecretProvider};
use secretwell_http::{AwsCredentials, Credential};

use super::*;

const ID: &str = "c6a2cd9b-8c32-4b0c-9d8e-0c9f1b2f9d11";

fn no_variable(_: &str) -> Option<String> {
    None
}

/// Returns the origin of the provider that `url` and `variable` configure.
fn origin(url: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, Error> {
    let builder = InfisicalBuilder::from_url_with(url, variable)?;
    Ok(builder.build()?.origin().as_str().to_owned())
}

#[test]
fn uuid_is_a_project_id_and_other_text_is_a_slug() {
    assert_eq!(Project::parse(ID), Project::Id(ID.into()));
    for slug in ["demo-app", "c6a2cd9b-8c32-4b0c-9d8e-0c9f1b2f9d1", ""] {
        assert_eq!(Project::parse(slug), Project::Slug(slug.into()));
    }
}

#[test]
fn url_and_variables_set_location_and_options() {
    let login = "client_id=me&client_secret_file=/x";
    let url = format!("infisical://secrets.internal/demo/prod/app/keys?{login}");
    let found = origin(&url, &no_variable).unwrap();
    assert_eq!(found, "infisical://secrets.internal/demo/prod/app/keys");

    let url =
        format!("infisical+http://127.0.0.1:8080/{ID}/dev?{login}&api=3&imports=false&tags=a,b");
    let builder = InfisicalBuilder::from_url_with(&url, &no_variable).unwrap();
    assert_eq!(builder.settings.project, Project::Id(ID.into()));
    assert_eq!(builder.settings.tags, ["a", "b"]);
    assert_eq!(builder.settings.api, Some(ApiVersion::V3));
    assert!(!builder.settings.imports && builder.settings.expand);
    assert_eq!(builder.settings.folder, "/");

    let variables = |name: &str| match name {
        "INFISICAL_DOMAIN" => Some("https://eu.infisical.com/api".to_owned()),
        "INFISICAL_PROJECT_ID" => Some("demo".to_owned()),
        "INFISICAL_ENVIRONMENT" => Some("staging".to_owned()),
        "INFISICAL_CLIENT_ID" => Some("me".to_owned()),
        "INFISICAL_CLIENT_SECRET_FILE" => Some("/x".to_owned()),
        _ => None,
    };
    let found = origin("infisical://", &variables).unwrap();
    assert_eq!(found, "infisical://eu.infisical.com/demo/staging");
    let builder = InfisicalBuilder::from_variables(&variables).unwrap();
    assert!(builder.build().is_ok());
}

#[test]
fn credential_variables_are_those_of_the_login_method() {
    let only = |set: &'static [&'static str]| {
        move |name: &str| set.contains(&name).then(|| "c4n4ry".to_owned())
    };
    const UNIVERSAL: &[&str] = &["INFISICAL_CLIENT_ID", "INFISICAL_CLIENT_SECRET"];
    let secrets = [
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET",
        "INFISICAL_CLIENT_SECRET",
    ];
    for (options, set, expected) in [
        ("auth=universal", UNIVERSAL, &secrets[..]),
        ("client_id=me&client_secret_file=/x", UNIVERSAL, &[]),
        ("auth=token", &["INFISICAL_TOKEN"], &["INFISICAL_TOKEN"]),
        ("", &["INFISICAL_TOKEN"], &["INFISICAL_TOKEN"]),
        ("token_file=/t", &["INFISICAL_TOKEN"], &[]),
        (
            "auth=oidc&identity=i",
            &["INFISICAL_JWT"],
            &["INFISICAL_JWT"],
        ),
        (
            "auth=ldap&identity=i&user=u",
            &["INFISICAL_LDAP_PASSWORD"],
            &["INFISICAL_LDAP_PASSWORD"],
        ),
        ("auth=aws&identity=i", &[], &AwsCredentials::VARIABLES),
    ] {
        let url = format!("infisical://h/p/e?{options}");
        let builder = InfisicalBuilder::from_url_with(&url, &only(set)).unwrap();
        assert_eq!(builder.credential_variables(), expected, "{options}");
    }
    let builder = InfisicalBuilder::from_variables(&only(UNIVERSAL)).unwrap();
    for secret in secrets {
        assert!(
            builder
                .credential_variables()
                .iter()
                .any(|name| name == secret)
        );
    }
    let builder = builder.auth(InfisicalAuth::token("t".into()));
    assert!(builder.credential_variables().is_empty());
}

#[test]
fn errors_name_the_invalid_part_and_show_no_credentials() {
    let full = "client_id=me&client_secret_file=/x";
    for (url, expected) in [
        ("infisical://h/p/e", "no login is configured"),
        ("infisical://h/p/e?auth=universal", "needs a client id"),
        (
            "infisical://h/p/e?client_secret_file=/x",
            "needs a client id",
        ),
        (
            "infisical://h/p/e?identity=i",
            "the login method is missing",
        ),
        (
            "infisical://h/p/e?jwt_file=/x",
            "the login method is missing",
        ),
        ("infisical://h/p/e?client_id=me", "needs a client secret"),
        ("infisical://h/p/e?auth=token", "needs a token"),
        ("infisical://h/p/e?auth=kubernetes", "machine identity"),
        ("infisical://h/p/e?auth=oidc&identity=i", "needs a JWT"),
        ("infisical://h/p/e?auth=ldap", "needs a user name"),
        ("infisical://h/p/e?auth=ldap&user=u", "needs a password"),
        ("infisical://h/p/e?user=u", "the login method is missing"),
        ("infisical://h/p/e?auth=aws", "machine identity"),
        (
            "infisical://h/p/e?auth=aws&identity=i&aws_region=eu%201",
            "AWS region",
        ),
        (
            "infisical://h/p/e?auth=magic",
            "login method is not supported",
        ),
        (
            "infisical://h/p/e?client_secret=c4n4ry",
            "must not contain credentials",
        ),
        ("infisical://h/p/e?mode=x", "unknown option"),
        (&format!("infisical://h?{full}"), "the project is missing"),
        (
            &format!("infisical://h/p?{full}"),
            "the environment is missing",
        ),
        (
            &format!("infisical://h/p/e/a/../b?{full}"),
            "not a valid path",
        ),
        (
            &format!("infisical://h/p/e/a..b?{full}"),
            "not a valid path",
        ),
        (&format!("infisical://h/p/e?{full}&api=5"), "must be 3 or 4"),
        (
            &format!("infisical://h/p/e?{full}&imports=yes"),
            "neither true nor false",
        ),
        (&format!("infisical+http://h/p/e?{full}"), "unencrypted"),
        (&format!("redis://h/p/e?{full}"), "scheme"),
    ] {
        let error = origin(url, &no_variable).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("c4n4ry"));
    }
    assert!(InfisicalBuilder::from_variables(&no_variable).is_err());
}

#[test]
fn address_with_the_path_of_the_api_is_corrected() {
    for (address, corrected) in [
        (
            "https://secrets.internal/api",
            Some("https://secrets.internal"),
        ),
        (
            "https://secrets.internal/api/v3/",
            Some("https://secrets.internal"),
        ),
        (
            "https://host:8080/infisical/api/v1",
            Some("https://host:8080/infisical"),
        ),
        ("https://api", None),
        ("https://api/v3", None),
        ("https://host/api-gateway", None),
        ("https://host/infisical", None),
    ] {
        let auth = InfisicalAuth::token(Credential::value("token"));
        let builder = InfisicalProvider::builder(address, auth).unwrap();
        let result = builder.project("demo").environment("dev").build();
        let error = result.err().map(|error| error.to_string());
        assert_eq!(error.is_some(), corrected.is_some(), "{address}: {error:?}");
        if let (Some(error), Some(corrected)) = (error, corrected) {
            assert!(error.contains(&format!("`{corrected}`")), "{error}");
        }
    }
}

#[test]
fn white_space_around_a_variable_is_ignored() {
    let variable = |name: &str| match name {
        "INFISICAL_PROJECT_ID" => Some("\u{FEFF} demo\r\n".to_owned()),
        "INFISICAL_ENVIRONMENT" => Some("dev\n".to_owned()),
        "INFISICAL_TOKEN" => Some("token\n".to_owned()),
        _ => None,
    };
    let found = origin("infisical://", &variable).unwrap();
    assert_eq!(found, "infisical://app.infisical.com/demo/dev");
}

#[test]
fn login_method_defaults_to_the_configured_credentials() {
    let auth = |query: &str, set: &[&str]| {
        let variable = |name: &str| set.contains(&name).then(|| "it".to_owned());
        let url = format!("infisical://h/p/e{query}");
        let found = InfisicalBuilder::from_url_with(&url, &variable).map(|builder| builder.auth);
        let text = found.map_or_else(|error| error.to_string(), |auth| format!("{auth:?}"));
        let from_variables = InfisicalBuilder::from_variables(&variable);
        (
            text,
            from_variables.map(|builder| format!("{:?}", builder.auth)),
        )
    };
    const TOKEN: &str = "INFISICAL_TOKEN";
    const ID: &str = "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID";
    const SECRET: &str = "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET";
    for (query, set, expected) in [
        ("", &[TOKEN][..], "Token"),
        ("", &["INFISICAL_TOKEN_FILE"], "Token"),
        ("", &[TOKEN, ID, SECRET], "Token"),
        ("", &[ID, SECRET], "Universal"),
        ("", &[ID], "needs a client secret"),
        ("", &[SECRET], "needs a client id"),
        ("", &[], "no login is configured"),
        // The options of the URL take precedence over the variables.
        ("?client_id=me", &[TOKEN, SECRET], "Universal"),
        ("?token_file=/x", &[ID, SECRET], "Token"),
        ("?auth=universal", &[TOKEN, ID, SECRET], "Universal"),
        ("?auth=token", &[TOKEN, ID, SECRET], "Token"),
        ("?auth=aws&identity=i", &[TOKEN], "us-east-1"),
        (
            "?auth=ldap&identity=i&user=u&sub_organization=team",
            &["INFISICAL_LDAP_PASSWORD"],
            "sub_organization: Some(\"team\")",
        ),
    ] {
        let (from_url, from_variables) = auth(query, set);
        assert!(from_url.contains(expected), "{query} {set:?}: {from_url}");
        if query.is_empty() {
            let found = from_variables.unwrap_or_else(|error| error.to_string());
            assert!(found.contains(expected), "{set:?}: {found}");
        }
    }
}

#[test]
fn plain_http_and_proxies_are_set_by_options_and_variables() {
    let url = "infisical+http://infisical:8080/demo/dev?auth=token&token_file=/x";
    let error = origin(url, &no_variable).unwrap_err();
    assert!(error.to_string().contains("unencrypted"), "{error}");
    origin(&format!("{url}&allow_http=true"), &no_variable).unwrap();
    let allowed = |name: &str| (name == "SECRETWELL_ALLOW_HTTP").then(|| "true".to_owned());
    origin(url, &allowed).unwrap();

    let url = "infisical://infisical/demo/dev?auth=token&token_file=/x";
    origin(&format!("{url}&proxy=http://proxy:3128"), &no_variable).unwrap();
    let error = origin(&format!("{url}&proxy=socks5://proxy"), &no_variable).unwrap_err();
    assert!(error.to_string().contains("SOCKS"), "{error}");
    let error = origin(&format!("{url}&proxy=http://me:pw@proxy"), &no_variable).unwrap_err();
    assert!(error.to_string().contains("credentials"), "{error}");
}

/// The server's response to an empty id would look like that to a wrong one.
#[test]
fn login_without_an_id_is_an_invalid_configuration() {
    let secret = || Credential::value("c4n4ry");
    for auth in [
        InfisicalAuth::universal(" ", secret()),
        InfisicalAuth::kubernetes(""),
        InfisicalAuth::jwt("\n", secret()),
        InfisicalAuth::ldap("", "user", secret()),
        InfisicalAuth::ldap(ID, " ", secret()),
    ] {
        let builder = InfisicalBuilder::new("https://secrets.internal", auth).unwrap();
        let builder = builder.project(ID).environment("dev");
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("is empty"), "{error}");
        assert!(!format!("{error:#?}").contains("c4n4ry"));
    }
}
