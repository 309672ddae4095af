//! Where the secrets of a provider are, and the requests for them.

use secretwell_core::{Error, ErrorKind};
use secretwell_http::encode_path;

use crate::session::Session;
use crate::wire::{self, KvVersion};

/// The maximum number of secrets in a listing.
const MAX_SECRETS: usize = 10_000;
/// The maximum depth of folders in a listing. Deeper folders are skipped.
const MAX_DEPTH: usize = 16;

/// Where the secrets of a provider are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The name of the mount, without slashes at its ends.
    pub(crate) mount: String,
    /// The path below the mount at which keys begin. It can be empty.
    pub(crate) base: String,
    pub(crate) kv: KvVersion,
}

/// The secrets below a path.
#[derive(Default)]
pub(crate) struct Listing {
    /// The paths of the secrets, relative to the path of the provider.
    pub(crate) paths: Vec<String>,
    /// The errors of folders that this login must not list.
    pub(crate) denied: Vec<Error>,
    is_root_denied: bool,
}

impl Listing {
    /// Returns the error of the whole listing's folder, if this login must not list it.
    pub(crate) fn denied_root(&self) -> Option<&Error> {
        self.denied.first().filter(|_| self.is_root_denied)
    }
}

/// A secret, with the path of its requests.
pub(crate) struct Target {
    pub(crate) kv: KvVersion,
    /// The path below the mount.
    pub(crate) path: String,
    /// The path of the request.
    pub(crate) url: String,
    /// The path in the server's policies.
    pub(crate) policy: String,
}

impl Location {
    /// Returns the secret at `below`.
    pub(crate) fn secret(&self, below: &str) -> Result<Target, Error> {
        let path = join(&self.base, below);
        if path.is_empty() {
            return Err(no_path());
        }
        let policy = self.policy_path(&path);
        Ok(Target {
            kv: self.kv,
            url: ["/v1/", &encode_path(&policy)?].concat(),
            policy,
            path,
        })
    }

    /// Returns the path in the server's policies of the secret at `path` below the mount.
    pub(crate) fn policy_path(&self, path: &str) -> String {
        [&self.mount, self.kind(), "/", path].concat()
    }

    /// Returns the part of a path between the mount and the secret.
    fn kind(&self) -> &'static str {
        match self.kv {
            KvVersion::V1 => "",
            KvVersion::V2 => "/data",
        }
    }

    /// Lists the secrets below the folder `prefix`. The depth of folders is limited, and a secret in
    /// the list might not exist any more.
    pub(crate) async fn list(&self, session: &Session, prefix: &str) -> Result<Listing, Error> {
        let root = join(&self.base, prefix);
        let mut listing = Listing::default();
        let mut folders = vec![(root.clone(), 0)];
        let mut paths = Vec::new();
        while let Some((folder, depth)) = folders.pop() {
            let names = match self.names(session, &folder).await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    listing.denied.push(error);
                    listing.is_root_denied |= folder == root;
                    continue;
                }
                names => names?,
            };
            // A name without text would be that of its own folder.
            let is_name = |name: &String| !name.trim_matches('/').is_empty();
            for name in names.into_iter().filter(is_name) {
                let path = join(&folder, name.trim_end_matches('/'));
                match name.ends_with('/') {
                    true if depth < MAX_DEPTH => folders.push((path, depth + 1)),
                    true => {}
                    false => paths.push(path),
                }
            }
            if paths.len() > MAX_SECRETS {
                let message = format!("the listing has more than {MAX_SECRETS} secrets");
                return Err(
                    Error::new(ErrorKind::TooLarge, message).with_hint("list a longer prefix")
                );
            }
        }
        if !root.is_empty() {
            paths.push(root);
        }
        let relative = |path: String| below(&path, &self.base).map(str::to_owned);
        listing.paths = paths.into_iter().filter_map(relative).collect();
        Ok(listing)
    }

    /// Returns the names in a folder. Those of folders end with a slash.
    async fn names(&self, session: &Session, folder: &str) -> Result<Vec<String>, Error> {
        let kind = match self.kv {
            KvVersion::V1 => "",
            KvVersion::V2 => "/metadata",
        };
        let mount = encode_path(&self.mount)?;
        let url = match folder {
            "" => format!("/v1/{mount}{kind}/?list=true"),
            _ => format!("/v1/{mount}{kind}/{}/?list=true", encode_path(folder)?),
        };
        let policy = join(&format!("{}{kind}", self.mount), folder);
        let listed = wire::listed(&session.get(&url).await?, &policy);
        listed.map_err(|error| match api_segment(self.kv, folder) {
            Some(first) if is_missing(&error) => with_api_hint(error, first),
            _ => error,
        })
    }
}

impl Target {
    /// Adds a hint to the error of a path that was copied from an API request.
    pub(crate) fn with_hint(&self, error: Error) -> Error {
        match self.api_segment().filter(|_| is_missing(&error)) {
            Some(first) => with_api_hint(error, first),
            None => error,
        }
    }

    /// Returns the first segment of the path if only the API has it before the path of a secret.
    pub(crate) fn api_segment(&self) -> Option<&'static str> {
        api_segment(self.kv, &self.path)
    }
}

/// Returns the first segment of a path below the mount if only the API has it before the path of a secret.
fn api_segment(kv: KvVersion, path: &str) -> Option<&'static str> {
    match (kv, path.split('/').next()) {
        (KvVersion::V2, Some("data")) => Some("data"),
        (KvVersion::V2, Some("metadata")) => Some("metadata"),
        _ => None,
    }
}

fn is_missing(error: &Error) -> bool {
    error.is_not_found() || error.kind() == ErrorKind::Denied
}

fn with_api_hint(error: Error, first: &str) -> Error {
    error.with_hint(format!("leave out `{first}/`, which only the API uses"))
}

/// Logs that this login must not read or list a path, which an operation therefore leaves out.
pub(crate) fn log_denied(session: &Session, error: &Error) {
    tracing::warn!(target: "secretwell::vault", event = "path_denied", origin = %session.origin(), %error, "the login must not read a path; its secrets are not listed");
}

/// Joins two paths, each of which can be empty.
pub(crate) fn join(first: &str, second: &str) -> String {
    match (first, second) {
        ("", path) | (path, "") => path.to_owned(),
        _ => [first, "/", second].concat(),
    }
}

/// Returns the part of `path` below `folder`, or `None` if the path is not in the folder. A folder ends at a
/// slash.
pub(crate) fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(folder)?;
    match rest.is_empty() {
        true => Some(rest),
        false => rest.strip_prefix('/'),
    }
}

pub(crate) fn no_path() -> Error {
    Error::new(
        ErrorKind::InvalidKey,
        "the key has no prefix, and the provider has no path below the mount",
    )
    .with_hint("set a path, or write the key like `app/NAME`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_of_a_path_ends_at_a_slash() {
        assert_eq!(below("kv/app", "kv"), Some("app"));
        assert_eq!(below("kv", "kv"), Some(""));
        assert_eq!(below("kv/app", ""), Some("kv/app"));
        assert_eq!(below("kvops/app", "kv"), None);
        assert_eq!(below("kv", "kv/app"), None);
    }
}
