//! What only a process of its own can show: its environment.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

use secretwell::auth::Mode;
use secretwell::{ErrorKind, ExposeSecret, Resolver, SecretString, from_url};
use serde::Deserialize;

/// Set in the process that a test starts.
pub(crate) const CHILD: &str = "SECRETWELL_TESTS_CHILD";

/// Runs the test `name` in a process that has these variables and no others.
pub(crate) fn child(name: &str, variables: &[(&str, &[u8])]) -> Output {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsStr::new(*name), OsStr::from_bytes(value)));
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .envs(variables)
        .output()
        .unwrap()
}

pub(crate) fn assert_passed(output: &Output) {
    let printed = String::from_utf8_lossy(&output.stdout);
    let wrote = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}{wrote}"
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
async fn the_environment_is_read_as_it_is() {
    if env::var_os(CHILD).is_none() {
        let variables: [(&str, &[u8]); 4] = [
            (
                "APP_TOKEN",
                b"$(id) `id` ${HOME} \"quoted\" \r\n second line",
            ),
            ("APP_PORT", b""),
            ("APP_RAW", b"\xff\xfe not Unicode"),
            ("app_name", b"another case is another name"),
        ];
        return assert_passed(&child(
            "process::the_environment_is_read_as_it_is",
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
fn the_mode_is_what_the_variable_says_and_production_otherwise() {
    let name = "process::the_mode_is_what_the_variable_says_and_production_otherwise";
    let said = env::var_os("SECRETWELL_MODE");
    let expected = |said: Option<&[u8]>| match said {
        None | Some(b"" | b"production" | b" Production ") => Ok(Mode::Production),
        Some(b"development") => Ok(Mode::Development),
        Some(_) => Err(ErrorKind::InvalidConfig),
    };
    if env::var_os(CHILD).is_none() {
        assert_passed(&child(name, &[]));
        let values: [&[u8]; 6] = [
            b"",
            b"production",
            b" Production ",
            b"development",
            b"dev",
            b"\xff",
        ];
        for value in values {
            assert_passed(&child(name, &[("SECRETWELL_MODE", value)]));
        }
        return;
    }
    let mode = Mode::from_env().map_err(|error| error.kind());
    assert_eq!(mode, expected(said.as_deref().map(OsStrExt::as_bytes)));
}
