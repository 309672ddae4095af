//! Session cookies beside an arbitrary `Cookie` header.
//!
//! No header causes a panic. A token that is set is found again, and a token that is cleared is not.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use secretwell_auth::sessions::authjs::SessionCookie;
use secretwell_auth::sessions::Scheme;

fuzz_target!(|data: &[u8]| {
    let header = String::from_utf8_lossy(data);
    let with_domain = SessionCookie::v5(Scheme::Https).domain("example.test").unwrap();
    for cookie in [SessionCookie::v5(Scheme::Https), SessionCookie::v4(Scheme::Http), with_domain] {
        let cookie = cookie.max_size(usize::MAX);
        let found: Vec<String> = cookie.candidates(&header).collect();
        assert!(found.len() <= 16 && found.iter().all(|token| token.len() <= header.len()));
        let found = found.into_iter().next().unwrap_or_default();
        let length = data.first().map_or(0, |first| usize::from(*first) * 100);
        for token in [found.as_str(), &"t".repeat(length)] {
            let set = cookie.set(token, Duration::from_secs(60), &header).unwrap();
            let next_header = updated(&header, &set);
            let sent = cookie.candidates(&next_header).next();
            assert!(token.is_empty() || sent.as_deref() == Some(token), "{header:?} {next_header:?}");
        }
        let next_header = updated(&header, &cookie.clear(&header));
        assert_eq!(cookie.candidates(&next_header).next(), None, "{next_header:?}");
    }
});

/// Removes the white space around a name. Other white space belongs to it.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Returns the `Cookie` header that a browser sends after it received the headers in `set`.
fn updated(header: &str, set: &[String]) -> String {
    let pair = |set: &str| {
        let (name, value) = set.split(';').next()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned(), set.contains("; Max-Age=0;")))
    };
    let set: Vec<_> = set.iter().filter_map(|set| pair(set)).collect();
    let previous = header.split(';').map(trimmed);
    let kept = previous.filter(|pair| {
        let name = pair.split_once('=').map(|(name, _)| trimmed(name));
        set.iter().all(|(set, ..)| Some(set.as_str()) != name)
    });
    let new = set.iter().filter(|(_, _, cleared)| !cleared);
    let new: Vec<String> = new.map(|(name, value, _)| format!("{name}={value}")).collect();
    kept.map(str::to_owned).chain(new).collect::<Vec<_>>().join("; ")
}
