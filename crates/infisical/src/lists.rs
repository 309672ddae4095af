//! Lists of folders: requested once for concurrent callers, and transferred again only after a change.

use std::sync::Arc;

use http::StatusCode;
use http::header::ETAG;
use secretwell_core::{Error, ErrorKind};
use secretwell_http::Response;
use tokio::time::Instant;

use crate::api::{Api, SecretsQuery};
use crate::folder::{Check, FolderCache, FolderState};
use crate::wire::{self, Listing, Scope, View};

/// The lists of one provider's folders.
pub(crate) struct Lists {
    pub(crate) api: Api,
    folders: FolderCache,
}

impl Lists {
    pub(crate) fn new(api: Api) -> Self {
        Self {
            api,
            folders: FolderCache::default(),
        }
    }

    /// Returns the base folder of all keys.
    fn base(&self) -> &str {
        &self.api.settings.folder
    }

    /// Lists a folder, or the folder and everything below it. Concurrent callers share one request, if it
    /// started after their calls.
    pub(crate) async fn list(&self, path: &str, recursive: bool) -> Result<Arc<Listing>, Error> {
        self.list_unless(path, recursive, false).await
    }

    /// Lists a folder for a read of secrets in it. If all of them are read for the first time, a list that is at most
    /// a second old is used again, also for a secret that it does not contain. Servers limit the number of lists, and
    /// many programs read one key after the other when they start. A secret that was read before is requested, so
    /// that a caller that updates a secret and reads it again sees the update.
    pub(crate) async fn list_for(
        &self,
        path: &str,
        first_read: bool,
    ) -> Result<Arc<Listing>, Error> {
        self.list_unless(path, false, first_read).await
    }

    /// Records a read of these secrets, each with its folder. Returns whether all of them are read for the first
    /// time.
    pub(crate) fn record_reads(&self, secrets: &[(&str, &str)]) -> bool {
        self.folders.record_reads(secrets)
    }

    /// Returns the list of everything below the base folder if it is at most a second old. Sends no request.
    pub(crate) fn recent_tree(&self) -> Option<Arc<Listing>> {
        let cached = self.folders.get(self.base(), true);
        // While another caller requests the list, it is not recent.
        let state = cached.state.try_lock().ok()?;
        state.recent()?.ok()
    }

    /// Lists a folder. With `reuse_recent`, returns its last list instead if that is at most a second old.
    async fn list_unless(
        &self,
        path: &str,
        recursive: bool,
        reuse_recent: bool,
    ) -> Result<Arc<Listing>, Error> {
        let ticket = self.folders.new_ticket();
        let folder = self.folders.get(path, recursive);
        let mut state = folder.state.lock().await;
        if let Some(result) = state.result_for(ticket) {
            return result;
        }
        if let Some(result) = state.recent().filter(|_| reuse_recent) {
            return result;
        }
        let newest_ticket = self.folders.newest_ticket();
        let requested_at = Instant::now();
        let result = self.fetch(path, recursive, &mut state).await;
        state.store(newest_ticket, requested_at, result.clone());
        result
    }

    /// Lists a folder with a conditional request, and updates its cached list. If the server refuses the list
    /// because of some of its secrets, requests it again with a restricted view.
    async fn fetch(
        &self,
        path: &str,
        recursive: bool,
        state: &mut FolderState,
    ) -> Result<Arc<Listing>, Error> {
        let unrestricted = state.view();
        let mut view = unrestricted;
        let response = loop {
            let query = SecretsQuery::list(path, recursive).view(view);
            let cached = state.cached.as_ref();
            let etag = cached.filter(|(_, listing)| listing.view() == view);
            let etag = etag.map(|(etag, _)| etag.clone());
            let response = self.api.fetch_secrets(&query, etag.as_ref()).await?;
            match self.restricted_view(view, &response) {
                Some(restricted) => view = restricted,
                None => break response,
            }
        };
        if response.status.is_success() || response.status == StatusCode::NOT_MODIFIED {
            self.folders.record_listed(path, recursive);
            if view != unrestricted {
                state.restrict(view);
            }
        }
        if let (StatusCode::NOT_MODIFIED, Some((_, listing))) = (response.status, &state.cached) {
            return Ok(listing.clone());
        }
        let scope = Scope {
            folder: path,
            recursive,
            view,
            personal: self.api.settings.personal,
        };
        let listing = match Listing::parse(&response, scope) {
            Ok(listing) => Arc::new(listing),
            Err(error) if wire::is_missing_place(&response) => {
                return Err(self.missing_place(path, error).await);
            }
            Err(error) => return Err(error),
        };
        let etag = response.headers.get(ETAG).cloned();
        state.cached = etag.map(|etag| (etag, listing.clone()));
        Ok(listing)
    }

