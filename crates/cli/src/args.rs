//! What may stand on the command line. The comments here are what `--help` and the manual say.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use secretwell::SecretKey;
use secretwell::auth::Mode;

use crate::exit::EXIT_STATUS;
use crate::signals::Signal;

/// Run any program with its secrets, and see what a service would see.
///
/// Secrets come from environment variables, files, Infisical or Vault, named by a URL. They go to the
/// program and nowhere else: not into a file, not onto a command line, not into a log.
#[derive(Debug, Parser)]
#[command(name = "secretwell", version, after_long_help = EXIT_STATUS, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) place: Place,

    #[command(flatten)]
    pub(crate) log: Log,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the secrets are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where the secrets are")]
pub(crate) struct Place {
    /// A source; given again, one more, asked for what is absent before it
    ///
    /// `env://`, `file:///run/secrets`, `infisical://host/project/environment/folder`,
    /// `vault://host:8200/mount/path?auth=approle`. Credentials come from each backend's own variables
    /// and files, never from the URL. Without this option: the profile that --profile names, else
    /// SECRETWELL_FROM, else the profile of the mode.
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) from: Vec<String>,

    /// A profile of the configuration file; by default the one named as SECRETWELL_MODE says, which is
    /// `production` unless it is set
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) profile: Option<String>,

    /// The configuration file; by default `secretwell.toml` in this folder, if there is one
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

impl Place {
    /// The configuration file, be it there or not.
    pub(crate) fn file(&self) -> &Path {
        let file = self.config.as_deref();
        file.unwrap_or(Path::new("secretwell.toml"))
    }
}

/// What is said on standard error.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is said on standard error")]
pub(crate) struct Log {
    /// Say more; twice, still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,

    /// How it is said
    #[arg(long, value_name = "FORMAT", global = true, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    WithSecrets(WithSecrets),
    /// Write the completions of a shell to standard output
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual page, or that of one command, to standard output
    Man {
        /// The command
        command: Option<String>,
    },
}

/// The commands that need to know where the secrets are.
#[derive(Debug, Subcommand)]
pub(crate) enum WithSecrets {
    /// Run a program with its secrets in its environment
    ///
    /// Nothing is started unless all that is needed is there; all problems are told at once. The program
    /// then takes the place of this process, so that signals, exit status and terminal are its own. With
    /// --watch this process stays and looks after it.
    Run(Run),
    /// Write one secret to standard output, byte for byte
    Get(Get),
    /// List the secrets: names, versions and sources, never values
    List,
    /// Tell what a service would find, key by key
    ///
    /// What Auth.js signs with, AUTH_SECRET and its like, and whatever --signing names must be strong enough
    /// to sign with: at least 32 bytes, no placeholder, no pattern. In development that is a warning only.
    Check(Check),
    /// Find out why secrets cannot be read, and what to do about it
    Doctor(Doctor),
    /// Write the secrets to standard output in a form that other tools read
    Export(Export),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Give the program these secrets and no other variables
    #[arg(long)]
    pub(crate) pristine: bool,

    /// When secrets have changed, start the program anew, or send it a signal: `restart`, `signal:HUP`
    ///
    /// A program keeps the environment that it was started with. So a signal only tells it to read its
    /// secrets again where it reads them itself.
    #[arg(
        long, value_name = "ACTION", num_args = 0..=1, require_equals = true,
        default_missing_value = "restart"
    )]
    pub(crate) watch: Option<OnChange>,

    /// How long to wait for secrets that are absent, or whose source is not there yet
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub(crate) wait: Duration,

    /// With --watch: how old what was read may get before it is read again; by default as the source
    /// suggests, and at once where it tells of changes
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "watch")]
    pub(crate) ttl: Option<Duration>,

    /// With --watch: what asks the program to stop
    #[arg(
        long,
        value_name = "SIGNAL",
        default_value = "TERM",
        requires = "watch"
    )]
    pub(crate) stop_signal: Signal,

    /// With --watch: how long it may take to stop before it is killed
    #[arg(
        long, value_name = "TIME", default_value = "10s", value_parser = duration, requires = "watch"
    )]
    pub(crate) stop_timeout: Duration,

    /// The program and its arguments
    #[arg(
        required = true, trailing_var_arg = true, value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    pub(crate) program: Vec<OsString>,
}

/// What to do when the secrets have changed.
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
            _ => Err("write `restart`, or `signal:HUP`".into()),
        }
    }
}

/// Which secrets, and as which variables.
#[derive(Debug, Default, Args)]
pub(crate) struct Selection {
    /// These secrets and no others, all of which must be there; by default all that the sources list
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) only: Vec<SecretKey>,

    /// Names the variable of a key; by default its segments joined by `_`
    #[arg(long, value_name = "KEY=NAME", value_delimiter = ',', value_parser = mapping)]
    pub(crate) map: Vec<(SecretKey, String)>,

    /// Put before the name of each variable that --map does not name
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Its key, such as `AUTH_SECRET` or `db/PASSWORD`
    #[arg(value_parser = SecretKey::from_str)]
    pub(crate) key: SecretKey,

    #[command(flatten)]
    pub(crate) reveal: Reveal,
}

/// Whether a terminal may show secrets.
#[derive(Debug, Args)]
pub(crate) struct Reveal {
    /// Show it even where standard output is a terminal
    #[arg(long)]
    pub(crate) reveal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The keys that are needed; by default those of the profile, else all that the sources list, none of
    /// which may be empty then
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) require: Vec<SecretKey>,

    /// Keys of secrets that something is signed or encrypted with
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) signing: Vec<SecretKey>,

    /// One mode; by default both
    #[arg(long, value_name = "production|development", value_parser = Mode::from_str)]
    pub(crate) mode: Option<Mode>,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Keys that must be readable, besides those of the profile and all that the sources list
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = SecretKey::from_str)]
    pub(crate) require: Vec<SecretKey>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// The form
    #[arg(long, default_value = "env")]
    pub(crate) format: Format,

    /// The name of the Kubernetes Secret
    #[arg(long, default_value = "secrets")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) reveal: Reveal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A `.env` document, which a shell reads as well.
    Env,
    /// One JSON object.
    Json,
    /// The manifest of a Kubernetes Secret.
    K8s,
}

fn duration(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let duration = humantime::parse_duration(text).map_err(|_| "write it like `30s` or `2m`")?;
    match duration <= YEAR {
        true => Ok(duration),
        false => Err("it is more than a year".into()),
    }
}

fn mapping(text: &str) -> Result<(SecretKey, String), String> {
    // A key may hold the sign, a variable's name may not.
    let (key, name) = text
        .rsplit_once('=')
        .ok_or("write it like `db/PASSWORD=DB_PASSWORD`")?;
    let key = SecretKey::parse(key).map_err(|error| error.to_string())?;
    Ok((key, name.to_owned()))
}
