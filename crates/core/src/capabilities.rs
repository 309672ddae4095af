//! What a provider can do.

use std::time::Duration;

use serde::Serialize;

/// What a provider can do, told truthfully: the conformance suite tests each claim, and expects
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where there is none.
///
/// ```
/// use secretwell::backend::Capabilities;
/// use std::time::Duration;
///
/// let remote = Capabilities::none().with_versions().with_batch().with_ttl(Duration::from_secs(300));
/// assert!(remote.versions && !remote.watch);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Answers carry a [`Version`](crate::Version).
    pub versions: bool,
    /// [`get_version`](crate::SecretProvider::get_version) reads earlier versions.
    pub old_versions: bool,
    /// [`watch`](crate::SecretProvider::watch) tells of changes.
    pub watch: bool,
    /// [`get_many`](crate::SecretProvider::get_many) costs one round trip, or few, for many keys.
    pub batch: bool,
    /// [`list`](crate::SecretProvider::list) works.
    pub list: bool,
    /// Answers may carry a lifetime, [`Secret::valid_for`](crate::Secret::valid_for).
    pub lease: bool,
    /// For how long an answer is worth keeping before the source is asked again. Default 300 s,
    /// which suits a remote source.
    pub ttl: Duration,
}

impl Capabilities {
    /// No ability beyond reading one key, and a ttl of 300 s.
    pub const fn none() -> Self {
        Self {
            versions: false,
            old_versions: false,
            watch: false,
            batch: false,
            list: false,
            lease: false,
            ttl: Duration::from_secs(300),
        }
    }

    /// Claims [`versions`](Self::versions).
    #[must_use]
    pub const fn with_versions(mut self) -> Self {
        self.versions = true;
        self
    }

    /// Claims [`old_versions`](Self::old_versions).
    #[must_use]
    pub const fn with_old_versions(mut self) -> Self {
        self.old_versions = true;
        self
    }

    /// Claims [`watch`](Self::watch).
    #[must_use]
    pub const fn with_watch(mut self) -> Self {
        self.watch = true;
        self
    }

    /// Claims [`batch`](Self::batch).
    #[must_use]
    pub const fn with_batch(mut self) -> Self {
        self.batch = true;
        self
    }

    /// Claims [`list`](Self::list).
    #[must_use]
    pub const fn with_list(mut self) -> Self {
        self.list = true;
        self
    }

    /// Claims [`lease`](Self::lease).
    #[must_use]
    pub const fn with_lease(mut self) -> Self {
        self.lease = true;
        self
    }

    /// Suggests a [`ttl`](Self::ttl).
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}
