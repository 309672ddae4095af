//! Properties of cookies that must apply to every name, attribute, value and `Cookie` header.

use proptest::collection::vec;
use proptest::prelude::*;
use secretwell_core::ErrorKind;

use super::browser::{Browser, Order};
use super::*;

const HOST: &str = "api.example.test";
const CHUNKED: Limits = Limits {
    value: 3936,
    line: MAX_LINE,
    chunks: 100,
    total: 500_000,
};

fn session(scheme: Scheme) -> Cookie {
    Cookie::new("session", scheme, CHUNKED)
}

fn candidates(cookie: &Cookie, header: &str) -> Vec<String> {
    cookie.candidates(header).collect()
}

/// Returns the `Set-Cookie` headers of a value that fits.
fn set(cookie: &Cookie, value: &str, request: &str) -> Vec<String> {
    let age = Some(Duration::from_secs(60));
    cookie.set(value, age, request).unwrap()
}

/// Generates cookies with arbitrary valid names, attributes and limits.
fn cookies() -> impl Strategy<Value = Cookie> {
    let scheme = prop_oneof![Just(Scheme::Https), Just(Scheme::Http)];
    let name = prop_oneof![
        "[A-Za-z0-9_.!|~-]{1,256}",
        "(__Secure-|__SECURE-)[a-z]{1,20}",
        "__Host-[a-z]{1,20}"
    ];
    let domain = prop_oneof![
        Just(None),
        Just(Some(HOST)),
        Just(Some(".EXAMPLE.test")),
        Just(Some("example.test"))
    ];
    let path = prop_oneof![Just("/".to_owned()), "/[a-z/%=, ]{0,1000}[a-z]"];
    let same_site = prop_oneof![
        Just(SameSite::Strict),
        Just(SameSite::Lax),
        Just(SameSite::None)
    ];
    let limits = (1500..=3936_usize, 3000..=4096_usize).prop_map(|(value, line)| Limits {
        value,
        line,
        ..CHUNKED
    });
    let attributes = (scheme, name, domain, path, same_site, any::<bool>());
    (attributes, limits).prop_filter_map(
        "the attributes are not valid together",
        |((scheme, name, domain, path, same_site, partitioned), limits)| {
            let mut cookie = Cookie::new("session", scheme, limits)
                .with_name(name)
                .ok()?;
            if let Some(domain) = domain {
                cookie = cookie.domain(domain).ok()?;
            }
            cookie = cookie.path(path).ok()?.same_site(same_site).ok()?;
            match partitioned {
                true => cookie.partitioned().ok(),
                false => Some(cookie),
            }
        },
    )
}

/// A value: its length, and its seed. Short in the output of a failed test.
type Value = (usize, u8);

/// Generates the values of tokens and of arbitrary text, from one character to several cookies.
fn values() -> impl Strategy<Value = Value> {
    (prop_oneof![1..100_usize, 1..20_000_usize], any::<u8>())
}

