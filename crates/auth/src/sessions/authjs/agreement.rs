//! After any sequence of log-ins, renewals and sign-outs, the application and the service agree who the
//! user is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::KeyRing;
use crate::sessions::cookie::browser::{Browser, Order};
use crate::sessions::keys::{Format, Keys};
use crate::sessions::{SameSite, Scheme, TokenError, jwe};

const APP: &str = "app.example.test";
const API: &str = "api.example.test";
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Every session expires in less time, so it is renewed.
const ALWAYS: Duration = Duration::MAX;

fn ring() -> KeyRing {
    KeyRing::new("a secret of thirty-two bytes or more").unwrap()
}

fn sessions(cookie: SessionCookie) -> Sessions {
    let sessions = Sessions::new(cookie.max_size(100_000), &ring()).unwrap();
    sessions.max_age(8 * HOUR)
}

fn both_versions() -> [SessionCookie; 2] {
    [
        SessionCookie::v5(Scheme::Https),
        SessionCookie::v4(Scheme::Https),
    ]
}

fn user(sessions: &Sessions, header: &str) -> Option<String> {
    let session = sessions.find::<Value>(header).unwrap()?;
    Some(session.claims["name"].as_str().unwrap().to_owned())
}

/// A model of the application. It writes the cookies that it is configured with, and no others.
struct Application {
    sessions: Sessions,
    has_domain: bool,
}

impl Application {
    fn new(cookie: SessionCookie, domain: Option<&str>) -> Self {
        let cookie = match domain {
            Some(domain) => cookie.domain(domain).unwrap(),
            None => cookie,
        };
        Self {
            sessions: sessions(cookie),
            has_domain: domain.is_some(),
        }
    }

    /// Receives the headers of the application, which does not clear cookies of one host only.
    fn receive(&self, browser: &mut Browser, mut set_cookie: Vec<String>) {
        set_cookie.retain(|header| header.contains("; Domain=") == self.has_domain);
        browser.receive(APP, &set_cookie);
    }

    fn log_in(&self, browser: &mut Browser, name: &str, length: usize) {
        let claims = json!({"name": name, "long": "x".repeat(length)});
        let set = self
            .sessions
            .start(&claims, &browser.header(APP, "/"))
            .unwrap();
        self.receive(browser, set);
    }

    fn renew(&self, browser: &mut Browser) {
        let set = self
            .sessions
            .renew(&browser.header(APP, "/"), ALWAYS)
            .unwrap();
        self.receive(browser, set);
    }

    fn sign_out(&self, browser: &mut Browser) {
        let set = self.sessions.end(&browser.header(APP, "/"));
        self.receive(browser, set);
    }

    /// The packages join all cookies whose name begins with the name of the session cookie.
    fn user(&self, browser: &Browser) -> Option<String> {
        let name = self.sessions.cookie.name();
        let header = browser.header(APP, "/");
        let pairs = header.split("; ").filter_map(|pair| pair.split_once('='));
        let mut chunks: Vec<(usize, &str)> = pairs
            .filter_map(|(cookie, value)| {
                let index = cookie.strip_prefix(name)?.trim_start_matches('.');
                Some((index.parse().unwrap_or_default(), value))
            })
            .collect();
        chunks.sort_by_key(|(index, _)| *index);
        let token: String = chunks.into_iter().map(|(_, value)| value).collect();
        user(&self.sessions, &format!("{name}={token}"))
    }
}

