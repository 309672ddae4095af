//! What the server says, and what it means.
//!
//! All of it as observed on OpenBao 2.7.2; what is said of HashiCorp Vault is from its source and
//! documentation.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use secretwell_core::{Error, ErrorKind, Secret, SecretValue, Version};
use secretwell_http::{Outcome, Protocol, Response, retry_after};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

mod index;
mod login;
#[cfg(test)]
mod tests;

pub(crate) use index::{HEALTH, INDEX, Index, ahead_of_standby, at_the_active};
pub(crate) use login::{grant, is_bare_denial, login_refused, looked_up, unwrapped_secret_id};

/// What is around every answer.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    errors: Option<Vec<String>>,
}

impl<'a> Envelope<'a> {
    /// The envelope of an error, as far as there is one: bodies may be empty, plain text or HTML.
    fn of_error(response: &'a Response) -> Self {
        serde_json::from_slice(&response.body).unwrap_or(Self {
            data: None,
            auth: None,
            lease_id: String::new(),
            lease_duration: 0,
            renewable: false,
            warnings: None,
            errors: None,
        })
    }

    fn of(response: &'a Response) -> Result<Self, Error> {
        serde_json::from_slice(&response.body)
            .map_err(|_| malformed("it is not the JSON of a Vault"))
    }

    /// Whether one of its errors or warnings holds `text`.
    fn says(&self, text: &str) -> bool {
        let errors = self.errors.iter().flatten();
        errors
            .chain(self.warnings.iter().flatten())
            .any(|line| line.contains(text))
    }
}

fn malformed(what: &'static str) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("the answer makes no sense: {what}"),
    )
    .with_hint("is the address that of a Vault or OpenBao server?")
}

/// Where a server tells without a login whether it was ever initialized.
pub(crate) const SEAL_STATUS: &str = "/v1/sys/seal-status";
const SEALED: &str = "the server is sealed";

pub(crate) fn is_sealed(error: &Error) -> bool {
    error.message() == SEALED
}

/// What this answer of [`SEAL_STATUS`] says of a server that seems to be sealed, if it is something else.
pub(crate) fn seal_status(response: &Response) -> Option<Error> {
    #[derive(Deserialize)]
    struct Status {
        initialized: bool,
    }

    let status: Status = serde_json::from_slice(&response.body).ok()?;
    (!status.initialized).then(not_initialized)
}

fn not_initialized() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is not initialized")
        .with_hint("initialize and unseal it")
}

/// Which server to ask, and when to ask again.
#[derive(Debug)]
pub(crate) struct Vault;

impl Protocol for Vault {
    fn classify(&self, response: &Response) -> Outcome {
        if response.status.is_success() || response.status == StatusCode::NOT_FOUND {
            return Outcome::Success;
        }
        let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
        let body = Envelope::of_error(response);
        match response.status.as_u16() {
            400 if body.says("cannot write to readonly storage") => {
                Outcome::NextEndpoint(unavailable("a standby cannot do this"))
            }
            400 if body.says("Waiting for the primary to upgrade") => {
                Outcome::NextEndpoint(unavailable("the server is being upgraded"))
            }
            400 if response
                .body
                .starts_with(b"Client sent an HTTP request to an HTTPS server") =>
            {
                let message = "the server speaks TLS, and the address does not";
                Outcome::Fatal(
                    Error::new(ErrorKind::InvalidConfig, message).with_hint("write `https://`"),
                )
            }
            400 | 403 => Outcome::Success,
            300..=399 => Outcome::NextEndpoint(unavailable("a standby knows no active server")),
            412 => Outcome::StaleReplica(unavailable("the server's data is behind")),
            // OpenBao's way to say that it has not come to the asked index yet.
            429 if body.errors.as_ref().is_some_and(Vec::is_empty) => {
                Outcome::StaleReplica(unavailable("the server's data is behind"))
            }
            429 => {
                let wait = retry_after(&response.headers);
                let kind = ErrorKind::RateLimited { retry_after: wait };
                let error = Error::new(kind, "a rate limit quota is exceeded")
                    .with_hint("raise the quota, or the ttl");
                Outcome::RetryAfter(wait, error)
            }
            500 if body.says("local node not active") || body.says("leadership lost") => {
                Outcome::NextEndpoint(unavailable("there is no active server"))
            }
            501 => Outcome::NextEndpoint(not_initialized()),
            503 if body.says("sealed") => {
                Outcome::NextEndpoint(unavailable(SEALED).with_hint("unseal it"))
            }
            502..=504 => Outcome::NextEndpoint(unavailable("the server is not ready")),
            // The text is not repeated: it may tell of a database's host and user.
            500..=599 => Outcome::Fatal(
                unavailable("the server had an error of its own").with_hint("look at its log"),
            ),
            413 => Outcome::Fatal(Error::new(
                ErrorKind::TooLarge,
                "the request is too large for the server",
            )),
            status => Outcome::Fatal(
                Error::new(
                    ErrorKind::Malformed,
                    format!("the server answers with status {status}"),
                )
                .with_hint("is the address that of a Vault or OpenBao server?"),
            ),
        }
    }

