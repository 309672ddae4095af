//! Unknown keys, claims that do not fit, and wrong set-ups, in a whole service on a paused clock.

use std::future::poll_fn;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::Request;
use http::header::{ACCEPT, COOKIE};
use secretwell::auth::sessions::TokenError;
use secretwell::auth::sessions::authjs::SessionTokens;
use secretwell::backend::Capabilities;
use secretwell_testkit::{Action, CanaryLog, FaultyProvider};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_service::Service as _;

use super::*;
use crate::support::{down, pass, secs, settle};

pub(super) const OTHER: &str = "the secret of another app, long enough";
/// A value that must not be part of the log.
pub(super) const MAIL: &str = "ada.canary@example.com";
const V5: &str = "authjs.session-token";
const MINUTES: Duration = secs(60);

/// A session whose role is required.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Member {
    #[expect(dead_code, reason = "only the type of the claim matters")]
    role: u8,
}

/// A service whose source does not report changes. Its ttl is 300 s.
struct Polled {
    memory: MemoryProvider,
    faulty: FaultyProvider<MemoryProvider>,
    auth: LazyAuth<Sessions>,
    app: Router,
    log: CanaryLog,
}

impl Polled {
    async fn new() -> Self {
        Self::with(OLD, SessionCookie::v5(Scheme::Http)).await
    }

    async fn with(secret: &str, cookie: SessionCookie) -> Self {
        let log = CanaryLog::install();
        let memory = MemoryProvider::from_iter([("AUTH_SECRET", secret)]);
        let faulty = FaultyProvider::new(memory.clone()).with_capabilities(Capabilities::none());
        let auth = LazyAuth::new(
            Resolver::builder(faulty.clone()).ttl(secs(300)).build(),
            move |_: Secrets, context: BuildContext| {
                let cookie = cookie.clone();
                async move {
                    let ring = SecretOrder::AuthCore.key_ring(&context)?;
                    Ok::<_, BuildError>(Sessions::new(cookie, &ring)?)
                }
            },
        );
        let guarded = get("for users").route_layer(auth.require::<Session<User>>());
        let layer = auth
            .session_layer()
            .sign_in(SignIn::page("/signin").unwrap());
        let app = Router::new()
            .route("/guarded", guarded)
            .route("/me", get(me))
            .route("/", get(greeting))
            .route("/member", get(async |_: Auth<Session<Member>>| "member"))
            .route(
                "/perhaps",
                get(async |_: Option<Auth<Session<Member>>>| "perhaps"),
            )
            .layer(layer);
        auth.get().await.unwrap();
        Self {
            memory,
            faulty,
            auth,
            app,
            log,
        }
    }

    /// Returns the status and the body of the response. The request is one of a browser for a page.
    async fn get(&self, path: &str, cookies: &str) -> (u16, String) {
        let response = send(&self.app, path, cookies).await;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await;
        (status, String::from_utf8(body.unwrap().to_vec()).unwrap())
    }

    async fn status(&self, cookies: &str) -> u16 {
        self.get("/me", cookies).await.0
    }

    /// Returns the warnings with this event.
    fn warnings(&self, event: &str) -> Vec<String> {
        let mut lines = self.log.lines_with(&format!("event={event} "));
        lines.retain(|line| line.contains("WARN"));
        lines
    }

    /// Returns the number of warnings about sessions.
    fn count(&self) -> usize {
        let lines = self.log.lines_with("event=session_");
        let warnings = lines.iter().filter(|line| line.contains("WARN"));
        warnings.count()
    }

    /// Sends requests for longer than the interval of the warnings. Checks that there are two of this event
    /// with all `texts`, the second one with the number of the requests, and no other warnings.
    async fn assert_warned(&self, event: &str, cookies: &str, status: u16, texts: &[&str]) {
        for _ in 0..40 {
            assert_eq!(self.status(cookies).await, status);
        }
        assert_eq!(self.warnings(event).len(), 1, "{:?}", self.log.text());
        pass(5 * MINUTES).await;
        assert_eq!(self.status(cookies).await, status);
        let warnings = self.warnings(event);
        assert_eq!((warnings.len(), self.count()), (2, 2));
        assert!(warnings[0].contains("requests=1"), "{warnings:?}");
        assert!(warnings[1].contains("requests=40"), "{warnings:?}");
        for text in texts {
            assert!(warnings[0].contains(text), "{text} in {warnings:?}");
        }
        self.assert_clean(cookies);
    }

