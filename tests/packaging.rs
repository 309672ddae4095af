//! The dependencies of the cargo features, and errors for disabled features.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Returns the names of all crates that `secretwell` depends on with these features.
fn crates_with(features: &str) -> BTreeSet<String> {
    let name = |version: String| version.split(' ').next().map(str::to_owned);
    let versions = versions_with(features).into_iter();
    versions.filter_map(name).collect()
}

/// Returns the names and versions of all crates that `secretwell` depends on with these features.
fn versions_with(features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "secretwell",
            "--no-default-features",
            "--features",
            features,
        ])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    // A line such as `serde v1.0.0 (proc-macro)`.
    let version = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    lines.lines().map(version).collect()
}

#[test]
fn env_and_auth_have_few_dependencies() {
    let crates = crates_with("env,auth");
    assert!(crates.len() <= 40, "{} crates: {crates:?}", crates.len());
    for heavy in [
        "reqwest",
        "hyper",
        "rustls",
        "http",
        "tower-service",
        "notify",
        "serde_json",
    ] {
        assert!(!crates.contains(heavy), "{heavy}");
    }
}

#[test]
fn documented_numbers_of_crates_are_current() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/features.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("## Number of crates").unwrap();
    let mut rows = 0;
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        for features in cells[1].split(" or ") {
            let count = versions_with(features.trim_matches('`')).len();
            assert_eq!(count.to_string(), cells[2], "{features}");
            rows += 1;
        }
    }
    assert!(rows >= 10, "{rows} rows");
}

#[test]
fn feature_depends_only_on_its_own_backend() {
    let backends = |features| {
        let mut crates = crates_with(features);
        crates.retain(|name| {
            name.starts_with("secretwell-")
                && !["secretwell-core", "secretwell-http", "secretwell-resolver"]
                    .contains(&name.as_str())
        });
        crates.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(backends("env"), ["secretwell-env"]);
    assert_eq!(backends("file"), ["secretwell-file"]);
    assert_eq!(backends("axum"), ["secretwell-auth"]);
    assert_eq!(backends("notify"), ["secretwell-notify"]);
    assert_eq!(backends("infisical"), ["secretwell-infisical"]);
    assert_eq!(backends("vault"), ["secretwell-vault"]);
    assert_eq!(
        backends("full"),
        [
            "secretwell-auth",
            "secretwell-env",
            "secretwell-file",
            "secretwell-infisical",
            "secretwell-notify",
            "secretwell-vault"
        ]
    );
}

/// Builds a separate crate, because the tests of the workspace enable all features.
#[test]
fn error_for_a_scheme_with_a_disabled_feature_names_the_feature() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let facade = root.join("crates/secretwell").canonicalize().unwrap();
    let manifest = format!(
        "[package]\nname = \"bare\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nsecretwell = {{ path = {facade:?}, default-features = false }}\n",
    );
    std::fs::write(path("Cargo.toml"), manifest).unwrap();
    std::fs::copy(root.join("Cargo.lock"), path("Cargo.lock")).unwrap();
    std::fs::create_dir(path("src")).unwrap();
    let program = "fn main() {
        for url in std::env::args().skip(1) {
            println!(\"{}\", secretwell::from_url(&url).unwrap_err());
        }
    }";
    std::fs::write(path("src/main.rs"), program).unwrap();

    let urls = ["env://", "file:///a", "infisical://a/b/c", "vault://a/b"];
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "--"])
        .args(urls)
        .current_dir(folder.path())
        .env("CARGO_TARGET_DIR", root.join("target/bare"))
        .envs([
            ("CARGO_INCREMENTAL", "0"),
            ("CARGO_PROFILE_DEV_DEBUG", "none"),
        ])
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), urls.len(), "{stdout}{stderr}");
    for (line, feature) in lines.iter().zip(["env", "file", "infisical", "vault"]) {
        let expected = format!("needs the cargo feature `{feature}`");
        assert!(
            line.contains(&expected) && line.contains("secretwell = {"),
            "{line}"
        );
    }
}
