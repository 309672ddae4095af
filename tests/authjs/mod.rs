//! Tests with the real Auth.js packages, and a service that shares their sessions.

mod browser;
mod guide;
mod late_secret;
mod rotation;
pub(crate) mod site;
mod tokens;

use secretwell::SecretString;
use secretwell::auth::sessions::authjs::{SecretOrder, SessionCookie, Sessions};
use secretwell::auth::{BuildContext, BuildError, LazyAuth, LazyAuthBuilder};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "read through the key ring")]
    auth_secret: SecretString,
}

/// Returns an auth that builds the sessions of a cookie from `AUTH_SECRET`.
fn sessions(settings: LazyAuthBuilder, cookie: SessionCookie) -> LazyAuth<Sessions> {
    settings.build(move |_: Secrets, context: BuildContext| {
        let cookie = cookie.clone();
        async move {
            let ring = SecretOrder::AuthCore.key_ring(&context)?;
            Ok::<_, BuildError>(Sessions::new(cookie, &ring)?)
        }
    })
}
