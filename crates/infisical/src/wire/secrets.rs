//! Responses about secrets, folders and projects.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use secretwell_core::{Error, ErrorKind, Secret, SecretValue, Version};
use secretwell_http::Response;
use serde::Deserialize;

use super::{malformed, no_such_environment, request_error};

/// A secret in a response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretBody {
    /// The secret that the version number belongs to. A secret that is deleted and created again has
    /// another id, and its versions start at 1 again.
    #[serde(default)]
    id: Option<String>,
    secret_key: String,
    #[serde(default)]
    secret_value: Option<SecretValue>,
    #[serde(default)]
    secret_value_hidden: bool,
    version: u64,
    #[serde(default)]
    r#type: SecretType,
    #[serde(default)]
    updated_at: Option<String>,
    /// Present only in lists, and not for imported secrets.
    #[serde(default)]
    secret_path: Option<String>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum SecretType {
    #[default]
    Shared,
    Personal,
}

/// One secret of a list or of a single read.
pub(crate) struct Entry {
    /// `None` if the login has no permission to read the value.
    value: Option<SecretValue>,
    version: Version,
    /// The result of a single read of this secret, if it is valid for as long as the list is unchanged.
    single_read: OnceLock<Result<Secret, Error>>,
}

impl Entry {
    /// Converts a secret in a response to its name and its entry.
    fn from_body(body: SecretBody) -> (String, Self) {
        let hidden = body.secret_value_hidden;
        let mut version = Version::numbered(body.version);
        if let Some(id) = &body.id {
            version = version.with_identity(id);
        }
        if let Some(created_at) = body.updated_at.as_deref().and_then(parse_time) {
            version = version.with_created_at(created_at);
        }
        let entry = Self {
            value: body.secret_value.filter(|_| !hidden),
            version,
            single_read: OnceLock::new(),
        };
        (body.secret_key, entry)
    }

    /// Returns the recorded result of a single read.
    pub(crate) fn single_read(&self) -> Option<Result<Secret, Error>> {
        self.single_read.get().cloned()
    }

    /// Records the result of a single read, if it stays valid while the list is unchanged. `reference` is the
    /// unexpanded reference in the list. If it leads into another folder, its value can change without a
    /// change of this list, so a success is not recorded.
    pub(crate) fn record_single_read(&self, reference: &str, result: &Result<Secret, Error>) {
        let stays_valid = match result {
            Ok(_) => !reference.contains('.'),
            Err(error) => {
                let is_final = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Denied);
                is_final && !error.is_temporary()
            }
        };
        if stays_valid {
            let _ = self.single_read.set(result.clone());
        }
    }

    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    /// Returns the secret.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Denied`] if the login has no permission to read the value.
    pub(crate) fn secret(&self) -> Result<Secret, Error> {
        let value = self.value.clone().ok_or_else(|| {
            let message = "the login has no permission to read the value";
            Error::new(ErrorKind::Denied, message)
                .with_hint("grant its role the permission to read values")
        })?;
        Ok(Secret::new(value).with_version(self.version.clone()))
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok()
}

/// Entries by the names of their secrets.
type Entries = HashMap<String, Entry>;

/// The secrets of one folder, or of a folder and everything below it.
#[derive(Default)]
pub(crate) struct Listing {
    /// The folders' own secrets, by the path of the folder. The path is empty if the response omits it.
    own: HashMap<String, Entries>,
    /// The imported secrets. A later import overrides an earlier one.
    imported: Entries,
}

impl Listing {
    /// Parses the response to a list request. `personal` includes personal values, which then override
    /// shared ones.
    ///
    /// # Errors
    /// Returns the reason if the server refused the request.
    pub(crate) fn parse(response: &Response, personal: bool) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct ResponseBody {
            secrets: Vec<SecretBody>,
            #[serde(default)]
            imports: Vec<Import>,
        }

        #[derive(Deserialize)]
        struct Import {
            secrets: Vec<SecretBody>,
        }

