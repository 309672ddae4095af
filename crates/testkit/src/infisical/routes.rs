//! Which request is answered how.

use std::collections::HashMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::State;
use super::access::Role;
use super::answer::Answer;
use super::store::{Broken, Folder, Place, Project, Secret};

/// How long a window of the rate limit is.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest name that the server's router takes.
const MAX_PARAMETER: usize = 100;
const HIDDEN: &str = "<hidden-by-infisical>";

/// A request to be answered.
struct Asked<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    query: HashMap<String, String>,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
    /// Whether it is for version 4 of the API.
    is_v4: bool,
    /// Whose token it came with.
    identity: usize,
}

impl Asked<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |value| value == "true")
    }

    fn includes_imports(&self) -> bool {
        self.flag("include_imports", false) || self.is_v4 && self.flag("includeImports", false)
    }

    /// The body, which must be JSON.
    fn json(&self) -> Result<Value, Answer> {
        serde_json::from_slice(self.body).map_err(|_| Answer::wrong("InternalServerError"))
    }

    /// The body of a login, which may also be a form.
    fn form(&self) -> Result<Value, Answer> {
        if self.header("content-type") != Some("application/x-www-form-urlencoded") {
            return self.json();
        }
        let text = String::from_utf8_lossy(self.body);
        Ok(parameters(&text)
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)))
            .collect())
    }
}

fn parameters(query: &str) -> HashMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// The text of a field that must be there.
fn field<'a>(body: &'a Value, name: &str, status: u16) -> Result<&'a str, Answer> {
    let text = body[name].as_str();
    text.ok_or_else(|| Answer::invalid(status, required(name)))
}

fn required(name: &str) -> Value {
    json!({
        "code": "invalid_type",
        "expected": "string",
        "received": "undefined",
        "path": [name],
        "message": "Required",
    })
}

impl State {
    pub(super) fn answer(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut asked = Asked {
            method,
            target,
            path: path.trim_end_matches('/'),
            query: parameters(query),
            headers,
            body,
            is_v4: path.starts_with("/api/v4/"),
            identity: 0,
        };
        let answer = self.route(&mut asked).unwrap_or_else(|answer| answer);
        let mut answer = match method {
            "GET" => answer.unless_known(asked.header("if-none-match")),
            _ => answer,
        };
        if method == "HEAD" {
            answer.body.clear();
        }
        self.requests
            .push((format!("{method} {target}"), answer.status));
        answer
    }

    fn route(&mut self, asked: &mut Asked<'_>) -> Result<Answer, Answer> {
        let no_route = Answer::no_route(asked.method, asked.target);
        if let Some(rest) = asked.path.strip_prefix("/api/v1/auth/") {
            return self.auth(asked, rest);
        }
        if asked.path == "/api/status" {
            let told = json!({"date": "2026-01-01T00:00:00.000Z", "message": "Ok", "emailConfigured": false,
                "inviteOnlySignup": true, "redisConfigured": true, "secretScanningConfigured": false});
            return Ok(Answer::json(200, told));
        }
        let secrets = ["/api/v3/secrets/raw", "/api/v4/secrets"]
            .into_iter()
            .filter(|start| self.has_v4 || *start != "/api/v4/secrets")
            .find_map(|start| asked.path.strip_prefix(start));
        let (route, limit) = match (asked.method, secrets, asked.path) {
            ("GET" | "HEAD", Some(""), _) => ("list", self.limit),
            ("GET", Some(name), _) if one_segment(name) => ("get", self.limit),
            ("POST" | "PATCH" | "DELETE", Some(name), _) if one_segment(name) => ("write", None),
            (_, None, "/api/v1/folders") => ("folders", None),
            (_, None, "/api/v1/secret-imports") => ("imports", None),
            ("GET", None, path) if path.starts_with("/api/v2/workspace/") => ("by-slug", None),
            ("GET", None, path) if path.starts_with("/api/v1/workspace/") => ("by-id", None),
            _ => return Err(no_route),
        };
        asked.identity = self.authenticate(asked)?;
        let limited = self.take(route, limit)?;
        let name = secrets.map(|name| decoded(name.trim_start_matches('/')));
        let answer = match (route, &name) {
            ("list", _) => self.list(asked),
            ("get", Some(name)) => self.get(asked, name.trim()),
            ("write", Some(name)) => self.write(asked, name.trim()),
            ("folders", _) if asked.method == "POST" => self.make_folder(asked),
            ("folders", _) => self.folders(asked),
            ("imports", _) if asked.method == "POST" => self.make_import(asked),
            ("imports", _) => self.imports(asked),
            ("by-slug", _) => self.project_by(asked, |project| &project.slug),
            _ => self.project_by(asked, |project| &project.id),
        };
        let mut answer = answer.unwrap_or_else(|answer| answer);
        answer.headers.extend(limited);
        Ok(answer)
    }

