//! What the layer does if a principal is rejected, or if the response changes the session itself.

use super::*;
use crate::Principal;

/// A principal that rejects all users who are logged in.
#[derive(Clone, Debug)]
struct Only<const STATUS: u16>;

impl<const STATUS: u16> Principal for Only<STATUS> {
    type Authenticator = Sessions;

    async fn authenticate(
        sessions: &Sessions,
        request: &http::request::Parts,
    ) -> Result<Self, Rejection> {
        Me::authenticate(sessions, request).await?;
        Err(match STATUS {
            401 => Rejection::unauthorized(),
            _ => Rejection::forbidden(),
        })
    }
}

type Blocked = Only<401>;
type Admin = Only<403>;

struct Key;

struct ApiClient;

impl Principal for ApiClient {
    type Authenticator = Key;

    async fn authenticate(_: &Key, _: &http::request::Parts) -> Result<Self, Rejection> {
        Err(Rejection::unauthorized())
    }
}

fn as_ada(path: &str) -> http::request::Builder {
    Request::get(path).header(COOKIE, expiring(&sessions()))
}

#[tokio::test]
async fn logged_in_user_is_not_sent_to_the_sign_in_page_by_another_auth() {
    let (customers, staff, keys) = (
        lazy(sessions),
        lazy(|| Staff(cookie("staff"))),
        lazy(|| Key),
    );
    let signs_in = |path| SignIn::page(path).unwrap();
    let app = Router::new()
        .route("/key", get(async |_: Auth<Me>, _: Auth<ApiClient>| ()))
        .route(
            "/both",
            get(async |_: Auth<Me>, _: Auth<Session<User, Staff>>| ()),
        )
        .route(
            "/handler",
            get(async |_: Option<Auth<Me>>| Rejection::unauthorized()),
        )
        .route("/blocked", get(async |_: Auth<Blocked>| ()))
        .route("/again", get(async |_: Auth<Me>, _: Auth<Blocked>| ()))
        .layer(keys.provide())
        .layer(customers.session_layer().sign_in(signs_in("/signin")))
        .layer(staff.session_layer().sign_in(signs_in("/staff/signin")));
    for (path, expected) in [
        ("/key", "401"),
        // The customer is logged in, the employee is not.
        ("/both", "/staff/signin?callbackUrl=%2Fboth"),
        ("/handler", "401"),
        // A principal of the same sessions demands another sign-in.
        ("/blocked", "/signin?callbackUrl=%2Fblocked"),
        ("/again", "/signin?callbackUrl=%2Fagain"),
    ] {
        assert_eq!(location(&app, as_ada(path)).await, expected, "{path}");
        let anonymous = location(&app, Request::get(path)).await;
        assert!(anonymous.starts_with("/signin?"), "{path} {anonymous}");
    }
}

