//! Which secrets may sign: build, preflight and the list of refused secrets.

use std::fmt::Write as _;

use allocation_counter::measure;
use secretwell::auth::{
    BuildContext, BuildError, KeyRing, LazyAuth, LazyAuthBuilder, Mode, PreflightOptions,
    PreflightReport, RefuseList, SecretPolicy, Status,
};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretKey, SecretString};
use secretwell_testkit::CanaryLog;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

const FIRST: &str = "the first secret, thirty-two bytes or more";
const FEW_WORDS: &str = "correct horse battery staple please";

/// Values with what a build in production does.
const VALUES: &[(&str, Outcome)] = &[
    (FIRST, Outcome::Accepted),
    (
        "exchange melon anthem yourself placenta testify",
        Outcome::Accepted,
    ),
    ("  nB3vX9qLm2Rt7Yw4Zk8sPd1Jf6Hc0  ", Outcome::Accepted),
    (FEW_WORDS, Outcome::Warning),
    ("16253415263142536152413625341623", Outcome::Warning),
    (
        "short",
        Outcome::Refused("too weak: 5 bytes, at least 32 are required"),
    ),
    (
        "dev-secret-$(openssl rand -hex 32)",
        Outcome::Refused("was not expanded"),
    ),
    (
        "op://Production/auth-service/credential",
        Outcome::Refused("was not resolved"),
    ),
    (
        "your-super-secret-jwt-key-min-32-chars",
        Outcome::Refused("example text"),
    ),
    ("changeme", Outcome::Refused("example text")),
    (
        "passwordpasswordpasswordpassword",
        Outcome::Refused("example text"),
    ),
    (
        "00000000-0000-0000-0000-000000000000",
        Outcome::Refused("short pattern"),
    ),
    (
        "qwertyuiopasdfghjklzxcvbnm123456",
        Outcome::Refused("keyboard"),
    ),
    (
        "leaked-7f3b9c2e81d04a56-leaked-QpZm",
        Outcome::Refused("refuse list"),
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Warning,
    Refused(&'static str),
}

/// How a key becomes that of a signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signs {
    Named,
    Preset,
    Policy,
    Ring,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "the builder takes the ring")]
