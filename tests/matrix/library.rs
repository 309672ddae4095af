//! The libraries whose sessions the service shares: Auth.js and Better Auth.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use secretwell::SecretString;
use secretwell::auth::sessions::{HasSessions, Scheme, authjs, betterauth};
use secretwell::auth::{Auth, BuildContext, BuildError, KeyRing, LazyAuth, LazyAuthBuilder};
use serde::{Deserialize, Serialize};

/// One library, with a service that accepts its sessions.
pub(super) trait Library: 'static {
    const NAME: &str;
    /// The key of the secret.
    const KEY: &str;
    type Sessions: HasSessions;

    /// Returns an auth that builds the sessions from the secret.
    fn auth(settings: LazyAuthBuilder) -> LazyAuth<Self::Sessions>;

    /// Returns the sessions of an application with this secret.
    fn application(secret: &str) -> Self::Sessions;

    /// Returns the `Set-Cookie` headers of a new session of Ada.
    fn start(sessions: &Self::Sessions) -> Vec<String>;

    /// Returns a service that responds to `/me` with the name of the user.
    fn router() -> Router;
}

pub(super) struct AuthJs;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct AuthJsSecrets {
    #[expect(dead_code, reason = "the service uses the key ring")]
    auth_secret: SecretString,
}

#[derive(Serialize, Deserialize)]
struct AuthJsUser {
    name: String,
}

impl Library for AuthJs {
    const NAME: &str = "Auth.js";
    const KEY: &str = "AUTH_SECRET";
    type Sessions = authjs::Sessions;

    fn auth(settings: LazyAuthBuilder) -> LazyAuth<Self::Sessions> {
        settings.build(|_: AuthJsSecrets, context: BuildContext| async move {
            let ring = authjs::SecretOrder::AuthCore.key_ring(&context)?;
            Ok::<_, BuildError>(authjs_sessions(&ring)?)
        })
    }

    fn application(secret: &str) -> Self::Sessions {
        authjs_sessions(&KeyRing::new(secret).unwrap()).unwrap()
    }

    fn start(sessions: &Self::Sessions) -> Vec<String> {
        let ada = AuthJsUser { name: "Ada".into() };
        sessions.start(&ada, "").unwrap()
    }

    fn router() -> Router {
        async fn me(Auth(session): Auth<authjs::Session<AuthJsUser>>) -> String {
            session.claims.name
        }
        Router::new().route("/me", get(me))
    }
}

fn authjs_sessions(ring: &KeyRing) -> Result<authjs::Sessions, secretwell::Error> {
    authjs::Sessions::new(authjs::SessionCookie::v5(Scheme::Http), ring)
}

pub(super) struct BetterAuth;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct BetterAuthKeys {
    #[expect(dead_code, reason = "the service uses the key ring")]
    better_auth_secret: SecretString,
}

#[derive(Serialize, Deserialize)]
struct BetterAuthUser {
    id: String,
    email: String,
    name: String,
}

impl Library for BetterAuth {
    const NAME: &str = "Better Auth";
    const KEY: &str = "BETTER_AUTH_SECRET";
    type Sessions = betterauth::Sessions;

    fn auth(settings: LazyAuthBuilder) -> LazyAuth<Self::Sessions> {
        settings.build(|_: BetterAuthKeys, context: BuildContext| async move {
            let secrets = betterauth::BetterAuthSecrets::from_context(&context)?;
            Ok::<_, BuildError>(better_sessions(&secrets)?)
        })
    }

    fn application(secret: &str) -> Self::Sessions {
        let secrets = betterauth::BetterAuthSecrets::new(secret).unwrap();
        better_sessions(&secrets).unwrap()
    }

    fn start(sessions: &Self::Sessions) -> Vec<String> {
        let end = SystemTime::now() + Duration::from_secs(60 * 60);
        let row = betterauth::SessionRow::new("session-1", "user-1", "token-1", end);
        let ada = BetterAuthUser {
            id: "user-1".into(),
            email: "ada@example.test".into(),
            name: "Ada".into(),
        };
        let remember = betterauth::Remember::UntilExpiry;
        sessions.start(&row, &ada, remember, "").unwrap()
    }

    fn router() -> Router {
        async fn me(Auth(session): Auth<betterauth::Session<BetterAuthUser>>) -> String {
            session.into_cached().user.name
        }
        Router::new().route("/me", get(me))
    }
}

fn better_sessions(
    secrets: &betterauth::BetterAuthSecrets,
) -> Result<betterauth::Sessions, secretwell::Error> {
    let cookies = betterauth::SessionCookies::new(Scheme::Http);
    betterauth::Sessions::stateless(cookies, secrets)
}
