//! What the features pull in.

use std::collections::BTreeSet;
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
                && !["secretwell-core", "secretwell-http"].contains(&name.as_str())
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