struct One<T> {
    session_key: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the builder takes the ring")]
struct Preset<T> {
    better_auth_secret: T,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only the key matters")]
struct NewType(SecretString);

#[derive(Deserialize)]
#[serde(transparent)]
#[expect(dead_code, reason = "only the key matters")]
struct Transparent {
    inner: SecretString,
}

/// A type whose `Deserialize` implementation calls a function of the user.
#[derive(Deserialize)]
#[serde(transparent)]
#[expect(dead_code, reason = "only the key matters")]
struct WithFunction {
    #[serde(deserialize_with = "reversed")]
    text: String,
}

fn reversed<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    Ok(String::deserialize(source)?.chars().rev().collect())
}

fn list() -> RefuseList {
    RefuseList::parse(b"leaked-7f3b9c2e81d04a56-leaked-QpZm").unwrap()
}

/// Checks that preflight, check and build treat `value` in a field of the type `T` alike.
async fn assert_same_result<T>(value: &str, expected: Outcome, signs: Signs, mode: Mode)
where
    T: DeserializeOwned + Send + 'static,
{
    let what = format!("{value} {signs:?} {mode} {}", std::any::type_name::<T>());
    let key = match signs {
        Signs::Preset => "BETTER_AUTH_SECRET",
        _ => "session_key",
    };
    let resolver = Resolver::new(MemoryProvider::from_iter([(key, value)]));
    let builder = LazyAuth::builder(resolver.clone())
        .mode(mode)
        .refuse_list(list());
    let builder = match signs {
        Signs::Named => builder.signing([key]).unwrap(),
        Signs::Policy => builder
            .secret_policy(key, SecretPolicy::SigningKey)
            .unwrap(),
        Signs::Preset | Signs::Ring => builder,
    };
    let auth = match signs {
        Signs::Preset => build::<Preset<T>>(builder, None),
        Signs::Ring => build::<One<T>>(builder, Some("session_key")),
        Signs::Named | Signs::Policy => build::<One<T>>(builder, None),
    };
    let expected = match (expected, mode) {
        (Outcome::Refused(_), Mode::Development) => Outcome::Warning,
        (expected, _) => expected,
    };
    let log = CanaryLog::install();
    let keys = [(SecretKey::parse(key).unwrap(), SecretPolicy::SigningKey)];
    let options = PreflightOptions::new(mode).refuse_list(list());
    let mut reports = vec![PreflightReport::for_keys(&resolver, &keys, &options).await];
    // Before the first build, it is not known which rings the builder takes.
    if signs != Signs::Ring {
        reports.push(auth.preflight(mode).await);
    }
    for report in reports {
        let text = report.to_string();
        assert!(!text.contains(value), "{text}");
        assert_eq!(
            report.checks()[0].policy,
            SecretPolicy::SigningKey,
            "{what}"
        );
        match (&report.checks()[0].status, expected) {
            (Status::Passed(_), Outcome::Accepted) => {
                assert_eq!(report.warnings().count(), 0, "{what}");
            }
            (Status::Warning(_), Outcome::Warning) => {
                assert!(report.is_ready(), "{what}\n{text}");
                assert_eq!(report.warnings().count(), 1, "{what}");
            }
            (Status::Failed(error), Outcome::Refused(reason)) => {
                assert!(error.to_string().contains(reason), "{what}\n{error}");
                assert!(
                    !report.is_ready() && error.to_string().contains("Unchecked"),
                    "{error}"
                );
            }
            _ => panic!("{what}: {text}"),
        }
    }
    let built = auth.get().await;
    let warnings = log.lines_with("event=weak_secret_accepted").len();
    match (built, expected) {
        (Ok(_), Outcome::Accepted) => assert_eq!(warnings, 0, "{what}"),
        (Ok(_), Outcome::Warning) => assert_eq!(warnings, 1, "{what}"),
        (Err(failure), Outcome::Refused(reason)) => {
            assert!(failure.to_string().contains(reason), "{what}\n{failure}");
        }
        (built, _) => panic!("{what}: {:?}", built.err()),
    }
    assert!(!log.contains(value), "{what}");
}

/// Creates an auth that takes the ring of `ring`, if there is one.
fn build<T>(builder: LazyAuthBuilder, ring: Option<&'static str>) -> LazyAuth<Option<KeyRing>>
where
    T: DeserializeOwned + Send + 'static,
{
    builder.build(move |_: T, context: BuildContext| async move {
        Ok::<_, BuildError>(ring.map(|ring| context.key_ring(ring)).transpose()?)
    })
}

#[tokio::test(start_paused = true)]
async fn build_preflight_and_check_return_the_same_result_for_every_type() {
    for (value, expected) in VALUES {
        for signs in [Signs::Named, Signs::Preset, Signs::Policy, Signs::Ring] {
            for mode in [Mode::Production, Mode::Development] {
                assert_same_result::<String>(value, *expected, signs, mode).await;
                assert_same_result::<SecretString>(value, *expected, signs, mode).await;
                assert_same_result::<NewType>(value, *expected, signs, mode).await;
                assert_same_result::<Transparent>(value, *expected, signs, mode).await;
                assert_same_result::<WithFunction>(value, *expected, signs, mode).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_secrets_are_held_to_no_rule() {
    #[derive(Deserialize)]
    struct Secrets {
        smtp_password: SecretString,
        api_key: SecretString,
        token: SecretString,
    }
    let memory = MemoryProvider::from_iter([
        ("smtp_password", "pw"),
        ("api_key", "sk_live_51nB3vX9qLm2Rt7Yw4Zk"),
        ("token", "changeme"),
    ]);
    let auth = LazyAuth::builder(Resolver::new(memory))
        .mode(Mode::Production)
        .refuse_list(RefuseList::parse(b"pw").unwrap())
        .build(|secrets: Secrets, _| async move {
            let values = [secrets.smtp_password, secrets.api_key, secrets.token];
            Ok(values.map(|value| value.expose_secret().len()))
        });
    let report = auth.preflight(Mode::Production).await;
    assert!(
        report.is_ready() && report.warnings().next().is_none(),
        "{report}"
    );
    assert_eq!(
        report.to_string().matches("strength not checked").count(),
        3
    );
    assert_eq!(*auth.get().await.unwrap(), [2, 28, 8]);
}

#[tokio::test(start_paused = true)]
async fn ciphertext_that_the_resolver_accepts_passes_build_preflight_and_check() {
    let long = "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zo";
    for (value, is_long) in [
        (long, true),
        ("ENC[AES256_GCM,data:YWFh,iv:YQ==,tag:Yg==,type:str]", true),
        ("encrypted:BDqDBibm4wsYqMpC", false),
    ] {
        for accepts in [true, false] {
            let key = SecretKey::from_static("session_key");
            let memory = MemoryProvider::from_iter([("session_key", value)]);
            let mut resolver = Resolver::builder(memory);
            if accepts {
                resolver = resolver.accept_encrypted([key.clone()]);
            }
            let resolver = resolver.build();
            assert_eq!(resolver.accepts_encrypted(&key), accepts);
            let keys = [(key, SecretPolicy::SigningKey)];
            let mode = Mode::Production;
            let options = PreflightOptions::new(mode);
            let checked = PreflightReport::for_keys(&resolver, &keys, &options).await;
            let auth = build::<One<SecretString>>(
                LazyAuth::builder(resolver.clone()),
                Some("session_key"),
            );
            let named = LazyAuth::builder(resolver)
                .signing(["session_key"])
                .unwrap();
            let preflight = build::<One<SecretString>>(named, None)
                .preflight(mode)
                .await;
            let expected = accepts && is_long;
            assert_eq!(checked.is_ready(), expected, "{value}\n{checked}");
            assert_eq!(preflight.is_ready(), expected, "{value}\n{preflight}");
            assert_eq!(auth.get().await.is_ok(), expected, "{value}");
        }
    }
}

#[test]
fn command_accepts_the_ciphertexts_that_its_source_accepts() {
    for (source, status) in [("env://APP_?encrypted=accept", 0), ("env://APP_", 65)] {
        let output = crate::cli::secretwell(["--from", source])
            .args(["check", "--require", "AUTH_SECRET"])
            .env(
                "APP_AUTH_SECRET",
                "encrypted:BDqDBibm4wsYqMpVkAFNLpHk4bwjWGhZ",
            )
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn binary_secret_with_white_space_at_its_ends_keeps_its_length() {
    let mut value: Vec<u8> = (0..30)
        .map(|byte: u8| byte.wrapping_mul(83) ^ 0x5a)
        .collect();
    value.insert(0, b'\n');
    value.push(b' ');
    assert_eq!(SecretPolicy::SigningKey.weakness(&value.into()), None);
}

#[tokio::test(start_paused = true)]
async fn warning_in_production_names_the_key_and_the_reason() {
    let memory = MemoryProvider::from_iter([("AUTH_SECRET", FEW_WORDS)]);
    let keys = [(
        SecretKey::parse("AUTH_SECRET").unwrap(),
        SecretPolicy::SigningKey,
    )];
    let options = PreflightOptions::new(Mode::Production);
    let report = PreflightReport::for_keys(&Resolver::new(memory), &keys, &options).await;
    assert_eq!(
        report.to_string(),
        "production from memory://: ready\n  \
         AUTH_SECRET  warning   from memory://: invalid: looks weak: words in place of random bytes; \
         generate a secret with `openssl rand -base64 32`, or set `SecretPolicy::Unchecked` for this key if its secret does not sign\n",
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["checks"][0]["status"], "warning");
}

#[tokio::test(start_paused = true)]
async fn signing_secret_of_any_type_gets_a_placeholder_in_development() {
    for signs in [Signs::Named, Signs::Preset] {
        let builder =
            LazyAuth::builder(Resolver::new(MemoryProvider::new())).mode(Mode::Development);
        let auth = match signs {
            Signs::Named => build::<One<NewType>>(builder.signing(["session_key"]).unwrap(), None),
            _ => build::<Preset<Transparent>>(builder, None),
        };
        let report = auth.preflight(Mode::Development).await;
        assert!(report.is_ready(), "{signs:?}\n{report}");
        assert!(auth.get().await.is_ok(), "{signs:?}");
        assert!(
            !auth.preflight(Mode::Production).await.is_ready(),
            "{signs:?}"
        );
    }
}

#[test]
fn refuse_list_of_20000_entries_takes_160_kilobytes() {
    let mut text = String::new();
    for number in 0..20_000 {
        writeln!(text, "leaked secret number {number}").unwrap();
    }
    let mut list = None;
    let memory = measure(|| list = Some(RefuseList::parse(text.as_bytes()).unwrap()));
    assert!(
        memory.bytes_current <= 161_000,
        "{} bytes",
        memory.bytes_current
    );
    let list = list.unwrap();
    assert_eq!(list.len(), 20_000);
    let copies = measure(|| {
        assert!(list.clone().contains(b"leaked secret number 19999\n"));
        assert!(!list.clone().contains(b"leaked secret number 20000"));
    });
    assert_eq!(copies.count_total, 0);
}
