//! A gRPC service of tonic.

use axum::Router;
use axum::body::Body;
use http::Response;
use http::request::Parts;
use secretwell::auth::sessions::SessionLayer;
use secretwell::auth::sessions::authjs::{Session, Sessions};
use secretwell::auth::{Auth, LazyAuth, Rejection, map_rejections};
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::User;

/// Returns the response to a rejected call: a gRPC status instead of JSON.
fn status(rejection: &Rejection, _: &Parts) -> Response<Body> {
    let code = match rejection.status().as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        503 => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, rejection.to_string()).into_http()
}

/// Returns the services for `Server::builder().add_routes(..)`. Only authenticated calls reach them.
pub fn routes(
    services: Routes,
    auth: &LazyAuth<Sessions>,
    sessions: &SessionLayer<Sessions>,
) -> Routes {
    let router: Router = services
        .into_axum_router()
        .layer(auth.require::<Session<User>>())
        .layer(sessions.clone())
        .layer(map_rejections(status));
    Routes::from(router)
}

/// Returns the user of a call, in the implementation of a service.
///
/// # Errors
/// Returns the status `UNAUTHENTICATED` if the service is not behind [`routes`].
pub fn user<T>(request: &tonic::Request<T>) -> Result<User, Status> {
    match Auth::<Session<User>>::from_extensions(request.extensions()) {
        Some(Auth(session)) => Ok(session.claims),
        None => Err(Status::unauthenticated("the call has no session")),
    }
}
