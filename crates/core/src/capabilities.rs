//! Capabilities: the optional features of a provider.

use std::time::Duration;

/// The optional features that a provider claims, and its suggested ttl.
///
/// The conformance tests check each claimed feature. For each unclaimed one, they expect
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
///
/// ```
/// use secretwell::backend::Capabilities;
/// use std::time::Duration;
///
/// let remote = Capabilities::none().with_versions().with_batch().with_ttl(Duration::from_secs(300));
/// assert!(remote.versions && !remote.watch);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Results have a [`Version`](crate::Version).
    pub versions: bool,
    /// [`get_version`](crate::SecretProvider::get_version) reads previous versions.
    pub old_versions: bool,
    /// [`watch`](crate::SecretProvider::watch) returns a stream of change notifications.
    pub watch: bool,
    /// [`get_many`](crate::SecretProvider::get_many) needs only one or few round trips for many keys.
    pub batch: bool,
    /// [`list`](crate::SecretProvider::list) is supported.
    pub list: bool,
    /// Results can have a lifetime in [`Secret::valid_for`](crate::Secret::valid_for).
    pub lease: bool,
    /// The suggested time for which a consumer caches a value. Default: 300 s, for remote sources.
    pub ttl: Duration,
}

impl Capabilities {
    /// Returns capabilities without any optional feature, with a ttl of 300 s.
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

    /// Sets the suggested [`ttl`](Self::ttl).
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}