    /// Returns how to list a folder again, if the response refuses the list only because of some of its
    /// secrets. Newer servers refuse a whole list if one reference in it leads to a secret that the login must
    /// not read, or if it must not read the value of one secret.
    fn restricted_view(&self, view: View, response: &Response) -> Option<View> {
        let expands = self.api.settings.expand;
        match view {
            View::Expanded if expands && wire::is_reference_refusal(response) => Some(View::Raw),
            // Servers of 2024 do not hide values, and refuse this list as well.
            View::Expanded | View::Raw if wire::is_permission_refusal(response) => {
                Some(View::Names)
            }
            _ => None,
        }
    }

    /// Checks that a secret that `listing` of a folder does not contain does not exist. Older servers list a missing
    /// folder as empty, and all servers omit imports that the login must not read.
    ///
    /// # Errors
    /// Returns an error if the folder or the environment does not exist, if the login must not read a folder that
    /// this folder imports, or if a check fails.
    pub(crate) async fn check_absence(
        &self,
        path: &str,
        listing: &Arc<Listing>,
    ) -> Result<(), Error> {
        let folder = self.folders.get(path, false);
        let mut check = folder.check.lock().await;
        if let Some(result) = check.as_ref().and_then(|check| check.result_for(listing)) {
            return result;
        }
        let result = async {
            if listing.is_empty() {
                self.check_folder(path).await?;
            }
            // With a service token, the server reads the folder of that token instead of another one.
            match self.api.settings.imports && !self.api.has_service_token() {
                true => self.check_imports(path, listing).await,
                false => Ok(()),
            }
        };
        let result = result.await;
        *check = Check::new(listing, &result);
        result
    }

    /// Checks that a folder exists.
    ///
    /// # Errors
    /// Returns an error if the folder or the environment does not exist, or if the check fails.
    pub(crate) async fn check_folder(&self, path: &str) -> Result<(), Error> {
        match self.folder_exists(path).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(wire::no_such_folder()),
            // A login that can read secrets might have no permission to list folders.
            Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks that the login can read the imports of a folder from which `listing` contains no secret. Servers omit
    /// an import, or its secrets, without an error.
    async fn check_imports(&self, path: &str, listing: &Listing) -> Result<(), Error> {
        let imports = match self.api.imports(path).await {
            // A login that can read secrets might have no permission to list imports.
            Err(error) if !error.is_temporary() => return Ok(()),
            result => result?,
        };
        for import in imports.iter().filter(|import| !listing.shows(import)) {
            let query = SecretsQuery::list(&import.path, false).view(View::Raw);
            let query = query.environment(&import.environment);
            let response = self.api.fetch_secrets(&query, None).await?;
            if wire::is_permission_refusal(&response) {
                return Err(wire::unreadable_import(&import.environment, &import.path));
            }
        }
        Ok(())
    }

    /// Returns the error for a list or a read that failed because its folder or its environment does not
    /// exist. `error` is the error of the response, which often does not show which one it is.
    pub(crate) async fn missing_place(&self, path: &str, error: Error) -> Error {
        if error.kind() == ErrorKind::InvalidConfig {
            return error;
        }
        let unknown = |message| {
            Error::new(ErrorKind::Unavailable, message)
                .with_hint("check the environment and the folder, which are case-sensitive")
        };
        match self.folder_exists(path).await {
            Ok(false) => wire::no_such_folder(),
            Ok(true) => unknown("the server reports a folder as missing, but it exists"),
            Err(error) if error.kind() == ErrorKind::Denied => {
                unknown("the folder or the environment does not exist")
            }
            Err(error) => error,
        }
    }

    /// Returns whether a folder exists.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if the environment does not exist, or the reason if the folders
    /// cannot be listed.
    async fn folder_exists(&self, path: &str) -> Result<bool, Error> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let names = self.api.child_folders(parent).await?;
        Ok(name.is_empty() || names.iter().any(|known| known == name))
    }

    /// Checks whether the next read would succeed.
    pub(crate) async fn check_health(&self) -> Result<(), Error> {
        match self.api.child_folders("/").await {
            // A login that can read secrets might have no permission to list folders.
            Err(error) if error.kind() == ErrorKind::Denied => {}
            result => drop(result?),
        }
        let last = self.folders.last_listed();
        let (path, recursive) = last.unwrap_or_else(|| (self.base().to_owned(), false));
        match self
            .api
            .can_list(&SecretsQuery::list(&path, recursive))
            .await?
        {
            true => Ok(()),
            // The list returns the reason of the failure.
            false => self.list(&path, recursive).await.map(drop),
        }
    }

    /// Drops the lists that can contain a secret of this folder.
    pub(crate) fn discard(&self, folder: &str) {
        self.folders.remove(folder, false);
        self.folders.remove(self.base(), true);
    }
}
