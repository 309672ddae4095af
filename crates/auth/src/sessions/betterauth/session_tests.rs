//! Cookies, requests and responses: who is known, what is renewed and what is cleared.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::sessions::{Scheme, TokenError};

const SECRET: &str = "the secret of the tests: long enough";
const PREVIOUS: &str = "the previous secret: long enough too";
const TOKEN: &str = "tOkEnAbCdEfGhIjKlMnOpQrStUvWx0123";
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    id: String,
    email: String,
    name: String,
}

fn user(name: &str) -> User {
    User {
        id: name.to_lowercase(),
        email: format!("{}@example.test", name.to_lowercase()),
        name: name.to_owned(),
    }
}

fn row(token: &str, left: Duration) -> SessionRow {
    SessionRow::new(
        format!("session-{token}"),
        "ada",
        token,
        SystemTime::now() + left,
    )
}

fn cookies() -> SessionCookies {
    SessionCookies::new(Scheme::Https)
}

fn secrets() -> BetterAuthSecrets {
    BetterAuthSecrets::new(SECRET).unwrap()
}

fn rotated() -> BetterAuthSecrets {
    BetterAuthSecrets::from_list(format!("2:{SECRET},1:{PREVIOUS}")).unwrap()
}

fn before() -> BetterAuthSecrets {
    BetterAuthSecrets::new(PREVIOUS).unwrap()
}

fn stateless(secrets: &BetterAuthSecrets) -> Sessions {
    Sessions::stateless(cookies(), secrets).unwrap()
}

fn with_cache(secrets: &BetterAuthSecrets, strategy: CacheStrategy) -> Sessions {
    Sessions::with_cache(cookies(), secrets, strategy).unwrap()
}

/// The sessions of all kinds of applications that have a cache.
fn all(secrets: &BetterAuthSecrets) -> [Sessions; 4] {
    [
        stateless(secrets),
        with_cache(secrets, CacheStrategy::Compact),
        with_cache(secrets, CacheStrategy::Jwt),
        with_cache(secrets, CacheStrategy::Jwe),
    ]
}

/// Returns the `Cookie` header that a browser sends after it received `set` in response to a request
/// with `header`.
fn updated(header: &str, set: &[String]) -> String {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().trim().to_owned();
    let new: Vec<&str> = set.iter().filter_map(|set| set.split(';').next()).collect();
    let is_kept = |pair: &&str| new.iter().all(|new| name(new) != name(pair));
    let kept = header
        .split("; ")
        .filter(|pair| !pair.is_empty())
        .filter(is_kept);
    let set = set.iter().filter(|set| !set.contains("; Max-Age=0;"));
    let set = set.filter_map(|set| set.split(';').next());
    kept.chain(set).collect::<Vec<_>>().join("; ")
}

fn start(sessions: &Sessions, name: &str, token: &str) -> String {
    let set = sessions.start(&row(token, DAY), &user(name), Remember::UntilExpiry, "");
    updated("", &set.unwrap())
}

fn find(sessions: &Sessions, header: &str) -> Option<String> {
    let found = sessions.find::<User>(header).unwrap();
    found.map(|session| session.user.name)
}

/// Returns the lifetimes of the cookies that are set, by name. `None` means until the browser closes.
fn max_ages(set: &[String]) -> Vec<(String, Option<u64>)> {
    let max_age = |set: &String| {
        let (name, _) = set.split_once('=').unwrap();
        let age = set
            .split("; ")
            .find_map(|part| part.strip_prefix("Max-Age="));
        (name.to_owned(), age.map(|age| age.parse().unwrap()))
    };
    set.iter().map(max_age).collect()
}

#[test]
fn session_is_started_found_and_ended() {
    for sessions in all(&secrets()) {
        let header = start(&sessions, "Ada", TOKEN);
        let session = sessions.find::<User>(&header).unwrap().unwrap();
        assert_eq!(session.user, user("Ada"));
        assert_eq!(session.session.expose_token(), TOKEN);
        assert_eq!(sessions.token(&header).unwrap().expose(), TOKEN);
        let other = Sessions::stateless(cookies(), &before()).unwrap();
        assert_eq!((find(&other, &header), other.token(&header)), (None, None));

        let ended = updated(&header, &sessions.end(&header));
        assert_eq!(ended, "");
        assert!(
            sessions.end("").is_empty(),
            "nothing is cleared that is not there"
        );
    }
    let sessions = Sessions::new(cookies(), &secrets()).unwrap();
    let header = start(&sessions, "Ada", TOKEN);
    assert_eq!(sessions.token(&header).unwrap().expose(), TOKEN);
    assert_eq!(
        find(&sessions, &header),
        None,
        "only the database knows the user"
    );
}

