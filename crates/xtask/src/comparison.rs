//! `cargo xtask full comparison`: the runs that `docs/comparison.md` describes.
//!
//! Each task is run with each tool. The tables of the observed behaviour are printed, and compared with those of the
//! document. Times are printed and not compared.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::install::{install_for_comparison, tools_dir};
use crate::shell::{cargo, root, run, text};

mod tasks;

use tasks::{Case, TASKS, Task};

/// The directory and the address in the document. The runs use others.
const DIRECTORY: &str = "/srv/app";
const ADDRESS: &str = "127.0.0.1:8200";

/// The value that each right run passes to the program.
const RIGHT: &str = "postgres://app:one@db/app";
/// A text that occurs only in the values.
const SECRET_PART: &str = "@db/app";
/// The value after a rotation.
const ROTATED: &str = "postgres://app:two@db/app";

/// Commands are measured this many times, or less often if they are slow.
const ROUNDS: usize = 20;
const SLOW_ROUNDS: usize = 3;
const SLOW: Duration = Duration::from_secs(1);

/// The time after which a run that does not exit is stopped, without and with a change of the secret.
const LIMIT: Duration = Duration::from_secs(10);
const LIMIT_AFTER_CHANGE: Duration = Duration::from_secs(15);
/// A secret that is late is written after this time.
const LATE: Duration = Duration::from_secs(5);

/// Installs the tools, runs all tasks, prints their tables, and compares these with the document.
///
/// # Errors
/// Returns the rows that differ.
pub(crate) fn check() -> Result<(), String> {
    cargo(&["build", "--release", "--package", "secretwell-cli"])?;
    for reason in install_for_comparison()? {
        println!("not compared: {reason}");
    }
    let lab = Lab::start()?;
    let path = root().join("docs/comparison.md");
    let document = fs::read_to_string(&path).map_err(|error| explain(&path, &error))?;
    let mut differences = Vec::new();
    for task in TASKS {
        println!("\n## {}\n\n{HEADER}", task.heading);
        let rows = lab.rows(task)?;
        for row in &rows {
            println!("{}", row.with_time());
        }
        differences.extend(compare(task, &rows, &document));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "docs/comparison.md differs from the runs:\n{}",
        differences.join("\n")
    ))
}

const HEADER: &str = "| tool | commands | configuration | time, ms | exit status | what happens |\n\
                      | --- | --- | --- | --- | --- | --- |";

/// One row of a table.
struct Row {
    /// The tool, its commands and its configuration.
    first_cells: String,
    time: Option<Duration>,
    status: String,
    effect: String,
}

impl Row {
    fn with_time(&self) -> String {
        let time = self.time.map(in_milliseconds).unwrap_or_default();
        self.cells(&time)
    }

    fn cells(&self, time: &str) -> String {
        format!(
            "{} {time} | {} | {} |",
            self.first_cells, self.status, self.effect
        )
    }
}

/// Formats a time with two or three digits, because the machine is not quiet.
fn in_milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.1}"),
        ..100.0 => format!("{milliseconds:.0}"),
        _ => {
            let rounded = format!("{:.0}", milliseconds / 10.0) + "0";
            match rounded.split_at_checked(rounded.len().saturating_sub(3)) {
                Some((thousands, rest)) if !thousands.is_empty() => format!("{thousands},{rest}"),
                _ => rounded,
            }
        }
    }
}

/// Returns how the rows differ from those below the heading of the document. Rows of tools that are not installed are
/// not compared.
fn compare(task: &Task, rows: &[Row], document: &str) -> Vec<String> {
    let section = document
        .split("\n## ")
        .find(|section| section.lines().next() == Some(task.heading))
        .unwrap_or_default();
    let is_skipped = |line: &str| {
        let case = task
            .cases
            .iter()
            .find(|case| line.starts_with(&case.first_cells()));
        case.is_some_and(|case| !rows.iter().any(|row| row.first_cells == case.first_cells()))
    };
    let documented: BTreeSet<String> = section
        .lines()
        .filter(|line| line.starts_with("| `") || line.starts_with("| shell"))
        .filter(|line| !is_skipped(line))
        .map(without_time)
        .collect();
    let observed: BTreeSet<String> = rows.iter().map(|row| row.cells("")).collect();
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>, place: &str| -> Vec<String> {
        let rows = these.difference(those);
        rows.map(|row| format!("{}: only in {place}: {row}", task.heading))
            .collect()
    };
    let mut differences = only(&documented, &observed, "the document");
    differences.extend(only(&observed, &documented, "the runs"));
    differences
}

