//! Checks that each link in the documentation leads to an existing page and heading.
//!
//! The pages of `docs/` are part of the rendered documentation. A relative link would work in a repository
//! browser only, so pages link to the rendered documentation.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::{cargo, root, run, text};

const RENDERED: &str = "https://docs.rs/";

/// Checks the links of all Markdown files against the documentation that `cargo doc` has written.
pub(crate) fn check() -> Result<(), String> {
    cargo(&[
        "doc",
        "--quiet",
        "--workspace",
        "--all-features",
        "--no-deps",
    ])?;
    let rendered = root().join("target/doc");
    let files = run(
        "git",
        &[
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.md",
        ],
    )?;
    let mut dead = Vec::new();
    let mut count = 0;
    for file in files.lines() {
        let path = root().join(file);
        let Ok(markdown) = fs::read_to_string(&path) else {
            continue;
        };
        for link in targets(&markdown) {
            count += 1;
            if let Some(reason) = problem(&link, file, &path, &rendered) {
                dead.push(format!("{file}: {link}: {reason}"));
            }
        }
    }
    println!("{count} links in {} files", files.lines().count());
    if dead.is_empty() {
        Ok(())
    } else {
        Err(format!("dead links:\n{}", dead.join("\n")))
    }
}

/// Returns what is wrong with a link, if anything.
fn problem(link: &str, file: &str, path: &Path, rendered: &Path) -> Option<String> {
    let (place, anchor) = link
        .split_once('#')
        .map_or((link, None), |(place, anchor)| (place, Some(anchor)));
    if let Some(page) = place.strip_prefix(RENDERED) {
        let mut parts = page.splitn(3, '/');
        let package = parts.next().unwrap_or_default();
        if !package.starts_with("secretwell") {
            return None;
        }
        let page = match parts.nth(1) {
            None | Some("") => format!("{}/index.html", package.replace('-', "_")),
            Some(page) => page.to_owned(),
        };
        return missing(&rendered.join(page), anchor);
    }
    if place.contains("://") || place.starts_with("mailto:") {
        return None;
    }
    if place.is_empty() {
        let markdown = fs::read_to_string(path).unwrap_or_default();
        let known = markdown
            .lines()
            .any(|line| line.starts_with('#') && anchor.is_some_and(|anchor| slug(line) == anchor));
        return (!known).then(|| "no heading has this anchor".into());
    }
    // The READMEs of the other crates are not rendered, and link to the licences beside them.
    let is_rendered = file.starts_with("docs/") || file == "README.md";
    let target = path.parent()?.join(place);
    if is_rendered {
        return Some("a page of the rendered documentation needs an absolute link".into());
    }
    (!target.exists()).then(|| "the file does not exist".into())
}

fn missing(page: &PathBuf, anchor: Option<&str>) -> Option<String> {
    let Ok(html) = fs::read_to_string(page) else {
        return Some(format!("{} was not rendered", text(page)));
    };
    let anchor = anchor?;
    let known = html.contains(&format!("id=\"{anchor}\""));
    (!known).then(|| "the rendered page does not have this anchor".into())
}

/// Returns the anchor of a heading.
fn slug(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

/// Returns the targets of inline links and of link definitions, outside of code blocks.
fn targets(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        if line.starts_with('[')
            && let Some((_, target)) = line.split_once("]: ")
        {
            found.push(target.trim().to_owned());
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                found.push(target.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let markdown = "[a](x.md) and [b](#here)\n```\n[c](no.md)\n```\n[d]: https://docs.rs/x\n";
        assert_eq!(targets(markdown), ["x.md", "#here", "https://docs.rs/x"]);
        assert_eq!(
            slug("## Path of a `get`, in short"),
            "path-of-a-get-in-short"
        );
    }

    #[test]
    fn each_page_is_a_part_of_the_rendered_documentation() {
        let pages = run("git", &["ls-files", "docs/*.md"]).unwrap();
        let sources = run("git", &["grep", "-h", "include_str!", "--", "crates/*.rs"]).unwrap();
        for page in pages.lines() {
            assert!(sources.contains(&format!("/{page}\"")), "{page}");
        }
    }
}
