//! Sessions of Auth.js. A Next.js application with the same `AUTH_SECRET` would accept them too.

use axum::Json;
use axum::routing::{MethodRouter, get};
use secretwell::SecretString;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SecretOrder, Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, BuildContext, BuildError};
use serde::{Deserialize, Serialize};

use crate::service::Library;

pub(crate) struct AuthJs;

/// The secrets of the service. The names of the fields are the keys, in upper case.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) struct Secrets {
    #[expect(dead_code, reason = "read through the key ring")]
    auth_secret: SecretString,
}

/// The user who is logged in.
#[derive(Serialize, Deserialize)]
struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> Json<User> {
    Json(session.claims)
}

impl Library for AuthJs {
    const KEY: &str = "AUTH_SECRET";
    type Secrets = Secrets;
    type Sessions = Sessions;

    fn build(context: &BuildContext) -> Result<Sessions, BuildError> {
        let ring = SecretOrder::AuthCore.key_ring(context)?;
        Ok(Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?)
    }

    fn log_in(sessions: &Sessions) -> Result<Vec<String>, BuildError> {
        let ada = User { name: "ada".into() };
        Ok(sessions.start(&ada, "")?)
    }

    fn me() -> MethodRouter {
        get(me)
    }
}
