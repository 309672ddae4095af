//! Routes for folders, imports and projects.

use serde_json::{Value, json};

use super::super::State;
use super::super::location;
use super::super::personality::MissingEnvironment;
use super::super::response::FakeResponse;
use super::super::store::Project;
use super::FakeRequest;

impl State {
    pub(super) fn list_folders(
        &self,
        request: &FakeRequest<'_>,
    ) -> Result<FakeResponse, FakeResponse> {
        let id = request
            .get("workspaceId")
            .or_else(|| request.get("projectId"));
        let project = self.visible_project(request, id, None)?;
        let environment = request.get("environment").unwrap_or_default();
        let Some(folders) = project.environments.get(environment) else {
            return Err(match self.behaviour.missing_environment {
                MissingEnvironment::OtherErrors => {
                    FakeResponse::failure(400, "BadRequest", "Environment not found")
                }
                MissingEnvironment::NotFound => {
                    let text = format!("Environment with slug '{environment}' not found");
                    FakeResponse::failure(404, "NotFound", &text)
                }
            });
        };
        let base = request.get("path").unwrap_or("/").trim_end_matches('/');
        let child = |path: &String| {
            let rest = path.strip_prefix(base)?.strip_prefix('/')?;
            (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned())
        };
        let children: Vec<Value> = folders
            .iter()
            .filter_map(|(path, folder)| {
                Some(json!({"id": folder.id, "name": child(path)?, "version": 1, "isReserved": false}))
            })
            .collect();
        Ok(FakeResponse::json(200, json!({"folders": children})))
    }

    pub(super) fn create_folder(
        &mut self,
        request: &FakeRequest<'_>,
    ) -> Result<FakeResponse, FakeResponse> {
        let body = request.json()?;
        let project = self
            .authorized_project(request, body["workspaceId"].as_str(), None)?
            .id
            .clone();
        let environment = body["environment"].as_str().unwrap_or_default();
        let parent = body["path"].as_str().unwrap_or("/").trim_end_matches('/');
        let name = body["name"].as_str().unwrap_or_default();
        let path = format!("{parent}/{name}");
        match self
            .store
            .create_folder(location(&project, environment, &path))
        {
            Some(true) => Ok(FakeResponse::json(
                200,
                json!({"folder": {"name": name, "version": 1}}),
            )),
            Some(false) => Err(FakeResponse::failure(
                400,
                "BadRequest",
                "Folder already exists",
            )),
            None => Err(FakeResponse::failure(
                404,
                "NotFound",
                "Environment not found",
            )),
        }
    }

    pub(super) fn list_imports(
        &self,
        request: &FakeRequest<'_>,
    ) -> Result<FakeResponse, FakeResponse> {
        let project = self.authorized_project(request, request.get("workspaceId"), None)?;
        let environment = request.get("environment").unwrap_or_default();
        let path = request.get("path").unwrap_or("/");
        let folder = self.store.folder(location(&project.id, environment, path));
        let imports = folder
            .map(|folder| folder.imports.as_slice())
            .unwrap_or_default();
        let imports = imports
            .iter()
            .enumerate()
            .map(|(position, (environment, path))| {
                json!({"importPath": path, "position": position + 1, "isReplication": false,
                "importEnv": {"slug": environment}})
            });
        let imports: Vec<Value> = imports.collect();
        let message = "Successfully fetched secret imports";
        Ok(FakeResponse::json(
            200,
            json!({"message": message, "secretImports": imports}),
        ))
    }

    pub(super) fn create_import(
        &mut self,
        request: &FakeRequest<'_>,
    ) -> Result<FakeResponse, FakeResponse> {
        let body = request.json()?;
        let project = self
            .authorized_project(request, body["workspaceId"].as_str(), None)?
            .id
            .clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (environment, path) = (text(&body["environment"]), text(&body["path"]));
        let from = (
            text(&body["import"]["environment"]),
            text(&body["import"]["path"]),
        );
        let into = location(&project, &environment, &path);
        match self.store.import(into, from) {
            Some(()) => Ok(FakeResponse::json(
                200,
                json!({"message": "Successfully created secret import"}),
            )),
            None => Err(FakeResponse::failure(404, "NotFound", "Folder not found")),
        }
    }

    /// Returns the project whose id or slug is the last segment of the path. `property` selects which one.
    pub(super) fn get_project(
        &self,
        request: &FakeRequest<'_>,
        property: impl Fn(&Project) -> &String,
    ) -> Result<FakeResponse, FakeResponse> {
        let requested = request.path.rsplit('/').next().unwrap_or_default();
        let found = self
            .store
            .projects
            .iter()
            .find(|project| property(project) == requested);
        let Some(project) = found else {
            if self.behaviour.unknown_slug_is_internal_error {
                return Err(FakeResponse::internal_error("Find project by slug"));
            }
            let text = format!("Project with slug '{requested}' not found");
            return Err(FakeResponse::failure(404, "NotFound", &text));
        };
        self.visible_project(request, Some(&project.id), None)?;
        let slugs = project
            .environments
            .keys()
            .map(|slug| json!({"slug": slug}));
        let slugs: Vec<Value> = slugs.collect();
        let body = json!({"id": project.id, "_id": project.id, "slug": project.slug,
            "environments": slugs});
        let by_id = request.path.starts_with("/api/v1/workspace/");
        Ok(FakeResponse::json(
            200,
            if by_id {
                json!({"workspace": body})
            } else {
                body
            },
        ))
    }
}
