//! The expected responses, states and log events of each scenario, written by hand.

use secretwell::auth::Mode;

use Backend::{File, Infisical, Memory, Vault};

/// One block for each scenario. Its first line has the name, the modes and the backends. Each
/// further line is a step with four columns:
///
/// - the actions on the secret or its source;
/// - the status of a request for each session cookie: signed with the secret of this name, issued
///   by the service itself at the first such request (`own`), or absent (`none`);
/// - the state after the actions;
/// - all log events since the previous step with level INFO or higher; `?` marks an optional event.
const TABLE: &str = "
present | production, development | memory, file, vault, infisical
  write good           | good 200, none 401   | ready 1             | starting, ready 1

# The memory and file providers notify of changes. For other backends, a retry finds the secret, and
# the resolver logs the recovery.
late | production | memory, file
                       | good 500, none 500   | failed: {absent}    | starting, absent, failed: absent
  write good           | good 200             | ready 1             | recovered?, ready 1

late | production | vault, infisical
                       | good 500, none 500   | failed: {absent}    | starting, absent, failed: absent
  write good           | good 200             | ready 1             | recovered, ready 1

# Sessions that were signed with the placeholder stay valid.
late | development | memory, file
                       | good 401, own 200    | ready 1             | starting, absent, placeholder, random 1, unknown session
  write good           | good 200, own 200    | ready 2             | recovered?, rotating, ready 2

late | development | vault, infisical
                       | good 401, own 200    | ready 1             | starting, absent, placeholder, random 1, unknown session
  write good           | good 200, own 200    | ready 2             | recovered, rotating, ready 2

# An absence is logged once, also if a rebuild reads the source again.
absent | production | memory, file, vault, infisical
                       | good 500             | failed: {absent}    | starting, absent, failed: absent
  rebuild              | good 500             | failed: {absent}    |

absent | development | memory, file, vault, infisical
                       | good 401, own 200    | ready 1             | starting, absent, placeholder, random 1, unknown session
  rebuild              | good 401, own 200    | ready 2             | rotating, random 2, unknown session

# An empty secret is not absent, so no placeholder replaces it. One of white space is a value, but
# a server of Infisical stores it as an empty one.
empty | production, development | memory, file, vault, infisical
  write empty          | good 500             | failed: {empty}     | starting, failed: empty

blank | production | memory, file, vault
  write blank          | good 500             | failed: {blank}     | starting, failed: blank

blank | development | memory, file, vault
  write blank          | good 401             | ready 1             | starting, accepted: blank, ready 1, unknown session

weak | production | memory, file, vault, infisical
  write weak           | weak 500, good 500   | failed: {weak}      | starting, failed: weak

weak | development | memory, file, vault, infisical
  write weak           | weak 200, good 401   | ready 1             | starting, weak, ready 1, unknown session

rotated | production, development | memory, file, vault, infisical
  write good           | good 200, next 401   | ready 1             | starting, ready 1, unknown session
  write next           | good 200, next 200   | ready 2             | rotating, ready 2

rotated to invalid | production | memory, file, vault, infisical
  write good           | good 200, weak 401   | ready 1             | starting, ready 1, unknown session
  write weak           | good 200, weak 401   | degraded 1: {weak}  | degraded: weak
  write empty          | good 200             | degraded 1: {empty} | degraded: empty 1

# Development accepts a weak secret, but no empty one. Previous secrets have a grace period.
rotated to invalid | development | memory, file, vault, infisical
  write good           | good 200, weak 401   | ready 1             | starting, ready 1, unknown session
  write weak           | good 200, weak 200   | ready 2             | rotating, weak, ready 2
  write empty          | good 200, weak 200   | degraded 2: {empty} | degraded: empty 2

# An outage does not cause a placeholder.
down at start | production, development | memory, vault, infisical
  write good, break    | good 503, none 503   | failed: {down}      | starting, down, failed: down
  restore              | good 200             | ready 1             | recovered, ready 1

# A missing directory counts as absent and not as an outage, because it might be mounted late.
down at start | production | file
  write good, break    | good 500, none 500   | failed: {gone}      | starting, gone, failed: gone
  restore              | good 200             | ready 1             | recovered?, ready 1

down at start | development | file
  write good, break    | good 401, own 200    | ready 1             | starting, gone, placeholder, random 1, unknown session
  restore              | good 200, own 200    | ready 2             | recovered?, rotating, ready 2

down later | production, development | memory, vault, infisical
  write good           | good 200, none 401   | ready 1             | starting, ready 1
  break                | good 200, none 401   | degraded 1: {down}  | down, degraded: down
  restore              | good 200, none 401   | ready 1             | recovered, ready 1

down later | production | file
  write good           | good 200, none 401   | ready 1             | starting, ready 1
  break                | good 200, none 401   | degraded 1: {gone}  | gone, purged, degraded: gone
  restore              | good 200, none 401   | ready 1             | recovered?, ready 1

down later | development | file
  write good           | good 200, none 401   | ready 1             | starting, ready 1
  break                | good 200, none 401   | ready 2             | gone, purged, placeholder, rotating, random 2
  restore              | good 200, none 401   | ready 3             | recovered?, rotating, ready 3
";