#[test]
fn tokens_of_the_provider_do_not_remain_in_the_browser_after_the_end() {
    for cookies in [cookies(), cookies().domain("example.test").unwrap()] {
        let name = cookies.name(CookieKey::AccountData).to_owned();
        assert_eq!(name, "__Secure-better-auth.account_data");
        let sessions = Sessions::stateless(cookies, &secrets()).unwrap();
        let header = start(&sessions, "Ada", TOKEN);
        for account in [format!("{name}=a"), format!("{name}.0=a; {name}.1=b")] {
            let header = format!("{account}; {header}; {name}_2=kept");
            let ended = updated(&header, &sessions.end(&header));
            assert_eq!(ended, format!("{name}_2=kept"));
        }
        // It belongs to the application otherwise.
        let renewed = sessions.renew(&header, 100 * DAY).unwrap().concat();
        assert!(!renewed.contains("account_data"), "{renewed}");
    }
}

#[test]
fn cookies_have_the_lifetimes_of_the_package() {
    let token = "__Secure-better-auth.session_token".to_owned();
    let data = "__Secure-better-auth.session_data".to_owned();
    let dont_remember = "__Secure-better-auth.dont_remember".to_owned();
    let week = 7 * DAY;
    for (sessions, cache) in all(&secrets())
        .into_iter()
        .zip([week.as_secs(), 300, 300, 300])
    {
        let long = row(TOKEN, week + HOUR);
        let set = sessions
            .start(&long, &user("Ada"), Remember::UntilExpiry, "")
            .unwrap();
        let session = if cache == week.as_secs() {
            cache + 3600 - 1
        } else {
            cache
        };
        let expected = vec![
            (token.clone(), Some(week.as_secs())),
            (data.clone(), Some(session)),
        ];
        assert_eq!(max_ages(&set), expected);
        let set = sessions
            .start(&long, &user("Ada"), Remember::UntilBrowserCloses, "")
            .unwrap();
        let expected = [&token, &data, &dont_remember].map(|name| (name.clone(), None));
        assert_eq!(max_ages(&set), expected);
        let header = updated("", &set);
        let session = sessions.find::<User>(&header).unwrap().unwrap();
        let left = session
            .cache_expires
            .duration_since(SystemTime::now())
            .unwrap();
        assert!(left <= Duration::from_secs(300), "{left:?}");

        // The next log-in remembers the user.
        let set = sessions
            .start(&long, &user("Ada"), Remember::UntilExpiry, &header)
            .unwrap();
        assert!(max_ages(&set).contains(&(dont_remember.clone(), Some(0))));
        let ended = updated(&header, &sessions.end(&header));
        assert_eq!(ended, "");
    }
}

#[test]
fn long_cache_is_split_like_by_the_package_and_old_chunks_are_cleared() {
    for sessions in all(&secrets()) {
        let mut long = serde_json::to_value(user("Ada")).unwrap();
        long["bio"] = json!("x".repeat(6000));
        let row = row(TOKEN, DAY);
        let set = sessions
            .start(&row, &long, Remember::UntilExpiry, "")
            .unwrap();
        assert!(set.len() > 2);
        assert!(
            set.iter().all(|set| set.len() <= 4050),
            "{:?}",
            max_ages(&set)
        );
        let header = updated("", &set);
        assert_eq!(find(&sessions, &header).as_deref(), Some("Ada"));
        let chunks: Vec<&str> = header.split("; ").collect();
        for missing in 1..chunks.len() {
            let mut rest = chunks.clone();
            rest.remove(missing);
            assert_eq!(find(&sessions, &rest.join("; ")), None);
        }
        // The package ignores chunks beside a single cookie.
        let stale = format!("{header}; __Secure-better-auth.session_data=stale");
        assert_eq!(find(&sessions, &stale), None);
        let empty = format!("{header}; __Secure-better-auth.session_data=");
        assert_eq!(find(&sessions, &empty).as_deref(), Some("Ada"));
        let reversed: Vec<&str> = chunks.iter().rev().copied().collect();
        assert_eq!(
            find(&sessions, &reversed.join("; ")).as_deref(),
            Some("Ada")
        );

        let set = sessions
            .start(&row, &user("Eve"), Remember::UntilExpiry, &header)
            .unwrap();
        let short = updated(&header, &set);
        assert_eq!(short.split("; ").count(), 2, "{short}");
        assert_eq!(find(&sessions, &short).as_deref(), Some("Eve"));
        assert_eq!(updated(&header, &sessions.end(&header)), "");

        long["bio"] = json!("x".repeat(40_000));
        let set = sessions.start(&row, &long, Remember::UntilExpiry, "");
        assert_eq!(set.unwrap_err(), TokenError::TooLarge);
    }
}

