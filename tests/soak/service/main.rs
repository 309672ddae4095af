//! The service of the soak test. It signs and verifies with the secrets of four sources, and queries a database with
//! dynamic credentials.
//!
//! Its configuration is the first line of its standard input. It ends with its standard input.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use deadpool_postgres::RecyclingMethod;
use deadpool_postgres::tokio_postgres::{self, NoTls};
use hmac::{Hmac, KeyInit, Mac};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use secretwell::auth::{BuildContext, BuildError, KeyRing, LazyAuth};
use secretwell::clients::deadpool_postgres::{Manager, Pool};
use secretwell::file::FileProvider;
use secretwell::infisical::{self, InfisicalAuth, InfisicalProvider};
use secretwell::vault::{self, KvVersion, VaultAuth, VaultProvider};
use secretwell::{
    ErrorKind, ExposeSecret, Freshness, Resolver, SecretProvider, SecretProviderExt, SecretString,
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The key of the secret at each source.
const KEY: &str = "AUTH_SECRET";
/// The longest call to a source.
const DEADLINE: Duration = Duration::from_secs(5);
/// The number of connections to the database.
const CONNECTIONS: usize = 4;

type Failure = Box<dyn Error + Send + Sync>;

/// Where the secrets are, and how long they are used.
#[derive(Deserialize)]
struct Config {
    ttl: Duration,
    max_stale: Duration,
    activation_delay: Duration,
    grace_period: Duration,
    openbao: OpenBao,
    infisical: BTreeMap<String, Infisical>,
    file: String,
    /// A directory with a weaker secret, the second source of some chains.
    fallback: String,
    /// The directory of the socket of PostgreSQL.
    postgres: String,
}

#[derive(Deserialize)]
struct OpenBao {
    addresses: Vec<String>,
    role_id: String,
    secret_id: String,
}

#[derive(Deserialize)]
struct Infisical {
    url: String,
    project: String,
    environment: String,
    folder: String,
    client_id: String,
    client_secret: String,
    has_fallback: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Secrets {
    #[expect(dead_code, reason = "the service uses the key ring")]
    auth_secret: SecretString,
}

#[derive(Deserialize)]
struct Database {
    db: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: SecretString,
}

#[derive(Debug)]
struct Source {
    resolver: Resolver,
    auth: LazyAuth<KeyRing>,
}

struct Service {
    sources: BTreeMap<String, Source>,
    database: LazyAuth<tokio_postgres::Config>,
    pool: Pool,
    metrics: PrometheusHandle,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    });
    let service = Arc::new(Service::new(&serde_json::from_str(&line)?, metrics)?);
    let router = Router::new()
        .route("/value/{source}", get(value))
        .route("/sign/{source}", get(sign))
        .route("/verify/{source}", get(verify))
        .route("/revoke/{source}", post(revoke))
        .route("/database", get(query))
        .route("/report", get(report))
        .with_state(service);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    axum::serve(listener, router).await?;
    Ok(())
}

impl Service {
    fn new(config: &Config, metrics: PrometheusHandle) -> Result<Self, Failure> {
        let fallback = || FileProvider::directory(&config.fallback);
        let mut sources = BTreeMap::new();
        let openbao: Arc<dyn SecretProvider> = Arc::new(config.openbao.provider()?);
        let chain = openbao.clone().or_else(fallback());
        sources.insert("openbao".to_owned(), config.source("openbao", chain)?);
        for (name, place) in &config.infisical {
            let provider = place.provider()?;
            let source = match place.has_fallback {
                true => config.source(name, provider.or_else(fallback()))?,
                false => config.source(name, provider)?,
            };
            sources.insert(name.clone(), source);
        }
        let file = config.source("file", FileProvider::directory(&config.file))?;
        sources.insert("file".to_owned(), file);

        let socket = config.postgres.clone();
        let database = LazyAuth::builder(Resolver::new(openbao))
            .name("database")
            .build(move |Database { db }: Database, _| {
                let mut options = tokio_postgres::Config::new();
                options.host_path(&socket).dbname("postgres");
                options
                    .user(db.username)
                    .password(db.password.expose_secret());
                async move { Ok::<_, BuildError>(options) }
            });
        // The sessions of a role that was dropped stay open.
        let check = RecyclingMethod::Custom("SELECT current_user".into());
        let manager = Manager::new(database.clone(), NoTls).recycling_method(check);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build()?;
        Ok(Self {
            sources,
            database,
            pool,
            metrics,
        })
    }
}

impl Config {
    fn source(&self, name: &str, provider: impl SecretProvider) -> Result<Source, Failure> {
        let resolver = Resolver::builder(provider)
            .ttl(self.ttl)
            .max_stale(self.max_stale)
            .build();
        let auth = LazyAuth::builder(resolver.clone())
            .name(name)
            .activation_delay(self.activation_delay)
            .grace_period(self.grace_period)
            .max_previous(40)
            .signing([KEY])?
            .build(|_: Secrets, context: BuildContext| async move {
                Ok::<_, BuildError>(context.key_ring(KEY)?)
            });
        Ok(Source { resolver, auth })
    }
}

