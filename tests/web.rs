//! The layers of tower and the extractors of axum, called without sockets.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use http::request::Parts;
use secretwell::auth::{Auth, LazyAuth, LazyService, NotReady, Principal, Rejection};
use secretwell::{ExposeSecret, MemoryProvider, Resolver, SecretString};
use secretwell_testkit::{Action, CanaryLog, FaultyProvider};
use serde::Deserialize;
use tower_layer::Layer;
use tower_service::Service;

use crate::process::{CHILD, assert_passed, run_child};
use crate::support::{down, secs};

const KEY: &str = "the first secret, thirty-two bytes or more";
const NEXT: &str = "the second secret, thirty-two bytes or more";
/// Headers of a request.
type Headers = [(&'static str, &'static str)];

/// The header of a request with valid credentials.
const ADA: (&str, &str) = ("x-api-key", KEY);

/// How long the session store takes.
const STORE_DELAY: Duration = secs(3);

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    auth_secret: SecretString,
}

struct Checker {
    key: SecretString,
    /// Number of calls of [`User::authenticate`].
    calls: Arc<AtomicUsize>,
}

impl Checker {
    fn user(&self, key: &str) -> Option<User> {
        (key == self.key.expose_secret()).then_some(User("ada"))
    }
}

#[derive(Debug, Clone, PartialEq)]
struct User(&'static str);

impl Principal for User {
    type Authenticator = Checker;

    /// The header `x-store` selects how the session store behaves.
    async fn authenticate(checker: &Checker, request: &Parts) -> Result<Self, Rejection> {
        checker.calls.fetch_add(1, Ordering::SeqCst);
        let header = |name| {
            request
                .headers
                .get(name)
                .map(|value| value.to_str().unwrap())
        };
        match header("x-store") {
            Some("down") => return Err(Rejection::unavailable(Duration::from_millis(4200))),
            Some("broken") => return Err(Rejection::misconfigured()),
            Some("slow") => tokio::time::sleep(STORE_DELAY).await,
            Some("panics") => panic!("before an await"),
            Some("panics later") => {
                tokio::task::yield_now().await;
                panic!("after an await");
            }
            _ => {}
        }
        let user = header("x-api-key").and_then(|key| checker.user(key));
        user.ok_or_else(Rejection::unauthorized)
    }
}

/// A source whose secret can be absent or unreachable, and the auth that is built from it.
struct Setup {
    memory: MemoryProvider,
    source: FaultyProvider<MemoryProvider>,
    auth: LazyAuth<Checker>,
    calls: Arc<AtomicUsize>,
}

impl Setup {
    fn absent() -> Self {
        let memory = MemoryProvider::new();
        let source = FaultyProvider::new(memory.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let settings = LazyAuth::builder(Resolver::new(source.clone()));
        let auth = settings
            .activation_delay(Duration::ZERO)
            .build(move |secrets: Secrets, _| {
                let (key, calls) = (secrets.auth_secret, counter.clone());
                async move { Ok(Checker { key, calls }) }
            });
        Self {
            memory,
            source,
            auth,
            calls,
        }
    }

    fn down() -> Self {
        let setup = Self::ready();
        setup.source.always(Action::Fail(down()));
        setup
    }

    fn ready() -> Self {
        let setup = Self::absent();
        setup.memory.set("AUTH_SECRET", KEY).unwrap();
        setup
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn request(path: &str, headers: &Headers) -> Request {
    let builder = Request::builder().uri(path);
    let builder = headers.iter().fold(builder, |builder, (name, value)| {
        builder.header(*name, *value)
    });
    builder.body(Body::empty()).unwrap()
}

async fn call<S: Service<Request>>(
    service: &mut S,
    request: Request,
) -> Result<S::Response, S::Error> {
    poll_fn(|context| service.poll_ready(context)).await?;
    service.call(request).await
}

async fn send(router: &Router, path: &str, headers: &Headers) -> Response {
    let Ok(response) = call(&mut router.clone(), request(path, headers)).await;
    response
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 10_000).await;
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

/// Returns the status of the response, and its body if the status is 200.
async fn outcome(router: &Router, path: &str, headers: &Headers) -> (u16, String) {
    let response = send(router, path, headers).await;
    match response.status() {
        StatusCode::OK => (200, text(response).await),
        status => (status.as_u16(), String::new()),
    }
}

async fn me(Auth(User(name)): Auth<User>) -> &'static str {
    name
}

async fn greeting(user: Option<Auth<User>>) -> &'static str {
    user.map_or("guest", |Auth(User(name))| name)
}

async fn status(user: Result<Auth<User>, Rejection>) -> String {
    user.map_or_else(
        |rejection| rejection.to_string(),
        |Auth(User(name))| name.to_owned(),
    )
}

fn routes() -> Router {
    Router::new()
        .route("/me", get(me))
        .route("/greeting", get(greeting))
        .route("/status", get(status))
}

#[tokio::test(start_paused = true)]
async fn extractors_report_an_outage_and_never_turn_it_into_an_anonymous_user() {
    const UNAUTHORIZED: &str = "the request has no valid credentials";
    const UNAVAILABLE: &str = "requests cannot be authenticated now; retry later";
    const MISCONFIGURED: &str = "requests cannot be authenticated; the reason is in the log";
    // The setup, the headers of the request, the status of `/me`, and the texts of the other routes.
    let cases: [(Setup, &Headers, u16, &str, &str); 8] = [
        (Setup::ready(), &[ADA], 200, "ada", "ada"),
        (Setup::ready(), &[], 401, "guest", UNAUTHORIZED),
        (
            Setup::ready(),
            &[("x-api-key", "wrong")],
            401,
            "guest",
            UNAUTHORIZED,
        ),
        (
            Setup::ready(),
            &[ADA, ("x-store", "down")],
            503,
            "",
            UNAVAILABLE,
        ),
        (
            Setup::ready(),
            &[ADA, ("x-store", "broken")],
            500,
            "",
            MISCONFIGURED,
        ),
        (Setup::absent(), &[ADA], 500, "", MISCONFIGURED),
        (Setup::down(), &[ADA], 503, "", UNAVAILABLE),
        (Setup::down(), &[], 503, "", UNAVAILABLE),
    ];
    for (setup, headers, expected, greeting, status) in cases {
        let router = routes().layer(setup.auth.provide());
        let name = format!("{headers:?} {:?}", setup.auth);
        assert_eq!(outcome(&router, "/me", headers).await.0, expected, "{name}");
        let optional = outcome(&router, "/greeting", headers).await;
        let optional_status = if greeting.is_empty() { expected } else { 200 };
        assert_eq!(optional, (optional_status, greeting.to_owned()), "{name}");
        let result = outcome(&router, "/status", headers).await;
        assert_eq!(result, (200, status.to_owned()), "{name}");
    }
}

#[tokio::test]
async fn temporary_rejection_of_a_principal_states_when_to_retry() {
    let router = routes().layer(Setup::ready().auth.provide());
    let response = send(&router, "/me", &[("x-store", "down")]).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "5", "4.2 s rounded up");
    assert_eq!(response.headers()["cache-control"], "no-store");
}

#[test]
fn rejection_is_an_error_and_converts_from_not_ready() {
    fn status(failure: Result<(), NotReady>) -> Result<(), Rejection> {
        Ok(failure?)
    }
    fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err(Rejection::unauthorized())?
    }
    assert_eq!(status(Ok(())), Ok(()));
    let error = boxed().unwrap_err();
    assert_eq!(
        error.downcast_ref::<Rejection>(),
        Some(&Rejection::unauthorized())
    );
}

