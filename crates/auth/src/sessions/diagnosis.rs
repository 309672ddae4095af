//! Warnings about wrong set-ups: requests that carry a session cookie in some form and never yield a
//! session.
//!
//! Each kind of problem has a limit of its own, so that a flood of forged cookies costs few lines and
//! hides no other kind. The warnings contain names and numbers, and no values of cookies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secretwell_core::SecretValue;
use tokio::time::Instant;

use super::cookie::pairs;
use super::error::{ClaimsError, TokenError};

/// The minimum time between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(300);

/// The maximum number of checks of short tokens in a second that [`Budget`] allows.
const MAX_CHECKS: usize = 200;

/// Tokens up to this length in bytes are short. The check of a longer one costs in proportion to its length.
const SHORT_TOKEN: usize = 4096;

/// The names of the session cookies of all libraries, without a prefix.
const KNOWN_COOKIES: [(&str, &str); 3] = [
    ("authjs.session-token", "next-auth 5 or `@auth/core`"),
    ("next-auth.session-token", "next-auth 4"),
    ("better-auth.session_token", "Better Auth"),
];

/// The prefixes that a browser checks, and none.
const PREFIXES: [&str; 3] = ["__Secure-", "__Host-", ""];

/// The warnings about the sessions in one cookie.
#[cfg_attr(
    not(feature = "authjs"),
    allow(dead_code, reason = "kinds of problems that only Auth.js has")
)]
#[derive(Debug)]
pub(super) struct Warnings {
    cookie: String,
    /// Whether a session was accepted since the secrets were loaded.
    has_accepted: AtomicBool,
    unknown_key: Limit,
    white_space: Limit,
    prefixes: [Limit; PREFIXES.len()],
    known_cookies: [Limit; KNOWN_COOKIES.len()],
    database: Limit,
    not_a_token: Limit,
    clock: Limit,
    expired: Limit,
    /// By the type that the claims do not fit. A program has few of them.
    claims: Mutex<HashMap<&'static str, Limit>>,
}

/// Emits a warning with the fields that all kinds have.
macro_rules! warning {
    ($warnings:ident, $event:literal, $requests:ident, $($rest:tt)+) => {
        tracing::warn!(
            target: "secretwell::auth",
            event = $event,
            cookie = %$warnings.cookie,
            requests = $requests,
            accepted_others = $warnings.has_accepted(),
            $($rest)+
        )
    };
}

impl Warnings {
    /// Creates the warnings about the cookie with this name.
    pub(super) fn new(cookie: &str) -> Self {
        Self {
            cookie: cookie.to_owned(),
            has_accepted: AtomicBool::new(false),
            unknown_key: Limit::default(),
            white_space: Limit::default(),
            prefixes: Default::default(),
            known_cookies: Default::default(),
            database: Limit::default(),
            not_a_token: Limit::default(),
            clock: Limit::default(),
            expired: Limit::default(),
            claims: Mutex::default(),
        }
    }

    /// Records that a request had a valid session.
    pub(super) fn accepted(&self) {
        // Most requests only read, so that threads do not share a write.
        if !self.has_accepted() {
            self.has_accepted.store(true, Ordering::Relaxed);
        }
    }

    fn has_accepted(&self) -> bool {
        self.has_accepted.load(Ordering::Relaxed)
    }

