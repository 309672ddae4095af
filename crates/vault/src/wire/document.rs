//! The fields of a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use secretwell_core::json::decode_text;
use secretwell_core::{Error, ErrorKind, Secret, SecretValue, Version};
use secretwell_http::{Response, parse_object};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::{Envelope, malformed};
use super::failure::read_error;

/// The fields of one secret. A field with the value `null` is `None`.
struct Fields(BTreeMap<String, Option<SecretValue>>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    let value = value_of(value).map_err(de::Error::custom)?;
                    if fields.insert(name, value).is_some() {
                        return Err(de::Error::custom("a name occurs twice"));
                    }
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// Returns text as it is, and other values as their JSON. Fails if a text is not valid.
fn value_of(value: &RawValue) -> Result<Option<SecretValue>, &'static str> {
    match value.get() {
        "null" => Ok(None),
        json if json.starts_with('"') => decode_text(json).map(Some).ok_or("a text is not valid"),
        json => Ok(Some(json.into())),
    }
}

/// One version of one secret, with all its fields.
pub(crate) struct Document {
    /// The path in the server's policies.
    path: String,
    fields: BTreeMap<String, Option<SecretValue>>,
    whole: SecretValue,
    pub(crate) version: Option<Version>,
    /// The time from the response until the server deletes this version. As it is counted from the start of the call, the
    /// value ends a little earlier.
    valid_for: Option<Duration>,
    /// The error for a missing field whose absence could not be confirmed.
    uncertain: Option<Error>,
}

impl Document {
    /// Parses the JSON object `data` of the secret at `path`.
    fn new(path: &str, data: &str) -> Result<Self, Error> {
        let Fields(fields) = serde_json::from_str(data).map_err(|_| {
            malformed("the data of a secret is not an object with unique names and valid texts")
        })?;
        Ok(Self {
            path: path.to_owned(),
            fields,
            whole: data.into(),
            version: None,
            valid_for: None,
            uncertain: None,
        })
    }

    /// Returns the value of the field `name`. Text is returned as it is, and other values as their JSON. A
    /// field with the value `null` is absent.
    pub(crate) fn field(&self, name: &str) -> Option<Secret> {
        let value = self.fields.get(name)?.as_ref()?;
        Some(self.secret(value))
    }

    /// Returns the value of `field`, or the whole secret as one JSON object if it is `None`.
    pub(crate) fn pick(&self, field: Option<&str>) -> Result<Secret, Error> {
        let Some(name) = field else {
            return Ok(self.secret(&self.whole));
        };
        self.field(name).ok_or_else(|| {
            self.uncertain.clone().unwrap_or_else(|| {
                self.no_field(name)
                    .with_hint("add the field, or a source that has it")
            })
        })
    }

    /// Returns the error for a missing field.
    pub(crate) fn no_field(&self, name: &str) -> Error {
        let (path, name) = (self.path.escape_debug(), name.escape_debug());
        let message = format!("the secret `{path}` has no field `{name}`");
        Error::new(ErrorKind::NotFound, message)
    }

    /// Returns whether any of these fields is missing.
    pub(crate) fn lacks(&self, fields: &[Option<&str>]) -> bool {
        let mut names = fields.iter().flatten();
        names.any(|name| self.fields.get(*name).is_none_or(Option::is_none))
    }

    /// Makes [`pick`](Self::pick) return `reason` for a missing field, because its absence could not be
    /// confirmed.
    pub(crate) fn with_uncertain_absence(mut self, reason: Error) -> Self {
        self.uncertain = Some(reason);
        self
    }

    /// Returns the names of the fields in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let present = self.fields.iter().filter(|(_, value)| value.is_some());
        present.map(|(name, _)| name.as_str())
    }

    fn secret(&self, value: &SecretValue) -> Secret {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => Version::from_content(value.expose_bytes()),
        };
        let secret = Secret::new(value.clone()).with_version(version);
        match self.valid_for {
            Some(time) => secret.valid_for(time),
            None => secret,
        }
    }
}

/// The response to a read of KV version 2.
#[derive(Deserialize)]
struct VersionedRead<'a> {
    #[serde(borrow)]
    data: Versioned<'a>,
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
    /// When the version was deleted or will be deleted. An empty text if neither is known.
    #[serde(default)]
    deletion_time: Option<String>,
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

