//! Sections of `--help` and of the manual: examples, environment, files and exit status.

use clap::Command;

use crate::exit::EXIT_STATUS;

/// The layout of `--help`. The examples of a command come before its options.
const TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Command lines, each with its purpose.
type Examples = &'static [(&'static str, &'static str)];

const GENERAL: Examples = &[
    (
        "run a program with the secrets of a .env file",
        "secretwell run --from file:.env -- npm start",
    ),
    (
        "check the secrets of a service before its deployment",
        "secretwell check --from file:///run/secrets --require AUTH_SECRET",
    ),
    (
        "find out why secrets cannot be read",
        "secretwell doctor --profile staging",
    ),
];

const EXAMPLES: &[(&str, Examples)] = &[
    (
        "run",
        &[
            (
                "run a program with the secrets of a .env file",
                "secretwell run --from file:.env -- npm start",
            ),
            (
                "restart the program when its secrets in Vault change",
                "secretwell run --from 'vault://vault:8200/secret/app?auth=kubernetes&role=app' --watch -- ./app",
            ),
            (
                "wait for late secrets",
                "secretwell run --profile staging --wait 1m -- node server.js",
            ),
            (
                "pass two secrets only, one of them under another name",
                "secretwell run --profile staging --only AUTH_SECRET --map db/PASSWORD=PGPASSWORD -- ./server",
            ),
            (
                "use upper case for the names of the variables, and keep variables that are already set",
                "secretwell run --profile staging --upcase --shell-names --keep-env -- ./server",
            ),
            (
                "write a certificate to a file in memory, and send a signal when it changes",
                "secretwell run --profile staging --file tls/cert=TLS_CERT --watch=signal:HUP -- ./server",
            ),
        ],
    ),
    (
        "get",
        &[
            (
                "write a certificate to a file",
                "secretwell get db/CA --from file:///run/secrets > ca.pem",
            ),
            (
                "use a secret in a script",
                "PGPASSWORD=$(secretwell get db/PASSWORD --profile staging) psql",
            ),
            (
                "show a secret on the terminal",
                "secretwell get AUTH_SECRET --from file:.env --reveal",
            ),
        ],
    ),
    (
        "list",
        &[
            (
                "list the secrets of the configured sources",
                "secretwell list",
            ),
            (
                "show which source each secret comes from",
                "secretwell list --from env://APP_ --from file:.env",
            ),
            (
                "print the keys, one on each line",
                "secretwell list --format json | jq -r '.secrets[].key'",
            ),
        ],
    ),
    (
        "check",
        &[
            (
                "check the keys of a profile",
                "secretwell check --profile production --mode production",
            ),
            (
                "check two keys, one of which signs cookies",
                "secretwell check --from file:.env --require COOKIE_SECRET,DATABASE_URL --signing COOKIE_SECRET",
            ),
            (
                "print the keys that have a problem",
                "secretwell check --format json | jq '.modes[0].checks[] | select(.status == \"problem\").key'",
            ),
        ],
    ),
    (
        "doctor",
        &[
            (
                "check each step of a read",
                "secretwell doctor --profile staging",
            ),
            (
                "fail if a key cannot be read",
                "secretwell doctor --from file:.env --require AUTH_SECRET,DATABASE_URL",
            ),
            (
                "print the steps with a problem",
                "secretwell doctor --format json | jq '.sources[].steps[] | select(.status == \"problem\")'",
            ),
        ],
    ),
    (
        "export",
        &[
            (
                "set and export the variables in a shell",
                "eval \"$(secretwell export --profile staging --format shell)\"",
            ),
            (
                "write a .env file that only you can read",
                "(umask 077; secretwell export --profile staging > .env.staging)",
            ),
            (
                "create a Kubernetes Secret",
                "secretwell export --from file:.env --format k8s --name my-app | kubectl apply -f -",
            ),
            (
                "pass the secrets to a container",
                "docker run --env-file <(secretwell export --from file:.env --format docker) my-image",
            ),
            (
                "set the variables for the next steps of a job of GitHub Actions",
                "secretwell export --profile staging --format github",
            ),
            (
                "write two secrets as JSON",
                "secretwell export --from file:.env --only AUTH_SECRET,DATABASE_URL --format json > keys.json",
            ),
        ],
    ),
    (
        "completions",
        &[
            (
                "load the completions in bash",
                "source <(secretwell completions bash)",
            ),
            (
                "install the completions for zsh",
                "secretwell completions zsh > ~/.zfunc/_secretwell",
            ),
            (
                "install the completions for fish",
                "secretwell completions fish > ~/.config/fish/completions/secretwell.fish",
            ),
        ],
    ),
    (
        "man",
        &[
            (
                "install the manual page",
                "secretwell man > /usr/local/share/man/man1/secretwell.1",
            ),
            (
                "install the manual page of a command",
                "secretwell man run > /usr/local/share/man/man1/secretwell-run.1",
            ),
            ("read a manual page", "secretwell man check | man -l -"),
        ],
    ),
];