    /// Whose token the request came with.
    fn authenticate(&mut self, asked: &Asked<'_>) -> Result<usize, Answer> {
        let header = asked
            .header("authorization")
            .filter(|header| !header.is_empty());
        let Some(header) = header else {
            return Err(Answer::failure(401, "UnauthorizedError", "Token missing"));
        };
        // Any scheme of this length will do.
        let token = header.get("Bearer ".len()..).unwrap_or_default().trim();
        self.access.check(token, true)
    }

    /// Takes a place in the window of a route, and tells what is left of it.
    fn take(
        &mut self,
        route: &'static str,
        limit: Option<u32>,
    ) -> Result<Vec<(&'static str, String)>, Answer> {
        let Some(limit) = limit else {
            return Ok(Vec::new());
        };
        let now = Instant::now();
        let (begin, used) = self.windows.entry(route).or_insert((now, 0));
        if now >= *begin + WINDOW {
            (*begin, *used) = (now, 0);
        }
        let reset = (*begin + WINDOW - now).as_secs_f64().ceil().to_string();
        let left = limit.saturating_sub(*used + 1);
        let headers = vec![
            ("x-ratelimit-limit", limit.to_string()),
            ("x-ratelimit-remaining", left.to_string()),
            ("x-ratelimit-reset", reset.clone()),
        ];
        if *used >= limit {
            let text = "Rate limit exceeded. Please try again in 1 minute";
            let mut answer = Answer::failure(429, "RateLimitExceeded", text);
            answer.headers.extend(headers);
            answer.headers.push(("retry-after", reset));
            return Err(answer);
        }
        *used += 1;
        Ok(headers)
    }

    fn auth(&mut self, asked: &Asked<'_>, rest: &str) -> Result<Answer, Answer> {
        if asked.method != "POST" {
            return Err(Answer::no_route(asked.method, asked.target));
        }
        // A token that came along must be good here too, which is what breaks the second login of clients
        // that send the old one.
        if let Some(header) = asked
            .header("authorization")
            .filter(|header| !header.is_empty())
        {
            let token = header.get("Bearer ".len()..).unwrap_or_default().trim();
            self.access.check(token, false)?;
        }
        let limited = self.take("login", self.limit.map(|_| 200))?;
        let status = if self.has_v4 { 422 } else { 401 };
        let mut answer = match rest {
            "universal-auth/login" => {
                let body = asked.form()?;
                let client_id = field(&body, "clientId", status)?;
                self.access
                    .log_in(client_id, field(&body, "clientSecret", status)?)
            }
            "token/renew" => {
                let body = asked.form()?;
                self.access.renew(field(&body, "accessToken", status)?)
            }
            "token/revoke" => {
                let body = asked.form()?;
                self.access.revoke(field(&body, "accessToken", status)?)
            }
            "aws-auth/login" => {
                let body = asked.json()?;
                let missing: Vec<Value> = ["iamRequestBody", "iamRequestHeaders"]
                    .into_iter()
                    .filter(|name| body[*name].is_null())
                    .map(required)
                    .collect();
                if !missing.is_empty() {
                    let body = json!({"statusCode": status, "message": missing, "error": "ValidationFailure"});
                    return Err(Answer::json(status, body));
                }
                let identity = field(&body, "identityId", status)?;
                self.access.log_in_by("aws-auth", identity, "")
            }
            _ => {
                let method = rest.strip_suffix("/login").unwrap_or_default();
                let known = ["kubernetes-auth", "oidc-auth", "gcp-auth", "azure-auth"]
                    .contains(&method)
                    || method == "jwt-auth" && self.has_v4;
                if !known {
                    return Err(Answer::no_route(asked.method, asked.target));
                }
                let body = asked.json()?;
                let identity = field(&body, "identityId", status)?;
                let jwt = field(&body, "jwt", status)?;
                if identity.len() != 36 {
                    return Err(Answer::wrong("Find one"));
                }
                self.access.log_in_by(method, identity, jwt)
            }
        };
        answer.headers.extend(limited);
        Ok(answer)
    }

