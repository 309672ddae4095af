//! Each framework behaves the same: a late secret, the headers, renewal, and the redirect.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use secretwell::auth::sessions::authjs::{SecretOrder, SessionCookie, Sessions};
use secretwell::auth::sessions::{Scheme, SessionLayer, SignIn};
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth};
use secretwell::{MemoryProvider, Resolver, SecretString};
use serde::Deserialize;
use serde_json::json;
use tower_service::Service as _;

const SECRET: &str = "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=";
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "read through the key ring")]
    auth_secret: SecretString,
}

fn sessions(ring: &KeyRing) -> Sessions {
    Sessions::new(SessionCookie::v5(Scheme::Http), ring).unwrap()
}

/// The parts of a service, whose secret does not exist yet.
struct Setup {
    memory: MemoryProvider,
    auth: LazyAuth<Sessions>,
    layer: SessionLayer<Sessions>,
    /// The `Cookie` header of a session that is renewed.
    ada: String,
}

impl Setup {
    fn new() -> Self {
        let memory = MemoryProvider::new();
        let resolver = Resolver::new(memory.clone());
        let auth = LazyAuth::new(resolver, |_: Secrets, context: BuildContext| async move {
            Ok::<_, BuildError>(
                sessions(&SecretOrder::AuthCore.key_ring(&context)?).accept_bearer(),
            )
        });
        let layer = auth
            .session_layer()
            .renew_when_remaining(10_000 * HOUR)
            .sign_in(SignIn::page("/signin").unwrap());
        let set = sessions(&KeyRing::new(SECRET).unwrap()).start(&json!({"name": "Ada"}), "");
        let ada = set.unwrap()[0].split(';').next().unwrap().to_owned();
        Self {
            memory,
            auth,
            layer,
            ada,
        }
    }

    async fn publish_secret(&self) {
        self.memory.set("AUTH_SECRET", SECRET).unwrap();
        self.auth.rebuild().await.unwrap();
    }

    /// Sends the same requests to a service with the page `/app/me?x=1`.
    async fn check<F>(&self, send: impl Fn(Request<()>) -> F)
    where
        F: Future<Output = Response<String>>,
    {
        let request = || Request::get("/app/me?x=1");
        let as_ada = || request().header("cookie", &self.ada).body(()).unwrap();
        let late = send(as_ada()).await;
        assert_eq!(late.status(), 500, "{late:?}");
        assert!(!late.headers().contains_key("set-cookie"));
        self.publish_secret().await;

        let response = send(as_ada()).await;
        assert_eq!(
            (response.status().as_u16(), response.body().as_str()),
            (200, "hello Ada")
        );
        let header = |headers: &HeaderMap, name: &str| {
            let values = headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(" | ")
        };
        assert_eq!(header(response.headers(), "vary"), "cookie, authorization");
        assert_eq!(
            header(response.headers(), "cache-control"),
            "private, no-store"
        );
        assert!(header(response.headers(), "set-cookie").starts_with("authjs.session-token="));

        let (_, token) = self.ada.split_once('=').unwrap();
        let bearer = request().header("authorization", format!("Bearer {token}"));
        let response = send(bearer.body(()).unwrap()).await;
        assert_eq!(response.body(), "hello Ada");
        assert!(!response.headers().contains_key("set-cookie"));

        let rejected = send(request().body(()).unwrap()).await;
        assert_eq!(rejected.status(), 401);
        assert_eq!(header(rejected.headers(), "www-authenticate"), "Bearer");
        assert_eq!(rejected.body(), r#"{"error":"unauthorized"}"#);
        let page = request().header("accept", "text/html").body(()).unwrap();
        let redirected = send(page).await;
        assert_eq!(redirected.status(), 303);
        let location = "/signin?callbackUrl=%2Fapp%2Fme%3Fx%3D1";
        assert_eq!(header(redirected.headers(), "location"), location);

        let unused = Request::get("/static").header("cookie", &self.ada);
        let unused = send(unused.body(()).unwrap()).await;
        for name in ["vary", "set-cookie", "cache-control"] {
            assert!(!unused.headers().contains_key(name), "{name}");
        }
    }
}

#[tokio::test]
async fn plain_tower_service_shares_sessions() {
    let setup = Setup::new();
    let service = crate::plain::service(&setup.auth, &setup.layer);
    let send = |request: Request<()>| {
        let mut service = service.clone();
        async move {
            // The whole service requires a session.
            match request.uri().path() {
                "/static" => Response::new(String::new()),
                _ => service.call(request).await.unwrap(),
            }
        }
    };
    setup.check(send).await;
}

#[tokio::test]
async fn poem_shares_sessions() {
    use poem::web::{LocalAddr, RemoteAddr};
    use poem::{Endpoint, EndpointExt, IntoEndpoint, RequestParts, Route, get, handler};

    use crate::poem::{Login, sessions};

    #[handler]
    fn me(Login(session): Login) -> String {
        format!("hello {}", session.claims.name)
    }
    #[handler]
    fn script() -> &'static str {
        "a script"
    }
    let setup = Setup::new();
    let layer = setup.layer.clone();
    let nested = Route::new().at("/me", get(me));
    let app = Route::new()
        .nest("/app", nested)
        .at("/static", get(script))
        .around(move |endpoint, request| sessions(layer.clone(), endpoint, request))
        .into_endpoint();
    let app = std::sync::Arc::new(app);
    let send = |request: Request<()>| {
        let app = app.clone();
        async move {
            let (head, ()) = request.into_parts();
            // As the server of poem creates it.
            let (local, remote) = (LocalAddr::default(), RemoteAddr::default());
            let head = RequestParts::from((head, local, remote, http::uri::Scheme::HTTP));
            let request = poem::Request::from_parts(head, poem::Body::empty());
            let response = app.get_response(request).await;
            let mut converted = Response::new(String::new());
            *converted.status_mut() = response.status();
            *converted.headers_mut() = response.headers().clone();
            *converted.body_mut() = response.into_body().into_string().await.unwrap();
            converted
        }
    };
    setup.check(send).await;
}

