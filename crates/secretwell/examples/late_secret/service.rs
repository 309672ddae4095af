//! A small service whose sessions are those of a JavaScript library.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Extension;
use axum::response::AppendHeaders;
use axum::routing::{MethodRouter, post};
use http::header::{HeaderName, SET_COOKIE};
use secretwell::auth::sessions::HasSessions;
use secretwell::auth::{BuildContext, BuildError, LazyAuth, LazyAuthBuilder, Probes, Rejection};
use serde::de::DeserializeOwned;

/// A library whose sessions the service uses.
pub(crate) trait Library: 'static {
    /// The key of the secret.
    const KEY: &str;
    type Secrets: DeserializeOwned + Send + 'static;
    type Sessions: HasSessions;

    /// Builds the sessions from the secrets.
    fn build(context: &BuildContext) -> Result<Self::Sessions, BuildError>;

    /// Returns the `Set-Cookie` headers of a new session of the user `ada`.
    fn log_in(sessions: &Self::Sessions) -> Result<Vec<String>, BuildError>;

    /// Returns the handler that responds with the user who is logged in.
    fn me() -> MethodRouter;
}

/// Logs in every client. Checking credentials is not part of this example.
async fn log_in<L: Library>(
    Extension(auth): Extension<LazyAuth<L::Sessions>>,
) -> Result<AppendHeaders<Vec<(HeaderName, String)>>, Rejection> {
    let sessions = auth.get().await?;
    let cookies = L::log_in(&sessions).map_err(|_| Rejection::misconfigured())?;
    let headers = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie));
    Ok(AppendHeaders(headers.collect()))
}

/// Returns the auth and the number of its builds. The first use triggers the first build.
pub(crate) fn auth<L: Library>(
    builder: LazyAuthBuilder,
) -> (LazyAuth<L::Sessions>, Arc<AtomicUsize>) {
    let builds = Arc::new(AtomicUsize::new(0));
    let count = builds.clone();
    let auth = builder.build(move |_: L::Secrets, context: BuildContext| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { L::build(&context) }
    });
    (auth, builds)
}

pub(crate) fn router<L: Library>(auth: &LazyAuth<L::Sessions>) -> Router {
    let probes = Probes::new().auth(auth);
    Router::new()
        .route("/me", L::me())
        .route("/login", post(log_in::<L>))
        .layer(auth.session_layer())
        .route_service("/ready", probes.ready())
        .route_service("/live", probes.live())
}
