//! The conformance suite, run against every provider that needs no server.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use secretwell::backend::Change;
use secretwell::env::{EnvProvider, Environment};
use secretwell::file::FileProvider;
use secretwell::notify::NotifyHub;
use secretwell::{MemoryProvider, SecretKey, SecretProvider, SecretProviderExt};
use secretwell_testkit::{Harness, Supports, conformance_tests};
use tempfile::TempDir;

use crate::support::replace;

conformance_tests!(memory, Memory::default());
conformance_tests!(chain, Chained::default());
conformance_tests!(notified, Notified::default());
conformance_tests!(env_then_directory, EnvThenDirectory::new());
conformance_tests!(renamed, Renamed::default());
conformance_tests!(env, Env::new(Variables::Plain));
conformance_tests!(env_with_empty_values, Env::new(Variables::WithEmptyValues));
conformance_tests!(env_with_separator, Env::new(Variables::Separated));
conformance_tests!(directory, Directory::new());
conformance_tests!(json, Document::new("secrets.json"));
conformance_tests!(yaml, Document::new("secrets.yaml"));
conformance_tests!(toml, Document::new("secrets.toml"));
conformance_tests!(dotenv, Document::new(".env"));

#[derive(Default)]
struct Memory(Arc<MemoryProvider>);

#[async_trait]
impl Harness for Memory {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.0.clone()
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.0.set(key, value).unwrap();
    }

    async fn delete(&self, key: &SecretKey) {
        self.0.remove(key).unwrap();
    }

    fn supports(&self) -> Supports {
        Supports {
            binary_values: true,
            empty_values: true,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }
}

/// A memory provider that also reports the notifications of a hub.
struct Notified {
    memory: MemoryProvider,
    hub: NotifyHub,
    notified: Arc<dyn SecretProvider>,
}

impl Default for Notified {
    fn default() -> Self {
        let (memory, hub) = (MemoryProvider::new(), NotifyHub::new());
        let notified = Arc::new(hub.wrap(memory.clone()));
        Self {
            memory,
            hub,
            notified,
        }
    }
}

#[async_trait]
impl Harness for Notified {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.notified.clone()
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.memory.set(key, value).unwrap();
        self.hub.notify(Change::Keys([key.clone()].into()));
    }

    async fn delete(&self, key: &SecretKey) {
        self.memory.remove(key).unwrap();
        self.hub.notify(Change::All);
    }

    fn supports(&self) -> Supports {
        Supports {
            binary_values: true,
            empty_values: true,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }
}

/// A chain of two memory providers. The harness writes to the second one, below a prefix.
struct Chained {
    memory: MemoryProvider,
    chain: Arc<dyn SecretProvider>,
}

impl Default for Chained {
    fn default() -> Self {
        let memory = MemoryProvider::new();
        let fallback = memory.clone().prefixed("app").unwrap();
        let chain = Arc::new(MemoryProvider::new().or_else(fallback));
        Self { memory, chain }
    }
}

#[async_trait]
impl Harness for Chained {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.chain.clone()
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.memory.set(format!("app/{key}"), value).unwrap();
    }

    async fn delete(&self, key: &SecretKey) {
        self.memory.remove(format!("app/{key}")).unwrap();
    }

    fn supports(&self) -> Supports {
        Supports {
            binary_values: true,
            empty_values: true,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }
}

/// A memory provider that stores some keys under other names.
struct Renamed {
    memory: MemoryProvider,
    renamed: Arc<dyn SecretProvider>,
}

const RENAMES: [(&str, &str); 3] = [
    ("AUTH_SECRET", "session/KEY"),
    ("db/PASSWORD", "DB_PASSWORD"),
    ("MANY_3", "MANY/3"),
];

impl Default for Renamed {
    fn default() -> Self {
        let memory = MemoryProvider::new();
        let renamed = Arc::new(memory.clone().renamed(RENAMES).unwrap());
        Self { memory, renamed }
    }
}

impl Renamed {
    fn inner_key(key: &SecretKey) -> &str {
        let renamed = RENAMES.iter().find(|(outer, _)| *outer == key.as_str());
        renamed.map_or(key.as_str(), |(_, inner)| inner)
    }
}

