//! YAML, JSON and TOML documents that other programs read, too. Every value is the same, to the letter.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use secretwell::backend::{Notice, NoticeKind};
use secretwell::file::FileProvider;
use secretwell::{KeyPrefix, SecretKey, SecretProvider};
use tempfile::TempDir;

use super::readers::run;
use crate::support::tool;

const FORMATS: [&str; 3] = ["yaml", "json", "toml"];

/// A format and a document.
type Document = (String, String);

/// An entry that the other program reads: the path of names, the kind and the text.
type Entry = (Vec<String>, String, String);

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("values/corpus")
}

/// Returns the documents of services.
fn services() -> Vec<Document> {
    let mut documents = Vec::new();
    for format in FORMATS {
        let files = std::fs::read_dir(folder().join(format)).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        let document = |path| (format.to_owned(), std::fs::read_to_string(path).unwrap());
        documents.extend(paths.iter().map(document));
    }
    documents
}

/// Returns the entries of each document, as PyYAML and the modules of Python read it. A document that they refuse is
/// `None`.
fn read_with_python(documents: &[Document]) -> Vec<Option<Vec<Entry>>> {
    let mut python = Command::new(tool("yaml/bin/python"));
    python.arg(folder().join("../documents.py"));
    run(&mut python, documents)
}

/// What the file provider makes of a document.
struct Reading {
    provider: FileProvider,
    /// `None` if the whole document is refused.
    keys: Option<Vec<SecretKey>>,
    notices: Vec<Notice>,
    _folder: TempDir,
}

impl Reading {
    async fn new((format, text): &Document) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("document.{format}"));
        std::fs::write(&path, text).unwrap();
        // An absence from a file that was written a moment ago is looked at again.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let before = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(before).unwrap();
        let provider = FileProvider::document(path);
        let keys = provider.list(&KeyPrefix::root()).await.ok();
        let notices = provider.notices(&KeyPrefix::root()).await;
        Self {
            provider,
            keys,
            notices: notices.unwrap_or_default(),
            _folder: folder,
        }
    }

    /// Compares one entry. Returns what is wrong.
    async fn compare(
        &self,
        text: &str,
        (path, kind, value): &Entry,
        counts: &mut Counts,
    ) -> Option<String> {
        let Some(key) = parse(path) else {
            let is_reported = |notice: &Notice| {
                let name = |it: &String| it.escape_debug().to_string() == notice.name;
                notice.kind == NoticeKind::NotAKey && path.iter().any(name)
            };
            counts.unnamed += 1;
            return (kind != "null" && !self.notices.iter().any(is_reported))
                .then(|| format!("{path:?} is not reported"));
        };
        let read = self.provider.get(&key).await;
        match (kind.as_str(), read) {
            ("null", Err(error)) if error.is_not_found() => None,
            ("null", Ok(_)) => Some(format!("{key} has a value")),
            (_, Err(error)) if error.is_not_found() => Some(format!("{key} is absent")),
            (_, Err(_)) => {
                counts.refused += 1;
                None
            }
            ("tag", Ok(_)) => Some(format!("{key} has a tag and is not refused")),
            (kind, Ok(secret)) => {
                counts.same += 1;
                let read = secret.value.expose_text().unwrap();
                let is_same = match kind {
                    "number" => text.contains(read) && canonical(read) == *value,
                    _ => read == value,
                };
                (!is_same).then(|| format!("{key} is {read:?}, not {value:?}"))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    same: usize,
    /// Entries that the provider refuses.
    refused: usize,
    /// Entries whose names cannot be a key.
    unnamed: usize,
    /// Documents that only Python refuses, and only the provider.
    accepted_here: Vec<String>,
    refused_here: Vec<String>,
}

/// Returns the key of a path, if its names can be the segments of a key.
fn parse(path: &[String]) -> Option<SecretKey> {
    let has_slash = path.iter().any(|name| name.contains('/'));
    SecretKey::parse(path.join("/")).ok().filter(|_| !has_slash)
}

/// Returns a number, a boolean or a date of TOML in the notation of Python.
fn canonical(text: &str) -> String {
    let plain = text.replace('_', "");
    let integer = |digits: &str, radix| i128::from_str_radix(digits, radix).unwrap().to_string();
    match plain.split_at_checked(2) {
        Some(("0x", digits)) => integer(digits, 16),
        Some(("0o", digits)) => integer(digits, 8),
        Some(("0b", digits)) => integer(digits, 2),
        _ => match plain.parse::<i128>() {
            Ok(number) => number.to_string(),
            Err(_) => plain.replace(['T', 't'], " ").replace('Z', "+00:00"),
        },
    }
}

async fn compare_all(documents: &[Document]) -> Counts {
    let mut faults = Vec::new();
    let mut counts = Counts::default();
    for (document, theirs) in documents.iter().zip(read_with_python(documents)) {
        let text = &document.1;
        let reading = Reading::new(document).await;
        let (keys, entries) = match (&reading.keys, theirs) {
            (Some(keys), Some(entries)) => (keys, entries),
            (None, None) => continue,
            (Some(_), None) => {
                counts.accepted_here.push(text.clone());
                continue;
            }
            (None, Some(_)) => {
                counts.refused_here.push(text.clone());
                continue;
            }
        };
        let has_value = |entry: &&Entry| entry.1 != "null";
        let named: BTreeMap<SecretKey, ()> = entries
            .iter()
            .filter(has_value)
            .filter_map(|(path, ..)| Some((parse(path)?, ())))
            .collect();
        if !named.keys().eq(keys) {
            faults.push(format!("{text:?}: {keys:?} are listed, not {named:?}"));
        }
        for entry in &entries {
            let fault = reading.compare(text, entry, &mut counts).await;
            faults.extend(fault.map(|fault| format!("{text:?}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    counts
}

#[tokio::test]
async fn documents_of_services_have_the_values_that_other_programs_read() {
    let services = services();
    assert!(services.len() >= 30);
    let counts = compare_all(&services).await;
    assert!(counts.same > 250, "{counts:?}");
    assert_eq!(counts.refused, 0, "{counts:?}");
    let differ = [counts.accepted_here, counts.refused_here].concat();
    assert!(differ.is_empty(), "{differ:?}");
}

/// Documents that only one side accepts are listed here, so that each one is a decision.
#[tokio::test]
async fn odd_documents_have_the_same_values_or_are_refused() {
    // PyYAML refuses tabs, and `tomllib` a byte order mark.
    const ACCEPTED_HERE: &[&str] = &["\ta: b", "a: b \t # c", "a: 'b'\t# c", "\u{feff}a = 1"];
    const REFUSED_HERE: &[&str] = &[];

    let odd = std::fs::read(folder().join("documents.json")).unwrap();
    let odd: Vec<Document> = serde_json::from_slice(&odd).unwrap();
    assert!(odd.len() > 200);
    let counts = compare_all(&odd).await;
    assert_eq!(counts.accepted_here, ACCEPTED_HERE);
    assert_eq!(counts.refused_here, REFUSED_HERE);
}