    /// A gateway in front does not know, and leadership may be lost behind what was written.
    fn did_nothing(&self, response: &Response) -> bool {
        let body = Envelope::of_error(response);
        match response.status.as_u16() {
            300..=400 | 501 => true,
            500 => body.says("local node not active"),
            503 => body.says("sealed"),
            _ => false,
        }
    }
}

/// Why a request with a token was answered with 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// The token is good, and it may not do this.
    NoPermission,
    /// The token is not good, or the server does not say which of the two it is.
    BadToken,
}

/// Vault says 403 for both, and only the text differs.
pub(crate) fn forbidden(response: &Response) -> Option<Forbidden> {
    if response.status != StatusCode::FORBIDDEN {
        return None;
    }
    let body = Envelope::of_error(response);
    let no_permission = body.says("1 error occurred") || body.says("preflight capability check");
    Some(match no_permission && !body.says("invalid token") {
        true => Forbidden::NoPermission,
        false => Forbidden::BadToken,
    })
}

/// The fields of one secret, as they stand in the answer.
pub(crate) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names and values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom("a name stands twice"));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// One revision of one secret.
pub(crate) struct Document {
    fields: Vec<(String, SecretValue)>,
    whole: SecretValue,
    pub(crate) version: Option<Version>,
    /// Why nobody knows whether it has more fields.
    doubt: Option<Error>,
}

