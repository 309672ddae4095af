//! Benchmarks of reading one secret from a document with 10,000 secrets. Each read parses the document.

use std::fmt::Write;
use std::fs;

use criterion::{Criterion, criterion_group, criterion_main};
use secretwell::file::FileProvider;
use secretwell::{SecretKey, SecretProvider};

const SECRETS: usize = 10_000;

fn documents(criterion: &mut Criterion) {
    let folder = std::env::temp_dir().join(format!("secretwell-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder is created");
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let key = SecretKey::parse("key_5000").expect("a valid key");

    let mut group = criterion.benchmark_group("documents");
    for (name, text) in [
        ("a.env", lines("", "=", "")),
        (
            "a.json",
            format!("{{{}\"end\":\"\"}}", lines("\"", "\":\"", "\",")),
        ),
        ("a.toml", lines("", " = '", "'")),
        ("a.yaml", lines("", ": ", "")),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).expect("the document is written");
        let provider = FileProvider::document(&path);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime
                    .block_on(provider.get(&key))
                    .expect("the secret is there")
            });
        });
    }
    group.finish();
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

criterion_group!(benches, documents);
criterion_main!(benches);
