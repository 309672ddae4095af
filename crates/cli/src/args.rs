//! Command-line arguments. The doc comments of this module are the text of `--help` and of the manual.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use secretwell::SecretKey;
use secretwell::auth::Mode;

use crate::signals::Signal;
use crate::variables::is_shell_name;

/// Run a program with its secrets, and inspect the secrets that a service would read
///
/// Secrets are read from environment variables, files, Infisical or Vault. A URL names each source.
/// The secrets are passed to the program in its environment. They are never written to a command
/// line or a log, and to a file only with --file or `export`.
#[derive(Debug, Parser)]
#[command(name = "secretwell", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) sources: SourceArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sources")]
pub(crate) struct SourceArgs {
    /// A source of secrets; if this option is repeated, a missing key is read from the next source
    /// [env: SECRETWELL_FROM]
    ///
    /// Examples: `env://`, `file:.env`, `file:///run/secrets`, `infisical://host/project/environment/folder`,
    /// `vault://host:8200/mount/path?auth=approle`. A path without a slash at its start is relative to the working
    /// directory. Credentials are read from the variables and files of each backend, never from the URL. Without this
    /// option, the first of these settings is used: the profile selected by --profile or --config, the variable
    /// SECRETWELL_FROM, the profile of SECRETWELL_PROFILE or of the current mode.
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) from: Vec<String>,

    /// The profile of the configuration file [env: SECRETWELL_PROFILE] [default: the value of SECRETWELL_MODE, or
    /// `production`]
    // The hint is replaced in completion scripts.
    #[arg(long, value_name = "NAME", global = true, value_hint = ValueHint::Username)]
    pub(crate) profile: Option<String>,

    /// The configuration file [default: the nearest `secretwell.toml` in the current directory or in the repository
    /// above it]
    ///
    /// Parent folders are searched up to the one that contains `.git`. A file that is found in this way must be owned
    /// by you or root. Relative paths in the file are relative to its folder.
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log more: -v for info, -vv for debug, -vvv for trace [default: warnings and errors only]
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,

    /// Log format on standard error
    #[arg(long, value_name = "FORMAT", global = true, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Secrets(Box<SecretsCommand>),
    /// Print a completion script for a shell
    Completions {
        /// The shell to generate the script for
        shell: Shell,
    },
    /// Print the manual page of `secretwell` or of one of its commands
    Man {
        /// The command to print the manual page of [default: the manual page of `secretwell`]
        command: Option<String>,
    },
    /// Print the names of the profiles, for completion scripts
    #[command(hide = true)]
    ProfileNames,
}

