//! What the features pull in.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn crates_of(features: &str) -> BTreeSet<String> {
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
    lines
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_environment_and_auth_stay_light() {
    let crates = crates_of("env,auth");
    assert!(crates.len() <= 35, "{} crates: {crates:?}", crates.len());
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
fn a_feature_brings_its_backend_and_no_other() {
    let backends = |features| {
        let mut crates = crates_of(features);
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
    assert_eq!(backends("infisical"), ["secretwell-infisical"]);
    assert_eq!(backends("vault"), ["secretwell-vault"]);
    assert_eq!(
        backends("full"),
        [
            "secretwell-auth",
            "secretwell-env",
            "secretwell-file",
            "secretwell-infisical",
            "secretwell-vault"
        ]
    );
}

/// In a crate of its own, because the tests of the workspace have all features.
#[test]
fn a_scheme_whose_feature_is_off_names_the_feature() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let facade = root.join("crates/secretwell").canonicalize().unwrap();
    let manifest = format!(
        "[package]\nname = \"bare\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nsecretwell = {{ path = {facade:?}, default-features = false }}\n",
    );
    std::fs::write(at("Cargo.toml"), manifest).unwrap();
    std::fs::copy(root.join("Cargo.lock"), at("Cargo.lock")).unwrap();
    std::fs::create_dir(at("src")).unwrap();
    let program = "fn main() {
        for url in std::env::args().skip(1) {
            println!(\"{}\", secretwell::from_url(&url).unwrap_err());
        }
    }";
    std::fs::write(at("src/main.rs"), program).unwrap();

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
    let told = String::from_utf8(output.stdout).unwrap();
    let wrote = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), urls.len(), "{told}{wrote}");
    for (line, feature) in lines.iter().zip(["env", "file", "infisical", "vault"]) {
        let words = format!("needs the cargo feature `{feature}`");
        assert!(
            line.contains(&words) && line.contains("secretwell = {"),
            "{line}"
        );
    }
}