fn text_of((length, seed): Value) -> String {
    let characters: Vec<char> = match seed {
        0..200 => "abcdefghijkmnopqrstuvwxyzABC-_.0123456789"
            .chars()
            .collect(),
        _ => "aé😀%\"; z".chars().collect(),
    };
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let text = std::iter::repeat_with(|| random.choice(&characters).copied().unwrap());
    text.take(length).collect()
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::OfChange), Just(Order::OfCreation)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn value_that_is_set_is_found_and_after_clearing_it_is_not(
        cookie in cookies(), values in vec(values(), 1..4), order in orders()
    ) {
        let path = cookie.attributes.path.clone();
        let mut browser = Browser::new(order);
        browser.receive(HOST, &["other=x; Path=/; HttpOnly".to_owned()]);
        for value in values {
            let value = text_of(value);
            let header = browser.header(HOST, &path);
            browser.receive(HOST, &set(&cookie, &value, &header));
            let found = candidates(&cookie, &browser.header(HOST, &path));
            prop_assert!(found.first() == Some(&value));
        }
        let header = browser.header(HOST, &path);
        browser.receive(HOST, &cookie.clear(&header));
        prop_assert_eq!(browser.header(HOST, &path), "other=x");
    }

    /// The cookies of this host and those of its domain, which the application or a service without a
    /// configured domain set, are in one header.
    ///
    /// Two rare cases have no solution and are not tested: a last chunk that is as long as the others does
    /// not show where its value ends. And in Firefox, new chunks of a value that became longer are not next
    /// to its other chunks.
    #[test]
    fn values_of_two_domains_are_both_found(
        sets in vec((any::<bool>(), 1..20_000_usize), 1..5), order in orders()
    ) {
        let own = session(Scheme::Https);
        let domain = own.clone().domain("example.test").unwrap();
        let at_most = if order == Order::OfCreation { 2 } else { usize::MAX };
        let mut browser = Browser::new(order);
        let mut last = [None, None];
        for (seed, (is_domain, length)) in (0..).zip(sets).take(at_most) {
            let value = text_of((length, seed));
            prop_assume!(length % CHUNKED.value != 0);
            let cookie = if is_domain { &domain } else { &own };
            let previous = &mut last[usize::from(is_domain)];
            let request = previous.as_deref().map(|value| sent(cookie, value));
            let mut set = set(cookie, &value, &request.unwrap_or_default());
            set.retain(|header| header.contains("Domain=") == is_domain);
            browser.receive(HOST, &set);
            *previous = Some(value);
        }
        let found = candidates(&own, &browser.header(HOST, "/"));
        let lengths: Vec<_> = found.iter().map(String::len).collect();
        for value in last.iter().flatten() {
            prop_assert!(found.contains(value), "{} of {:?}", value.len(), lengths);
        }
    }

    #[test]
    fn arbitrary_header_has_few_candidates(header in "(session(\\.[0-9]{1,3})?=[a-c\"]{0,3};? ?){0,300}") {
        let cookie = session(Scheme::Http);
        let found = candidates(&cookie, &header);
        prop_assert!(found.len() <= 16);
        prop_assert!(found.iter().all(|value| value.len() <= header.len()));
    }
}

/// Returns the `Cookie` header with the cookies of a value.
fn sent(cookie: &Cookie, value: &str) -> String {
    let mut browser = Browser::new(Order::OfChange);
    browser.receive(HOST, &set(cookie, value, ""));
    browser.header(HOST, "/")
}

#[test]
fn invalid_configuration_is_refused_with_the_field_and_the_fix() {
    let https = || session(Scheme::Https);
    let http = || session(Scheme::Http);
    let long = "x".repeat(257);
    for (result, part) in [
        (https().with_name(""), "name"),
        (https().with_name("a; Domain=x"), "name"),
        (https().with_name("a=b"), "name"),
        (https().with_name("a b"), "name"),
        (https().with_name("a\r\nSet-Cookie: b"), "name"),
        (https().with_name("ä"), "name"),
        (https().with_name(long.as_str()), "name"),
        (https().domain(""), "domain"),
        (https().domain("."), "domain"),
        (https().domain("..example.test"), "domain"),
        (https().domain("https://example.test"), "domain"),
        (https().domain("example.test:443"), "domain"),
        (https().domain("example.test/app"), "domain"),
        (https().domain("example.test."), "domain"),
        (https().domain("*.example.test"), "domain"),
        (https().domain("bücher.example"), "domain"),
        (https().domain("example.test; Path=/x"), "domain"),
        (https().domain("example.test\n"), "domain"),
        (
            https().domain(&format!("{}.test", "x".repeat(64))),
            "domain",
        ),
        (https().path(""), "path"),
        (https().path("app"), "path"),
        (https().path("/app; Secure"), "path"),
        (https().path("/app\r\nX: y"), "path"),
        (https().path("/ä"), "path"),
        (https().path(format!("/{}", "x".repeat(1024))), "path"),
        (http().same_site(SameSite::None), "SameSite=None"),
        (http().partitioned(), "Partitioned"),
        (
            https()
                .with_name("__Host-a")
                .and_then(|cookie| cookie.domain("example.test")),
            "domain",
        ),
        (
            https()
                .domain("example.test")
                .and_then(|cookie| cookie.with_name("__host-a")),
            "domain",
        ),
        (
            https()
                .with_name("__Host-a")
                .and_then(|cookie| cookie.path("/app")),
            "path",
        ),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.message().contains(part), "{part}: {error}");
        assert!(error.hint().is_some(), "{error}");
        assert!(!error.to_string().contains(['\r', '\n']), "{error:?}");
    }
}

