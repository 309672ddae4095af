//! Descriptions of mounts, and listings of folders.

use secretwell_core::{Error, ErrorKind};
use secretwell_http::Response;
use serde::{Deserialize, Serialize};

use super::envelope::{parse_data, unexplained};
use super::failure::{Forbidden, denied, forbidden, read_error};
use super::login::{is_outside_of_api, no_api};

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

/// A mount of a key-value engine, as the server describes it.
#[derive(Debug)]
pub(crate) struct Mount {
    /// The name of the mount, without slashes at its ends. It can contain slashes.
    pub(crate) name: String,
    pub(crate) kv: KvVersion,
}

/// Parses the description of the mount of a path.
///
/// # Errors
/// Returns an error if the server does not describe the mount. A failed request never counts as a version.
pub(crate) fn mount(response: &Response, name: &str) -> Result<Mount, Error> {
    #[derive(Deserialize)]
    struct Description {
        #[serde(default)]
        path: String,
        #[serde(default)]
        r#type: String,
        #[serde(default)]
        options: Option<Options>,
    }

    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        version: Option<String>,
    }

    match forbidden(response) {
        _ if response.status.is_success() => {}
        // The server responds with 403 in both cases, and even to a root token.
        Some(Forbidden::NoPermission | Forbidden::BadToken) => {
            let hint = match name {
                "v1" => "leave out `v1/`, which only the API uses",
                "ui" => "write the mount and the path of the secret, not the address of its page",
                _ => "check the mount and the policy of the login",
            };
            let name = name.escape_debug();
            let message =
                format!("the mount `{name}` does not exist, or this login must not read it");
            return Err(Error::new(ErrorKind::Denied, message).with_hint(hint));
        }
        _ if is_outside_of_api(response) => return Err(no_api()),
        _ => {
            let error = read_error(response, name);
            return Err(match error.kind() == ErrorKind::InvalidConfig {
                true => error,
                // The absence of a description says nothing about a secret.
                false => unexplained(response),
            });
        }
    }
    let mount: Description = parse_data(response, "it does not describe a mount")?;
    let version = mount.options.and_then(|options| options.version);
    let kv = match (mount.r#type.as_str(), version.as_deref()) {
        ("kv" | "generic", Some("2")) => KvVersion::V2,
        ("kv" | "generic", _) => KvVersion::V1,
        _ => {
            let message = "the mount is not a key-value engine";
            return Err(
                Error::new(ErrorKind::InvalidConfig, message).with_hint("use a mount of type `kv`")
            );
        }
    };
    Ok(Mount {
        name: mount.path.trim_matches('/').to_owned(),
        kv,
    })
}

/// Parses the names below a folder. The names of folders end with a slash. A missing folder is empty. `path`
/// is the path in the server's policies.
pub(crate) fn listed(response: &Response, path: &str) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<String>,
    }

    if response.status.is_success() {
        return parse_data(response, "it is not a list").map(|Keys { keys }| keys);
    }
    match read_error(response, path) {
        error if error.is_not_found() => Ok(Vec::new()),
        error if error.kind() == ErrorKind::Denied => Err(denied("listing", "list", path)),
        error => Err(error),
    }
}
