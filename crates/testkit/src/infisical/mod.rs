//! A fake Infisical server, for tests of providers and of services.
//!
//! Use it to test a service with secrets from Infisical without a real server: slow, denied, rotated or
//! rate-limited secrets. It responds like the newest server, including the errors. With another
//! [`Personality`], it responds like a server of 2024. The responses of 2024 are compared with exchanges that
//! were recorded on a real server, and the official clients are tested against the fake.
//!
//! ```
//! use secretwell_testkit::infisical::{FakeInfisical, Identity, Role};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let project = FakeInfisical::with([("auth/AUTH_SECRET", "a secret for tests")]).await;
//! // The service reads its secrets from `project.source_url()`.
//! project.set("auth/AUTH_SECRET", "another secret");
//!
//! // The same, step by step.
//! let fake = FakeInfisical::start().await;
//! let project = fake.project("shop");
//! fake.environment(&project, "prod");
//! fake.set(&project, "prod", "/auth", "AUTH_SECRET", "a secret for tests");
//! let identity = fake.identity(Identity::new().member(&project, Role::Viewer));
//! // Log in at `fake.url()` with `identity.client_id` and `identity.client_secret`.
//! assert!(fake.url().starts_with("http://127.0.0.1:"));
//! assert_eq!(identity.client_secret.len(), 64);
//! # }
//! ```
//!
//! # Limits
//! The fake reproduces observed behaviour. Behaviour that was not recorded follows the documentation and
//! might differ from a real server. Approvals, custom roles and users' tokens are not supported. The newest server
//! was never recorded. Its behaviour follows its public source and tests.

mod access;
mod personality;
mod project;
mod response;
mod routes;
mod serve;
mod store;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;
use tokio::time::Instant;

use access::{Access, RegisteredIdentity, random_hex};
pub use access::{FakeIdentity, Identity, Role};
use personality::Behaviour;
pub use personality::Personality;
pub use project::FakeProject;
pub use response::FakeResponse;
use store::{Folder, Location, Project, Store};

/// A fake Infisical server on a free port of the loopback interface. It stops when it is dropped.
#[derive(Debug)]
pub struct FakeInfisical {
    state: Arc<Mutex<State>>,
    address: Option<SocketAddr>,
    _tasks: JoinSet<()>,
}

/// The complete state of a fake.
#[derive(Debug)]
struct State {
    behaviour: &'static Behaviour,
    store: Store,
    access: Access,
    has_web_application: bool,
    partial_list_expansion: bool,
    legacy_statuses: bool,
    /// Responses to all requests whose line starts with the text.
    forced_failures: Vec<(String, FakeResponse)>,
    rate_limit: Option<u32>,
    /// The rate-limit windows by route. Each has its start and the number of requests since then.
    windows: HashMap<&'static str, (Instant, u32)>,
    /// The line of each request so far, with the status of its response.
    requests: Vec<(String, u16)>,
}

impl FakeInfisical {
    /// Starts the newest server, which has both versions of the API for secrets.
    pub async fn start() -> Self {
        Self::start_as(Personality::Newest).await
    }

    /// Starts a server of October 2024, which does not have version 4 of the API.
    pub async fn start_v3() -> Self {
        Self::start_as(Personality::October2024).await
    }

    /// Creates a server of October 2024 without a socket. Send requests with [`respond`](Self::respond), so that
    /// a test can pause the clock.
    pub fn offline() -> Self {
        Self::offline_as(Personality::October2024)
    }

