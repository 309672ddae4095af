//! Wrong set-ups of a service that shares the sessions of Better Auth.

use std::time::SystemTime;

use axum::Router;
use axum::routing::get;
use secretwell::auth::Auth;
use secretwell::auth::sessions::betterauth::CacheStrategy::{Compact, Jwe};
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, CacheStrategy, Remember, Session, SessionCookies, SessionRow, Sessions,
};
use secretwell_testkit::CanaryLog;
use serde_json::{Value, json};

use super::diagnosis::{MAIL, Member, OTHER, cookie, send};
use super::{HOUR, LazyAuth, MemoryProvider, OLD, Resolver, Scheme, Secrets};

fn sessions(secret: &str, strategy: Option<CacheStrategy>) -> Sessions {
    let secrets = BetterAuthSecrets::new(secret).unwrap();
    let cookies = SessionCookies::new(Scheme::Http);
    match strategy {
        Some(strategy) => Sessions::with_cache(cookies, &secrets, strategy).unwrap(),
        None => Sessions::new(cookies, &secrets).unwrap(),
    }
}

/// Returns the cookies of a user: the token and the cache.
fn log_in(secret: &str) -> String {
    let row = SessionRow::new("session-1", "user-1", "a-token", SystemTime::now() + HOUR);
    let user = json!({"id": "user-1", "email": MAIL, "name": "Ada"});
    let sessions = sessions(secret, Some(Compact));
    let set = sessions.start(&row, &user, Remember::UntilExpiry, "");
    let set = set.unwrap();
    let pairs = set.iter().filter_map(|set| set.split(';').next());
    pairs.collect::<Vec<&str>>().join("; ")
}

#[tokio::test(start_paused = true)]
async fn wrong_set_ups_are_explained() {
    let log = CanaryLog::install();
    let (own, other) = (log_in(OLD), log_in(OTHER));
    let secure = other.replace("better-auth", "__Secure-better-auth");
    let service = sessions(OLD, Some(Compact));
    for _ in 0..100 {
        for header in [&other, &secure, &cookie(OLD)] {
            assert!(service.find::<Value>(header).unwrap().is_none());
        }
        let error = service.find::<Member>(&own).unwrap_err();
        assert!(error.field.is_some_and(|field| field.ends_with("role")));
    }
    let lines = log.lines_with("event=session_");
    let warnings: Vec<&String> = lines.iter().filter(|line| line.contains("WARN")).collect();
    for (event, text) in [
        ("session_key_unknown", "no session was accepted"),
        (
            "session_cookie_mismatch",
            "`__Secure-better-auth.session_token`",
        ),
        ("session_cookie_mismatch", "next-auth 5"),
        ("session_claims_mismatch", "it is missing"),
    ] {
        let event = format!("event={event} cookie=better-auth.session_token");
        let found = |line: &&&String| line.contains(&event) && line.contains(text);
        assert_eq!(warnings.iter().filter(found).count(), 1, "{warnings:?}");
    }
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(!log.contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn handler_that_needs_a_session_cache_explains_why_nobody_has_one() {
    fn app(strategy: Option<CacheStrategy>) -> Router {
        let secrets = Resolver::new(MemoryProvider::from_iter([("AUTH_SECRET", OLD)]));
        let auth = LazyAuth::infallible(secrets, move |_: Secrets, _| sessions(OLD, strategy));
        Router::new()
            .route("/me", get(async |_: Auth<Session<Value>>| "me"))
            .layer(auth.session_layer())
    }

    let both = log_in(OLD);
    let (token, _) = both.split_once("; ").unwrap();
    for (strategy, header, advice) in [
        (None, &*both, Some("`with_cache` or `stateless`")),
        (Some(Compact), token, Some("`session.cookieCache.enabled`")),
        (Some(Jwe), &*both, Some("`CacheStrategy`")),
        (Some(Compact), "theme=dark", None),
    ] {
        let (log, app) = (CanaryLog::install(), app(strategy));
        for _ in 0..10 {
            assert_eq!(send(&app, "/me", header).await.status(), 401);
        }
        let lines = log.lines_with("event=session_cache_missing");
        assert_eq!(lines.len(), usize::from(advice.is_some()), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains(advice.unwrap())));
        assert!(!log.contains("canary"));
    }

    // In a service that has accepted a cache, one that has ended is normal.
    let (log, app) = (CanaryLog::install(), app(Some(Compact)));
    assert_eq!(send(&app, "/me", &both).await.status(), 200);
    assert_eq!(send(&app, "/me", token).await.status(), 401);
    assert!(log.lines_with("session_cache_missing").is_empty());
}

#[tokio::test(start_paused = true)]
async fn secret_that_differs_by_white_space_is_explained() {
    for (service_ends, application_ends, text) in [
        ("", "\n", "ends with a line feed"),
        ("", "\r\n", "ends with a carriage return and a line feed"),
        ("\n", "", "has no white space at its ends"),
        ("", " ", "ends with a space"),
    ] {
        let log = CanaryLog::install();
        let service = sessions(&format!("{OLD}{service_ends}"), Some(Compact));
        let header = log_in(&format!("{OLD}{application_ends}"));
        for _ in 0..10 {
            assert!(service.find::<Value>(&header).unwrap().is_none());
        }
        let lines = log.lines_with("event=session_");
        let mut warnings = lines.iter().filter(|line| line.contains("WARN"));
        let warning = warnings.next().unwrap();
        assert!(warning.contains("event=session_secret_white_space"));
        assert!(warning.contains(text), "{warning}");
        assert_eq!(warnings.next(), None);
        assert!(!log.contains("canary") && !log.contains(OLD));
    }
}
