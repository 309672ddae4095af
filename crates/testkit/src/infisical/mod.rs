//! A fake Infisical, for tests of backends and of services.
//!
//! For whoever wants to see what happens with secrets from Infisical without running one: late, denied,
//! rotated, rate-limited. It answers as a self-hosted server of October 2024 does, error by error, and
//! has the newer version of the API for secrets too, unless told otherwise. Exchanges that were recorded
//! on a real server are replayed against it, and the official clients are run on it.
//!
//! ```
//! use secretwell_testkit::infisical::{FakeInfisical, Identity, Role};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let fake = FakeInfisical::start().await;
//! let project = fake.project("shop");
//! fake.environment(&project, "prod");
//! fake.set(&project, "prod", "/auth", "AUTH_SECRET", "a secret of the tests");
//! let identity = fake.identity(Identity::new().member(&project, Role::Viewer));
//! // Now log in at `fake.url()` with `identity.client_id` and `identity.client_secret`.
//! # assert!(fake.url().starts_with("http://127.0.0.1:"));
//! # assert_eq!(identity.client_secret.len(), 64);
//! # }
//! ```
//!
//! # Limits
//! Written from the outside: what is not in the recordings is a guess by the documentation. Imports of
//! imports, approvals, custom roles and tokens of users are not there; the newer version of the API has
//! never been seen on the wire.

mod access;
mod response;
mod routes;
mod serve;
mod store;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;
use tokio::time::Instant;

use access::{Access, Known, random};
pub use access::{FakeIdentity, Identity, Role};
pub use response::FakeResponse;
use store::{Folder, Place, Project, Store};

/// A fake Infisical, on a free port of the loopback. Ends when dropped.
#[derive(Debug)]
pub struct FakeInfisical {
    state: Arc<Mutex<State>>,
    address: Option<SocketAddr>,
    _tasks: JoinSet<()>,
}

/// All that a fake holds.
#[derive(Debug, Default)]
struct State {
    store: Store,
    access: Access,
    has_v4: bool,
    half_expands: bool,
    has_old_statuses: bool,
    /// What requests that begin like this are answered, whatever they ask for.
    refusals: Vec<(String, FakeResponse)>,
    limit: Option<u32>,
    /// The windows of the rate limit, by route: when each began, and how often it was asked since.
    windows: HashMap<&'static str, (Instant, u32)>,
    /// The requests so far, each with the status of its answer.
    requests: Vec<(String, u16)>,
}

impl FakeInfisical {
    /// Starts one with both versions of the API.
    pub async fn start() -> Self {
        Self::serving(true).await
    }

    /// Starts one as a server of 2024, without version 4 of the API.
    pub async fn start_v3() -> Self {
        Self::serving(false).await
    }

    /// One without a socket, to be [asked](Self::answer) directly, so that its time can be paused.
    pub fn offline() -> Self {
        Self {
            state: Arc::default(),
            address: None,
            _tasks: JoinSet::new(),
        }
    }

