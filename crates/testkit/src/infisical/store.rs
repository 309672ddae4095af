//! What the fake holds: projects, environments, folders, secrets and their versions.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

/// How many references lie behind one another before the server gives up.
const HOPS: usize = 11;

/// All projects. Ids and times are made by counting, so that two runs are alike.
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

/// The folders of one environment by their paths; the root is always there.
pub(super) type Folders = BTreeMap<String, Folder>;

#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) id: String,
    pub(super) secrets: Vec<Secret>,
    /// Where the folder imports from: environments and paths, in order.
    pub(super) imports: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub(super) struct Secret {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) personal: bool,
    pub(super) comment: String,
    pub(super) tags: Vec<String>,
    created: String,
    /// The value and the time of each version, the first being 1.
    versions: Vec<(String, String)>,
}

/// Where a secret is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) project: &'a str,
    pub(super) environment: &'a str,
    pub(super) path: &'a str,
}

/// Why a reference could not be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Into an environment or a folder that there is none of.
    NoFolder,
    /// To where whoever asks may not read.
    Denied,
}

impl Store {
    pub(super) fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("00000000-0000-4000-8000-{:012x}", 0xf000_0000 + self.ids)
    }

    /// A later time than any before, without a clock.
    fn now(&mut self) -> String {
        self.writes += 1;
        let begin = Duration::from_secs(1_767_225_600);
        let now = SystemTime::UNIX_EPOCH + begin + Duration::from_millis(self.writes);
        humantime::format_rfc3339_millis(now).to_string()
    }

    pub(super) fn project(&self, id: &str) -> Option<&Project> {
        self.projects.iter().find(|project| project.id == id)
    }

    pub(super) fn project_mut(&mut self, id: &str) -> Option<&mut Project> {
        self.projects.iter_mut().find(|project| project.id == id)
    }

    pub(super) fn folder(&self, place: Place<'_>) -> Option<&Folder> {
        let environment = self
            .project(place.project)?
            .environments
            .get(place.environment)?;
        environment.get(normal(place.path)?)
    }

    fn folder_mut(&mut self, place: Place<'_>) -> Option<&mut Folder> {
        let project = self.project_mut(place.project)?;
        let environment = project.environments.get_mut(place.environment)?;
        environment.get_mut(normal(place.path)?)
    }

    /// Makes a folder and those above it. Returns whether it is new; `None` without the environment.
    pub(super) fn make_folder(&mut self, place: Place<'_>) -> Option<bool> {
        let mut path = String::new();
        let mut is_new = false;
        for name in place.path.split('/').filter(|name| !name.is_empty()) {
            path = format!("{path}/{name}");
            let id = self.new_id();
            let project = self.project_mut(place.project)?;
            let folders = project.environments.get_mut(place.environment)?;
            is_new = !folders.contains_key(&path);
            folders.entry(path.clone()).or_insert_with(|| Folder {
                id,
                ..Folder::default()
            });
        }
        Some(is_new)
    }

    /// Writes a secret anew, or the next version of it; `None` without the folder.
    pub(super) fn write(&mut self, place: Place<'_>, name: &str, value: &str) -> Option<Secret> {
        let (id, now) = (self.new_id(), self.now());
        let folder = self.folder_mut(place)?;
        let value = trimmed(value);
        if let Some(secret) = folder.secrets.iter_mut().find(|secret| secret.name == name) {
            secret.versions.push((value, now));
            return Some(secret.clone());
        }
        let secret = Secret {
            id,
            name: name.to_owned(),
            personal: false,
            comment: String::new(),
            tags: Vec::new(),
            created: now.clone(),
            versions: vec![(value, now)],
        };
        folder.secrets.push(secret.clone());
        Some(secret)
    }

    /// Adds what a user has instead of the shared secret of the same name.
    pub(super) fn write_personal(
        &mut self,
        place: Place<'_>,
        name: &str,
        value: &str,
    ) -> Option<()> {
        let (id, now) = (self.new_id(), self.now());
        self.folder_mut(place)?.secrets.push(Secret {
            id,
            name: name.to_owned(),
            personal: true,
            comment: String::new(),
            tags: Vec::new(),
            created: now.clone(),
            versions: vec![(trimmed(value), now)],
        });
        Some(())
    }

    /// Changes a secret in place.
    pub(super) fn change(
        &mut self,
        place: Place<'_>,
        name: &str,
        change: impl FnOnce(&mut Secret),
    ) {
        let folder = self.folder_mut(place);
        if let Some(secret) = folder.and_then(|folder| folder.find_mut(name)) {
            change(secret);
        }
    }

    pub(super) fn remove(&mut self, place: Place<'_>, name: &str) -> Option<Secret> {
        let folder = self.folder_mut(place)?;
        let at = folder
            .secrets
            .iter()
            .position(|secret| secret.name == name)?;
        Some(folder.secrets.remove(at))
    }

    pub(super) fn import(&mut self, into: Place<'_>, from: (String, String)) -> Option<()> {
        self.folder_mut(into)?.imports.push(from);
        Some(())
    }

    /// `value` with its references replaced by what they name, as far as they lead somewhere, for
    /// whoever may read where `allowed` says. Tells the first that could not be followed.
    pub(super) fn expand(
        &self,
        place: Place<'_>,
        value: &str,
        hops: usize,
        allowed: &dyn Fn(&str, &str) -> bool,
    ) -> (String, Option<Broken>) {
        let mut expanded = String::new();
        let mut broken = None;
        let mut rest = value;
        while let Some((before, after)) = rest.split_once("${") {
            expanded += before;
            let Some((name, behind)) = after.split_once('}') else {
                expanded += "${";
                rest = after;
                continue;
            };
            let target = (hops > 0).then(|| self.follow(place, name.trim(), hops, allowed));
            match target {
                Some(Ok(text)) if !text.is_empty() => expanded += &text,
                Some(Err(why)) => {
                    broken = broken.or(why);
                    expanded += &format!("${{{name}}}");
                }
                _ => expanded += &format!("${{{name}}}"),
            }
            rest = behind;
        }
        (expanded + rest, broken)
    }

    /// Like [`expand`](Self::expand) as far as the server goes.
    pub(super) fn expand_all(
        &self,
        place: Place<'_>,
        value: &str,
        allowed: &dyn Fn(&str, &str) -> bool,
    ) -> (String, Option<Broken>) {
        self.expand(place, value, HOPS, allowed)
    }

    /// What a reference names, itself expanded.
    fn follow(
        &self,
        place: Place<'_>,
        name: &str,
        hops: usize,
        allowed: &dyn Fn(&str, &str) -> bool,
    ) -> Result<String, Option<Broken>> {
        let parts: Vec<&str> = name.split('.').collect();
        let (environment, path, name) = match parts[..] {
            [name] => (place.environment, place.path.to_owned(), name),
            [environment, ref folders @ .., name] => {
                (environment, format!("/{}", folders.join("/")), name)
            }
            [] => return Err(None),
        };
        if !allowed(environment, &path) {
            return Err(Some(Broken::Denied));
        }
        let target = Place {
            environment,
            path: &path,
            ..place
        };
        let folder = self.folder(target).ok_or(Some(Broken::NoFolder))?;
        let secret = folder.find(name).ok_or(None)?;
        Ok(self.expand(target, secret.latest(), hops - 1, allowed).0)
    }
}