impl Document {
    fn new(data: &RawValue, version: Option<Version>) -> Result<Self, Error> {
        let Fields(fields) = serde_json::from_str(data.get())
            .map_err(|_| malformed("a secret's data is not names and values"))?;
        let fields = fields
            .into_iter()
            .filter(|(_, value)| value.get() != "null")
            .map(|(name, value)| Ok((name, text_or_json(value)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            fields,
            whole: data.get().into(),
            version,
            doubt: None,
        })
    }

    /// The value of the field `name`: text as it is, anything else as its JSON; `null` is absent.
    pub(crate) fn field(&self, name: &str) -> Option<Secret> {
        let (_, value) = self.fields.iter().find(|(known, _)| known == name)?;
        Some(self.secret(value))
    }

    /// All fields as one JSON object.
    fn whole(&self) -> Secret {
        self.secret(&self.whole)
    }

    /// The value of the field `name`, or of all of them.
    pub(crate) fn pick(&self, field: Option<&str>) -> Result<Secret, Error> {
        let Some(name) = field else {
            return Ok(self.whole());
        };
        self.field(name).ok_or_else(|| {
            self.doubt.clone().unwrap_or_else(|| {
                Error::new(ErrorKind::NotFound, "the secret has no such field")
                    .with_hint("add the field, or a source that has it")
            })
        })
    }

    /// Whether any of these fields is not there.
    pub(crate) fn lacks(&self, fields: &[Option<&str>]) -> bool {
        let mut names = fields.iter().flatten();
        names.any(|name| !self.fields.iter().any(|(known, _)| known == name))
    }

    /// The same, when nobody can tell whether what it lacks is not there after all.
    pub(crate) fn in_doubt(mut self, why: Error) -> Self {
        self.doubt = Some(why);
        self
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    fn secret(&self, value: &SecretValue) -> Secret {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => Version::from_content(value.expose_bytes()),
        };
        Secret::new(value.clone()).with_version(version)
    }
}

fn text_or_json(value: &RawValue) -> Result<SecretValue, Error> {
    if !value.get().starts_with('"') {
        return Ok(value.get().into());
    }
    let text: Zeroizing<String> = serde_json::from_str(value.get())
        .map(Zeroizing::new)
        .map_err(|_| malformed("a value is no text"))?;
    Ok(text.as_str().into())
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
    #[serde(default)]
    created_time: Option<String>,
    #[serde(default)]
    destroyed: bool,
}

impl Metadata {
    fn version(&self) -> Version {
        let version = Version::numbered(self.version);
        let created = self.created_time.as_deref().and_then(time);
        match created {
            Some(created) => version.with_created_at(created),
            None => version,
        }
    }
}

fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// What is the matter with a mount of KV version 1 that is taken for one of version 2: what it answers to
/// a read is what it says of a secret that is not there.
pub(crate) fn is_of_version_1() -> Error {
    let message = "the mount is of KV version 1, and it was read as version 2";
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("say `kv=1`, or let the version be found out")
}

/// What a read of KV version 2 brought.
pub(crate) fn read_v2(response: &Response) -> Result<Document, Error> {
    if !response.status.is_success() {
        return Err(why_not(response));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope.data.ok_or_else(|| malformed("there is no data"))?;
    let versioned: Versioned<'_> = serde_json::from_str(data.get())
        .map_err(|_| malformed("it is no answer of KV version 2"))?;
    let version = versioned.metadata.version();
    // A secret may be written with no data at all.
    let fields = versioned.data.filter(|data| data.get() != "null");
    let nothing = RawValue::from_string("{}".into()).map_err(|_| malformed("there is no data"))?;
    Document::new(fields.unwrap_or(&nothing), Some(version))
}

/// What a read of KV version 1 brought, or of anything else that answers with plain data.
pub(crate) fn read_v1(response: &Response) -> Result<Document, Error> {
    if !response.status.is_success() {
        return Err(why_not(response));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope.data.ok_or_else(|| malformed("there is no data"))?;
    Document::new(data, None)
}

/// Zero stands for no end.
fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The lease of a secret that was made on demand.
pub(crate) struct Leased {
    pub(crate) id: Option<String>,
    pub(crate) duration: Option<Duration>,
    pub(crate) renewable: bool,
}

/// The lease that an answer comes with, if it does.
pub(crate) fn leased(response: &Response) -> Result<Leased, Error> {
    let envelope = Envelope::of(response)?;
    let id = Some(envelope.lease_id).filter(|id| !id.is_empty());
    Ok(Leased {
        // Without an id the duration is advice, not an end.
        duration: id.as_ref().and_then(|_| lifetime(envelope.lease_duration)),
        renewable: envelope.renewable,
        id,
    })
}

/// What renewing or revoking a lease brought.
pub(crate) fn lease_answer(response: &Response) -> Result<Leased, Error> {
    match response.status.as_u16() {
        204 => Ok(Leased {
            id: None,
            duration: None,
            renewable: false,
        }),
        200 => leased(response),
        403 => Err(
            Error::new(ErrorKind::Denied, "the login may not touch its leases")
                .with_hint("grant it `update` on `sys/leases/renew` and `sys/leases/revoke`"),
        ),
        _ => Err(Error::new(
            ErrorKind::NotFound,
            "there is no such lease any more",
        )),
    }
}

/// Why a read was not answered with a secret. There are five kinds of 404.
fn why_not(response: &Response) -> Error {
    let body = Envelope::of_error(response);
    let absent = |message| Error::new(ErrorKind::NotFound, message);
    let misconfigured = |message| Error::new(ErrorKind::InvalidConfig, message);
    match response.status.as_u16() {
        404 if body.says("Invalid path for a versioned K/V") => {
            misconfigured("the mount is of KV version 2, and it was read as version 1")
                .with_hint("say `kv=2`, or let the version be found out")
        }
        404 if body.says("no handler for route") => {
            misconfigured("there is no such mount").with_hint("look at `vault secrets list`")
        }
        404 if body.says("namespace not found") => {
            misconfigured("there is no such namespace").with_hint("its name's case matters")
        }
        404 => match body.data.map(|data| serde_json::from_str(data.get())) {
            Some(Ok(Versioned { metadata, .. })) if metadata.destroyed => {
                absent("this version was destroyed")
                    .with_hint("write it anew, or read another version")
            }
            Some(Ok(Versioned { .. })) => {
                absent("this version was deleted").with_hint("undelete it, or write it anew")
            }
            _ => {
                absent("there is no such secret").with_hint("write it, or add a source that has it")
            }
        },
        403 => Error::new(ErrorKind::Denied, "the login may not read this")
            .with_hint("grant its policy `read` on the path"),
        400 if response.body.is_empty() || body.says("relative paths") => {
            Error::new(ErrorKind::InvalidKey, "the server cannot have such a name")
        }
        400 if body.says("unknown role") => {
            misconfigured("there is no such role").with_hint("look at the roles of the engine")
        }
        // What a path that makes secrets says of a wish that its role does not allow.
        400 => misconfigured("the server refuses what is asked of it")
            .with_hint("look at the path, at its role, and at what is written to it"),
        status => malformed_status(status),
    }
}

fn malformed_status(status: u16) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("the server refuses the request with status {status}"),
    )
    .with_hint("look at its log")
}

/// Which version of the key-value engine stands at a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KvVersion {
    /// One value for each secret, without history.
    V1,
    /// Secrets with versions.
    V2,
}

