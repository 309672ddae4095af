//! Routes of the fake: request parsing, authentication and rate limits.

use std::collections::HashMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::Instant;

mod folders;
mod secrets;

use super::State;
use super::access::{Role, Use};
use super::personality::Behaviour;
use super::response::FakeResponse;
use super::store::Project;

/// The length of a rate-limit window.
const WINDOW: Duration = Duration::from_secs(60);
/// The number of logins per window, if requests are limited.
const LOGIN_LIMIT: u32 = 200;
/// The maximum length in characters of a path parameter. The router of a real server has the same limit.
const MAX_PARAMETER: usize = 100;

/// A parsed request.
struct FakeRequest<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    query: HashMap<String, String>,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
    /// Whether the request is for version 4 of the API.
    is_v4: bool,
    behaviour: &'static Behaviour,
    /// The index of the identity that the token belongs to.
    identity: usize,
}

impl FakeRequest<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    /// Returns the token in the `Authorization` header, or `None` if the header is missing or empty.
    fn token(&self) -> Option<&str> {
        let header = self.header("authorization");
        let header = header.filter(|header| !header.is_empty())?;
        // A real server does not check the scheme, only its length.
        Some(header.get("Bearer ".len()..).unwrap_or_default().trim())
    }

    /// Returns a parameter of the query.
    fn get(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Returns a flag of the query. Default: `false`.
    fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Returns whether references are expanded. Version 4 does this by default.
    fn expands_references(&self) -> bool {
        let flag = self.get("expandSecretReferences");
        flag.map_or(self.is_v4, |value| value == "true")
    }

    /// Returns whether imports are included. Version 4 does this by default, and has two names for the flag.
    fn includes_imports(&self) -> bool {
        let newer = self.get("includeImports").filter(|_| self.is_v4);
        let flag = newer.or_else(|| self.get("include_imports"));
        flag.map_or(self.is_v4, |value| value == "true")
    }

    /// Returns the name of a parameter that occurs more than once.
    fn repeated_parameter(&self) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let names: Vec<&str> = query
            .split('&')
            .filter_map(|pair| Some(pair.split_once('=')?.0))
            .collect();
        let is_repeated = |(index, name): &(usize, &&str)| names[..*index].contains(name);
        let (_, name) = names.iter().enumerate().find(is_repeated)?;
        Some(decode(name))
    }

    /// Parses the body as JSON.
    fn json(&self) -> Result<Value, FakeResponse> {
        serde_json::from_slice(self.body)
            .map_err(|_| FakeResponse::internal_error("InternalServerError"))
    }

    /// Parses the body of a login, which can be JSON or a form.
    fn json_or_form(&self) -> Result<Value, FakeResponse> {
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
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// Returns the text of a required field, or the validation failure if it is missing.
fn field<'a>(body: &'a Value, name: &str, status: u16) -> Result<&'a str, FakeResponse> {
    let text = body[name].as_str();
    text.ok_or_else(|| FakeResponse::invalid(status, missing_field(name)))
}

/// Returns the validation issue of a missing field.
fn missing_field(name: &str) -> Value {
    json!({
        "code": "invalid_type",
        "expected": "string",
        "received": "undefined",
        "path": [name],
        "message": "Required",
    })
}