    async fn serving(has_v4: bool) -> Self {
        let fake = Self::offline();
        fake.state().has_v4 = has_v4;
        let (address, tasks) = serve::start(fake.state.clone()).await;
        Self {
            address: Some(address),
            _tasks: tasks,
            ..fake
        }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// It is [offline](Self::offline).
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an offline fake listens nowhere")
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The answer to a request: method, path with query, headers by their names in small letters, body.
    pub fn answer(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> FakeResponse {
        self.state().answer(method, target, headers, body)
    }

    /// Makes a project, and returns its id.
    pub fn project(&self, slug: &str) -> String {
        let id = self.state().store.new_id();
        self.project_with_id(&id, slug);
        id
    }

    /// Makes a project of this id.
    pub fn project_with_id(&self, id: &str, slug: &str) {
        self.state().store.projects.push(Project {
            id: id.to_owned(),
            slug: slug.to_owned(),
            environments: Default::default(),
        });
    }

    /// Makes an environment, with its root folder.
    ///
    /// # Panics
    /// There is no such project.
    pub fn environment(&self, project: &str, slug: &str) {
        let mut state = self.state();
        let id = state.store.new_id();
        let project = state.store.project_mut(project).expect("a known project");
        let root = Folder {
            id,
            ..Folder::default()
        };
        let folders = [("/".to_owned(), root)].into();
        project.environments.insert(slug.to_owned(), folders);
    }

    /// Makes a folder, and those above it.
    ///
    /// # Panics
    /// There is no such project or environment.
    pub fn folder(&self, project: &str, environment: &str, path: &str) {
        let place = place(project, environment, path);
        let made = self.state().store.make_folder(place);
        made.expect("a known environment");
    }

    /// Writes a secret anew, or the next version of it. The folder is made if need be.
    ///
    /// # Panics
    /// There is no such project or environment.
    pub fn set(&self, project: &str, environment: &str, path: &str, name: &str, value: &str) {
        self.folder(project, environment, path);
        let place = place(project, environment, path);
        let written = self.state().store.write(place, name, value);
        written.expect("a known folder");
    }

    /// Gives whoever lists the folder a personal value beside the shared one, as users have them.
    ///
    /// # Panics
    /// There is no such folder.
    pub fn set_personal(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        name: &str,
        value: &str,
    ) {
        let place = place(project, environment, path);
        let written = self.state().store.write_personal(place, name, value);
        written.expect("a known folder");
    }

    /// Says something of a secret that is there: its comment, and the slugs of its tags.
    pub fn describe(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        name: &str,
        comment: &str,
        tags: &[&str],
    ) {
        let place = place(project, environment, path);
        self.state().store.change(place, name, |secret| {
            secret.comment = comment.to_owned();
            secret.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        });
    }

    /// Deletes a secret.
    pub fn remove(&self, project: &str, environment: &str, path: &str, name: &str) {
        let place = place(project, environment, path);
        self.state().store.remove(place, name);
    }

    /// Has a folder import another, after what it imports already.
    ///
    /// # Panics
    /// There is no such folder to import into.
    pub fn import(&self, project: &str, into: (&str, &str), from: (&str, &str)) {
        let place = place(project, into.0, into.1);
        let from = (from.0.to_owned(), from.1.to_owned());
        let imported = self.state().store.import(place, from);
        imported.expect("a known folder");
    }

    /// Makes a machine identity.
    pub fn identity(&self, identity: Identity) -> FakeIdentity {
        let mut state = self.state();
        let id = state.store.new_id();
        let client_id = identity.client_id.clone();
        let client_id = client_id.unwrap_or_else(|| state.store.new_id());
        let client_secret = identity.client_secret.clone();
        let client_secret = client_secret.unwrap_or_else(|| random(64));
        state.access.identities.push(Known {
            id: id.clone(),
            client_id: client_id.clone(),
            client_secret: Some(client_secret.clone()),
            made: identity,
            denied: Vec::new(),
            values_hidden: false,
            jwts: Vec::new(),
        });
        FakeIdentity {
            identity_id: id,
            client_id,
            client_secret,
        }
    }

    /// Takes the permission to read one folder away from an identity.
    pub fn deny(&self, identity: &str, environment: &str, path: &str) {
        let denied = (environment.to_owned(), path.to_owned());
        self.change(identity, |known| known.denied.push(denied));
    }

    /// Hides all values from an identity, in version 4 of the API.
    pub fn hide_values(&self, identity: &str) {
        self.change(identity, |known| known.values_hidden = true);
    }

    /// Lets an identity log in by this token of somebody else's; `method` is `kubernetes-auth`,
    /// `oidc-auth` or `jwt-auth`.
    pub fn accept_jwt(&self, identity: &str, method: &str, jwt: &str) {
        let accepted = (method.to_owned(), jwt.to_owned());
        self.change(identity, |known| known.jwts.push(accepted));
    }

    /// Ends the client secret of an identity, and no token.
    pub fn revoke_client_secret(&self, identity: &str) {
        self.change(identity, |known| known.client_secret = None);
    }

    /// Gives an identity a new client secret, and returns it.
    pub fn renew_client_secret(&self, identity: &str) -> String {
        let secret = random(64);
        self.change(identity, |known| known.client_secret = Some(secret.clone()));
        secret
    }

    fn change(&self, identity: &str, change: impl FnOnce(&mut Known)) {
        let mut state = self.state();
        change(
            state
                .access
                .identity_mut(identity)
                .expect("a known identity"),
        );
    }

    /// Ends all tokens.
    pub fn revoke_tokens(&self) {
        self.state().access.revoke_tokens();
    }

    /// How many requests a minute each route allows; logins have 200 then. Default: no limit.
    pub fn rate_limit(&self, limit: Option<u32>) {
        self.state().limit = limit;
    }

    /// Leaves references within references unexpanded in lists, as older servers do now and then.
    pub fn break_list_expansion(&self) {
        self.state().half_expands = true;
    }

    /// Says 401 of a missing permission and 403 of a dead token, as servers before August 2024 do.
    pub fn swap_statuses(&self) {
        self.state().has_old_statuses = true;
    }

    /// Answers requests that begin like this, such as `GET /api/v1/folders`, with a failure of this status,
    /// name and message, whatever they ask for.
    pub fn refuse(&self, start: &str, status: u16, error: &str, message: &str) {
        let refusal = (
            start.to_owned(),
            FakeResponse::failure(status, error, message),
        );
        self.state().refusals.push(refusal);
    }

    /// Refuses nothing any more.
    pub fn clear_refusals(&self) {
        self.state().refusals.clear();
    }

    /// The requests so far: `GET /api/v3/secrets/raw?…`.
    pub fn requests(&self) -> Vec<String> {
        let state = self.state();
        state
            .requests
            .iter()
            .map(|(line, _)| line.clone())
            .collect()
    }

    /// How many requests so far begin like this and were answered with this status.
    pub fn count(&self, start: &str, status: u16) -> usize {
        let asked = |(line, got): &&(String, u16)| line.starts_with(start) && *got == status;
        self.state().requests.iter().filter(asked).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place<'a>(project: &'a str, environment: &'a str, path: &'a str) -> Place<'a> {
    Place {
        project,
        environment,
        path,
    }
}