#[test]
fn cookies_of_two_persons_never_give_one_person_the_session_of_the_other() {
    for sessions in all(&secrets()) {
        let [ada, eve] = [("Ada", "token-of-ada"), ("Eve", "token-of-eve")]
            .map(|(name, token)| start(&sessions, name, token));
        let (ada_token, ada_data) = ada.split_once("; ").unwrap();
        let (eve_token, eve_data) = eve.split_once("; ").unwrap();
        for (header, expected) in [
            (
                format!("{ada_token}; {ada_data}; {eve_token}; {eve_data}"),
                Some("Ada"),
            ),
            (format!("{eve_data}; {ada_token}; {ada_data}"), Some("Ada")),
            (format!("{ada_token}; {eve_data}"), None),
            (format!("{ada_token}; {eve_token}; {eve_data}"), None),
            (format!("{eve_token}; {ada_token}; {ada_data}"), None),
            (ada_data.to_owned(), None),
            (format!("{ada_token}x; {ada_data}"), None),
            (format!("{ada_token}x; {ada}"), Some("Ada")),
            (
                format!("__Secure-better-auth.session_token=; {ada}"),
                Some("Ada"),
            ),
            (
                format!(
                    "better-auth.session_token={}; {ada_data}",
                    ada_token.split_once('=').unwrap().1
                ),
                None,
            ),
            (ada.replace("__Secure-better-auth", "__Secure-acme"), None),
            (ada.replace("; ", ";"), Some("Ada")),
        ] {
            assert_eq!(find(&sessions, &header).as_deref(), expected, "{header}");
        }
    }
}

#[test]
fn quoted_raw_and_encoded_values_are_read_and_doubly_encoded_ones_are_not() {
    let sessions = stateless(&secrets());
    let header = start(&sessions, "Ada", TOKEN);
    let (token, data) = header.split_once("; ").unwrap();
    let (name, value) = token.split_once('=').unwrap();
    let raw = crate::sessions::text::percent_decode(value);
    for (value, is_read) in [
        (raw.clone(), true),
        (format!("\"{value}\""), true),
        (format!("\"{raw}\""), true),
        (value.replace('%', "%25"), false),
        (raw.rsplit_once('.').unwrap().0.to_owned(), false),
    ] {
        let header = format!("{name}={value}; {data}");
        assert_eq!(find(&sessions, &header).is_some(), is_read, "{value}");
    }
}

#[test]
fn stateless_cache_is_renewed_until_its_session_ends() {
    let sessions = stateless(&secrets()).cache_max_age(HOUR);
    let header = start(&sessions, "Ada", TOKEN);
    let before = sessions.find::<User>(&header).unwrap().unwrap();
    assert!(sessions.renew(&header, HOUR / 2).unwrap().is_empty());
    let set = sessions.renew(&header, 2 * HOUR).unwrap();
    let ages = max_ages(&set);
    assert!(
        ages[0].1.unwrap() <= DAY.as_secs() && ages[0].1.unwrap() > 23 * 3600,
        "{ages:?}"
    );
    let renewed = updated(&header, &set);
    let after = sessions.find::<User>(&renewed).unwrap().unwrap();
    assert_eq!(after.session, before.session, "the session keeps its end");
    assert_eq!(after.user, before.user);

    // The cache ends with its session, so nothing can be renewed.
    let sessions = stateless(&secrets());
    let header = start(&sessions, "Ada", TOKEN);
    assert!(sessions.renew(&header, 2 * DAY).unwrap().is_empty());

    // The cookies of a session that ends with the browser stay so.
    let sessions = stateless(&secrets());
    let set = sessions.start(
        &row(TOKEN, DAY),
        &user("Ada"),
        Remember::UntilBrowserCloses,
        "",
    );
    let header = updated("", &set.unwrap());
    let set = sessions.renew(&header, HOUR).unwrap();
    assert_eq!(set.len(), 2);
    assert!(
        max_ages(&set).iter().all(|(_, age)| age.is_none()),
        "{set:?}"
    );
}

