//! Sessions of Better Auth. An application without a database and with the same `BETTER_AUTH_SECRET` would
//! accept them too.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::routing::{MethodRouter, get};
use secretwell::SecretString;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::betterauth::{
    BetterAuthSecrets, Remember, Session, SessionCookies, SessionRow, Sessions,
};
use secretwell::auth::{Auth, BuildContext, BuildError};
use serde::{Deserialize, Serialize};

use crate::service::Library;

pub(crate) struct BetterAuth;

/// The secrets of the service. The names of the fields are the keys, in upper case.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) struct Secrets {
    #[expect(dead_code, reason = "read through the key ring")]
    better_auth_secret: SecretString,
}

/// The user who is logged in.
#[derive(Serialize, Deserialize)]
struct User {
    id: String,
    email: String,
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> Json<User> {
    Json(session.into_cached().user)
}

impl Library for BetterAuth {
    const KEY: &str = "BETTER_AUTH_SECRET";
    type Secrets = Secrets;
    type Sessions = Sessions;

    fn build(context: &BuildContext) -> Result<Sessions, BuildError> {
        let secrets = BetterAuthSecrets::from_context(context)?;
        let sessions = Sessions::stateless(SessionCookies::new(Scheme::Http), &secrets)?;
        // The package itself accepts the tokens of the current secret only, so a rotation logs everybody out.
        Ok(sessions.accept_previous_tokens())
    }

    fn log_in(sessions: &Sessions) -> Result<Vec<String>, BuildError> {
        let end = SystemTime::now() + Duration::from_secs(60 * 60);
        let row = SessionRow::new("session-1", "user-1", "token-of-ada", end);
        let ada = User {
            id: "user-1".into(),
            email: "ada@example.test".into(),
            name: "ada".into(),
        };
        Ok(sessions.start(&row, &ada, Remember::UntilExpiry, "")?)
    }

    fn me() -> MethodRouter {
        get(me)
    }
}