const ENVIRONMENT: &str =
    "  SECRETWELL_FROM     the sources, as a URL or several URLs separated by commas
  SECRETWELL_PROFILE  the name of the profile
  SECRETWELL_MODE     `production` (default) or `development`
  NO_COLOR            if not empty, the log has no colours
  VAULT_*, BAO_*      the address and credentials of Vault and OpenBao
  INFISICAL_*         the credentials of Infisical
  XDG_RUNTIME_DIR     the folder of the files of `run --file`
  GITHUB_ENV          the file to which `export --format github` adds variables";

const FILES: &str =
    "  secretwell.toml     the profiles, in the current directory or above it in the repository
  /dev/shm            the folder of the files of `run --file` without XDG_RUNTIME_DIR";

/// Returns `command` with the sections of all commands.
pub(crate) fn with_sections(command: Command) -> Command {
    let examples = |name: &str| {
        let of_command = EXAMPLES.iter().find(|(command, _)| *command == name);
        examples_section(of_command.map_or(GENERAL, |(_, examples)| examples))
    };
    let after =
        format!("Environment:\n{ENVIRONMENT}\n\nFiles:\n{FILES}\n\nExit status:\n{EXIT_STATUS}");
    let add = |command: Command| {
        let examples = examples(command.get_name());
        command
            .help_template(TEMPLATE)
            .before_long_help(examples)
            .after_long_help(after.clone())
    };
    let command = EXAMPLES.iter().fold(command, |command, (name, _)| {
        command.mut_subcommand(name, add)
    });
    add(command)
}

fn examples_section(examples: Examples) -> String {
    let lines: String = examples
        .iter()
        .map(|(purpose, command)| format!("\n  # {purpose}\n  {command}"))
        .collect();
    format!("Examples:{lines}")
}

/// Returns the sections of the manual page of the command `name` that follow its options.
pub(crate) fn manual_sections(name: &str) -> String {
    let examples = EXAMPLES.iter().find(|(command, _)| *command == name);
    let examples = examples.map_or(GENERAL, |(_, examples)| examples);
    let mut text = String::new();
    for (title, section) in [
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", FILES),
        ("EXIT STATUS", EXIT_STATUS),
    ] {
        text += &format!(".SH \"{title}\"\n.nf\n{}\n.fi\n", roff(section));
    }
    text += ".SH EXAMPLES\n";
    for (purpose, command) in examples {
        text += &format!(
            ".PP\n{}:\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n",
            roff(purpose),
            roff(command)
        );
    }
    text
}

/// Escapes text for roff.
fn roff(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_start().replace('\\', "\\e").replace('-', "\\-");
        match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}"),
            false => line.replace('\'', "\\(aq"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::args::Arguments;

    #[test]
    fn each_command_has_three_examples_and_the_sections() {
        let mut command = with_sections(Arguments::command());
        let help = |command: &mut Command| command.render_long_help().to_string();
        let mut helps = vec![help(&mut command)];
        let commands = command.get_subcommands_mut();
        helps.extend(
            commands
                .filter(|command| !command.is_hide_set() && command.get_name() != "help")
                .map(help),
        );
        for help in helps {
            assert!(help.matches("\n  # ").count() >= 3, "{help}");
            let position = |text| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
            let positions = [
                "Examples:",
                "Usage:",
                "\nOptions:",
                "\nEnvironment:\n  S",
                "\nFiles:\n  s",
                "\nExit status:\n  0",
            ]
            .map(position);
            assert!(positions.is_sorted(), "{help}");
        }
    }

    #[test]
    fn examples_are_valid_command_lines() {
        let examples = EXAMPLES.iter().flat_map(|(_, examples)| *examples);
        for (_, example) in examples.chain(GENERAL) {
            // Longer lines would be wrapped, also on wide terminals.
            assert!(example.len() <= 98, "{example}");
            let start = example.find("secretwell").unwrap();
            let line = example[start..].split([')', '|', '>']).next().unwrap();
            let words = line.split_whitespace().map(|word| word.trim_matches('\''));
            let matches = with_sections(Arguments::command()).try_get_matches_from(words);
            let matches = matches.unwrap_or_else(|error| panic!("{example}: {error}"));
            Arguments::from_arg_matches(&matches).unwrap();
        }
    }
}
