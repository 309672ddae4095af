//! Other programs that read `.env` documents. Each is started once for all documents.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::tool;

/// The variables of a document.
pub(super) type Variables = BTreeMap<String, String>;

/// The results of one program. A document is `None` if the program refuses it.
pub(super) struct Reader {
    pub(super) name: &'static str,
    pub(super) results: Vec<Option<Variables>>,
}

/// The results of all programs, and the version of Node.js.
pub(super) struct Readers {
    pub(super) node_version: String,
    readers: Vec<Reader>,
}

impl Readers {
    pub(super) fn run(documents: &[String]) -> Self {
        let (node_version, mut readers) = node(documents);
        readers.push(python(documents));
        readers.push(shell(documents));
        readers.push(compose("Docker Compose", "", documents));
        readers.push(compose("docker --env-file", ", format: raw", documents));
        Self {
            node_version,
            readers,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Reader> {
        self.readers.iter()
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("values")
        .join(name)
}

/// Returns the variables that have a value. python-dotenv returns names without `=` as `null`.
fn with_values(variables: BTreeMap<String, Option<String>>) -> Variables {
    let with_value = |(name, value): (_, Option<_>)| Some((name, value?));
    variables.into_iter().filter_map(with_value).collect()
}

/// Runs a program that reads `documents` as JSON from its standard input, and returns the JSON that it prints.
pub(super) fn run<T: DeserializeOwned>(
    command: &mut Command,
    documents: &(impl Serialize + ?Sized),
) -> T {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = serde_json::to_vec(documents).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn node(documents: &[String]) -> (String, Vec<Reader>) {
    #[derive(serde::Deserialize)]
    struct Node {
        version: String,
        results: Vec<BTreeMap<String, Option<Variables>>>,
    }

    let mut command = Command::new("node");
    command.arg(script("readers.mjs")).arg(tool("clients"));
    let node: Node = run(&mut command, documents);
    let of = |name: &'static str, id: &str| Reader {
        name,
        results: node.results.iter().map(|it| it[id].clone()).collect(),
    };
    let readers = vec![
        of("npm dotenv", "dotenv"),
        of("Node.js", "node"),
        of("Next.js", "next"),
    ];
    (node.version, readers)
}

fn python(documents: &[String]) -> Reader {
    let mut command = Command::new(tool("dotenv/bin/python"));
    let results: Vec<BTreeMap<String, Option<String>>> =
        run(command.arg(script("readers.py")), documents);
    Reader {
        name: "python-dotenv",
        results: results
            .into_iter()
            .map(|it| Some(with_values(it)))
            .collect(),
    }
}

fn write_documents(documents: &[String]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (index, document) in documents.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{index}.env")), document).unwrap();
    }
    folder
}

fn shell(documents: &[String]) -> Reader {
    let folder = write_documents(documents);
    let status = Command::new("/bin/sh")
        .arg(script("readers.sh"))
        .arg(folder.path())
        .env_clear()
        .envs([
            ("HOME", "/home/user"),
            ("SET", "x"),
            ("PATH", "/nonexistent"),
        ])
        .status()
        .unwrap();
    assert!(status.success());
    let read = |index| {
        let output = std::fs::read(folder.path().join(format!("{index}.out"))).unwrap();
        let output = String::from_utf8(output).unwrap();
        let variables: Variables = output
            .split_terminator('\0')
            .filter_map(|variable| variable.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // A shell ends at a syntax error.
        (!variables.is_empty()).then(|| without_own(variables))
    };
    Reader {
        name: "sh",
        results: (0..documents.len()).map(read).collect(),
    }
}

/// Removes the variables of the shell itself.
fn without_own(mut variables: Variables) -> Variables {
    variables.retain(|name, _| {
        ![
            "HOME", "SET", "PATH", "PWD", "OLDPWD", "SHLVL", "_", "document",
        ]
        .contains(&&**name)
    });
    variables
}

/// Reads each document as the `env_file` of a service. Compose fails as a whole if it refuses one of them, and names
/// it.
fn compose(name: &'static str, option: &str, documents: &[String]) -> Reader {
    let folder = write_documents(documents);
    let mut results = vec![None; documents.len()];
    let mut accepted: Vec<usize> = (0..documents.len()).collect();
    loop {
        let services: String = accepted
            .iter()
            .map(|id| format!("  s{id}: {{image: x, env_file: [{{path: {id}.env{option}}}]}}\n"))
            .collect();
        std::fs::write(
            folder.path().join("compose.yaml"),
            format!("services:\n{services}"),
        )
        .unwrap();
        let output = run_compose(folder.path());
        // The wrapper of the Python package always succeeds.
        if !output.stdout.is_empty() {
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            for id in accepted {
                let variables = document["services"][format!("s{id}")]["environment"].clone();
                let variables: Option<BTreeMap<String, Option<String>>> =
                    serde_json::from_value(variables).unwrap();
                // Compose writes `$` as `$$`, because it would replace it when it reads its output.
                let plain = |variables| {
                    let variables = with_values(variables);
                    variables
                        .into_iter()
                        .map(|(name, value)| (name, value.replace("$$", "$")))
                        .collect()
                };
                results[id] = Some(variables.map(plain).unwrap_or_default());
            }
            return Reader { name, results };
        }
        let error = String::from_utf8_lossy(&output.stderr);
        let refused = accepted
            .iter()
            .position(|id| error.contains(&format!("/{id}.env")));
        accepted.remove(refused.unwrap_or_else(|| panic!("{error}")));
    }
}

fn run_compose(folder: &Path) -> Output {
    let mut command = Command::new(tool("compose/bin/docker-compose"));
    command
        .args(["--env-file", "/dev/null", "config", "--format", "json"])
        .current_dir(folder)
        .env_clear()
        .envs([("HOME", "/home/user"), ("SET", "x")])
        .output()
        .unwrap()
}
