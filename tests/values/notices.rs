//! Names that cannot be keys: they are reported by name, and never dropped silently.

use std::ffi::{OsStr, OsString};
use std::process::Output;
use std::sync::Arc;

use secretwell::backend::NoticeKind;
use secretwell::env::{EnvProvider, Environment};
use secretwell::infisical::ApiVersion;
use secretwell::notify::NotifyHub;
use secretwell::vault::{Credential, VaultAuth, VaultProvider};
use secretwell::{ErrorKind, KeyPrefix, MemoryProvider, SecretProvider, SecretProviderExt};
use secretwell_testkit::{Action, FaultyProvider};
use serde_json::json;

use crate::cli::secretwell;
use crate::infisical::place::Place;
use crate::support::{down, secs};
use crate::vault::server::{shared, unique};

async fn listed(provider: &dyn SecretProvider, prefix: &str) -> (Vec<String>, Vec<String>) {
    let prefix = KeyPrefix::parse(prefix).unwrap();
    let keys = provider.list(&prefix).await.unwrap();
    for key in &keys {
        provider.get(key).await.unwrap();
    }
    let notices = provider.notices(&prefix).await.unwrap();
    for notice in &notices {
        assert_eq!(notice.kind, NoticeKind::NotAKey);
        assert!(!notice.to_string().contains("c4n4ry"), "{notice}");
    }
    let keys = keys.iter().map(ToString::to_string).collect();
    (
        keys,
        notices.into_iter().map(|notice| notice.name).collect(),
    )
}

#[tokio::test]
async fn fields_of_vault_without_a_key_are_reported() {
    let bao = shared().await;
    for version in [1, 2] {
        let mount = unique("notices");
        bao.mount(&mount, version).await;
        let fields = json!({
            "GOOD": "c4n4ry", "": "c4n4ry", " BLANK": "c4n4ry", "a/b": "c4n4ry", "a\\b": "c4n4ry",
            "..": "c4n4ry", "new\nline": "c4n4ry", "NULL": null,
        });
        let write = async |path: &str| {
            let (data, body) = match version {
                1 => ("", fields.clone()),
                _ => ("/data", json!({"data": fields})),
            };
            bao.root("POST", &format!("{mount}{data}/{path}"), body)
                .await;
        };
        write("app").await;
        write("app/below").await;
        let provider = |whole: bool| {
            let token = VaultAuth::token(Credential::value(bao.root_token()));
            let builder = VaultProvider::builder([format!("http://{}", bao.address)], token);
            let builder = builder.unwrap().mount(&mount).path("app");
            let builder = if whole {
                builder.whole_secrets()
            } else {
                builder
            };
            builder.build().unwrap()
        };
        let bad = ["", " BLANK", "..", "a/b", "a\\\\b", "new\\nline"];
        let (keys, notices) = listed(&provider(false), "below").await;
        assert_eq!(keys, ["below/GOOD"]);
        assert_eq!(notices, bad.map(|name| format!("below/{name}")));
        let (_, notices) = listed(&provider(false), "").await;
        assert_eq!(notices.len(), 2 * bad.len(), "{notices:?}");
        // The secret at the path of the provider itself has no key.
        let (keys, notices) = listed(&provider(true), "").await;
        assert_eq!((keys, notices), (vec!["below".into()], vec![String::new()]));
    }
}

#[tokio::test]
async fn secrets_of_infisical_without_a_key_are_reported() {
    for api in [ApiVersion::V3, ApiVersion::V4] {
        let place = Place::fake(api).await;
        for name in ["GOOD", "back\\slash", "tab\tname"] {
            place.write(None, name, "c4n4ry").await;
        }
        let provider = place.provider().build().unwrap();
        let (keys, notices) = listed(&provider, "").await;
        assert_eq!(keys, ["GOOD"]);
        assert_eq!(notices, ["back\\\\slash", "tab\\tname"]);
    }
}

/// Runs the command with variables, of which some cannot be keys.
fn command(names: usize, arguments: &[&str]) -> Output {
    let mut command = secretwell(["--from", "env://APP_"]);
    command.args(arguments).env("APP_GOOD", "c4n4ry");
    for index in 0..names {
        command.env(format!("APP_BAD/{index}"), "c4n4ry");
    }
    command.output().unwrap()
}

