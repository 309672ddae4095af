//! [`FakeProject`], a fake server with one project for the tests of a service.

use std::io::Write;

use secretwell_core::SecretKey;
use tempfile::NamedTempFile;

use super::{FakeIdentity, FakeInfisical, Identity, Role};

/// The environment of a [`FakeProject`].
const ENVIRONMENT: &str = "prod";

/// A project on a [`FakeInfisical`] of its own, and an identity that can read it. Created by
/// [`FakeInfisical::with`]. The server stops when it is dropped.
#[derive(Debug)]
pub struct FakeProject {
    server: FakeInfisical,
    id: String,
    identity: FakeIdentity,
    client_secret: NamedTempFile,
}

impl FakeInfisical {
    /// Starts the newest server, with a project that contains `secrets` in the environment `prod`. A prefix of
    /// a key is a folder: `db/PASSWORD` is the secret `PASSWORD` in the folder `/db`.
    ///
    /// ```
    /// use secretwell::Resolver;
    /// use secretwell_testkit::infisical::FakeInfisical;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let project = FakeInfisical::with([("API_TOKEN", "first"), ("db/PASSWORD", "s3cr3t")]).await;
    /// let resolver = Resolver::new(secretwell::from_url(&project.source_url())?);
    /// assert_eq!(resolver.get("db/PASSWORD").await?.value.expose_text()?, "s3cr3t");
    ///
    /// project.set("API_TOKEN", "second");
    /// assert_eq!(resolver.get("API_TOKEN").await?.value.expose_text()?, "second");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// Panics if a key is not valid, or if a temporary file cannot be written.
    pub async fn with<K: AsRef<str>, V: AsRef<str>>(
        secrets: impl IntoIterator<Item = (K, V)>,
    ) -> FakeProject {
        let server = Self::start().await;
        let id = server.project("app");
        server.environment(&id, ENVIRONMENT);
        let identity = server.identity(Identity::new().member(&id, Role::Viewer));
        let mut client_secret = NamedTempFile::new().expect("a temporary file can be created");
        let written = client_secret.write_all(identity.client_secret.as_bytes());
        written.expect("a temporary file can be written");
        let project = FakeProject {
            server,
            id,
            identity,
            client_secret,
        };
        for (key, value) in secrets {
            project.set(key, value.as_ref());
        }
        project
    }
}

impl FakeProject {
    /// Returns the URL for `secretwell::from_url`, and for `--from` of the command. It names a temporary file with
    /// the client secret, which exists as long as this value.
    pub fn source_url(&self) -> String {
        format!(
            "infisical+http://{}/{}/{ENVIRONMENT}?client_id={}&client_secret_file={}",
            self.server.address(),
            self.id,
            self.identity.client_id,
            self.client_secret.path().display(),
        )
    }

    /// Creates a secret, or its next version. A service reads it after its ttl, which is 300 s by default, or with
    /// `LazyAuth::rebuild` or `Resolver::refresh_after_write`.
    ///
    /// # Panics
    /// Panics if `key` is not valid.
    pub fn set(&self, key: impl AsRef<str>, value: &str) {
        let (folder, name) = place(key.as_ref());
        self.server
            .set(&self.id, ENVIRONMENT, &folder, &name, value);
    }

    /// Deletes a secret with all its versions. Does nothing if it does not exist.
    ///
    /// # Panics
    /// Panics if `key` is not valid.
    pub fn remove(&self, key: impl AsRef<str>) {
        let (folder, name) = place(key.as_ref());
        self.server.remove(&self.id, ENVIRONMENT, &folder, &name);
    }

    /// Responds with 503 to all requests, until [`restore_source`](Self::restore_source).
    pub fn fail_source(&self) {
        let message = "the server fails on request of the test";
        self.server
            .fail_requests("", 503, "ServiceUnavailable", message);
    }

    /// Ends all failures of the server.
    pub fn restore_source(&self) {
        self.server.clear_failures();
    }

    /// Returns the server, for permissions, limits and counters.
    pub fn server(&self) -> &FakeInfisical {
        &self.server
    }

    /// Returns the id of the project.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the identity that can read the project.
    pub fn identity(&self) -> &FakeIdentity {
        &self.identity
    }
}

/// Returns the folder and the name of a secret.
fn place(key: &str) -> (String, String) {
    let parsed = SecretKey::parse(key);
    let key = parsed.unwrap_or_else(|error| panic!("`{key}` is not valid: {error}"));
    let folder = format!("/{}", key.prefix().unwrap_or_default());
    (folder, key.name().to_owned())
}

#[cfg(test)]
mod tests {
    use secretwell::{ErrorKind, Resolver};

    use super::*;

    async fn kind(resolver: &Resolver, key: &str) -> Option<ErrorKind> {
        let mut results = resolver.refresh_after_write([key]).await;
        results.pop().unwrap().err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn secrets_are_set_removed_and_fail() {
        let project = FakeInfisical::with([("a/b/PASSWORD", "first")]).await;
        let provider = secretwell::from_url(&project.source_url()).unwrap();
        let resolver = Resolver::new(provider);
        assert_eq!(kind(&resolver, "a/b/PASSWORD").await, None);
        let pairs: [(&str, &str); 0] = [];
        let empty = FakeInfisical::with(pairs).await;
        let provider = secretwell::from_url(&empty.source_url()).unwrap();
        let absent = kind(&Resolver::new(provider), "PASSWORD").await;
        assert_eq!(absent, Some(ErrorKind::NotFound));

        project.remove("a/b/PASSWORD");
        assert_eq!(
            kind(&resolver, "a/b/PASSWORD").await,
            Some(ErrorKind::NotFound)
        );
        project.set("a/b/PASSWORD", "second");
        assert_eq!(kind(&resolver, "a/b/PASSWORD").await, None);
        let identity = &project.identity().identity_id;
        project.server().deny(identity, ENVIRONMENT, "/a/b");
        assert_eq!(
            kind(&resolver, "a/b/PASSWORD").await,
            Some(ErrorKind::Denied)
        );
    }

    #[tokio::test]
    async fn failing_server_is_unavailable_until_it_is_restored() {
        let project = FakeInfisical::with([("A", "1")]).await;
        let provider = secretwell::from_url(&project.source_url()).unwrap();
        let resolver = Resolver::builder(provider)
            .deadline(std::time::Duration::from_millis(100))
            .build();
        project.fail_source();
        let failed = resolver.get("A").await.unwrap_err();
        assert!(failed.is_temporary(), "{failed}");
        project.restore_source();
        let provider = secretwell::from_url(&project.source_url()).unwrap();
        assert!(Resolver::new(provider).get("A").await.is_ok());
    }
}