fn without_time(row: &str) -> String {
    let mut cells: Vec<&str> = row.split('|').collect();
    if let Some(time) = cells.get_mut(4) {
        *time = "  ";
    }
    cells.join("|")
}

/// A directory for the runs, and an OpenBao server that stores the secrets.
struct Lab {
    directory: PathBuf,
    address: String,
    server: Child,
}

/// What was observed in one run.
struct Observation {
    /// The exit status of the measured command, or why it has none.
    status: String,
    /// The value that the program had at the end. `None` if it was not started.
    value: Option<String>,
    /// What happened to the file of a program that wants a file.
    file: Option<String>,
    stdout: String,
    messages: String,
    /// The time until the command exited, or the time after the change of the secret until the program had it.
    time: Option<Duration>,
}

impl Lab {
    fn start() -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("comparison-{}", std::process::id()));
        fs::create_dir_all(&directory).map_err(|error| explain(&directory, &error))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        drop(listener);
        let server = Command::new(tools_dir().join("bao"))
            .args(["server", "-dev", "-dev-root-token-id=root"])
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", &directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("OpenBao cannot be started: {error}"))?;
        let lab = Self {
            directory,
            address: address.to_string(),
            server,
        };
        lab.must("until bao status >/dev/null 2>&1; do sleep 0.1; done")?;
        Ok(lab)
    }

    /// Runs all cases of a task in turns, and returns one row for each tool that is installed.
    fn rows(&self, task: &Task) -> Result<Vec<Row>, String> {
        let installed = |case: &&Case| {
            case.programs().all(|program| {
                self.must(&format!("command -v {program} >/dev/null"))
                    .is_ok()
            })
        };
        let cases: Vec<&Case> = task.cases.iter().filter(installed).collect();
        let mut observations: Vec<Vec<Observation>> = cases.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            for (case, observed) in cases.iter().zip(&mut observations) {
                let enough = match observed.first().map(|first| first.time) {
                    Some(None) => 1,
                    Some(Some(time)) if time > SLOW || task.change.is_some() => SLOW_ROUNDS,
                    _ => ROUNDS,
                };
                if round < enough {
                    observed.push(self.observe(task, case)?);
                }
            }
        }
        let rows = cases.iter().zip(&observations);
        Ok(rows
            .map(|(case, observed)| row(task, case, observed))
            .collect())
    }

    fn observe(&self, task: &Task, case: &Case) -> Result<Observation, String> {
        let app = self.directory.join("app");
        let _ = fs::remove_dir_all(&app);
        fs::create_dir_all(&app).map_err(|error| explain(&app, &error))?;
        for file in case.files {
            let from = root().join("docs/comparison").join(file);
            let content = fs::read_to_string(&from).map_err(|error| explain(&from, &error))?;
            let to = app.join(file);
            fs::write(&to, self.real(&content)).map_err(|error| explain(&to, &error))?;
        }
        self.must(tasks::PROGRAMS)?;
        self.must(task.setup)?;
        let (measured, before) = case.commands.split_last().ok_or("no command")?;
        for command in before {
            self.must(command)?;
        }
        let limit = if task.change.is_some() {
            LATE + LIMIT_AFTER_CHANGE
        } else {
            LIMIT
        };
        let started = now();
        let mut child = self
            .shell(measured, limit)
            .stdout(create(&app.join("stdout"))?)
            .stderr(create(&app.join("stderr"))?)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut time = None;
        if let Some(change) = task.change {
            time = self.change(change, &mut child, started)?;
        }
        let was_ended = task.change.is_some() && end(&mut child)?;
        let status = child.wait().map_err(|error| error.to_string())?;
        if task.change.is_none() {
            time = Some(started.elapsed());
        }
        let read = |name: &str| fs::read_to_string(app.join(name));
        let stdout = read("stdout").unwrap_or_default();
        Ok(Observation {
            status: match status.code() {
                _ if was_ended => "runs on".into(),
                // The statuses of `timeout`, if the command did not exit in time.
                None | Some(124 | 137) => "runs on".into(),
                Some(code) => code.to_string(),
            },
            value: read("seen").ok(),
            file: read("place").ok().map(|place| fate_of_file(&app, &place)),
            messages: read("stderr").unwrap_or_default() + &stdout,
            stdout,
            time: time.filter(|time| *time < LIMIT),
        })
    }

    /// Changes the secret when the program runs, or when it is late, and returns the time until the program has it.
    fn change(
        &self,
        change: &str,
        child: &mut Child,
        started: Instant,
    ) -> Result<Option<Duration>, String> {
        let seen = self.directory.join("app/seen");
        let mut exited = || child.try_wait().is_ok_and(|status| status.is_some());
        while !seen.exists() && started.elapsed() < LATE {
            if exited() {
                return Ok(None);
            }
            pause(Duration::from_millis(5));
        }
        if seen.exists() {
            pause(Duration::from_secs(1));
        }
        let before = fs::read(&seen).ok();
        self.must(change)?;
        let changed = now();
        while changed.elapsed() < LIMIT_AFTER_CHANGE {
            if fs::read(&seen).ok() != before {
                return Ok(Some(changed.elapsed()));
            }
            pause(Duration::from_millis(5));
        }
        Ok(None)
    }

    /// Runs a command that must succeed.
    fn must(&self, command: &str) -> Result<(), String> {
        let output = self
            .shell(command, LIMIT)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command} failed: {}\n{stderr}", output.status))
    }

    /// Returns a shell with the peers in its search path, and a home of its own.
    fn shell(&self, command: &str, limit: Duration) -> Command {
        let app = self.directory.join("app");
        let peers = tools_dir().join("peers/bin");
        let mut shell = Command::new("timeout");
        shell
            .arg("--kill-after=2")
            .arg(limit.as_secs().to_string())
            .args(["sh", "-c", &self.real(command)])
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", text(&peers)),
            )
            .env("HOME", &self.directory)
            .env("SOPS_AGE_KEY_FILE", app.join("age.key"))
            .envs(["VAULT_ADDR", "BAO_ADDR"].map(|name| (name, format!("http://{}", self.address))))
            .env("VAULT_TOKEN", "root")
            .stdin(Stdio::null())
            .current_dir(if app.exists() { &app } else { &self.directory });
        shell
    }

    /// Replaces the directory and the address of the document.
    fn real(&self, text_of_document: &str) -> String {
        text_of_document
            .replace(DIRECTORY, &text(&self.directory.join("app")))
            .replace(ADDRESS, &self.address)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Ends a command that has not exited a moment later, and returns whether that was necessary.
fn end(child: &mut Child) -> Result<bool, String> {
    for _ in 0..100 {
        if child
            .try_wait()
            .map_err(|error| error.to_string())?
            .is_some()
        {
            return Ok(false);
        }
        pause(Duration::from_millis(10));
    }
    // `timeout` passes the signal on.
    run("kill", &["-TERM", &child.id().to_string()]).map(|_| true)
}

/// Describes the rounds of one case. Rounds that differ are all named.
fn row(task: &Task, case: &Case, observed: &[Observation]) -> Row {
    let mut times: Vec<Duration> = observed.iter().filter_map(|run| run.time).collect();
    times.sort_unstable();
    let all = |describe: &dyn Fn(&Observation) -> String| {
        let texts: BTreeSet<String> = observed.iter().map(describe).collect();
        texts.into_iter().collect::<Vec<_>>().join(" or ")
    };
    Row {
        first_cells: case.first_cells(),
        time: times.get(times.len() / 2).copied(),
        status: all(&|run| run.status.clone()),
        effect: all(&|run| describe_effect(task, run)),
    }
}

fn describe_effect(task: &Task, run: &Observation) -> String {
    let right = task.right;
    let mut effects = Vec::new();
    match run.value.as_deref() {
        _ if task.checks => {}
        None => effects.push("does not start the program".to_owned()),
        Some("unset") => effects.push("starts the program **without the secret**".to_owned()),
        Some("") => effects.push("starts the program with an **empty value**".to_owned()),
        Some(value) if value == right && right == ROTATED => {
            effects.push("starts the program again with the new secret".to_owned());
        }
        Some(RIGHT) if right == ROTATED => effects.push("**keeps the old secret**".to_owned()),
        Some(value) if value == right => effects.push("starts the program with the secret".into()),
        // An encrypted value differs in each run.
        Some(value) if value.starts_with("encrypted:") => {
            effects.push("starts the program with the **ciphertext**".to_owned());
        }
        Some(value) => effects.push(format!("starts the program with `{value}`")),
    }
    effects.extend(run.file.clone());
    if task.checks {
        let is_json = serde_json::from_str::<serde_json::Value>(&run.stdout).is_ok();
        effects.push(
            if is_json {
                "prints JSON"
            } else {
                "prints text"
            }
            .to_owned(),
        );
    }
    if !task.messages.is_empty() {
        let named = task
            .messages
            .iter()
            .find(|(text, _)| run.messages.contains(text));
        effects.push(
            named
                .map_or("no message", |(_, description)| description)
                .to_owned(),
        );
    }
    if run.messages.contains(SECRET_PART) {
        effects.push("**prints the value**".to_owned());
    }
    effects.join("; ")
}

/// Describes the file that the program has read, whose permissions and path it has recorded.
fn fate_of_file(app: &Path, place: &str) -> String {
    let (mode, path) = place.split_once(' ').unwrap_or_default();
    let remains = if app.join(path).exists() {
        "remains"
    } else {
        "is removed"
    };
    format!("the file has mode {mode} and {remains}")
}

impl Case {
    /// Returns the tools that the commands need, as far as they might not be installed.
    fn programs(&self) -> impl Iterator<Item = &'static str> {
        let uses = |program: &&str| {
            let start = format!("{program} ");
            self.commands.iter().any(|command| command.contains(&start))
        };
        [
            "dotenvx",
            "dotenv",
            "direnv",
            "secretspec",
            "sops",
            "age-keygen",
        ]
        .into_iter()
        .filter(uses)
    }

    /// Returns the cells with the tool, its commands and its configuration.
    fn first_cells(&self) -> String {
        let commands: Vec<String> = self
            .commands
            .iter()
            .map(|command| format!("`{command}`"))
            .collect();
        let files = self.files.iter().map(|file| {
            let path = root().join("docs/comparison").join(file);
            let lines = fs::read_to_string(path).unwrap_or_default().lines().count();
            format!("`{file}`, {lines} lines")
        });
        format!(
            "| {} | {}: {} | {} |",
            self.tool,
            commands.len(),
            commands.join(", "),
            files.collect::<Vec<_>>().join(", ")
        )
    }
}