#[test]
fn commands_that_read_all_secrets_warn_about_names_that_are_left_out() {
    for arguments in [
        &["list"][..],
        &["run", "--pristine", "--", "true"],
        &["export", "--format", "json"],
    ] {
        let output = command(3, arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        let warnings: Vec<_> = stderr.lines().collect();
        assert_eq!(warnings.len(), 3, "{arguments:?}: {stderr}");
        for (index, warning) in warnings.iter().enumerate() {
            let text = format!(
                "APP_BAD/{index} from env://APP_: the name of the variable cannot be a key; rename the variable"
            );
            assert!(warning.contains(&text), "{warning}");
        }
        assert!(!stderr.contains("c4n4ry"), "{stderr}");
    }
    let output = command(3, &["run", "--only", "GOOD", "--", "true"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(command(0, &["list"]).stderr.is_empty());
}

#[test]
fn warnings_are_limited_and_counted() {
    let output = command(5_000, &["--log-format", "json", "list"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let events: Vec<serde_json::Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 21, "{stderr}");
    for event in &events[..20] {
        assert_eq!(event["event"], "secret_left_out");
        assert_eq!(event["kind"], "not_a_key");
        assert_eq!(event["origin"], "env://APP_");
        assert!(event["name"].as_str().unwrap().starts_with("APP_BAD/"));
    }
    assert_eq!(events[20]["event"], "secrets_left_out");
    // The provider returns at most 1,000 notices. The last one counts the others.
    assert_eq!(events[20]["count"], 980);
}

#[test]
fn secrets_without_any_key_are_reported_although_nothing_is_listed() {
    for arguments in [
        &["list"][..],
        &["run", "--", "true"],
        &["export"],
        &["check"],
    ] {
        let output = secretwell(["--from", "env://APP_"])
            .args(arguments)
            .env("APP_A/B", "c4n4ry")
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(66), "{arguments:?}: {stderr}");
        assert!(stderr.contains("APP_A/B from env://APP_"), "{stderr}");
        assert!(stderr.contains("contains no secrets"), "{stderr}");
    }
}

#[test]
fn check_prints_names_that_are_left_out() {
    for require in [&[][..], &["--require", "GOOD"]] {
        let arguments = [&["check", "--mode", "development"], require].concat();
        let output = command(2, &arguments);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{stdout}");
        let (_, notices) = stdout.split_once("notices:\n").unwrap();
        let lines: Vec<_> = notices.lines().collect();
        assert_eq!(
            lines,
            [0, 1].map(|index| format!(
                "  warning  APP_BAD/{index} from env://APP_: the name of the variable cannot be a key; rename the variable"
            ))
        );
        assert!(output.stderr.is_empty());
    }
    let output = command(0, &["check", "--mode", "development"]);
    assert!(
        !String::from_utf8(output.stdout)
            .unwrap()
            .contains("notices")
    );
}

/// An environment with a name that cannot be a key.
struct Bad;

impl Environment for Bad {
    fn value(&self, _: &OsStr) -> Option<OsString> {
        Some("c4n4ry".into())
    }

    fn names(&self) -> Vec<OsString> {
        vec!["A\\B".into(), "GOOD".into()]
    }
}

#[tokio::test]
async fn every_adapter_passes_notices_on() {
    let bad = || EnvProvider::with_environment(Bad, "");
    let adapters: [(&str, Arc<dyn SecretProvider>); 7] = [
        ("boxed", Arc::new(Box::new(bad()))),
        ("renamed", Arc::new(bad().renamed([("X", "GOOD")]).unwrap())),
        ("prefixed", Arc::new(bad().prefixed("").unwrap())),
        ("deadline", Arc::new(bad().with_deadline(secs(60)))),
        ("chain", Arc::new(MemoryProvider::new().or_else(bad()))),
        ("notified", Arc::new(NotifyHub::new().wrap(bad()))),
        ("faulty", Arc::new(FaultyProvider::new(bad()))),
    ];
    for (name, provider) in adapters {
        let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
        let names: Vec<_> = notices.iter().map(|notice| notice.name.as_str()).collect();
        assert_eq!(names, ["A\\\\B"], "{name}");
    }
}

#[tokio::test]
async fn source_that_cannot_be_listed_hides_no_notices_of_other_sources() {
    let faulty = || {
        let faulty = FaultyProvider::new(MemoryProvider::new());
        faulty.always(Some(Action::Fail(down())));
        faulty
    };
    let chain = faulty().or_else(EnvProvider::with_environment(Bad, ""));
    let notices = chain.or_else(faulty()).notices(&KeyPrefix::root()).await;
    let notices = notices.unwrap();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].origin.as_ref().unwrap().as_str(), "env://");

    let alone = MemoryProvider::new().or_else(faulty());
    let error = alone.notices(&KeyPrefix::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