/// Returns the expected log line for a name in the table. ` … ` matches any text.
fn line(name: &str) -> &'static str {
    match name.trim_end_matches(|c: char| c == ' ' || c.is_ascii_digit()) {
        "starting" => "INFO auth is starting",
        "rotating" => "INFO auth is rotating",
        "ready" => "INFO auth is ready … generation={n} … fresh from {origin}",
        "random" => "INFO auth is ready … generation={n} … fresh from random://",
        "failed: absent" => "ERROR auth is failed … {absent}",
        "failed: empty" => "ERROR auth is failed … {empty}",
        "failed: blank" => "ERROR auth is failed … {blank}",
        "failed: weak" => "ERROR auth is failed … {weak}",
        "failed: gone" => "ERROR auth is failed … {gone}",
        "failed: down" => "WARN auth is failed … {down}",
        "degraded: weak" => "WARN auth is degraded … generation=1 … {weak}",
        "degraded: empty" => "WARN auth is degraded … generation={n} … {empty}",
        "degraded: gone" => "WARN auth is degraded … generation=1 … {gone}",
        "degraded: down" => "WARN auth is degraded … generation=1 … {down}",
        "absent" => "WARN the secret cannot be read … {absent} … temporary=false",
        "gone" => "WARN the secret cannot be read … {gone} … temporary=false",
        "down" => "WARN the secret cannot be read … {down} … temporary=true",
        "recovered" => "INFO the secret can be read again",
        "purged" => "WARN the cached value was purged because the source refused it … {gone}",
        "placeholder" => {
            "WARN development mode: the secret is absent; a random placeholder is used"
        }
        "unknown session" => "WARN no secret of this service verifies … session_key_unknown",
        "weak" => "WARN a weak secret is accepted … {weak}",
        "accepted: blank" => "WARN a weak secret is accepted … {blank}",
        _ => panic!("the table has no log line with the name `{name}`"),
    }
}

/// Returns the text of a backend for a name in braces.
fn message(backend: Backend, name: &str) -> &'static str {
    match (name, backend) {
        ("origin", Memory) => "memory://",
        ("origin", File) => "file://",
        ("origin", Vault) => "vault://",
        ("origin", Infisical) => "infisical://",
        ("absent", Memory) => "not found: it was never set",
        ("absent", File) => "not found: … the file does not exist",
        ("absent", Vault) => "not found: the secret … does not exist",
        ("absent", Infisical) => "not found: the secret does not exist",
        ("down", Memory) => "unavailable: the source is down",
        ("down", Vault | Infisical) => "unavailable: … closed the connection",
        ("gone", File) => "not found: the directory … does not exist",
        ("empty", _) => "invalid: the value is empty",
        ("blank", _) => "invalid: too weak: … at least 32 are required",
        ("weak", _) => "invalid: too weak: 16 bytes, at least 32 are required",
        _ => panic!("the table has no text `{name}` for {backend:?}"),
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

/// A block of the table.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) modes: Vec<Mode>,
    pub(super) backends: Vec<Backend>,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) actions: &'static str,
    pub(super) responses: &'static str,
    pub(super) state: &'static str,
    pub(super) log: &'static str,
}

pub(super) fn scenarios() -> Vec<Scenario> {
    TABLE.split("\n\n").map(Scenario::new).collect()
}

impl Scenario {
    fn new(block: &'static str) -> Self {
        let mut lines = block.trim().lines().filter(|line| !line.starts_with('#'));
        let [name, modes, backends] = cells(lines.next().unwrap());
        let step = |line| {
            let [actions, responses, state, log] = cells(line);
            Step {
                actions,
                responses,
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

/// Splits a line into its columns.
fn cells<const N: usize>(line: &'static str) -> [&'static str; N] {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    cells
        .try_into()
        .unwrap_or_else(|_| panic!("expected {N} columns: {line}"))
}

/// Returns the items of a cell.
pub(super) fn list(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split(", ").filter(|item| !item.is_empty())
}

impl Step {
    /// Returns whether `state` is the expected state.
    pub(super) fn has_state(&self, backend: Backend, state: &str) -> bool {
        matches(state, &resolve(self.state, backend))
    }

    /// Returns whether `lines` are the expected log lines.
    pub(super) fn has_log(&self, backend: Backend, lines: &[String]) -> bool {
        let mut lines = lines.iter().peekable();
        let all = list(self.log).all(|name| {
            let optional = name.ends_with('?');
            let name = name.trim_end_matches('?');
            let number = name.rsplit(' ').next().unwrap_or_default();
            let expected = resolve(line(name), backend).replace("{n}", number);
            lines.next_if(|line| matches(line, &expected)).is_some() || optional
        });
        all && lines.next().is_none()
    }
}

/// Replaces each name in braces with the text of this backend.
fn resolve(text: &str, backend: Backend) -> String {
    let mut resolved = String::new();
    let mut rest = text;
    while let Some((before, (name, after))) = rest
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        resolved += before;
        match name {
            "n" => resolved += "{n}",
            _ => resolved += message(backend, name),
        }
        rest = after;
    }
    resolved + rest
}

/// Returns whether `text` begins with the first part of `pattern` and contains the other parts. ` …
/// ` separates the parts.
fn matches(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split(" … ");
    text.starts_with(parts.next().unwrap_or_default()) && parts.all(|part| text.contains(part))
}
