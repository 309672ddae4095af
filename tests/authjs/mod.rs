//! Auth.js with the real packages, and beside them a service that shares their sessions.

mod late;
mod rotation;
pub(crate) mod site;
mod tokens;

use secretwell::SecretString;
use secretwell::auth::authjs::{SecretOrder, SessionCookie, Sessions};
use secretwell::auth::{BuildContext, BuildError, LazyAuth, LazyAuthBuilder};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the ring holds it")]
    auth_secret: SecretString,
}

/// The sessions of a cookie, with what `AUTH_SECRET` is.
fn sessions(settings: LazyAuthBuilder, cookie: SessionCookie) -> LazyAuth<Sessions> {
    settings.build(move |_: Secrets, context: BuildContext| {
        let cookie = cookie.clone();
        async move {
            let ring = SecretOrder::AuthCore.ring(&context)?;
            Ok::<_, BuildError>(Sessions::new(cookie, &ring)?)
        }
    })
}