    /// Like [`offline`](Self::offline), for any version of the server.
    pub fn offline_as(personality: Personality) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(personality.behaviour()))),
            address: None,
            _tasks: JoinSet::new(),
        }
    }

    /// Starts a server of this version.
    pub async fn start_as(personality: Personality) -> Self {
        let fake = Self::offline_as(personality);
        let (address, tasks) = serve::start(fake.state.clone()).await;
        Self {
            address: Some(address),
            _tasks: tasks,
            ..fake
        }
    }

    /// Returns the address on which the server listens.
    ///
    /// # Panics
    /// Panics if the server is [offline](Self::offline).
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an offline fake has no address")
    }

    /// Returns the server's address as a URL.
    ///
    /// # Panics
    /// Panics if the server is [offline](Self::offline).
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Returns the response to a request. `target` is the path with the query. The names of the headers must
    /// be in lower case.
    pub fn respond(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> FakeResponse {
        self.state().respond(method, target, headers, body)
    }

    /// Creates a project and returns its id.
    pub fn project(&self, slug: &str) -> String {
        let id = self.state().store.new_id();
        self.project_with_id(&id, slug);
        id
    }

    /// Creates a project with this id.
    pub fn project_with_id(&self, id: &str, slug: &str) {
        self.state().store.projects.push(Project {
            id: id.to_owned(),
            slug: slug.to_owned(),
            environments: Default::default(),
        });
    }

    /// Creates an environment with its root folder.
    ///
    /// # Panics
    /// Panics if the project does not exist.
    pub fn environment(&self, project: &str, slug: &str) {
        let mut state = self.state();
        let id = state.store.new_id();
        let project = state
            .store
            .project_mut(project)
            .expect("the project must exist");
        let root = Folder {
            id,
            ..Folder::default()
        };
        let folders = [("/".to_owned(), root)].into();
        project.environments.insert(slug.to_owned(), folders);
    }

    /// Creates a folder and its missing parents.
    ///
    /// # Panics
    /// Panics if the project or the environment does not exist.
    pub fn folder(&self, project: &str, environment: &str, path: &str) {
        let location = location(project, environment, path);
        let created = self.state().store.create_folder(location);
        created.expect("the project and the environment must exist");
    }

    /// Creates a secret, or the next version of an existing one. Creates the folder if it is missing.
    ///
    /// # Panics
    /// Panics if the project or the environment does not exist.
    pub fn set(&self, project: &str, environment: &str, path: &str, name: &str, value: &str) {
        self.folder(project, environment, path);
        let location = location(project, environment, path);
        let written = self.state().store.write(location, name, value);
        written.expect("the folder must exist");
    }

    /// Adds a personal value to a secret with a shared value, as a user can do. Every identity counts as that user.
    /// Version 3 of the API lists both values, and version 4 the requested one.
    ///
    /// # Panics
    /// Panics if the folder does not exist.
    pub fn set_personal(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        name: &str,
        value: &str,
    ) {
        let location = location(project, environment, path);
        let written = self.state().store.write_personal(location, name, value);
        written.expect("the folder must exist");
    }

    /// Sets the comment of a secret, and its tags by their slugs. Has no effect if the secret does not exist.
    pub fn set_metadata(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        name: &str,
        comment: &str,
        tags: &[&str],
    ) {
        let location = location(project, environment, path);
        self.state().store.change(location, name, |secret| {
            secret.comment = comment.to_owned();
            secret.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        });
    }

    /// Marks a secret as one whose lines are not encoded. If its value contains a reference and expands to several
    /// lines, the server nevertheless returns it in quotes, with `\n` for each line end. Has no effect if the
    /// secret does not exist.
    pub fn skip_multiline_encoding(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        name: &str,
    ) {
        let location = location(project, environment, path);
        self.state().store.change(location, name, |secret| {
            secret.skip_multiline_encoding = true;
        });
    }

    /// Deletes a secret with all its versions. Does nothing if it does not exist.
    pub fn remove(&self, project: &str, environment: &str, path: &str, name: &str) {
        let location = location(project, environment, path);
        self.state().store.remove(location, name);
    }

    /// Makes the folder `into` import the folder `from`, after its existing imports. Each folder is an
    /// environment and a path.
    ///
    /// # Panics
    /// Panics if the folder `into` does not exist.
    pub fn import(&self, project: &str, into: (&str, &str), from: (&str, &str)) {
        let location = location(project, into.0, into.1);
        let from = (from.0.to_owned(), from.1.to_owned());
        let imported = self.state().store.import(location, from);
        imported.expect("the folder must exist");
    }

    /// Creates a machine identity and returns its credentials.
    pub fn identity(&self, identity: Identity) -> FakeIdentity {
        let mut state = self.state();
        let id = state.store.new_id();
        let client_id = identity.client_id.clone();
        let client_id = client_id.unwrap_or_else(|| state.store.new_id());
        let client_secret = identity.client_secret.clone();
        let client_secret = client_secret.unwrap_or_else(|| random_hex(64));
        state.access.identities.push(RegisteredIdentity {
            id: id.clone(),
            client_id: client_id.clone(),
            client_secret: Some(client_secret.clone()),
            config: identity,
            denied_folders: Vec::new(),
            values_hidden: false,
            accepted_jwts: Vec::new(),
            failed_logins: Vec::new(),
        });
        FakeIdentity {
            identity_id: id,
            client_id,
            client_secret,
        }
    }

    /// Denies an identity the permission to read one folder.
    ///
    /// # Panics
    /// Panics if the identity does not exist.
    pub fn deny(&self, identity: &str, environment: &str, path: &str) {
        let denied = (environment.to_owned(), path.to_owned());
        self.change(identity, |identity| identity.denied_folders.push(denied));
    }

    /// Denies an identity the permission to read values. Version 4 of the API then hides them.
    ///
    /// # Panics
    /// Panics if the identity does not exist.
    pub fn hide_values(&self, identity: &str) {
        self.change(identity, |identity| identity.values_hidden = true);
    }

    /// Accepts `jwt` for logins of an identity. `method` is `kubernetes-auth`, `oidc-auth` or `jwt-auth`.
    ///
    /// # Panics
    /// Panics if the identity does not exist.
    pub fn accept_jwt(&self, identity: &str, method: &str, jwt: &str) {
        let accepted = (method.to_owned(), jwt.to_owned());
        self.change(identity, |identity| identity.accepted_jwts.push(accepted));
    }

    /// Creates a service token with the permissions of an identity. The server reads the folder of the token,
    /// whichever one a request names.
    ///
    /// # Panics
    /// Panics if the identity does not exist.
    pub fn service_token(
        &self,
        identity: &str,
        project: &str,
        environment: &str,
        path: &str,
    ) -> String {
        let scope = [project, environment, path];
        let token = self.state().access.issue_service_token(identity, scope);
        token.expect("the identity must exist")
    }

    /// Revokes the client secret of an identity. Existing tokens stay valid.
    ///
    /// # Panics
    /// Panics if the identity does not exist.
    pub fn revoke_client_secret(&self, identity: &str) {
        self.change(identity, |identity| identity.client_secret = None);
    }

    /// Replaces the client secret of an identity, ends its lock, and returns the new client secret.
    ///
    /// # Panics
    /// Panics if the identity does not exist.
    pub fn rotate_client_secret(&self, identity: &str) -> String {
        let secret = random_hex(64);
        self.change(identity, |identity| {
            identity.client_secret = Some(secret.clone());
            identity.failed_logins.clear();
        });
        secret
    }

    fn change(&self, identity: &str, change: impl FnOnce(&mut RegisteredIdentity)) {
        let mut state = self.state();
        let identity = state.access.identity_mut(identity);
        change(identity.expect("the identity must exist"));
    }

    /// Revokes the tokens of all identities. New logins still succeed.
    pub fn revoke_tokens(&self) {
        self.state().access.revoke_tokens();
    }

    /// Sets the number of lists, and of single reads, that are allowed per minute. Logins are then limited to
    /// 200 per minute. Default: no limit.
    pub fn rate_limit(&self, limit: Option<u32>) {
        self.state().rate_limit = limit;
    }

    /// Expands references in lists only one level deep, as older servers sometimes do. If a referenced value
    /// contains a reference itself, that inner reference stays as it is.
    pub fn use_partial_list_expansion(&self) {
        self.state().partial_list_expansion = true;
    }

    /// Responds with an HTML page to `GET` requests for unknown routes. The official standalone image of 2024
    /// does this, because its web application handles them.
    pub fn use_web_application(&self) {
        self.state().has_web_application = true;
    }

    /// Responds 401 to a missing permission, and 403 to a dead token. Servers before August 2024 do this, and
    /// [`Personality::July2024`] as well.
    pub fn use_legacy_statuses(&self) {
        self.state().legacy_statuses = true;
    }

    /// Responds with this failure to every request whose line starts with `start`, such as
    /// `GET /api/v1/folders`.
    pub fn fail_requests(&self, start: &str, status: u16, error: &str, message: &str) {
        let failure = (
            start.to_owned(),
            FakeResponse::failure(status, error, message),
        );
        self.state().forced_failures.push(failure);
    }

    /// Removes all failures that were added with [`fail_requests`](Self::fail_requests).
    pub fn clear_failures(&self) {
        self.state().forced_failures.clear();
    }

    /// Returns the lines of the requests so far, such as `GET /api/v3/secrets/raw?…`.
    pub fn requests(&self) -> Vec<String> {
        let state = self.state();
        state
            .requests
            .iter()
            .map(|(line, _)| line.clone())
            .collect()
    }

    /// Returns the number of requests so far whose line starts with `start` and whose response had this
    /// status.
    pub fn count(&self, start: &str, status: u16) -> usize {
        let matches = |(line, response_status): &&(String, u16)| {
            line.starts_with(start) && *response_status == status
        };
        self.state().requests.iter().filter(matches).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(behaviour: &'static Behaviour) -> Self {
        Self {
            behaviour,
            store: Store::default(),
            access: Access::new(behaviour),
            has_web_application: false,
            partial_list_expansion: false,
            legacy_statuses: behaviour.swapped_statuses,
            forced_failures: Vec::new(),
            rate_limit: None,
            windows: HashMap::new(),
            requests: Vec::new(),
        }
    }
}

fn location<'a>(project: &'a str, environment: &'a str, path: &'a str) -> Location<'a> {
    Location {
        project,
        environment,
        path,
    }
}
