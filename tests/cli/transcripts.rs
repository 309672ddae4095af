//! Transcripts: what is typed, what is answered. `SECRETWELL_TRANSCRIPTS=write` has them written anew.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{binary, text};

/// Plays the transcript `name` in a folder of its own. Its commands have these variables, and what is
/// answered has `$NAME` where the value of one stands.
pub(super) fn play(name: &str, variables: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cli/transcripts")
        .join(format!("{name}.txt"));
    let written = fs::read_to_string(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let played = written
        .lines()
        .filter(|line| line.starts_with("$ ") || line.starts_with('#') || line.is_empty());
    let mut answered = String::new();
    for line in played {
        writeln!(answered, "{line}").unwrap();
        if let Some(command) = line.strip_prefix("$ ") {
            answered += &answer(command, folder.path(), variables);
        }
    }
    if env::var_os("SECRETWELL_TRANSCRIPTS").is_some_and(|what| what == "write") {
        fs::write(&path, &answered).unwrap();
    }
    assert!(answered == written, "{name} answers:\n{answered}");
}

fn answer(command: &str, folder: &Path, variables: &[(&str, &str)]) -> String {
    let binary = binary();
    let path = [
        binary.parent().unwrap(),
        Path::new("/usr/bin"),
        Path::new("/bin"),
    ];
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(folder)
        .env_clear()
        .env("PATH", env::join_paths(path).unwrap())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let mut answer = text(&output.stdout);
    for (name, value) in variables {
        answer = answer.replace(value, &format!("${name}"));
    }
    answer = answer.replace(folder.to_str().unwrap(), "$PWD");
    if !answer.is_empty() && !answer.ends_with('\n') {
        answer += "[no end of line]\n";
    }
    if let Some(status) = output.status.code().filter(|status| *status != 0) {
        writeln!(answer, "[{status}]").unwrap();
    }
    let lines = answer.lines().map(without_what_varies);
    // Lines that a transcript itself is made of are set apart.
    let lines = lines.map(|line| {
        match line.starts_with("$ ") || line.starts_with('#') || line.is_empty() {
            true => format!(" {line}\n"),
            false => format!("{line}\n"),
        }
    });
    lines.collect()
}

/// A version made from a content is another in each process, and an answer's time is as it is.
fn without_what_varies(line: &str) -> String {
    let mut line = line.to_owned();
    if let Some((before, version)) = line.split_once(", version ")
        && version.len() == 16
    {
        line = format!("{before}, version <of its content>");
    }
    if let Some((before, _)) = line.split_once("it answers, in ") {
        line = format!("{before}it answers, in <n> ms");
    }
    line
}

macro_rules! transcripts {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            play(stringify!($name), &[]);
        })*
    };
}

transcripts!(
    run, names, sources, profiles, get, list, check, doctor, export, usage
);
