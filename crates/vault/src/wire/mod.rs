//! Parsing and classification of the server's responses.
//!
//! The behaviour was observed on OpenBao 2.7.2. The statements about HashiCorp Vault are from its source and
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

pub(crate) use index::{HEALTH, INDEX, Index, forward_to_active, forwarding_index_of_standby};
pub(crate) use login::{
    is_bare_denial, login_refused, looked_up_token, token_lease, unwrapped_secret_id,
};

/// The JSON object around the data of every response.
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
    /// Parses the envelope of an error. Returns an empty one if the body is empty, plain text or HTML.
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
            .map_err(|_| malformed("it is not the JSON of a Vault server"))
    }

    /// Returns whether one of the errors or warnings contains `text`.
    fn mentions(&self, text: &str) -> bool {
        let errors = self.errors.iter().flatten();
        errors
            .chain(self.warnings.iter().flatten())
            .any(|line| line.contains(text))
    }
}

fn malformed(what: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, format!("unexpected response: {what}"))
        .with_hint("check that the address is that of a Vault or OpenBao server")
}

/// The path that reports, without a login, whether a server was ever initialized.
pub(crate) const SEAL_STATUS: &str = "/v1/sys/seal-status";
const SEALED: &str = "the server is sealed";

pub(crate) fn is_sealed(error: &Error) -> bool {
    error.message() == SEALED
}

/// Returns a more specific error for a server that seems to be sealed, if `response` from [`SEAL_STATUS`]
/// reports that it is not initialized.
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

/// The classification of Vault's responses for the HTTP client.
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
            400 if body.mentions("cannot write to readonly storage") => {
                Outcome::NextEndpoint(unavailable("the server is a standby, which cannot do this"))
            }
            400 if body.mentions("Waiting for the primary to upgrade") => {
                Outcome::NextEndpoint(unavailable("the server is being upgraded"))
            }
            400 if response
                .body
                .starts_with(b"Client sent an HTTP request to an HTTPS server") =>
            {
                let message = "the server requires TLS, but the address begins with `http://`";
                Outcome::Fatal(
                    Error::new(ErrorKind::InvalidConfig, message).with_hint("use `https://`"),
                )
            }
            400 | 403 => Outcome::Success,
            300..=399 => Outcome::NextEndpoint(unavailable(
                "the server is a standby and does not know an active server",
            )),
            412 => Outcome::StaleReplica(unavailable("the data of the server is stale")),
            // OpenBao's response if it has not reached the requested index yet.
            429 if body.errors.as_ref().is_some_and(Vec::is_empty) => {
                Outcome::StaleReplica(unavailable("the data of the server is stale"))
            }
            429 => {
                let wait = retry_after(&response.headers);
                let kind = ErrorKind::RateLimited { retry_after: wait };
                let error = Error::new(kind, "a rate limit quota is exceeded")
                    .with_hint("raise the quota, or raise the ttl to send fewer requests");
                Outcome::RetryAfter(wait, error)
            }
            500 if body.mentions("local node not active") || body.mentions("leadership lost") => {
                Outcome::NextEndpoint(unavailable("the cluster has no active server"))
            }
            501 => Outcome::NextEndpoint(not_initialized()),
            503 if body.mentions("sealed") => {
                Outcome::NextEndpoint(unavailable(SEALED).with_hint("unseal it"))
            }
            502..=504 => Outcome::NextEndpoint(unavailable("the server is not ready")),
            // The server's message is not quoted, because it might contain the host and user of a database.
            500..=599 => Outcome::Fatal(
                unavailable("the server reported an internal error").with_hint("check its log"),
            ),
            413 => Outcome::Fatal(Error::new(
                ErrorKind::TooLarge,
                "the request is too large for the server",
            )),
            status => Outcome::Fatal(
                Error::new(
                    ErrorKind::Malformed,
                    format!("the server responded with the unexpected status {status}"),
                )
                .with_hint("check that the address is that of a Vault or OpenBao server"),
            ),
        }
    }

    /// Returns `false` for the errors of a gateway, which does not know what the server did. The same applies
    /// to a lost leadership, which can follow a successful write.
    fn did_nothing(&self, response: &Response) -> bool {
        let body = Envelope::of_error(response);
        match response.status.as_u16() {
            300..=400 | 501 => true,
            500 => body.mentions("local node not active"),
            503 => body.mentions("sealed"),
            _ => false,
        }
    }
}

/// The reason for a 403 response to a request with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// The token is valid, but its policies do not allow the request.
    NoPermission,
    /// The token is not valid, or the response does not show which of the two reasons applies.
    BadToken,
}

