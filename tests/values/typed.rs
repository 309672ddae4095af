//! Typed loading: a list or a table has one meaning, wherever it comes from.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use secretwell::env::{EnvProvider, Environment};
use secretwell::file::FileProvider;
use secretwell::{ExposeSecret, KeyPrefix, MemoryProvider, Resolver, SecretProvider, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::infisical::place::Place;

/// The environment of a process, as in a test of one variable.
struct Variables(Vec<(String, String)>);

impl Environment for Variables {
    fn value(&self, name: &OsStr) -> Option<OsString> {
        let found = self.0.iter().find(|(key, _)| OsStr::new(key) == name);
        found.map(|(_, value)| value.into())
    }

    fn names(&self) -> Vec<OsString> {
        self.0.iter().map(|(key, _)| key.into()).collect()
    }
}

struct Source {
    name: &'static str,
    provider: Arc<dyn SecretProvider>,
    /// The files, or the server.
    _kept: Box<dyn Any>,
}

fn document(name: &'static str, text: &str) -> Source {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    Source {
        name,
        provider: Arc::new(FileProvider::document(path)),
        _kept: Box::new(folder),
    }
}

/// Returns sources that have `secrets` as text.
async fn text_sources(secrets: &[(&str, &str)]) -> Vec<Source> {
    let lines = |line: &dyn Fn(&str, &str) -> String| -> String {
        let lines = secrets.iter().map(|(key, value)| line(key, value));
        lines.collect::<Vec<_>>().join("\n")
    };
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let joined = |key: &str| key.replace('/', "_");
    let dotted = |key: &str| key.replace('/', ".");

    let variables = secrets
        .iter()
        .map(|(key, value)| (joined(key), (*value).to_owned()));
    let directory = tempfile::tempdir().unwrap();
    let (mut json, mut yaml) = (serde_json::Map::new(), String::new());
    for (key, value) in secrets {
        let path = directory.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value).unwrap();
        match key.split_once('/') {
            Some((table, name)) => {
                let table_of_json = json.entry(table).or_insert_with(|| serde_json::json!({}));
                table_of_json[name] = (*value).into();
                yaml += &format!("{table}: {{{name}: {}}}\n", quoted(value));
            }
            None => {
                json.insert((*key).to_owned(), (*value).into());
                yaml += &format!("{key}: {}\n", quoted(value));
            }
        }
    }
    let infisical = Place::fake(secretwell::infisical::ApiVersion::V4).await;
    for (key, value) in secrets {
        let (folder, name) = match key.split_once('/') {
            Some((folder, name)) => (infisical.folder_path(Some(folder)), name),
            None => (infisical.folder.clone(), *key),
        };
        let fake = infisical.as_fake();
        fake.folder(&infisical.project, "dev", &folder);
        fake.set(&infisical.project, "dev", &folder, name, value);
    }
    let source = |name, provider: Arc<dyn SecretProvider>, kept: Box<dyn Any>| Source {
        name,
        provider,
        _kept: kept,
    };
    let remote = infisical.provider().build().unwrap();
    let env = EnvProvider::with_environment(Variables(variables.collect()), "");
    let files = FileProvider::directory(directory.path());
    vec![
        source(
            "memory",
            Arc::new(secrets.iter().copied().collect::<MemoryProvider>()),
            Box::new(()),
        ),
        source("env", Arc::new(env), Box::new(())),
        source("directory", Arc::new(files), Box::new(directory)),
        source("infisical", Arc::new(remote), Box::new(infisical)),
        document(
            "text.env",
            &lines(&|key, value| format!("{}='{value}'", joined(key))),
        ),
        document("text.json", &serde_json::Value::Object(json).to_string()),
        document("text.yaml", &yaml),
        document(
            "text.toml",
            &lines(&|key, value| format!("{} = {}", dotted(key), quoted(value))),
        ),
    ]
}

