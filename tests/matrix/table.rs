//! What is expected, written down by hand: the test compares with it, and makes nothing of it by itself.

use secretwell::auth::Mode;

use Backend::{File, Infisical, Memory, Vault};

/// A situation, and the modes and backends that it is played with; then a line for each step:
///
/// - what is done to the secret or its source;
/// - whose cookie is answered with which status: that of a session made with the secret of this name, one
///   that the service itself has made when it was first asked (`own`), or none (`nobody`);
/// - the state then;
/// - all that the log has said since the step before, from the level INFO on; `?` is for what need not be.
const TABLE: &str = "
there | production, development | memory, file, vault, infisical
  write good           | good 200, nobody 401 | ready 1             | starting, ready 1

# Memory and files tell of a change. Otherwise the retry that finds it says so.
late | production | memory, file
                       | good 500, nobody 500 | failed: {absent}    | starting, absent, failed: absent
  write good           | good 200             | ready 1             | back?, ready 1

late | production | vault, infisical
                       | good 500, nobody 500 | failed: {absent}    | starting, absent, failed: absent
  write good           | good 200             | ready 1             | back, ready 1

# Whoever logs in before the secret is there stays logged in.
late | development | memory, file
                       | good 401, own 200    | ready 1             | starting, absent, made up, random 1
  write good           | good 200, own 200    | ready 2             | back?, rotating, ready 2

late | development | vault, infisical
                       | good 401, own 200    | ready 1             | starting, absent, made up, random 1
  write good           | good 200, own 200    | ready 2             | back, rotating, ready 2

# Whoever asks for a rebuild is told again what is wrong.
absent | production | memory, file, vault, infisical
                       | good 500             | failed: {absent}    | starting, absent, failed: absent
  rebuild              | good 500             | failed: {absent}    | absent

absent | development | memory, file, vault, infisical
                       | good 401, own 200    | ready 1             | starting, absent, made up, random 1
  rebuild              | good 401, own 200    | ready 2             | absent, rotating, random 2

# It counts as absent, but it can be read.
empty | production | memory, file, vault, infisical
  write empty          | good 500             | failed: {empty}     | starting, failed: empty
  write blank, rebuild | good 500             | failed: {empty}     |

empty | development | memory, file, vault, infisical
  write empty          | good 401, own 200    | ready 1             | starting, made up, random 1
  write blank, rebuild | good 401, own 200    | ready 2             | rotating, random 2

weak | production | memory, file, vault, infisical
  write weak           | weak 500, good 500   | failed: {weak}      | starting, failed: weak

weak | development | memory, file, vault, infisical
  write weak           | weak 200, good 401   | ready 1             | starting, weak, ready 1

rotated | production, development | memory, file, vault, infisical
  write good           | good 200, next 401   | ready 1             | starting, ready 1
  write next           | good 200, next 200   | ready 2             | rotating, ready 2

rotated to bad | production | memory, file, vault, infisical
  write good           | good 200, weak 401   | ready 1             | starting, ready 1
  write weak           | good 200, weak 401   | degraded 1: {weak}  | degraded: weak
  write empty          | good 200             | degraded 1: {empty} | degraded: empty

# A weak one is good enough, and an empty one is made up for; what was there before has its grace.
rotated to bad | development | memory, file, vault, infisical
  write good           | good 200, weak 401   | ready 1             | starting, ready 1
  write weak           | good 200, weak 200   | ready 2             | rotating, weak, ready 2
  write empty          | good 200, weak 200   | ready 3             | made up, rotating, random 3

# Nothing is made up for what cannot be asked for.
down at start | production, development | memory, vault, infisical
  write good, break    | good 503, nobody 503 | failed: {down}      | starting, down, failed: down
  mend                 | good 200             | ready 1             | back, ready 1

# A directory that is not there is absent and not down: it may be mounted late, or beside other sources.
down at start | production | file
  write good, break    | good 500, nobody 500 | failed: {away}      | starting, away, failed: away
  mend                 | good 200             | ready 1             | back?, ready 1

down at start | development | file
  write good, break    | good 401, own 200    | ready 1             | starting, away, made up, random 1
  mend                 | good 200, own 200    | ready 2             | back?, rotating, ready 2

down later | production, development | memory, vault, infisical
  write good           | good 200, nobody 401 | ready 1             | starting, ready 1
  break                | good 200, nobody 401 | degraded 1: {down}  | down, degraded: down
  mend                 | good 200, nobody 401 | ready 1             | back, ready 1

down later | production | file
  write good           | good 200, nobody 401 | ready 1             | starting, ready 1
  break                | good 200, nobody 401 | degraded 1: {away}  | away, purged, degraded: away
  mend                 | good 200, nobody 401 | ready 1             | back?, ready 1

down later | development | file
  write good           | good 200, nobody 401 | ready 1             | starting, ready 1
  break                | good 200, nobody 401 | ready 2             | away, purged, made up, rotating, random 2
  mend                 | good 200, nobody 401 | ready 3             | back?, rotating, ready 3
";

