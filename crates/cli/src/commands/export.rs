//! `secretwell export`

use std::process::ExitCode;

use base64::prelude::{BASE64_STANDARD, Engine};
use secretwell::{Error, SecretKey};

use super::{allow, write};
use crate::args::{Export, Format, Log};
use crate::environment::Variable;
use crate::exit::{Failure, Reason};
use crate::place::Setup;
use crate::read::read;
use crate::say::with_progress;

pub(crate) async fn export(setup: &Setup, export: &Export, log: &Log) -> Result<ExitCode, Failure> {
    allow(&export.reveal)?;
    let wanted = setup.wanted(&export.selection);
    let what = || format!("reading the secrets from {}", setup.provider.origin());
    let read = read(&setup.provider, &wanted, std::time::Duration::ZERO);
    let secrets = with_progress(log, what, read).await?;
    let variables = setup.naming(&export.selection).variables(&secrets)?;
    let document = match export.format {
        Format::Env => env(&variables)?,
        Format::Json => json(&variables)?,
        Format::K8s => manifest(&export.name, &variables)?,
    };
    write(document.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A `.env` document, in the form that parsers of such documents and shells agree on.
fn env(variables: &[Variable]) -> Result<String, Failure> {
    let mut document = String::new();
    for (name, value) in texts(variables)? {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits) {
            return Err(bad_name(
                name,
                "a name has letters, digits and `_` in a `.env` document",
            ));
        }
        document.push_str(&format!("{name}={}\n", quoted(value)));
    }
    Ok(document)
}

/// Single quotes keep everything but themselves to the letter.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/+@%=".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    if !value.contains('\'') {
        return format!("'{value}'");
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn json(variables: &[Variable]) -> Result<String, Failure> {
    let object: serde_json::Map<String, serde_json::Value> = texts(variables)?
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Ok(format!("{:#}\n", serde_json::Value::Object(object)))
}

fn manifest(name: &str, variables: &[Variable]) -> Result<String, Failure> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(fits) {
        return Err(bad_name(
            name,
            "a Secret's name has small letters, digits, `-` and `.`; give one by --name",
        ));
    }
    let mut document = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: \"{name}\"\ntype: Opaque\ndata:\n"
    );
    for Variable { name, value } in variables {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.chars().all(fits) {
            return Err(bad_name(
                name,
                "a key of a Secret has letters, digits, `-`, `_` and `.`",
            ));
        }
        let value = BASE64_STANDARD.encode(value.expose_bytes());
        // In quotes, because `null`, `on` and `0000` are no text to YAML.
        document.push_str(&format!("  \"{name}\": \"{value}\"\n"));
    }
    Ok(document)
}

/// The variables whose values are all text.
fn texts(variables: &[Variable]) -> Result<Vec<(&str, &str)>, Failure> {
    let mut problems: Vec<Error> = Vec::new();
    let mut texts = Vec::with_capacity(variables.len());
    for Variable { name, value } in variables {
        match value.expose_text() {
            Ok(value) => texts.push((name.as_str(), value)),
            Err(error) => {
                let error = error.with_hint("`--format k8s` takes any bytes");
                problems
                    .push(SecretKey::parse(name).map_or(error.clone(), |key| error.with_key(&key)));
            }
        }
    }
    Failure::of(&problems).map_or(Ok(texts), Err)
}

fn bad_name(name: &str, rule: &str) -> Failure {
    let name = name.escape_debug();
    Failure::new(
        Reason::Configuration,
        format!("`{name}` cannot be exported: {rule}; --map gives a key another name"),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use secretwell::SecretProvider;
    use secretwell::file::FileProvider;
    use secretwell::file::Format as FileFormat;

    use super::*;

    const VALUES: [&str; 9] = [
        "plain",
        "",
        "two words # no comment",
        "$HOME `id` $(id) \\n",
        "it's \"quoted\" $HOME `id` \\",
        "-----BEGIN\nit's\r\n-----END\n",
        "ß",
        "{\"json\": [1, null]}",
        "a=b==",
    ];

    fn variables() -> Vec<Variable> {
        let values = VALUES.into_iter().enumerate();
        let variable = |(index, value): (usize, &str)| Variable {
            name: format!("V{index}"),
            value: value.into(),
        };
        values.map(variable).collect()
    }

    #[tokio::test]
    async fn our_own_parser_and_a_shell_read_what_is_exported() {
        let folder = std::env::temp_dir().join(format!("secretwell-export-{}", std::process::id()));
        std::fs::write(&folder, env(&variables()).unwrap()).unwrap();
        let provider = FileProvider::document(&folder).format(FileFormat::Env);
        for (index, value) in VALUES.into_iter().enumerate() {
            let key = SecretKey::parse(format!("V{index}")).unwrap();
            let read = provider.get(&key).await.unwrap().value;
            assert_eq!(read.expose_text().unwrap(), value);
            let script = format!(". {}; printf %s \"$V{index}\"", folder.display());
            let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), value);
        }
        std::fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn names_that_a_form_cannot_have_are_refused() {
        let variable = |name: &str| {
            [Variable {
                name: name.into(),
                value: "x".into(),
            }]
        };
        env(&variable("a-b")).unwrap_err();
        env(&variable("1A")).unwrap_err();
        manifest("secrets", &variable("a-b")).unwrap();
        manifest("secrets", &variable("ä")).unwrap_err();
        manifest("My_Secrets", &variable("a")).unwrap_err();
        assert_eq!(json(&variable("a-b")).unwrap(), "{\n  \"a-b\": \"x\"\n}\n");
    }
}
