//! Routes for secrets: lists, single reads and writes.

use serde_json::{Value, json};

use super::super::State;
use super::super::access::Role;
use super::super::location;
use super::super::personality::{MissingEnvironment, MissingFolder, References};
use super::super::response::FakeResponse;
use super::super::store::{
    Expansion, Folder, Folders, Location, MAX_DEPTH, Project, ReferenceError, Secret,
};
use super::{FakeRequest, permission_denied};

/// The text that a server returns instead of a hidden value.
const HIDDEN_VALUE: &str = "<hidden-by-infisical>";

impl State {
    /// Returns the project of a request for secrets.
    fn requested_project(&self, request: &FakeRequest<'_>) -> Result<&Project, FakeResponse> {
        match request.is_v4 {
            true => self.visible_project(request, request.get("projectId"), None),
            false => self.visible_project(
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

    /// Returns the JSON of a secret of the folder `location`, and the error of the expansion. The value is expanded
    /// if the request demands it. `importer` is the folder that imports the secret. In a list, servers of 2024
    /// always expand imported values, and the newest one resolves their references in the importing folder.
    fn render(
        &self,
        request: &FakeRequest<'_>,
        location: Location<'_>,
        secret: &Secret,
        importer: Option<Location<'_>>,
    ) -> (Value, Option<ReferenceError>) {
        let in_list = request.path.ends_with("/raw") || request.path.ends_with("/secrets");
        let imported = importer.is_some();
        let is_newest = self.behaviour.references == References::Strict;
        let expand = request.expands_references() || imported && in_list && !is_newest;
        let base = importer
            .filter(|_| in_list && is_newest)
            .unwrap_or(location);
        let identity = &self.access.identities[request.identity];
        let can_read =
            |environment: &str, path: &str| identity.can_read(location.project, environment, path);
        let is_partial = in_list && self.partial_list_expansion;
        let expansion = Expansion {
            references: self.behaviour.references,
            depth: if is_partial { 1 } else { MAX_DEPTH },
            can_read: &can_read,
        };
        let (value, error) = match expand {
            true => self.store.expand(base, secret, &expansion),
            false => (secret.latest().to_owned(), None),
        };
        let is_hidden = identity.values_hidden || request.get("viewSecretValue") == Some("false");
        let hidden = request.is_v4 && is_hidden;
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
            let text = match request.is_v4 {
                true => "Missing project id or environment",
                false => "Missing workspace id or environment",
            };
            return Err(FakeResponse::failure(400, "BadRequest", text));
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
        let found = match request.flag("recursive") {
            true => self.folders_below(base, project)?,
            false => self.listed_folder(request, base)?,
        };
        let mut secrets = Vec::new();
        let mut imports = Vec::new();
        for (path, folder) in found {
            let location = Location { path, ..base };
            if !self.can_read(request, location) {
                continue;
            }
            let listed = folder
                .secrets
                .iter()
                .filter(|it| has_requested_tag(request, it) && is_included(request, folder, it));
            secrets.extend(listed.map(|secret| self.render(request, location, secret, None)));
            if request.includes_imports() {
                for import in self.render_imports(request, location, folder) {
                    let is_same = |other: &Value| other["folderId"] == import["folderId"];
                    if !(self.behaviour.merges_imports && imports.iter().any(is_same)) {
                        imports.push(import);
                    }
                }
            }
        }
        let is_strict = self.behaviour.references == References::Strict;
        let is_denied =
            |(_, error): &(Value, Option<ReferenceError>)| *error == Some(ReferenceError::Denied);
        if is_strict && secrets.iter().any(is_denied) {
            let text = "Failed to expand one or more secret references";
            return Err(FakeResponse::failure(403, "ForbiddenError", text));
        }
        let secrets: Vec<Value> = secrets.into_iter().map(|(secret, _)| secret).collect();
        let mut body = json!({"secrets": secrets});
        let is_missing = !request.flag("recursive") && self.store.folder(base).is_none();
        if request.includes_imports() || request.is_v4 || is_missing {
            body["imports"] = json!(imports);
        }
        Ok(FakeResponse::json(200, body))
    }

    /// Returns the folder of a list, or nothing if it does not exist.
    ///
    /// # Errors
    /// Returns the failure if the identity may not read it, or if the server reports that it does not exist.
    fn listed_folder<'a>(
        &'a self,
        request: &FakeRequest<'_>,
        base: Location<'a>,
    ) -> Result<Vec<(&'a str, &'a Folder)>, FakeResponse> {
        let folder = self.store.folder(base);
        let identity = &self.access.identities[request.identity];
        if identity.role(base.project) == Some(Role::NoAccess)
            || folder.is_some() && !self.can_read(request, base)
        {
            return Err(permission_denied("read"));
        }
        if folder.is_none() && self.behaviour.missing_folder == MissingFolder::NotFound {
            let text = format!(
                "Folder with path '{}' in environment '{}' was not found. Please ensure the environment \
                 slug and secret path is correct.",
                base.path, base.environment
            );
            return Err(FakeResponse::failure(404, "SecretPathNotFound", &text));
        }
        Ok(folder
            .map(|folder| (base.path, folder))
            .into_iter()
            .collect())
    }

    /// Returns the folders of a recursive list.
    ///
    /// # Errors
    /// Returns the failure if the environment does not exist.
    fn folders_below<'a>(
        &self,
        base: Location<'a>,
        project: &'a Project,
    ) -> Result<Vec<(&'a str, &'a Folder)>, FakeResponse> {
        let (environment, id) = (base.environment, &project.id);
        let no_environment = || match self.behaviour.missing_environment {
            MissingEnvironment::OtherErrors => FakeResponse::unhandled_error(&format!(
                "'{environment}' environment not found in project with ID {id}"
            )),
            MissingEnvironment::NotFound => {
                let text = format!(
                    "Environment with slug '{environment}' in project with ID {id} not found"
                );
                FakeResponse::failure(404, "NotFound", &text)
            }
        };
        let folders: &Folders = project
            .environments
            .get(environment)
            .ok_or_else(no_environment)?;
        if !folders.contains_key(base.path) {
            return Ok(Vec::new());
        }
        let is_below = |path: &str| {
            let rest = path.strip_prefix(base.path.trim_end_matches('/'));
            let ends_there = |rest: &str| rest.is_empty() || rest.starts_with('/');
            rest.is_some_and(|rest| self.behaviour.recursive_lists_match_text || ends_there(rest))
        };
        let folders = folders.iter().map(|(path, folder)| (path.as_str(), folder));
        Ok(folders.filter(|(path, _)| is_below(path)).collect())
    }

    /// Returns the imports of a folder. Of an import that the identity cannot read, servers of 2024 show nothing, and
    /// the newest one shows no secrets.
    fn render_imports(
        &self,
        request: &FakeRequest<'_>,
        base: Location<'_>,
        folder: &Folder,
    ) -> Vec<Value> {
        let is_newest = self.behaviour.references == References::Strict;
        let import = |(environment, path): &(String, String)| {
            let location = Location {
                environment,
                path,
                ..base
            };
            let source = self.store.folder(location)?;
            let mut secrets: Vec<_> = self
                .imported_secrets(request, location, &mut Vec::new())
                .into_iter()
                .map(|(location, s)| self.render(request, location, s, Some(base)).0)
                .collect();
            if is_newest && request.expands_references() {
                let mut names = Vec::new();
                secrets.retain(|secret| {
                    let is_first = !names.contains(&secret["secretKey"]);
                    names.push(secret["secretKey"].clone());
                    is_first
                });
            }
            let body = json!({"secretPath": path, "environment": environment, "folderId": source.id,
                "secrets": secrets});
            (is_newest || self.can_read(request, location)).then_some(body)
        };
        folder.imports.iter().filter_map(import).collect()
    }

    /// Returns the secrets of an imported folder, followed by those that it imports itself. Servers of 2024 follow
    /// only the first import of an imported folder.
    fn imported_secrets<'a>(
        &'a self,
        request: &FakeRequest<'_>,
        source: Location<'a>,
        visited: &mut Vec<(&'a str, &'a str)>,
    ) -> Vec<(Location<'a>, &'a Secret)> {
        let place = (source.environment, source.path);
        let folder = self.store.folder(source);
        let Some(folder) = folder.filter(|_| !visited.contains(&place)) else {
            return Vec::new();
        };
        visited.push(place);
        let can_read = self.can_read(request, source);
        let own = folder.secrets.iter().filter(|_| can_read);
        let mut secrets: Vec<_> = own.map(|secret| (source, secret)).collect();
        let followed = match self.behaviour.references {
            References::Lenient => 1,
            References::Strict => folder.imports.len(),
        };
        for (environment, path) in folder.imports.iter().take(followed) {
            let nested = Location {
                environment,
                path,
                ..source
            };
            secrets.extend(self.imported_secrets(request, nested, visited));
        }
        secrets
    }