#[test]
fn custom_name_keeps_secure() {
    for (scheme, name, secure) in [
        (Scheme::Https, "my-session", true),
        (Scheme::Https, "__Secure-my-session", true),
        (Scheme::Http, "my-session", false),
        (Scheme::Http, "__Secure-my-session", true),
        (Scheme::Http, "__host-my-session", true),
    ] {
        let cookie = session(scheme).with_name(name).unwrap();
        for header in [
            set(&cookie, "value", ""),
            cookie.clear(&format!("{name}=value")),
        ] {
            assert_eq!(header.len(), 1);
            assert_eq!(header[0].contains("; Secure"), secure, "{header:?}");
        }
    }
}

#[test]
fn attributes_are_written_and_cleared() {
    let cookie = session(Scheme::Https).domain(".Example.TEST").unwrap();
    let cookie = cookie
        .path("/app")
        .unwrap()
        .same_site(SameSite::None)
        .unwrap();
    let cookie = cookie.partitioned().unwrap();
    let attributes = "HttpOnly; SameSite=None; Secure; Partitioned";
    assert_eq!(
        set(&cookie, "value", ""),
        [format!(
            "session=value; Domain=example.test; Path=/app; Max-Age=60; {attributes}"
        )]
    );
    assert_eq!(
        cookie.set("value", None, "").unwrap(),
        [format!(
            "session=value; Domain=example.test; Path=/app; {attributes}"
        )]
    );
    assert_eq!(
        cookie.clear("session.1=b; session=a; other=x; session.1=c; session.x=y"),
        [
            format!("session=; Path=/app; Max-Age=0; {attributes}"),
            format!("session.1=; Path=/app; Max-Age=0; {attributes}"),
            format!("session=; Domain=example.test; Path=/app; Max-Age=0; {attributes}"),
            format!("session.1=; Domain=example.test; Path=/app; Max-Age=0; {attributes}"),
        ]
    );
    assert!(cookie.clear("other=x").is_empty());
}

#[test]
fn lifetime_is_limited_to_400_days() {
    let cookie = session(Scheme::Http);
    for (days, written) in [(400, 400), (401, 400), (1_000_000, 400), (0, 0)] {
        let age = Duration::from_secs(days * 24 * 60 * 60);
        let header = cookie.set("value", Some(age), "").unwrap().remove(0);
        let max_age = written * 24 * 60 * 60;
        assert!(
            header.contains(&format!("; Max-Age={max_age};")),
            "{header}"
        );
    }
}

#[test]
fn stale_cookie_does_not_hide_the_valid_one() {
    for (header, expected) in [
        ("session=stale; session=good", &["stale", "good"][..]),
        ("session=good; session=good", &["good"]),
        ("session=; session=good", &["good"]),
        ("session=stale; session.0=a; session.1=b", &["stale", "ab"]),
        ("session.0=good; session.0=stale", &["good", "stale"]),
        // The chunk 1 is left over from a longer value.
        (
            "session.0=aaa; session.1=b; session.2=ccc",
            &["aaabccc", "aaab"],
        ),
        // Two values, of two and of three chunks.
        (
            "session.0=aa; session.1=a; session.0=bb; session.1=bb; session.2=b",
            &["aaab", "bbbbb", "aaa"],
        ),
    ] {
        let found = candidates(&session(Scheme::Http), header);
        for (index, expected) in expected.iter().enumerate() {
            assert!(
                found.iter().any(|value| value == expected),
                "{header}: {found:?}"
            );
            assert!(index > 0 || found[0] == *expected, "{header}: {found:?}");
        }
    }
}

