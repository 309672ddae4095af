//! Checks that the project contains no banned words, such as metaphors that are hard to understand.

use std::fs;

use regex::{Regex, RegexBuilder};

use crate::shell::{root, run};

/// One extended regular expression per line.
const BANNED: &str = include_str!("../words-banned.txt");

/// Files that quote the outside world: lock files, recordings, licences, and the list itself.
fn is_exempt(file: &str) -> bool {
    let endings = [".lock", ".json", ".jsonl", "words-banned.txt"];
    endings.iter().any(|ending| file.ends_with(ending)) || file.contains("LICENSE")
}

fn patterns() -> Vec<Regex> {
    BANNED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            RegexBuilder::new(line)
                .case_insensitive(true)
                .build()
                .unwrap()
        })
        .collect()
}

#[test]
fn banned_words_do_not_occur() {
    let patterns = patterns();
    assert!(patterns.len() > 20);
    let files = run(
        "git",
        &["ls-files", "--cached", "--others", "--exclude-standard"],
    )
    .unwrap();
    let mut found = Vec::new();
    let mut read = 0;
    for file in files.lines().filter(|file| !is_exempt(file)) {
        let Ok(text) = fs::read_to_string(root().join(file)) else {
            continue;
        };
        read += 1;
        for (number, line) in text.lines().enumerate() {
            if let Some(pattern) = patterns.iter().find(|pattern| pattern.is_match(line)) {
                found.push(format!("{file}:{}: `{pattern}`: {line}", number + 1));
            }
        }
    }
    assert!(read > 200, "only {read} files were read");
    assert!(found.is_empty(), "banned words:\n{}", found.join("\n"));
}
