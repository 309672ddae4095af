//! Data of the fake: projects, environments, folders, secrets and their versions.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::personality::References;

/// The maximum depth of nested references that a real server expands.
pub(super) const MAX_DEPTH: usize = 11;

/// All projects. Ids and times come from counters, so that every run produces the same ones.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) projects: Vec<Project>,
    ids: u64,
    writes: u64,
}

#[derive(Debug)]
pub(super) struct Project {
    pub(super) id: String,
    pub(super) slug: String,
    pub(super) environments: BTreeMap<String, Folders>,
}

/// The folders of one environment by their paths. The root folder always exists.
pub(super) type Folders = BTreeMap<String, Folder>;

#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) id: String,
    pub(super) secrets: Vec<Secret>,
    /// The environments and paths of the imported folders, in order.
    pub(super) imports: Vec<(String, String)>,
    /// The deleted secrets, whose versions the server keeps.
    pub(super) deleted: Vec<Secret>,
}

#[derive(Debug, Clone)]
pub(super) struct Secret {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) personal: bool,
    pub(super) comment: String,
    pub(super) tags: Vec<String>,
    pub(super) skip_multiline_encoding: bool,
    created_at: String,
    /// The value and the time of each version. The first one is version 1.
    versions: Vec<(String, String)>,
}

/// The location of a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) project: &'a str,
    pub(super) environment: &'a str,
    pub(super) path: &'a str,
}

/// The reason why a reference cannot be expanded, where the server reports one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReferenceError {
    /// The environment or the folder of the reference does not exist.
    NoFolder,
    /// The reader has no permission to read the folder of the reference.
    Denied,
}