fn create(path: &Path) -> Result<fs::File, String> {
    fs::File::create(path).map_err(|error| explain(path, &error))
}

fn explain(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", text(path))
}

#[expect(clippy::disallowed_methods, reason = "other programs run in real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "other programs run in real time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        fs::read_to_string(root().join("docs/comparison.md")).unwrap()
    }

    /// The runs take minutes, so this finds a changed command earlier.
    #[test]
    fn each_command_is_in_the_document() {
        let document = document();
        for case in TASKS.iter().flat_map(|task| task.cases) {
            let cells = case.first_cells();
            assert!(document.contains(&cells), "{cells}");
        }
    }

    #[test]
    fn changed_effect_is_reported_and_changed_time_is_not() {
        let task = TASKS.last().unwrap();
        let row = |case: &Case, effect: &str| Row {
            first_cells: case.first_cells(),
            time: Some(Duration::from_millis(17)),
            status: "1".into(),
            effect: effect.into(),
        };
        let [first, others @ ..] = task.cases else {
            panic!()
        };
        let lines = [
            row(first, "stops"),
            row(&others[0], "is not installed here"),
        ];
        let document = format!(
            "# x\n\n## {}\n\n{}\n{}\n",
            task.heading,
            lines[0].cells("123"),
            lines[1].cells("123")
        );
        assert!(compare(task, &[row(first, "stops")], &document).is_empty());
        assert_eq!(compare(task, &[row(first, "starts")], &document).len(), 2);
    }

    #[test]
    fn time_is_rounded() {
        let format = |microseconds| in_milliseconds(Duration::from_micros(microseconds));
        assert_eq!(format(3_456), "3.5");
        assert_eq!(format(45_600), "46");
        assert_eq!(format(456_000), "460");
        assert_eq!(format(2_346_000), "2,350");
    }
}