#[async_trait]
impl Harness for Renamed {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.renamed.clone()
    }

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        Some(Arc::new(self.memory.clone().renamed(RENAMES).unwrap()))
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.memory.set(Self::inner_key(key), value).unwrap();
    }

    async fn delete(&self, key: &SecretKey) {
        self.memory.remove(Self::inner_key(key)).unwrap();
    }

    fn supports(&self) -> Supports {
        Supports {
            binary_values: true,
            empty_values: true,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }

    /// Returns the renamed keys first, because some items use only one key.
    fn valid_keys(&self) -> Vec<&'static str> {
        vec!["AUTH_SECRET", "db/PASSWORD", "A", "a.b-c"]
    }
}

#[derive(Default, Clone)]
struct TestEnvironment(Arc<Mutex<HashMap<OsString, OsString>>>);

impl Environment for TestEnvironment {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn names(&self) -> Vec<OsString> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

/// The settings of a provider of variables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variables {
    Plain,
    WithEmptyValues,
    Separated,
}

struct Env {
    environment: TestEnvironment,
    variables: Variables,
    provider: Arc<dyn SecretProvider>,
}

impl Env {
    fn new(variables: Variables) -> Self {
        let environment = TestEnvironment::default();
        Self {
            provider: variables.provider(environment.clone()),
            environment,
            variables,
        }
    }
}

impl Variables {
    fn provider(self, environment: TestEnvironment) -> Arc<dyn SecretProvider> {
        let provider = EnvProvider::with_environment(environment, "APP_");
        Arc::new(match self {
            Self::Plain => provider,
            Self::WithEmptyValues => provider.keep_empty(),
            Self::Separated => provider.separator("__"),
        })
    }

    fn name(self, key: &SecretKey) -> OsString {
        let separator = match self {
            Self::Plain | Self::WithEmptyValues => "_",
            Self::Separated => "__",
        };
        format!("APP_{}", key.as_str().replace('/', separator)).into()
    }
}

#[async_trait]
impl Harness for Env {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.provider.clone()
    }

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        Some(self.variables.provider(self.environment.clone()))
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        let value = std::str::from_utf8(value).unwrap();
        let mut variables = self.environment.0.lock().unwrap();
        variables.insert(self.variables.name(key), value.into());
    }

    async fn delete(&self, key: &SecretKey) {
        let mut variables = self.environment.0.lock().unwrap();
        variables.remove(&self.variables.name(key));
    }

    fn supports(&self) -> Supports {
        Supports {
            empty_values: self.variables == Variables::WithEmptyValues,
            flat_names: self.variables != Variables::Separated,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }
}

struct Directory {
    folder: TempDir,
    provider: Arc<FileProvider>,
}

impl Directory {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let provider = Arc::new(FileProvider::directory(folder.path()).keep_trailing_newline());
        Self { folder, provider }
    }
}

#[async_trait]
impl Harness for Directory {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.provider.clone()
    }

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        Some(Arc::new(
            FileProvider::directory(self.folder.path()).keep_trailing_newline(),
        ))
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        replace(&self.folder.path().join(key.as_str()), value);
    }

    async fn delete(&self, key: &SecretKey) {
        std::fs::remove_file(self.folder.path().join(key.as_str())).unwrap();
    }

    fn supports(&self) -> Supports {
        Supports {
            binary_values: true,
            empty_values: true,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }

    fn max_value_bytes(&self) -> Option<usize> {
        Some(1 << 20)
    }
}

/// A chain of an empty environment and a directory, like `env://,file:///run/secrets`.
struct EnvThenDirectory {
    directory: Directory,
    chain: Arc<dyn SecretProvider>,
}

impl EnvThenDirectory {
    fn new() -> Self {
        let directory = Directory::new();
        let chain = Self::chain(&directory);
        Self { directory, chain }
    }

    fn chain(directory: &Directory) -> Arc<dyn SecretProvider> {
        let files = FileProvider::directory(directory.folder.path()).keep_trailing_newline();
        Arc::new(EnvProvider::with_environment(TestEnvironment::default(), "").or_else(files))
    }
}

#[async_trait]
impl Harness for EnvThenDirectory {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.chain.clone()
    }

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        Some(Self::chain(&self.directory))
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.directory.seed(key, value).await;
    }

    async fn delete(&self, key: &SecretKey) {
        self.directory.delete(key).await;
    }

    fn supports(&self) -> Supports {
        self.directory.supports()
    }

    fn max_value_bytes(&self) -> Option<usize> {
        self.directory.max_value_bytes()
    }
}

/// One document, which is rewritten for each change.
struct Document {
    folder: TempDir,
    name: &'static str,
    entries: Mutex<serde_json::Map<String, serde_json::Value>>,
    provider: Arc<FileProvider>,
}

