//! Folders, imports and projects.

use serde_json::{Value, json};

use super::super::State;
use super::super::response::FakeResponse;
use super::super::store::Project;
use super::{Asked, place};

impl State {
    pub(super) fn folders(&self, asked: &Asked<'_>) -> Result<FakeResponse, FakeResponse> {
        let id = asked.get("workspaceId").or_else(|| asked.get("projectId"));
        let project = self.wanted(asked, id, None)?;
        let environment = asked.get("environment").unwrap_or_default();
        let Some(folders) = project.environments.get(environment) else {
            let text = format!("Environment with slug '{environment}' not found");
            return Err(FakeResponse::failure(404, "NotFound", &text));
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
        Ok(FakeResponse::json(200, json!({"folders": found})))
    }

    pub(super) fn make_folder(&mut self, asked: &Asked<'_>) -> Result<FakeResponse, FakeResponse> {
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

    pub(super) fn imports(&self, asked: &Asked<'_>) -> Result<FakeResponse, FakeResponse> {
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
        Ok(FakeResponse::json(
            200,
            json!({"message": message, "secretImports": told}),
        ))
    }

    pub(super) fn make_import(&mut self, asked: &Asked<'_>) -> Result<FakeResponse, FakeResponse> {
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
            Some(()) => Ok(FakeResponse::json(
                200,
                json!({"message": "Successfully created secret import"}),
            )),
            None => Err(FakeResponse::failure(404, "NotFound", "Folder not found")),
        }
    }

    pub(super) fn project_by(
        &self,
        asked: &Asked<'_>,
        name: impl Fn(&Project) -> &String,
    ) -> Result<FakeResponse, FakeResponse> {
        let wanted = asked.path.rsplit('/').next().unwrap_or_default();
        let found = self
            .store
            .projects
            .iter()
            .find(|project| name(project) == wanted);
        let Some(project) = found else {
            let text = format!("Project with slug '{wanted}' not found");
            return Err(FakeResponse::failure(404, "NotFound", &text));
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
        Ok(FakeResponse::json(
            200,
            if by_id {
                json!({"workspace": told})
            } else {
                told
            },
        ))
    }
}
