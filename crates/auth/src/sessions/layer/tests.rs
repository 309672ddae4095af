//! Which responses the layer changes, and how.

mod bearer;
mod outcomes;
mod rejections;
mod sign_in;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{any, get};
use http::header::{ACCEPT, COOKIE};
use secretwell_core::MemoryProvider;
use secretwell_resolver::Resolver;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::sessions::Scheme;
use crate::sessions::authjs::{Session, SessionCookie, Sessions};
use crate::{Auth, KeyRing};

const HOUR: Duration = Duration::from_secs(60 * 60);
const SECRET: &str = "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=";

#[derive(Deserialize)]
struct NoSecrets {}

#[derive(Clone, Debug, Deserialize)]
struct User {
    name: String,
}

type Me = Session<User>;

/// The sessions of a second application.
struct Staff(Sessions);

impl HasSessions for Staff {
    type Sessions = Sessions;

    fn sessions(&self) -> &Sessions {
        &self.0
    }
}

fn cookie(name: &str) -> Sessions {
    let cookie = SessionCookie::v5(Scheme::Http).with_name(name).unwrap();
    Sessions::new(cookie, &KeyRing::new(SECRET).unwrap()).unwrap()
}

fn sessions() -> Sessions {
    cookie("authjs.session-token")
}

fn lazy<A: Send + Sync + 'static>(build: fn() -> A) -> LazyAuth<A> {
    LazyAuth::infallible(
        Resolver::new(MemoryProvider::new()),
        move |_: NoSecrets, _| build(),
    )
}

/// Auth whose secret does not exist.
fn absent() -> LazyAuth<Sessions> {
    #[derive(Deserialize)]
    struct Secrets {
        #[expect(dead_code, reason = "only its absence matters")]
        missing: String,
    }
    let resolver = Resolver::new(MemoryProvider::new());
    LazyAuth::infallible(resolver, |_: Secrets, _| sessions())
}

/// Returns the `Cookie` header of a session that expires soon enough to be renewed.
fn expiring(sessions: &Sessions) -> String {
    let set = sessions.start(&json!({"name": "Ada"}), "").unwrap();
    set[0].split(';').next().unwrap().to_owned()
}

/// Returns a layer that renews every session it finds.
fn renewing<A: HasSessions>(auth: &LazyAuth<A>) -> SessionLayer<A> {
    auth.session_layer().renew_when_remaining(10_000 * HOUR)
}

async fn send(router: &Router, request: http::request::Builder) -> Response {
    let request = request.body(Body::empty()).unwrap();
    let Ok(response): Result<_, Infallible> = router.clone().call(request).await;
    response
}

/// Sends a request with the session of Ada.
async fn send_as_ada(router: &Router, path: &str) -> Response {
    send(
        router,
        Request::get(path).header(COOKIE, expiring(&sessions())),
    )
    .await
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 10_000).await;
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

/// Returns whether a response has any header that a session layer sets.
fn is_changed(response: &Response) -> bool {
    let headers = response.headers();
    headers.contains_key(VARY)
        || headers.contains_key(SET_COOKIE)
        || headers.contains_key(CACHE_CONTROL)
}

async fn me(Auth(session): Auth<Me>) -> String {
    session.claims.name
}

async fn status(_: Auth<Me>, Path(status): Path<u16>) -> StatusCode {
    StatusCode::from_u16(status).unwrap()
}

#[tokio::test]
async fn response_that_did_not_use_the_session_is_unchanged() {
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/me", get(me))
        .route("/static", get("a script"))
        .route(
            "/cached",
            get((
                [("cache-control", "public"), ("vary", "origin")],
                "a picture",
            )),
        )
        .route("/not-modified", get(StatusCode::NOT_MODIFIED))
        .route("/broken", get(StatusCode::INTERNAL_SERVER_ERROR))
        .route("/own-401", get(StatusCode::UNAUTHORIZED))
        .layer(renewing(&auth).sign_in(SignIn::page("/signin").unwrap()));
    auth.get().await.unwrap();
    for (path, status) in [
        ("/static", 200),
        ("/not-modified", 304),
        ("/unknown", 404),
        ("/broken", 500),
        ("/own-401", 401),
    ] {
        let response = send_as_ada(&app, path).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(!is_changed(&response), "{path} {response:?}");
    }
    let request = Request::post("/me").header(COOKIE, expiring(&sessions()));
    let response = send(&app, request).await;
    assert!(
        response.status() == 405 && !is_changed(&response),
        "{response:?}"
    );
    let cached = send_as_ada(&app, "/cached").await;
    assert_eq!(all(cached.headers(), "vary"), ["origin"]);
    assert_eq!(cached.headers()[CACHE_CONTROL], "public");
    assert!(is_changed(&send_as_ada(&app, "/me").await));
}