impl Document {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let provider = Arc::new(FileProvider::document(folder.path().join(name)));
        Self {
            folder,
            name,
            entries: Mutex::default(),
            provider,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn set(&self, key: &SecretKey, value: Option<serde_json::Value>) {
        let mut entries = self.entries.lock().unwrap();
        if self.name == ".env" {
            let name = key.as_str().replace('/', "_");
            match value {
                Some(value) => drop(entries.insert(name, value)),
                None => drop(entries.remove(&name)),
            }
        } else {
            set_path(&mut entries, &key.segments().collect::<Vec<_>>(), value);
        }
        drop(entries);
        self.write();
    }

    fn write(&self) {
        let entries = self.entries.lock().unwrap();
        let text = match self.name {
            // JSON is valid YAML.
            "secrets.json" | "secrets.yaml" => serde_json::to_string_pretty(&*entries).unwrap(),
            // A document that becomes blank is absent only after its grace, so a comment stays.
            "secrets.toml" => format!("# secrets\n{}", to_toml(&entries)),
            _ => entries
                .iter()
                .map(|(name, value)| format!("{name}={}\n", quoted(value)))
                .fold("# secrets\n".to_owned(), |text, line| text + &line),
        };
        replace(&self.path(), text.as_bytes());
    }
}

fn set_path(
    entries: &mut serde_json::Map<String, serde_json::Value>,
    path: &[&str],
    value: Option<serde_json::Value>,
) {
    match (path, value) {
        ([name], Some(value)) => drop(entries.insert((*name).to_owned(), value)),
        ([name], None) => drop(entries.remove(*name)),
        ([name, rest @ ..], value) => {
            let inner = entries
                .entry(*name)
                .or_insert_with(|| serde_json::json!({}));
            set_path(inner.as_object_mut().unwrap(), rest, value);
        }
        ([], _) => {}
    }
}

/// Writes TOML with inline tables. Strings and names are escaped almost as in JSON.
fn to_toml(entries: &serde_json::Map<String, serde_json::Value>) -> String {
    fn inline(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Object(map) => {
                let inner: Vec<String> = map
                    .iter()
                    .map(|(name, value)| format!("{} = {}", string(name), inline(value)))
                    .collect();
                format!("{{ {} }}", inner.join(", "))
            }
            serde_json::Value::Array(items) => {
                format!(
                    "[{}]",
                    items.iter().map(inline).collect::<Vec<_>>().join(",")
                )
            }
            serde_json::Value::String(text) => string(text),
            other => other.to_string(),
        }
    }
    fn string(text: &str) -> String {
        let escape = |c: char| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        format!("\"{}\"", text.chars().map(escape).collect::<String>())
    }
    entries
        .iter()
        .map(|(name, value)| format!("{} = {}\n", string(name), inline(value)))
        .collect()
}

/// Quotes a value in pieces, as shells do. The strict dialect reads every value in this form.
fn quoted(value: &serde_json::Value) -> String {
    let text = value.as_str().unwrap();
    let pieces = text.replace('\'', r"'\''").replace('=', r#"'"="'"#);
    format!("'''{pieces}'")
}

#[async_trait]
impl Harness for Document {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.provider.clone()
    }

    fn second_provider(&self) -> Option<Arc<dyn SecretProvider>> {
        Some(Arc::new(FileProvider::document(self.path())))
    }

    async fn seed(&self, key: &SecretKey, value: &[u8]) {
        self.set(key, Some(std::str::from_utf8(value).unwrap().into()));
    }

    async fn seed_json(&self, key: &SecretKey, json: &str) {
        self.set(key, Some(serde_json::from_str(json).unwrap()));
    }

    async fn delete(&self, key: &SecretKey) {
        self.set(key, None);
    }

    async fn corrupt_responses(&self) {
        let text = format!("A=\"{{{{ {}", secretwell_testkit::CORRUPT_MARKER);
        replace(&self.path(), text.as_bytes());
    }

    async fn clear_faults(&self) {
        self.write();
    }

    fn supports(&self) -> Supports {
        Supports {
            empty_values: true,
            json_values: self.name != ".env",
            flat_names: self.name == ".env",
            corrupt_responses: true,
            full_health_check: true,
            exclusive_runtime: true,
            ..Supports::default()
        }
    }

    fn max_value_bytes(&self) -> Option<usize> {
        None
    }
}