impl OpenBao {
    fn provider(&self) -> Result<VaultProvider, Failure> {
        let secret_id = vault::Credential::value(self.secret_id.as_str());
        let auth = VaultAuth::app_role(&self.role_id, secret_id);
        Ok(VaultProvider::builder(&self.addresses, auth)?
            .kv_version(KvVersion::V2)
            .path("app")
            .client(|client| client.deadline(DEADLINE))
            .dynamic("db", "database/creds/app")
            .build()?)
    }
}

impl Infisical {
    fn provider(&self) -> Result<InfisicalProvider, Failure> {
        let secret = infisical::Credential::value(self.client_secret.as_str());
        let auth = InfisicalAuth::universal(&self.client_id, secret);
        Ok(InfisicalProvider::builder(&self.url, auth)?
            .project(&self.project)
            .environment(&self.environment)
            .folder(&self.folder)
            .client(|client| client.deadline(DEADLINE))
            .build()?)
    }
}

type Shared = State<Arc<Service>>;
type Rejection = (StatusCode, String);

fn source<'a>(service: &'a Service, name: &str) -> Result<&'a Source, Rejection> {
    let source = service.sources.get(name);
    source.ok_or_else(|| (StatusCode::BAD_REQUEST, "no such source".to_owned()))
}

fn unavailable(error: impl std::fmt::Display + std::fmt::Debug) -> Rejection {
    let text = format!("{error} {error:?}");
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

fn mac(secret: &[u8], message: &str) -> Result<Hmac<Sha256>, Rejection> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(unavailable)?;
    mac.update(message.as_bytes());
    Ok(mac)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Deserialize)]
struct Token {
    message: String,
    #[serde(default)]
    mac: String,
}

/// The MAC of a message under a value, and the age of the value if it is stale.
#[derive(Serialize)]
struct Value {
    mac: String,
    stale: Option<Duration>,
}

/// Signs with the value that the resolver returns.
async fn value(
    State(service): Shared,
    Path(name): Path<String>,
    Query(token): Query<Token>,
) -> Result<Json<Value>, Rejection> {
    let resolved = source(&service, &name)?.resolver.get(KEY).await;
    let resolved = resolved.map_err(|error| match error.kind() {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, unavailable(error).1),
        _ => unavailable(error),
    })?;
    let mac = mac(resolved.value.expose_bytes(), &token.message)?;
    let stale = match resolved.freshness {
        Freshness::Stale { age, .. } => Some(age),
        _ => None,
    };
    let mac = hex(&mac.finalize().into_bytes());
    Ok(Json(Value { mac, stale }))
}

/// Signs with the newest secret of the ring.
async fn sign(
    State(service): Shared,
    Path(name): Path<String>,
    Query(token): Query<Token>,
) -> Result<String, Rejection> {
    let auth = &source(&service, &name)?.auth;
    let ring = auth.get().await.map_err(unavailable)?;
    let mac = mac(ring.primary().expose_bytes(), &token.message)?;
    Ok(hex(&mac.finalize().into_bytes()))
}

/// Verifies with any secret of the ring.
async fn verify(
    State(service): Shared,
    Path(name): Path<String>,
    Query(token): Query<Token>,
) -> Result<&'static str, Rejection> {
    let auth = &source(&service, &name)?.auth;
    let ring = auth.get().await.map_err(unavailable)?;
    for secret in ring.iter() {
        let mac = mac(secret.expose_bytes(), &token.message)?;
        if hex(&mac.finalize().into_bytes()) == token.mac {
            return Ok("valid");
        }
    }
    Err((StatusCode::UNAUTHORIZED, "no secret verifies it".to_owned()))
}

async fn revoke(
    State(service): Shared,
    Path(name): Path<String>,
) -> Result<&'static str, Rejection> {
    let auth = &source(&service, &name)?.auth;
    auth.revoke_previous().await.map_err(unavailable)?;
    Ok("revoked")
}

async fn query(State(service): Shared) -> Result<String, Rejection> {
    let client = service.pool.get().await.map_err(unavailable)?;
    let row = client.query_one("SELECT current_user::text", &[]).await;
    Ok(row.map_err(unavailable)?.get(0))
}

/// Describes the process: the number of its tasks, the debug output of everything, and the metrics.
async fn report(State(service): Shared) -> String {
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let mut states = Vec::new();
    for (name, source) in &service.sources {
        states.push(format!("{name} {:?} {source:?}", source.auth.state()));
    }
    let database = &service.database;
    format!(
        "{tasks}\n{states:#?}\n{:?} {database:?}\n{}",
        database.state(),
        service.metrics.render()
    )
}