impl Store {
    pub(super) fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("00000000-0000-4000-8000-{:012x}", 0xf000_0000 + self.ids)
    }

    /// Returns a time that is later than all previous ones, without a clock.
    fn now(&mut self) -> String {
        self.writes += 1;
        let start = Duration::from_secs(1_767_225_600);
        let now = SystemTime::UNIX_EPOCH + start + Duration::from_millis(self.writes);
        humantime::format_rfc3339_millis(now).to_string()
    }

    pub(super) fn project(&self, id: &str) -> Option<&Project> {
        self.projects.iter().find(|project| project.id == id)
    }

    pub(super) fn project_mut(&mut self, id: &str) -> Option<&mut Project> {
        self.projects.iter_mut().find(|project| project.id == id)
    }

    pub(super) fn folder(&self, location: Location<'_>) -> Option<&Folder> {
        let environment = self
            .project(location.project)?
            .environments
            .get(location.environment)?;
        environment.get(normalize(location.path)?)
    }

    fn folder_mut(&mut self, location: Location<'_>) -> Option<&mut Folder> {
        let project = self.project_mut(location.project)?;
        let environment = project.environments.get_mut(location.environment)?;
        environment.get_mut(normalize(location.path)?)
    }

    /// Creates a folder and its missing parents. Returns whether the folder is new, or `None` if the
    /// environment does not exist.
    pub(super) fn create_folder(&mut self, location: Location<'_>) -> Option<bool> {
        let mut path = String::new();
        let mut is_new = false;
        for name in location.path.split('/').filter(|name| !name.is_empty()) {
            path = format!("{path}/{name}");
            let id = self.new_id();
            let project = self.project_mut(location.project)?;
            let folders = project.environments.get_mut(location.environment)?;
            is_new = !folders.contains_key(&path);
            folders.entry(path.clone()).or_insert_with(|| Folder {
                id,
                ..Folder::default()
            });
        }
        Some(is_new)
    }

    /// Creates a secret, or the next version of an existing one. Returns `None` if the folder does not exist.
    pub(super) fn write(
        &mut self,
        location: Location<'_>,
        name: &str,
        value: &str,
    ) -> Option<Secret> {
        let (id, now) = (self.new_id(), self.now());
        let folder = self.folder_mut(location)?;
        let value = trim_value(value);
        let matches = |secret: &&mut Secret| secret.name == name && !secret.personal;
        if let Some(secret) = folder.secrets.iter_mut().find(matches) {
            secret.versions.push((value, now));
            return Some(secret.clone());
        }
        let secret = Secret {
            id,
            name: name.to_owned(),
            personal: false,
            comment: String::new(),
            tags: Vec::new(),
            skip_multiline_encoding: false,
            created_at: now.clone(),
            versions: vec![(value, now)],
        };
        folder.secrets.push(secret.clone());
        Some(secret)
    }

    /// Adds a user's personal value of a secret. Returns `None` if the folder does not exist.
    pub(super) fn write_personal(
        &mut self,
        location: Location<'_>,
        name: &str,
        value: &str,
    ) -> Option<()> {
        let (id, now) = (self.new_id(), self.now());
        self.folder_mut(location)?.secrets.push(Secret {
            id,
            name: name.to_owned(),
            personal: true,
            comment: String::new(),
            tags: Vec::new(),
            skip_multiline_encoding: false,
            created_at: now.clone(),
            versions: vec![(trim_value(value), now)],
        });
        Some(())
    }

    /// Changes a secret without a new version. Does nothing if the secret does not exist.
    pub(super) fn change(
        &mut self,
        location: Location<'_>,
        name: &str,
        change: impl FnOnce(&mut Secret),
    ) {
        let folder = self.folder_mut(location);
        if let Some(secret) = folder.and_then(|folder| folder.find_mut(name)) {
            change(secret);
        }
    }

    pub(super) fn remove(&mut self, location: Location<'_>, name: &str) -> Option<Secret> {
        let folder = self.folder_mut(location)?;
        let index = folder
            .secrets
            .iter()
            .position(|secret| secret.name == name)?;
        let removed = folder.secrets.remove(index);
        folder.deleted.push(removed.clone());
        Some(removed)
    }

    pub(super) fn import(&mut self, into: Location<'_>, from: (String, String)) -> Option<()> {
        self.folder_mut(into)?.imports.push(from);
        Some(())
    }

    /// Replaces the references in the value of a secret with the values that they name. References that cannot
    /// be expanded stay as they are. Also returns the first error.
    pub(super) fn expand(
        &self,
        location: Location<'_>,
        secret: &Secret,
        expansion: &Expansion<'_>,
    ) -> (String, Option<ReferenceError>) {
        let value = secret.latest();
        let (text, error) = self.expand_value(location, value, expansion.depth, expansion);
        let is_encoded = secret.skip_multiline_encoding && text != value && text.contains('\n');
        match is_encoded {
            true => (format!("\"{}\"", text.replace('\n', "\\n")), error),
            false => (text, error),
        }
    }

    fn expand_value(
        &self,
        location: Location<'_>,
        value: &str,
        depth: usize,
        expansion: &Expansion<'_>,
    ) -> (String, Option<ReferenceError>) {
        let is_strict = expansion.references == References::Strict;
        let mut expanded = String::new();
        let mut first_error = None;
        let mut rest = value;
        while let Some((before, after)) = rest.split_once("${") {
            expanded += before;
            let Some((name, remainder)) = after.split_once('}') else {
                expanded += "${";
                rest = after;
                continue;
            };
            let literal = format!("${{{name}}}");
            let is_reference = depth > 0 && !(is_strict && name.trim() != name);
            let target =
                is_reference.then(|| self.resolve(location, name.trim(), depth, expansion));
            match target {
                Some(Ok(text)) if is_strict => expanded += &text,
                Some(Ok(text)) if !text.is_empty() => {
                    expanded = with_replacement(&expanded, &literal, name, &text, remainder);
                }
                Some(Err(error)) => {
                    first_error = first_error.or(error);
                    expanded += &literal;
                }
                _ => expanded += &literal,
            }
            rest = remainder;
        }
        (expanded + rest, first_error)
    }

    /// Returns the expanded value that a reference names. The error is `None` if the server does not report it.
    fn resolve(
        &self,
        location: Location<'_>,
        name: &str,
        depth: usize,
        expansion: &Expansion<'_>,
    ) -> Result<String, Option<ReferenceError>> {
        let parts: Vec<&str> = name.split('.').collect();
        let (environment, path, name) = match parts[..] {
            [name] => (location.environment, location.path.to_owned(), name),
            [environment, ref folders @ .., name] => {
                (environment, format!("/{}", folders.join("/")), name)
            }
            [] => return Err(None),
        };
        let target = Location {
            environment,
            path: &path,
            ..location
        };
        let no_folder = match expansion.references {
            References::Lenient => Some(ReferenceError::NoFolder),
            References::Strict => None,
        };
        // The newest server does not report a missing folder, whether the reader may read it or not.
        if no_folder.is_none() && self.folder(target).is_none() {
            return Err(None);
        }
        if !(expansion.can_read)(environment, &path) {
            return Err(Some(ReferenceError::Denied));
        }
        let folder = self.folder(target).ok_or(no_folder)?;
        let secret = folder.find(name).ok_or(None)?;
        Ok(self
            .expand_value(target, secret.latest(), depth - 1, expansion)
            .0)
    }
}