#[tokio::test]
async fn each_way_to_use_a_session_is_recognized() {
    async fn by_hand(State(auth): State<LazyAuth<Sessions>>, request: Request) -> String {
        auth.mark_session_used(request.extensions());
        let cookies = cookies(request.headers());
        let found = auth.get().await.unwrap().renew(&cookies, HOUR).is_ok();
        found.to_string()
    }
    async fn authenticated(State(auth): State<LazyAuth<Sessions>>, request: Request) -> Response {
        let (parts, _) = request.into_parts();
        match auth.authenticate::<Me>(&parts).await {
            Ok(session) => session.claims.name.into_response(),
            Err(rejection) => rejection.into_response(),
        }
    }
    async fn inner(request: Request) -> String {
        let found = Auth::<Me>::from_extensions(request.extensions());
        found.map_or("nobody".into(), |Auth(session)| session.claims.name)
    }
    /// A middleware inside of the layer.
    async fn only_users(_: Auth<Me>, request: Request, next: Next) -> Response {
        next.run(request).await
    }
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/extractor", get(me))
        .route("/option", get(async |_: Option<Auth<Me>>| "for all"))
        .route(
            "/result",
            get(async |me: Result<Auth<Me>, Rejection>| me.is_ok().to_string()),
        )
        .route("/by-hand", get(by_hand))
        .route("/authenticated", get(authenticated))
        .route("/required", get(inner).route_layer(auth.require::<Me>()))
        .route(
            "/middleware",
            get("for users").route_layer(from_fn(only_users)),
        )
        .with_state(auth.clone())
        .layer(renewing(&auth));
    for path in [
        "/extractor",
        "/option",
        "/result",
        "/by-hand",
        "/authenticated",
        "/required",
        "/middleware",
    ] {
        let response = send_as_ada(&app, path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(all(response.headers(), "vary"), ["cookie"], "{path}");
        assert_eq!(
            response.headers()[CACHE_CONTROL],
            "private, no-store",
            "{path}"
        );
        assert_eq!(all(response.headers(), "set-cookie").len(), 1, "{path}");

        let anonymous = send(&app, Request::get(path)).await;
        assert_eq!(all(anonymous.headers(), "vary"), ["cookie"], "{path}");
        assert!(!anonymous.headers().contains_key(SET_COOKIE), "{path}");
        let is_rejected = anonymous.status() == 401;
        assert_eq!(
            all(anonymous.headers(), "www-authenticate").len(),
            usize::from(is_rejected)
        );
    }
}

#[tokio::test]
async fn only_successful_responses_renew_a_session() {
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/{status}", any(status))
        .layer(renewing(&auth));
    for (status, is_renewed) in [
        (101, false),
        (200, true),
        (201, true),
        (204, true),
        (206, true),
        (301, true),
        (303, true),
        (304, false),
        (307, true),
        (400, false),
        (401, false),
        (404, false),
        (409, false),
        (429, false),
        (500, false),
        (503, false),
    ] {
        let response = send_as_ada(&app, &format!("/{status}")).await;
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers().contains_key(SET_COOKIE),
            is_renewed,
            "{status}"
        );
        assert_eq!(all(response.headers(), "vary"), ["cookie"], "{status}");
    }
}