/// Returns sources that have lists as lists.
fn list_sources() -> Vec<Source> {
    vec![
        document(
            "lists.json",
            r#"{"tags": ["a", "b,c"], "ports": [80, 443], "none": [], "db": {"hosts": ["x", "y"]}}"#,
        ),
        document(
            "lists.yaml",
            "tags: [a, 'b,c']\nports:\n- 80\n- 443\nnone: []\ndb:\n  hosts: [x, y]\n",
        ),
        document(
            "lists.toml",
            "tags = ['a', 'b,c']\nports = [80, 443]\nnone = []\n[db]\nhosts = ['x', 'y']\n",
        ),
    ]
}

#[derive(Deserialize)]
struct Lists<Tags, Ports> {
    tags: Tags,
    ports: Ports,
    none: Vec<String>,
    db: Database,
    absent: Option<Vec<u8>>,
    #[serde(default)]
    defaulted: Vec<u8>,
}

#[derive(Deserialize)]
struct Database {
    hosts: Vec<SecretString>,
}

async fn check<Tags, Ports>(source: &Source)
where
    Tags: DeserializeOwned + IntoIterator<Item = String>,
    Ports: DeserializeOwned + IntoIterator<Item = u16>,
{
    let resolver = Resolver::new(source.provider.clone());
    let lists: Lists<Tags, Ports> = resolver
        .load()
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", source.name));
    let tags: BTreeSet<String> = lists.tags.into_iter().collect();
    let ports: BTreeSet<u16> = lists.ports.into_iter().collect();
    assert_eq!(
        tags,
        BTreeSet::from(["a".into(), "b,c".into()]),
        "{}",
        source.name
    );
    assert_eq!(ports, BTreeSet::from([80, 443]), "{}", source.name);
    let hosts: Vec<_> = lists
        .db
        .hosts
        .iter()
        .map(ExposeSecret::expose_secret)
        .collect();
    assert_eq!(hosts, ["x", "y"], "{}", source.name);
    assert!(lists.none.is_empty() && lists.absent.is_none() && lists.defaulted.is_empty());
}

