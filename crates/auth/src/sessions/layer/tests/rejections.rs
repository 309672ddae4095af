//! The responses to rejected requests: their challenge, and responses of the application.

use super::*;
use crate::sessions::text::percent_encode;
use crate::{Principal, map_rejections};

#[tokio::test]
async fn rejection_has_one_challenge_behind_several_layers() {
    struct Bearer;

    impl Principal for Bearer {
        type Authenticator = Sessions;

        async fn authenticate(_: &Sessions, _: &http::request::Parts) -> Result<Self, Rejection> {
            let challenge = HeaderValue::from_static("Bearer realm=\"api\"");
            Err(Rejection::unauthorized().with_challenge(challenge))
        }
    }
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/me", get(me))
        .route("/bearer", get(async |_: Auth<Bearer>| ()))
        .route("/optional", get(async |_: Option<Auth<Bearer>>| ()))
        .layer(auth.session_layer())
        .layer(auth.session_layer())
        .layer(map_rejections(|rejection, _| {
            rejection.clone().into_response()
        }));
    for (path, challenges) in [
        ("/me", &["Session"][..]),
        ("/bearer", &["Bearer realm=\"api\""]),
        ("/optional", &[]),
    ] {
        let response = send(&app, Request::get(path)).await;
        assert_eq!(all(response.headers(), "www-authenticate"), challenges);
        assert_eq!(all(response.headers(), "vary"), ["cookie"]);
    }
}

/// Responds in the language of the request.
fn localized(rejection: &Rejection, request: &http::request::Parts) -> Response {
    let language = request.headers.get("accept-language");
    let language = language.map_or("en", |language| language.to_str().unwrap());
    let body = format!(
        "{} {language} {}",
        rejection.status().as_u16(),
        request.uri.path()
    );
    (StatusCode::IM_A_TEAPOT, [("vary", "accept-language")], body).into_response()
}

#[tokio::test]
async fn own_responses_replace_rejections_in_each_order_of_the_layers() {
    let auth = lazy(sessions);
    let session = auth
        .session_layer()
        .sign_in(SignIn::page("/signin").unwrap());
    let routes = Router::new()
        .route("/me", get(me))
        .route(
            "/required",
            get("for users").route_layer(auth.require::<Me>()),
        )
        .route(
            "/handler",
            get(async |_: Option<Auth<Me>>| Rejection::unauthorized()),
        )
        .route(
            "/result",
            get(async |me: Result<Auth<Me>, Rejection>| match me {
                Ok(_) => "logged in",
                Err(rejection) if rejection.status() == 401 => "not logged in",
                Err(_) => "out of order",
            }),
        )
        .route(
            "/own-401",
            get(async |_: Option<Auth<Me>>| StatusCode::UNAUTHORIZED),
        );
    let map = map_rejections(localized);
    for app in [
        routes.clone().layer(session.clone()).layer(map.clone()),
        routes.clone().layer(map.clone()).layer(session.clone()),
        routes
            .clone()
            .layer(map.clone())
            .layer(session.clone())
            .layer(map_rejections(|_, _| "outer".into_response())),
    ] {
        for path in ["/me", "/required", "/handler"] {
            let response = send(&app, Request::get(path).header("accept-language", "de")).await;
            assert_eq!(response.status(), 418);
            assert_eq!(all(response.headers(), "www-authenticate"), ["Session"]);
            assert_eq!(all(response.headers(), "cache-control"), ["no-store"]);
            assert_eq!(
                all(response.headers(), "content-type"),
                ["text/plain; charset=utf-8"]
            );
            let vary = all(response.headers(), "vary").join(", ");
            assert!(
                vary.contains("cookie") && vary.contains("accept-language"),
                "{vary}"
            );
            assert_eq!(text(response).await, format!("401 de {path}"));
            let expected = format!("/signin?callbackUrl={}", percent_encode(path));
            assert_eq!(location(&app, Request::get(path)).await, expected);
        }
        let response = send(&app, Request::get("/result")).await;
        assert_eq!(text(response).await, "not logged in");
        assert_eq!(location(&app, Request::get("/own-401")).await, "401");
        assert_eq!(text(send_as_ada(&app, "/me").await).await, "Ada");
    }
    let late = Router::new()
        .route("/me", get(me))
        .layer(absent().session_layer())
        .layer(map);
    assert_eq!(
        text(send(&late, Request::get("/me")).await).await,
        "500 en /me"
    );
}

#[tokio::test]
async fn rejection_mapped_to_another_one_is_redirected_in_each_order_of_the_layers() {
    let auth = lazy(sessions);
    let session = || {
        let layer = auth.session_layer();
        layer.sign_in(SignIn::page("/signin").unwrap())
    };
    let map = map_rejections(|rejection: &Rejection, _: &_| match rejection.status() {
        StatusCode::UNAUTHORIZED => Rejection::forbidden().into_response(),
        _ => Rejection::unauthorized().into_response(),
    });
    let routes = Router::new().route("/me", get(me));
    let late = absent().session_layer();
    let late = late.sign_in(SignIn::page("/signin").unwrap());
    for (app, late) in [
        (
            routes.clone().layer(session()).layer(map.clone()),
            routes.clone().layer(late.clone()).layer(map.clone()),
        ),
        (
            routes.clone().layer(map.clone()).layer(session()),
            routes.clone().layer(map.clone()).layer(late),
        ),
    ] {
        let expected = "/signin?callbackUrl=%2Fme";
        assert_eq!(location(&app, Request::get("/me")).await, expected);
        assert_eq!(send(&app, Request::get("/me")).await.status(), 403);
        // An outage is never a reason to sign in.
        assert_eq!(location(&late, Request::get("/me")).await, "401");
    }
}

#[tokio::test]
async fn mapped_rejection_that_looks_successful_does_not_renew_a_session() {
    struct Admin;

    impl Principal for Admin {
        type Authenticator = Sessions;

        async fn authenticate(_: &Sessions, _: &http::request::Parts) -> Result<Self, Rejection> {
            Err(Rejection::unauthorized())
        }
    }
    let auth = lazy(sessions);
    let app = Router::new()
        .route("/", get(async |_: Auth<Admin>| ()))
        .layer(map_rejections(|_, _| {
            [("grpc-status", "16")].into_response()
        }))
        .layer(renewing(&auth));
    let response = send_as_ada(&app, "/").await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key(SET_COOKIE));
}
