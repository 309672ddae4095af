//! Tests of the whole provider.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use secretwell_core::{Error, ErrorKind, KeyPrefix, SecretKey, SecretProvider};

use crate::{EnvProvider, Environment};

struct FixedEnvironment(BTreeMap<OsString, OsString>);

impl Environment for FixedEnvironment {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<OsString> {
        self.0.keys().cloned().collect()
    }
}

fn provider(prefix: &str, variables: &[(&str, &str)]) -> EnvProvider {
    let pairs = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    EnvProvider::with_environment(FixedEnvironment(pairs.collect()), prefix)
}

async fn text(provider: &EnvProvider, key: &str) -> Result<String, Error> {
    let secret = provider.get(&SecretKey::parse(key)?).await?;
    Ok(secret.value.expose_text()?.to_owned())
}

async fn listed(provider: &EnvProvider, prefix: &str) -> Vec<String> {
    let prefix = KeyPrefix::parse(prefix).unwrap();
    let keys = provider.list(&prefix).await.unwrap();
    keys.iter().map(ToString::to_string).collect()
}

async fn noticed(provider: &EnvProvider, prefix: &str) -> Vec<String> {
    let prefix = KeyPrefix::parse(prefix).unwrap();
    let notices = provider.notices(&prefix).await.unwrap();
    notices.into_iter().map(|notice| notice.name).collect()
}

#[tokio::test]
async fn segments_are_joined_behind_the_prefix_and_case_is_kept() {
    let provider = provider(
        "APP_",
        &[("APP_db_PASSWORD", "p"), ("db_PASSWORD", "other")],
    );
    assert_eq!(text(&provider, "db/PASSWORD").await.unwrap(), "p");
    assert_eq!(text(&provider, "db_PASSWORD").await.unwrap(), "p");
    let error = text(&provider, "DB/PASSWORD").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "DB/PASSWORD from env://APP_: not found: variable `APP_DB_PASSWORD` is not set; \
         set it, or add a source that has it",
    );
}

#[tokio::test]
async fn values_are_returned_unchanged() {
    for value in [
        " ",
        "\t\r\n",
        " padded\r\n",
        "$(id) `id` $HOME \"quoted\"",
        "{\"json\":\"inside\"}",
        "schlüssel",
    ] {
        let provider = provider("", &[("KEY", value)]);
        assert_eq!(text(&provider, "KEY").await.unwrap(), value);
        assert_eq!(listed(&provider, "").await, ["KEY"]);
    }
    let big = "x".repeat(1 << 20);
    assert_eq!(
        text(&provider("", &[("KEY", &big)]), "KEY").await.unwrap(),
        big
    );
}

#[cfg(unix)]
#[tokio::test]
async fn value_that_is_not_unicode_is_returned_as_bytes() {
    use std::os::unix::ffi::OsStringExt;

    let value = OsString::from_vec(vec![0xff, 0xfe, b'x']);
    let provider =
        EnvProvider::with_environment(FixedEnvironment([("KEY".into(), value)].into()), "");
    let secret = provider
        .get(&SecretKey::parse("KEY").unwrap())
        .await
        .unwrap();
    assert_eq!(secret.value.expose_bytes(), [0xff, 0xfe, b'x']);
    assert_eq!(
        secret.value.expose_text().unwrap_err().kind(),
        ErrorKind::Malformed
    );
}