/// Commands that read secrets and therefore need at least one source.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Run a program with its secrets in its environment
    ///
    /// All secrets are read first. If a required secret is missing or invalid, the program is not started
    /// and all problems are reported together. Otherwise this process executes the program (`exec`), so
    /// process ID, signals, exit status and terminal are those of the program. With --watch, this process
    /// stays and supervises the program.
    #[command(visible_alias = "exec")]
    Run(RunArgs),
    /// Write the exact bytes of one secret to standard output
    Get(GetArgs),
    /// List the names, versions and sources of all secrets, without their values
    List(ListArgs),
    /// Check for each key whether a service could use its secret
    ///
    /// Secrets must exist and must not be empty. Signing secrets must also be strong: at least 32 bytes, and no
    /// example text, template or repeated pattern. Signing secrets are those of Auth.js and Better Auth, such as
    /// AUTH_SECRET, and those of all keys given by --signing. A weak signing secret is only a warning in
    /// development mode. Words in place of random bytes are a warning in both modes.
    Check(CheckArgs),
    /// Diagnose why secrets cannot be read, and suggest a fix
    Doctor(DoctorArgs),
    /// Write the secrets to standard output in a format for other tools
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,

    /// Start the program with an environment that contains only the secrets
    #[arg(long)]
    pub(crate) pristine: bool,

    /// Keep variables that are already set, also if a secret has the same variable name
    ///
    /// An empty variable counts as not set. By default, the secret replaces the variable.
    #[arg(long, conflicts_with = "pristine")]
    pub(crate) keep_env: bool,

    /// Pass the credentials of this command to the program too, such as VAULT_TOKEN
    ///
    /// By default, the variables from which the sources read their credentials are removed from the environment
    /// of the program. Each one is logged with -v.
    #[arg(long)]
    pub(crate) keep_credentials: bool,

    /// Write a secret to a file in memory, and set a variable to the path of the file
    ///
    /// The file is in a new directory below $XDG_RUNTIME_DIR, or else below /dev/shm. Only this user can read it.
    /// With --watch, a changed file is replaced before the program is restarted or signalled. This process stays
    /// while the program runs, also without --watch, and removes the files at the end.
    #[arg(long, value_name = "KEY=NAME", value_delimiter = ',', value_parser = file_mapping)]
    pub(crate) file: Vec<(SecretKey, String)>,

    /// On changed secrets, restart the program (`restart`) or send it a signal (`signal:HUP`)
    ///
    /// A signal does not change the environment of a running program. Use a signal only if the program
    /// reads its secrets from another place, such as a file, and reloads them on that signal.
    #[arg(
        long, value_name = "ACTION", num_args = 0..=1, require_equals = true,
        default_missing_value = "restart"
    )]
    pub(crate) watch: Option<OnChange>,

    /// With --watch: what to do if a secret of the program is deleted or becomes empty
    ///
    /// A secret that cannot be read is not missing: the program keeps its value. Keys that are required, such
    /// as those of --only, are kept by `drop` too, and hold back the changes of the other secrets.
    #[arg(
        long,
        value_name = "ACTION",
        default_value = "keep",
        requires = "watch"
    )]
    pub(crate) on_missing: OnMissing,

    /// With --watch: delay each restart or signal by a random time up to this one
    ///
    /// The instances of a program then do not restart in the same second. The program gets the newest
    /// secrets at the end of the delay.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration, requires = "watch")]
    pub(crate) splay: Duration,

    /// Pass the value that a secret had before its last change in another variable
    ///
    /// Example: AUTH_SECRET=AUTH_SECRET_PREVIOUS. The previous value is known from the change itself (--watch),
    /// from the version history of the source, or from a stored secret with the name of the variable.
    #[arg(long, value_name = "KEY=NAME", value_delimiter = ',', value_parser = mapping)]
    pub(crate) previous: Vec<(SecretKey, String)>,

    /// How long after a change the previous value is passed
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) previous_grace: Duration,

    /// How long to wait for missing secrets and unavailable sources
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub(crate) wait: Duration,

    /// With --watch: the maximum age of a secret before it is read again
    ///
    /// Default: the time that the source suggests. If a source sends change notifications, changed secrets
    /// are read immediately.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "watch")]
    pub(crate) ttl: Option<Duration>,

    /// With --watch: the signal that stops the program
    #[arg(
        long,
        value_name = "SIGNAL",
        default_value = "TERM",
        requires = "watch"
    )]
    pub(crate) stop_signal: Signal,

    /// With --watch: how long the program has to exit after the stop signal before it is killed
    #[arg(
        long, value_name = "TIME", default_value = "10s", value_parser = duration, requires = "watch"
    )]
    pub(crate) stop_timeout: Duration,

    /// The program to run, and its arguments
    #[arg(
        required = true, trailing_var_arg = true, value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    pub(crate) program: Vec<OsString>,
}

/// The action on changed secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnChange {
    Restart,
    Signal(Signal),
}

impl FromStr for OnChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "restart" => Ok(Self::Restart),
            Some(("signal", name)) => name.parse().map(Self::Signal),
            _ => Err("expected `restart` or a signal, such as `signal:HUP`".into()),
        }
    }
}

/// What to do if a secret of the running program is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnMissing {
    /// Keep its last value for at most one day, then drop it
    Keep,
    /// Restart the program without it
    Drop,
    /// Stop the program, and exit with status 66
    Stop,
}