/// Returns the error for a response with another version than the requested one.
pub(crate) fn other_version() -> Error {
    malformed("it has another version of the secret than the requested one")
        .with_hint("check whether a proxy removes the query of requests")
}

/// Parses a time as the server writes it.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// Returns the server's clock at the time of the response, for comparisons with other times of the server.
///
/// The `Date` header has only seconds. The local clock adds the fraction, if both clocks agree.
pub(crate) fn server_clock(response: &Response) -> SystemTime {
    let local = SystemTime::now();
    match response.date() {
        Some(date) => local.clamp(date, date + Duration::from_secs(1)),
        None => local,
    }
}

/// Parses the response to a read of KV version 2. `path` is the path in the server's policies.
pub(crate) fn read_v2(response: &Response, path: &str) -> Result<Document, Error> {
    if !response.status.is_success() {
        return Err(read_error(response, path));
    }
    let read: VersionedRead<'_> = parse_object(&response.body).ok_or_else(|| {
        let envelope = Envelope::data_of(response);
        let other = || malformed("it is not a response of KV version 2");
        envelope.err().unwrap_or_else(other)
    })?;
    let Versioned { data, metadata } = read.data;
    // A secret can be written with `null` as its data.
    let data = data.map(RawValue::get).filter(|data| *data != "null");
    let deletion = metadata.deletion_time.as_deref().and_then(time);
    let remaining = |end: SystemTime| end.duration_since(server_clock(response));
    Ok(Document {
        version: Some(metadata.version()),
        valid_for: deletion.map(|end| remaining(end).unwrap_or_default()),
        ..Document::new(path, data.unwrap_or("{}"))?
    })
}

/// Parses the response to a read of KV version 1, or of another engine that responds with plain data. `path`
/// is the path in the server's policies.
pub(crate) fn read_v1(response: &Response, path: &str) -> Result<Document, Error> {
    if !response.status.is_success() {
        return Err(read_error(response, path));
    }
    Document::new(path, Envelope::data_of(response)?.get())
}

#[cfg(test)]
mod tests {
    use http::header::DATE;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn response(body: String) -> Response {
        Response::new(StatusCode::OK, HeaderMap::new(), body.into_bytes())
    }

    #[test]
    fn cost_of_parsing_is_linear() {
        let cost = |count: usize, reads: usize| {
            let fields: Vec<_> = (0..count).map(|n| format!("\"name-{n}\":\"v\"")).collect();
            let response = response(format!("{{\"data\":{{{}}}}}", fields.join(",")));
            let last = format!("name-{}", count - 1);
            let started = tokio::time::Instant::now();
            for _ in 0..reads {
                let document = read_v1(&response, "secret/app").unwrap();
                assert!(!document.lacks(&[Some(last.as_str())]));
                assert_eq!(document.names().count(), count);
            }
            started.elapsed()
        };
        // Both costs are of 50,000 fields. Quadratic cost would be 25 times as much. An attempt that other programs have
        // interrupted is repeated.
        let mut attempts = (0..20).map(|_| (cost(50_000, 1), cost(2_000, 25)));
        assert!(
            attempts.any(|(one, many)| one < many * 5),
            "the cost is not linear"
        );
    }

    #[test]
    fn value_ends_at_its_deletion_time_on_the_clock_of_the_server() {
        // The clock of the server is years behind the local one.
        let http_date = "Mon, 23 Nov 2020 08:11:35 GMT";
        let date = time("2020-11-23T08:11:35Z").unwrap();
        let text = |time| humantime::format_rfc3339(time).to_string();
        let valid_for = |deletion: &str| {
            let body = serde_json::json!({"data": {
                "data": {"A": "1"},
                "metadata": {"version": 1, "deletion_time": deletion},
            }});
            let mut response = response(body.to_string());
            response.headers.insert(DATE, http_date.parse().unwrap());
            let document = read_v2(&response, "secret/data/app").unwrap();
            document.pick(Some("A")).unwrap().valid_for
        };
        assert_eq!(valid_for(""), None);
        let remaining = valid_for(&text(date + Duration::from_secs(60))).unwrap();
        assert!((Duration::from_secs(59)..=Duration::from_secs(61)).contains(&remaining));
        let past = text(date - Duration::from_secs(60));
        assert_eq!(valid_for(&past), Some(Duration::ZERO));
    }
}
