//! The content of the cookie cache, and the checks that follow its signature.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use super::date::{format_date, time_of_milliseconds, to_milliseconds, to_time};
use super::json::{Json, Members, number_text, write_number, write_object, write_string};
use super::object::{ClaimTexts, Object, is_id, is_text, optional_date, optional_text, string};
use super::signed::VerifiedToken;
use super::user::User;
use crate::sessions::TokenError;
use crate::sessions::text::WipedBytes;

/// The version of a cache if the application does not configure one.
pub(super) const DEFAULT_VERSION: &str = "1";

/// The columns of [`SessionRow`] that every application has.
const COLUMNS: [&str; 8] = [
    "id",
    "userId",
    "token",
    "expiresAt",
    "createdAt",
    "updatedAt",
    "ipAddress",
    "userAgent",
];

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

    /// Reads the columns as the package does, or returns `None` if it would refuse one.
    fn from_columns(columns: &Object<'_>) -> Option<Self> {
        let id = |name| columns.text(name).filter(|text| is_id(text));
        let further = columns.iter().filter(|(name, _)| !COLUMNS.contains(name));
        let further = further.map(|(name, json)| {
            let value = serde_json::from_str(json.get()).ok()?;
            Some((name.to_owned(), value))
        });
        Some(Self {
            id: id("id")?.into_owned(),
            user_id: user_id(columns)?.into_owned(),
            token: id("token")?.into_owned(),
            expires: to_time(columns.date("expiresAt")?)?,
            created: optional_date(columns, "createdAt")?.and_then(to_time),
            updated: optional_date(columns, "updatedAt")?.and_then(to_time),
            ip_address: optional_text(columns, "ipAddress")?.map(Cow::into_owned),
            user_agent: optional_text(columns, "userAgent")?.map(Cow::into_owned),
            additional: further.collect::<Option<_>>()?,
        })
    }

    /// Returns the columns for a new cache, or `None` if the package would refuse the row.
    fn members(&self, now: SystemTime) -> Option<Members<'_>> {
        let ids = [&self.id, &self.user_id, &self.token];
        let mut texts = [&self.ip_address, &self.user_agent].into_iter().flatten();
        if !(ids.iter().all(|id| is_id(id)) && texts.all(|text| is_text(text))) {
            return None;
        }
        let text = |text| Json::Text(Cow::Borrowed(text));
        let date = |time| format_date(to_milliseconds(time));
        let now = date(now)?;
        let started = |time: Option<_>| time.map_or(Some(now), date).map(Json::Date);
        let optional = |value: Option<_>| value.map_or(Json::Canonical("null"), text);
        let mut members = Vec::with_capacity(COLUMNS.len() + self.additional.len());
        members.extend(COLUMNS.into_iter().zip([
            text(&self.id),
            text(&self.user_id),
            text(&self.token),
            Json::Date(date(self.expires)?),
            started(self.created)?,
            started(self.updated)?,
            optional(self.ip_address.as_deref()),
            optional(self.user_agent.as_deref()),
        ]));
        let further = self.additional.iter();
        let further = further.filter(|(name, _)| !COLUMNS.contains(&name.as_str()));
        members.extend(
            further.map(|(name, value)| (name.as_str(), Json::Value(Cow::Borrowed(value)))),
        );
        Some(members)
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
pub(super) struct Payload<'a> {
    pub(super) session: SessionRow,
    /// The columns of the session, for a cache that is renewed.
    columns: Object<'a>,
    user: User<'a>,
    /// Milliseconds since 1970.
    updated_at: f64,
    version: Option<Cow<'a, str>>,
}

impl<'a> Payload<'a> {
    /// Reads the claims of a cache as the package does, or returns `None` if it would refuse their types.
    pub(super) fn from_claims(claims: ClaimTexts<'a>) -> Option<Self> {
        let columns = claims.session?;
        let version = match claims.others.get("version") {
            Some(version) => Some(string(version).filter(|text| is_text(text))?),
            None => None,
        };
        Some(Self {
            session: SessionRow::from_columns(&columns)?,
            columns,
            user: User::new(claims.user?)?,
            updated_at: serde_json::from_str(claims.others.get("updatedAt")?.get()).ok()?,
            version,
        })
    }

    /// Checks the end of the session, the version and the token, in the order of the package.
    pub(super) fn check(
        &self,
        token: &VerifiedToken,
        version: &str,
        now: SystemTime,
    ) -> Result<(), TokenError> {
        if to_milliseconds(self.session.expires) < to_milliseconds(now) {
            return Err(TokenError::Expired);
        }
        let own = self.version.as_deref().filter(|own| !own.is_empty());
        if own.unwrap_or(DEFAULT_VERSION) != version {
            return Err(TokenError::OtherVersion);
        }
        if self.session.token != token.expose() {
            return Err(TokenError::OtherToken);
        }
        Ok(())
    }

    pub(super) fn into_session<U: DeserializeOwned>(
        self,
        cache_expires: SystemTime,
    ) -> Result<CachedSession<U>, TokenError> {
        let cached_at = time_of_milliseconds(self.updated_at);
        Ok(CachedSession {
            session: self.session,
            user: self.user.deserialize()?,
            cached_at: cached_at.ok_or(TokenError::Malformed)?,
            cache_expires,
        })
    }
}

/// The claims of a new cache, as the package would accept them.
pub(super) struct Claims<'a> {
    session: Members<'a>,
    user: Members<'a>,
    version: &'a str,
    /// Milliseconds since 1970.
    updated_at: i64,
}

impl<'a> Claims<'a> {
    /// Returns the claims of a session that starts, or `None` if the package would refuse them.
    pub(super) fn new(
        session: &'a SessionRow,
        user: &'a User<'_>,
        version: &'a str,
        now: SystemTime,
    ) -> Option<Self> {
        is_text(version).then_some(())?;
        Some(Self {
            session: session.members(now)?,
            user: user.members()?,
            version,
            updated_at: to_milliseconds(now),
        })
    }

    /// Returns the claims with the content of another cache.
    pub(super) fn renewed(
        payload: &'a Payload<'_>,
        version: &'a str,
        now: SystemTime,
    ) -> Option<Self> {
        let mut session = Json::members(&payload.columns)?;
        for (name, value) in &mut session {
            if *name == "userId" {
                *value = Json::Text(user_id(&payload.columns)?);
            }
        }
        Some(Self {
            session,
            user: payload.user.members()?,
            version,
            updated_at: to_milliseconds(now),
        })
    }

    /// Writes the object without its last brace, so that further claims can follow.
    pub(super) fn write(self, json: &mut WipedBytes) {
        *json += r#"{"session":"#;
        write_object(self.session, json);
        *json += r#","user":"#;
        write_object(self.user, json);
        *json += r#","updatedAt":"#;
        write_number(&self.updated_at.into(), json);
        *json += r#","version":"#;
        write_string(self.version, json);
    }
}

/// Returns the id of the user, which can be a number.
fn user_id<'a>(session: &Object<'a>) -> Option<Cow<'a, str>> {
    let id = session.get("userId")?;
    match string(id) {
        Some(text) => is_id(&text).then_some(text),
        None => {
            let number: Number = serde_json::from_str(id.get()).ok()?;
            Some(number_text(&number).into())
        }
    }
}