/// Options that select secrets and name their variables.
#[derive(Debug, Default, Args)]
pub(crate) struct SelectionArgs {
    /// Read only these keys, and require all of them [default: all keys that the sources list]
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) only: Vec<SecretKey>,

    /// Set the variable name of a key [default: the segments of the key, joined by `_`]
    #[arg(long, value_name = "KEY=NAME", value_delimiter = ',', value_parser = mapping)]
    pub(crate) map: Vec<(SecretKey, String)>,

    /// Add a prefix to all variable names that --map does not set
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,

    /// Use upper case for all variable names that --map does not set
    #[arg(long)]
    pub(crate) upcase: bool,

    /// Replace the characters that shells do not accept in variable names by `_`, except in the names of --map
    ///
    /// Shells accept letters, digits and `_`, and no digit at the start. Shells such as dash remove other variables,
    /// and programs such as npm start their scripts by a shell.
    #[arg(long)]
    pub(crate) shell_names: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key of the secret, such as `AUTH_SECRET` or `db/PASSWORD`
    #[arg(value_parser = SecretKey::from_str)]
    pub(crate) key: SecretKey,

    #[command(flatten)]
    pub(crate) reveal: RevealArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevealArgs {
    /// Write secrets even if standard output is a terminal
    #[arg(long)]
    pub(crate) reveal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The required keys [default: the keys of the profile, or else all keys that the sources list]
    ///
    /// The value of a required key must not be empty. By default, other listed secrets are reported too if they cannot
    /// be read, or if they are weak signing secrets.
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) require: Vec<SecretKey>,

    /// Keys whose secrets are used for signing or encryption; they are required
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) signing: Vec<SecretKey>,

    /// Keys whose secrets do not sign or encrypt, although their names suggest it
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) unchecked: Vec<SecretKey>,

    /// A file of known secrets that are not accepted for signing or encryption
    ///
    /// Each line is a secret, or its SHA-256 hash, of which the first 16 hexadecimal digits are sufficient.
    /// `/dev/stdin` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) refuse_list: Option<PathBuf>,

    /// Check for this mode only [default: both modes]
    #[arg(long, value_name = "production|development", value_parser = Mode::from_str)]
    pub(crate) mode: Option<Mode>,

    /// The format of the result
    #[arg(long, default_value = "text")]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Keys that must be readable, in addition to those of the profile and those that the sources list
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) require: Vec<SecretKey>,

    /// The format of the result
    #[arg(long, default_value = "text")]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The format of the result
    #[arg(long, default_value = "text")]
    pub(crate) format: ReportFormat,
}

/// The format of the result of `check`, `list` and `doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Plain text
    Text,
    /// One JSON document
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,

    /// The output format
    #[arg(long, default_value = "env")]
    pub(crate) format: Format,

    /// The name of the Kubernetes Secret
    #[arg(long, default_value = "secrets")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) reveal: RevealArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A `.env` document that shells can also read
    Env,
    /// Commands that set and export the variables, for `eval` in a POSIX shell
    Shell,
    /// Lines for `docker run --env-file`, without quotes
    Docker,
    /// Masks for the log of GitHub Actions; the variables are appended to the file $GITHUB_ENV
    Github,
    /// One JSON object
    Json,
    /// The manifest of a Kubernetes Secret
    K8s,
}

fn duration(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let duration =
        humantime::parse_duration(text).map_err(|_| "expected a time such as `30s` or `2m`")?;
    match duration <= YEAR {
        true => Ok(duration),
        false => Err("the maximum is one year".into()),
    }
}

fn mapping(text: &str) -> Result<(SecretKey, String), String> {
    // A key can contain `=`, but the name of a variable cannot. So the last `=` is the separator.
    let (key, name) = text
        .rsplit_once('=')
        .ok_or("expected KEY=NAME, such as `db/PASSWORD=DB_PASSWORD`")?;
    let key = SecretKey::parse(key).map_err(|error| error.to_string())?;
    Ok((key, name.to_owned()))
}

/// Parses an argument of `--file`. The name of the variable is also the name of the file.
fn file_mapping(text: &str) -> Result<(SecretKey, String), String> {
    let (key, name) = mapping(text)?;
    // Longer names are not valid names of files.
    match is_shell_name(&name) && name.len() <= 200 {
        true => Ok((key, name)),
        false => Err(
            "the name after the last `=` must consist of at most 200 letters, digits and `_`, without a digit at the \
             start"
                .into(),
        ),
    }
}