/// The lines of the log by their names in the table, with ` … ` for what may be in between.
fn line(name: &str) -> &'static str {
    match name.trim_end_matches(|c: char| c == ' ' || c.is_ascii_digit()) {
        "starting" => "INFO auth is starting",
        "rotating" => "INFO auth is rotating",
        "ready" => "INFO auth is ready … generation={n} … fresh from {origin}",
        "random" => "INFO auth is ready … generation={n} … fresh from random://",
        "failed: absent" => "ERROR auth is failed … {absent}",
        "failed: empty" => "ERROR auth is failed … {empty}",
        "failed: weak" => "ERROR auth is failed … {weak}",
        "failed: away" => "ERROR auth is failed … {away}",
        "failed: down" => "WARN auth is failed … {down}",
        "degraded: weak" => "WARN auth is degraded … generation=1 … {weak}",
        "degraded: empty" => "WARN auth is degraded … generation=1 … {empty}",
        "degraded: away" => "WARN auth is degraded … generation=1 … {away}",
        "degraded: down" => "WARN auth is degraded … generation=1 … {down}",
        "absent" => "WARN the secret cannot be read … {absent} … temporary=false",
        "away" => "WARN the secret cannot be read … {away} … temporary=false",
        "down" => "WARN the secret cannot be read … {down} … temporary=true",
        "back" => "INFO the secret can be read again",
        "purged" => "WARN the cached value was purged because the source refused it … {away}",
        "made up" => "WARN development mode: the secret is absent; a random one is used",
        "weak" => "WARN development mode: a weak secret is accepted … {weak}",
        _ => panic!("the log has no line `{name}`"),
    }
}

/// What is said of the same thing by each backend.
fn said(backend: Backend, what: &str) -> &'static str {
    match (what, backend) {
        ("source", Memory) => "memory://",
        ("source", File) => "file://",
        ("source", Vault) => "vault://",
        ("source", Infisical) => "infisical://",
        ("absent", Memory) => "not found: it was never set",
        ("absent", File) => "not found: … there is no such file",
        ("absent", Vault | Infisical) => "not found: there is no such secret",
        ("down", Memory) => "unavailable: the source is down",
        ("down", Vault | Infisical) => "unavailable: … broke off",
        ("away", File) => "not found: the directory … does not exist",
        ("empty", _) => "not found: the value is empty",
        ("weak", _) => "invalid: too weak: 16 bytes, at least 32 are needed",
        _ => panic!("{backend:?} says nothing of `{what}`"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Backend {
    Memory,
    File,
    Vault,
    Infisical,
}

impl Backend {
    pub(super) const ALL: [Self; 4] = [Memory, File, Vault, Infisical];

    pub(super) fn name(self) -> &'static str {
        match self {
            Memory => "memory",
            File => "file",
            Vault => "vault",
            Infisical => "infisical",
        }
    }
}

pub(super) const MODES: [Mode; 2] = [Mode::Production, Mode::Development];

/// What stands between two empty lines of the table.
pub(super) struct Situation {
    pub(super) name: &'static str,
    pub(super) modes: Vec<Mode>,
    pub(super) backends: Vec<Backend>,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) acts: &'static str,
    pub(super) answers: &'static str,
    pub(super) state: &'static str,
    pub(super) log: &'static str,
}

pub(super) fn situations() -> Vec<Situation> {
    TABLE.split("\n\n").map(Situation::new).collect()
}

impl Situation {
    fn new(block: &'static str) -> Self {
        let mut lines = block.trim().lines().filter(|line| !line.starts_with('#'));
        let [name, modes, backends] = cells(lines.next().unwrap());
        let step = |line| {
            let [acts, answers, state, log] = cells(line);
            Step {
                acts,
                answers,
                state,
                log,
            }
        };
        Self {
            name,
            modes: MODES
                .into_iter()
                .filter(|mode| list(modes).any(|name| name == mode.to_string()))
                .collect(),
            backends: Backend::ALL
                .into_iter()
                .filter(|backend| list(backends).any(|name| name == backend.name()))
                .collect(),
            steps: lines.map(step).collect(),
        }
    }
}

fn cells<const N: usize>(line: &'static str) -> [&'static str; N] {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    cells
        .try_into()
        .unwrap_or_else(|_| panic!("not {N} cells: {line}"))
}

/// What stands in a cell, one after the other.
pub(super) fn list(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split(", ").filter(|item| !item.is_empty())
}

impl Step {
    /// Whether this is the state that is expected.
    pub(super) fn has_state(&self, backend: Backend, state: &str) -> bool {
        fits(state, &filled(self.state, backend))
    }

    /// Whether this is what the log is expected to say.
    pub(super) fn has_log(&self, backend: Backend, lines: &[String]) -> bool {
        let mut lines = lines.iter().peekable();
        let all = list(self.log).all(|name| {
            let optional = name.ends_with('?');
            let name = name.trim_end_matches('?');
            let number = name.rsplit(' ').next().unwrap_or_default();
            let expected = filled(line(name), backend).replace("{n}", number);
            lines.next_if(|line| fits(line, &expected)).is_some() || optional
        });
        all && lines.next().is_none()
    }
}

/// The text with what this backend says in place of what is in braces.
fn filled(text: &str, backend: Backend) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, (what, after))) = rest
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        filled += before;
        match what {
            "n" => filled += "{n}",
            _ => filled += said(backend, what),
        }
        rest = after;
    }
    filled + rest
}

/// Whether `text` begins with the first of these parts, and has the others in it.
fn fits(text: &str, parts: &str) -> bool {
    let mut parts = parts.split(" … ");
    text.starts_with(parts.next().unwrap_or_default()) && parts.all(|part| text.contains(part))
}
