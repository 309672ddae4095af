//! The JSON documents of `check`, `list` and `doctor`, validated with their schemas.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Secrets, secretwell, text};

const CANARY: &str = "c4n4ry-value";

/// Validates a document with the schema of the command, and returns it.
fn validated(command: &str, document: &[u8]) -> Value {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    let schema = fs::read(schemas.join(format!("{command}.json"))).unwrap();
    let schema = serde_json::from_slice(&schema).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let document: Value = serde_json::from_slice(document).unwrap();
    let errors = validator.iter_errors(&document);
    let errors: Vec<_> = errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:?}\n{document:#}");
    document
}

#[test]
fn documents_have_the_documented_schema_and_no_values() {
    let secrets = Secrets::new(&[
        ("AUTH_SECRET", CANARY),
        ("OTHER", CANARY),
        ("EMPTY", ""),
        (
            "BETTER_AUTH_SECRETS",
            "1:K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
        ),
    ]);
    let lines = format!("A={CANARY}\nno assignment\na b={CANARY}\n");
    fs::write(secrets.path().join("lines.env"), lines).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", secrets.path().join("OUT")).unwrap();
    let directory = secrets.url();
    let document = format!("{directory}/lines.env");
    let chain = format!("{directory},env://X_");
    for arguments in [
        &["list", "--from", &directory][..],
        &["list", "--from", &document],
        &["list", "--from", &chain],
        &["list", "--from", "file:///nowhere"],
        &["check", "--from", &directory],
        &["check", "--from", &document],
        &["check", "--from", &directory, "--mode", "development"],
        &["check", "--from", &directory, "--require", "OTHER,MISSING"],
        &[
            "check",
            "--from",
            &chain,
            "--require",
            "BETTER_AUTH_SECRETS",
        ],
        &["doctor", "--from", &directory],
        &["doctor", "--from", &document],
        &["doctor", "--from", "file:///nowhere", "--require", "A"],
        &[
            "doctor",
            "--from",
            &chain,
            "--require",
            "AUTH_SECRET,OTHER,NO",
        ],
        &["doctor", "--from", "vault+http://127.0.0.1:1/secret/app"],
    ] {
        let mut command = secretwell(arguments);
        command.env("VAULT_TOKEN", CANARY);
        command.env("VAULT_CLIENT_TIMEOUT", "1");
        let output = command.args(["--format", "json"]).output().unwrap();
        let stdout = text(&output.stdout);
        assert!(!stdout.contains(CANARY), "{arguments:?}: {stdout}");
        let document = validated(arguments[0], &output.stdout);
        assert_eq!(
            document["exit_status"].as_i64(),
            output.status.code().map(i64::from),
            "{arguments:?}"
        );
    }
}

#[test]
fn schemas_reject_other_documents() {
    let secrets = Secrets::new(&[("A", "x")]);
    let output = secretwell(["list", "--format", "json", "--from", &secrets.url()]).output();
    let mut document = validated("list", &output.unwrap().stdout);
    document["secrets"][0]["value"] = "x".into();
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    let schema = fs::read(schemas.join("list.json")).unwrap();
    let schema = serde_json::from_slice(&schema).unwrap();
    assert!(!jsonschema::is_valid(&schema, &document));
}