impl State {
    pub(super) fn respond(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> FakeResponse {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = FakeRequest {
            method,
            target,
            path: path.trim_end_matches('/'),
            query: parameters(query),
            headers,
            body,
            is_v4: path.starts_with("/api/v4/"),
            behaviour: self.behaviour,
            identity: 0,
        };
        let line = format!("{method} {target}");
        let matches = |(start, _): &&(String, FakeResponse)| line.starts_with(start.as_str());
        let mut response = match self.forced_failures.iter().find(matches) {
            Some((_, failure)) => failure.clone(),
            None => self.route(&mut request).unwrap_or_else(|failure| failure),
        };
        if self.legacy_statuses {
            response = response.with_legacy_status();
        }
        if self.behaviour.detailed_errors {
            response = response.with_details(self.requests.len());
        }
        let mut response = match method {
            "GET" => response.if_none_match(request.header("if-none-match")),
            _ => response,
        };
        if method == "HEAD" {
            response.body.clear();
        }
        self.requests.push((line, response.status));
        response
    }

    fn route(&mut self, request: &mut FakeRequest<'_>) -> Result<FakeResponse, FakeResponse> {
        let no_route = match self.has_web_application && request.method == "GET" {
            true => FakeResponse::page_not_found(),
            false => FakeResponse::no_route(request.method, request.target),
        };
        if let Some(rest) = request.path.strip_prefix("/api/v1/auth/") {
            return self.auth(request, rest);
        }
        if request.path == "/api/status" {
            let body = json!({"date": "2026-01-01T00:00:00.000Z", "message": "Ok", "emailConfigured": false,
                "inviteOnlySignup": true, "redisConfigured": true, "secretScanningConfigured": false});
            return Ok(FakeResponse::json(200, body));
        }
        let secrets = ["/api/v3/secrets/raw", "/api/v4/secrets"]
            .into_iter()
            .filter(|start| self.behaviour.has_v4 || *start != "/api/v4/secrets")
            .find_map(|start| request.path.strip_prefix(start));
        let (route, limit) = match (request.method, secrets, request.path) {
            ("GET" | "HEAD", Some(""), _) => ("list", self.rate_limit),
            ("GET", Some(name), _) if is_parameter(name) => ("get", self.rate_limit),
            ("POST" | "PATCH" | "DELETE", Some(name), _) if is_parameter(name) => ("write", None),
            ("POST" | "PATCH" | "DELETE", None, "/api/v3/secrets/batch/raw") => ("batch", None),
            (_, None, "/api/v1/folders") => ("folders", None),
            (_, None, "/api/v1/secret-imports") => ("imports", None),
            ("GET", None, path) if path.starts_with("/api/v2/workspace/") => ("by-slug", None),
            ("GET", None, path) if path.starts_with("/api/v1/workspace/") => ("by-id", None),
            ("GET", None, path)
                if path.starts_with("/api/v1/projects/slug/") && self.behaviour.has_v4 =>
            {
                ("by-slug", None)
            }
            _ => return Err(no_route),
        };
        request.identity = self.authenticate(request)?;
        let scope = request.token().and_then(|token| self.access.scope(token));
        if let Some([project, environment, path]) = scope.cloned() {
            let id = if request.is_v4 {
                "projectId"
            } else {
                "workspaceId"
            };
            let scoped = [
                (id, project),
                ("environment", environment),
                ("secretPath", path),
            ];
            let scoped = scoped.map(|(name, value)| (name.to_owned(), value));
            request.query.extend(scoped);
        }
        let rate_limit_headers = self.count_request(route, limit)?;
        if let Some(name) = request.repeated_parameter() {
            let issue = json!({"code": "invalid_type", "expected": "string", "received": "array",
                "path": [name], "message": "Expected string, received array"});
            return Err(FakeResponse::invalid(self.behaviour.invalid_status, issue));
        }
        let name = secrets.map(|name| decode(name.trim_start_matches('/')));
        let result = match (route, &name) {
            ("list", _) => self.list_secrets(request),
            ("get", Some(name)) => self.get_secret(request, name.trim()),
            ("write", Some(name)) => self.write_secret(request, name.trim()),
            ("batch", _) => self.write_secrets(request),
            ("folders", _) if request.method == "POST" => self.create_folder(request),
            ("folders", _) => self.list_folders(request),
            ("imports", _) if request.method == "POST" => self.create_import(request),
            ("imports", _) => self.list_imports(request),
            ("by-slug", _) => self.get_project(request, |project| &project.slug),
            _ => self.get_project(request, |project| &project.id),
        };
        let mut response = result.unwrap_or_else(|failure| failure);
        response.headers.extend(rate_limit_headers);
        Ok(response)
    }

    /// Returns the index of the identity that the request's token belongs to.
    fn authenticate(&mut self, request: &FakeRequest<'_>) -> Result<usize, FakeResponse> {
        match request.token() {
            Some(token) => self.access.check(token, Use::Counted),
            None => Err(FakeResponse::failure(
                401,
                "UnauthorizedError",
                "Token missing",
            )),
        }
    }

    /// Counts a request in the rate-limit window of its route. Returns the headers about the window, or the
    /// 429 if the limit is reached.
    fn count_request(
        &mut self,
        route: &'static str,
        limit: Option<u32>,
    ) -> Result<Vec<(&'static str, String)>, FakeResponse> {
        let Some(limit) = limit else {
            return Ok(Vec::new());
        };
        let now = Instant::now();
        let (start, count) = self.windows.entry(route).or_insert((now, 0));
        if now >= *start + WINDOW {
            (*start, *count) = (now, 0);
        }
        let reset = (*start + WINDOW - now).as_secs_f64().ceil().to_string();
        let remaining = limit.saturating_sub(*count + 1);
        let headers = vec![
            ("x-ratelimit-limit", limit.to_string()),
            ("x-ratelimit-remaining", remaining.to_string()),
            ("x-ratelimit-reset", reset.clone()),
        ];
        if *count >= limit {
            let text = "Rate limit exceeded. Please try again in 1 minute";
            let mut response = FakeResponse::failure(429, "RateLimitExceeded", text);
            response.headers.extend(headers);
            response.headers.push(("retry-after", reset));
            return Err(response);
        }
        *count += 1;
        Ok(headers)
    }

    fn auth(
        &mut self,
        request: &FakeRequest<'_>,
        rest: &str,
    ) -> Result<FakeResponse, FakeResponse> {
        if request.method != "POST" {
            return Err(FakeResponse::no_route(request.method, request.target));
        }
        // A real server also checks a token that is sent with a login. The second login of a client that
        // sends its old token fails for this reason.
        if let Some(token) = request.token() {
            self.access.check(token, Use::Unlimited)?;
        }
        let rate_limit_headers =
            self.count_request("login", self.rate_limit.map(|_| LOGIN_LIMIT))?;
        let status = self.behaviour.invalid_status;
        let mut response = match rest {
            "universal-auth/login" => {
                let body = request.json_or_form()?;
                let client_id = field(&body, "clientId", status)?;
                self.access
                    .log_in(client_id, field(&body, "clientSecret", status)?)
            }
            "token/renew" => {
                let body = request.json_or_form()?;
                self.access.renew(field(&body, "accessToken", status)?)
            }
            "token/revoke" => {
                let body = request.json_or_form()?;
                self.access.revoke(field(&body, "accessToken", status)?)
            }
            "aws-auth/login" => {
                let body = request.json()?;
                let missing: Vec<Value> = ["iamRequestBody", "iamRequestHeaders"]
                    .into_iter()
                    .filter(|name| body[*name].is_null())
                    .map(missing_field)
                    .collect();
                if !missing.is_empty() {
                    let body = json!({"statusCode": status, "message": missing, "error": "ValidationFailure"});
                    return Err(FakeResponse::json(status, body));
                }
                let identity = field(&body, "identityId", status)?;
                self.access.log_in_with_jwt("aws-auth", identity, "")
            }
            _ => {
                let method = rest.strip_suffix("/login").unwrap_or_default();
                let exists = ["kubernetes-auth", "oidc-auth", "gcp-auth", "azure-auth"]
                    .contains(&method)
                    || method == "jwt-auth" && self.behaviour.has_v4;
                if !exists {
                    return Err(FakeResponse::no_route(request.method, request.target));
                }
                let body = request.json()?;
                let identity = field(&body, "identityId", status)?;
                let jwt = field(&body, "jwt", status)?;
                if identity.len() != 36 {
                    return Err(FakeResponse::internal_error("Find one"));
                }
                self.access.log_in_with_jwt(method, identity, jwt)
            }
        };
        response.headers.extend(rate_limit_headers);
        Ok(response)
    }

    /// Returns the requested project. The id takes precedence over the slug.
    ///
    /// # Errors
    /// Returns the failure if the project does not exist, or if the identity has no permission in it.
    fn authorized_project(
        &self,
        request: &FakeRequest<'_>,
        id: Option<&str>,
        slug: Option<&str>,
    ) -> Result<&Project, FakeResponse> {
        let project = self.visible_project(request, id, slug)?;
        let role = self.access.identities[request.identity].role(&project.id);
        match role {
            Some(Role::NoAccess) => Err(permission_denied("read")),
            _ => Ok(project),
        }
    }

    /// Like [`authorized_project`](Self::authorized_project), but the membership is enough.
    fn visible_project(
        &self,
        request: &FakeRequest<'_>,
        id: Option<&str>,
        slug: Option<&str>,
    ) -> Result<&Project, FakeResponse> {
        let project = match (id, slug) {
            (Some(id), _) => self.store.project(id).ok_or_else(|| {
                let text = format!(
                    "Project with ID '{id}' not found during bot lookup. Are you sure you are \
                     using the correct project ID?"
                );
                FakeResponse::failure(404, "NotFound", &text)
            }),
            (None, Some(slug)) => {
                let project = self
                    .store
                    .projects
                    .iter()
                    .find(|project| project.slug == slug);
                let error = match request.path.ends_with("/raw") {
                    true => "Failed to find project by slug",
                    false => "Find project by slug",
                };
                project.ok_or_else(|| FakeResponse::internal_error(error))
            }
            (None, None) => {
                return Err(FakeResponse::failure(
                    400,
                    "BadRequest",
                    "You must provide workspaceSlug or workspaceId",
                ));
            }
        }?;
        match self.access.identities[request.identity].role(&project.id) {
            Some(_) => Ok(project),
            None => {
                let error = format!(
                    "Identity is not a member of the specified project with ID '{}'",
                    project.id
                );
                let text = "You are not allowed to access this resource";
                Err(FakeResponse::failure(403, &error, text))
            }
        }
    }
}

/// Returns whether `rest` is a slash and one path segment, which is short enough for a real server's router.
fn is_parameter(rest: &str) -> bool {
    let name = rest.strip_prefix('/').unwrap_or_default();
    !name.is_empty() && !name.contains('/') && decode(name).chars().count() <= MAX_PARAMETER
}

fn permission_denied(verb: &str) -> FakeResponse {
    let text = format!("You are not allowed to {verb} on secrets");
    FakeResponse::failure(403, "PermissionDenied", &text)
}
