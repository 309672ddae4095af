//! [`Source`], the place of the secret of a test case on each backend. A test can write the secret
//! and make the source unreachable.

use std::time::Duration;

use secretwell::file::FileProvider;
use secretwell::infisical::ApiVersion;
use secretwell::vault::{ClientConfig, Credential, VaultAuth, VaultProvider};
use secretwell::{MemoryProvider, Resolver, ResolverBuilder};
use secretwell_testkit::{Action, Fault, FaultProxy, FaultyProvider};
use serde_json::json;
use tempfile::TempDir;

use super::table::Backend;
use crate::infisical::place::Place as InfisicalFolder;
use crate::support::{down, replace, secs};
use crate::vault::server::{Bao, ROOT, shared, unique};

pub(super) struct Source {
    /// The key of the secret.
    key: &'static str,
    place: Place,
}

enum Place {
    Memory(FaultyProvider<MemoryProvider>),
    File(TempDir),
    Vault {
        bao: &'static Bao,
        proxy: FaultProxy,
        mount: String,
    },
    Infisical {
        folder: Box<InfisicalFolder>,
        proxy: FaultProxy,
    },
}

impl Source {
    pub(super) async fn new(backend: Backend, key: &'static str) -> Self {
        Self {
            key,
            place: Place::new(backend).await,
        }
    }

    /// Returns a resolver that polls so often that a test can wait for a change.
    pub(super) fn resolver(&self) -> Resolver {
        let url = |proxy: &FaultProxy| format!("http://{}", proxy.address());
        let builder: ResolverBuilder = match &self.place {
            Place::Memory(faulty) => Resolver::builder(faulty.clone()),
            Place::File(directory) => {
                let files = FileProvider::directory(directory.path().join("secrets"));
                // An emptied file counts at once, as in the other sources.
                Resolver::builder(files.rewrite_grace(Duration::ZERO))
            }
            Place::Vault { proxy, mount, .. } => {
                let auth = VaultAuth::token(Credential::value(ROOT));
                let provider = VaultProvider::builder([url(proxy)], auth).unwrap();
                let provider = provider.mount(mount).path("app").client(long_timeouts);
                Resolver::builder(provider.build().unwrap())
            }
            Place::Infisical { folder, proxy } => {
                let provider = folder.provider_at(&url(proxy)).api(folder.api);
                Resolver::builder(provider.client(long_timeouts).build().unwrap())
            }
        };
        let builder = builder.ttl(Duration::from_millis(500));
        builder.negative_ttl(secs(1)).max_backoff(secs(1)).build()
    }

    pub(super) async fn write(&self, secret: &str) {
        match &self.place {
            Place::Memory(faulty) => faulty.inner().set(self.key, secret).unwrap(),
            Place::File(directory) => {
                let path = directory.path().join("secrets").join(self.key);
                replace(&path, secret.as_bytes());
            }
            Place::Vault { bao, mount, .. } => {
                let body = json!({"data": {self.key: secret}});
                bao.root("POST", &format!("{mount}/data/app"), body).await;
            }
            Place::Infisical { folder, .. } => folder.write(None, self.key, secret).await,
        }
    }

    /// Makes the source unreachable, or reachable again.
    pub(super) fn set_down(&self, is_down: bool) {
        let fault = if is_down { Fault::Close } else { Fault::None };
        match &self.place {
            Place::Memory(faulty) => faulty.always(is_down.then(|| Action::Fail(down()))),
            Place::File(directory) => {
                let present = directory.path().join("secrets");
                let moved = directory.path().join("moved");
                let (from, to) = if is_down {
                    (present, moved)
                } else {
                    (moved, present)
                };
                std::fs::rename(from, to).unwrap();
            }
            Place::Vault { proxy, .. } | Place::Infisical { proxy, .. } => proxy.set(fault),
        }
    }
}

impl Place {
    async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Memory => Self::Memory(FaultyProvider::new(MemoryProvider::new())),
            Backend::File => {
                let directory = tempfile::tempdir().unwrap();
                std::fs::create_dir(directory.path().join("secrets")).unwrap();
                Self::File(directory)
            }
            Backend::Vault => {
                let bao = shared().await;
                let mount = unique("matrix");
                bao.mount(&mount, 2).await;
                let proxy = FaultProxy::start(bao.address).await;
                Self::Vault { bao, proxy, mount }
            }
            Backend::Infisical => {
                let folder = Box::new(InfisicalFolder::fake(ApiVersion::V4).await);
                let proxy = FaultProxy::start(folder.as_fake().address()).await;
                Self::Infisical { folder, proxy }
            }
        }
    }
}

/// Sets timeouts that are long enough for a machine under load.
fn long_timeouts(client: ClientConfig) -> ClientConfig {
    client.deadline(secs(4)).attempt_timeout(secs(4))
}