#[tokio::test]
async fn handlers_own_session_cookie_is_kept_and_similar_names_do_not_matter() {
    async fn sets(_: Auth<Me>, Path(name): Path<String>) -> [(&'static str, String); 1] {
        [("set-cookie", format!("{name}=x; Path=/"))]
    }
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/{name}", get(sets))
        .layer(renewing(&auth));
    for (name, cookies) in [
        ("authjs.session-token", 1),
        ("authjs.session-token.0", 1),
        ("authjs.session-token.x", 2),
        ("authjs.session-token-other", 2),
        ("authjs.session", 2),
        ("theme", 2),
    ] {
        let response = send_as_ada(&app, &format!("/{name}")).await;
        assert_eq!(
            all(response.headers(), "set-cookie").len(),
            cookies,
            "{name}"
        );
    }
}

#[tokio::test]
async fn vary_is_merged_and_a_shared_cache_never_stores_a_renewed_session() {
    async fn varies(_: Auth<Me>, Path(vary): Path<String>) -> Response {
        let mut headers = HeaderMap::new();
        for value in vary.split('|').filter(|value| *value != "none") {
            headers.append(VARY, value.parse().unwrap());
        }
        headers.insert(CACHE_CONTROL, "public, max-age=600".parse().unwrap());
        (headers, "a page").into_response()
    }
    let auth = lazy(sessions);
    let routes = Router::new().route("/{vary}", get(varies));
    let once = routes.clone().layer(auth.session_layer());
    let twice = once.clone().layer(auth.session_layer());
    for (before, after) in [
        ("none", "cookie"),
        ("Cookie", "Cookie"),
        ("origin", "origin, cookie"),
        ("origin,%20COOKIE", "origin, COOKIE"),
        ("origin|accept", "origin, accept, cookie"),
        ("*", "*"),
        ("origin,%20*", "origin, *"),
        ("x-cookie", "x-cookie, cookie"),
    ] {
        for app in [&once, &twice] {
            let response = send_as_ada(app, &format!("/{before}").replace('|', "%7C")).await;
            assert_eq!(all(response.headers(), "vary"), [after]);
            assert_eq!(response.headers()[CACHE_CONTROL], "public, max-age=600");
        }
    }
    let response = send_as_ada(&routes.layer(renewing(&auth)), "/none").await;
    assert_eq!(
        all(response.headers(), "cache-control"),
        ["private, no-store"]
    );
}

#[tokio::test]
async fn type_of_the_argument_selects_the_application() {
    async fn employee(Auth(session): Auth<Session<User, Staff>>) -> String {
        format!("employee {}", session.claims.name)
    }
    async fn both(customer: Option<Auth<Me>>, staff: Option<Auth<Session<User, Staff>>>) -> String {
        format!("{} {}", customer.is_some(), staff.is_some())
    }
    let (customers, staff) = (lazy(sessions), lazy(|| Staff(cookie("staff"))));
    let signs_in = |path| SignIn::page(path).unwrap();
    let layered = |app: Router| {
        app.layer(renewing(&customers).sign_in(signs_in("/signin")))
            .layer(renewing(&staff).sign_in(signs_in("/staff/signin")))
    };
    let guarded = get("for employees").route_layer(staff.require::<Session<User, Staff>>());
    let app = layered(
        Router::new()
            .route("/me", get(me))
            .route("/employee", get(employee))
            .route("/guarded", guarded)
            .route("/both", get(both)),
    );
    let (ada, eve) = (expiring(&sessions()), expiring(&cookie("staff")));
    let renewed = async |path: &str, cookies: &str| {
        let response = send(&app, Request::get(path).header(COOKIE, cookies)).await;
        assert_eq!(all(response.headers(), "vary"), ["cookie"], "{path}");
        let set = all(response.headers(), "set-cookie");
        let names = set
            .iter()
            .map(|set| set.split('=').next().unwrap().to_owned());
        (names.collect::<Vec<_>>().join(" "), text(response).await)
    };
    let cookies = format!("{ada}; {eve}");
    let name = "authjs.session-token";
    for (path, names, body) in [
        ("/me", name, "Ada"),
        ("/employee", "staff", "employee Ada"),
        ("/guarded", "staff", "for employees"),
        ("/both", &format!("{name} staff"), "true true"),
    ] {
        assert_eq!(
            renewed(path, &cookies).await,
            (names.to_owned(), body.to_owned())
        );
    }
    assert_eq!(renewed("/both", &eve).await.1, "false true");
    for (path, location) in [
        ("/me", "/signin?callbackUrl=%2Fme"),
        ("/employee", "/staff/signin?callbackUrl=%2Femployee"),
        ("/guarded", "/staff/signin?callbackUrl=%2Fguarded"),
    ] {
        // With the session of the other application.
        let wrong = if path == "/me" { &eve } else { &ada };
        let request = Request::get(path)
            .header(ACCEPT, "text/html")
            .header(COOKIE, wrong);
        let response = send(&app, request).await;
        assert_eq!(response.status(), 303, "{path}");
        assert_eq!(all(response.headers(), "location"), [location]);
    }
}

#[tokio::test]
async fn inner_of_two_layers_of_one_type_is_used() {
    let (inner, outer) = (lazy(sessions), lazy(|| cookie("other")));
    let app = Router::new().route("/me", get(me));
    let app = app.layer(renewing(&inner)).layer(renewing(&outer));
    let cookies = format!("{}; {}", expiring(&sessions()), expiring(&cookie("other")));
    let response = send(&app, Request::get("/me").header(COOKIE, cookies)).await;
    let set = all(response.headers(), "set-cookie");
    assert!(
        set.len() == 1 && set[0].starts_with("authjs.session-token="),
        "{set:?}"
    );
    assert_eq!(all(response.headers(), "vary"), ["cookie"]);
}

/// Returns the `Location` of the response to a browser, or its status.
async fn location(app: &Router, request: http::request::Builder) -> String {
    let response = send(app, request.header(ACCEPT, "text/html,*/*;q=0.8")).await;
    match response.headers().get(LOCATION) {
        Some(location) => {
            assert_eq!(response.status(), 303);
            assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");
            assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
            location.to_str().unwrap().to_owned()
        }
        None => response.status().as_str().to_owned(),
    }
}
