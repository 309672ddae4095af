//! The output formats of `secretwell export` that are read line by line: by shells, by Docker and by GitHub Actions.

use std::env;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::exit::{Failure, Reason};
use crate::variables::is_shell_name;

/// The size of the buffer in which Docker reads a line.
const DOCKER_LINE: usize = 64 * 1024;

/// Formats commands that set and export the variables. A value in single quotes is literal in every POSIX shell.
pub(super) fn shell_commands(variables: &[(&str, &str)]) -> Result<String, Failure> {
    let mut document = String::new();
    for (name, value) in variables {
        if !is_shell_name(name) {
            let rule =
                "shells accept only names of letters, digits and `_`, without a digit at the start";
            return Err(invalid_name(
                name,
                rule,
                "add --shell-names, or set another name with --map",
            ));
        }
        let value = value.replace('\'', r"'\''");
        document.push_str(&format!("export {name}='{value}'\n"));
    }
    Ok(document)
}

/// Formats lines of `docker run --env-file`. Docker splits a line at the first `=`, and takes the rest literally.
pub(super) fn docker_lines(variables: &[(&str, &str)]) -> Result<String, Failure> {
    let mut document = String::new();
    let mut problems = Vec::new();
    for (name, value) in variables {
        if name.contains(char::is_whitespace) || name.starts_with(['#', '\u{feff}']) {
            let rule = "Docker accepts no white space in a name, and no `#` at its start";
            return Err(invalid_name(name, rule, VARIABLE_HINT));
        }
        let line = format!("{name}={value}\n");
        let problem = if value.contains('\n') {
            Some("contains a line end")
        } else if value.ends_with('\r') {
            Some("ends with a carriage return")
        } else if line.len() >= DOCKER_LINE {
            Some("is longer than a line that Docker reads")
        } else {
            None
        };
        if let Some(problem) = problem {
            problems.push(format!(
                "`{}` cannot be exported: the value {problem}; start the program in the container with `secretwell run`, \
                 or mount a file",
                name.escape_debug()
            ));
        }
        document.push_str(&line);
    }
    match problems.is_empty() {
        true => Ok(document),
        false => Err(Failure::with_problems(Reason::Configuration, problems)),
    }
}

/// The output for GitHub Actions.
#[derive(Debug)]
pub(super) struct GitHubOutput {
    /// Workflow commands for standard output. They mask the values in the log.
    pub(super) masks: String,
    /// The text for the file `$GITHUB_ENV`.
    variables: String,
}

impl GitHubOutput {
    /// Formats the variables. Each line of a value is masked, because the log is masked line by line.
    pub(super) fn new(variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let mut output = Self {
            masks: String::new(),
            variables: String::new(),
        };
        for (name, value) in variables {
            check_github_name(name)?;
            // The runner removes white space around a command.
            let lines = value.split(['\n', '\r']).map(str::trim);
            for line in lines.filter(|line| !line.is_empty()) {
                let line = line.replace('%', "%25");
                output.masks.push_str(&format!("::add-mask::{line}\n"));
            }
            let delimiter = random_delimiter(value);
            output
                .variables
                .push_str(&format!("{name}<<{delimiter}\n{value}\n{delimiter}\n"));
        }
        Ok(output)
    }
}

/// The file that the variable GITHUB_ENV names. The runner sets its variables for the next steps.
#[derive(Debug)]
pub(super) struct GitHubFile {
    path: PathBuf,
    file: File,
}

impl GitHubFile {
    pub(super) fn open() -> Result<Self, Failure> {
        let path = env::var_os("GITHUB_ENV").filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| {
            Failure::new(
                Reason::Configuration,
                "GITHUB_ENV is not set; run this command in a step of GitHub Actions, or use another --format",
            )
        })?;
        Self::open_at(path.into())
    }

    fn open_at(path: PathBuf) -> Result<Self, Failure> {
        match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(cannot_write(&path, &error)),
        }
    }

    pub(super) fn append(mut self, output: &GitHubOutput) -> Result<(), Failure> {
        self.write(&output.variables)
            .map_err(|error| cannot_write(&self.path, &error))
    }

    fn write(&mut self, variables: &str) -> io::Result<()> {
        let file = &mut self.file;
        let mut text = String::new();
        // A line without an end would swallow the first variable.
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                text.push('\n');
            }
        }
        text.push_str(variables);
        file.write_all(text.as_bytes())
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::new(
        Reason::Output,
        format!(
            "the file `{path}` of GITHUB_ENV cannot be written: {}",
            error.kind()
        ),
    )
}

