//! Which request is answered how.

use std::collections::HashMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::Instant;

mod folders;
mod secrets;

use super::State;
use super::access::Role;
use super::response::FakeResponse;
use super::store::{Place, Project};

/// How long a window of the rate limit is.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest name that the server's router takes.
const MAX_PARAMETER: usize = 100;

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
    fn json(&self) -> Result<Value, FakeResponse> {
        serde_json::from_slice(self.body).map_err(|_| FakeResponse::wrong("InternalServerError"))
    }

    /// The body of a login, which may also be a form.
    fn form(&self) -> Result<Value, FakeResponse> {
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
fn field<'a>(body: &'a Value, name: &str, status: u16) -> Result<&'a str, FakeResponse> {
    let text = body[name].as_str();
    text.ok_or_else(|| FakeResponse::invalid(status, required(name)))
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
    ) -> FakeResponse {
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
        let line = format!("{method} {target}");
        let refused = |(start, _): &&(String, FakeResponse)| line.starts_with(start.as_str());
        let mut answer = match self.refusals.iter().find(refused) {
            Some((_, refusal)) => refusal.clone(),
            None => self.route(&mut asked).unwrap_or_else(|answer| answer),
        };
        if self.has_old_statuses {
            answer = answer.of_before();
        }
        let mut answer = match method {
            "GET" => answer.unless_known(asked.header("if-none-match")),
            _ => answer,
        };
        if method == "HEAD" {
            answer.body.clear();
        }
        self.requests.push((line, answer.status));
        answer
    }

    fn route(&mut self, asked: &mut Asked<'_>) -> Result<FakeResponse, FakeResponse> {
        let no_route = FakeResponse::no_route(asked.method, asked.target);
        if let Some(rest) = asked.path.strip_prefix("/api/v1/auth/") {
            return self.auth(asked, rest);
        }
        if asked.path == "/api/status" {
            let told = json!({"date": "2026-01-01T00:00:00.000Z", "message": "Ok", "emailConfigured": false,
                "inviteOnlySignup": true, "redisConfigured": true, "secretScanningConfigured": false});
            return Ok(FakeResponse::json(200, told));
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
    fn authenticate(&mut self, asked: &Asked<'_>) -> Result<usize, FakeResponse> {
        let header = asked
            .header("authorization")
            .filter(|header| !header.is_empty());
        let Some(header) = header else {
            return Err(FakeResponse::failure(
                401,
                "UnauthorizedError",
                "Token missing",
            ));
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
    ) -> Result<Vec<(&'static str, String)>, FakeResponse> {
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
            let mut answer = FakeResponse::failure(429, "RateLimitExceeded", text);
            answer.headers.extend(headers);
            answer.headers.push(("retry-after", reset));
            return Err(answer);
        }
        *used += 1;
        Ok(headers)
    }

    fn auth(&mut self, asked: &Asked<'_>, rest: &str) -> Result<FakeResponse, FakeResponse> {
        if asked.method != "POST" {
            return Err(FakeResponse::no_route(asked.method, asked.target));
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
                    return Err(FakeResponse::json(status, body));
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
                    return Err(FakeResponse::no_route(asked.method, asked.target));
                }
                let body = asked.json()?;
                let identity = field(&body, "identityId", status)?;
                let jwt = field(&body, "jwt", status)?;
                if identity.len() != 36 {
                    return Err(FakeResponse::wrong("Find one"));
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
    ) -> Result<&Project, FakeResponse> {
        let found = match (id, slug) {
            (Some(id), _) => self.store.project(id).ok_or_else(|| {
                let text = format!(
                    "Project with ID '{id}' not found during bot lookup. Are you sure you are \
                     using the correct project ID?"
                );
                FakeResponse::failure(404, "NotFound", &text)
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
                found.ok_or_else(|| FakeResponse::wrong(error))
            }
            (None, None) => {
                return Err(FakeResponse::failure(
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
                Err(FakeResponse::failure(403, &error, text))
            }
        }
    }
}

/// Whether this is `/NAME`, short enough for the server's router.
fn one_segment(rest: &str) -> bool {
    let name = rest.strip_prefix('/').unwrap_or_default();
    !name.is_empty() && !name.contains('/') && decoded(name).chars().count() <= MAX_PARAMETER
}

fn place<'a>(project: &'a str, environment: &'a str, path: &'a str) -> Place<'a> {
    Place {
        project,
        environment,
        path,
    }
}

fn denied(verb: &str) -> FakeResponse {
    let text = format!("You are not allowed to {verb} on secrets");
    FakeResponse::failure(403, "PermissionDenied", &text)
}
