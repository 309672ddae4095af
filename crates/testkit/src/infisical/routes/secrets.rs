//! Routes for secrets: lists, single reads and writes.

use serde_json::{Value, json};

use super::super::State;
use super::super::access::Role;
use super::super::location;
use super::super::response::FakeResponse;
use super::super::store::{Folder, Location, Project, ReferenceError, Secret};
use super::{FakeRequest, permission_denied};

/// The text that a server returns instead of a hidden value.
const HIDDEN_VALUE: &str = "<hidden-by-infisical>";

impl State {
    /// Returns the project of a request for secrets.
    fn requested_project(&self, request: &FakeRequest<'_>) -> Result<&Project, FakeResponse> {
        match request.is_v4 {
            true => self.authorized_project(request, request.get("projectId"), None),
            false => self.authorized_project(
                request,
                request.get("workspaceId"),
                request.get("workspaceSlug"),
            ),
        }
    }

    fn can_read(&self, request: &FakeRequest<'_>, location: Location<'_>) -> bool {
        let identity = &self.access.identities[request.identity];
        identity.can_read(location.project, location.environment, location.path)
    }

    /// Returns the JSON of a secret, and the error of the expansion. The value is expanded if the request
    /// demands it. A list always expands imported values, as on a real server.
    fn render(
        &self,
        request: &FakeRequest<'_>,
        location: Location<'_>,
        secret: &Secret,
        imported: bool,
    ) -> (Value, Option<ReferenceError>) {
        let in_list = request.path.ends_with("/raw") || request.path.ends_with("/secrets");
        let expand = request.flag("expandSecretReferences", false) || imported && in_list;
        let identity = &self.access.identities[request.identity];
        let can_read =
            |environment: &str, path: &str| identity.can_read(location.project, environment, path);
        let (value, error) = match (expand, in_list && self.partial_list_expansion) {
            (false, _) => (secret.latest().to_owned(), None),
            (true, true) => self.store.expand(location, secret.latest(), 1, &can_read),
            (true, false) => self
                .store
                .expand_fully(location, secret.latest(), &can_read),
        };
        let hidden = request.is_v4 && identity.values_hidden;
        let value = if hidden { HIDDEN_VALUE } else { &value };
        let mut json = secret.json(location, value, imported && in_list);
        if !imported {
            json["tags"] = secret
                .tags
                .iter()
                .map(|tag| json!({"slug": tag, "name": tag}))
                .collect();
            if in_list || request.is_v4 {
                json["secretPath"] = json!(location.path);
            }
        }
        if request.is_v4 {
            json["secretValueHidden"] = json!(hidden);
            json["secretMetadata"] = json!([]);
        }
        (json, error)
    }

