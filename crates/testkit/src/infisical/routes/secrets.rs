//! Lists of secrets, single ones, and what is written.

use serde_json::{Value, json};

use super::super::State;
use super::super::access::Role;
use super::super::response::FakeResponse;
use super::super::store::{Broken, Folder, Place, Project, Secret};
use super::{Asked, denied, place};

/// What stands for a value that is not shown.
const HIDDEN: &str = "<hidden-by-infisical>";

impl State {
    /// The project of a request for secrets.
    fn project_of(&self, asked: &Asked<'_>) -> Result<&Project, FakeResponse> {
        match asked.is_v4 {
            true => self.wanted(asked, asked.get("projectId"), None),
            false => self.wanted(asked, asked.get("workspaceId"), asked.get("workspaceSlug")),
        }
    }

    fn may_read(&self, asked: &Asked<'_>, place: Place<'_>) -> bool {
        let known = &self.access.identities[asked.identity];
        known.may_read(place.project, place.environment, place.path)
    }

    /// A secret as it stands in an answer, expanded if that is asked for.
    fn shown(
        &self,
        asked: &Asked<'_>,
        place: Place<'_>,
        secret: &Secret,
        imported: bool,
    ) -> (Value, Option<Broken>) {
        let in_list = asked.path.ends_with("/raw") || asked.path.ends_with("/secrets");
        let expands = asked.flag("expandSecretReferences", false) || imported && in_list;
        let known = &self.access.identities[asked.identity];
        let allowed =
            |environment: &str, path: &str| known.may_read(place.project, environment, path);
        let (value, broken) = match (expands, in_list && self.half_expands) {
            (false, _) => (secret.latest().to_owned(), None),
            (true, true) => self.store.expand(place, secret.latest(), 1, &allowed),
            (true, false) => self.store.expand_all(place, secret.latest(), &allowed),
        };
        let hidden = asked.is_v4 && known.values_hidden;
        let value = if hidden { HIDDEN } else { &value };
        let mut json = secret.json(place, value, imported && in_list);
        if !imported {
            json["tags"] = secret
                .tags
                .iter()
                .map(|tag| json!({"slug": tag, "name": tag}))
                .collect();
            if in_list || asked.is_v4 {
                json["secretPath"] = json!(place.path);
            }
        }
        if asked.is_v4 {
            json["secretValueHidden"] = json!(hidden);
            json["secretMetadata"] = json!([]);
        }
        (json, broken)
    }

