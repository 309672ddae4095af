//! A middleware and an extractor for poem.

use std::sync::Arc;

use http::request::Parts;
use poem::{Body, Endpoint, Error, FromRequest, Request, RequestBody, Response, Result};
use secretwell::auth::sessions::SessionLayer;
use secretwell::auth::sessions::authjs::{Session, Sessions};
use secretwell::auth::{LazyAuth, Rejection};

use crate::User;

/// The middleware: `app.around(move |endpoint, request| sessions(layer.clone(), endpoint, request))`.
///
/// # Errors
/// Never returns an error. An error of the endpoint becomes a response.
pub async fn sessions<E: Endpoint>(
    layer: SessionLayer<Sessions>,
    endpoint: Arc<E>,
    mut request: Request,
) -> Result<Response> {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.original_uri().clone();
    head.headers = request.headers().clone();
    let exchange = layer.start(&mut head);
    request.set_data(head);

    let mut response = endpoint.get_response(request).await;

    let mut changed = http::Response::new(());
    *changed.status_mut() = response.status();
    *changed.headers_mut() = std::mem::take(response.headers_mut());
    if let Some(rejection) = response.data::<Rejection>() {
        changed.extensions_mut().insert(rejection.clone());
    }
    exchange.finish(&mut changed);
    response.set_status(changed.status());
    *response.headers_mut() = std::mem::take(changed.headers_mut());
    Ok(response)
}

/// The session of a request, as an argument of a handler.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "handlers destructure it")]
pub struct Login(pub Session<User>);

impl<'a> FromRequest<'a> for Login {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        let session = match request.data::<Parts>() {
            Some(head) => match head.extensions.get::<LazyAuth<Sessions>>() {
                Some(auth) => auth.authenticate(head).await,
                None => Err(Rejection::misconfigured()),
            },
            None => Err(Rejection::misconfigured()),
        };
        session.map(Self).map_err(|rejection| {
            let (head, body) = rejection.clone().into_http::<Body>().into_parts();
            let mut response = Response::from(body);
            response.set_status(head.status);
            *response.headers_mut() = head.headers;
            let mut error = Error::from_response(response);
            // The middleware recognizes the rejection.
            error.set_data(rejection);
            error
        })
    }
}