#[tokio::test]
async fn key_with_equals_sign_is_invalid() {
    let error = text(&provider("", &[]), "a=b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidKey);
}

#[tokio::test]
async fn set_but_empty_variable_is_absent() {
    let provider = provider("", &[("EMPTY", ""), ("A", "1"), ("BAD/NAME", "")]);
    let error = text(&provider, "EMPTY").await.unwrap_err();
    assert!(error.is_not_found());
    assert!(
        error
            .to_string()
            .contains("variable `EMPTY` is set but empty")
    );
    let keys = ["A", "EMPTY"].map(|key| SecretKey::parse(key).unwrap());
    let results = provider.get_many(&keys).await;
    assert!(results[0].is_ok());
    assert!(results[1].as_ref().unwrap_err().is_not_found());
    assert_eq!(listed(&provider, "").await, ["A"]);
    assert!(noticed(&provider, "").await.is_empty());
}

#[tokio::test]
async fn keep_empty_returns_zero_bytes() {
    let provider = provider("", &[("EMPTY", ""), ("BAD/NAME", "")]).keep_empty();
    assert_eq!(text(&provider, "EMPTY").await.unwrap(), "");
    assert_eq!(listed(&provider, "").await, ["EMPTY"]);
    assert_eq!(noticed(&provider, "").await, ["BAD/NAME"]);
    assert!(text(&provider, "UNSET").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn listed_keys_can_be_read() {
    let variables = [
        ("APP_A", "1"),
        ("APP_DB_USER", "2"),
        ("APP_DB_", "3"),
        ("OTHER", "4"),
        ("APP_", "5"),
        ("APP_X/Y", "6"),
        ("APP_EMPTY", ""),
    ];
    let provider = provider("APP_", &variables);
    assert_eq!(listed(&provider, "").await, ["A", "DB_", "DB_USER"]);
    assert_eq!(listed(&provider, "DB").await, ["DB/USER"]);
    assert!(listed(&provider, "NONE").await.is_empty());
    for key in ["A", "DB_", "DB_USER", "DB/USER"] {
        assert!(text(&provider, key).await.is_ok(), "{key}");
    }
    assert_eq!(noticed(&provider, "").await, ["APP_", "APP_X/Y"]);
    assert_eq!(noticed(&provider, "DB").await, ["APP_DB_"]);
    // The name is the one that the operator has to change.
    let files = provider.file_suffix("_FILE");
    let variables = [("APP_X/Y_FILE", "/run/x"), ("APP_Z_FILE", "/run/z")];
    let named = self::provider("APP_", &variables).file_suffix("_FILE");
    assert_eq!(noticed(&files, "").await, ["APP_", "APP_X/Y"]);
    assert_eq!(noticed(&named, "").await, ["APP_X/Y_FILE"]);
    assert_eq!(listed(&named, "").await, ["Z"]);
}

#[cfg(unix)]
#[tokio::test]
async fn name_that_is_not_unicode_is_reported() {
    use std::os::unix::ffi::OsStringExt;

    let names = [&b"APP_\xffA"[..], b"\xffB", b"APP_C"];
    let pairs = names.map(|name| (OsString::from_vec(name.to_vec()), OsString::from("1")));
    let provider = EnvProvider::with_environment(FixedEnvironment(pairs.into()), "APP_");
    assert_eq!(listed(&provider, "").await, ["C"]);
    assert_eq!(noticed(&provider, "").await, ["APP_\u{fffd}A"]);
}

#[tokio::test]
async fn notices_of_many_names_are_limited() {
    let names = (0..5_000).map(|index| (format!("A/{index}").into(), "1".into()));
    let provider = EnvProvider::with_environment(FixedEnvironment(names.collect()), "");
    let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
    assert_eq!(notices.len(), 1_000);
    assert_eq!(notices[999].message, "4001 more notices were left out");
}

proptest! {
    /// Random environments with every separator: a listed key can be read, and every variable that has a value is
    /// listed or reported.
    #[test]
    fn every_variable_is_listed_and_readable_or_reported(
        variables in prop::collection::btree_map("[A-Bd_/.\\\\ -]{0,8}", "[x]{0,1}", 0..12),
        prefix in prop::sample::select(vec!["", "A", "A_"]),
        below in prop::sample::select(vec!["", "A", "A/B", "_"]),
        separator in prop::sample::select(vec!["_", "__", "-"]),
        keep_empty in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pairs: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let provider = provider(prefix, &pairs).separator(separator);
            let provider = if keep_empty { provider.keep_empty() } else { provider };
            let below = KeyPrefix::parse(below).unwrap();
            let keys = provider.list(&below).await.unwrap();
            let mut sorted = keys.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(&sorted, &keys);
            for key in &keys {
                prop_assert!(below.contains(key));
                prop_assert!(provider.get(key).await.is_ok(), "{}", key);
            }
            if below == KeyPrefix::root() {
                let notices = provider.notices(&below).await.unwrap().len();
                let expected: BTreeSet<_> = pairs
                    .iter()
                    .filter(|(name, value)| name.starts_with(prefix) && (keep_empty || !value.is_empty()))
                    .collect();
                prop_assert_eq!(keys.len() + notices, expected.len());
            }
            Ok(())
        })?;
    }
}

proptest! {
    /// Random environments with named files: a listed key is never absent, and every variable that has a value is
    /// read, listed or reported.
    #[test]
    fn listed_key_with_a_suffix_is_never_absent(
        variables in prop::collection::btree_map("(A_|A|)[AB_/]{0,4}(_FILE|__FILE|)", "(|x|/dev/null)", 0..10),
        prefix in prop::sample::select(vec!["", "A", "A_"]),
        separator in prop::sample::select(vec!["_", "__", "_FILE"]),
        suffix in prop::sample::select(vec!["_FILE", "__FILE", "FILE"]),
        keep_empty in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pairs: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let provider = provider(prefix, &pairs).separator(separator).file_suffix(suffix);
            let provider = if keep_empty { provider.keep_empty() } else { provider };
            let keys = provider.list(&KeyPrefix::root()).await.unwrap();
            for key in &keys {
                let result = provider.get(key).await;
                let is_configured = |error: &Error| error.kind() == ErrorKind::InvalidConfig;
                prop_assert!(result.as_ref().err().is_none_or(is_configured), "{} {:?}", key, result);
            }
            let notices = provider.notices(&KeyPrefix::root()).await.unwrap();
            for (name, _) in pairs.iter().filter(|(name, value)| name.starts_with(prefix) && !value.is_empty()) {
                let stem = name.strip_suffix(suffix).filter(|stem| stem.len() > prefix.len()).unwrap_or(name);
                let is_read_from = |key: &SecretKey| {
                    format!("{prefix}{}", key.as_str().replace('/', separator)) == stem
                };
                let is_noticed = notices.iter().any(|notice| notice.name == *name);
                prop_assert!(keys.iter().any(is_read_from) != is_noticed, "{} {:?} {:?}", name, keys, notices);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn process_environment_is_the_default() {
    let provider = EnvProvider::with_prefix("CARGO_PKG_");
    assert_eq!(text(&provider, "NAME").await.unwrap(), "secretwell-env");
    assert_eq!(
        format!("{provider:?}"),
        "EnvProvider { source: Origin(env://CARGO_PKG_), .. }"
    );
}

#[tokio::test]
async fn encrypted_value_is_refused_unless_it_is_accepted() {
    let variables = [("KEY", "encrypted:BDqDBibm4wc4n4ry")];
    let refused = text(&provider("", &variables), "KEY").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "KEY from env://: invalid: the value is encrypted by dotenvx; decrypt it before it is deployed, or read it through the tool",
    );
    let accepting = provider("", &variables).accept_encrypted();
    assert_eq!(text(&accepting, "KEY").await.unwrap(), variables[0].1);
}

#[test]
fn url_accepts_only_a_prefix_of_names_and_options() {
    for (url, origin) in [
        ("env://", "env://"),
        ("env://?", "env://"),
        ("env://APP_", "env://APP_"),
        (
            "env://APP_?keep_empty=true&file_suffix=_FILE&separator=__&encrypted=accept",
            "env://APP_",
        ),
        ("env://APP_?keep_empty=false&encrypted=refuse", "env://APP_"),
    ] {
        assert_eq!(
            EnvProvider::from_url(url).unwrap().origin().as_str(),
            origin
        );
    }
    for url in [
        "env://user:c4n4ry@host",
        "env://A/B",
        "env://A?c4n4ry",
        "env://A?c4n4ry=true",
        "env://A?keep_empty",
        "env://A?keep_empty=c4n4ry",
        "env://A?separator=",
        "env://A?separator=c4n4ry/",
        "env://A?file_suffix=c4n4ry%20",
        "env://A?KEEP_EMPTY=true",
        "env://A?keep_empty=true&keep_empty=false",
        "env://A?separator=__&separator=__",
        "file:///a",
        "env:// ",
    ] {
        let error = EnvProvider::from_url(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(!format!("{error} {error:#?}").contains("c4n4ry"), "{url}");
    }
}

#[tokio::test]
async fn url_options_have_the_effect_of_the_builder_methods() {
    let provider = EnvProvider::from_url(
        "env://CARGO_?separator=PKG_NA&keep_empty=true&file_suffix=ME&encrypted=accept",
    );
    // `CARGO_` + `PKG_NA` is no segment, so only the suffix is split off.
    let error = text(&provider.unwrap(), "PKG_NA").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("`CARGO_PKG_NAME`"), "{error}");
}

#[tokio::test]
async fn invalid_settings_are_reported_by_every_call() {
    for provider in [
        provider("", &[("A", "1")]).separator(""),
        provider("", &[("A", "1")]).separator("/"),
        provider("", &[("A", "1")]).file_suffix("="),
        provider("A=", &[("A", "1")]),
        provider("A\0", &[("A", "1")]),
    ] {
        let key = SecretKey::from_static("A");
        let errors = [
            provider.get(&key).await.unwrap_err(),
            provider.list(&KeyPrefix::root()).await.unwrap_err(),
            provider.notices(&KeyPrefix::root()).await.unwrap_err(),
            provider.health().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        }
    }
}

/// A directory with a settled file that a variable can name.
struct Named {
    folder: tempfile::TempDir,
}

impl Named {
    fn new(content: &[u8]) -> Self {
        let named = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        named.write(content);
        named
    }

    fn path(&self) -> String {
        let path = self.folder.path().join("file");
        path.to_str().unwrap().to_owned()
    }

    /// Writes the file as if it had been written long ago.
    fn write(&self, content: &[u8]) {
        self.write_at(content, SystemTime::now() - Duration::from_secs(60));
    }

    /// Writes the file as if it were written at this moment. The time is in the future, so that it is not in the past on
    /// a slow machine.
    fn write_now(&self, content: &[u8]) {
        self.write_at(content, SystemTime::now() + Duration::from_secs(3600));
    }

    fn write_at(&self, content: &[u8], modified: SystemTime) {
        std::fs::write(self.path(), content).unwrap();
        let file = std::fs::File::options().write(true).open(self.path());
        file.unwrap().set_modified(modified).unwrap();
    }

    fn provider(&self, variables: &[(&str, &str)]) -> EnvProvider {
        let path = self.path();
        let mut variables = variables.to_vec();
        variables.push(("APP_KEY_FILE", &path));
        provider("APP_", &variables).file_suffix("_FILE")
    }
}

#[tokio::test]
async fn file_suffix_reads_the_named_file() {
    for (content, value) in [
        (&b"s3cr3t"[..], "s3cr3t"),
        (b"s3cr3t\n", "s3cr3t"),
        (b"s3cr3t\r\n", "s3cr3t"),
        (b" s3cr3t \n\n", " s3cr3t \n"),
        (b"\xef\xbb\xbfx", "\u{feff}x"),
    ] {
        let named = Named::new(content);
        let plain = named.provider(&[]);
        assert_eq!(text(&plain, "KEY").await.unwrap(), value);
        // An empty variable does not hide the file.
        let empty = named.provider(&[("APP_KEY", "")]);
        assert_eq!(text(&empty, "KEY").await.unwrap(), value);
        let empty = empty.keep_empty();
        assert_eq!(text(&empty, "KEY").await.unwrap(), value);
    }
    let named = Named::new(b"x");
    let provider = named.provider(&[
        ("APP_OTHER", "1"),
        ("APP_KEY", ""),
        ("APP_UNUSED_FILE", ""),
        ("APP__FILE", "a name"),
    ]);
    assert_eq!(listed(&provider, "").await, ["KEY", "OTHER", "_FILE"]);
    assert!(text(&provider, "UNUSED").await.unwrap_err().is_not_found());
    let old = provider.get(&SecretKey::from_static("KEY")).await.unwrap();
    named.write(b"y");
    let new = provider.get(&SecretKey::from_static("KEY")).await.unwrap();
    assert_ne!(old.version, new.version);
}

#[tokio::test]
async fn value_and_file_together_are_a_misconfiguration() {
    let named = Named::new(b"from the file");
    let provider = named.provider(&[("APP_KEY", "c4n4ry")]);
    let error = text(&provider, "KEY").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "KEY from env://APP_: invalid configuration: both `APP_KEY` and `APP_KEY_FILE` are set; unset one of them",
    );
    assert!(!error.is_temporary());
    assert_eq!(listed(&provider, "").await, ["KEY"]);
}

#[tokio::test]
async fn named_file_that_cannot_be_read_is_never_an_absence() {
    let named = Named::new(b"x");
    let folder = named.folder.path().to_str().unwrap().to_owned();
    let missing = format!("{folder}/c4n4ry");
    let below = format!("{folder}/file/c4n4ry");
    let long = format!("{folder}/{}", "c4n4ry".repeat(60));
    for (path, temporary) in [
        (missing.as_str(), true),
        (&below, false),
        (&long, false),
        (&folder, false),
        ("/dev/null", false),
        ("c4n4ry", false),
        ("./c4n4ry", false),
    ] {
        let provider = provider("", &[("KEY_FILE", path)]).file_suffix("_FILE");
        let error = text(&provider, "KEY").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert_eq!(error.is_temporary(), temporary, "{error}");
        assert!(error.to_string().contains("`KEY_FILE`"), "{error}");
        // A secret might have been written to the variable by mistake.
        assert!(!format!("{error} {error:#?}").contains("c4n4ry"), "{error}");
    }
}

#[tokio::test]
async fn empty_named_file_is_temporary_and_large_one_is_refused() {
    for content in [&b""[..], b"\n", b"\r\n"] {
        let named = Named::new(content);
        let error = text(&named.provider(&[]), "KEY").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.is_temporary());
        let kept = named.provider(&[]).keep_empty();
        assert_eq!(text(&kept, "KEY").await.unwrap(), "");
    }
    let limit = vec![b'x'; 1 << 20];
    let named = Named::new(&limit);
    assert_eq!(
        text(&named.provider(&[]), "KEY").await.unwrap().len(),
        limit.len()
    );
    named.write(&[b'x'; (1 << 20) + 1]);
    let error = text(&named.provider(&[]), "KEY").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[cfg(unix)]
#[tokio::test]
async fn special_named_file_does_not_block() {
    let named = Named::new(b"x");
    let socket = named.folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let looped = named.folder.path().join("loop");
    std::os::unix::fs::symlink(&looped, &looped).unwrap();
    let link = named.folder.path().join("link");
    std::os::unix::fs::symlink(named.path(), &link).unwrap();
    let read = async |path: &std::path::Path| {
        let variables = [("KEY_FILE", path.to_str().unwrap())];
        text(&provider("", &variables).file_suffix("_FILE"), "KEY").await
    };
    // Nobody writes to the pipe, so opening it would block.
    let pipe = named.folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for special in [&socket, &pipe] {
        let error = read(special).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
    assert!(!read(&looped).await.unwrap_err().is_not_found());
    assert_eq!(read(&link).await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn named_file_that_was_just_written_is_read_again() {
    let named = Named::new(b"x");
    named.write_now(b"half");
    let provider = named.provider(&[]);
    let write_rest = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        named.write_now(b"half and half");
    };
    let (value, ()) = tokio::join!(text(&provider, "KEY"), write_rest);
    assert_eq!(value.unwrap(), "half and half");
}

#[tokio::test(start_paused = true)]
async fn named_file_that_changes_forever_is_unavailable() {
    let named = Named::new(b"x");
    named.write_now(b"0");
    let provider = named.provider(&[]);
    let rewrite = async {
        for content in 1_u64.. {
            tokio::time::sleep(Duration::from_millis(100)).await;
            named.write_now(content.to_string().as_bytes());
        }
    };
    tokio::select! {
        biased;
        () = rewrite => unreachable!("the writer does not end"),
        result = text(&provider, "KEY") => {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.is_temporary());
        }
    }
}
