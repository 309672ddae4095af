//! Scalars of YAML, JSON and TOML are returned as they are written.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use secretwell::SecretProvider;
use tempfile::TempDir;

use crate::support::key;

/// Writes a document into a folder of its own, so that no file is changed in place.
fn document(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

async fn read(path: &Path, name: &str) -> String {
    let provider = secretwell::from_url(&format!("file://{}", path.display())).unwrap();
    let secret = provider.get(&key(name)).await.unwrap();
    secret.value.expose_text().unwrap().to_owned()
}

#[tokio::test]
async fn values_without_quotes_are_not_converted() {
    let fifty = "12345678901234567890123456789012345678901234567890";
    let yaml = [
        "02142",
        "007",
        fifty,
        "no",
        "yes",
        "on",
        "off",
        "y",
        "12e03",
        "1.10",
        "1_000",
        "0xDEADBEEF",
        "+12",
        "-0",
    ];
    for value in yaml {
        let (_folder, path) = document("a.yaml", &format!("top: {value}\ndb:\n  pin: {value}\n"));
        assert_eq!(read(&path, "top").await, value);
        assert_eq!(read(&path, "db/pin").await, value);
    }
    for (name, text, value) in [
        ("a.json", r#"{"k": 1.10}"#, "1.10"),
        ("a.toml", "k = 1.10", "1.10"),
        ("a.toml", "k = 1979-05-27 07:32:00Z", "1979-05-27 07:32:00Z"),
        (
            "a.yml",
            "k: [007, 1.10, no, 'x', ~]",
            r#"["007",1.10,"no","x",null]"#,
        ),
        (
            "a.json",
            r#"{"k": [1.10, {"a": -0}]}"#,
            r#"[1.10,{"a":-0}]"#,
        ),
        ("a.toml", "k = [1_000, 1.10]", r#"["1_000",1.10]"#),
    ] {
        let (_folder, path) = document(name, text);
        assert_eq!(read(&path, "k").await, value, "{text}");
    }
}

/// Writes text as a string of JSON. A string of YAML and of TOML in double quotes has the same form.
fn quoted(text: &str) -> String {
    let mut quoted = serde_json::to_string(text).unwrap();
    // JSON allows characters that YAML and TOML require to be escaped.
    for c in text
        .chars()
        .filter(|c| c.is_control() || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}'))
    {
        quoted = quoted.replace(c, &format!("\\u{:04x}", u32::from(c)));
    }
    quoted
}

#[test]
fn random_scalars_survive_writing_and_reading() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let check = |name: &str, text: &str, value: &str| -> Result<(), TestCaseError> {
        let (_folder, path) = document(name, text);
        let returned = runtime.block_on(read(&path, "t/k"));
        prop_assert_eq!(returned.as_str(), value, "{}", text);
        Ok(())
    };
    let run = |strategy: &str, test: &dyn Fn(String) -> Result<(), TestCaseError>| {
        let config = Config {
            failure_persistence: None,
            ..Config::with_cases(200)
        };
        let strategy = proptest::string::string_regex(strategy).unwrap();
        TestRunner::new(config).run(&strategy, test).unwrap();
    };

    run("(?s).{0,60}", &|text| {
        let in_quotes = quoted(&text);
        check("a.json", &format!("{{\"t\":{{\"k\":{in_quotes}}}}}"), &text)?;
        check("a.toml", &format!("[t]\nk = {in_quotes}\n"), &text)?;
        check("a.yaml", &format!("t:\n  k: {in_quotes}\n"), &text)
    });
    run("[ -~äß€😀]{0,60}", &|text| {
        let doubled = text.replace('\'', "''");
        check("a.yaml", &format!("t: {{k: '{doubled}'}}\n"), &text)?;
        let without = text.replace('\'', "");
        check("a.toml", &format!("t.k = '{without}'\n"), &without)
    });
    run("(?s).{0,30}", &|text| {
        let escape = |unit| format!("\\u{unit:04X}");
        let escaped: String = text.encode_utf16().map(escape).collect();
        check(
            "a.json",
            &format!("{{\"t\":{{\"k\":\"{escaped}\"}}}}"),
            &text,
        )
    });
    run("([ -~ä€😀]{0,20}\n){0,6}", &|text| {
        let block: String = text.lines().map(|line| format!("    {line}\n")).collect();
        check("a.yaml", &format!("t:\n  k: |2+\n{block}"), &text)?;
        check("a.yaml", &format!("t:\n  k: |2+\n{block}  x: 1\n"), &text)?;
        let basic = text.replace('\\', "\\\\").replace('"', "\\\"");
        check(
            "a.toml",
            &format!("[t]\nk = \"\"\"\n{basic}\"\"\"\n"),
            &text,
        )?;
        let literal = text.replace('\'', "");
        check(
            "a.toml",
            &format!("t.k = \'\'\'\n{literal}\'\'\'\n"),
            &literal,
        )
    });
    run("[0-9a-zA-Z._+][0-9a-zA-Z._+*&!@/~=-]{0,60}", &|text| {
        let is_null = matches!(text.as_str(), "null" | "Null" | "NULL");
        prop_assume!(!is_null);
        check("a.yaml", &format!("t:\n  k: {text}\n"), &text)?;
        check("a.yaml", &format!("t: {{k: {text} }} # {text}\n"), &text)
    });
    run(
        "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        &|text| {
            check("a.json", &format!("{{\"t\":{{\"k\":{text}}}}}"), &text)?;
            check("a.yaml", &format!("t:\n  k: {text}\n"), &text)?;
            check("a.toml", &format!("[t]\nk = {text}"), &text)
        },
    );
    run(
        "([+-]?[1-9](_?[0-9]){0,40}|0x[0-9a-fA-F](_?[0-9a-fA-F]){0,20}|0o[0-7]{1,30}|[+-]?(inf|nan))",
        &|text| check("a.toml", &format!("t = {{ k = {text} }}"), &text),
    );
}