    /// The project that is asked for, if whoever asks may do something in it.
    fn wanted(
        &self,
        asked: &Asked<'_>,
        id: Option<&str>,
        slug: Option<&str>,
    ) -> Result<&Project, Answer> {
        let found = match (id, slug) {
            (Some(id), _) => self.store.project(id).ok_or_else(|| {
                let text = format!(
                    "Project with ID '{id}' not found during bot lookup. Are you sure you are \
                     using the correct project ID?"
                );
                Answer::failure(404, "NotFound", &text)
            }),
            (None, Some(slug)) => {
                let found = self
                    .store
                    .projects
                    .iter()
                    .find(|project| project.slug == slug);
                let error = match asked.path.ends_with("/raw") {
                    true => "Failed to find project by slug",
                    false => "Find project by slug",
                };
                found.ok_or_else(|| Answer::wrong(error))
            }
            (None, None) => {
                return Err(Answer::failure(
                    400,
                    "BadRequest",
                    "You must provide workspaceSlug or workspaceId",
                ));
            }
        }?;
        match self.access.identities[asked.identity].role(&found.id) {
            Some(Role::Admin | Role::Viewer) => Ok(found),
            Some(Role::NoAccess) => Err(denied("read")),
            None => {
                let error = format!(
                    "Identity is not a member of the specified project with ID '{}'",
                    found.id
                );
                let text = "You are not allowed to access this resource";
                Err(Answer::failure(403, &error, text))
            }
        }
    }