#[derive(Debug, Clone)]
enum Step {
    LogIn(&'static str, usize),
    Renew,
    SignOut,
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let name = prop_oneof![Just("Ada"), Just("Bob")];
    let length = prop_oneof![Just(1), 1..15_000_usize];
    let step = prop_oneof![
        (name, length).prop_map(|(name, length)| Step::LogIn(name, length)),
        Just(Step::Renew),
        Just(Step::SignOut),
    ];
    vec((any::<bool>(), step), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn both_sides_agree_after_each_step(
        steps in steps(), has_domain in any::<bool>(), is_v5 in any::<bool>(), of_change in any::<bool>()
    ) {
        let cookie = both_versions()[usize::from(!is_v5)].clone();
        let application = Application::new(cookie, has_domain.then_some("example.test"));
        // Without a domain, the service has paths of the application's own host.
        let host = if has_domain { API } else { APP };
        let service = &application.sessions;
        let order = if of_change { Order::OfChange } else { Order::OfCreation };
        let mut browser = Browser::new(order);
        let mut expected = None;
        for (is_application, step) in steps {
            let header = browser.header(host, "/api");
            match (&step, is_application) {
                (Step::LogIn(name, length), true) => application.log_in(&mut browser, name, *length),
                (Step::LogIn(name, length), false) => {
                    let claims = json!({"name": name, "long": "x".repeat(*length)});
                    browser.receive(host, &service.start(&claims, &header).unwrap());
                }
                (Step::Renew, true) => application.renew(&mut browser),
                (Step::Renew, false) => browser.receive(host, &service.renew(&header, ALWAYS).unwrap()),
                (Step::SignOut, true) => application.sign_out(&mut browser),
                (Step::SignOut, false) => browser.receive(host, &service.end(&header)),
            }
            expected = match step {
                Step::LogIn(name, _) => Some(name.to_owned()),
                Step::Renew => expected,
                Step::SignOut => None,
            };
            prop_assert_eq!(&user(service, &browser.header(host, "/api")), &expected, "service");
            prop_assert_eq!(&application.user(&browser), &expected, "application");
            if expected.is_none() {
                prop_assert_eq!(browser.header(host, "/api"), "");
            }
        }
    }
}

/// The service has renewed the session in a cookie of its own host, before its domain was configured.
fn with_leftover_cookie(name: &str, order: Order) -> Browser {
    let mut browser = Browser::new(order);
    let earlier = sessions(SessionCookie::v5(Scheme::Https));
    let claims = json!({"name": name, "long": "x".repeat(4_000)});
    browser.receive(API, &earlier.start(&claims, "").unwrap());
    browser
}

#[test]
fn cookie_of_the_host_is_removed_when_the_cookie_of_the_domain_is_written_or_ended() {
    let application = Application::new(SessionCookie::v5(Scheme::Https), Some("example.test"));
    let service = &application.sessions;
    for order in [Order::OfChange, Order::OfCreation] {
        // Both belong to one user.
        let mut browser = with_leftover_cookie("Ada", order);
        application.log_in(&mut browser, "Ada", 4_000);
        let set = service.renew(&browser.header(API, "/"), ALWAYS).unwrap();
        browser.receive(API, &set);
        application.sign_out(&mut browser);
        assert_eq!(browser.header(API, "/"), "");

        // They belong to two users. The renewal must not overwrite the application's session.
        let mut browser = with_leftover_cookie("Ada", order);
        application.log_in(&mut browser, "Bob", 9_000);
        for _ in 0..2 {
            let set = service.renew(&browser.header(API, "/"), ALWAYS).unwrap();
            browser.receive(API, &set);
            assert_eq!(application.user(&browser).as_deref(), Some("Bob"));
            assert_eq!(
                user(service, &browser.header(API, "/")).as_deref(),
                Some("Bob")
            );
        }

        let mut browser = with_leftover_cookie("Ada", order);
        application.log_in(&mut browser, "Ada", 1);
        browser.receive(API, &service.end(&browser.header(API, "/")));
        assert_eq!(
            (browser.header(API, "/"), browser.header(APP, "/")),
            (String::new(), String::new())
        );

        let mut browser = with_leftover_cookie("Ada", order);
        let set = service
            .start(&json!({"name": "Bob"}), &browser.header(API, "/"))
            .unwrap();
        browser.receive(API, &set);
        assert_eq!(
            user(service, &browser.header(API, "/")).as_deref(),
            Some("Bob")
        );
        assert_eq!(application.user(&browser).as_deref(), Some("Bob"));
    }
}

#[test]
fn renewed_and_ended_cookies_have_the_configured_attributes() {
    for cookie in both_versions() {
        let cookie = cookie.with_name("__Secure-my.session").unwrap();
        let cookie = cookie.domain("example.test").unwrap().path("/app").unwrap();
        let cookie = cookie
            .same_site(SameSite::None)
            .unwrap()
            .partitioned()
            .unwrap();
        let sessions = sessions(cookie);
        let attributes = "Domain=example.test; Path=/app; Max-Age=28800; HttpOnly; SameSite=None; Secure; Partitioned";
        let started = sessions.start(&json!({"name": "Ada"}), "").unwrap();
        let header = started[0].split(';').next().unwrap();
        for set in [started.clone(), sessions.renew(header, ALWAYS).unwrap()] {
            let written = set.last().unwrap();
            assert!(written.starts_with("__Secure-my.session=ey"), "{written}");
            assert!(written.ends_with(attributes), "{written}");
        }
        let ended = sessions.end(header);
        let attributes = attributes.replace("28800", "0");
        assert_eq!(
            ended.last().unwrap(),
            &format!("__Secure-my.session=; {attributes}")
        );
    }
}

/// `next-auth#8222`: a cookie of the parent domain is left over from another secret or another time.
#[test]
fn stale_cookie_of_the_parent_domain_does_not_hide_the_session() {
    for cookie in both_versions() {
        let other = KeyRing::new("another secret, thirty-two bytes or more").unwrap();
        let parent = cookie.clone().domain("example.test").unwrap();
        let stale = Sessions::new(parent, &other).unwrap();
        let sessions = sessions(cookie);
        for (stale_length, length) in [(1, 1), (1, 9_000), (5_000, 1), (5_000, 9_000)] {
            let mut browser = Browser::new(Order::OfChange);
            let start = |sessions: &Sessions, name: &str, length: usize| {
                sessions
                    .start(&json!({"name": name, "long": "x".repeat(length)}), "")
                    .unwrap()
            };
            browser.receive(API, &start(&stale, "Bob", stale_length));
            browser.receive(API, &start(&sessions, "Ada", length));
            let header = browser.header(API, "/");
            assert_eq!(user(&sessions, &header).as_deref(), Some("Ada"));
            browser.receive(API, &sessions.renew(&header, ALWAYS).unwrap());
            assert_ne!(browser.header(API, "/"), header, "the session was renewed");
            assert_eq!(
                user(&sessions, &browser.header(API, "/")).as_deref(),
                Some("Ada")
            );
        }
    }
}

#[test]
fn first_of_two_valid_sessions_is_used_and_none_is_renewed() {
    for cookie in both_versions() {
        let sessions = sessions(cookie);
        let pair = |name: &str| {
            let set = sessions.start(&json!({"name": name}), "").unwrap();
            set[0].split(';').next().unwrap().to_owned()
        };
        let header = format!("{}; {}", pair("Ada"), pair("Bob"));
        assert_eq!(user(&sessions, &header).as_deref(), Some("Ada"));
        assert!(sessions.renew(&header, ALWAYS).unwrap().is_empty());
    }
}

#[test]
fn too_large_claims_are_refused() {
    for cookie in both_versions() {
        let sessions = Sessions::new(cookie.clone(), &ring()).unwrap();
        let claims = |length: usize| json!({"name": "x".repeat(length)});
        assert!(sessions.start(&claims(8_500), "").is_ok());
        let error = sessions.start(&claims(9_500), "").unwrap_err();
        assert_eq!(error, TokenError::TooLarge);
        let large = Sessions::new(cookie.max_size(1_000_000), &ring()).unwrap();
        let set = large.start(&claims(20_000), "").unwrap();
        assert_eq!(large.start(&claims(300_000), ""), Err(TokenError::TooLarge));

        // The application accepts requests of this size, so the session is renewed.
        let pairs: Vec<_> = set
            .iter()
            .map(|set| set.split(';').next().unwrap())
            .collect();
        let renewed = sessions.renew(&pairs.join("; "), ALWAYS).unwrap();
        assert_eq!(renewed.len(), set.len());
    }
}

/// The encoder of one version, and access to the text of the claims.
struct Texts {
    sessions: Sessions,
    keys: Vec<Keys>,
    format: Format,
}

impl Texts {
    fn both_versions() -> [Self; 2] {
        both_versions().map(|cookie| {
            let format = cookie.format();
            let salt = if format == Format::V5 {
                cookie.name()
            } else {
                ""
            };
            let keys = Keys::derive_all(&ring(), format, salt).unwrap();
            Self {
                sessions: sessions(cookie),
                keys,
                format,
            }
        })
    }

    /// Returns the `Cookie` header of a session with these claims.
    fn header(&self, json: &str) -> String {
        let json = Zeroizing::new(json.as_bytes().to_vec());
        let token = jwe::encrypt(&json, &self.keys[0], self.format).unwrap();
        format!("{}={token}", self.sessions.cookie.name())
    }

    /// Returns the claims of a renewed session, and its `Set-Cookie` header.
    fn renewed(&self, json: &str) -> Option<(String, String)> {
        let set = self
            .sessions
            .renew(&self.header(json), ALWAYS)
            .unwrap()
            .pop()?;
        let token = self
            .sessions
            .cookie
            .candidates(set.split(';').next().unwrap())
            .next()
            .unwrap();
        let decrypted = jwe::decrypt(&token, &self.keys, self.format).unwrap();
        Some((String::from_utf8(decrypted.text.to_vec()).unwrap(), set))
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn renewing_keeps_the_lifetime_of_the_session() {
    let day = 24 * 60 * 60;
    for texts in Texts::both_versions() {
        for lifetime in [1, 3_600, 8 * 3_600, 30 * day, 60 * day, 1_000 * day] {
            let (issued_at, expires) = (now() - lifetime / 2, now() - lifetime / 2 + lifetime);
            let before = format!(r#"{{"iat":{issued_at},"exp":{expires},"limit":{expires}}}"#);
            let earliest = now();
            let (json, set) = texts.renewed(&before).unwrap();
            let claims: Map<String, Value> = serde_json::from_str(&json).unwrap();
            let time = |name: &str| claims[name].as_u64().unwrap();
            assert_eq!(time("exp") - time("iat"), lifetime);
            assert!((earliest..=now()).contains(&time("iat")));
            assert_eq!(time("limit"), expires);
            let max_age = lifetime.min(400 * day);
            assert!(set.contains(&format!("; Max-Age={max_age};")), "{set}");
        }
    }
}

#[test]
fn session_without_start_or_end_is_not_renewed() {
    let (past, future) = (now() - 60, now() + 60);
    for texts in Texts::both_versions() {
        for (json, is_renewed) in [
            (format!(r#"{{"iat":{past},"exp":{future}}}"#), true),
            (format!(r#"{{"iat":{past}.5,"exp":{future}.25}}"#), true),
            (
                format!(r#"{{"iat":{past},"exp":{past},"exp":{future}}}"#),
                true,
            ),
            (format!(r#"{{"exp":{future}}}"#), false),
            (format!(r#"{{"iat":{past}}}"#), false),
            (r#"{}"#.to_owned(), false),
            (format!(r#"{{"iat":{future},"exp":{future}}}"#), false),
            (
                format!(r#"{{"iat":{},"exp":{future}}}"#, future + 60),
                false,
            ),
            (format!(r#"{{"iat":{past},"exp":1e300}}"#), false),
            (format!(r#"{{"iat":-1e300,"exp":{future}}}"#), false),
            (format!(r#"{{"iat":{past},"exp":{}}}"#, past - 60), false),
            (
                format!(r#"{{"iat":{past},"exp":{future},"nbf":{}}}"#, future + 60),
                false,
            ),
            (format!(r#"{{"iat":"{past}","exp":{future}}}"#), false),
        ] {
            assert_eq!(texts.renewed(&json).is_some(), is_renewed, "{json}");
        }
    }
}

#[test]
fn renewing_keeps_the_text_of_all_other_claims() {
    let (past, future) = (now() - 60, now() + 60);
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let others = [
        r#""sub":"42""#.to_owned(),
        r#""large":123456789012345678901234567890"#.to_owned(),
        r#""exact":0.1000000000000000055511151231257827"#.to_owned(),
        r#""numbers":[1.0,-0,-0.0,1e2,1E+400,9007199254740993]"#.to_owned(),
        r#""half an emoji":"\ud83d","\udc00":"\u00e9é""#.to_owned(),
        r#""twice":1,"twice":2"#.to_owned(),
        r#""__proto__":{"exp":1,"jti":"inner"}"#.to_owned(),
        format!(r#""nbf":{past},"limit":{future}"#),
        format!(r#""deep":{deep}"#),
    ]
    .join(",");
    for texts in Texts::both_versions() {
        let times = format!(r#""iat":{past},"jti":"before","\u0065xp":{past},"exp":{future}"#);
        for json in [
            format!("{{{times},{others}}}"),
            format!(" {{ {others} , {times} }} "),
        ] {
            let (renewed, _) = texts.renewed(&json).unwrap();
            assert!(
                renewed.starts_with(&format!("{{{others},\"iat\":")),
                "{renewed}"
            );
            assert_eq!(
                renewed.matches("\"jti\":").count(),
                2,
                "one of them is in `__proto__`"
            );
            assert!(!renewed.contains("before") && !renewed.contains(r"\u0065xp"));
        }
    }
}

/// The token is authentic, so the user is logged in. A redirect to the sign-in page would be endless.
#[test]
fn claims_that_no_type_can_hold_are_not_a_missing_session() {
    #[derive(Debug, serde::Deserialize)]
    struct User {
        name: String,
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for texts in Texts::both_versions() {
        for claim in ["1e400", &deep] {
            let times = format!(r#""iat":{},"exp":{}"#, now() - 60, now() + 60);
            let header = texts.header(&format!(r#"{{"name":"Ada","large":{claim},{times}}}"#));
            let session = texts.sessions.find::<User>(&header).unwrap().unwrap();
            assert_eq!(session.claims.name, "Ada");
            let found = texts.sessions.find::<Value>(&header);
            // With the feature `arbitrary_precision` of another crate, the number can be represented.
            assert!(!found.is_ok_and(|found| found.is_none()), "{claim}");
        }
    }
}
