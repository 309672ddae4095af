//! A middleware and an extractor for actix-web.
//!
//! actix-web has its own types of requests and responses, so the middleware converts their heads.

use std::fmt;
use std::pin::Pin;

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ResponseHead, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError, web};
use http::StatusCode;
use http::request::Parts;
use secretwell::auth::sessions::authjs::{Session, Sessions};
use secretwell::auth::sessions::{SessionExchange, SessionLayer};
use secretwell::auth::{LazyAuth, Rejection};

use crate::User;

/// The middleware: `App::new().app_data(web::Data::new(layer)).wrap(from_fn(sessions))`.
///
/// # Errors
/// Returns the error of the inner service with a changed response, and an error if the request has an
/// invalid head.
pub async fn sessions(
    layer: web::Data<SessionLayer<Sessions>>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let mut head = head(request.request())?;
    let exchange = layer.start(&mut head);
    request.extensions_mut().insert(head);
    match next.call(request).await {
        Ok(mut response) => {
            let rejection = response.response().error().and_then(rejection);
            finish(exchange, response.response_mut().head_mut(), rejection);
            Ok(response)
        }
        // Inner middleware returns its rejections as errors.
        Err(error) => {
            let mut response = error.error_response();
            finish(exchange, response.head_mut(), rejection(&error));
            Err(InternalError::from_response(error, response).into())
        }
    }
}

/// Returns the rejection in an error.
fn rejection(error: &Error) -> Option<Rejection> {
    let rejected: Option<&Rejected> = error.as_error();
    rejected.map(|Rejected(rejection)| rejection.clone())
}

/// Changes the head of a response.
fn finish(
    exchange: SessionExchange<Sessions>,
    response: &mut ResponseHead,
    rejection: Option<Rejection>,
) {
    let mut changed = http::Response::new(());
    if let Ok(status) = StatusCode::from_u16(response.status.as_u16()) {
        *changed.status_mut() = status;
    }
    for (name, value) in &response.headers {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            changed.headers_mut().append(name, value);
        }
    }
    if let Some(rejection) = rejection {
        changed.extensions_mut().insert(rejection);
    }
    exchange.finish(&mut changed);
    if let Ok(status) = actix_web::http::StatusCode::from_u16(changed.status().as_u16()) {
        response.status = status;
    }
    response.headers.clear();
    for (name, value) in changed.headers() {
        let name = HeaderName::try_from(name.as_str());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers.append(name, value);
        }
    }
}

/// Converts the head of a request.
fn head(request: &HttpRequest) -> Result<Parts, Rejected> {
    let mut head = http::Request::builder()
        .method(request.method().as_str())
        .uri(request.uri().to_string());
    for (name, value) in request.headers() {
        head = head.header(name.as_str(), value.as_bytes());
    }
    match head.body(()) {
        Ok(request) => Ok(request.into_parts().0),
        Err(_) => Err(Rejected(Rejection::misconfigured())),
    }
}

/// The session of a request, as an argument of a handler.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "handlers destructure it")]
pub struct Login(pub Session<User>);

impl FromRequest for Login {
    type Error = Rejected;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Rejected>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let head = request.extensions().get::<Parts>().cloned();
        Box::pin(async move {
            let misconfigured = || Rejected(Rejection::misconfigured());
            let head = head.ok_or_else(misconfigured)?;
            let auth: &LazyAuth<Sessions> = head.extensions.get().ok_or_else(misconfigured)?;
            auth.authenticate(&head).await.map(Self).map_err(Rejected)
        })
    }
}

/// A rejection as an error of actix-web.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "it only wraps a type")]
pub struct Rejected(pub Rejection);

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Rejected {
    fn error_response(&self) -> HttpResponse {
        let response = self.0.clone().into_http::<String>();
        let status = actix_web::http::StatusCode::from_u16(response.status().as_u16());
        let mut converted = HttpResponse::build(status.unwrap_or_default());
        for (name, value) in response.headers() {
            converted.append_header((name.as_str(), value.as_bytes()));
        }
        converted.body(response.into_body())
    }
}