    /// Returns what follows the advice of a warning that anybody can cause with a cookie of their own.
    fn reservation(&self) -> &'static str {
        match self.has_accepted() {
            false => "",
            true => {
                "; but other sessions were accepted since the secrets were loaded, so these cookies might be old, forged or \
                 of another application: change nothing while new logins are accepted"
            }
        }
    }

    /// A request with this `Cookie` header has no valid token.
    pub(super) fn rejected(&self, error: &TokenError, header: &str) {
        match error {
            TokenError::UnknownKey => self.unknown_key(),
            TokenError::NotYetValid => self.clock(),
            TokenError::Expired => self.expired(),
            _ => {}
        }
        self.other_cookies(header);
    }

    /// The token is well-formed, and no secret verifies it.
    pub(super) fn unknown_key(&self) {
        let Some(requests) = self.unknown_key.count() else {
            return;
        };
        match self.has_accepted() {
            false => warning!(
                self,
                "session_key_unknown",
                requests,
                "no secret of this service verifies the session tokens that it receives, and no session was accepted since \
                 the secrets were loaded; give this service the secret and the cookie name of the application",
            ),
            true => warning!(
                self,
                "session_key_unknown",
                requests,
                "no secret of this service verifies some session tokens, while it accepts others: they are forged or old, or \
                 the application has another secret by now; if new logins are refused, compare the secrets of both",
            ),
        }
    }

    /// The token was created with a secret that differs by white space. `difference` describes the secret
    /// of the application.
    pub(super) fn white_space(&self, difference: &str) {
        if let Some(requests) = self.white_space.count() {
            warning!(
                self,
                "session_secret_white_space",
                requests,
                "the secret of the application differs from that of this service by white space: the one of the application \
                 {difference}; both must read the same bytes, so remove the white space at its source, or keep it here (`newline=keep` in a `file://` URL)",
            );
        }
    }

    /// The value of the cookie is not a token. It might identify a session in a database.
    #[cfg_attr(
        not(feature = "authjs"),
        allow(dead_code, reason = "kinds of problems that only Auth.js has")
    )]
    pub(super) fn not_a_token(&self, value: &str) {
        if is_uuid(value) {
            if let Some(requests) = self.database.count() {
                warning!(
                    self,
                    "session_in_database",
                    requests,
                    "the session cookie has a UUID instead of a token, so the application keeps its sessions in its database, \
                     where this service cannot read them; set `session: {{ strategy: \"jwt\" }}` in the application{}",
                    self.reservation(),
                );
            }
        } else if let Some(requests) = self.not_a_token.count() {
            warning!(
                self,
                "session_not_a_token",
                requests,
                "the session cookie has no encrypted token: the application keeps its sessions in its database, or encodes them \
                 with a function of its own; set `session: {{ strategy: \"jwt\" }}` in the application, without `jwt.encode`{}",
                self.reservation(),
            );
        }
    }

    /// An authentic token has a time in the future.
    #[cfg_attr(
        not(feature = "authjs"),
        allow(dead_code, reason = "kinds of problems that only Auth.js has")
    )]
    pub(super) fn clock(&self) {
        if let Some(requests) = self.clock.count() {
            warning!(
                self,
                "session_from_future",
                requests,
                "the application creates session tokens at times that this host has not reached, so the clock of this host is behind; \
                 synchronize both clocks",
            );
        }
    }

    /// An authentic token has expired. A browser does not send the cookie of one, unless the clocks differ.
    fn expired(&self) {
        if self.has_accepted() {
            return;
        }
        if let Some(requests) = self.expired.count() {
            warning!(
                self,
                "session_expired",
                requests,
                "session tokens have expired, and no session was accepted since the secrets were loaded; if users who have just \
                 signed in are refused, the clock of this host is ahead of that of the application: synchronize both clocks",
            );
        }
    }

    /// A valid session does not fit the type `claims_type` of a handler.
    pub(super) fn claims(&self, claims_type: &'static str, error: &ClaimsError) {
        let requests = self.lock_claims().entry(claims_type).or_default().count();
        if let Some(requests) = requests {
            warning!(
                self,
                "session_claims_mismatch",
                requests,
                r#type = claims_type,
                field = error.field.as_deref(),
                "a valid session does not fit the type of a handler: {error}; change the type, or add the claim in the \
                 application",
            );
        }
    }

    /// A request has no valid session in this cookie. Checks whether it has a session cookie of another
    /// name.
    pub(super) fn other_cookies(&self, header: &str) {
        let own = without_prefix(&self.cookie);
        let mut prefixes: [Option<&str>; PREFIXES.len()] = [None; PREFIXES.len()];
        let mut libraries = [false; KNOWN_COOKIES.len()];
        for (name, _) in pairs(header) {
            let name = without_chunk(name);
            if name == self.cookie {
                continue;
            }
            let bare = without_prefix(name);
            if bare == own {
                prefixes[prefix_index(name)] = Some(name);
            } else if let Some(index) = KNOWN_COOKIES.iter().position(|(known, _)| *known == bare) {
                libraries[index] = true;
            }
        }
        for (index, name) in prefixes.into_iter().enumerate() {
            if let Some(name) = name {
                self.other_prefix(index, name);
            }
        }
        for index in (0..KNOWN_COOKIES.len()).filter(|index| libraries[*index]) {
            self.other_library(index);
        }
    }

    /// `found` differs from the name of this cookie only by its prefix, which has this index.
    fn other_prefix(&self, index: usize, found: &str) {
        let Some(requests) = self.prefixes[index].count() else {
            return;
        };
        let fix = match PREFIXES[index] {
            "" => "use `Scheme::Http`, or the name",
            "__Secure-" => "use `Scheme::Https`, or the name",
            _ => "use the name",
        };
        warning!(
            self,
            "session_cookie_mismatch",
            requests,
            "requests have the session cookie `{found}`, and this service reads `{}`; if it is the cookie of the application, \
             {fix} of the application's cookie{}",
            self.cookie,
            self.reservation(),
        );
    }

    fn other_library(&self, index: usize) {
        if let Some(requests) = self.known_cookies[index].count() {
            let (found, library) = KNOWN_COOKIES[index];
            warning!(
                self,
                "session_cookie_mismatch",
                requests,
                "requests have the session cookie `{found}` of {library}, and this service reads `{}`; if it belongs to \
                 the application, read its sessions with the cookie of {library}{}",
                self.cookie,
                self.reservation(),
            );
        }
    }

    fn lock_claims(&self) -> MutexGuard<'_, HashMap<&'static str, Limit>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limit of one kind of warning.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Requests since the last warning.
    requests: u64,
    warned_at: Option<Instant>,
}

