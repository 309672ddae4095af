//! `secretwell export`

use std::process::ExitCode;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use secretwell::{Error, SecretKey};

use super::formats::{
    GitHubFile, GitHubOutput, VARIABLE_HINT, docker_lines, invalid_name, shell_commands,
};
use super::{check_output_is_private, write_all_to_stdout, write_stdout};
use crate::args::{ExportArgs, Format, LogArgs};
use crate::exit::{Failure, Reason};
use crate::logging::with_progress;
use crate::notices::fetch_and_warn;
use crate::sources::Sources;
use crate::variables::{Variable, is_shell_name};

pub(crate) async fn export(
    sources: &Sources,
    args: &ExportArgs,
    log: &LogArgs,
) -> Result<ExitCode, Failure> {
    check_output_is_private(&args.reveal)?;
    let selection = sources.key_selection(&args.selection);
    let message = || format!("reading secrets from {}", sources.provider.origin());
    let fetch = fetch_and_warn(&sources.provider, &selection, Duration::ZERO);
    let secrets = with_progress(log, message, fetch).await?;
    let mut naming = sources.naming(&args.selection)?;
    // These documents contain values, not variables of a process.
    naming.allows_any_value = matches!(args.format, Format::Json | Format::K8s);
    let variables = naming.variables(&secrets)?;
    let document = match args.format {
        Format::Env => env_document(&variables)?,
        Format::Json => json_document(&variables)?,
        Format::K8s => kubernetes_secret(&args.name, &variables)?,
        Format::Shell => shell_commands(&text_variables(&variables)?)?,
        Format::Docker => docker_lines(&text_variables(&variables)?)?,
        Format::Github => {
            let output = GitHubOutput::new(&text_variables(&variables)?)?;
            let file = GitHubFile::open()?;
            // The values are masked before a step can print them.
            write_all_to_stdout(output.masks.as_bytes())?;
            file.append(&output)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    write_stdout(document.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Formats a `.env` document. It uses only syntax that the file provider and shells read in the same way.
fn env_document(variables: &[Variable]) -> Result<String, Failure> {
    let mut document = String::new();
    for (name, value) in text_variables(variables)? {
        if !is_shell_name(name) {
            return Err(invalid_name(
                name,
                "a name in a `.env` document consists of letters, digits and `_`, and does not start with a digit",
                VARIABLE_HINT,
            ));
        }
        if has_unclear_line_end(value) {
            return Err(Failure::new(
                Reason::Configuration,
                format!(
                    "`{name}` cannot be exported: the value contains a carriage return or a line separator that only \
                     some readers take for the end of a line; use `--format json`"
                ),
            ));
        }
        document.push_str(&format!("{name}={}\n", quote(value)));
    }
    Ok(document)
}

/// Quotes a value if necessary. The forms that all readers of `.env` share are preferred. The last form is that of
/// shells: adjacent pieces in single quotes. It begins with an empty piece, so that no other meaning is possible.
fn quote(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/+@%=".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) && !value.starts_with('=') {
        return value.to_owned();
    }
    // A line that looks like another variable is refused, because a quote might be missing before it.
    let is_assignment = |line: &str| ["='", "=\"", "=`"].iter().any(|it| line.contains(it));
    let has_assignment =
        value.lines().skip(1).any(is_assignment) || (value.contains('\n') && value.ends_with('='));
    let is_special = value.contains("\\\\") || value.contains("${") || value.ends_with('\\');
    if !value.contains('\'') && !is_special && !has_assignment {
        return format!("'{value}'");
    }
    if !value.contains(['"', '\\', '$', '`']) && !has_assignment {
        return format!("\"{value}\"");
    }
    let pieces = value.replace('\'', r"'\''");
    if has_assignment {
        format!("'''{}'", pieces.replace('=', r#"'"="'"#))
    } else {
        format!("'''{pieces}'")
    }
}

/// Returns whether some readers take a character inside of `value` for the end of a line.
fn has_unclear_line_end(value: &str) -> bool {
    value
        .replace("\r\n", "")
        .contains(['\r', '\u{2028}', '\u{2029}'])
}

fn json_document(variables: &[Variable]) -> Result<String, Failure> {
    let object: serde_json::Map<String, serde_json::Value> = text_variables(variables)?
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Ok(format!("{:#}\n", serde_json::Value::Object(object)))
}

fn kubernetes_secret(name: &str, variables: &[Variable]) -> Result<String, Failure> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_label =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    if name.len() > 253 || !name.chars().all(is_allowed) || !name.split('.').all(is_label) {
        return Err(invalid_name(
            name,
            "the name of a Kubernetes Secret consists of lower-case letters, digits, `-` and `.`, with a letter or digit \
             at both ends and beside each `.`",
            "set it with --name",
        ));
    }
    let mut document = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: \"{name}\"\ntype: Opaque\ndata:\n"
    );
    for Variable { name, value } in variables {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.chars().all(is_allowed)
            || name == "."
            || name.starts_with("..")
            || name.len() > 253
        {
            return Err(invalid_name(
                name,
                "a key of a Kubernetes Secret consists of at most 253 letters, digits, `-`, `_` and `.`, and does not \
                 start with `..`",
                VARIABLE_HINT,
            ));
        }
        let value = BASE64_STANDARD.encode(value.expose_bytes());
        // The quotes are necessary, because YAML would not parse `null`, `on` or `0000` as strings.
        document.push_str(&format!("  \"{name}\": \"{value}\"\n"));
    }
    Ok(document)
}

/// Returns the names and values of `variables` as text.
///
/// # Errors
/// Reports every value that is not UTF-8 text.
fn text_variables(variables: &[Variable]) -> Result<Vec<(&str, &str)>, Failure> {
    let mut problems: Vec<Error> = Vec::new();
    let mut texts = Vec::with_capacity(variables.len());
    for Variable { name, value } in variables {
        match value.expose_text() {
            Ok(value) => texts.push((name.as_str(), value)),
            Err(error) => {
                let error = error.with_hint("use `--format k8s`, which supports binary values");
                problems
                    .push(SecretKey::parse(name).map_or(error.clone(), |key| error.with_key(&key)));
            }
        }
    }
    Failure::from_errors(&problems).map_or(Ok(texts), Err)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use secretwell::SecretProvider;
    use secretwell::file::FileProvider;
    use secretwell::file::Format as FileFormat;

    use super::*;

    const VALUES: [&str; 18] = [
        "plain",
        "",
        "two words # no comment",
        "$HOME `id` $(id) \\n",
        "it's \"quoted\" $HOME `id` \\",
        "-----BEGIN\nit's\r\n-----END\n",
        "ß",
        "{\"json\": [1, null]}",
        "a=b==",
        "==",
        "it's",
        "it's $HOME",
        "a${HOME}b",
        "C:\\\\dir\\",
        "\\'",
        "x\nB='y'\nC=\"z\"",
        "'",
        " #a ",
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
    async fn file_provider_and_shell_read_exported_values() {
        let file = std::env::temp_dir().join(format!("secretwell-export-{}", std::process::id()));
        std::fs::write(&file, env_document(&variables()).unwrap()).unwrap();
        let provider = FileProvider::document(&file).format(FileFormat::Env);
        for (index, value) in VALUES.into_iter().enumerate() {
            let key = SecretKey::parse(format!("V{index}")).unwrap();
            let read = provider.get(&key).await.unwrap().value;
            assert_eq!(read.expose_text().unwrap(), value);
            let script = format!(". {}; printf %s \"$V{index}\"", file.display());
            for shell in [
                &["sh"][..],
                &["bash"],
                &["dash"],
                &["zsh", "-f"],
                &["busybox", "ash"],
            ] {
                let mut command = Command::new(shell[0]);
                // Shells that are not installed are skipped.
                if let Ok(output) = command.args(&shell[1..]).args(["-c", &script]).output() {
                    assert_eq!(
                        String::from_utf8(output.stdout).unwrap(),
                        value,
                        "{shell:?}"
                    );
                }
            }
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn names_that_are_invalid_in_the_format_are_rejected() {
        let variable = |name: &str| {
            [Variable {
                name: name.into(),
                value: "x".into(),
            }]
        };
        env_document(&variable("a-b")).unwrap_err();
        env_document(&variable("1A")).unwrap_err();
        kubernetes_secret("secrets", &variable("a-b")).unwrap();
        kubernetes_secret("secrets", &variable("ä")).unwrap_err();
        for name in ["", "My_Secrets", "-a", "a-", ".a", "a.", "a..b", "a.-b"] {
            kubernetes_secret(name, &variable("a")).unwrap_err();
        }
        for name in [".", "..", "..a", &"a".repeat(254)] {
            kubernetes_secret("a.b-c", &variable(name)).unwrap_err();
        }
        kubernetes_secret("a.b-c", &variable(".a")).unwrap();
        assert_eq!(
            json_document(&variable("a-b")).unwrap(),
            "{\n  \"a-b\": \"x\"\n}\n"
        );
    }
}