    pub(super) fn get_secret(
        &self,
        request: &FakeRequest<'_>,
        name: &str,
    ) -> Result<FakeResponse, FakeResponse> {
        check_parameters(request)?;
        let project = self.requested_project(request)?;
        let Some(environment) = request.get("environment") else {
            return Err(FakeResponse::failure(
                400,
                "BadRequest",
                "Missing environment",
            ));
        };
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
        // Older servers ignore the requested version and return the current one.
        let version = request.get("version").filter(|_| request.is_v4);
        let own = match (request.get("type"), version.map(str::parse::<usize>)) {
            (Some("personal"), _) => folder.find_personal(name).cloned(),
            (_, Some(Ok(version))) => folder.find_version(name, version),
            _ => folder.find(name).cloned(),
        };
        let imports = folder
            .imports
            .iter()
            .rev()
            .filter(|_| request.includes_imports());
        // The current secret of an import also takes the place of a missing version.
        let mut imports = imports.filter_map(|(environment, path)| {
            let location = location(&project.id, environment, path);
            let secrets = self.imported_secrets(request, location, &mut Vec::new());
            let mut secrets = secrets.into_iter();
            secrets.find(|(_, secret)| secret.name == name && !secret.personal)
        });
        let found = match own {
            Some(secret) => Some((base, secret, None)),
            None => imports
                .next()
                .map(|(location, secret)| (location, secret.clone(), Some(base))),
        };
        let missing = || {
            let text = format!("Secret with name '{name}' not found");
            FakeResponse::failure(404, "NotFound", &text)
        };
        let (location, secret, importer) = found.ok_or_else(missing)?;
        match self.render(request, location, &secret, importer) {
            (json, None) => Ok(FakeResponse::json(200, json!({"secret": json}))),
            (_, Some(ReferenceError::NoFolder)) => {
                Err(FakeResponse::internal_error("InternalServerError"))
            }
            (_, Some(ReferenceError::Denied)) => {
                let text = match self.behaviour.references {
                    References::Lenient => {
                        format!("You are attempting to reference secret named {name}")
                    }
                    References::Strict => format!(
                        "You do not have permission to read a secret which is referenced by secret '{name}' \
                         in environment '{environment}' at path '{path}'"
                    ),
                };
                Err(FakeResponse::failure(403, "ForbiddenError", &text))
            }
        }
    }