impl Limit {
    /// Counts a request. If a warning is due, returns the number of requests since the last one.
    pub(super) fn count(&self) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.requests += 1;
        let now = Instant::now();
        let is_due = |at: Instant| now.saturating_duration_since(at) >= WARNING_INTERVAL;
        if !counted.warned_at.is_none_or(is_due) {
            return None;
        }
        counted.warned_at = Some(now);
        Some(std::mem::take(&mut counted.requests))
    }
}

/// The expensive checks of tokens that are allowed in each second. It limits the work for forged tokens.
#[derive(Debug, Default)]
pub(super) struct Budget(Mutex<Option<Second>>);

/// A second, and the bytes that were checked in it.
#[derive(Debug)]
struct Second {
    start: Instant,
    checked: usize,
}

impl Budget {
    /// Returns whether a check of `token` is allowed, and counts it.
    pub(super) fn try_spend(&self, token: &str) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_over =
            |second: &Second| now.saturating_duration_since(second.start) >= Duration::from_secs(1);
        if second.as_ref().is_some_and(is_over) {
            *second = None;
        }
        let second = second.get_or_insert(Second {
            start: now,
            checked: 0,
        });
        let checked = second.checked.saturating_add(token.len().max(SHORT_TOKEN));
        let is_allowed = checked <= MAX_CHECKS * SHORT_TOKEN;
        if is_allowed {
            second.checked = checked;
        }
        is_allowed
    }
}

/// Returns the secrets that differ from `secret` by white space at their ends, each with its description.
pub(super) fn white_space_variants(secret: &SecretValue) -> Vec<(&'static str, SecretValue)> {
    let bytes = secret.expose_bytes();
    let trimmed = bytes.trim_ascii();
    let variants: [(&str, [&[u8]; 3]); 6] = [
        ("has no white space at its ends", [b"", trimmed, b""]),
        ("ends with a line feed", [b"", trimmed, b"\n"]),
        (
            "ends with a carriage return and a line feed",
            [b"", trimmed, b"\r\n"],
        ),
        ("ends with a carriage return", [b"", trimmed, b"\r"]),
        ("ends with a space", [b"", trimmed, b" "]),
        ("begins with a space", [b" ", trimmed, b""]),
    ];
    let variants =
        variants.map(|(description, parts)| (description, SecretValue::from(parts.concat())));
    let is_other = |(_, variant): &(&str, SecretValue)| variant != secret && !trimmed.is_empty();
    variants.into_iter().filter(is_other).collect()
}

fn without_prefix(name: &str) -> &str {
    name.strip_prefix(PREFIXES[prefix_index(name)])
        .unwrap_or(name)
}

/// Returns the index of the prefix of a name. Without a prefix, it is the last one, which is empty.
fn prefix_index(name: &str) -> usize {
    let found = PREFIXES.iter().position(|prefix| name.starts_with(prefix));
    found.unwrap_or(PREFIXES.len() - 1)
}

/// Returns the name of a cookie without the number of a chunk.
fn without_chunk(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((name, digits))
            if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            name
        }
        _ => name,
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups
            .concat()
            .bytes()
            .all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