#[test]
fn session_of_a_database_is_never_extended() {
    for strategy in [
        CacheStrategy::Compact,
        CacheStrategy::Jwt,
        CacheStrategy::Jwe,
    ] {
        for secrets in [secrets(), rotated()] {
            let sessions = with_cache(&secrets, strategy).accept_previous_tokens();
            let header = start(&sessions, "Ada", TOKEN);
            assert!(sessions.renew(&header, 100 * DAY).unwrap().is_empty());
        }
    }
}

#[test]
fn nothing_is_renewed_without_a_valid_token() {
    let sessions = stateless(&secrets()).cache_max_age(HOUR);
    let header = start(&sessions, "Ada", TOKEN);
    let (token, data) = header.split_once("; ").unwrap();
    let other = start(&sessions, "Eve", "another");
    let (other_token, _) = other.split_once("; ").unwrap();
    for header in [
        "",
        data,
        token,
        &format!("{other_token}; {data}"),
        &format!("{token}x; {data}"),
    ] {
        assert!(
            sessions.renew(header, 100 * DAY).unwrap().is_empty(),
            "{header}"
        );
    }
}

#[test]
fn token_of_a_previous_secret_is_accepted_and_signed_again_by_option_only() {
    for (old, new) in all(&before()).into_iter().zip(all(&rotated())) {
        let header = start(&old, "Ada", TOKEN);
        assert_eq!((find(&new, &header), new.token(&header)), (None, None));
        assert!(new.renew(&header, 100 * DAY).unwrap().is_empty());

        let is_readable =
            header.contains("session_data=ey") && !header.contains("session_data=eyJzZXNz");
        let new = new.accept_previous_tokens();
        let token = new.token(&header).unwrap();
        assert!(token.has_previous_signature());
        let renewed = updated(&header, &new.renew(&header, Duration::ZERO).unwrap());
        assert!(!new.token(&renewed).unwrap().has_previous_signature());
        assert!(new.renew(&renewed, Duration::ZERO).unwrap().is_empty());
        // The application knows the current secret only, and the caches of `jwe`.
        let token = Sessions::new(cookies(), &secrets())
            .unwrap()
            .token(&renewed);
        assert_eq!(token.unwrap().expose(), TOKEN);
        let has_jwe = find(&new, &renewed).is_some();
        assert!(!has_jwe || is_readable);
    }
}

#[test]
fn user_of_another_type_is_an_error_and_not_a_missing_session() {
    #[derive(Debug, Deserialize)]
    struct Admin {
        #[expect(dead_code, reason = "only its absence matters")]
        role: String,
    }
    for sessions in all(&secrets()) {
        let header = start(&sessions, "Ada", TOKEN);
        let error = sessions.find::<Admin>(&header).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("user.role"));
        assert!(sessions.find::<Value>(&header).unwrap().is_some());
    }
}

#[test]
fn cookies_of_a_domain_and_their_host_only_namesakes_are_cleared() {
    let cookies = cookies().domain("example.test").unwrap();
    let sessions = Sessions::stateless(cookies, &secrets()).unwrap();
    let header = start(&sessions, "Ada", TOKEN);
    let ended = sessions.end(&header);
    let (shared, own): (Vec<_>, Vec<_>) = ended
        .iter()
        .partition(|set| set.contains("; Domain=example.test;"));
    assert_eq!((shared.len(), own.len()), (2, 2), "{ended:?}");
}

#[cfg(feature = "tower")]
mod requests;
