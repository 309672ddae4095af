//! Checks that each claim of `docs/security.md` names a test that exists.

use std::fs;
use std::path::PathBuf;

use regex::Regex;

use crate::shell::{PUBLISHED, root, run, text};

/// The header of the last column of a table with claims.
const COLUMN: &str = "test";

#[test]
fn each_claim_of_the_security_page_names_a_test_that_exists() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let claims = claims(&page);
    assert!(claims.len() > 60, "only {} claims", claims.len());
    let problems = problems(&claims);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn claim_without_a_test_or_with_a_missing_one_is_found() {
    let row = |tests: &str| {
        let page = format!("| threat | test |\n| --- | --- |\n| loss | {tests} |\n\n| a | b |\n");
        let claims = claims(&page);
        assert_eq!(claims.len(), 1);
        problems(&claims)
    };
    let here = "`xtask::threats::each_claim_of_the_security_page_names_a_test_that_exists`";
    assert!(row(here).is_empty());
    for wrong in [
        "",
        "see below",
        "`xtask::threats::claims`",
        "`xtask::threats::test_that_nobody_has_written`",
        "`xtask::threats::tests::each_claim_of_the_security_page_names_a_test_that_exists`",
        "`xtask::missing::each_claim_of_the_security_page_names_a_test_that_exists`",
        "`missing::test`",
        &format!("{here}, `xtask::threats::other`"),
    ] {
        assert_eq!(row(wrong).len(), 1, "{wrong}");
    }
}

/// A build script, a procedural macro and `unsafe` code would run or could read more than the page states.
#[test]
fn published_crates_have_no_build_scripts_no_macros_and_no_unsafe_code() {
    let metadata = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata = run("cargo", &metadata).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let is_published = |name: &str| PUBLISHED.contains(&name);
    let published = packages.filter(|package| is_published(package["name"].as_str().unwrap()));
    let mut count = 0;
    for package in published {
        count += 1;
        let targets = package["targets"].as_array().unwrap().iter();
        let kinds: Vec<_> = targets.map(|target| target["kind"][0].clone()).collect();
        for forbidden in ["custom-build", "proc-macro"] {
            assert!(!kinds.contains(&forbidden.into()), "{}", package["name"]);
        }
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{}",
            package["name"]
        );
    }
    assert_eq!(count, PUBLISHED.len());
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n"));
}

/// Other crates use the client of `secretwell-http`, which verifies servers and reaches configured addresses only. The
/// crate `secretwell-clients` adapts the pools and clients of other crates.
#[test]
fn only_the_http_crate_opens_connections() {
    let sockets = "TcpStream|TcpListener|UdpSocket|UnixStream|UnixListener|lookup_host|ToSocketAddrs|reqwest|hyper";
    let files = files_with(sockets);
    let is_http = |file: &&String| file.starts_with("crates/http/");
    let other = |file: &&String| !is_http(file) && !file.starts_with("crates/clients/");
    assert_eq!(files.iter().find(other), None);
    assert!(files.iter().any(|file| is_http(&file)));
}

#[test]
fn only_the_command_writes_files() {
    let writes = r"fs::write|File::create|File::options|OpenOptions|create_dir|fs::copy|fs::rename|OFlags::(CREATE|WRONLY|RDWR)";
    let files = files_with(writes);
    let other = |file: &&String| !file.starts_with("crates/cli/");
    assert_eq!(files.iter().find(other), None);
    assert!(!files.is_empty());
}

