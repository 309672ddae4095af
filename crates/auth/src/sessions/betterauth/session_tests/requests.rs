//! The principals of requests, and the layer.

use http::Request;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;

use super::*;
use crate::Principal;

fn parts(headers: &[(http::HeaderName, &str)]) -> Parts {
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn status<P: Principal<Authenticator = Sessions>>(sessions: &Sessions, parts: &Parts) -> u16 {
    match P::authenticate(sessions, parts).await {
        Ok(_) => 200,
        Err(rejection) => rejection.status().as_u16(),
    }
}

#[tokio::test]
async fn principals_require_a_token_or_a_cache() {
    #[derive(Debug, Clone, Deserialize)]
    struct Admin {
        #[expect(dead_code, reason = "only its absence matters")]
        role: String,
    }
    for sessions in all(&secrets()) {
        let header = start(&sessions, "Ada", TOKEN);
        let (token, data) = header.split_once("; ").unwrap();
        for (header, expected) in [
            (&*header, [200, 200, 200, 500]),
            (token, [200, 200, 401, 401]),
            (data, [401; 4]),
            ("", [401; 4]),
            (&format!("{token}x; {data}"), [401; 4]),
        ] {
            let parts = parts(&[(COOKIE, header)]);
            let statuses = [
                status::<VerifiedToken>(&sessions, &parts).await,
                status::<TokenWithCache<User>>(&sessions, &parts).await,
                status::<Session<User>>(&sessions, &parts).await,
                status::<Session<Admin>>(&sessions, &parts).await,
            ];
            assert_eq!(statuses, expected, "{header}");
        }
        // HTTP/2 can send each cookie in a separate header.
        let parts = parts(&[(COOKIE, data), (COOKIE, token)]);
        let session = Session::<User>::authenticate(&sessions, &parts)
            .await
            .unwrap();
        assert_eq!(session.user.name, "Ada");
        let both = TokenWithCache::<User>::authenticate(&sessions, &parts)
            .await
            .unwrap();
        assert_eq!(both.cached.unwrap(), session.into_cached());
    }
}

#[tokio::test]
async fn bearer_token_is_accepted_by_option_and_only_with_its_signature() {
    let signer = TokenSigner::new(&secrets()).unwrap();
    let signed = signer.sign(TOKEN).unwrap();
    let encoded = crate::sessions::text::percent_encode(signed.expose());
    let forged = TokenSigner::new(&before()).unwrap().sign(TOKEN).unwrap();
    // The plugin of the package refuses it.
    let dotted = signer.sign("header.claims").unwrap();
    for (value, is_accepted) in [
        (format!("Bearer {}", signed.expose()), true),
        (format!("bearer  {encoded}"), true),
        (format!("Bearer {TOKEN}"), false),
        (format!("Bearer {TOKEN}."), false),
        (format!("Bearer {}", dotted.expose()), false),
        (format!("Bearer {}", forged.expose()), false),
        (format!("Basic {}", signed.expose()), false),
        (signed.expose().to_owned(), false),
        ("Bearer".to_owned(), false),
    ] {
        let parts = parts(&[(AUTHORIZATION, &value)]);
        let sessions = Sessions::new(cookies(), &secrets()).unwrap();
        assert_eq!(status::<VerifiedToken>(&sessions, &parts).await, 401);
        let sessions = sessions.accept_bearer();
        let expected = if is_accepted { 200 } else { 401 };
        assert_eq!(
            status::<VerifiedToken>(&sessions, &parts).await,
            expected,
            "{value}"
        );
    }
}

#[tokio::test]
async fn bearer_token_of_an_unknown_key_is_a_reason_to_read_the_secrets_again() {
    let sessions = Sessions::new(cookies(), &secrets())
        .unwrap()
        .accept_bearer();
    let unknown = TokenSigner::new(&before()).unwrap().sign(TOKEN).unwrap();
    let known = TokenSigner::new(&secrets()).unwrap().sign(TOKEN).unwrap();
    let cookie = format!(
        "{}={}",
        cookies().name(CookieKey::SessionToken),
        known.expose()
    );
    for (bearer, cookie, expected) in [
        (unknown.expose(), "", Some(true)),
        ("header.claims.signature", "", Some(false)),
        (unknown.expose(), &*cookie, None),
    ] {
        let bearer = format!("Bearer {bearer}");
        let parts = parts(&[(AUTHORIZATION, &bearer), (COOKIE, cookie)]);
        let rejection = VerifiedToken::authenticate(&sessions, &parts).await.err();
        let is_unknown = rejection.map(|rejection| rejection.is_unknown_key());
        assert_eq!(is_unknown, expected, "{bearer}");
    }
}

#[tokio::test]
async fn rejection_has_the_challenge_of_bearer_tokens_by_option() {
    let sessions = stateless(&secrets());
    for (sessions, expected) in [
        (stateless(&secrets()), false),
        (sessions.accept_bearer(), true),
    ] {
        for header in ["", "__Secure-better-auth.session_token=x.y"] {
            let parts = parts(&[(COOKIE, header)]);
            let rejection = Session::<User>::authenticate(&sessions, &parts).await;
            let response = rejection.unwrap_err().into_http::<String>();
            let challenge = response.headers().get(http::header::WWW_AUTHENTICATE);
            let is_bearer = challenge.is_some_and(|challenge| challenge == "Bearer");
            assert_eq!(is_bearer, expected, "{challenge:?}");
        }
    }
}

#[tokio::test]
async fn bearer_token_has_precedence_over_the_cookies_of_another_person() {
    let sessions = stateless(&secrets()).accept_bearer();
    let header = start(&sessions, "Ada", TOKEN);
    let other = TokenSigner::new(&secrets())
        .unwrap()
        .sign("token-of-eve")
        .unwrap();
    let bearer = format!("Bearer {}", other.expose());
    let parts = parts(&[(COOKIE, &header), (AUTHORIZATION, &bearer)]);
    let found = TokenWithCache::<User>::authenticate(&sessions, &parts)
        .await
        .unwrap();
    assert_eq!(found.token.expose(), "token-of-eve");
    assert!(
        found.cached.is_none(),
        "the cache belongs to the token in the cookie"
    );
    assert_eq!(status::<Session<User>>(&sessions, &parts).await, 401);
}

#[tokio::test]
#[cfg(feature = "axum")]
async fn layer_renews_the_cache_and_varies_by_both_headers() {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use http::header::{SET_COOKIE, VARY};
    use secretwell_core::MemoryProvider;
    use secretwell_resolver::Resolver;
    use tower_service::Service;

    use crate::{Auth, LazyAuth};

    #[derive(Deserialize)]
    struct NoSecrets {}

    let build = || stateless(&secrets()).cache_max_age(HOUR).accept_bearer();
    let auth = LazyAuth::infallible(
        Resolver::new(MemoryProvider::new()),
        move |_: NoSecrets, _| build(),
    );
    let me = |Auth(session): Auth<Session<User>>| async move { session.user.name.clone() };
    let mut router: Router = Router::new()
        .route("/me", get(me))
        .layer(auth.session_layer().renew_when_remaining(2 * HOUR));
    let header = start(&build(), "Ada", TOKEN);
    let request = Request::get("/me")
        .header(COOKIE, &header)
        .body(Body::empty());
    let Ok(response) = router.call(request.unwrap()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[VARY], "cookie, authorization");
    let set = response.headers().get_all(SET_COOKIE).iter();
    let set: Vec<String> = set.map(|set| set.to_str().unwrap().to_owned()).collect();
    assert_eq!(
        find(&build(), &updated(&header, &set)).as_deref(),
        Some("Ada")
    );
    assert_eq!(set.len(), 2);
}