        if !response.status.is_success() {
            return Err(request_error(response));
        }
        let body: ResponseBody =
            serde_json::from_slice(&response.body).map_err(|_| malformed("a list of secrets"))?;
        let mut own = HashMap::new();
        let (personal_secrets, shared): (Vec<_>, Vec<_>) = body
            .secrets
            .into_iter()
            .partition(|secret| secret.r#type == SecretType::Personal);
        // Personal values are inserted last, so that they override shared ones.
        for mut secret in shared
            .into_iter()
            .chain(personal_secrets.into_iter().filter(|_| personal))
        {
            let path = secret.secret_path.take().unwrap_or_default();
            let entries: &mut Entries = own.entry(path).or_default();
            entries.extend([Entry::from_body(secret)]);
        }
        let imports = body.imports.into_iter();
        Ok(Self {
            own,
            imported: imports
                .flat_map(|import| import.secrets)
                .map(Entry::from_body)
                .collect(),
        })
    }

    /// Returns the secret `name` of the listed folder, or the imported one of that name.
    pub(crate) fn find(&self, folder: &str, name: &str) -> Option<&Entry> {
        self.find_own(folder, name)
            .or_else(|| self.find_own("", name))
            .or_else(|| self.imported.get(name))
    }

    /// Returns the secret `name` of `folder`, without imports.
    pub(crate) fn find_own(&self, folder: &str, name: &str) -> Option<&Entry> {
        self.own.get(folder)?.get(name)
    }

    /// Returns whether the list is empty. The server lists a missing folder as empty, too.
    pub(crate) fn is_empty(&self) -> bool {
        self.own.values().all(HashMap::is_empty) && self.imported.is_empty()
    }

    /// Returns the number of own and of imported secrets.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let own = self.own.values().map(HashMap::len).sum();
        (own, self.imported.len())
    }

    /// Returns the folders that have secrets of their own, with the names of these secrets.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.own
            .iter()
            .map(|(folder, entries)| (folder.as_str(), entries.keys().map(String::as_str)))
    }

    /// Returns the names of the imported secrets.
    pub(crate) fn imported_names(&self) -> impl Iterator<Item = &str> {
        self.imported.keys().map(String::as_str)
    }
}

/// Parses the response to a read of one secret.
///
/// # Errors
/// Returns the reason if the server refused the request.
pub(crate) fn parse_single(response: &Response) -> Result<Entry, Error> {
    #[derive(Deserialize)]
    struct ResponseBody {
        secret: SecretBody,
    }

    if !response.status.is_success() {
        return Err(request_error(response));
    }
    let body: ResponseBody =
        serde_json::from_slice(&response.body).map_err(|_| malformed("a secret"))?;
    Ok(Entry::from_body(body.secret).1)
}

/// Parses the response to a request for the folders in a folder, and returns their names.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`] if the environment does not exist, or the reason if the server
/// refused the request.
pub(crate) fn folder_names(response: &Response) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct ResponseBody {
        folders: Vec<Folder>,
    }

    #[derive(Deserialize)]
    struct Folder {
        name: String,
    }

    match response.status.as_u16() {
        200 => serde_json::from_slice(&response.body)
            .map(|ResponseBody { folders }| folders.into_iter().map(|folder| folder.name).collect())
            .map_err(|_| malformed("a list of folders")),
        404 if super::is_unknown_route(response) => Err(request_error(response)),
        404 => match request_error(response) {
            error if error.kind() == ErrorKind::InvalidConfig => Err(error),
            _ => Err(no_such_environment()),
        },
        _ => Err(request_error(response)),
    }
}

/// Parses the response to a request for a project by its slug, and returns the project's id.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`] if the project does not exist, or the reason if the server refused
/// the request.
pub(crate) fn project_id(response: &Response) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Project {
        id: String,
    }

    match response.status.as_u16() {
        200 => serde_json::from_slice(&response.body)
            .map(|project: Project| project.id)
            .map_err(|_| malformed("a project")),
        404 if !super::is_unknown_route(response) => Err(super::no_such_project()),
        _ => Err(request_error(response)),
    }
}

/// Returns the first reference in a value, without its braces: `NAME` of `${NAME}`, or
/// `environment.folder.NAME` of `${environment.folder.NAME}`.
pub(crate) fn find_reference(text: &str) -> Option<&str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    text.split("${").skip(1).find_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let name = name.trim();
        (!name.is_empty() && name.chars().all(is_allowed)).then_some(name)
    })
}
