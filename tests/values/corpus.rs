//! Documents that other programs read, too. Nobody may get another value than they do without a notice.

use std::collections::BTreeMap;
use std::path::Path;

use secretwell::backend::Notice;
use secretwell::file::{Dialect, FileProvider, Format};
use secretwell::{Error, KeyPrefix, SecretKey, SecretProvider};

use super::readers::{Reader, Readers, Variables};

/// The readers that each dialect must agree with.
const AGREEMENTS: [(Dialect, &[&str]); 4] = [
    (Dialect::Strict, &["npm dotenv", "Node.js", "python-dotenv"]),
    (Dialect::Node, &["npm dotenv", "Node.js"]),
    (Dialect::Docker, &["docker --env-file"]),
    (Dialect::Shell, &["sh"]),
];

/// What the file provider makes of a document.
struct Reading {
    /// `None` if the whole document is refused.
    values: Option<Variables>,
    notices: Vec<Notice>,
    provider: FileProvider,
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("values/corpus")
}

/// Returns the odd lines, and the documents of services.
fn documents() -> (Vec<String>, Vec<String>) {
    let lines = std::fs::read(folder().join("lines.json")).unwrap();
    let files = std::fs::read_dir(folder().join("env")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let services = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    (serde_json::from_slice(&lines).unwrap(), services.collect())
}

async fn read(path: &Path, dialect: Dialect) -> Reading {
    let provider = FileProvider::document(path)
        .format(Format::Env)
        .dialect(dialect);
    let Ok(keys) = provider.list(&KeyPrefix::root()).await else {
        return Reading {
            values: None,
            notices: Vec::new(),
            provider,
        };
    };
    let results = provider.get_many(&keys).await;
    let pair = |(key, result): (&SecretKey, Result<secretwell::Secret, Error>)| {
        let secret = result.expect("a listed key can be read");
        (
            key.to_string(),
            secret.value.expose_text().unwrap().to_owned(),
        )
    };
    Reading {
        values: Some(keys.iter().zip(results).map(pair).collect()),
        notices: provider.notices(&KeyPrefix::root()).await.unwrap(),
        provider,
    }
}

impl Reading {
    /// Returns whether a notice states that `reader` reads another value of `name`.
    fn reports(&self, name: &str, reader: &str) -> bool {
        let text = match reader {
            "npm dotenv" | "Node.js" => "npm `dotenv` and Node.js return",
            "python-dotenv" => "python-dotenv returns",
            "Next.js" => "Next.js returns",
            "Docker Compose" => "Docker Compose returns",
            _ => panic!("no notice of this kind names {reader}"),
        };
        let names = |notice: &Notice| notice.name == name && notice.message.contains(text);
        self.notices.iter().any(names)
    }
}

/// How the values of one reader compare with those of the provider.
#[derive(Debug, Default)]
struct Counts {
    same: usize,
    reported: usize,
    unread: usize,
    refused: usize,
}

/// Compares one document. Returns a description of each difference that no notice reports.
async fn compare(
    document: &str,
    reading: &Reading,
    dialect: Dialect,
    reader: &Reader,
    index: usize,
    counts: &mut Counts,
) -> Vec<String> {
    let mut faults = Vec::new();
    let (Some(theirs), Some(values)) = (&reader.results[index], &reading.values) else {
        counts.unread += reading.values.as_ref().map_or(0, Variables::len);
        counts.refused += reader.results[index].as_ref().map_or(0, Variables::len);
        return faults;
    };
    let must_agree = AGREEMENTS
        .iter()
        .any(|(it, readers)| *it == dialect && readers.contains(&reader.name));
    let is_reported = |name: &str| match (dialect, reader.name) {
        (Dialect::Strict, "sh" | "docker --env-file") => true,
        (Dialect::Strict, _) => reading.reports(name, reader.name),
        _ => false,
    };
    for (name, value) in values {
        match theirs.get(name) {
            None => counts.unread += 1,
            Some(other) if other == value => {
                counts.same += 1;
                if dialect == Dialect::Strict
                    && !matches!(reader.name, "sh" | "docker --env-file")
                    && is_reported(name)
                {
                    faults.push(format!(
                        "{document:?}: {name} is the same in {}, but reported",
                        reader.name
                    ));
                }
            }
            Some(_) if is_reported(name) => counts.reported += 1,
            Some(other) if must_agree || dialect == Dialect::Strict => {
                faults.push(format!(
                    "{document:?}: {name} is {value:?}, and {other:?} in {}",
                    reader.name
                ));
            }
            Some(_) => counts.reported += 1,
        }
    }
    for name in theirs.keys().filter(|name| !values.contains_key(*name)) {
        counts.refused += 1;
        let is_common = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if must_agree && name.chars().all(is_common) {
            let error = reading.provider.get(&SecretKey::parse(name).unwrap()).await;
            if error.err().is_none_or(|error| error.is_not_found()) {
                faults.push(format!("{document:?}: {name} of {} is absent", reader.name));
            }
        }
    }
    faults
}

#[tokio::test]
async fn other_readers_get_the_same_values_or_a_notice_reports_it() {
    let (lines, services) = documents();
    assert!(lines.len() > 200 && services.len() > 90);
    let all: Vec<String> = lines.iter().chain(&services).cloned().collect();
    let folder = tempfile::tempdir().unwrap();
    let readers = Readers::run(&all);
    let mut faults = Vec::new();
    let mut counts: BTreeMap<(usize, &str), Counts> = BTreeMap::new();
    for (index, document) in all.iter().enumerate() {
        let path = folder.path().join(format!("{index}.env"));
        std::fs::write(&path, document).unwrap();
        for (row, (dialect, agreed)) in AGREEMENTS.into_iter().enumerate() {
            let reading = read(&path, dialect).await;
            for reader in readers.iter() {
                if dialect == Dialect::Strict || agreed.contains(&reader.name) {
                    let counts = counts.entry((row, reader.name)).or_default();
                    faults
                        .extend(compare(document, &reading, dialect, reader, index, counts).await);
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    check_table(&table(&counts), &readers.node_version);
}

fn table(counts: &BTreeMap<(usize, &str), Counts>) -> String {
    let mut table =
        "| dialect | program | same value | other value, reported | only here | only there |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for ((row, reader), counts) in counts {
        let dialect = ["`strict`", "`node`", "`docker`", "`shell`"][*row];
        let Counts {
            same,
            reported,
            unread,
            refused,
        } = counts;
        table.push_str(&format!(
            "| {dialect} | {reader} | {same} | {reported} | {unread} | {refused} |\n"
        ));
    }
    table
}

/// Compares a table with the documentation. Other versions of Node.js have other defects.
#[expect(clippy::print_stdout, reason = "the output is for the documentation")]
fn check_table(table: &str, node_version: &str) {
    if std::env::var_os("SECRETWELL_PRINT_TABLE").is_some() {
        println!("{table}");
    } else if node_version.starts_with("v20.") {
        let page = include_str!("../../docs/backends/dotenv.md");
        assert!(
            page.contains(table),
            "docs/backends/dotenv.md must contain:\n{table}"
        );
    }
}

/// Services must not have to rewrite their documents.
#[tokio::test]
async fn nearly_all_variables_of_services_are_accepted_by_the_default() {
    let (_, services) = documents();
    let folder = tempfile::tempdir().unwrap();
    let (mut accepted, mut refused) = (0, Vec::new());
    for (index, document) in services.iter().enumerate() {
        let path = folder.path().join(format!("{index}.env"));
        std::fs::write(&path, document).unwrap();
        let reading = read(&path, Dialect::Strict).await;
        accepted += reading.values.expect("a readable document").len();
        let unreadable =
            |notice: &Notice| notice.kind != secretwell::backend::NoticeKind::ReadDifferently;
        refused.extend(reading.notices.into_iter().filter(unreadable));
    }
    assert!(
        refused.len() * 50 < accepted,
        "{accepted} accepted, refused: {refused:#?}"
    );
}
