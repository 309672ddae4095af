//! Where the secret of a case is, on each backend: written, and out of reach.

use std::time::Duration;

use secretwell::file::FileProvider;
use secretwell::infisical::ApiVersion;
use secretwell::vault::{ClientConfig, Credential, VaultAuth, VaultProvider};
use secretwell::{MemoryProvider, Resolver, ResolverBuilder};
use secretwell_testkit::{Fault, FaultProxy, FaultyProvider, Step};
use serde_json::json;
use tempfile::TempDir;

use super::table::Backend;
use crate::infisical::place::Place as Folder;
use crate::support::{down, replace, secs};
use crate::vault::server::{Bao, ROOT, shared, unique};

const KEY: &str = "AUTH_SECRET";

pub(super) enum Place {
    Memory(FaultyProvider<MemoryProvider>),
    File(TempDir),
    Vault {
        bao: &'static Bao,
        proxy: FaultProxy,
        mount: String,
    },
    Infisical {
        folder: Box<Folder>,
        proxy: FaultProxy,
    },
}

impl Place {
    pub(super) async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Memory => Self::Memory(FaultyProvider::new(MemoryProvider::new())),
            Backend::File => {
                let folder = tempfile::tempdir().unwrap();
                std::fs::create_dir(folder.path().join("secrets")).unwrap();
                Self::File(folder)
            }
            Backend::Vault => {
                let bao = shared().await;
                let mount = unique("matrix");
                bao.mount(&mount, 2).await;
                let proxy = FaultProxy::start(bao.address).await;
                Self::Vault { bao, proxy, mount }
            }
            Backend::Infisical => {
                let folder = Box::new(Folder::fake(ApiVersion::V4).await);
                let proxy = FaultProxy::start(folder.as_fake().address()).await;
                Self::Infisical { folder, proxy }
            }
        }
    }

    /// A resolver that looks again so soon that a test can wait for what it sees.
    pub(super) fn resolver(&self) -> Resolver {
        let url = |proxy: &FaultProxy| format!("http://{}", proxy.address());
        let builder: ResolverBuilder = match self {
            Self::Memory(faulty) => Resolver::builder(faulty.clone()),
            Self::File(folder) => {
                Resolver::builder(FileProvider::directory(folder.path().join("secrets")))
            }
            Self::Vault { proxy, mount, .. } => {
                let auth = VaultAuth::token(Credential::value(ROOT));
                let provider = VaultProvider::builder([url(proxy)], auth).unwrap();
                let provider = provider.mount(mount).path("app").client(patient);
                Resolver::builder(provider.build().unwrap())
            }
            Self::Infisical { folder, proxy } => {
                let provider = folder.provider_at(&url(proxy)).api(folder.api);
                Resolver::builder(provider.client(patient).build().unwrap())
            }
        };
        let builder = builder.ttl(Duration::from_millis(500));
        builder.negative_ttl(secs(1)).max_backoff(secs(1)).build()
    }

    pub(super) async fn write(&self, secret: &str) {
        match self {
            Self::Memory(faulty) => faulty.inner().set(KEY, secret).unwrap(),
            Self::File(folder) => {
                replace(&folder.path().join("secrets").join(KEY), secret.as_bytes());
            }
            Self::Vault { bao, mount, .. } => {
                let body = json!({"data": {KEY: secret}});
                bao.root("POST", &format!("{mount}/data/app"), body).await;
            }
            Self::Infisical { folder, .. } => folder.write(None, KEY, secret).await,
        }
    }

    /// Takes the source out of reach, or puts it back.
    pub(super) fn set_down(&self, is_down: bool) {
        let fault = if is_down { Fault::Cut } else { Fault::None };
        match self {
            Self::Memory(faulty) => faulty.always(is_down.then(|| Step::Fail(down()))),
            Self::File(folder) => {
                let (here, away) = (folder.path().join("secrets"), folder.path().join("away"));
                let (from, to) = if is_down { (here, away) } else { (away, here) };
                std::fs::rename(from, to).unwrap();
            }
            Self::Vault { proxy, .. } | Self::Infisical { proxy, .. } => proxy.set(fault),
        }
    }
}

/// As patient with a loaded machine as an outage may last in a test.
fn patient(client: ClientConfig) -> ClientConfig {
    client.deadline(secs(4)).attempt_timeout(secs(4))
}