/// Returns the files of the published crates whose code, without tests and comments, contains `pattern`.
fn files_with(pattern: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let tests = Regex::new(r"(?m)^#\[cfg\((all\()?test.*\]\n(#\[.*\]\n)*mod ").unwrap();
    let files = run("git", &["ls-files", "crates/*/src/*.rs"]).unwrap();
    let is_checked = |file: &&str| {
        let unpublished =
            ["bench", "fleet", "testkit", "xtask"].map(|name| format!("crates/{name}/"));
        !file.contains("test") && !unpublished.iter().any(|folder| file.starts_with(folder))
    };
    let contains = |file: &&str| {
        let source = fs::read_to_string(root().join(file)).unwrap();
        let code = tests.split(&source).next().unwrap_or_default();
        let mut lines = code.lines().map(str::trim_start);
        lines.any(|line| !line.starts_with("//") && pattern.is_match(line))
    };
    files
        .lines()
        .filter(is_checked)
        .filter(contains)
        .map(str::to_owned)
        .collect()
}

/// Returns the rows of all tables whose last column has the tests.
fn claims(page: &str) -> Vec<Vec<&str>> {
    let mut claims = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let Some(row) = line
            .strip_prefix("| ")
            .and_then(|row| row.strip_suffix('|'))
        else {
            in_table = false;
            continue;
        };
        let cells: Vec<&str> = row.split(" | ").map(str::trim).collect();
        if cells.last() == Some(&COLUMN) {
            in_table = true;
        } else if in_table && !row.starts_with("---") {
            claims.push(cells);
        }
    }
    claims
}

/// Returns a problem for each claim without a test that exists.
fn problems(claims: &[Vec<&str>]) -> Vec<String> {
    let problem = |claim: &Vec<&str>| {
        let tests = claim.last()?;
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            return Some(format!("this claim names no test: {}", claim.join(" | ")));
        }
        names.iter().find_map(|name| find(name).err())
    };
    claims.iter().filter_map(problem).collect()
}

/// Finds a test by its path, such as `file::tests::list_does_not_leave_the_root`. The first part is the folder of a
/// crate, or `tests`. The others are those that the test runner prints.
fn find(path: &str) -> Result<(), String> {
    let explain = |problem: &str| format!("the test {path} does not exist: {problem}");
    let mut parts: Vec<&str> = path.split("::").collect();
    let name = parts.pop().unwrap_or_default();
    let mut modules = parts.into_iter();
    let mut folder = match modules.next().unwrap_or_default() {
        "tests" => root().join("tests"),
        package => root().join("crates").join(package).join("src"),
    };
    let exists = |file: &PathBuf| file.is_file();
    let read = |file: &PathBuf| {
        fs::read_to_string(file).map_err(|error| format!("{}: {error}", text(file)))
    };
    let crate_root = ["main.rs", "lib.rs"].map(|file| folder.join(file));
    let mut file = crate_root
        .into_iter()
        .find(exists)
        .ok_or_else(|| explain("no such crate"))?;
    for module in modules {
        let inner = folder.join(module);
        let files = [inner.with_extension("rs"), inner.join("mod.rs")];
        let source = read(&file)?;
        let declared = Regex::new(&format!(
            r#"(?m)^\s*(#\[path = "(?<path>[^"]+)"\]\s*)?(pub(\(crate\))? )?mod {module}( \{{|;)$"#
        ));
        let declared = declared.map_err(|error| explain(&error.to_string()))?;
        let declared = declared.captures(&source);
        let declared = declared.ok_or_else(|| explain(&format!("no module {module}")))?;
        let other = declared
            .name("path")
            .map(|path| file.with_file_name(path.as_str()));
        // A module inside of its parent's file has none of its own.
        if let Some(found) = other.into_iter().chain(files).find(exists) {
            file = found;
        }
        folder = inner;
    }
    let source = read(&file)?;
    let declaration =
        format!(r"#\[(tokio::)?test[^\]]*\]\s*((#\[[^\]]*\]|//[^\n]*)\s*)*(async )?fn {name}\(");
    let found = Regex::new(&declaration).map_err(|error| explain(&error.to_string()))?;
    match found.find(&source) {
        Some(found) if !found.as_str().contains("#[ignore") => Ok(()),
        _ => Err(explain(&format!("{} has no such test", text(&file)))),
    }
}
