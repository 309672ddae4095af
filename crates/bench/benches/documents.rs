//! Benchmarks of reading one secret from a document with 10,000 secrets. Each read parses the document.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use secretwell::file::FileProvider;
use secretwell::{SecretKey, SecretProvider};
use secretwell_bench::clock::wall_time;
use secretwell_bench::turns::{Turns, Unit};

const SECRETS: usize = 10_000;

fn main() {
    let folder = std::env::temp_dir().join(format!("secretwell-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder is created");
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let key = SecretKey::parse("key_5000").expect("a valid key");

    let mut turns = Turns::new(30, Duration::from_millis(20));
    for (name, text) in [
        ("env", lines("", "=", "")),
        (
            "json",
            format!("{{{}\"end\":\"\"}}", lines("\"", "\":\"", "\",")),
        ),
        ("toml", lines("", " = '", "'")),
        ("yaml", lines("", ": ", "")),
    ] {
        let path = folder.join("a").with_extension(name);
        fs::write(&path, text).expect("the document is written");
        let provider = FileProvider::document(&path);
        let (runtime, key) = (&runtime, &key);
        turns.add(name, move |calls| {
            wall_time(calls, || {
                runtime
                    .block_on(provider.get(key))
                    .expect("the secret is there")
            })
        });
    }
    turns.measure().report("documents", Unit::Milliseconds);
    let _ = fs::remove_dir_all(&folder);
}

/// Returns a line for each secret.
fn lines(start: &str, between: &str, end: &str) -> String {
    (0..SECRETS).fold(String::new(), |mut text, number| {
        let _ = writeln!(
            text,
            "{start}key_{number}{between}value-{number}-abcdefghijklmnopqrstuvwxyz{end}"
        );
        text
    })
}