#[actix_web::test]
async fn actix_web_shares_sessions() {
    use actix_web::middleware::from_fn;
    use actix_web::{App, test, web};

    use crate::actix::{Login, sessions};

    async fn me(Login(session): Login) -> String {
        format!("hello {}", session.claims.name)
    }
    let setup = Setup::new();
    let app = App::new()
        .app_data(web::Data::new(setup.layer.clone()))
        .service(web::scope("/app").route("/me", web::get().to(me)))
        .route("/static", web::get().to(async || "a script"))
        .wrap(from_fn(sessions));
    let app = test::init_service(app).await;
    let app = &app;
    let send = |request: Request<()>| async move {
        let mut converted = test::TestRequest::with_uri(&request.uri().to_string());
        for (name, value) in request.headers() {
            converted = converted.append_header((name.as_str(), value.as_bytes()));
        }
        let response = test::call_service(app, converted.to_request()).await;
        let mut converted = Response::builder().status(response.status().as_u16());
        for (name, value) in response.headers() {
            converted = converted.header(name.as_str(), value.as_bytes());
        }
        let body = test::read_body(response).await;
        converted
            .body(String::from_utf8(body.to_vec()).unwrap())
            .unwrap()
    };
    setup.check(send).await;
}

#[actix_web::test]
async fn rejection_of_inner_middleware_in_actix_web_is_redirected() {
    use actix_web::body::MessageBody;
    use actix_web::dev::{Service as _, ServiceRequest, ServiceResponse};
    use actix_web::middleware::{Next, from_fn};
    use actix_web::{App, Error, test, web};

    use crate::actix::{Login, sessions};

    async fn only_users(
        mut request: ServiceRequest,
        next: Next<impl MessageBody>,
    ) -> Result<ServiceResponse<impl MessageBody>, Error> {
        request.extract::<Login>().await?;
        next.call(request).await
    }
    let setup = Setup::new();
    setup.publish_secret().await;
    let app = App::new()
        .app_data(web::Data::new(setup.layer.clone()))
        .service(web::scope("/app").route("/me", web::get().to(async || "for users")))
        .wrap(from_fn(only_users))
        .wrap(from_fn(sessions));
    let app = test::init_service(app).await;
    let request = |name: &'static str, value: &str| {
        let request = test::TestRequest::with_uri("/app/me").insert_header((name, value));
        app.call(request.to_request())
    };
    let response = request("cookie", &setup.ada).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("set-cookie"));

    let redirected = request("accept", "text/html")
        .await
        .err()
        .unwrap()
        .error_response();
    assert_eq!(redirected.status(), 303);
    assert_eq!(
        redirected.headers().get("location").unwrap(),
        "/signin?callbackUrl=%2Fapp%2Fme"
    );
    let rejected = request("accept", "*/*")
        .await
        .err()
        .unwrap()
        .error_response();
    assert_eq!(rejected.status(), 401);
    assert_eq!(
        rejected.headers().get("vary").unwrap(),
        "cookie, authorization"
    );
    assert_eq!(
        rejected.headers().get("www-authenticate").unwrap(),
        "Bearer"
    );
}

