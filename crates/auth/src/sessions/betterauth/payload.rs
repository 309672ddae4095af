//! The content of the cookie cache, and the checks that follow its signature.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::date::{format_date, parse_date, time_of_milliseconds, to_milliseconds, to_time};
use super::json::stringify;
use super::signed::VerifiedToken;
use crate::sessions::TokenError;
use crate::sessions::mismatch::mismatch;

/// The version of a cache if the application does not configure one.
pub(super) const DEFAULT_VERSION: &str = "1";

/// The session of a request, as the application has cached it in the cookie `session_data`.
///
/// In an application with a database, it can be as old as the cache. A session that was ended elsewhere
/// remains valid until [`cache_expires`](Self::cache_expires).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CachedSession<U> {
    /// The row of the session.
    pub session: SessionRow,
    /// The row of the user. The e-mail address is in lower case, and `emailVerified` is present.
    pub user: U,
    /// When the application wrote the cache.
    pub cached_at: SystemTime,
    /// The end of the cache. The session itself can last longer.
    pub cache_expires: SystemTime,
}

/// A row of the table `session`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct SessionRow {
    /// The primary key.
    pub id: String,
    /// The primary key of the user.
    pub user_id: String,
    /// The end of the session.
    pub expires: SystemTime,
    /// When the user signed in.
    pub created: Option<SystemTime>,
    /// When the row was changed last.
    pub updated: Option<SystemTime>,
    /// The address from which the user signed in.
    pub ip_address: Option<String>,
    /// The browser with which the user signed in.
    pub user_agent: Option<String>,
    /// Further columns, as the application configures them. Their dates are texts.
    pub additional: Map<String, Value>,
    token: String,
}

impl SessionRow {
    /// Creates a row with the token of a session that ends at `expires`. The other columns are empty.
    pub fn new(
        id: impl Into<String>,
        user_id: impl Into<String>,
        token: impl Into<String>,
        expires: SystemTime,
    ) -> Self {
        Self {
            id: id.into(),
            user_id: user_id.into(),
            expires,
            created: None,
            updated: None,
            ip_address: None,
            user_agent: None,
            additional: Map::new(),
            token: token.into(),
        }
    }

    /// Returns the token of the session, which is also in the cookie `session_token`. It must not be logged.
    pub fn expose_token(&self) -> &str {
        &self.token
    }

    fn from_json(mut row: Map<String, Value>) -> Option<Self> {
        let mut take = |name: &str| row.remove(name);
        let date = |value: Option<Value>| to_time(parse_date(value?.as_str()?)?);
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        Some(Self {
            id: text(take("id"))?,
            user_id: text(take("userId"))?,
            token: text(take("token"))?,
            expires: date(take("expiresAt"))?,
            created: date(take("createdAt")),
            updated: date(take("updatedAt")),
            ip_address: text(take("ipAddress")),
            user_agent: text(take("userAgent")),
            additional: row,
        })
    }

    /// Returns the row in JSON, or `None` if the package cannot read one of its dates.
    fn to_json(&self, now: SystemTime) -> Option<Map<String, Value>> {
        let date = |time: SystemTime| format_date(to_milliseconds(time));
        let mut row = self.additional.clone();
        let columns = [
            ("id", Some(self.id.clone())),
            ("userId", Some(self.user_id.clone())),
            ("token", Some(self.token.clone())),
            ("expiresAt", Some(date(self.expires)?)),
            ("createdAt", Some(date(self.created.unwrap_or(now))?)),
            ("updatedAt", Some(date(self.updated.unwrap_or(now))?)),
            ("ipAddress", self.ip_address.clone()),
            ("userAgent", self.user_agent.clone()),
        ];
        for (name, column) in columns {
            row.insert(name.to_owned(), column.map_or(Value::Null, Value::from));
        }
        Some(row)
    }
}

