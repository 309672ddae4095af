//! CSRF cookies: only generated cookies are accepted, and a `POST` must repeat the token in its body.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use secretwell_auth::KeyRing;
use secretwell_auth::sessions::authjs::{Csrf, CsrfCookie, CsrfTokens};
use secretwell_auth::sessions::Scheme;

static TOKENS: LazyLock<[CsrfTokens; 2]> = LazyLock::new(|| {
    let ring = KeyRing::new("the current secret").unwrap().with_previous("the previous secret").unwrap();
    [CsrfTokens::new(&ring), CsrfTokens::new(&ring).whole_list_only()]
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (cookie, body) = text.split_once('\n').unwrap_or((&text, &text));
    for tokens in &*TOKENS {
        assert_eq!(tokens.verify_post(cookie, Some(body)), Csrf::Rejected);
        assert_eq!(tokens.verify_cookie(cookie), Csrf::Rejected);

        let (token, generated) = tokens.generate().unwrap();
        let expected = if body == token { Csrf::Verified } else { Csrf::CookieOnly };
        assert_eq!(tokens.verify_post(&generated, Some(body)), expected);

        let csrf_cookie = CsrfCookie::v5(Scheme::Https);
        let set = csrf_cookie.set(&generated);
        let pair = set.split(';').next().unwrap();
        let header = format!("{pair};{cookie}");
        assert_eq!(csrf_cookie.find(&header).as_deref(), Some(&*generated));
        let _ = csrf_cookie.find(&text);

        let appended = format!("{generated}|{cookie}");
        assert_eq!(tokens.verify_post(&appended, Some(&token)), Csrf::Verified);
        let prepended = format!("{cookie}{generated}");
        let status = tokens.verify_post(&prepended, Some(&token));
        assert!(cookie.is_empty() || status == Csrf::Rejected);
    }
});
