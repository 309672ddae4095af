//! Tests of `LazyAuth::preflight` in both modes.

use super::*;

#[tokio::test(start_paused = true)]
async fn preflight_and_build_agree_on_weak_and_absent_secrets_in_both_modes() {
    for (secret, production, development) in [
        (Some(FIRST), true, true),
        (Some("short"), false, true),
        (Some("changeme"), false, true),
        (Some("abababababababababababababababab"), false, true),
        (Some(""), false, false),
        (Some(" \n"), false, true),
        (None, false, true),
    ] {
        let secrets: Vec<(&str, &str)> = secret
            .iter()
            .map(|secret| ("AUTH_SECRET", *secret))
            .collect();
        for (mode, ready) in [
            (Mode::Production, production),
            (Mode::Development, development),
        ] {
            let fixture = fixture_with(&secrets, |builder| builder.mode(mode));
            let report = fixture.auth.preflight(mode).await;
            assert_eq!(report.is_ready(), ready, "{mode} {secret:?}\n{report}");
            assert_eq!(
                fixture.auth.state(),
                State::Idle,
                "preflight must not start a build"
            );
            assert_eq!(fixture.auth.get().await.is_ok(), ready, "{mode} {secret:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn report_lists_every_key_and_no_value() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Many {
        good: SecretString,
        weak: SecretString,
        absent: SecretString,
        password: SecretString,
        port: u16,
        spare: Option<String>,
    }
    let canary = Canary::new("secret");
    let memory =
        MemoryProvider::from_iter([("weak", "we4k"), ("password", "pw"), ("port", "eighty")]);
    memory.set("good", canary.value()).unwrap();
    let auth = LazyAuth::builder(Resolver::new(memory))
        .signing(["good", "weak", "absent", "password"])
        .unwrap()
        .secret_policy("password", SecretPolicy::Unchecked)
        .unwrap()
        .secret_policy("pasword", SecretPolicy::Unchecked)
        .unwrap()
        .signing(["gold"])
        .unwrap()
        .build(|_: Many, _| async { Ok(()) });
    let report = auth.preflight(Mode::Production).await;
    let text = report.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "production from memory://: NOT READY",
            "  good      ok        from memory://, version 1",
            "  weak      PROBLEM   from memory://: invalid: too weak: 4 bytes, at least 32 are required; \
             generate a secret with `openssl rand -base64 32`, or set `SecretPolicy::Unchecked` for this key if its secret does not sign",
            "  absent    PROBLEM   from memory://: not found: it was never set",
            "  password  ok        from memory://, version 1, strength not checked",
            "  port      PROBLEM   from memory://: invalid: the value is not a valid `u16`",
            "  spare     absent    optional",
            "  PROBLEM   pasword: invalid configuration: a setting names this key, but the loaded type has no such field; \
             use the key of a field, after serde renames it: good, weak, absent, password, port, spare",
            "  PROBLEM   gold: invalid configuration: a setting names this key, but the loaded type has no such field; \
             use the key of a field, after serde renames it: good, weak, absent, password, port, spare",
        ],
    );
    let policy = |index: usize| report.checks()[index].policy;
    assert_eq!(policy(0), SecretPolicy::SigningKey);
    assert_eq!(policy(3), SecretPolicy::Unchecked);
    canary.assert_hidden(&report);
    canary.assert_not_in(&text, "the report");
    assert!(matches!(report.checks()[0].status, Status::Passed(_)));
}

#[tokio::test(start_paused = true)]
async fn only_required_secrets_get_a_placeholder_and_only_in_development() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Mixed {
        required: SecretString,
        #[serde(default)]
        defaulted: SecretString,
        optional: Option<SecretString>,
        port: u16,
    }
    let memory = MemoryProvider::from_iter([("port", "eighty")]);
    let resolver = Resolver::new(memory.clone());
    let auth = LazyAuth::infallible(resolver, |_: Mixed, _: BuildContext| ());
    // Development comes first, so that its placeholder exists during the check for production.
    for mode in [Mode::Development, Mode::Production] {
        let report = auth.preflight(mode).await;
        let statuses: Vec<_> = report.checks().iter().map(|check| &check.status).collect();
        match (mode, statuses[0]) {
            (Mode::Development, Status::Warning(error))
            | (Mode::Production, Status::Failed(error)) => assert!(error.is_not_found(), "{error}"),
            _ => panic!("{report}"),
        }
        for optional in &statuses[1..3] {
            assert!(matches!(optional, Status::Absent), "{report}");
        }
        assert!(matches!(statuses[3], Status::Failed(_)), "{report}");
    }
    // An empty secret is not absent, so neither a placeholder nor a default replaces it.
    for key in ["required", "defaulted", "optional"] {
        memory.set(key, "").unwrap();
    }
    for mode in [Mode::Development, Mode::Production] {
        let report = auth.preflight(mode).await;
        for check in &report.checks()[..3] {
            let Status::Failed(error) = &check.status else {
                panic!("{report}")
            };
            assert!(error.to_string().contains("invalid: the value is empty"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_time_that_is_not_a_time_is_a_problem_of_the_report() {
    for (value, is_ready) in [
        (None, true),
        (Some(" "), true),
        (Some("1769860800"), true),
        (Some("2026-01-31T12:00:00Z"), true),
        (Some("yesterday"), false),
    ] {
        let memory = MemoryProvider::from_iter([("AUTH_SECRET", FIRST)]);
        value
            .into_iter()
            .for_each(|value| memory.set("REVOKED_AT", value).unwrap());
        let auth = LazyAuth::builder(Resolver::new(memory))
            .revocation_key("REVOKED_AT")
            .unwrap()
            .build(|_: Secrets, _| async { Ok(()) });
        let report = auth.preflight(Mode::Production).await;
        assert_eq!(report.is_ready(), is_ready, "{value:?}\n{report}");
        assert_eq!(report.to_string().contains("REVOKED_AT"), !is_ready);
    }
}

#[tokio::test(start_paused = true)]
async fn misspelled_key_of_a_setting_fails_the_build_as_well() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Secrets {
        api_key: SecretString,
    }
    for mode in [Mode::Production, Mode::Development] {
        for is_signing in [true, false] {
            let resolver = Resolver::new(MemoryProvider::from_iter([("api_key", "weak")]));
            let builder = LazyAuth::builder(resolver).mode(mode);
            let builder = match is_signing {
                true => builder.signing(["API_KEY"]),
                false => builder.secret_policy("API_KEY", SecretPolicy::SigningKey),
            };
            let auth = builder.unwrap().build(|_: Secrets, _| async { Ok(()) });
            let report = auth.preflight(mode).await;
            assert!(!report.is_ready(), "{report}");
            let failure = auth.get().await.unwrap_err();
            assert_eq!(failure.problems()[0].kind(), ErrorKind::InvalidConfig);
            let text = failure.to_string();
            assert!(
                text.contains("API_KEY") && text.contains("api_key"),
                "{text}"
            );
        }
    }
}