#[derive(Deserialize)]
struct Mount {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    #[serde(default)]
    version: Option<String>,
}

/// What the server says of a mount.
///
/// # Errors
/// Whenever it does not say: a failed look is never taken for a fact.
pub(crate) fn mount(response: &Response) -> Result<KvVersion, Error> {
    if !response.status.is_success() {
        return Err(Error::new(
            ErrorKind::Denied,
            "the server does not tell which KV version the mount is of",
        )
        .with_hint("does it exist, and may this login read below it? Or say `kv=1` or `kv=2`"));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope.data.ok_or_else(|| malformed("there is no data"))?;
    let mount: Mount = serde_json::from_str(data.get()).map_err(|_| malformed("it is no mount"))?;
    match (
        mount.r#type.as_str(),
        mount.options.and_then(|options| options.version),
    ) {
        ("kv" | "generic", version) if version.as_deref() == Some("2") => Ok(KvVersion::V2),
        ("kv" | "generic", _) => Ok(KvVersion::V1),
        _ => Err(Error::new(
            ErrorKind::InvalidConfig,
            "the mount holds no key-value secrets",
        )
        .with_hint("name a mount of type `kv`")),
    }
}

/// The names below a folder; those of folders end in a slash. An absent folder has none.
pub(crate) fn listed(response: &Response) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<String>,
    }

    if response.status == StatusCode::NOT_FOUND {
        return match why_not(response) {
            error if error.is_not_found() => Ok(Vec::new()),
            error => Err(error),
        };
    }
    if !response.status.is_success() {
        return Err(why_not(response));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope.data.ok_or_else(|| malformed("there is no data"))?;
    serde_json::from_str(data.get())
        .map(|Keys { keys }| keys)
        .map_err(|_| malformed("it is no list"))
}