impl Folder {
    pub(super) fn find(&self, name: &str) -> Option<&Secret> {
        let named = |secret: &&Secret| secret.name == name && !secret.personal;
        self.secrets.iter().find(named)
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

    /// The value of an earlier version.
    pub(super) fn at_version(&self, version: usize) -> Option<Self> {
        let mut earlier = self.clone();
        earlier.versions.truncate(version);
        (version > 0 && earlier.version() == version).then_some(earlier)
    }

    /// As it stands in an answer, with this value. Imported ones lack their project and their times.
    pub(super) fn json(&self, place: Place<'_>, value: &str, imported: bool) -> Value {
        let mut json = json!({
            "id": self.id,
            "_id": self.id,
            "workspace": if imported { "" } else { place.project },
            "environment": place.environment,
            "version": self.version(),
            "type": if self.personal { "personal" } else { "shared" },
            "secretKey": self.name,
            "secretValue": value,
            "secretComment": self.comment,
            "skipMultilineEncoding": false,
            "metadata": null,
        });
        if !imported {
            json["secretReminderNote"] = Value::Null;
            json["secretReminderRepeatDays"] = Value::Null;
            json["createdAt"] = json!(self.created);
            json["updatedAt"] = json!(self.versions.last().map(|(_, at)| at));
        }
        json
    }
}

/// A path without the slash at its end; `None` where the server knows no such form.
fn normal(path: &str) -> Option<&str> {
    match path {
        "/" => Some(path),
        _ if path.starts_with("//") || !path.starts_with('/') => None,
        _ => Some(path.strip_suffix('/').unwrap_or(path)),
    }
}

/// What the server makes of a value: trimmed as its language does it, with one line end kept.
fn trimmed(value: &str) -> String {
    let text = value.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    match value.trim_end_matches([' ', '\t', '\r']).ends_with('\n') && !text.is_empty() {
        true => format!("{text}\n"),
        false => text.to_owned(),
    }
}
