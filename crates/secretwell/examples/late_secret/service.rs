//! A small service with Auth.js sessions.
//!
//! A Next.js application with the same `AUTH_SECRET` would accept these sessions too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Extension;
use axum::response::AppendHeaders;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::{HeaderName, SET_COOKIE};
use secretwell::SecretString;
use secretwell::auth::sessions::Scheme;
use secretwell::auth::sessions::authjs::{SecretOrder, Session, SessionCookie, Sessions};
use secretwell::auth::{Auth, BuildContext, BuildError, LazyAuth, LazyAuthBuilder, Rejection};
use serde::{Deserialize, Serialize};

/// The secrets of the service. The names of the fields are the keys, in upper case.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) struct Secrets {
    #[expect(dead_code, reason = "read through the key ring")]
    auth_secret: SecretString,
}

/// The user who is logged in.
#[derive(Serialize, Deserialize)]
pub(crate) struct User {
    name: String,
}

async fn me(Auth(session): Auth<Session<User>>) -> Json<User> {
    Json(session.claims)
}

/// Logs in every client. Checking credentials is not part of this example.
async fn login(
    Extension(auth): Extension<LazyAuth<Sessions>>,
) -> Result<AppendHeaders<Vec<(HeaderName, String)>>, Rejection> {
    let sessions = auth.get().await?;
    let ada = User { name: "ada".into() };
    let cookies = sessions
        .start(&ada, "")
        .map_err(|_| Rejection::misconfigured())?;
    let headers = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie));
    Ok(AppendHeaders(headers.collect()))
}

/// Returns the auth and the number of its builds. The first use triggers the first build.
pub(crate) fn auth(builder: LazyAuthBuilder) -> (LazyAuth<Sessions>, Arc<AtomicUsize>) {
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let auth = builder.build(move |_: Secrets, context: BuildContext| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let ring = SecretOrder::AuthCore.key_ring(&context)?;
            Ok::<_, BuildError>(Sessions::new(SessionCookie::v5(Scheme::Http), &ring)?)
        }
    });
    (auth, builds)
}

pub(crate) fn router(auth: &LazyAuth<Sessions>) -> Router {
    Router::new()
        .route("/me", get(me))
        .route("/login", post(login))
        .layer(auth.session_layer())
}