/// Returns the reason for a 403 response, or `None` for another status. Only the error text differs.
pub(crate) fn forbidden(response: &Response) -> Option<Forbidden> {
    if response.status != StatusCode::FORBIDDEN {
        return None;
    }
    let body = Envelope::of_error(response);
    let no_permission =
        body.mentions("1 error occurred") || body.mentions("preflight capability check");
    Some(match no_permission && !body.mentions("invalid token") {
        true => Forbidden::NoPermission,
        false => Forbidden::BadToken,
    })
}

/// The fields of one secret as raw JSON.
pub(crate) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom("a name occurs twice"));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// One version of one secret, with all its fields.
pub(crate) struct Document {
    fields: Vec<(String, SecretValue)>,
    whole: SecretValue,
    pub(crate) version: Option<Version>,
    /// The error for a missing field whose absence could not be confirmed.
    uncertain: Option<Error>,
}

impl Document {
    fn new(data: &RawValue, version: Option<Version>) -> Result<Self, Error> {
        let Fields(fields) = serde_json::from_str(data.get())
            .map_err(|_| malformed("the data of a secret is not an object with unique names"))?;
        let fields = fields
            .into_iter()
            .filter(|(_, value)| value.get() != "null")
            .map(|(name, value)| Ok((name, text_or_json(value)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            fields,
            whole: data.get().into(),
            version,
            uncertain: None,
        })
    }

    /// Returns the value of the field `name`. Text is returned as it is, and other values as their JSON. A
    /// field with the value `null` is absent.
    pub(crate) fn field(&self, name: &str) -> Option<Secret> {
        let (_, value) = self.fields.iter().find(|(known, _)| known == name)?;
        Some(self.secret(value))
    }

    /// Returns all fields as one JSON object.
    fn whole(&self) -> Secret {
        self.secret(&self.whole)
    }

    /// Returns the value of `field`, or the whole secret if it is `None`.
    pub(crate) fn pick(&self, field: Option<&str>) -> Result<Secret, Error> {
        let Some(name) = field else {
            return Ok(self.whole());
        };
        self.field(name).ok_or_else(|| {
            self.uncertain.clone().unwrap_or_else(|| {
                Error::new(ErrorKind::NotFound, "the secret has no such field")
                    .with_hint("add the field, or a source that has it")
            })
        })
    }

    /// Returns whether any of these fields is missing.
    pub(crate) fn lacks(&self, fields: &[Option<&str>]) -> bool {
        let mut names = fields.iter().flatten();
        names.any(|name| !self.fields.iter().any(|(known, _)| known == name))
    }

    /// Makes [`pick`](Self::pick) return `reason` for a missing field, because its absence could not be
    /// confirmed.
    pub(crate) fn with_uncertain_absence(mut self, reason: Error) -> Self {
        self.uncertain = Some(reason);
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
        .map_err(|_| malformed("a value is not valid text"))?;
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

/// Returns the error of a mount with KV version 1 that was read as version 2. The server's response to such a
/// read is the same as for a missing secret.
pub(crate) fn wrong_version_2() -> Error {
    let message = "the mount has KV version 1, but was read as version 2";
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("set `kv=1`, or remove the setting to detect the version")
}

/// Parses the response to a read of KV version 2.
pub(crate) fn read_v2(response: &Response) -> Result<Document, Error> {
    if !response.status.is_success() {
        return Err(read_error(response));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope
        .data
        .ok_or_else(|| malformed("the data is missing"))?;
    let versioned: Versioned<'_> = serde_json::from_str(data.get())
        .map_err(|_| malformed("it is not a response of KV version 2"))?;
    let version = versioned.metadata.version();
    // A secret can be written with `null` as its data.
    let fields = versioned.data.filter(|data| data.get() != "null");
    let empty = RawValue::from_string("{}".into()).map_err(|_| malformed("the data is missing"))?;
    Document::new(fields.unwrap_or(&empty), Some(version))
}

/// Parses the response to a read of KV version 1, or of another engine that responds with plain data.
pub(crate) fn read_v1(response: &Response) -> Result<Document, Error> {
    if !response.status.is_success() {
        return Err(read_error(response));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope
        .data
        .ok_or_else(|| malformed("the data is missing"))?;
    Document::new(data, None)
}

/// Converts a lifetime in seconds. Zero means that there is no expiry.
fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The lease of a dynamic secret.
pub(crate) struct LeaseInfo {
    pub(crate) id: Option<String>,
    pub(crate) duration: Option<Duration>,
    pub(crate) renewable: bool,
}

/// Parses the lease of a response. Without a lease, the id and the duration are `None`.
pub(crate) fn lease_info(response: &Response) -> Result<LeaseInfo, Error> {
    let envelope = Envelope::of(response)?;
    let id = Some(envelope.lease_id).filter(|id| !id.is_empty());
    Ok(LeaseInfo {
        // Without an id, the duration is only a suggestion for polling.
        duration: id.as_ref().and_then(|_| lifetime(envelope.lease_duration)),
        renewable: envelope.renewable,
        id,
    })
}

/// Parses the response to renewing or revoking a lease.
pub(crate) fn updated_lease(response: &Response) -> Result<LeaseInfo, Error> {
    match response.status.as_u16() {
        204 => Ok(LeaseInfo {
            id: None,
            duration: None,
            renewable: false,
        }),
        200 => lease_info(response),
        403 => Err(Error::new(
            ErrorKind::Denied,
            "the policy does not allow renewing or revoking leases",
        )
        .with_hint("grant `update` on `sys/leases/renew` and `sys/leases/revoke`")),
        _ => Err(Error::new(
            ErrorKind::NotFound,
            "the lease does not exist any more",
        )),
    }
}

/// Returns the error of a failed read. A 404 has five different meanings.
fn read_error(response: &Response) -> Error {
    let body = Envelope::of_error(response);
    let absent = |message| Error::new(ErrorKind::NotFound, message);
    let misconfigured = |message| Error::new(ErrorKind::InvalidConfig, message);
    match response.status.as_u16() {
        404 if body.mentions("Invalid path for a versioned K/V") => {
            misconfigured("the mount has KV version 2, but was read as version 1")
                .with_hint("set `kv=2`, or remove the setting to detect the version")
        }
        404 if body.mentions("no handler for route") => misconfigured("the mount does not exist")
            .with_hint("check its name with `vault secrets list`"),
        404 if body.mentions("namespace not found") => {
            misconfigured("the namespace does not exist")
                .with_hint("check its name, including upper and lower case")
        }
        404 => match body.data.map(|data| serde_json::from_str(data.get())) {
            Some(Ok(Versioned { metadata, .. })) if metadata.destroyed => {
                absent("this version was destroyed")
                    .with_hint("write the secret again, or read another version")
            }
            Some(Ok(Versioned { .. })) => absent("this version was deleted")
                .with_hint("undelete it, or write the secret again"),
            _ => absent("the secret does not exist")
                .with_hint("create it, or add a source that has it"),
        },
        403 => Error::new(
            ErrorKind::Denied,
            "the policy does not allow reading this path",
        )
        .with_hint("grant `read` on the path to the login's policy"),
        400 if response.body.is_empty() || body.mentions("relative paths") => Error::new(
            ErrorKind::InvalidKey,
            "the server does not accept this name",
        )
        .with_hint("rename the secret"),
        400 if body.mentions("unknown role") => {
            misconfigured("the role does not exist").with_hint("check the roles of the engine")
        }
        // For example, the role of a dynamic secret does not allow the requested parameters.
        400 => misconfigured("the server rejected the request")
            .with_hint("check the path, its role, and the body of a dynamic secret"),
        status => malformed_status(status),
    }
}

fn malformed_status(status: u16) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("the server rejected the request with status {status}"),
    )
    .with_hint("check its log")
}

/// The version of a key-value engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvVersion {
    /// Version 1, which stores only the current value of a secret.
    #[serde(rename = "1", alias = "v1")]
    V1,
    /// Version 2, which stores a version history of each secret.
    #[serde(rename = "2", alias = "v2")]
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

/// Parses the description of a mount and returns its KV version.
///
/// # Errors
/// Returns an error if the server does not report the version. A failed request never counts as a version.
pub(crate) fn mount(response: &Response) -> Result<KvVersion, Error> {
    if !response.status.is_success() {
        return Err(Error::new(
            ErrorKind::Denied,
            "the server does not report the KV version of the mount",
        )
        .with_hint("check that the mount exists and is readable for this login, or set `kv`"));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope
        .data
        .ok_or_else(|| malformed("the data is missing"))?;
    let mount: Mount =
        serde_json::from_str(data.get()).map_err(|_| malformed("it does not describe a mount"))?;
    match (
        mount.r#type.as_str(),
        mount.options.and_then(|options| options.version),
    ) {
        ("kv" | "generic", version) if version.as_deref() == Some("2") => Ok(KvVersion::V2),
        ("kv" | "generic", _) => Ok(KvVersion::V1),
        _ => Err(Error::new(
            ErrorKind::InvalidConfig,
            "the mount is not a key-value engine",
        )
        .with_hint("use a mount of type `kv`")),
    }
}

/// Parses the names below a folder. The names of folders end with a slash. A missing folder is empty.
pub(crate) fn listed(response: &Response) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<String>,
    }

    if response.status == StatusCode::NOT_FOUND {
        return match read_error(response) {
            error if error.is_not_found() => Ok(Vec::new()),
            error => Err(error),
        };
    }
    if !response.status.is_success() {
        return Err(read_error(response));
    }
    let envelope = Envelope::of(response)?;
    let data = envelope
        .data
        .ok_or_else(|| malformed("the data is missing"))?;
    serde_json::from_str(data.get())
        .map(|Keys { keys }| keys)
        .map_err(|_| malformed("it is not a list"))
}