    pub(super) fn list_secrets(
        &self,
        request: &FakeRequest<'_>,
    ) -> Result<FakeResponse, FakeResponse> {
        check_parameters(request)?;
        let id = if request.is_v4 {
            "projectId"
        } else {
            "workspaceId"
        };
        let named = request.get(id).or_else(|| request.get("workspaceSlug"));
        let (Some(_), Some(environment)) = (named, request.get("environment")) else {
            return Err(FakeResponse::failure(
                400,
                "BadRequest",
                "Missing workspace id or environment",
            ));
        };
        let project = self.requested_project(request)?;
        let path = request.get("secretPath").unwrap_or("/");
        if path.contains(['*', '%']) || path.contains("..") {
            return Err(FakeResponse::internal_error("Find many"));
        }
        let base = Location {
            project: &project.id,
            environment,
            path: if path.len() > 1 {
                path.strip_suffix('/').unwrap_or(path)
            } else {
                path
            },
        };
        let recursive = request.flag("recursive", false);
        let (Some(folders), Some(folder)) = (
            project.environments.get(environment),
            self.store.folder(base),
        ) else {
            let empty = json!({"secrets": [], "imports": []});
            return Ok(FakeResponse::json(
                200,
                if recursive {
                    json!({"secrets": []})
                } else {
                    empty
                },
            ));
        };
        if !recursive && !self.can_read(request, base) {
            return Err(permission_denied("read"));
        }
        let below = |known: &str| {
            let rest = known.strip_prefix(base.path.trim_end_matches('/'));
            recursive && rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut secrets = Vec::new();
        for (path, folder) in folders {
            let location = Location { path, ..base };
            if (path == base.path || below(path)) && self.can_read(request, location) {
                let matches = |secret: &&Secret| has_requested_tag(request, secret);
                let tagged = folder.secrets.iter().filter(matches);
                secrets
                    .extend(tagged.map(|secret| self.render(request, location, secret, false).0));
            }
        }
        let mut body = json!({"secrets": secrets});
        if request.includes_imports() {
            body["imports"] = self.render_imports(request, base, folder);
        }
        Ok(FakeResponse::json(200, body))
    }

    /// Returns the imports of a folder. Imports that the identity cannot read are omitted.
    fn render_imports(
        &self,
        request: &FakeRequest<'_>,
        base: Location<'_>,
        folder: &Folder,
    ) -> Value {
        let import = |(environment, path): &(String, String)| {
            let location = Location {
                environment,
                path,
                ..base
            };
            let source = self.store.folder(location)?;
            let secrets = source
                .secrets
                .iter()
                .filter(|_| self.can_read(request, location));
            let secrets: Vec<_> = secrets
                .map(|s| self.render(request, location, s, true).0)
                .collect();
            let body = json!({"secretPath": path, "environment": environment, "folderId": source.id,
                "secrets": secrets});
            self.can_read(request, location).then_some(body)
        };
        folder.imports.iter().filter_map(import).collect()
    }

    pub(super) fn get_secret(
        &self,
        request: &FakeRequest<'_>,
        name: &str,
    ) -> Result<FakeResponse, FakeResponse> {
        check_parameters(request)?;
        let project = self.requested_project(request)?;
        let environment = request.get("environment").unwrap_or_default();
        let path = request.get("secretPath").unwrap_or("/");
        let base = location(&project.id, environment, path);
        if !self.can_read(request, base) {
            return Err(permission_denied("read"));
        }
        let Some(folder) = self.store.folder(base) else {
            let text = format!(
                "Folder with path '{path}' in environment with slug '{environment}' not found"
            );
            return Err(FakeResponse::failure(404, "GetSecretByName", &text));
        };
        let own = folder
            .find(name)
            .filter(|_| request.get("type") != Some("personal"));
        let imports = folder
            .imports
            .iter()
            .rev()
            .filter(|_| request.includes_imports());
        let import = imports.filter_map(|(environment, path)| {
            let location = location(&project.id, environment, path);
            let readable = self.can_read(request, location);
            Some((
                location,
                self.store
                    .folder(location)
                    .filter(|_| readable)?
                    .find(name)?,
            ))
        });
        let secret = own.map(|secret| (base, secret, false));
        let found = secret.or_else(|| {
            import
                .map(|(location, secret)| (location, secret, true))
                .next()
        });
        let missing = || {
            let text = format!("Secret with name '{name}' not found");
            FakeResponse::failure(404, "NotFound", &text)
        };
        let (location, secret, imported) = found.ok_or_else(missing)?;
        // Older servers ignore the requested version and return the current one.
        let version = request.get("version").filter(|_| request.is_v4);
        let earlier = match version.map(str::parse::<usize>) {
            Some(Ok(version)) => Some(secret.at_version(version).ok_or_else(missing)?),
            _ => None,
        };
        let secret = earlier.as_ref().unwrap_or(secret);
        match self.render(request, location, secret, imported) {
            (json, None) => Ok(FakeResponse::json(200, json!({"secret": json}))),
            (_, Some(ReferenceError::NoFolder)) => {
                Err(FakeResponse::internal_error("InternalServerError"))
            }
            (_, Some(ReferenceError::Denied)) => {
                let text = format!("You are attempting to reference secret named {name}");
                Err(FakeResponse::failure(403, "ForbiddenError", &text))
            }
        }
    }

    pub(super) fn write_secret(
        &mut self,
        request: &FakeRequest<'_>,
        name: &str,
    ) -> Result<FakeResponse, FakeResponse> {
        let body = request.json()?;
        let id = if request.is_v4 {
            "projectId"
        } else {
            "workspaceId"
        };
        let project = self
            .authorized_project(request, body[id].as_str(), None)?
            .id
            .clone();
        let verb = match request.method {
            "POST" => "create",
            "PATCH" => "edit",
            _ => "delete",
        };
        if self.access.identities[request.identity].role(&project) != Some(Role::Admin) {
            return Err(permission_denied(verb));
        }
        if body["type"] == "personal" {
            let text = "Must be user to create personal secret";
            return Err(FakeResponse::failure(400, "BadRequest", text));
        }
        let environment = body["environment"].as_str().unwrap_or_default();
        let path = body["secretPath"].as_str().unwrap_or("/");
        let location = location(&project, environment, path);
        let exists = self
            .store
            .folder(location)
            .map(|folder| folder.find(name).is_some());
        let value = body["secretValue"].as_str().unwrap_or_default();
        let written = match (verb, exists) {
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
            ("delete", Some(true)) => self.store.remove(location, name),
            _ => {
                let written = self.store.write(location, name, value);
                let comment = body["secretComment"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                self.store.change(location, name, |secret| {
                    if !comment.is_empty() {
                        secret.comment.clone_from(&comment);
                    }
                });
                // The response contains the comment of this request, even if it is empty.
                written.map(|mut secret| {
                    secret.comment = comment;
                    secret
                })
            }
        };
        let secret = written.ok_or_else(|| FakeResponse::internal_error("InternalServerError"))?;
        let json = secret.json(location, secret.latest(), false);
        Ok(FakeResponse::json(200, json!({"secret": json})))
    }
}

/// Returns whether a secret has one of the requested tags. Without requested tags, every secret matches.
fn has_requested_tag(request: &FakeRequest<'_>, secret: &Secret) -> bool {
    let requested = request.get("tagSlugs").filter(|tags| !tags.is_empty());
    requested.is_none_or(|tags| {
        tags.split(',')
            .any(|tag| secret.tags.iter().any(|t| t == tag))
    })
}

/// Checks the parameters that accept only certain values, such as the flags `true` and `false`.
fn check_parameters(request: &FakeRequest<'_>) -> Result<(), FakeResponse> {
    let status = if request.is_v4 { 422 } else { 401 };
    let flags = ["expandSecretReferences", "include_imports", "recursive"];
    let invalid = |options: &[&str], name: &str, received: &str| {
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
        if let Some(value) = request
            .get(name)
            .filter(|value| !["true", "false"].contains(value))
        {
            return Err(invalid(&["true", "false"], name, value));
        }
    }
    if let Some(value) = request
        .get("type")
        .filter(|value| !["shared", "personal"].contains(value))
    {
        return Err(invalid(&["shared", "personal"], "type", value));
    }
    if request
        .get("version")
        .is_some_and(|version| version.parse::<i64>().is_err())
    {
        let issue = json!({"code": "invalid_type", "expected": "number", "received": "nan",
            "path": ["version"], "message": "Expected number, received nan"});
        return Err(FakeResponse::invalid(status, issue));
    }
    Ok(())
}