/// How the references of a value are expanded.
pub(super) struct Expansion<'a> {
    pub(super) references: References,
    /// The maximum depth of nested references.
    pub(super) depth: usize,
    /// Returns whether the reader can read a folder, by its environment and path.
    pub(super) can_read: &'a dyn Fn(&str, &str) -> bool,
}

/// Returns `before` followed by `text`, in which a `$` has the meaning that it has in a replacement of
/// JavaScript.
fn with_replacement(before: &str, matched: &str, name: &str, text: &str, after: &str) -> String {
    let mut replaced = before.to_owned();
    let mut rest = text;
    while let Some((start, end)) = rest.split_once('$') {
        replaced += start;
        let inserted = match end.as_bytes().first() {
            Some(b'$') => Some("$"),
            Some(b'&') => Some(matched),
            Some(b'1') => Some(name),
            Some(b'`') => Some(before),
            Some(b'\'') => Some(after),
            _ => None,
        };
        replaced += inserted.unwrap_or("$");
        rest = if inserted.is_some() { &end[1..] } else { end };
    }
    replaced + rest
}

impl Folder {
    /// Returns the shared secret of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Secret> {
        let matches = |secret: &&Secret| secret.name == name && !secret.personal;
        self.secrets.iter().find(matches)
    }

    /// Returns a version of the shared secret of this name. The server finds it by the name, so that it can be a
    /// version of a deleted secret.
    pub(super) fn find_version(&self, name: &str, version: usize) -> Option<Secret> {
        let secrets = self.deleted.iter().chain(&self.secrets);
        let mut secrets = secrets.filter(|secret| secret.name == name && !secret.personal);
        secrets.find_map(|secret| secret.at_version(version))
    }

    /// Returns the personal value of the secret of this name.
    pub(super) fn find_personal(&self, name: &str) -> Option<&Secret> {
        let matches = |secret: &&Secret| secret.name == name && secret.personal;
        self.secrets.iter().find(matches)
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut Secret> {
        self.secrets.iter_mut().find(|secret| secret.name == name)
    }
}

impl Secret {
    pub(super) fn version(&self) -> usize {
        self.versions.len()
    }

    pub(super) fn latest(&self) -> &str {
        self.versions.last().map_or("", |(value, _)| value)
    }

    /// Returns the secret as it was at an earlier version.
    fn at_version(&self, version: usize) -> Option<Self> {
        let mut earlier = self.clone();
        earlier.versions.truncate(version);
        (version > 0 && earlier.version() == version).then_some(earlier)
    }

    /// Returns the JSON of the secret with this value. The JSON of an imported secret has no project and no
    /// times.
    pub(super) fn json(&self, location: Location<'_>, value: &str, imported: bool) -> Value {
        let mut json = json!({
            "id": self.id,
            "_id": self.id,
            "workspace": if imported { "" } else { location.project },
            "environment": location.environment,
            "version": self.version(),
            "type": if self.personal { "personal" } else { "shared" },
            "secretKey": self.name,
            "secretValue": value,
            "secretComment": self.comment,
            "skipMultilineEncoding": self.skip_multiline_encoding,
            "metadata": null,
        });
        if !imported {
            json["secretReminderNote"] = Value::Null;
            json["secretReminderRepeatDays"] = Value::Null;
            json["createdAt"] = json!(self.created_at);
            json["updatedAt"] = json!(self.versions.last().map(|(_, at)| at));
        }
        json
    }
}

/// Returns a path without its final slash, or `None` if the server does not accept its form.
fn normalize(path: &str) -> Option<&str> {
    match path {
        "/" => Some(path),
        _ if path.starts_with("//") || !path.starts_with('/') => None,
        _ => Some(path.strip_suffix('/').unwrap_or(path)),
    }
}

/// Trims a value as the server does. JavaScript's white space is removed at both ends, and one final line
/// feed is kept.
fn trim_value(value: &str) -> String {
    let text = value.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    match value.trim_end_matches([' ', '\t', '\r']).ends_with('\n') && !text.is_empty() {
        true => format!("{text}\n"),
        false => text.to_owned(),
    }
}