/// A browser ignores a prefix after white space that it does not know, so another host of the domain can set
/// such a cookie without its rules. It must not become the cookie with the prefix.
#[test]
fn cookie_whose_name_begins_with_other_white_space_is_another_cookie() {
    for name in ["__Host-session", "__Secure-session", "session"] {
        let cookie = session(Scheme::Https).with_name(name).unwrap();
        let forged = [
            "\u{b}", "\u{c}", "\u{1c}", "\u{85}", "\u{a0}", "\u{1680}", "\u{2000}", "\u{2028}",
            "\u{3000}", "\u{feff}",
        ];
        for space in forged {
            for header in [
                format!("{space}{name}=forged"),
                format!("{name}{space}=forged"),
                format!("{space}{name}.0=forged"),
                format!("a=b; {space}{name}=forged"),
            ] {
                assert!(candidates(&cookie, &header).is_empty(), "{header:?}");
                let renewed = set(&cookie, "own", &header);
                assert_eq!((renewed.len(), cookie.clear(&header)), (1, vec![]));
            }
        }
        let header = format!("a=b;\t {name}\t = \tvalue ");
        assert_eq!(candidates(&cookie, &header), ["value"]);
    }
}

#[test]
fn quotes_around_a_value_are_removed() {
    for (header, expected) in [
        ("session=\"a.b\"", Some("a.b")),
        ("session= \"a.b\" ; x=y", Some("a.b")),
        ("session.1=\"b\"; session.0=\"a\"", Some("ab")),
        ("session=\"a", Some("\"a")),
        ("session=\"", Some("\"")),
        ("session=\"\"", None),
        ("session=\"a%2Eb\"", Some("a.b")),
    ] {
        let found = candidates(&session(Scheme::Http), header);
        assert_eq!(found.first().map(String::as_str), expected, "{header}");
    }
}

#[test]
fn only_the_first_few_values_of_a_hostile_header_are_tried() {
    let cookie = session(Scheme::Http);
    let header: String = (0..5_000)
        .map(|index| format!("session=a{index}; session.0=b{index}; session.1=c{index}; "))
        .collect();
    let found = candidates(&cookie, &header);
    assert_eq!(found.len(), 16);
    assert_eq!(found[0], "a0");
    assert!(found[8..].contains(&"b0c0".to_owned()));
}

#[test]
fn value_that_does_not_fit_is_refused() {
    let limits = Limits {
        total: 10_000,
        ..CHUNKED
    };
    let cookie = Cookie::new("session", Scheme::Http, limits);
    let age = Some(Duration::from_secs(60));
    let set = |length: usize, request: &str| cookie.set(&"x".repeat(length), age, request);
    assert_eq!(set(9_900, "").unwrap().len(), 3);
    assert_eq!(set(10_000, ""), Err(TokenError::TooLarge));
    // The servers have accepted a request with cookies of this size.
    let request = format!("session={}", "x".repeat(12_000));
    assert_eq!(
        set(12_500, &request).unwrap().len(),
        5,
        "four chunks and the cleared cookie"
    );
    assert_eq!(set(14_000, &request), Err(TokenError::TooLarge));
    let other = format!("other={}", "x".repeat(12_000));
    assert_eq!(set(12_500, &other), Err(TokenError::TooLarge));

    let many = Cookie::new("session", Scheme::Http, CHUNKED);
    assert_eq!(
        many.set(&"x".repeat(3936 * 100), age, "").unwrap().len(),
        100
    );
    assert_eq!(
        many.set(&"x".repeat(3936 * 100 + 1), age, ""),
        Err(TokenError::TooLarge)
    );
    let whole = Cookie::new("session", Scheme::Http, Limits::WHOLE);
    assert_eq!(whole.set(&"x".repeat(4_000), age, "").unwrap().len(), 1);
    assert_eq!(
        whole.set(&"x".repeat(4_096), age, ""),
        Err(TokenError::TooLarge)
    );
    assert!(!whole.owns("session.0") && candidates(&whole, "session.0=a").is_empty());
}

#[test]
fn long_attributes_shorten_the_chunks() {
    let path = format!("/{}", "p".repeat(1_000));
    let cookie = session(Scheme::Https).with_name("n".repeat(256)).unwrap();
    let cookie = cookie
        .domain("example.test")
        .unwrap()
        .path(path.clone())
        .unwrap();
    let value = "x".repeat(20_000);
    let mut browser = Browser::new(Order::OfChange);
    browser.receive(HOST, &set(&cookie, &value, ""));
    assert_eq!(candidates(&cookie, &browser.header(HOST, &path)), [value]);
}