/// A gRPC service as it is generated, with one method that returns the name in a header.
#[derive(Clone)]
struct Greeter;

impl tonic::server::NamedService for Greeter {
    const NAME: &'static str = "greeter.Greeter";
}

impl tower_service::Service<Request<tonic::body::Body>> for Greeter {
    type Response = Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let user = crate::tonic::user(&tonic::Request::from_http(request));
        std::future::ready(Ok(match user {
            Ok(user) => {
                let response = Response::builder().header("grpc-status", "0");
                response
                    .header("x-name", user.name)
                    .body(tonic::body::Body::empty())
                    .unwrap()
            }
            Err(status) => status.into_http(),
        }))
    }
}

#[tokio::test]
async fn tonic_responds_with_a_grpc_status() {
    let setup = Setup::new();
    let services = tonic::service::Routes::new(Greeter);
    let routes = crate::tonic::routes(services.clone(), &setup.auth, &setup.layer);
    let send = async |routes: &tonic::service::Routes, headers: &[(&str, &str)]| {
        let mut request =
            Request::post("/greeter.Greeter/Greet").header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let Ok(response) = routes.clone().into_axum_router().call(request).await;
        // A client of gRPC reads the status only from a response with 200.
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers().get("set-cookie").is_some(),
            response.headers().contains_key("x-name") && headers[0].0 == "cookie"
        );
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        (
            header("grpc-status"),
            header("x-name"),
            header("content-type"),
        )
    };
    let (_, token) = setup.ada.split_once('=').unwrap();
    let bearer = format!("Bearer {token}");
    let as_ada = [("authorization", bearer.as_str())];
    assert_eq!(
        send(&routes, &as_ada).await.0,
        "13",
        "INTERNAL: the secret does not exist"
    );
    setup.publish_secret().await;
    assert_eq!(send(&routes, &as_ada).await.1, "Ada");
    assert_eq!(send(&routes, &[("cookie", &setup.ada)]).await.1, "Ada");
    // A gRPC client is never redirected.
    for headers in [
        &[("accept", "text/html")][..],
        &[("authorization", "Bearer x")],
    ] {
        let (status, name, content_type) = send(&routes, headers).await;
        assert_eq!(
            (status.as_str(), name.as_str()),
            ("16", ""),
            "UNAUTHENTICATED"
        );
        assert_eq!(content_type, "application/grpc");
    }
    let open = tonic::service::Routes::new(Greeter);
    assert_eq!(send(&open, &as_ada).await.0, "16", "without the layers");
}

#[test]
fn guide_shows_the_tested_code() {
    let guide = include_str!("../../../docs/guides/frameworks.md");
    for code in [
        include_str!("plain.rs"),
        include_str!("tonic.rs"),
        include_str!("poem.rs"),
        include_str!("actix.rs"),
    ] {
        let lines = code.lines().skip_while(|line| line.starts_with("//!"));
        let code: Vec<&str> = lines.collect();
        let code = code.join("\n");
        assert!(
            guide.contains(code.trim()),
            "copy the code into the guide:\n{code}"
        );
    }
}
