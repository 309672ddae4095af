//! [`Source`], a secret on a real OpenBao or on the fake Infisical, and [`Service`], which reads it through a
//! proxy.

use std::sync::Arc;
use std::time::Duration;

use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth, Mode, State};
use secretwell::file::FileProvider;
use secretwell::infisical::{self, InfisicalAuth};
use secretwell::vault::{self, VaultAuth, VaultProvider};
use secretwell::{
    Error, Freshness, Resolved, Resolver, SecretProvider, SecretProviderExt, SecretString,
};
use secretwell_testkit::{Fault, FaultProxy, ForeignResponse};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::infisical::place::Place;
use crate::support::{ring_text, secs};
use crate::vault::server::{Bao, shared, unique};

/// The key of the secret, which the backend has as [`SECRET`] and the weaker second source as [`FALLBACK`].
pub(super) const KEY: &str = "AUTH_SECRET";
const SECRET: &str = "the first gateway secret, thirty-two bytes or more";
const FALLBACK: &str = "the second gateway secret, thirty-two bytes or more";

/// The deadline of each call to the backend. It is long enough for two callers that share the provider and take
/// turns, with three attempts each that are 1 s apart.
const DEADLINE: Duration = Duration::from_secs(8);
/// The ttl of each resolver.
const TTL: Duration = Duration::from_secs(1);
/// How long another program responds to a service that has the secret: until the value is stale.
const OUTAGE: Duration = Duration::from_millis(1600);
/// The time limit of a recovery. It is long, because a busy machine needs more time than the backend.
pub(super) const RECOVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Vault,
    Infisical,
}

/// How the service logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// With a token. No login request is sent.
    Token,
    /// With AppRole or Universal Auth.
    Credential,
}

/// A secret on a backend, and credentials that can read it.
pub(super) enum Source {
    Vault {
        bao: &'static Bao,
        mount: String,
        token: String,
        role_id: String,
        secret_id: String,
    },
    Infisical {
        place: Box<Place>,
        token: String,
    },
}

