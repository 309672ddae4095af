//! Transcripts of shell commands and their output.
//!
//! Set `SECRETWELL_TRANSCRIPTS=write` to write the actual output to the files in `tests/cli/transcripts`.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{binary, text};

/// Runs the commands of the transcript `name` in a temporary directory and compares their output.
///
/// `variables` are set for the commands. In the output, the value of each variable is replaced by `$NAME`.
pub(super) fn check_transcript(name: &str, variables: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cli/transcripts")
        .join(format!("{name}.txt"));
    let expected = fs::read_to_string(&path).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let input = expected
        .lines()
        .filter(|line| line.starts_with("$ ") || line.starts_with('#') || line.is_empty());
    let mut actual = String::new();
    for line in input {
        writeln!(actual, "{line}").unwrap();
        if let Some(command) = line.strip_prefix("$ ") {
            actual += &run_command(command, directory.path(), variables);
        }
    }
    if env::var_os("SECRETWELL_TRANSCRIPTS").is_some_and(|mode| mode == "write") {
        fs::write(&path, &actual).unwrap();
    }
    assert!(
        actual == expected,
        "the output of {name} differs:\n{actual}"
    );
}

/// Runs a shell command, and returns its normalized output and its exit status unless that is 0.
fn run_command(command: &str, directory: &Path, variables: &[(&str, &str)]) -> String {
    let binary = binary();
    let path = [
        binary.parent().unwrap(),
        Path::new("/usr/bin"),
        Path::new("/bin"),
    ];
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(directory)
        .env_clear()
        .env("PATH", env::join_paths(path).unwrap())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let mut printed = text(&output.stdout);
    for (name, value) in variables {
        printed = printed.replace(value, &format!("${name}"));
    }
    printed = printed.replace(directory.to_str().unwrap(), "$PWD");
    if !printed.is_empty() && !printed.ends_with('\n') {
        printed += "[no end of line]\n";
    }
    if let Some(status) = output.status.code().filter(|status| *status != 0) {
        writeln!(printed, "[{status}]").unwrap();
    }
    // Output that looks like a command, a comment or a separator of the transcript is indented.
    let lines = printed.lines().map(normalize).map(|line| {
        match line.starts_with("$ ") || line.starts_with('#') || line.is_empty() {
            true => format!(" {line}\n"),
            false => format!("{line}\n"),
        }
    });
    lines.collect()
}

/// Replaces the parts of a line that differ in each run: fingerprints of contents, and response times.
fn normalize(line: &str) -> String {
    let mut line = line.to_owned();
    if let Some((before, rest)) = line.split_once(", version ")
        && let Some((version, after)) = rest.split_at_checked(16)
        && version.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        line = format!("{before}, version <fingerprint>{after}");
    }
    let responded = "the server responded in ";
    if let Some((before, _)) = line.split_once(responded) {
        line = format!("{before}{responded}<n> ms");
    }
    line
}

macro_rules! transcripts {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            check_transcript(stringify!($name), &[]);
        })*
    };
}

transcripts!(
    run, names, sources, profiles, get, list, check, doctor, export, usage
);
