//! The programs of the README and of the guides, built in fresh crates outside of the workspace from the
//! text alone. Only the dependencies on Secretwell lead to this workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A crate in a temporary folder.
struct Fresh {
    folder: TempDir,
}

impl Fresh {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fresh = Self { folder };
        let mut patches = String::from("[patch.crates-io]\n");
        for (name, path) in published_crates() {
            patches += &format!("{name} = {{ path = {path:?} }}\n");
        }
        // With the profile of the workspace, its compiled dependencies can be used.
        let read = |file| std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        let manifest = read("Cargo.toml");
        let (_, profile) = manifest.split_once("[profile.dev]").unwrap();
        let (profile, _) = profile.split_once("[profile.release]").unwrap();
        let config = format!("{patches}\n[profile.dev]{profile}");
        fresh.write(".cargo/config.toml", &config);
        let lock = read("Cargo.lock");
        fresh.write("Cargo.lock", &lock);
        fresh
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn has(&self, file: &str) -> bool {
        self.folder.path().join(file).is_file()
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("CARGO_TARGET_DIR", Path::new(ROOT).join("target"))
            .env("CARGO_INCREMENTAL", "0");
        command
    }

    fn expect_success(&self, arguments: &[&str], what: &str) -> Output {
        let output = self.cargo(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{what}: cargo {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}

/// Returns the names and folders of the crates that users depend on.
fn published_crates() -> Vec<(String, PathBuf)> {
    let crates = Path::new(ROOT).join("crates").canonicalize().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        if !manifest.contains("publish = false") {
            let name = manifest
                .lines()
                .find_map(|line| line.strip_prefix("name = \""));
            let name = name.unwrap().trim_end_matches('"').to_owned();
            found.push((name, folder));
        }
    }
    found
}

/// A fenced block: the text before it, its language, and its lines.
struct Block {
    introduction: String,
    language: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut introduction = String::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            if !line.trim().is_empty() {
                introduction = format!("{introduction} {line}");
            }
            if line.starts_with('#') {
                introduction.clear();
            }
            continue;
        };
        let text: String = lines
            .by_ref()
            .take_while(|line| *line != "```")
            // A line that rustdoc hides is part of the program.
            .map(|line| match language.starts_with("rust") {
                true => line.strip_prefix("# ").unwrap_or(line),
                false => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        found.push(Block {
            introduction: std::mem::take(&mut introduction),
            language: language.split(',').next().unwrap_or_default().to_owned(),
            text,
        });
    }
    found
}

/// Returns the file that a block is to be written to: the last path in backticks before it, if the text
/// ends with a colon.
fn file_of(block: &Block) -> Option<String> {
    let introduction = block.introduction.trim_end().strip_suffix(':')?;
    let paths = introduction.split('`').skip(1).step_by(2);
    let is_file =
        |path: &&str| path.ends_with(".rs") && path.contains('/') || path.ends_with("Cargo.toml");
    paths.filter(is_file).last().map(str::to_owned)
}

/// Returns the line with the name of the package.
fn package_name(manifest: &str) -> Option<&str> {
    manifest.lines().find(|line| line.starts_with("name = "))
}

/// Writes the files of a guide one after the other, and builds the crate whenever a file is replaced, and
/// at the end. A manifest with another package name starts a new crate. Returns the last crate.
fn follow(guide: &str, min_builds: usize) -> Fresh {
    let path = Path::new(ROOT).join("docs/guides").join(guide);
    let markdown = std::fs::read_to_string(path).unwrap();
    let mut fresh = Fresh::new();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut built = 0;
    let mut build = |fresh: &Fresh, files: &BTreeMap<String, String>| {
        if files.contains_key("Cargo.toml") && files.len() > 1 {
            fresh.expect_success(&["test", "--quiet"], guide);
            fresh.expect_success(&["build", "--quiet"], guide);
            built += 1;
        }
    };
    for block in blocks(&markdown) {
        let Some(file) = file_of(&block) else {
            continue;
        };
        if let Some(replaced) = files.get(&file) {
            build(&fresh, &files);
            if file == "Cargo.toml" && package_name(replaced) != package_name(&block.text) {
                fresh = Fresh::new();
                files.clear();
            }
        }
        fresh.write(&file, &block.text);
        files.insert(file, block.text);
    }
    build(&fresh, &files);
    assert!(built >= min_builds, "{guide} was built {built} times");
    fresh
}

#[test]
fn getting_started_guide_builds_from_its_text() {
    follow("getting-started.md", 2);
}

#[test]
fn writing_a_backend_guide_passes_the_conformance_suite() {
    let backend = follow("writing-a-backend.md", 1);
    assert!(backend.has("tests/conformance.rs"));

    // The backend itself depends on the contract, and on nothing else of Secretwell.
    let arguments = [
        "tree", "--edges", "normal", "--prefix", "none", "--format", "{p}",
    ];
    let tree = backend.expect_success(&arguments, "the tree of the backend");
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names = tree
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next());
    let ours: BTreeSet<&str> = names
        .filter(|name| name.starts_with("secretwell"))
        .collect();
    assert_eq!(ours, BTreeSet::from(["secretwell-core"]), "{tree}");
}

#[test]
fn testing_guide_builds_and_its_tests_pass() {
    let service = follow("testing.md", 1);
    for file in ["memory", "outage", "infisical"] {
        assert!(service.has(&format!("tests/{file}.rs")), "{file}");
    }
}

#[test]
fn migration_guide_builds_from_its_text() {
    let after_start_up = follow("migration.md", 5);
    assert!(after_start_up.has("src/main.rs"));
}

#[test]
fn which_type_guide_builds_from_its_text() {
    follow("which-type.md", 3);
}

/// A program that is stopped when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Stops the program, and returns its standard output.
    fn output(mut self) -> String {
        let _ = self.0.kill();
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut text).unwrap();
        }
        text
    }
}