    /// Checks that the log has neither the value of a cookie nor a claim.
    fn assert_clean(&self, cookies: &str) {
        let text = self.log.text();
        assert!(!text.contains("canary"), "{text}");
        for cookie in cookies.split("; ") {
            let (_, value) = cookie.split_once('=').unwrap();
            assert!(!text.contains(value), "{text}");
        }
    }
}

pub(super) async fn send(app: &Router, path: &str, cookies: &str) -> axum::response::Response {
    let request = Request::get(path)
        .header(COOKIE, cookies)
        .header(ACCEPT, "text/html");
    let mut app = app.clone();
    let Ok(()) =
        poll_fn(|context| tower_service::Service::<Request>::poll_ready(&mut app, context)).await;
    let Ok(response) = app.call(request.body(Body::empty()).unwrap()).await;
    response
}

/// Returns a cookie of next-auth 5 with a token of this secret.
pub(super) fn cookie(secret: &str) -> String {
    format!("{V5}={}", token(V5, secret))
}

fn token(salt: &str, secret: &str) -> String {
    let tokens = SessionTokens::v5(salt, &KeyRing::new(secret).unwrap()).unwrap();
    let claims = json!({"name": "Ada", "email": MAIL});
    tokens.encode(&claims, 24 * HOUR).unwrap()
}

#[tokio::test(start_paused = true)]
async fn new_login_with_a_new_secret_is_accepted_at_once() {
    for path in ["/me", "/guarded", "/"] {
        let service = Polled::new().await;
        let (before, after) = (cookie(OLD), cookie(NEW));
        assert_eq!(service.get(path, &before).await.0, 200);
        service.memory.set("AUTH_SECRET", NEW).unwrap();
        let start = Instant::now();
        let (status, body) = service.get(path, &after).await;
        assert_eq!(status, 200, "{path}");
        assert!(["Ada", "for users"].contains(&&*body), "{body}");
        assert!(start.elapsed() < secs(1));
        assert_eq!(
            service.get(path, &before).await.0,
            200,
            "within the grace period"
        );
        assert_eq!(service.faulty.calls(), 2);
        assert_eq!(service.count(), 0, "{}", service.log.text());
    }
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_cost_one_read_in_each_interval_and_the_same_response_as_no_token() {
    let service = Polled::new().await;
    let parts = token(V5, OTHER);
    let parts: Vec<&str> = parts.split('.').collect();
    // Names no key.
    let nameless = format!(
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..{}.{}.{}",
        "A".repeat(16),
        parts[3],
        "A".repeat(22)
    );
    let forged = [cookie(OTHER), format!("{V5}={nameless}")];
    let calls = service.faulty.calls();
    let absent = response(&service, "theme=dark").await;
    for interval in 1..=3 {
        let mut requests = JoinSet::new();
        for index in 0..1000 {
            let (app, cookies) = (service.app.clone(), forged[index % 2].clone());
            requests.spawn(async move { send(&app, "/guarded", &cookies).await.status() });
        }
        let statuses = requests.join_all().await;
        assert!(statuses.iter().all(|status| *status == 303));
        assert_eq!(service.faulty.calls(), calls + interval);
        for cookies in &forged {
            assert_eq!(response(&service, cookies).await, absent);
            assert_eq!(
                service.get("/", cookies).await,
                (200, "anonymous".to_owned())
            );
        }
        pass(secs(10)).await;
    }
    assert_eq!(service.auth.state().generation(), Some(1));
    assert_eq!(service.warnings("session_key_unknown").len(), 1);
}

/// Returns what a client sees that does not request a page.
async fn response(service: &Polled, cookies: &str) -> (http::StatusCode, http::HeaderMap, Vec<u8>) {
    let request = Request::get("/me").header(COOKIE, cookies);
    let mut app = service.app.clone();
    let Ok(response) = app.call(request.body(Body::empty()).unwrap()).await;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 10_000).await.unwrap();
    (parts.status, parts.headers, body.to_vec())
}

