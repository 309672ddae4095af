//! How errors, states and reports are shown: as text, as fields and as JSON, and never with a value.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use secretwell::auth::sessions::authjs::SecretOrder;
use secretwell::auth::{BuildContext, BuildError, LazyAuth, Mode, SecretPolicy, State};
use secretwell::backend::Capabilities;
use secretwell::file::Format;
use secretwell::infisical::ApiVersion;
use secretwell::vault::KvVersion;
use secretwell::{
    Error, ErrorKind, KeyPrefix, MemoryProvider, OnDenied, Resolver, SecretKey, SecretProvider,
    SecretProviderExt, SecretString,
};
use secretwell_testkit::{Canary, CanaryLog};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::process::{CHILD, assert_passed, run_child};
use crate::support::{down, faulty_source, key, pass, secs, text};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the tests read its errors only")]
struct Secrets {
    auth_secret: SecretString,
    port: Option<u16>,
}

/// Formats an error as `main` does when it returns it.
fn printed_by_main(error: impl StdError + 'static) -> String {
    let boxed: Box<dyn StdError> = Box::new(error);
    format!("{boxed:?}")
}

#[tokio::test]
async fn errors_returned_from_main_print_their_text_with_the_hint() {
    let error = Error::new(ErrorKind::Denied, "the policy does not allow it")
        .with_key(&key("A"))
        .with_hint("extend the policy");
    assert_eq!(printed_by_main(error.clone()), error.to_string());
    assert!(error.to_string().ends_with("; extend the policy"));
    assert!(format!("{error:#?}").contains("kind: Denied"));

    let resolver = Resolver::new(MemoryProvider::from_iter([("PORT", "eighty")]));
    let error = resolver.load::<Secrets>().await.unwrap_err();
    let text = printed_by_main(error.clone());
    assert_eq!(text, error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0], "Secrets: 2 problems");
    assert!(
        lines[1].starts_with("  - AUTH_SECRET from memory://: not found"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("  - PORT from memory://: invalid"),
        "{text}"
    );
    assert!(format!("{error:#?}").contains("problems: ["));

    let auth = LazyAuth::infallible(resolver, |_: Secrets, _| ());
    let error = auth.get().await.unwrap_err();
    assert_eq!(printed_by_main(error.clone()), error.to_string());
    assert!(error.to_string().contains("AUTH_SECRET"), "{error}");
    assert!(format!("{error:#?}").contains("problems: ["));
}

#[tokio::test]
async fn error_of_a_chain_names_the_report_of_each_source() {
    let (first, second) = (MemoryProvider::new(), MemoryProvider::new());
    first.set("A", "value").unwrap();
    first.remove("A").unwrap();
    let environment = secretwell::env::EnvProvider::with_prefix("SECRETWELL_TESTS_ABSENT_");
    let chain = environment.or_else(first).or_else(second);
    let error = chain.get(&key("A")).await.unwrap_err();
    assert!(error.is_not_found());
    let text = error.to_string();
    for part in [
        "env://SECRETWELL_TESTS_ABSENT_ (variable `SECRETWELL_TESTS_ABSENT_A` is not set; set it, or add a",
        "memory:// (",
    ] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert_eq!(text.matches("memory:// (").count(), 2, "{text}");
    let many = chain.get_many(&[key("A")]).await.pop().unwrap();
    assert_eq!(many.unwrap_err().to_string(), text);

    // A failed source is reported as failed, whatever the sources after it report.
    let (_, failing) = faulty_source(&[]);
    failing.always(secretwell_testkit::Action::Fail(down()));
    let chain = failing.or_else_on_failure(MemoryProvider::new());
    let error = chain.get(&key("A")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_temporary());
    assert!(
        error
            .message()
            .starts_with("the source is down; other sources: memory:// ("),
        "{error}"
    );
}

/// An error with a source, as a library returns it. Both quote their input.
#[derive(Debug)]
struct Outer(Inner);

#[derive(Debug)]
struct Inner(String);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot parse {}", self.0.0)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected character in {}", self.0)
    }
}

impl StdError for Outer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl StdError for Inner {}

