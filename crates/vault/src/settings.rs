//! The settings of a provider.

use secretwell_http::ClientConfig;

use crate::auth::VaultAuth;
use crate::dynamic::Dynamic;
use crate::wire::KvVersion;

/// The settings of a provider, which a [`VaultBuilder`](crate::VaultBuilder) collects.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) client: ClientConfig,
    pub(crate) mount: String,
    /// Whether the mount was configured by its name. Otherwise, its name might be longer than `mount`, and the
    /// rest of it is at the start of `path`.
    pub(crate) is_mount_explicit: bool,
    pub(crate) path: String,
    pub(crate) kv: Option<KvVersion>,
    pub(crate) auth: VaultAuth,
    pub(crate) namespace: Option<String>,
    pub(crate) login_namespace: Option<String>,
    pub(crate) whole: bool,
    pub(crate) dynamic: Vec<Dynamic>,
}

impl Settings {
    pub(crate) fn new(client: ClientConfig, auth: VaultAuth) -> Self {
        Self {
            client,
            mount: "secret".into(),
            is_mount_explicit: false,
            path: String::new(),
            kv: None,
            auth,
            namespace: None,
            login_namespace: None,
            whole: false,
            dynamic: Vec::new(),
        }
    }
}
