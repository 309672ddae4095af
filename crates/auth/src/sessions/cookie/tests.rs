//! Properties of cookies that must apply to every name, attribute, value and `Cookie` header.

use super::*;

const CHUNKED: Limits = Limits {
    value: 3936,
    line: MAX_LINE,
    chunks: 100,
    total: DEFAULT_TOTAL,
};

fn cookie() -> Cookie {
    Cookie::new("session", Scheme::Https, CHUNKED)
}

fn candidates(header: &str) -> Vec<String> {
    cookie().candidates(header).collect()
}

#[test]
fn stale_cookie_does_not_hide_the_valid_one() {
    assert_eq!(
        candidates("session=stale; session=\"good\"; a=b; session=stale; session.0=a; session.1=b"),
        ["stale", "good", "ab"]
    );
}