#[tokio::test]
async fn lists_mean_the_same_in_every_source() {
    let mut sources = list_sources();
    for (tags, ports, hosts) in [
        (r#"["a","b,c"]"#, "[80,443]", r#"["x","y"]"#),
        (r#" [ "a" , "b,c" ] "#, "80, 443", "x,y"),
        (r#"["\u0061", "b,c"]"#, r#"["0x50", "443"]"#, "x , y"),
    ] {
        let secrets = [
            ("tags", tags),
            ("ports", ports),
            ("none", "[]"),
            ("db/hosts", hosts),
        ];
        sources.extend(text_sources(&secrets).await);
    }
    for source in &sources {
        check::<Vec<String>, Vec<u16>>(source).await;
        check::<HashSet<String>, BTreeSet<u16>>(source).await;
        check::<VecDeque<String>, [u16; 2]>(source).await;
        check::<[String; 2], HashSet<u16>>(source).await;
    }
}

#[tokio::test]
async fn map_field_loads_from_a_table_and_from_text() {
    #[derive(Deserialize)]
    struct Settings {
        limits: BTreeMap<String, u32>,
        endpoints: Vec<Endpoint>,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    struct Endpoint {
        host: String,
        ports: Vec<u16>,
    }
    let limits = r#"{"a": 1, "b": "1_000"}"#;
    let endpoints = r#"[{"host": "x", "ports": [1, 2]}, {"host": "y", "ports": []}]"#;
    let mut sources = text_sources(&[("limits", limits), ("endpoints", endpoints)]).await;
    sources.extend([
        document("tables.json", &format!(r#"{{"limits": {limits}, "endpoints": {endpoints}}}"#)),
        document(
            "tables.yaml",
            "limits:\n  a: 1\n  b: 1_000\nendpoints:\n- host: x\n  ports: [1, 2]\n- {host: y, ports: []}\n",
        ),
        document(
            "tables.toml",
            "limits = {a = 1, b = 1_000}\n[[endpoints]]\nhost = 'x'\nports = [1, 2]\n[[endpoints]]\nhost = 'y'\nports = []\n",
        ),
    ]);
    for source in &sources {
        let resolver = Resolver::new(source.provider.clone());
        let settings: Settings = resolver
            .load()
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", source.name));
        assert_eq!(
            settings.limits,
            BTreeMap::from([("a".into(), 1), ("b".into(), 1000)])
        );
        assert_eq!(settings.endpoints[0].ports, [1, 2]);
        assert_eq!(settings.endpoints[1].host, "y");
    }

    let flags = document(
        "flags.yaml",
        "flags:\n  search: on\n  export: 'off'\nother: 1\n",
    );
    let resolver = Resolver::new(flags.provider.clone());
    let loaded = resolver
        .load_map::<bool>(&KeyPrefix::parse("flags").unwrap())
        .await
        .unwrap();
    assert_eq!(
        loaded,
        BTreeMap::from([("search".into(), true), ("export".into(), false)])
    );
}

#[tokio::test]
async fn table_in_the_place_of_a_list_is_refused() {
    let table = r#"{"a": "x", "b": "y"}"#;
    let mut sources = text_sources(&[("value", table)]).await;
    sources.extend([
        document("table.json", &format!("{{\"value\": {table}}}")),
        document("table.yaml", "value:\n  a: x\n  b: y\n"),
        document("table.toml", "[value]\na = 'x'\nb = 'y'\n"),
    ]);
    for source in &sources {
        let resolver = Resolver::new(source.provider.clone());
        let error = resolver.load::<One<Vec<String>>>().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("is not a list"), "{}: {text}", source.name);
        let map = resolver.load::<One<BTreeMap<String, String>>>().await;
        assert_eq!(map.unwrap().value.len(), 2, "{}", source.name);
    }
}

#[derive(Deserialize, Debug)]
struct One<T> {
    value: T,
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    })
}

#[test]
fn json_text_of_random_values_loads_back() {
    type Values = BTreeMap<String, Vec<(String, i64, Option<bool>)>>;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let item = (".{0,20}", any::<i64>(), any::<Option<bool>>());
    let values = prop::collection::btree_map(".{0,10}", prop::collection::vec(item, 0..5), 0..5);
    let test = |values: Values| {
        let text = serde_json::to_string(&values).unwrap();
        let memory = MemoryProvider::from_iter([("value", text.as_str())]);
        let loaded = runtime.block_on(Resolver::new(memory).load::<One<Values>>());
        prop_assert_eq!(loaded.unwrap().value, values);
        Ok(())
    };
    runner(200).run(&values, test).unwrap();
}

#[test]
fn loading_of_random_text_never_panics() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    async fn load<T: DeserializeOwned>(text: &str) -> Option<T> {
        let memory = MemoryProvider::from_iter([("value", text)]);
        let loaded: Result<One<T>, _> = Resolver::new(memory).load().await;
        loaded.ok().map(|loaded| loaded.value)
    }
    let text = r#"([\[\]{}",:\\. 0-9a-fnrtuxNI+-]|null|true|"a"|\[\[|é){0,12}"#;
    let text = proptest::string::string_regex(text).unwrap();
    let test = |text: String| {
        runtime.block_on(async {
            if let Some(items) = load::<Vec<String>>(&text).await {
                let begins_with_bracket = text.trim().starts_with('[');
                let is_array = serde_json::from_str::<Vec<serde_json::Value>>(text.trim()).is_ok();
                prop_assert_eq!(begins_with_bracket, is_array, "{}", text);
                prop_assert!(is_array || items.len() == text.matches(',').count() + 1);
            }
            if let Some(number) = load::<f64>(&text).await {
                prop_assert!(number.is_finite());
            }
            load::<BTreeMap<String, serde_json::Value>>(&text).await;
            load::<Vec<Vec<(u8, Option<String>)>>>(&text).await;
            load::<(u128, bool)>(&text).await;
            Ok(())
        })
    };
    runner(1000).run(&text, test).unwrap();
}
