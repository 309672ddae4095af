//! The services that respond to HTTP requests.

use crate::process::{Service, await_value};
use crate::{FIRST, SECOND};

/// Starts a service before its secret exists, creates the secret, rotates it, and ends the service.
fn check(program: &str) {
    let service = Service::start(program);
    let status = |path: &str, key: Option<&str>| service.get(path, key).0;
    assert_eq!(status("/live", None), 200);
    let (unready, body) = service.get("/ready", None);
    assert_eq!(unready, 503, "{body}");
    assert!(body.contains(r#""ready":false"#), "{body}");
    for key in [None, Some(""), Some(FIRST)] {
        let early = status("/me", key);
        assert!(early == 500 || early == 503, "{early}");
    }

    service.secrets.set("API_KEY", FIRST);
    await_value(200, || status("/ready", None));
    assert_eq!(service.get("/me", Some(FIRST)), (200, "hello".to_owned()));
    for key in [None, Some(""), Some(SECOND), Some("\u{fc}")] {
        assert_eq!(status("/me", key), 401, "{key:?}");
    }
    assert_eq!(status("/other", Some(FIRST)), 404);

    service.secrets.set("API_KEY", SECOND);
    await_value(200, || status("/me", Some(SECOND)));
    assert_eq!(status("/me", Some(FIRST)), 200, "the grace period");
    assert_eq!(status("/me", None), 401);

    // An invalid secret does not replace a valid one.
    service.secrets.set("API_KEY", "short");
    await_value(true, || service.get("/ready", None).1.contains("API_KEY"));
    assert_eq!(
        (status("/ready", None), status("/me", Some(SECOND))),
        (200, 200)
    );
    assert_eq!(status("/me", Some("short")), 401);
    service.process.end();
}

#[test]
fn actix_web_follows_its_secret() {
    check(env!("CARGO_BIN_EXE_actix-service"));
}

#[test]
fn poem_follows_its_secret() {
    check(env!("CARGO_BIN_EXE_poem-service"));
}

#[test]
fn hyper_follows_its_secret() {
    check(env!("CARGO_BIN_EXE_hyper-service"));
}