/// Omits the token and the columns with personal data.
impl fmt::Debug for SessionRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRow")
            .field("id", &self.id)
            .field("user_id", &self.user_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The content of a cache that was verified. It has no `Debug`, because it contains the token of the session.
#[derive(Clone)]
pub(super) struct Payload {
    session: Map<String, Value>,
    user: Map<String, Value>,
    /// Milliseconds since 1970.
    updated_at: f64,
    version: Option<String>,
    /// The end of the session in milliseconds since 1970.
    session_expires: i64,
}

impl Payload {
    /// Reads the claims of a cache as the package does, and checks that it would accept their types.
    pub(super) fn from_claims(claims: &mut Map<String, Value>) -> Result<Self, TokenError> {
        let mut object = |name: &str| match claims.remove(name) {
            Some(Value::Object(object)) => Ok(object),
            _ => Err(TokenError::Malformed),
        };
        let (mut session, mut user) = (object("session")?, object("user")?);
        check_session(&session).ok_or(TokenError::Malformed)?;
        check_user(&user).ok_or(TokenError::Malformed)?;
        let updated_at = claims.get("updatedAt").and_then(Value::as_f64);
        let version = match claims.get("version") {
            Some(Value::String(text)) if parse_date(text).is_none() => Some(text.clone()),
            Some(_) => return Err(TokenError::Malformed),
            None => None,
        };
        let session_expires = session.get("expiresAt").and_then(date);
        if let Some(user_id) = session.get_mut("userId")
            && let Value::Number(number) = &user_id
        {
            *user_id = Value::from(stringify(&Value::Number(number.clone())));
        }
        if let Some(Value::String(email)) = user.get_mut("email") {
            *email = email.to_lowercase();
        }
        user.entry("emailVerified").or_insert(Value::Bool(false));
        Ok(Self {
            session,
            user,
            updated_at: updated_at.ok_or(TokenError::Malformed)?,
            version,
            session_expires: session_expires.ok_or(TokenError::Malformed)?,
        })
    }

    /// Creates the content of a new cache.
    pub(super) fn new(
        session: &SessionRow,
        user: &impl Serialize,
        version: &str,
        now: SystemTime,
    ) -> Result<Self, TokenError> {
        let session = session.to_json(now).ok_or(TokenError::Malformed)?;
        let user = serde_json::to_value(user).map_err(|_| TokenError::Malformed)?;
        let mut claims = Map::from_iter([
            ("session".to_owned(), Value::Object(session)),
            ("user".to_owned(), user),
            ("updatedAt".to_owned(), to_milliseconds(now).into()),
            ("version".to_owned(), version.into()),
        ]);
        // A cache that the package would refuse is an error of the caller.
        Self::from_claims(&mut claims)
    }

    /// Checks the end of the session, the version and the token, in the order of the package.
    pub(super) fn check(
        &self,
        token: &VerifiedToken,
        version: &str,
        now: SystemTime,
    ) -> Result<(), TokenError> {
        if self.session_expires < to_milliseconds(now) {
            return Err(TokenError::Expired);
        }
        let own = self.version.as_deref().filter(|own| !own.is_empty());
        if own.unwrap_or(DEFAULT_VERSION) != version {
            return Err(TokenError::OtherVersion);
        }
        if self.session.get("token").and_then(Value::as_str) != Some(token.expose()) {
            return Err(TokenError::OtherToken);
        }
        Ok(())
    }

    /// Returns the end of the session.
    pub(super) fn session_expires(&self) -> Option<SystemTime> {
        to_time(self.session_expires)
    }

    /// Returns the content for a cache that is written at `now`.
    pub(super) fn renewed(mut self, version: &str, now: SystemTime) -> Self {
        #[allow(clippy::cast_precision_loss)]
        {
            self.updated_at = to_milliseconds(now) as f64;
        }
        self.version = Some(version.to_owned());
        self
    }

    /// Returns the claims, in the order in which the package writes them.
    pub(super) fn into_claims(self) -> [(&'static str, Value); 4] {
        [
            ("session", Value::Object(self.session)),
            ("user", Value::Object(self.user)),
            ("updatedAt", Value::from(self.updated_at)),
            ("version", self.version.map_or(Value::Null, Value::from)),
        ]
    }

    pub(super) fn into_session<U: DeserializeOwned>(
        self,
        cache_expires: SystemTime,
    ) -> Result<CachedSession<U>, TokenError> {
        let cached_at = time_of_milliseconds(self.updated_at);
        let user = Value::Object(self.user);
        Ok(CachedSession {
            session: SessionRow::from_json(self.session).ok_or(TokenError::Malformed)?,
            user: U::deserialize(&user).map_err(|_| {
                let mut error = mismatch::<U>(&user.to_string());
                error.field = error.field.map(|field| format!("user.{field}"));
                TokenError::Claims(error)
            })?,
            cached_at: cached_at.ok_or(TokenError::Malformed)?,
            cache_expires,
        })
    }
}

/// Checks the columns of the session that every application has.
fn check_session(session: &Map<String, Value>) -> Option<()> {
    let user_id = session.get("userId")?;
    let is_user_id = user_id.is_number() || is_id(user_id);
    let is_valid = is_id(session.get("id")?)
        && is_user_id
        && is_id(session.get("token")?)
        && date(session.get("expiresAt")?).is_some()
        && has_valid_dates(session)
        && has_optional_text(session, "ipAddress")
        && has_optional_text(session, "userAgent");
    is_valid.then_some(())
}

/// Checks the columns of the user that every application has.
fn check_user(user: &Map<String, Value>) -> Option<()> {
    let is_valid = is_id(user.get("id")?)
        && is_text(user.get("email")?)
        && is_text(user.get("name")?)
        && user.get("emailVerified").is_none_or(Value::is_boolean)
        && has_valid_dates(user)
        && has_optional_text(user, "image");
    is_valid.then_some(())
}

fn has_valid_dates(row: &Map<String, Value>) -> bool {
    let is_valid = |name| row.get(name).is_none_or(|value| date(value).is_some());
    is_valid("createdAt") && is_valid("updatedAt")
}

fn has_optional_text(row: &Map<String, Value>, name: &str) -> bool {
    row.get(name)
        .is_none_or(|value| value.is_null() || is_text(value))
}

/// Returns whether `value` can identify a row. Two texts with different unpaired surrogates must not become one.
fn is_id(value: &Value) -> bool {
    is_text(value)
        && value
            .as_str()
            .is_some_and(|text| !text.contains('\u{fffd}'))
}

/// Returns whether the package reads `value` as a text. It converts a text that looks like a date.
fn is_text(value: &Value) -> bool {
    value.is_string() && date(value).is_none()
}

fn date(value: &Value) -> Option<i64> {
    value.as_str().and_then(parse_date)
}
