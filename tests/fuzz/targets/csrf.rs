//! CSRF cookies: only what we made counts, and only beside the same token in the body of a `POST`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use secretwell_auth::KeyRing;
use secretwell_auth::authjs::{Csrf, CsrfCookie, CsrfTokens, Scheme};

static TOKENS: LazyLock<[CsrfTokens; 2]> = LazyLock::new(|| {
    let ring = KeyRing::new("the secret of now").with_previous("the secret before");
    [CsrfTokens::new(&ring), CsrfTokens::new(&ring).list_only()]
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (cookie, body) = text.split_once('\n').unwrap_or((&text, &text));
    for tokens in &*TOKENS {
        for is_post in [true, false] {
            assert_eq!(tokens.verify_post(cookie, Some(body)), Csrf::Rejected);
            assert_eq!(tokens.verify_cookie(cookie), Csrf::Rejected);
        }
        let (token, ours) = tokens.generate().unwrap();
        let expected = if body == token { Csrf::Verified } else { Csrf::CookieOnly };
        assert_eq!(tokens.verify_post(&ours, Some(body)), expected);
        let name = CsrfCookie::v5(Scheme::Https);
        let set = name.set(&ours);
        let held = set.split(';').next().unwrap();
        assert_eq!(name.find(&format!("{held};{cookie}")).as_deref(), Some(&*ours));
        let _ = name.find(&text);
        let more = format!("{ours}|{cookie}");
        assert_eq!(tokens.verify_post(&more, Some(&token)), Csrf::Verified);
        let before = format!("{cookie}{ours}");
        assert!(cookie.is_empty() || tokens.verify_post(&before, Some(&token)) == Csrf::Rejected);
    }
});