    pub(super) fn list(&self, asked: &Asked<'_>) -> Result<FakeResponse, FakeResponse> {
        check_flags(asked)?;
        let id = if asked.is_v4 {
            "projectId"
        } else {
            "workspaceId"
        };
        let named = asked.get(id).or_else(|| asked.get("workspaceSlug"));
        let (Some(_), Some(environment)) = (named, asked.get("environment")) else {
            return Err(FakeResponse::failure(
                400,
                "BadRequest",
                "Missing workspace id or environment",
            ));
        };
        let project = self.project_of(asked)?;
        let path = asked.get("secretPath").unwrap_or("/");
        if path.contains(['*', '%']) || path.contains("..") {
            return Err(FakeResponse::wrong("Find many"));
        }
        let base = Place {
            project: &project.id,
            environment,
            path: if path.len() > 1 {
                path.strip_suffix('/').unwrap_or(path)
            } else {
                path
            },
        };
        let recursive = asked.flag("recursive", false);
        let (Some(folders), Some(folder)) = (
            project.environments.get(environment),
            self.store.folder(base),
        ) else {
            let nothing = json!({"secrets": [], "imports": []});
            return Ok(FakeResponse::json(
                200,
                if recursive {
                    json!({"secrets": []})
                } else {
                    nothing
                },
            ));
        };
        if !recursive && !self.may_read(asked, base) {
            return Err(denied("read"));
        }
        let below = |known: &str| {
            let rest = known.strip_prefix(base.path.trim_end_matches('/'));
            recursive && rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut secrets = Vec::new();
        for (path, folder) in folders {
            let place = Place { path, ..base };
            if (path == base.path || below(path)) && self.may_read(asked, place) {
                let wanted = |secret: &&Secret| is_tagged(asked, secret);
                let shown = folder.secrets.iter().filter(wanted);
                secrets.extend(shown.map(|secret| self.shown(asked, place, secret, false).0));
            }
        }
        let mut body = json!({"secrets": secrets});
        if asked.includes_imports() {
            body["imports"] = self.imported(asked, base, folder);
        }
        Ok(FakeResponse::json(200, body))
    }

    /// What a folder imports, import by import; those that may not be read are left out.
    fn imported(&self, asked: &Asked<'_>, base: Place<'_>, folder: &Folder) -> Value {
        let import = |(environment, path): &(String, String)| {
            let place = Place {
                environment,
                path,
                ..base
            };
            let origin = self.store.folder(place)?;
            let secrets = origin
                .secrets
                .iter()
                .filter(|_| self.may_read(asked, place));
            let secrets: Vec<_> = secrets
                .map(|s| self.shown(asked, place, s, true).0)
                .collect();
            let told = json!({"secretPath": path, "environment": environment, "folderId": origin.id,
                "secrets": secrets});
            self.may_read(asked, place).then_some(told)
        };
        folder.imports.iter().filter_map(import).collect()
    }

    pub(super) fn get(&self, asked: &Asked<'_>, name: &str) -> Result<FakeResponse, FakeResponse> {
        check_flags(asked)?;
        let project = self.project_of(asked)?;
        let environment = asked.get("environment").unwrap_or_default();
        let path = asked.get("secretPath").unwrap_or("/");
        let base = place(&project.id, environment, path);
        if !self.may_read(asked, base) {
            return Err(denied("read"));
        }
        let Some(folder) = self.store.folder(base) else {
            let text = format!(
                "Folder with path '{path}' in environment with slug '{environment}' not found"
            );
            return Err(FakeResponse::failure(404, "GetSecretByName", &text));
        };
        let own = folder
            .find(name)
            .filter(|_| asked.get("type") != Some("personal"));
        let imports = folder
            .imports
            .iter()
            .rev()
            .filter(|_| asked.includes_imports());
        let import = imports.filter_map(|(environment, path)| {
            let place = place(&project.id, environment, path);
            let readable = self.may_read(asked, place);
            Some((
                place,
                self.store.folder(place).filter(|_| readable)?.find(name)?,
            ))
        });
        let found = own.map(|secret| (base, secret, false));
        let found = found.or_else(|| import.map(|(place, secret)| (place, secret, true)).next());
        let missing = || {
            let text = format!("Secret with name '{name}' not found");
            FakeResponse::failure(404, "NotFound", &text)
        };
        let (place, secret, imported) = found.ok_or_else(missing)?;
        // Older servers answer with the current version whatever is asked for.
        let version = asked.get("version").filter(|_| asked.is_v4);
        let earlier = match version.map(str::parse::<usize>) {
            Some(Ok(version)) => Some(secret.at_version(version).ok_or_else(missing)?),
            _ => None,
        };
        let secret = earlier.as_ref().unwrap_or(secret);
        match self.shown(asked, place, secret, imported) {
            (json, None) => Ok(FakeResponse::json(200, json!({"secret": json}))),
            (_, Some(Broken::NoFolder)) => Err(FakeResponse::wrong("InternalServerError")),
            (_, Some(Broken::Denied)) => {
                let text = format!("You are attempting to reference secret named {name}");
                Err(FakeResponse::failure(403, "ForbiddenError", &text))
            }
        }
    }

    pub(super) fn write(
        &mut self,
        asked: &Asked<'_>,
        name: &str,
    ) -> Result<FakeResponse, FakeResponse> {
        let body = asked.json()?;
        let id = if asked.is_v4 {
            "projectId"
        } else {
            "workspaceId"
        };
        let project = self.wanted(asked, body[id].as_str(), None)?.id.clone();
        let verb = match asked.method {
            "POST" => "create",
            "PATCH" => "edit",
            _ => "delete",
        };
        if self.access.identities[asked.identity].role(&project) != Some(Role::Admin) {
            return Err(denied(verb));
        }
        if body["type"] == "personal" {
            let text = "Must be user to create personal secret";
            return Err(FakeResponse::failure(400, "BadRequest", text));
        }
        let environment = body["environment"].as_str().unwrap_or_default();
        let path = body["secretPath"].as_str().unwrap_or("/");
        let place = place(&project, environment, path);
        let is_there = self
            .store
            .folder(place)
            .map(|folder| folder.find(name).is_some());
        let value = body["secretValue"].as_str().unwrap_or_default();
        let written = match (verb, is_there) {
            (_, None) => {
                let text = format!(
                    "Folder with path '{path}' in environment with slug '{environment}' not found"
                );
                return Err(FakeResponse::failure(404, "NotFound", &text));
            }
            ("create", Some(true)) => {
                return Err(FakeResponse::failure(
                    400,
                    "BadRequest",
                    "Secret already exist",
                ));
            }
            ("edit", Some(false)) => {
                let text = format!("Secret with name {name} not found");
                return Err(FakeResponse::failure(404, "NotFound", &text));
            }
            ("delete", Some(false)) => {
                let text = format!("Secret with name '{name}' not found");
                return Err(FakeResponse::failure(404, "DeleteSecret", &text));
            }
            ("delete", Some(true)) => self.store.remove(place, name),
            _ => {
                let written = self.store.write(place, name, value);
                let comment = body["secretComment"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                self.store.change(place, name, |secret| {
                    if !comment.is_empty() {
                        secret.comment.clone_from(&comment);
                    }
                });
                // The answer shows what was said of it just now.
                written.map(|mut secret| {
                    secret.comment = comment;
                    secret
                })
            }
        };
        let secret = written.ok_or_else(|| FakeResponse::wrong("InternalServerError"))?;
        let json = secret.json(place, secret.latest(), false);
        Ok(FakeResponse::json(200, json!({"secret": json})))
    }
}

/// Whether a secret has one of the tags that are asked for.
fn is_tagged(asked: &Asked<'_>, secret: &Secret) -> bool {
    let wanted = asked.get("tagSlugs").filter(|tags| !tags.is_empty());
    wanted.is_none_or(|tags| {
        tags.split(',')
            .any(|tag| secret.tags.iter().any(|t| t == tag))
    })
}

/// Flags are the words `true` and `false`, and nothing else.
fn check_flags(asked: &Asked<'_>) -> Result<(), FakeResponse> {
    let status = if asked.is_v4 { 422 } else { 401 };
    let flags = ["expandSecretReferences", "include_imports", "recursive"];
    let wrong = |options: &[&str], name: &str, received: &str| {
        let listed: Vec<String> = options.iter().map(|option| format!("'{option}'")).collect();
        let message = format!(
            "Invalid enum value. Expected {}, received '{received}'",
            listed.join(" | ")
        );
        let issue = json!({"received": received, "code": "invalid_enum_value", "options": options,
            "path": [name], "message": message});
        FakeResponse::invalid(status, issue)
    };
    for name in flags {
        if let Some(value) = asked
            .get(name)
            .filter(|value| !["true", "false"].contains(value))
        {
            return Err(wrong(&["true", "false"], name, value));
        }
    }
    if let Some(value) = asked
        .get("type")
        .filter(|value| !["shared", "personal"].contains(value))
    {
        return Err(wrong(&["shared", "personal"], "type", value));
    }
    if asked
        .get("version")
        .is_some_and(|version| version.parse::<i64>().is_err())
    {
        let issue = json!({"code": "invalid_type", "expected": "number", "received": "nan",
            "path": ["version"], "message": "Expected number, received nan"});
        return Err(FakeResponse::invalid(status, issue));
    }
    Ok(())
}