/// The README's programs in one crate with the README's dependencies.
struct Readme {
    fresh: Fresh,
    programs: Vec<String>,
}

impl Readme {
    fn new() -> Self {
        let markdown = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
        let blocks = blocks(&markdown);
        let dependencies = blocks
            .iter()
            .find(|block| block.language == "toml")
            .unwrap();
        let programs = blocks
            .iter()
            .filter(|block| block.language == "rust" && block.text.contains("fn main()"))
            .map(|block| block.text.clone())
            .collect();
        let fresh = Fresh::new();
        let package = "[package]\nname = \"readme\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n";
        fresh.write("Cargo.toml", &format!("{package}{}", dependencies.text));
        Self { fresh, programs }
    }

    fn build(&self, program: &str) -> PathBuf {
        self.fresh.write("src/main.rs", program);
        self.fresh.expect_success(&["build", "--quiet"], "README");
        let copy = self.fresh.folder.path().join("program");
        std::fs::copy(Path::new(ROOT).join("target/debug/readme"), &copy).unwrap();
        copy
    }
}

const KEY: &str = "Zk3vQ0b1mQ8r6c2nYt5sXw9aLd7eHf4gUj0iKo1pN2M=";

/// Waits until the server answers, and returns the status and body for a request with this API key.
async fn request(port: u16, api_key: &str) -> (u16, String) {
    let client = reqwest::Client::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let request = client
            .get(format!("http://127.0.0.1:{port}/me"))
            .header("x-api-key", api_key);
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                return (status, response.text().await.unwrap());
            }
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

#[tokio::test]
async fn readme_programs_run_from_its_text() {
    let readme = Readme::new();
    let [load, serve] = &readme.programs[..] else {
        panic!("the README has {} programs", readme.programs.len());
    };

    let load = readme.build(load);
    let output = Command::new(&load)
        .env("API_KEY", KEY)
        .env("PORT", "9090")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && stdout.contains("port: 9090"),
        "{stdout}"
    );
    assert!(!stdout.contains(KEY), "{stdout}");
    let output = Command::new(&load)
        .env("PORT", "eighty")
        .env_remove("API_KEY")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for part in ["2 problems", "API_KEY", "not found", "PORT", "u16", "\n"] {
        assert!(stderr.contains(part), "`{part}` is missing in: {stderr}");
    }

    // The README's port might be in use on this machine.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let serve = readme.build(&serve.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}")));
    let start = |api_key: &str| {
        let child = Command::new(&serve)
            .env("API_KEY", api_key)
            .stdout(Stdio::piped())
            .spawn();
        Running(child.unwrap())
    };
    let running = start(KEY);
    assert_eq!(request(port, KEY).await, (200, r#"{"name":"ada"}"#.into()));
    assert_eq!(request(port, "wrong").await.0, 401);
    let stdout = running.output();
    assert!(stdout.contains("production from env://"), "{stdout}");
    assert!(!stdout.contains(KEY), "{stdout}");

    // Without a key, the reason is in the terminal.
    let running = start("");
    assert_eq!(request(port, KEY).await.0, 500);
    let stdout = running.output();
    assert!(
        stdout.contains("NOT READY") && stdout.contains("API_KEY"),
        "{stdout}"
    );
}
