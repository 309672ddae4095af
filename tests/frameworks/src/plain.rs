//! A service of tower without a framework.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Request, Response};
use secretwell::auth::sessions::SessionLayer;
use secretwell::auth::sessions::authjs::{Session, Sessions};
use secretwell::auth::{Auth, LazyAuth};
use tower_layer::Layer;
use tower_service::Service;

use crate::User;

/// Greets the user. Only authenticated requests reach it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Greeter;

impl<B> Service<Request<B>> for Greeter {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let user = Auth::<Session<User>>::from_extensions(request.extensions());
        let name = user.map_or_else(String::new, |Auth(session)| session.claims.name);
        ready(Ok(Response::new(format!("hello {name}"))))
    }
}

/// Returns the service. `require` is inside of the session layer.
pub fn service<B: Send + 'static>(
    auth: &LazyAuth<Sessions>,
    sessions: &SessionLayer<Sessions>,
) -> impl Service<Request<B>, Response = Response<String>, Error = Infallible> + Clone {
    sessions.layer(auth.require::<Session<User>>().layer(Greeter))
}