#[tokio::test]
async fn forbidden_is_403_and_never_a_redirect() {
    let auth = lazy(sessions);
    let layer = renewing(&auth).sign_in(SignIn::page("/signin").unwrap());
    let app = Router::new()
        .route("/admin", get(async |_: Auth<Admin>| ()))
        .route(
            "/required",
            get("admins").route_layer(auth.require::<Admin>()),
        )
        .route(
            "/optional",
            get(async |admin: Option<Auth<Admin>>| admin.is_some().to_string()),
        )
        .route(
            "/result",
            get(async |admin: Result<Auth<Admin>, Rejection>| admin.unwrap_err().status()),
        )
        .layer(layer);
    for path in ["/admin", "/required"] {
        let response = send(&app, as_ada(path).header(ACCEPT, "text/html")).await;
        assert_eq!(response.status(), 403);
        assert_eq!(all(response.headers(), "cache-control"), ["no-store"]);
        assert_eq!(all(response.headers(), "vary"), ["cookie"]);
        for absent in ["www-authenticate", "location", "set-cookie"] {
            assert!(!response.headers().contains_key(absent), "{absent}");
        }
        assert_eq!(text(response).await, r#"{"error":"forbidden"}"#);
        let anonymous = location(&app, Request::get(path)).await;
        assert!(anonymous.starts_with("/signin?"), "{anonymous}");
    }
    let optional = send(&app, as_ada("/optional")).await;
    assert!(optional.headers().contains_key(SET_COOKIE), "logged in");
    assert_eq!(text(optional).await, "false");
    assert_eq!(send(&app, as_ada("/result")).await.status(), 403);
}

#[tokio::test]
async fn session_of_a_rejected_principal_is_not_renewed() {
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/blocked", get(async |_: Option<Auth<Blocked>>| "for all"))
        .route(
            "/both",
            get(async |_: Auth<Me>, _: Option<Auth<Blocked>>| "for users"),
        )
        .layer(renewing(&auth));
    for (path, is_renewed) in [("/blocked", false), ("/both", true)] {
        let response = send(&app, as_ada(path)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().contains_key(SET_COOKIE), is_renewed);
        assert_eq!(all(response.headers(), "vary"), ["cookie"]);
    }
}

#[tokio::test]
async fn response_behind_an_outer_layer_that_authenticates_depends_on_the_session() {
    async fn only_users(_: Auth<Me>, request: Request, next: Next) -> Response {
        next.run(request).await
    }
    async fn for_all(_: Option<Auth<Me>>, request: Request, next: Next) -> Response {
        next.run(request).await
    }
    let auth = lazy(sessions);
    let files = [("cache-control", "public"), ("last-modified", "long ago")];
    let routes = Router::new()
        .route("/page", get("for users"))
        .route("/file", get((files, "for users")))
        .layer(renewing(&auth));
    let optional = routes.clone().layer(from_fn(for_all)).layer(auth.provide());
    for app in [
        routes.clone().layer(auth.require::<Me>()),
        routes
            .clone()
            .layer(from_fn(only_users))
            .layer(auth.provide()),
        optional.clone(),
    ] {
        for path in ["/page", "/file"] {
            let response = send(&app, as_ada(path)).await;
            assert_eq!(all(response.headers(), "vary"), ["cookie"]);
            assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");
            assert_eq!(all(response.headers(), "set-cookie").len(), 1);
        }
    }
    let anonymous = send(&optional, Request::get("/page")).await;
    assert_eq!(all(anonymous.headers(), "vary"), ["cookie"]);
    // An outer `require` for another type does not count.
    let app = Router::new()
        .route("/page", get("for users"))
        .layer(lazy(|| Staff(cookie("staff"))).session_layer())
        .layer(auth.require::<Me>());
    assert!(!is_changed(&send(&app, as_ada("/page")).await));
}

#[tokio::test]
async fn response_with_a_session_cookie_is_never_stored_by_a_shared_cache() {
    const CACHED: [(&str, &str); 4] = [
        ("cache-control", "public, max-age=600"),
        ("cdn-cache-control", "max-age=600"),
        ("vercel-cdn-cache-control", "max-age=600"),
        ("surrogate-control", "max-age=600"),
    ];
    async fn start() -> Response {
        let cookies = AppendHeaders(expiring_set().into_iter().map(|set| ("set-cookie", set)));
        (CACHED, cookies, "welcome").into_response()
    }
    async fn end(request: Request) -> Response {
        let ended = sessions().end(&cookies(request.headers()));
        let cookies = AppendHeaders(ended.into_iter().map(|set| ("set-cookie", set)));
        (CACHED, cookies, "bye").into_response()
    }
    fn expiring_set() -> Vec<String> {
        sessions().start(&json!({"name": "Ada"}), "").unwrap()
    }
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/start", get(start))
        .route("/end", get(end))
        .route(
            "/used/start",
            get(async |_: Option<Auth<Me>>| start().await),
        )
        .route(
            "/used/end",
            get(async |_: Auth<Me>, request: Request| end(request).await),
        )
        .route("/used/renewed", get(async |_: Auth<Me>| (CACHED, "page")))
        .route(
            "/theme",
            get((CACHED, [("set-cookie", "theme=dark")], "page")),
        )
        .layer(renewing(&auth));
    auth.get().await.unwrap();
    for path in [
        "/start",
        "/end",
        "/used/start",
        "/used/end",
        "/used/renewed",
    ] {
        let response = send(&app, as_ada(path)).await;
        let headers = response.headers();
        assert_eq!(all(headers, "set-cookie").len(), 1, "{path}");
        assert_eq!(all(headers, "cache-control"), ["private, no-store"]);
        for (name, _) in &CACHED[1..] {
            assert!(!headers.contains_key(*name), "{path} {name}");
        }
        assert_eq!(headers.contains_key(VARY), path.starts_with("/used"));
    }
    let theme = send(&app, as_ada("/theme")).await;
    assert_eq!(
        all(theme.headers(), "cache-control"),
        ["public, max-age=600"]
    );
    assert_eq!(all(theme.headers(), "surrogate-control"), ["max-age=600"]);
}

#[tokio::test]
async fn sign_out_by_clear_site_data_does_not_renew_the_session() {
    let auth = lazy(sessions);
    let clear = [("clear-site-data", r#""cookies", "storage""#)];
    let app = Router::new()
        .route("/", get(async move |_: Auth<Me>| (clear, "bye")))
        .layer(renewing(&auth));
    let response = send(&app, as_ada("/")).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key(SET_COOKIE));
}

#[tokio::test]
async fn request_for_the_sign_in_page_is_not_redirected_to_itself() {
    let auth = lazy(sessions);
    for (sign_in, path) in [
        (SignIn::page("/signin?theme=dark"), "/signin?x=1"),
        (
            SignIn::at("/rust/signin", "https://a.example.test/rust"),
            "/signin",
        ),
        (
            SignIn::at(
                "https://a.example.test/rust/signin",
                "https://a.example.test/rust/",
            ),
            "/signin?callbackUrl=%2Fsignin",
        ),
    ] {
        let layer = auth.session_layer().sign_in(sign_in.unwrap());
        let app = Router::new().fallback(me).layer(layer);
        assert_eq!(location(&app, Request::get(path)).await, "401");
        let other = location(&app, Request::get("/signin/x")).await;
        assert!(other.contains("callbackUrl="), "{other}");
    }
}

#[tokio::test]
async fn cookies_in_several_headers_are_one_list() {
    let auth = lazy(sessions);
    let app = Router::new().route("/me", get(me)).layer(renewing(&auth));
    let request = Request::get("/me")
        .header(COOKIE, "theme=dark")
        .header(COOKIE, expiring(&sessions()))
        .header(COOKIE, &b"bad=\xff"[..]);
    let response = send(&app, request).await;
    assert_eq!(all(response.headers(), "set-cookie").len(), 1);
    assert_eq!(text(response).await, "Ada");
}