#[tokio::test]
async fn middleware_and_nested_routers_extract_the_principal() {
    /// Lets only Ada pass.
    async fn only_ada(Auth(user): Auth<User>, request: Request, next: Next) -> Response {
        assert_eq!(user, User("ada"));
        next.run(request).await
    }
    /// Lets everyone pass, and names the user in a header.
    async fn add_name(user: Option<Auth<User>>, request: Request, next: Next) -> Response {
        let mut response = next.run(request).await;
        let name = user.map_or("guest", |Auth(User(name))| name);
        let headers = response.headers_mut();
        headers.insert("x-user", name.parse().unwrap());
        response
    }
    let setup = Setup::ready();
    let router = Router::new()
        .route("/ada", get("for Ada").route_layer(from_fn(only_ada)))
        .nest("/api", Router::new().nest("/v1", routes()))
        .merge(routes())
        .layer(from_fn(add_name))
        .layer(setup.auth.provide());
    for (path, headers, expected, user) in [
        ("/ada", &[ADA][..], 200, "ada"),
        ("/ada", &[], 401, "guest"),
        ("/api/v1/me", &[ADA], 200, "ada"),
        ("/api/v1/me", &[], 401, "guest"),
        ("/me", &[ADA], 200, "ada"),
        ("/unknown", &[], 404, "guest"),
    ] {
        let response = send(&router, path, headers).await;
        assert_eq!(response.status(), expected, "{path}");
        assert_eq!(response.headers()["x-user"], user, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn required_principal_guards_handlers_without_extractor() {
    let cases: [(Setup, &Headers, u16); 6] = [
        (Setup::ready(), &[ADA], 200),
        (Setup::ready(), &[], 401),
        (Setup::ready(), &[ADA, ("x-store", "down")], 503),
        (Setup::absent(), &[ADA], 500),
        (Setup::down(), &[ADA], 503),
        (Setup::down(), &[], 503),
    ];
    for (setup, headers, expected) in cases {
        let served = Arc::new(AtomicUsize::new(0));
        let counter = served.clone();
        let admin = get(async move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let admin = Router::new().route("/admin", admin);
        let guard = setup.auth.require::<User>();
        let route_guarded = admin.clone().route_layer(guard.clone());
        let guarded = admin.layer(guard).route("/open", get("for everyone"));
        for router in [&route_guarded, &guarded] {
            let response = send(router, "/admin", headers).await;
            assert_eq!(response.status(), expected);
            assert_eq!(
                response.headers().contains_key("retry-after"),
                expected == 503
            );
        }
        let calls = if expected == 200 { 2 } else { 0 };
        assert_eq!(served.load(Ordering::SeqCst), calls);

        assert_eq!(send(&route_guarded, "/other", headers).await.status(), 404);
        let unknown = if expected == 200 { 404 } else { expected };
        assert_eq!(send(&guarded, "/other", headers).await.status(), unknown);
        assert_eq!(send(&guarded, "/open", &[]).await.status(), 200);
    }
}

#[tokio::test]
async fn required_principal_is_authenticated_once() {
    async fn all(
        Auth(first): Auth<User>,
        second: Option<Auth<User>>,
        third: Result<Auth<User>, Rejection>,
    ) {
        assert_eq!(
            (second, third),
            (Some(Auth(first.clone())), Ok(Auth(first)))
        );
    }
    let setup = Setup::ready();
    let routes = Router::new().route("/", get(all));
    let required = routes
        .clone()
        .layer(setup.auth.require::<User>())
        .layer(setup.auth.require::<User>());
    assert_eq!(send(&required, "/", &[ADA]).await.status(), 200);
    assert_eq!(setup.calls(), 1);
    let provided = routes.layer(setup.auth.provide());
    assert_eq!(send(&provided, "/", &[ADA]).await.status(), 200);
    assert_eq!(setup.calls(), 1 + 3, "each extractor authenticates");
}

#[tokio::test]
async fn principal_of_another_auth_is_not_accepted() {
    let (users, admins) = (Setup::ready(), Setup::ready());
    admins.memory.set("AUTH_SECRET", NEXT).unwrap();
    for admin_routes in [
        routes().layer(admins.auth.provide()),
        routes().layer(admins.auth.require::<User>()),
    ] {
        let router = Router::new()
            .nest("/admin", admin_routes)
            .merge(routes())
            .layer(users.auth.require::<User>());
        assert_eq!(send(&router, "/me", &[ADA]).await.status(), 200);
        assert_eq!(send(&router, "/admin/me", &[ADA]).await.status(), 401);
    }
}

/// A service without axum, which must be ready when it is called. A clone is not ready.
#[derive(Default)]
struct Plain {
    is_ready: bool,
}

impl Clone for Plain {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request> for Plain {
    type Response = http::Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        assert!(
            std::mem::take(&mut self.is_ready),
            "called before it was ready"
        );
        let name = match Auth::<User>::from_extensions(request.extensions()) {
            Some(Auth(User(name))) => name,
            None => "nobody",
        };
        ready(Ok(http::Response::new(name.to_owned())))
    }
}

#[tokio::test]
async fn plain_service_is_called_when_ready_and_receives_the_principal() {
    let setup = Setup::ready();
    let mut guarded = setup.auth.require::<User>().layer(Plain::default());
    for (headers, status, body) in [
        (&[ADA][..], 200, "ada"),
        (&[], 401, r#"{"error":"unauthorized"}"#),
        (&[ADA], 200, "ada"),
    ] {
        let Ok(response) = call(&mut guarded, request("/", headers)).await;
        assert_eq!(
            (response.status().as_u16(), response.body().as_str()),
            (status, body)
        );
    }

    let mut provided = setup.auth.provide().layer(Plain::default());
    let Ok(response) = call(&mut provided, request("/", &[ADA])).await;
    assert_eq!(response.body(), "nobody", "`provide` does not authenticate");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_session_store_blocks_no_other_request_and_no_rotation() {
    let setup = Setup::ready();
    let router = routes().layer(setup.auth.require::<User>());
    setup.auth.get().await.unwrap();
    let start = tokio::time::Instant::now();
    let slow = {
        let router = router.clone();
        tokio::spawn(async move { outcome(&router, "/me", &[ADA, ("x-store", "slow")]).await })
    };
    while setup.calls() == 0 {
        tokio::task::yield_now().await;
    }
    setup.memory.set("AUTH_SECRET", NEXT).unwrap();
    setup.auth.rebuild().await.unwrap();
    let next = outcome(&router, "/me", &[("x-api-key", NEXT)]).await;
    assert_eq!(next, (200, "ada".to_owned()));
    assert!(start.elapsed() < STORE_DELAY && !slow.is_finished());
    // The request that started before the rotation is checked with its own build.
    assert_eq!(slow.await.unwrap(), (200, "ada".to_owned()));
}

#[tokio::test]
async fn panic_of_a_principal_rejects_only_its_request() {
    let log = CanaryLog::install();
    let setup = Setup::ready();
    for router in [
        routes().layer(setup.auth.provide()),
        routes().layer(setup.auth.require::<User>()),
    ] {
        for behaviour in ["panics", "panics later"] {
            for path in ["/me", "/greeting"] {
                let panicking = [ADA, ("x-store", behaviour)];
                assert_eq!(send(&router, path, &panicking).await.status(), 500);
                let next = outcome(&router, path, &[ADA]).await;
                assert_eq!(next, (200, "ada".to_owned()));
            }
        }
    }
    let events = log.lines_with("authenticate_panicked");
    assert_eq!(events.len(), 8, "{events:?}");
    assert!(events[0].contains("User"), "{events:?}");
    assert!(setup.auth.state().is_serving());
}

#[tokio::test]
async fn panic_of_a_reader_or_a_built_service_affects_no_other_call() {
    let setup = Setup::ready();
    setup.auth.get().await.unwrap();
    let auth = setup.auth.clone();
    // On this thread, because `with` keeps a view of the build for each thread.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        auth.with(|_| -> () { panic!("in a reader") })
    }));
    assert!(panicked.is_err());
    assert_eq!(
        auth.with(|checker| checker.user(KEY)),
        Some(Some(User("ada")))
    );

    let built = LazyAuth::infallible(Resolver::new(setup.memory.clone()), |_: Secrets, _| {
        Router::new()
            .route("/", get("hello"))
            .route_service("/panic", PanickingService)
    });
    let service = LazyService::new(built);
    let mut panicking = service.clone();
    let result =
        tokio::spawn(async move { call(&mut panicking, request("/panic", &[])).await.is_ok() });
    assert!(result.await.unwrap_err().is_panic());
    let Ok(response) = call(&mut service.clone(), request("/", &[])).await;
    assert_eq!(response.status(), 200);
}

#[derive(Clone)]
struct PanickingService;

impl Service<Request> for PanickingService {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        panic!("in a built service")
    }
}

#[tokio::test]
async fn layer_that_was_added_before_the_route_is_reported_as_missing() {
    let log = CanaryLog::install();
    let setup = Setup::ready();
    let router = Router::new()
        .layer(setup.auth.provide())
        .route("/me", get(me))
        .route("/greeting", get(greeting));
    for path in ["/me", "/greeting"] {
        let (status, _) = outcome(&router, path, &[ADA]).await;
        assert_eq!(status, 500, "{path}");
    }
    let events = log.lines_with("layer_missing");
    assert_eq!(events.len(), 2, "{events:?}");
    for part in ["User", "Checker", "auth.provide()"] {
        assert!(events[0].contains(part), "{events:?}");
    }
}

#[tokio::test]
async fn missing_layer_is_printed_once_if_there_is_no_subscriber() {
    if std::env::var_os(CHILD).is_none() {
        let name = "web::missing_layer_is_printed_once_if_there_is_no_subscriber";
        let output = run_child(name, &[]);
        assert_passed(&output);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            stderr.matches("secretwell: no layer provides").count(),
            1,
            "{stderr}"
        );
        for part in ["User", "Checker", ".layer(auth.provide())", "AUTH_SECRET"] {
            assert!(stderr.contains(part), "{stderr}");
        }
        return;
    }
    // Another reason that was printed before does not hide this one.
    let absent = Setup::absent();
    assert!(absent.auth.get().await.is_err());
    for _ in 0..3 {
        assert_eq!(send(&routes(), "/me", &[]).await.status(), 500);
    }
}
