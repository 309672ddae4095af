//! Session tokens in the `Authorization` header.

use super::*;

/// Returns the value of the first cookie that is set.
fn value(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1
}

#[tokio::test]
async fn bearer_token_is_accepted_only_if_allowed_and_without_a_session_cookie() {
    let accepting = lazy(|| sessions().accept_bearer());
    let refusing = lazy(sessions);
    let router = |auth: &LazyAuth<Sessions>| {
        let routes = Router::new()
            .route("/me", get(me))
            .route("/static", get("a script"))
            .route(
                "/required",
                get("for users").route_layer(auth.require::<Me>()),
            );
        routes.layer(renewing(auth).sign_in(SignIn::page("/signin").unwrap()))
    };
    let app = router(&accepting);
    let ada = expiring(&sessions());
    let token = value(&ada);
    let eve = sessions().start(&json!({"name": "Eve"}), "").unwrap();
    let eve = value(eve[0].split(';').next().unwrap()).to_owned();
    let with = |authorization: &str| Request::get("/me").header("authorization", authorization);

    for authorization in [
        format!("Bearer {token}"),
        format!("bearer  {token} "),
        format!("BEARER {}", token.replace('.', "%2E")),
    ] {
        let response = send(&app, with(&authorization)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(all(response.headers(), "vary"), ["cookie, authorization"]);
        assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");
        assert!(
            !response.headers().contains_key(SET_COOKIE),
            "never renewed"
        );
        assert_eq!(text(response).await, "Ada");
    }
    let other = cookie("other").start(&json!({"name": "Ada"}), "").unwrap();
    for authorization in [
        format!("Bearer {}", value(other[0].split(';').next().unwrap())),
        format!("Bearer {}x", token),
        "Bearer %".to_owned(),
        "Bearer x y".to_owned(),
    ] {
        let response = send(&app, with(&authorization)).await;
        assert_eq!(response.status(), 401, "{authorization}");
        assert_eq!(
            all(response.headers(), "www-authenticate"),
            ["Bearer error=\"invalid_token\""]
        );
    }
    for authorization in [
        format!("Basic {token}"),
        token.to_owned(),
        "Bearer".into(),
        "Bearer ".into(),
    ] {
        let response = send(&app, with(&authorization)).await;
        assert_eq!(response.status(), 401, "{authorization}");
        assert_eq!(all(response.headers(), "www-authenticate"), ["Bearer"]);
    }
    // The session cookie decides alone, as in the packages. An empty cookie does not count.
    for (cookie, status, body) in [
        (ada.as_str(), 200, "Ada"),
        (
            "authjs.session-token=nonsense",
            401,
            r#"{"error":"unauthorized"}"#,
        ),
        ("authjs.session-token=", 200, "Eve"),
        ("authjs.session-token.1=x; theme=dark", 200, "Eve"),
    ] {
        let response = send(&app, with(&format!("Bearer {eve}")).header(COOKIE, cookie)).await;
        assert_eq!(response.status(), status, "{cookie}");
        assert_eq!(text(response).await, body, "{cookie}");
    }
    let required = Request::get("/required").header("authorization", format!("Bearer {token}"));
    assert_eq!(send(&app, required).await.status(), 200);
    let unused = Request::get("/static").header("authorization", format!("Bearer {token}"));
    assert!(!is_changed(&send(&app, unused).await));
    // The two headers of one session renew only the cookie.
    let both = with(&format!("Bearer {token}")).header(COOKIE, &ada);
    assert_eq!(all(send(&app, both).await.headers(), "set-cookie").len(), 1);

    let response = send(&router(&refusing), with(&format!("Bearer {token}"))).await;
    assert_eq!(response.status(), 401);
    assert_eq!(all(response.headers(), "vary"), ["cookie"]);
    assert_eq!(all(response.headers(), "www-authenticate"), ["Session"]);
}