#[tokio::test]
async fn builder_error_keeps_its_sources_without_secrets() {
    let canary = Canary::new("secret");
    let memory = MemoryProvider::new();
    memory.set("AUTH_SECRET", canary.value()).unwrap();
    let text = canary.text().to_owned();
    let auth = LazyAuth::<()>::new(Resolver::new(memory), move |_: Secrets, _: BuildContext| {
        let error = Outer(Inner(text.clone()));
        async move { Err(BuildError::from(error)) }
    });
    let failure = auth.get().await.unwrap_err();
    let problem = &failure.problems()[0];
    let chain = "cannot parse <AUTH_SECRET>: unexpected character in <AUTH_SECRET>";
    assert!(problem.to_string().contains(chain), "{problem}");
    let source = problem.source().expect("the builder's error has a source");
    assert_eq!(source.to_string(), "unexpected character in <AUTH_SECRET>");
    assert!(source.source().is_none());
    assert!(format!("{problem:#?}").contains("unexpected character in <AUTH_SECRET>"));
    canary.assert_hidden_error(&failure);
    canary.assert_hidden(&failure);
    canary.assert_not_in(&format!("{failure:#?}"), "the fields of the failure");
}

/// Returns the lines about failed and purged secrets.
fn warnings(log: &CanaryLog) -> Vec<String> {
    let lines = log.lines_with("WARN");
    lines
        .into_iter()
        .filter(|line| line.contains("secret_"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn only_the_loss_of_a_secret_is_a_warning_in_a_source_before_the_last_one() {
    let log = CanaryLog::install();
    let first = MemoryProvider::new();
    let second = MemoryProvider::from_iter([("K", "v")]);
    let resolver = Resolver::builder(first.clone().or_else(second.clone()))
        .ttl(secs(1))
        .build();
    assert_eq!(text(&resolver, "K").await, "v");
    first.set("K", "override").unwrap();
    pass(secs(2)).await;
    assert_eq!(text(&resolver, "K").await, "override");
    assert_eq!(warnings(&log), Vec::<String>::new());
    first.remove("K").unwrap();
    pass(secs(2)).await;
    assert_eq!(text(&resolver, "K").await, "v");
    let losses = warnings(&log);
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert!(losses[0].contains("secret_source_lost"), "{losses:?}");
    second.remove("K").unwrap();
    pass(secs(2)).await;
    resolver.get("K").await.unwrap_err();
    let warnings = warnings(&log);
    assert!(
        warnings.iter().any(|line| line.contains("secret_failed")),
        "{warnings:?}"
    );
    assert!(
        warnings.iter().any(|line| line.contains("secret_purged")),
        "{warnings:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn absence_is_logged_once_although_the_source_reports_changes() {
    let log = CanaryLog::install();
    let (memory, faulty) = faulty_source(&[("OTHER", "v")]);
    let faulty = faulty.with_capabilities(Capabilities::none().with_watch());
    let resolver = Resolver::builder(faulty).ttl(secs(60)).build();
    let _watch = resolver.watch(["K", "OTHER"]).unwrap();
    resolver.get("K").await.unwrap_err();
    for change in 0..5 {
        memory.set("OTHER", format!("v{change}").as_str()).unwrap();
        pass(secs(2)).await;
        resolver.refresh(["K"]).await.remove(0).unwrap_err();
    }
    assert_eq!(warnings(&log).len(), 1, "{:?}", warnings(&log));
}

#[test]
fn first_failure_without_a_subscriber_is_printed_once() {
    const NAME: &str = "reporting::first_failure_without_a_subscriber_is_printed_once";
    if std::env::var_os(CHILD).is_none() {
        let output = run_child(NAME, &[]);
        assert_passed(&output);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            stderr.matches("secretwell: not ready").count(),
            1,
            "{stderr}"
        );
        assert!(stderr.contains("AUTH_SECRET") && stderr.contains("`tracing` subscriber"));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        for _ in 0..3 {
            let auth =
                LazyAuth::infallible(Resolver::new(MemoryProvider::new()), |_: Secrets, _| ());
            assert!(auth.try_get().is_err() && auth.get().await.is_err());
            assert!(auth.rebuild().await.is_err());
        }
    });
}

/// Asserts that `value` is written as `text`, and read from it.
fn assert_written_as<T>(value: &T, text: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + fmt::Debug,
{
    let json = serde_json::to_value(value).unwrap();
    assert_eq!(json, json!(text));
    assert_eq!(serde_json::from_value::<T>(json).unwrap(), *value);
}

#[test]
fn keys_modes_and_policies_can_be_written_in_a_configuration() {
    assert_written_as(&key("db/PASSWORD"), "db/PASSWORD");
    assert_written_as(&KeyPrefix::parse("app/db").unwrap(), "app/db");
    assert_written_as(&KeyPrefix::root(), "");
    assert_written_as(&Mode::Production, "production");
    assert_written_as(&Mode::Development, "development");
    assert_written_as(&SecretPolicy::SigningKey, "signing_key");
    assert_written_as(&SecretPolicy::Unchecked, "unchecked");
    assert_written_as(&OnDenied::KeepUntilMaxStale, "keep_until_max_stale");
    assert_written_as(&Format::Env, "env");
    assert_written_as(&KvVersion::V2, "2");
    assert_written_as(&ApiVersion::V4, "4");
    assert_written_as(&SecretOrder::AuthCore, "auth_core");
    assert_written_as(&SecretOrder::NextAuth4, "next_auth_4");

    let error = serde_json::from_str::<SecretKey>(r#""../x""#).unwrap_err();
    assert!(error.to_string().contains("is not a valid key"), "{error}");
    assert!(serde_json::from_str::<Mode>(r#""prod""#).is_err());
    assert_eq!(
        serde_json::from_str::<Mode>(r#""Production""#).unwrap(),
        Mode::Production
    );
    assert_eq!(
        serde_json::from_str::<KvVersion>(r#""v1""#).unwrap(),
        KvVersion::V1
    );
}

#[tokio::test(start_paused = true)]
async fn states_and_reports_are_written_without_values() {
    let canary = Canary::new("secret");
    let (memory, faulty) = faulty_source(&[("PORT", "80")]);
    memory.set("AUTH_SECRET", canary.value()).unwrap();
    let resolver = Resolver::builder(faulty.clone())
        .ttl(Duration::from_secs(1))
        .build();
    let auth = LazyAuth::infallible(resolver.clone(), |_: Secrets, _| ());
    let written = |value: &dyn erased::Write| {
        let text = value.json();
        canary.assert_not_in(&text, "the JSON");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(written(&auth.state()), json!({"state": "idle"}));

    auth.get().await.unwrap();
    assert_eq!(
        written(&auth.state()),
        json!({"state": "ready", "generation": 1, "history": "complete"})
    );
    let report = written(&auth.preflight(Mode::Production).await);
    assert_eq!(report["mode"], "production");
    assert_eq!(report["origin"], "memory://");
    assert_eq!(report["checks"][0]["key"], "AUTH_SECRET");
    assert_eq!(report["checks"][0]["status"], "passed");
    let passed = &report["checks"][0]["detail"];
    assert_eq!(passed["origin"], "memory://");
    assert_eq!(passed["freshness"], "fresh");
    assert!(passed.get("value").is_none(), "{passed}");

    // Within a second, a forced refresh returns the result of the one before.
    tokio::time::sleep(Duration::from_secs(2)).await;
    memory.remove("AUTH_SECRET").unwrap();
    let report = written(&auth.preflight(Mode::Production).await);
    assert_eq!(report["checks"][0]["status"], "failed");
    let failed = &report["checks"][0]["detail"];
    assert_eq!(
        (&failed["kind"], &failed["key"]),
        (&json!("not_found"), &json!("AUTH_SECRET"))
    );
    assert_eq!(failed["temporary"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), 1);

    memory.set("AUTH_SECRET", canary.value()).unwrap();
    resolver.refresh_after_write(&[key("AUTH_SECRET")]).await;
    faulty.always(secretwell_testkit::Action::Fail(down()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let stale = written(&resolver.get("AUTH_SECRET").await.unwrap());
    assert_eq!(stale["freshness"], "stale");
    assert!(stale["age_seconds"].as_f64().unwrap() >= 4.0, "{stale}");
    assert_eq!(stale["reason"]["kind"], "unavailable");

    let other = LazyAuth::infallible(Resolver::new(MemoryProvider::new()), |_: Secrets, _| ());
    assert!(other.get().await.is_err());
    let failed = written(&other.state());
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["failure"]["problems"][0]["kind"], "not_found");
    assert!(
        failed["failure"]["retry_after_seconds"].is_number(),
        "{failed}"
    );
    assert!(matches!(other.state(), State::Failed { .. }));
}

/// Serialization through a trait object, so that one closure can check every type.
mod erased {
    pub(super) trait Write {
        fn json(&self) -> String;
    }

    impl<T: serde::Serialize> Write for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap()
        }
    }
}
