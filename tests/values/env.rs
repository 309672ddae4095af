//! Variables as a source of a service: empty ones, files that they name, and names with a separator.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use secretwell::auth::{LazyAuth, Mode};
use secretwell::env::{EnvProvider, Environment};
use secretwell::file::FileProvider;
use secretwell::{
    ErrorKind, ExposeSecret, Freshness, MemoryProvider, Resolver, SecretProvider,
    SecretProviderExt, SecretString,
};
use serde::Deserialize;
use tempfile::TempDir;

use crate::cli::secretwell;
use crate::support::{key, keys, pass, replace, secs, text};

/// An environment that can change.
#[derive(Clone, Default)]
struct Variables(Arc<Mutex<BTreeMap<OsString, OsString>>>);

impl Variables {
    fn new(variables: &[(&str, &str)]) -> Self {
        let all = Self::default();
        for (name, value) in variables {
            all.set(name, value);
        }
        all
    }

    fn set(&self, name: &str, value: &str) {
        self.0.lock().unwrap().insert(name.into(), value.into());
    }

    fn provider(&self) -> EnvProvider {
        EnvProvider::with_environment(self.clone(), "")
    }
}

impl Environment for Variables {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn names(&self) -> Vec<OsString> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Settings {
    auth_secret: SecretString,
    smtp_password: Option<String>,
    #[serde(default)]
    region: String,
}

#[tokio::test]
async fn set_but_empty_variable_is_absent() {
    let fallback = MemoryProvider::from_iter([("AUTH_SECRET", "from the file")]);
    let empty = [("AUTH_SECRET", ""), ("SMTP_PASSWORD", ""), ("REGION", "")];
    let variables = Variables::new(&empty);
    let resolver = Resolver::new(variables.provider().or_else(fallback.clone()));
    assert_eq!(text(&resolver, "AUTH_SECRET").await, "from the file");
    let settings: Settings = resolver.load().await.unwrap();
    assert!(settings.smtp_password.is_none());
    assert_eq!(settings.region, "");

    let alone = Resolver::new(variables.provider());
    let error = alone.get("AUTH_SECRET").await.unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains("set but empty"), "{error}");
    let error = alone.load::<Settings>().await.unwrap_err();
    assert!(error.to_string().contains("AUTH_SECRET"), "{error}");

    let kept = variables.provider().keep_empty().or_else(fallback);
    let value = Resolver::new(kept).get("AUTH_SECRET").await.unwrap().value;
    assert!(value.is_empty());
}

#[tokio::test]
async fn service_starts_with_the_next_source_of_an_empty_variable() {
    let strong = "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=";
    let fallback = MemoryProvider::from_iter([("AUTH_SECRET", strong)]);
    let variables = Variables::new(&[("AUTH_SECRET", ""), ("SMTP_PASSWORD", "")]);
    let resolver = Resolver::new(variables.provider().or_else(fallback));
    let auth = LazyAuth::new(resolver, |settings: Settings, _| async move {
        Ok(settings.auth_secret)
    });
    assert!(auth.preflight(Mode::Production).await.is_ready());
    assert_eq!(auth.get().await.unwrap().expose_secret(), strong);
}

#[tokio::test(start_paused = true)]
async fn variable_that_is_set_later_takes_precedence() {
    let fallback = MemoryProvider::from_iter([("A", "fallback")]);
    let variables = Variables::new(&[("A", "")]);
    let resolver = Resolver::new(variables.provider().or_else(fallback));
    assert_eq!(text(&resolver, "A").await, "fallback");
    variables.set("A", "set");
    pass(secs(31)).await;
    assert_eq!(text(&resolver, "A").await, "set");
}

#[tokio::test]
async fn blank_variable_is_a_value() {
    let variables = Variables::new(&[("A", " "), ("B", "\n")]);
    let chain = variables.provider().or_else(MemoryProvider::from_iter([
        ("A", "weaker"),
        ("B", "weaker"),
    ]));
    for (key, value) in keys(&["A", "B"]).iter().zip([" ", "\n"]) {
        let read = chain.get(key).await.unwrap().value;
        assert_eq!(read.expose_text().unwrap(), value);
    }
}

#[tokio::test]
async fn separator_fills_nested_settings() {
    #[derive(Deserialize)]
    struct Service {
        db: Database,
        db_timeout: u16,
    }
    #[derive(Deserialize)]
    struct Database {
        password: SecretString,
        port: u16,
    }
    let variables = Variables::new(&[
        ("db__password", "p"),
        ("db__port", "5432"),
        ("db_timeout", "30"),
        ("db_port", "1"),
    ]);
    let provider = variables.provider().separator("__");
    let listed = provider.list(&Default::default()).await.unwrap();
    assert_eq!(
        listed,
        keys(&["db/password", "db/port", "db_port", "db_timeout"])
    );
    let service: Service = Resolver::new(provider).load().await.unwrap();
    assert_eq!(service.db.password.expose_secret(), "p");
    assert_eq!((service.db.port, service.db_timeout), (5432, 30));
}