    /// The project of a request for secrets.
    fn project_of(&self, asked: &Asked<'_>) -> Result<&Project, Answer> {
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

    fn list(&self, asked: &Asked<'_>) -> Result<Answer, Answer> {
        check_flags(asked)?;
        let id = if asked.is_v4 {
            "projectId"
        } else {
            "workspaceId"
        };
        let named = asked.get(id).or_else(|| asked.get("workspaceSlug"));
        let (Some(_), Some(environment)) = (named, asked.get("environment")) else {
            return Err(Answer::failure(
                400,
                "BadRequest",
                "Missing workspace id or environment",
            ));
        };
        let project = self.project_of(asked)?;
        let path = asked.get("secretPath").unwrap_or("/");
        if path.contains(['*', '%']) || path.contains("..") {
            return Err(Answer::wrong("Find many"));
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
            return Ok(Answer::json(
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
        Ok(Answer::json(200, body))
    }

    /// What a folder imports, import by import; those that may not be read are left out.
    fn imported(&self, asked: &Asked<'_>, base: Place<'_>, folder: &Folder) -> Value {
        let import = |(environment, path): &(String, String)| {
            let place = Place {
                environment,
                path,
                ..base
            };
            let source = self.store.folder(place)?;
            let secrets = source
                .secrets
                .iter()
                .filter(|_| self.may_read(asked, place));
            let secrets: Vec<_> = secrets
                .map(|s| self.shown(asked, place, s, true).0)
                .collect();
            let told = json!({"secretPath": path, "environment": environment, "folderId": source.id,
                "secrets": secrets});
            self.may_read(asked, place).then_some(told)
        };
        folder.imports.iter().filter_map(import).collect()
    }

    fn get(&self, asked: &Asked<'_>, name: &str) -> Result<Answer, Answer> {
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
            return Err(Answer::failure(404, "GetSecretByName", &text));
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
            Answer::failure(404, "NotFound", &text)
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
            (json, None) => Ok(Answer::json(200, json!({"secret": json}))),
            (_, Some(Broken::NoFolder)) => Err(Answer::wrong("InternalServerError")),
            (_, Some(Broken::Denied)) => {
                let text = format!("You are attempting to reference secret named {name}");
                Err(Answer::failure(403, "ForbiddenError", &text))
            }
        }
    }

    fn write(&mut self, asked: &Asked<'_>, name: &str) -> Result<Answer, Answer> {
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
            return Err(Answer::failure(400, "BadRequest", text));
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
                return Err(Answer::failure(404, "NotFound", &text));
            }
            ("create", Some(true)) => {
                return Err(Answer::failure(400, "BadRequest", "Secret already exist"));
            }
            ("edit", Some(false)) => {
                let text = format!("Secret with name {name} not found");
                return Err(Answer::failure(404, "NotFound", &text));
            }
            ("delete", Some(false)) => {
                let text = format!("Secret with name '{name}' not found");
                return Err(Answer::failure(404, "DeleteSecret", &text));
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
        let secret = written.ok_or_else(|| Answer::wrong("InternalServerError"))?;
        let json = secret.json(place, secret.latest(), false);
        Ok(Answer::json(200, json!({"secret": json})))
    }

    fn folders(&self, asked: &Asked<'_>) -> Result<Answer, Answer> {
        let id = asked.get("workspaceId").or_else(|| asked.get("projectId"));
        let project = self.wanted(asked, id, None)?;
        let environment = asked.get("environment").unwrap_or_default();
        let Some(folders) = project.environments.get(environment) else {
            let text = format!("Environment with slug '{environment}' not found");
            return Err(Answer::failure(404, "NotFound", &text));
        };
        let base = asked.get("path").unwrap_or("/").trim_end_matches('/');
        let child = |path: &String| {
            let rest = path.strip_prefix(base)?.strip_prefix('/')?;
            (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned())
        };
        let found: Vec<Value> = folders
            .iter()
            .filter_map(|(path, folder)| {
                Some(json!({"id": folder.id, "name": child(path)?, "version": 1, "isReserved": false}))
            })
            .collect();
        Ok(Answer::json(200, json!({"folders": found})))
    }

    fn make_folder(&mut self, asked: &Asked<'_>) -> Result<Answer, Answer> {
        let body = asked.json()?;
        let project = self
            .wanted(asked, body["workspaceId"].as_str(), None)?
            .id
            .clone();
        let environment = body["environment"].as_str().unwrap_or_default();
        let parent = body["path"].as_str().unwrap_or("/").trim_end_matches('/');
        let name = body["name"].as_str().unwrap_or_default();
        let path = format!("{parent}/{name}");
        match self.store.make_folder(place(&project, environment, &path)) {
            Some(true) => Ok(Answer::json(
                200,
                json!({"folder": {"name": name, "version": 1}}),
            )),
            Some(false) => Err(Answer::failure(400, "BadRequest", "Folder already exists")),
            None => Err(Answer::failure(404, "NotFound", "Environment not found")),
        }
    }

    fn imports(&self, asked: &Asked<'_>) -> Result<Answer, Answer> {
        let project = self.wanted(asked, asked.get("workspaceId"), None)?;
        let environment = asked.get("environment").unwrap_or_default();
        let path = asked.get("path").unwrap_or("/");
        let folder = self.store.folder(place(&project.id, environment, path));
        let imports = folder
            .map(|folder| folder.imports.as_slice())
            .unwrap_or_default();
        let told = imports.iter().enumerate().map(|(position, (environment, path))| {
            json!({"importPath": path, "position": position + 1, "importEnv": {"slug": environment}})
        });
        let told: Vec<Value> = told.collect();
        let message = "Successfully fetched secret imports";
        Ok(Answer::json(
            200,
            json!({"message": message, "secretImports": told}),
        ))
    }

    fn make_import(&mut self, asked: &Asked<'_>) -> Result<Answer, Answer> {
        let body = asked.json()?;
        let project = self
            .wanted(asked, body["workspaceId"].as_str(), None)?
            .id
            .clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (environment, path) = (text(&body["environment"]), text(&body["path"]));
        let from = (
            text(&body["import"]["environment"]),
            text(&body["import"]["path"]),
        );
        let into = place(&project, &environment, &path);
        match self.store.import(into, from) {
            Some(()) => Ok(Answer::json(
                200,
                json!({"message": "Successfully created secret import"}),
            )),
            None => Err(Answer::failure(404, "NotFound", "Folder not found")),
        }
    }

    fn project_by(
        &self,
        asked: &Asked<'_>,
        name: impl Fn(&Project) -> &String,
    ) -> Result<Answer, Answer> {
        let wanted = asked.path.rsplit('/').next().unwrap_or_default();
        let found = self
            .store
            .projects
            .iter()
            .find(|project| name(project) == wanted);
        let Some(project) = found else {
            let text = format!("Project with slug '{wanted}' not found");
            return Err(Answer::failure(404, "NotFound", &text));
        };
        self.wanted(asked, Some(&project.id), None)?;
        let slugs = project
            .environments
            .keys()
            .map(|slug| json!({"slug": slug}));
        let slugs: Vec<Value> = slugs.collect();
        let told = json!({"id": project.id, "_id": project.id, "slug": project.slug,
            "environments": slugs});
        let by_id = asked.path.starts_with("/api/v1/");
        Ok(Answer::json(
            200,
            if by_id {
                json!({"workspace": told})
            } else {
                told
            },
        ))
    }
}

fn place<'a>(project: &'a str, environment: &'a str, path: &'a str) -> Place<'a> {
    Place {
        project,
        environment,
        path,
    }
}

/// Whether this is `/NAME`, short enough for the server's router.
fn one_segment(rest: &str) -> bool {
    let name = rest.strip_prefix('/').unwrap_or_default();
    !name.is_empty() && !name.contains('/') && decoded(name).chars().count() <= MAX_PARAMETER
}

fn denied(verb: &str) -> Answer {
    let text = format!("You are not allowed to {verb} on secrets");
    Answer::failure(403, "PermissionDenied", &text)
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
fn check_flags(asked: &Asked<'_>) -> Result<(), Answer> {
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
        Answer::invalid(status, issue)
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
        return Err(Answer::invalid(status, issue));
    }
    Ok(())
}
