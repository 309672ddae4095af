//! Tests that need a process of their own, because they depend on its environment or its global log.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use secretwell::auth::Mode;
use secretwell::file::FileProvider;
use secretwell::{ErrorKind, ExposeSecret, Resolver, SecretProvider, SecretString, from_url};
use secretwell_testkit::CanaryLog;
use serde::Deserialize;

use crate::support::{key, replace, text};

/// An environment variable that is set in the child process of a test.
pub(crate) const CHILD: &str = "SECRETWELL_TESTS_CHILD";

const PROFILE: &str = "LLVM_PROFILE_FILE";

/// Runs the test `name` in a child process with only these environment variables. A measurement of the coverage also
/// sets the path of its profile.
pub(crate) fn run_child(name: &str, variables: &[(&str, &[u8])]) -> Output {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsStr::new(*name), OsStr::from_bytes(value)));
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .envs(env::var_os(PROFILE).map(|path| (PROFILE, path)))
        .envs(variables)
        .output()
        .unwrap()
}

pub(crate) fn assert_passed(output: &Output) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{stdout}{stderr}"
    );
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    token: SecretString,
    port: Option<u16>,
    #[serde(default)]
    name: String,
}

#[tokio::test]
async fn environment_variables_are_read_unchanged() {
    if env::var_os(CHILD).is_none() {
        let variables: [(&str, &[u8]); 4] = [
            (
                "APP_TOKEN",
                b"$(id) `id` ${HOME} \"quoted\" \r\n second line",
            ),
            ("APP_PORT", b""),
            ("APP_RAW", b"\xff\xfe not Unicode"),
            ("app_name", b"names are case-sensitive"),
        ];
        return assert_passed(&run_child(
            "process::environment_variables_are_read_unchanged",
            &variables,
        ));
    }
    let resolver = Resolver::new(from_url("env://APP_").unwrap());
    let secrets: Secrets = resolver.load().await.unwrap();
    assert_eq!(
        secrets.token.expose_secret(),
        "$(id) `id` ${HOME} \"quoted\" \r\n second line"
    );
    assert_eq!((secrets.port, secrets.name.as_str()), (None, ""));
    let raw = resolver.get("RAW").await.unwrap().value;
    assert_eq!(raw.expose_bytes(), b"\xff\xfe not Unicode");
    let error = raw.expose_text().unwrap_err();
    assert!(!error.to_string().contains("not Unicode"), "{error}");
}

#[test]
fn mode_is_read_from_the_variable_and_defaults_to_production() {
    let name = "process::mode_is_read_from_the_variable_and_defaults_to_production";
    let variable = env::var_os("SECRETWELL_MODE");
    let expected = |variable: Option<&[u8]>| match variable {
        None | Some(b"" | b"production" | b" Production ") => Ok(Mode::Production),
        Some(b"development") => Ok(Mode::Development),
        Some(_) => Err(ErrorKind::InvalidConfig),
    };
    if env::var_os(CHILD).is_none() {
        assert_passed(&run_child(name, &[]));
        let values: [&[u8]; 6] = [
            b"",
            b"production",
            b" Production ",
            b"development",
            b"dev",
            b"\xff",
        ];
        for value in values {
            assert_passed(&run_child(name, &[("SECRETWELL_MODE", value)]));
        }
        return;
    }
    let mode = Mode::from_env().map_err(|error| error.kind());
    assert_eq!(mode, expected(variable.as_deref().map(OsStrExt::as_bytes)));
}

#[tokio::test]
async fn systemd_credentials_are_read_from_the_directory_in_the_variable() {
    let name = "process::systemd_credentials_are_read_from_the_directory_in_the_variable";
    if env::var_os(CHILD).is_none() {
        assert_passed(&run_child(name, &[]));
        assert_passed(&run_child(name, &[("CREDENTIALS_DIRECTORY", b"")]));
        let folder = tempfile::tempdir().unwrap();
        replace(&folder.path().join("TOKEN"), b"from systemd\n");
        let path = folder.path().as_os_str().as_bytes();
        return assert_passed(&run_child(name, &[("CREDENTIALS_DIRECTORY", path)]));
    }
    match env::var_os("CREDENTIALS_DIRECTORY") {
        Some(path) if !path.is_empty() => {
            let resolver = Resolver::new(FileProvider::systemd_credentials().unwrap());
            assert_eq!(text(&resolver, "TOKEN").await, "from systemd");
        }
        _ => {
            let error = FileProvider::systemd_credentials().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains("LoadCredential"), "{error}");
        }
    }
}

/// Runs in a child process because it needs a global log: files are read on another thread, which logs
/// the warning.
#[tokio::test]
async fn file_that_other_users_can_access_is_warned_about_once() {
    let name = "process::file_that_other_users_can_access_is_warned_about_once";
    if env::var_os(CHILD).is_none() {
        return assert_passed(&run_child(name, &[]));
    }
    let (log, folder) = (CanaryLog::global(), tempfile::tempdir().unwrap());
    let provider = FileProvider::directory(folder.path());
    let path = folder.path().join("TOKEN");
    for (mode, warnings) in [(0o600, 0), (0o640, 1), (0o604, 1)] {
        replace(&path, b"value");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        provider.get(&key("TOKEN")).await.unwrap();
        let lines = log.lines_with("other users can access");
        assert_eq!(lines.len(), warnings, "mode {mode:o}: {lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("WARN") && line.contains("mode=640"))
        );
    }
}