    /// Changes one secret, whose name is in the path.
    pub(super) fn write_secret(
        &mut self,
        request: &FakeRequest<'_>,
        name: &str,
    ) -> Result<FakeResponse, FakeResponse> {
        let body = request.json()?;
        let project = self.writable_project(request, &body)?;
        let secret = self.change_secret(request, &project, &body, name, &body)?;
        Ok(FakeResponse::json(200, json!({"secret": secret})))
    }

    /// Changes several secrets, whose names are in the body. Their length is not limited.
    pub(super) fn write_secrets(
        &mut self,
        request: &FakeRequest<'_>,
    ) -> Result<FakeResponse, FakeResponse> {
        let body = request.json()?;
        let project = self.writable_project(request, &body)?;
        let mut secrets = Vec::new();
        for fields in body["secrets"].as_array().into_iter().flatten() {
            let name = fields["secretKey"].as_str().unwrap_or_default();
            secrets.push(self.change_secret(request, &project, &body, name, fields)?);
        }
        Ok(FakeResponse::json(200, json!({"secrets": secrets})))
    }

    /// Returns the id of the project that `body` names.
    ///
    /// # Errors
    /// Returns the failure if the project does not exist, or if the identity may not write.
    fn writable_project(
        &self,
        request: &FakeRequest<'_>,
        body: &Value,
    ) -> Result<String, FakeResponse> {
        let id = if request.is_v4 {
            "projectId"
        } else {
            "workspaceId"
        };
        let project = self.authorized_project(request, body[id].as_str(), None)?;
        match self.access.identities[request.identity].role(&project.id) {
            Some(Role::Admin) => Ok(project.id.clone()),
            _ => Err(permission_denied(verb(request))),
        }
    }