#[tokio::test(start_paused = true)]
async fn missing_named_file_does_not_fall_through() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let variables = Variables::new(&[("A_FILE", file.to_str().unwrap())]);
    let weaker = MemoryProvider::from_iter([("A", "weaker")]);
    let named = variables.provider().file_suffix("_FILE");
    let resolver = Resolver::new(named.or_else(weaker));
    let error = resolver.get("A").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.is_temporary());

    // A mount that is late.
    replace(&file, b"strong\n");
    pass(secs(120)).await;
    assert_eq!(text(&resolver, "A").await, "strong");

    // A value that is already known survives each state of a writer, and the weaker source stays unused.
    for break_file in [
        (|file| std::fs::write(file, "").unwrap()) as fn(&Path),
        |file| std::fs::remove_file(file).unwrap(),
        |file| std::fs::create_dir(file).unwrap(),
    ] {
        break_file(&file);
        pass(secs(10)).await;
        let stale = resolver.get("A").await.unwrap();
        assert_eq!(stale.value.expose_text().unwrap(), "strong");
        assert!(matches!(stale.freshness, Freshness::Stale { .. }));
    }
    std::fs::remove_dir(&file).unwrap();
    replace(&file, b"stronger\n");
    pass(secs(120)).await;
    assert_eq!(text(&resolver, "A").await, "stronger");
}

/// Runs the command with these variables and a directory with the secret `AUTH_SECRET`.
fn run(variables: &[(&str, &str)], source: &str, arguments: &[&str]) -> (TempDir, Output) {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("AUTH_SECRET"), b"from the file");
    let mut command: Command = secretwell(["--from", source, "--from"]);
    command
        .arg(format!("file://{}", folder.path().display()))
        .args(arguments)
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    (folder, output)
}

#[test]
fn command_reads_the_next_source_of_an_empty_variable() {
    // What Docker Compose sets for `AUTH_SECRET=${AUTH_SECRET}` if the outer variable is not set.
    let compose = [("AUTH_SECRET", "")];
    for arguments in [
        &["get", "AUTH_SECRET"][..],
        &[
            "run",
            "--only",
            "AUTH_SECRET",
            "--",
            "printenv",
            "AUTH_SECRET",
        ],
    ] {
        let (_folder, output) = run(&compose, "env://", arguments);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.trim_end(), "from the file", "{arguments:?}");
    }
    let check = ["check", "--require", "AUTH_SECRET", "--mode", "development"];
    let (_folder, output) = run(&compose, "env://", &check);
    assert!(output.status.success(), "{output:?}");

    let only = ["run", "--only", "AUTH_SECRET", "--", "true"];
    let (_folder, output) = run(&compose, "env://?keep_empty=true", &only);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
}

#[test]
fn command_reads_the_files_that_variables_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    replace(&file, b"from a named file\n");
    let source = "env://APP_?file_suffix=_FILE";
    let get = ["get", "AUTH_SECRET"];
    let path = file.to_str().unwrap();
    let (_folder, output) = run(&[("APP_AUTH_SECRET_FILE", path)], source, &get);
    assert_eq!(output.stdout, b"from a named file", "{output:?}");

    let both = [
        ("APP_AUTH_SECRET_FILE", path),
        ("APP_AUTH_SECRET", "c4n4ry"),
    ];
    let missing = [("APP_AUTH_SECRET_FILE", "/c4n4ry/missing")];
    for variables in [&both[..], &missing] {
        let (_folder, output) = run(variables, source, &get);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(output.stdout.is_empty());
        assert!(!String::from_utf8_lossy(&output.stderr).contains("c4n4ry"));
    }
}

#[tokio::test]
async fn chain_of_variables_and_files_reads_one_definition_of_absent() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("EMPTY"), b"");
    replace(&folder.path().join("A"), b"file");
    let variables = Variables::new(&[("EMPTY", ""), ("A", "")]);
    let files = FileProvider::directory(folder.path());
    let chain = variables.provider().or_else(files);
    // An empty file is a value, because nobody creates one by leaving something out.
    assert!(chain.get(&key("EMPTY")).await.unwrap().value.is_empty());
    let value = chain.get(&key("A")).await.unwrap().value;
    assert_eq!(value.expose_text().unwrap(), "file");
    let listed = chain.list(&Default::default()).await.unwrap();
    assert_eq!(listed, keys(&["A", "EMPTY"]));
}