fn check_github_name(name: &str) -> Result<(), Failure> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !name.chars().all(is_allowed) {
        let rule = "a name for GitHub Actions consists of letters, digits, `_`, `-` and `.`";
        return Err(invalid_name(name, rule, VARIABLE_HINT));
    }
    let upper = name.to_ascii_uppercase();
    if upper == "NODE_OPTIONS" || upper.starts_with("GITHUB_") || upper.starts_with("RUNNER_") {
        let rule = "GitHub Actions does not let a step set this variable";
        return Err(invalid_name(name, rule, VARIABLE_HINT));
    }
    Ok(())
}

/// Returns a line that is not part of `value`. Nobody can guess it, so a value cannot end the heredoc.
fn random_delimiter(value: &str) -> String {
    loop {
        let random = [(); 2].map(|()| RandomState::new().hash_one(value.len()));
        let delimiter = format!("secretwell_{:016x}{:016x}", random[0], random[1]);
        if !value.contains(&delimiter) {
            return delimiter;
        }
    }
}

pub(super) const VARIABLE_HINT: &str = "set another name with --map";

pub(super) fn invalid_name(name: &str, rule: &str, hint: &str) -> Failure {
    let name = name.escape_debug();
    Failure::new(
        Reason::Configuration,
        format!("`{name}` cannot be exported: {rule}; {hint}"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::*;

    const VALUES: [&str; 22] = [
        "plain",
        "",
        "two words # no comment",
        "$HOME `id` $(id) ${HOME} \\n",
        "it's \"quoted\" $HOME `id` \\",
        "-----BEGIN\nit's\r\n-----END\n",
        "ß €",
        "{\"json\": [1, null]}",
        "a=b==",
        "==",
        "'",
        "''",
        " both ends ",
        "\t#a",
        "!history !! *",
        "~",
        "%s %% \\0 \\c",
        "\\",
        "\n",
        "x\nV1='y'\nEOF\nV2<<EOF\n",
        "\r",
        "::add-mask::x",
    ];

    fn variables() -> Vec<(String, &'static str)> {
        let values = VALUES.into_iter().enumerate();
        values
            .map(|(index, value)| (format!("V{index}"), value))
            .collect()
    }

    fn borrowed<'a>(variables: &'a [(String, &'static str)]) -> Vec<(&'a str, &'static str)> {
        variables
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect()
    }

    /// Shells that are not installed are skipped.
    #[test]
    fn shells_set_and_export_the_exact_values() {
        let variables = variables();
        let document = shell_commands(&borrowed(&variables)).unwrap();
        let mut tested = Vec::new();
        for shell in [
            &["sh"][..],
            &["bash"],
            &["dash"],
            &["zsh", "-f"],
            &["busybox", "ash"],
        ] {
            let mut command = Command::new(shell[0]);
            command
                .args(&shell[1..])
                .args(["-c", "eval \"$1\"; exec env -0", "shell", &document]);
            let Ok(output) = command.output() else {
                println!("{} is not installed, so it is not tested", shell[0]);
                continue;
            };
            let output = String::from_utf8(output.stdout).unwrap();
            let read: BTreeMap<&str, &str> = output
                .split('\0')
                .filter_map(|variable| variable.split_once('='))
                .collect();
            for (name, value) in &variables {
                assert_eq!(read.get(name.as_str()), Some(value), "{shell:?}");
            }
            tested.push(shell[0]);
        }
        assert!(tested.contains(&"sh"), "{tested:?}");
        shell_commands(&[("a-b", "x")]).unwrap_err();
        shell_commands(&[("1A", "x")]).unwrap_err();
    }

    /// Reads a document as `pkg/kvfile` of the Docker command does, with the lines of Go's `bufio.Scanner`.
    fn read_as_docker(document: &str) -> BTreeMap<String, String> {
        let mut read = BTreeMap::new();
        for line in document.split_terminator('\n') {
            assert!(line.len() + 1 < 64 * 1024, "bufio.Scanner: token too long");
            let line = line.strip_suffix('\r').unwrap_or(line);
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').unwrap();
            assert!(!name.is_empty() && !name.contains(char::is_whitespace));
            read.insert(name.to_owned(), value.to_owned());
        }
        read
    }

    #[test]
    fn docker_reads_the_exact_values_and_others_are_refused() {
        let variables = variables();
        let (expressible, others): (Vec<_>, Vec<_>) = borrowed(&variables)
            .into_iter()
            .partition(|(_, value)| !value.contains('\n') && !value.ends_with('\r'));
        assert_eq!(others.len(), 4);
        let read = read_as_docker(&docker_lines(&expressible).unwrap());
        assert_eq!(read.len(), expressible.len());
        for (name, value) in expressible {
            assert_eq!(read[name], value);
        }
        for (name, value) in others {
            let problem = docker_lines(&[(name, value)])
                .unwrap_err()
                .problems()
                .concat();
            assert!(
                problem.starts_with(&format!("`{name}` cannot be exported")),
                "{problem}"
            );
        }
        for name in ["#A", "a b", "a\u{a0}b", "\u{feff}A"] {
            docker_lines(&[(name, "x")]).unwrap_err();
        }
        let longest = "x".repeat(64 * 1024 - 4);
        assert_eq!(
            read_as_docker(&docker_lines(&[("A", &longest)]).unwrap())["A"],
            longest
        );
        docker_lines(&[("A", &format!("{longest}x"))]).unwrap_err();
    }

    /// Reads a file as the runner does (`FileCommandManager`): a line with `<<` before any `=` starts a value, which
    /// ends before the line that is equal to the delimiter.
    fn read_as_runner(mut text: &str) -> BTreeMap<String, String> {
        let mut read = BTreeMap::new();
        while let Some((line, rest)) = text.split_once('\n') {
            text = rest;
            if line.is_empty() {
                continue;
            }
            let heredoc = line
                .find("<<")
                .filter(|start| line.find('=').is_none_or(|it| it > *start));
            let Some(start) = heredoc else {
                let (name, value) = line.split_once('=').unwrap();
                read.insert(name.to_owned(), value.to_owned());
                continue;
            };
            let (name, delimiter) = (&line[..start], &line[start + 2..]);
            let mut value = Vec::new();
            loop {
                let (line, rest) = text.split_once('\n').expect("the delimiter is missing");
                text = rest;
                if line == delimiter {
                    break;
                }
                value.push(line);
            }
            read.insert(name.to_owned(), value.join("\n"));
        }
        read
    }

    #[test]
    fn runner_of_github_reads_the_exact_values_and_masks_each_line() {
        let variables = variables();
        let output = GitHubOutput::new(&borrowed(&variables)).unwrap();
        let path = env::temp_dir().join(format!("secretwell-github-{}", std::process::id()));
        std::fs::write(&path, "BEFORE=1").unwrap();
        for _ in 0..2 {
            GitHubFile::open_at(path.clone())
                .unwrap()
                .append(&output)
                .unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let read = read_as_runner(&text);
        assert_eq!(read.len(), 1 + VALUES.len());
        assert_eq!(read["BEFORE"], "1");
        for (name, value) in &variables {
            assert_eq!(read[name], *value);
        }

        let masks: Vec<String> = output
            .masks
            .lines()
            .map(|line| {
                line.strip_prefix("::add-mask::")
                    .unwrap()
                    .replace("%25", "%")
            })
            .collect();
        for line in VALUES.iter().flat_map(|value| value.lines()) {
            let line = line.trim();
            assert!(
                line.is_empty() || masks.iter().any(|mask| mask == line),
                "{line:?}"
            );
        }
        assert!(masks.iter().all(|mask| !mask.is_empty()));
    }

    #[test]
    fn names_that_github_does_not_set_are_refused() {
        for name in [
            "NODE_OPTIONS",
            "GITHUB_TOKEN",
            "runner_temp",
            "a<<b",
            "a b",
            "a\nb",
        ] {
            GitHubOutput::new(&[(name, "x")]).unwrap_err();
        }
        GitHubOutput::new(&[("my-key.x", "x")]).unwrap();
    }
}
