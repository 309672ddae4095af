//! What the server says of secrets, folders and projects.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use secretwell_core::{Error, ErrorKind, Secret, SecretValue, Version};
use secretwell_http::Response;
use serde::Deserialize;

use super::{malformed, no_such_environment, why_not};

/// A secret as it stands in an answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// What its versions are counted for: one that is deleted and written anew has another.
    #[serde(default)]
    id: Option<String>,
    secret_key: String,
    #[serde(default)]
    secret_value: Option<SecretValue>,
    #[serde(default)]
    secret_value_hidden: bool,
    version: u64,
    #[serde(default)]
    r#type: Kind,
    #[serde(default)]
    updated_at: Option<String>,
    /// Only in lists, and not of imported ones.
    #[serde(default)]
    secret_path: Option<String>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Shared,
    Personal,
}

/// One secret of a folder.
pub(crate) struct Entry {
    /// None: the login may know that it is there, and not what it is.
    value: Option<SecretValue>,
    version: Version,
    /// What a single read said of it, where that holds for as long as the list stays as it is.
    confirmed: OnceLock<Result<Secret, Error>>,
}

impl Entry {
    fn of(found: Found) -> (String, Self) {
        let hidden = found.secret_value_hidden;
        let mut version = Version::numbered(found.version);
        if let Some(id) = &found.id {
            version = version.with_identity(id);
        }
        let written = found.updated_at.as_deref().and_then(time);
        if let Some(written) = written {
            version = version.with_created_at(written);
        }
        let entry = Self {
            value: found.secret_value.filter(|_| !hidden),
            version,
            confirmed: OnceLock::new(),
        };
        (found.secret_key, entry)
    }

    /// What a single read said of it, if that still holds.
    pub(crate) fn confirmed(&self) -> Option<Result<Secret, Error>> {
        self.confirmed.get().cloned()
    }

    /// Takes note of what a single read said of it. `reference` is the one that was left in the list: one
    /// into another folder may lead to another value while this list stays as it is.
    pub(crate) fn note(&self, reference: &str, said: &Result<Secret, Error>) {
        let holds = match said {
            Ok(_) => !reference.contains('.'),
            Err(error) => {
                let settled = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Denied);
                settled && !error.is_temporary()
            }
        };
        if holds {
            let _ = self.confirmed.set(said.clone());
        }
    }

    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    /// The secret itself.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`]: its value is hidden from this login.
    pub(crate) fn secret(&self) -> Result<Secret, Error> {
        let value = self.value.clone().ok_or_else(|| {
            Error::new(ErrorKind::Denied, "the value is hidden from this login")
                .with_hint("give its role the permission to read values")
        })?;
        Ok(Secret::new(value).with_version(self.version.clone()))
    }
}

fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok()
}

type Names = HashMap<String, Entry>;

/// The secrets of one folder, or of it and all below.
#[derive(Default)]
pub(crate) struct Listing {
    /// What the folders themselves hold, by their paths; by none where the answer tells none.
    own: HashMap<String, Names>,
    /// What they import, the later import over the earlier one.
    imported: Names,
}

impl Listing {
    /// What a list brought.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn of(response: &Response, personal: bool) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct ResponseBody {
            secrets: Vec<Found>,
            #[serde(default)]
            imports: Vec<Import>,
        }

        #[derive(Deserialize)]
        struct Import {
            secrets: Vec<Found>,
        }

        if !response.status.is_success() {
            return Err(why_not(response));
        }
        let answer: ResponseBody = serde_json::from_slice(&response.body)
            .map_err(|_| malformed("it is no list of secrets"))?;
        let mut own = HashMap::new();
        // A personal value stands before the shared one of the same name.
        let (mine, shared): (Vec<_>, Vec<_>) = answer
            .secrets
            .into_iter()
            .partition(|found| found.r#type == Kind::Personal);
        for mut found in shared
            .into_iter()
            .chain(mine.into_iter().filter(|_| personal))
        {
            let path = found.secret_path.take().unwrap_or_default();
            let names: &mut Names = own.entry(path).or_default();
            names.extend([Entry::of(found)]);
        }
        let imports = answer.imports.into_iter();
        Ok(Self {
            own,
            imported: imports
                .flat_map(|import| import.secrets)
                .map(Entry::of)
                .collect(),
        })
    }

    /// The secret of this name in the folder that was listed.
    pub(crate) fn get(&self, folder: &str, name: &str) -> Option<&Entry> {
        self.own_of(folder, name)
            .or_else(|| self.own_of("", name))
            .or_else(|| self.imported.get(name))
    }

    /// The secret of this name that `folder` itself holds.
    pub(crate) fn own_of(&self, folder: &str, name: &str) -> Option<&Entry> {
        self.own.get(folder)?.get(name)
    }

    /// Whether there is nothing, which is also what the server says of a folder that there is none of.
    pub(crate) fn is_empty(&self) -> bool {
        self.own.values().all(HashMap::is_empty) && self.imported.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let own = self.own.values().map(HashMap::len).sum();
        (own, self.imported.len())
    }

    /// The folders that hold secrets of their own, with their names.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.own
            .iter()
            .map(|(folder, names)| (folder.as_str(), names.keys().map(String::as_str)))
    }

    /// The names that are imported.
    pub(crate) fn imported(&self) -> impl Iterator<Item = &str> {
        self.imported.keys().map(String::as_str)
    }
}

/// What a read of one secret brought.
///
/// # Errors
/// Why there is none.
pub(crate) fn single(response: &Response) -> Result<Entry, Error> {
    #[derive(Deserialize)]
    struct ResponseBody {
        secret: Found,
    }

    if !response.status.is_success() {
        return Err(why_not(response));
    }
    let answer: ResponseBody =
        serde_json::from_slice(&response.body).map_err(|_| malformed("it is no secret"))?;
    Ok(Entry::of(answer.secret).1)
}

/// The names of the folders in a folder.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`]: there is no such environment. Or why the server does not tell.
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
            .map_err(|_| malformed("it is no list of folders")),
        404 if super::is_unknown_route(response) => Err(why_not(response)),
        404 => match why_not(response) {
            error if error.kind() == ErrorKind::InvalidConfig => Err(error),
            _ => Err(no_such_environment()),
        },
        _ => Err(why_not(response)),
    }
}

/// The id of the project that was asked for by its slug.
pub(crate) fn project_id(response: &Response) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Project {
        id: String,
    }

    match response.status.as_u16() {
        200 => serde_json::from_slice(&response.body)
            .map(|project: Project| project.id)
            .map_err(|_| malformed("it is no project")),
        404 if !super::is_unknown_route(response) => Err(super::no_such_project()),
        _ => Err(why_not(response)),
    }
}

/// The first reference that is left in a value: `${NAME}` or `${environment.folder.NAME}`.
pub(crate) fn leftover(text: &str) -> Option<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    text.split("${").skip(1).find_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let name = name.trim();
        (!name.is_empty() && name.chars().all(allowed)).then_some(name)
    })
}