#[tokio::test(start_paused = true)]
async fn source_that_is_down_or_hangs_leaves_the_answer_and_valid_sessions_alone() {
    for (fault, wait) in [(Action::Fail(down()), 1), (Action::Hang, 30)] {
        let service = Polled::new().await;
        service.memory.set("AUTH_SECRET", NEW).unwrap();
        service.faulty.always(fault);
        let start = Instant::now();
        let (unknown, known) = (cookie(NEW), cookie(OLD));
        let unknown = service.status(&unknown);
        let known = async {
            settle().await;
            assert_eq!(service.status(&known).await, 200);
            assert_eq!(start.elapsed(), Duration::ZERO, "it does not wait");
        };
        let (status, ()) = tokio::join!(unknown, known);
        assert_eq!(status, 303);
        assert!(start.elapsed() <= secs(wait), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_does_not_fit_the_handler_is_a_server_error_without_a_redirect() {
    let service = Polled::new().await;
    let ada = cookie(OLD);
    for _ in 0..50 {
        for path in ["/member", "/perhaps"] {
            let response = send(&service.app, path, &ada).await;
            assert_eq!(response.status(), 500);
            assert!(response.headers().get("location").is_none());
        }
    }
    let warnings = service.warnings("session_claims_mismatch");
    assert_eq!((warnings.len(), service.count()), (1, 1), "{warnings:?}");
    for text in [V5, "Member", "field=role", "it is missing"] {
        assert!(warnings[0].contains(text), "{text} in {warnings:?}");
    }
    assert_eq!(service.status(&ada).await, 200, "for another type");
    // Without a session, the user is sent to the sign-in page.
    assert_eq!(service.get("/member", "").await.0, 303);
    service.assert_clean(&ada);
}

#[tokio::test(start_paused = true)]
async fn another_secret_is_explained() {
    let service = Polled::new().await;
    service
        .assert_warned(
            "session_key_unknown",
            &cookie(OTHER),
            303,
            &[
                V5,
                "accepted_others=false",
                "no session was accepted",
                "give this service the secret",
            ],
        )
        .await;
    assert_eq!(service.status(&cookie(OLD)).await, 200);
    pass(5 * MINUTES).await;
    service.status(&cookie(OTHER)).await;
    let warnings = service.warnings("session_key_unknown");
    assert!(warnings[2].contains("accepted_others=true"), "{warnings:?}");
    assert!(
        warnings[2].contains("while it accepts others"),
        "{warnings:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn cookie_of_another_name_is_explained() {
    let secure = || SessionCookie::v5(Scheme::Https);
    let plain = || SessionCookie::v5(Scheme::Http);
    let custom = || {
        SessionCookie::v5(Scheme::Http)
            .with_name("session")
            .unwrap()
    };
    for (cookie, found, texts) in [
        (
            plain(),
            "__Secure-authjs.session-token",
            ["`Scheme::Https`", "__Secure-"],
        ),
        (
            plain(),
            "__Secure-authjs.session-token.0",
            ["`Scheme::Https`", "__Secure-"],
        ),
        (
            secure(),
            "authjs.session-token",
            ["`Scheme::Http`", "__Secure-"],
        ),
        (
            secure(),
            "__Host-authjs.session-token",
            ["__Host-", "__Secure-"],
        ),
        (custom(), "__Host-session", ["__Host-session", "`session`"]),
        (plain(), "next-auth.session-token", ["next-auth 4", V5]),
        (
            plain(),
            "__Secure-next-auth.session-token.1",
            ["next-auth 4", V5],
        ),
        (
            SessionCookie::v4(Scheme::Http),
            V5,
            ["next-auth 5", "next-auth.session-token"],
        ),
        (custom(), V5, ["next-auth 5", "`session`"]),
        (
            plain(),
            "__Secure-better-auth.session_token",
            ["Better Auth", V5],
        ),
    ] {
        let service = Polled::with(OLD, cookie).await;
        let header = format!("theme=canary; {found}={}", token(V5, OLD));
        service
            .assert_warned("session_cookie_mismatch", &header, 303, &texts)
            .await;
    }
    // Other cookies are ignored, whatever their names are.
    let service = Polled::new().await;
    for header in [
        "theme=dark",
        "xauthjs.session-token=a",
        "authjs.session-tokens=a",
        "authjs.csrf-token=a",
    ] {
        assert_eq!(service.status(header).await, 303);
    }
    // A valid session beside the cookie of another application.
    let header = format!("next-auth.session-token=a; {}", cookie(OLD));
    assert_eq!(service.status(&header).await, 200);
    assert_eq!(service.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn database_session_is_explained() {
    for (value, event) in [
        (
            "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            "session_in_database",
        ),
        ("cm5xk2v9w0000qzrmd1u8h3ab", "session_not_a_token"),
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "session_not_a_token",
        ),
    ] {
        let service = Polled::new().await;
        let texts = ["session: { strategy: \"jwt\" }", "database", V5];
        service
            .assert_warned(event, &format!("{V5}={value}"), 303, &texts)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn clock_that_is_behind_is_explained() {
    let tokens = SessionTokens::v5(V5, &KeyRing::new(OLD).unwrap()).unwrap();
    let future = SystemTime::now() + HOUR;
    let created = tokens
        .encode_at(&json!({"name": "Ada"}), HOUR, future)
        .unwrap();
    let start = future
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let starts = json!({"name": "Ada", "nbf": start});
    let starts = tokens.encode(&starts, 2 * HOUR).unwrap();
    assert_eq!(
        tokens.decode::<Value>(&starts).unwrap_err(),
        TokenError::NotYetValid
    );
    for (token, status) in [(created, 200), (starts, 303)] {
        let service = Polled::new().await;
        let cookies = format!("{V5}={token}");
        let texts = ["clock of this host is behind", "synchronize"];
        service
            .assert_warned("session_from_future", &cookies, status, &texts)
            .await;
    }
    // A small difference is normal.
    let service = Polled::new().await;
    let soon = SystemTime::now() + secs(10);
    let token = tokens
        .encode_at(&json!({"name": "Ada"}), HOUR, soon)
        .unwrap();
    assert_eq!(service.status(&format!("{V5}={token}")).await, 200);
    assert_eq!(service.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn clock_that_is_ahead_is_explained() {
    let tokens = SessionTokens::v5(V5, &KeyRing::new(OLD).unwrap()).unwrap();
    let past = SystemTime::now() - 2 * HOUR;
    let expired = tokens
        .encode_at(&json!({"name": "Ada"}), HOUR, past)
        .unwrap();
    let cookies = format!("{V5}={expired}");
    let service = Polled::new().await;
    let texts = ["clock of this host is ahead", "synchronize"];
    service
        .assert_warned("session_expired", &cookies, 303, &texts)
        .await;
    // An old cookie beside sessions that are accepted is normal.
    let service = Polled::new().await;
    assert_eq!(service.status(&cookie(OLD)).await, 200);
    assert_eq!(service.status(&cookies).await, 303);
    assert_eq!(service.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn secret_that_differs_by_white_space_is_explained() {
    for (service_ends, application_ends, text) in [
        ("", "\n", "ends with a line feed"),
        ("", "\r\n", "ends with a carriage return and a line feed"),
        ("\n", "", "has no white space at its ends"),
        ("\r\n", "\n", "ends with a line feed"),
        ("", " ", "ends with a space"),
    ] {
        let service_secret = format!("{OLD}{service_ends}");
        let application_secret = format!("{OLD}{application_ends}");
        let service = Polled::with(&service_secret, SessionCookie::v5(Scheme::Http)).await;
        let header = cookie(&application_secret);
        service
            .assert_warned("session_secret_white_space", &header, 303, &[text, V5])
            .await;

        // The tokens of version 4 name no key.
        let service = Polled::with(&service_secret, SessionCookie::v4(Scheme::Http)).await;
        let tokens = SessionTokens::v4(&KeyRing::new(&*application_secret).unwrap()).unwrap();
        let token = tokens.encode(&json!({"name": "Ada"}), HOUR).unwrap();
        let header = format!("next-auth.session-token={token}");
        service
            .assert_warned("session_secret_white_space", &header, 303, &[text])
            .await;
    }
}

/// Anybody can send such cookies, so the log must not advise to change a service that works.
#[tokio::test(start_paused = true)]
async fn cookies_beside_accepted_sessions_are_no_reason_to_change_the_service() {
    for (event, header) in [
        (
            "session_in_database",
            format!("{V5}=3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
        ),
        ("session_not_a_token", format!("{V5}=nonsense")),
        (
            "session_cookie_mismatch",
            "__Secure-authjs.session-token=a".to_owned(),
        ),
        (
            "session_cookie_mismatch",
            "better-auth.session_token=a".to_owned(),
        ),
    ] {
        let service = Polled::new().await;
        assert_eq!(service.status(&cookie(OLD)).await, 200);
        assert_eq!(service.status(&header).await, 303);
        let warnings = service.warnings(event);
        assert_eq!(warnings.len(), 1);
        for text in [
            "accepted_others=true",
            "change nothing while new logins are accepted",
        ] {
            assert!(warnings[0].contains(text), "{warnings:?}");
        }
        let alone = Polled::new().await;
        assert_eq!(alone.status(&header).await, 303);
        assert!(!alone.warnings(event)[0].contains("change nothing"));
    }
}

#[tokio::test(start_paused = true)]
async fn each_prefix_is_explained_and_a_request_counts_once() {
    let service = Polled::new().await;
    let chunks: Vec<String> = (0..3)
        .map(|index| format!("__Secure-{V5}.{index}=a"))
        .collect();
    let header = format!("__Host-{V5}=a; {}", chunks.join("; "));
    for _ in 0..3 {
        assert_eq!(service.status(&header).await, 303);
    }
    pass(5 * MINUTES).await;
    assert_eq!(service.status(&header).await, 303);
    let warnings = service.warnings("session_cookie_mismatch");
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for warning in &warnings[2..] {
        assert!(warning.contains("requests=3"), "{warnings:?}");
    }
    let advises = |text: &str| warnings.iter().filter(|line| line.contains(text)).count();
    assert_eq!(
        (
            advises("`Scheme::Https`"),
            advises(&format!("`__Host-{V5}`"))
        ),
        (2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn flood_of_forged_cookies_costs_few_lines_and_hides_no_other_kind() {
    let service = Polled::new().await;
    let forged = cookie(OTHER);
    let other = [
        (
            "session_in_database",
            format!("{V5}=3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
        ),
        ("session_not_a_token", format!("{V5}=nonsense")),
        (
            "session_cookie_mismatch",
            "__Secure-authjs.session-token=a".to_owned(),
        ),
        ("session_secret_white_space", cookie(&format!("{OLD}\n"))),
    ];
    for index in 0..5_000 {
        let cookies = match index % 1_000 {
            999 => &other[(index / 1_000) % 4].1,
            _ => &forged,
        };
        assert_eq!(service.status(cookies).await, 303);
        if index % 100 == 0 {
            pass(Duration::from_millis(500)).await;
        }
    }
    for (event, _) in &other {
        assert_eq!(service.warnings(event).len(), 1, "{event}");
    }
    assert_eq!(service.warnings("session_key_unknown").len(), 1);
    assert_eq!(service.count(), 5);
}

#[tokio::test(start_paused = true)]
async fn direct_use_of_the_sessions_is_explained_as_well() {
    let log = CanaryLog::install();
    let ring = KeyRing::new(OLD).unwrap();
    let sessions = Sessions::new(SessionCookie::v5(Scheme::Http), &ring).unwrap();
    let error = sessions.find::<Member>(&cookie(OLD)).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("role"));
    for header in [
        cookie(OTHER),
        format!("{V5}=nonsense"),
        format!("__Secure-{}", cookie(OLD)),
    ] {
        assert!(sessions.find::<User>(&header).unwrap().is_none());
    }
    // Renewing does not warn: the handler has read the same session.
    let renewed = sessions.renew(&cookie(OTHER), HOUR).unwrap();
    assert!(renewed.is_empty());
    let lines = log.lines_with("event=session_");
    let warnings = lines.iter().filter(|line| line.contains("WARN"));
    assert_eq!(warnings.count(), 4, "{lines:?}");
}
