//! Which requests are redirected to the sign-in page, and where they return to.

use http::header::HOST;

use super::*;
use crate::sessions::text::percent_encode;

#[tokio::test]
async fn sign_in_returns_to_the_page_that_the_browser_requested() {
    let auth = lazy(sessions);
    let layer = auth
        .session_layer()
        .sign_in(SignIn::page("/signin").unwrap());
    let routes = Router::new().route("/me", get(me));
    let nested = || routes.clone().layer(layer.clone());
    let required = Router::new()
        .route("/me", get("for users"))
        .layer(auth.require::<Me>());
    let app = Router::new()
        .merge(routes.clone().layer(layer.clone()))
        .nest("/app", nested())
        .nest("/a/b", Router::new().nest("/c", nested()))
        .nest(
            "/a/b/d",
            Router::new().nest("/e", Router::new().nest("/f", nested())),
        )
        .nest("/route-layer", routes.clone().route_layer(layer.clone()))
        .nest("/outer", routes.clone())
        .nest_service("/service", nested())
        .nest("/{tenant}", nested())
        .nest("/required", required.layer(layer.clone()))
        .nest("/fallback", Router::new().fallback(me).layer(layer.clone()))
        .layer(auth.provide());
    let app = app.layer(layer.clone());
    for path in [
        "/me?x=1",
        "/app/me?x=1",
        "/a/b/c/me",
        "/a/b/d/e/f/me?y=%20",
        "/route-layer/me?x=1",
        "/outer/me",
        "/service/me?x=1",
        "/acme/me",
        "/required/me?x=1",
        "/fallback/any/page?x=1&y=2",
    ] {
        let expected = format!("/signin?callbackUrl={}", percent_encode(path));
        assert_eq!(location(&app, Request::get(path)).await, expected, "{path}");
        // A client can set these headers.
        let hostile = Request::get(format!("http://evil.example.test{path}"))
            .header(HOST, "evil.example.test")
            .header("x-forwarded-host", "evil.example.test")
            .header("x-original-uri", "/evil");
        assert_eq!(location(&app, hostile).await, expected, "{path}");
    }
    // Around the router instead of inside of it.
    let around: SessionService<_, Router> = layer.layer(Router::new().nest("/app", routes));
    let app = Router::new().fallback_service(around);
    assert_eq!(
        location(&app, Request::get("/app/me")).await,
        "/signin?callbackUrl=%2Fapp%2Fme"
    );
}

#[tokio::test]
async fn sign_in_at_another_origin_returns_to_the_public_url_of_the_service() {
    let auth = lazy(sessions);
    for (location_, base, page) in [
        (
            "https://app.example.test/signin",
            "https://api.example.test",
            "https://api.example.test/app/me?x=1",
        ),
        (
            "https://app.example.test/signin?theme=dark",
            "https://api.example.test/",
            "https://api.example.test/app/me?x=1",
        ),
        (
            "/signin",
            "http://localhost:3000/rust/",
            "http://localhost:3000/rust/app/me?x=1",
        ),
    ] {
        let sign_in = SignIn::at(location_, base).unwrap();
        let inner = Router::new()
            .route("/me", get(me))
            .layer(auth.session_layer().sign_in(sign_in));
        let app = Router::new().nest("/app", inner);
        let separator = if location_.contains('?') { '&' } else { '?' };
        let request = Request::get("/app/me?x=1").header(HOST, "evil.example.test");
        let expected = format!("{location_}{separator}callbackUrl={}", percent_encode(page));
        assert_eq!(location(&app, request).await, expected);
    }
}

#[tokio::test]
async fn only_requests_for_pages_are_redirected() {
    const HTML: (&str, &str) = ("accept", "text/html");
    let auth = lazy(sessions);
    let layer = auth
        .session_layer()
        .sign_in(SignIn::page("/signin").unwrap());
    let app = Router::new()
        .route("/", any(me))
        .route(
            "/own",
            get(async |_: Option<Auth<Me>>| StatusCode::UNAUTHORIZED),
        )
        .layer(layer);
    let cases: [(&[(&str, &str)], bool); 21] = [
        (&[HTML], true),
        (
            &[(
                "accept",
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            )],
            true,
        ),
        (
            &[("accept", "image/png"), ("accept", "TEXT/HTML; Q=0.5 ")],
            true,
        ),
        (
            &[("accept", "text/html;level=1;q=0.4, application/json;q=0.3")],
            true,
        ),
        (&[], false),
        (&[("accept", "*/*")], false),
        (&[("accept", "text/*")], false),
        (&[("accept", "text/html;q=0")], false),
        (&[("accept", "text/html; q=0.000, */*")], false),
        (&[("accept", "text/html;q=nonsense")], false),
        (&[("accept", "text/html-but-other")], false),
        (&[("accept", "application/json, text/html;q=0.9")], false),
        (&[("accept", "application/json")], false),
        (&[("accept", "image/png;x=text/html")], false),
        (
            &[
                HTML,
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
            true,
        ),
        (
            &[
                HTML,
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ],
            false,
        ),
        (
            &[
                HTML,
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "iframe"),
            ],
            false,
        ),
        (&[HTML, ("sec-fetch-mode", "same-origin")], false),
        (&[HTML, ("sec-fetch-dest", "embed")], false),
        (&[HTML, ("sec-fetch-mode", "navigate")], true),
        (
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
            false,
        ),
    ];
    for (headers, is_redirected) in cases {
        for (method, is_page) in [
            ("GET", true),
            ("HEAD", true),
            ("POST", false),
            ("OPTIONS", false),
        ] {
            let request = Request::builder().method(method).uri("/");
            let request = headers.iter().fold(request, |request, (name, value)| {
                request.header(*name, *value)
            });
            let response = send(&app, request).await;
            let expected = if is_redirected && is_page { 303 } else { 401 };
            assert_eq!(response.status(), expected, "{method} {headers:?}");
            assert_eq!(
                all(response.headers(), "www-authenticate").len(),
                usize::from(expected == 401)
            );
        }
    }
    // A value that is not UTF-8 does not hide the others.
    let request = Request::get("/").header(ACCEPT, &b"\xff, text/html"[..]);
    assert_eq!(send(&app, request).await.status(), 303);
    // The handler's own 401 is not a rejection.
    assert_eq!(location(&app, Request::get("/own")).await, "401");
    // A secret that does not exist yet is not a missing session.
    let late = Router::new().route("/", get(me));
    let late = late.layer(
        absent()
            .session_layer()
            .sign_in(SignIn::page("/signin").unwrap()),
    );
    assert_eq!(location(&late, Request::get("/")).await, "500");
}

#[tokio::test]
async fn page_that_another_site_chose_stays_at_this_origin() {
    let auth = lazy(sessions);
    let layer = auth
        .session_layer()
        .sign_in(SignIn::page("/signin").unwrap());
    let app = Router::new().fallback(me).layer(layer);
    for (path, page) in [
        ("//evil.example.test/x", "/evil.example.test/x"),
        ("///evil.example.test", "/evil.example.test"),
        ("/\\evil.example.test", "/evil.example.test"),
        (
            "/x?url=//evil&callbackUrl=y#z",
            "/x?url=//evil&callbackUrl=y",
        ),
    ] {
        let request = Request::get(format!("http://h{path}"));
        let expected = format!("/signin?callbackUrl={}", percent_encode(page));
        assert_eq!(location(&app, request).await, expected, "{path}");
    }
    // A very long page would not fit into the application's cookie, or into the limits of proxies.
    let long = format!("/{}", "x".repeat(30_000));
    assert_eq!(location(&app, Request::get(long)).await, "/signin");
}