impl Source {
    pub(super) async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Vault => Self::vault().await,
            Backend::Infisical => Self::infisical(infisical::ApiVersion::V4).await,
        }
    }

    async fn vault() -> Self {
        let bao = shared().await;
        let mount = unique("gateway");
        bao.mount(&mount, 2).await;
        let secret = json!({"data": {KEY: SECRET}});
        bao.root("POST", &format!("{mount}/data/app"), secret).await;
        let rules = format!("path \"{mount}/*\" {{ capabilities = [\"read\", \"list\"] }}");
        bao.policy(&mount, &rules).await;
        let token = json!({"policies": [mount]});
        let token = bao.root("POST", "auth/token/create", token).await;
        let method = json!({"type": "approle"});
        bao.root("POST", &format!("sys/auth/{mount}"), method).await;
        let role = format!("auth/{mount}/role/app");
        bao.root("POST", &role, json!({"token_policies": mount}))
            .await;
        let path = format!("{role}/role-id");
        let role_id = bao.root("GET", &path, Value::Null).await;
        let path = format!("{role}/secret-id");
        let secret_id = bao.root("POST", &path, json!({})).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self::Vault {
            bao,
            mount,
            token: text(&token["auth"]["client_token"]),
            role_id: text(&role_id["data"]["role_id"]),
            secret_id: text(&secret_id["data"]["secret_id"]),
        }
    }

    pub(super) async fn infisical(api: infisical::ApiVersion) -> Self {
        let place = Box::new(Place::fake(api).await);
        place.write(None, KEY, SECRET).await;
        let token = place.token().await;
        Self::Infisical { place, token }
    }

    /// Starts a proxy in front of the backend.
    pub(super) async fn proxy(&self) -> FaultProxy {
        FaultProxy::start(match self {
            Self::Vault { bao, .. } => bao.address,
            Self::Infisical { place, .. } => place.as_fake().address(),
        })
        .await
    }

    /// Returns a provider that was not used yet.
    pub(super) fn provider(&self, login: Login, proxy: &FaultProxy) -> Arc<dyn SecretProvider> {
        let url = format!("http://{}", proxy.address());
        match self {
            Self::Vault {
                mount,
                token,
                role_id,
                secret_id,
                ..
            } => {
                let auth = match login {
                    Login::Token => VaultAuth::token(vault::Credential::value(token.as_str())),
                    Login::Credential => {
                        let secret_id = vault::Credential::value(secret_id.as_str());
                        VaultAuth::app_role(role_id, secret_id).mount(mount)
                    }
                };
                let provider = VaultProvider::builder([url], auth).unwrap();
                let provider = provider.mount(mount).path("app");
                let provider = provider.client(|client| client.deadline(DEADLINE));
                Arc::new(provider.build().unwrap())
            }
            Self::Infisical { place, token } => {
                let mut provider = place.provider_at(&url);
                if login == Login::Token {
                    let token = infisical::Credential::value(token.as_str());
                    let auth = InfisicalAuth::token(token);
                    provider = place.provider_with(&url, auth);
                }
                let provider = provider.client(|client| client.deadline(DEADLINE));
                Arc::new(provider.build().unwrap())
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the service uses the key ring")]
    auth_secret: SecretString,
}

/// A service that reads the secret through a proxy: with a resolver, with a chain of the backend and a weaker
/// second source, and with a `LazyAuth` over that chain.
pub(super) struct Service {
    pub(super) proxy: FaultProxy,
    pub(super) alone: Resolver,
    pub(super) chain: Resolver,
    pub(super) auth: LazyAuth<KeyRing>,
    _fallback: TempDir,
}

impl Service {
    pub(super) async fn new(source: &Source, login: Login) -> Self {
        let proxy = source.proxy().await;
        let provider = source.provider(login, &proxy);
        let fallback = tempfile::tempdir().unwrap();
        std::fs::write(fallback.path().join(KEY), FALLBACK).unwrap();
        let weaker = FileProvider::directory(fallback.path());
        let chain = Resolver::builder(provider.clone().or_else(weaker));
        let chain = chain.ttl(TTL).build();
        let auth = LazyAuth::builder(chain.clone())
            .mode(Mode::Production)
            .activation_delay(Duration::ZERO)
            .build(|_: Secrets, context: BuildContext| async move {
                Ok::<_, BuildError>(context.key_ring(KEY)?)
            });
        Self {
            alone: Resolver::builder(provider).ttl(TTL).build(),
            chain,
            auth,
            proxy,
            _fallback: fallback,
        }
    }

    /// Uses the secret for the first time. On a busy machine, the first values might have expired already when they
    /// are returned.
    pub(super) async fn start(&self) {
        self.recover().await.unwrap();
    }

    /// Makes another program respond, until the cached values are stale.
    pub(super) async fn interrupt(&self, response: &ForeignResponse) {
        self.proxy.set(Fault::Foreign(response.clone()));
        tokio::time::sleep(OUTAGE).await;
    }

    /// Returns what the resolver, the chain and the auth return, separated by commas. Equal results are
    /// returned once.
    pub(super) async fn results(&self) -> String {
        let (alone, chain) = tokio::join!(self.alone.get(KEY), self.chain.get(KEY));
        let auth = match self.auth.get().await {
            Ok(_) => self.state(),
            Err(failure) => failure.problems()[0].kind().to_string(),
        };
        let mut results = vec![outcome(alone), outcome(chain), auth];
        results.dedup();
        results.join(", ")
    }

    /// Returns the state of the auth, with the kind of the failure. If its ring does not consist of the
    /// backend's secret, returns the ring.
    pub(super) fn state(&self) -> String {
        if let Some(ring) = self.auth.peek()
            && ring_text(&ring) != (SECRET.to_owned(), SECRET.to_owned())
        {
            return format!("another ring: {}", ring_text(&ring).1);
        }
        match self.auth.state() {
            State::Degraded { failure, .. } => {
                format!("degraded: {}", failure.problems()[0].kind())
            }
            state => state.name().to_owned(),
        }
    }

    /// Lets the backend respond again. Returns the time until everything is fresh, or what is not fresh after
    /// the time limit.
    pub(super) async fn recover(&self) -> Result<Duration, String> {
        self.proxy.set(Fault::None);
        let start = Instant::now();
        loop {
            let results = self.results().await;
            if results == "fresh, ready" {
                return Ok(start.elapsed());
            }
            if start.elapsed() > RECOVERY {
                return Err(results);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Returns `fresh`, `stale: ` with the kind of the reason, or the kind of the error.
pub(super) fn outcome(result: Result<Resolved, Error>) -> String {
    match result {
        Ok(resolved) if resolved.value.expose_text().unwrap() != SECRET => {
            format!("another value: {:?}", resolved.value.expose_text())
        }
        Ok(resolved) => match resolved.freshness {
            Freshness::Stale { reason, .. } => format!("stale: {}", reason.kind()),
            _ => "fresh".to_owned(),
        },
        Err(error) if error.is_temporary() => error.kind().to_string(),
        Err(error) => format!("permanent: {}", error.kind()),
    }
}

/// Waits until the state of the auth is this one.
pub(super) async fn wait_for_state(service: &Service, expected: &str) {
    let mut watch = service.auth.watch_state();
    let reached = watch.wait_for(|_| service.state() == expected);
    let _ = tokio::time::timeout(secs(4), reached).await;
}