    /// Creates, changes or deletes a secret, and returns its JSON. `body` has the folder, and `fields` has the
    /// new value.
    fn change_secret(
        &mut self,
        request: &FakeRequest<'_>,
        project: &str,
        body: &Value,
        name: &str,
        fields: &Value,
    ) -> Result<Value, FakeResponse> {
        let bad_request = |text| Err(FakeResponse::failure(400, "BadRequest", text));
        if body["type"] == "personal" {
            return bad_request("Must be user to create personal secret");
        }
        let environment = body["environment"].as_str().unwrap_or_default();
        let path = body["secretPath"].as_str().unwrap_or("/");
        let location = location(project, environment, path);
        let exists = self
            .store
            .folder(location)
            .map(|folder| folder.find(name).is_some());
        let value = fields["secretValue"].as_str().unwrap_or_default();
        let written = match (verb(request), exists) {
            (_, None) => {
                let text = format!(
                    "Folder with path '{path}' in environment with slug '{environment}' not found"
                );
                return Err(FakeResponse::failure(404, "NotFound", &text));
            }
            ("create", Some(true)) => return bad_request("Secret already exist"),
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
                let comment = fields["secretComment"].as_str().unwrap_or_default();
                self.store.change(location, name, |secret| {
                    if !comment.is_empty() {
                        comment.clone_into(&mut secret.comment);
                    }
                    if let Some(skip) = fields["skipMultilineEncoding"].as_bool() {
                        secret.skip_multiline_encoding = skip;
                    }
                });
                // The response contains the comment of this request, even if it is empty.
                written.map(|mut secret| {
                    comment.clone_into(&mut secret.comment);
                    secret
                })
            }
        };
        let secret = written.ok_or_else(|| FakeResponse::internal_error("InternalServerError"))?;
        Ok(secret.json(location, secret.latest(), false))
    }
}

/// Returns the permission that a change needs.
fn verb(request: &FakeRequest<'_>) -> &'static str {
    match request.method {
        "POST" => "create",
        "PATCH" => "edit",
        _ => "delete",
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

/// Returns whether a list contains this one of the shared and the personal value of a secret. Version 4 returns one
/// of them, and version 3 both.
fn is_included(request: &FakeRequest<'_>, folder: &Folder, secret: &Secret) -> bool {
    match request.flag("includePersonalOverrides") {
        _ if !request.is_v4 => true,
        true => secret.personal || folder.find_personal(&secret.name).is_none(),
        false => !secret.personal,
    }
}

/// Checks the parameters that accept only certain values, such as the flags `true` and `false`.
fn check_parameters(request: &FakeRequest<'_>) -> Result<(), FakeResponse> {
    let status = request.behaviour.invalid_status;
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
