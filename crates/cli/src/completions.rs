//! Completion scripts. They complete `--profile` with the names of the profiles in `secretwell.toml`.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use crate::config_file::ConfigFile;
use crate::exit::Failure;
use crate::profile;

/// The code that completes `--profile`. In the scripts of `clap_complete`, the first text completes the option with
/// files or the users of the system. The second text replaces it.
const BASH: (&str, &str) = (
    "--profile)\n                    COMPREPLY=($(compgen -f \"${cur}\"))",
    "--profile)\n                    COMPREPLY=($(compgen -W \"$(secretwell profile-names 2>/dev/null)\" -- \"${cur}\"))",
);
const ZSH: (&str, &str) = (":NAME:_users", ":NAME:_secretwell_profiles");
const FISH: (&str, &str) = (
    "(__fish_complete_users)",
    "(secretwell profile-names 2>/dev/null)",
);

/// The start of the script for zsh, and the function that completes `--profile`.
const ZSH_START: &str = "#compdef secretwell\n";
const ZSH_FUNCTION: &str = "
_secretwell_profiles() {
    local -a profiles
    profiles=(${(f)\"$(secretwell profile-names 2>/dev/null)\"})
    compadd -a profiles
}
";

/// Returns the completion script of `command` for `shell`.
pub(crate) fn script(shell: Shell, command: &Command) -> Vec<u8> {
    let mut script = Vec::new();
    // The scripts of `clap_complete` would complete hidden commands too.
    let visible = command.get_subcommands().filter(|it| !it.is_hide_set());
    let mut visible = Command::new("secretwell")
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(visible.cloned());
    clap_complete::generate(shell, &mut visible, "secretwell", &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = match shell {
        Shell::Bash => script.replace(BASH.0, BASH.1),
        Shell::Zsh => {
            let script = script.replace(ZSH.0, ZSH.1);
            script.replacen(ZSH_START, &format!("{ZSH_START}{ZSH_FUNCTION}"), 1)
        }
        Shell::Fish => script.replace(FISH.0, FISH.1),
        _ => script.into_owned(),
    };
    script.into_bytes()
}

/// Returns the names of the profiles of the configuration file, one on each line.
///
/// `config` is the path of the file. By default, the file is searched as for other commands.
pub(crate) fn profile_names(config: Option<&Path>) -> Result<String, Failure> {
    let file = match config {
        Some(path) => Some(ConfigFile::read(path)?),
        None => ConfigFile::search()?,
    };
    let names = match file {
        Some(file) => profile::profile_names(&file)?,
        None => Vec::new(),
    };
    let names = names.iter().filter(|name| is_plain(name));
    Ok(names.map(|name| format!("{name}\n")).collect())
}

/// Returns whether shells read `name` as a single word. The bash function expands other names, and would execute a
/// command in the name of a profile.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Arguments;

    #[test]
    fn scripts_complete_profiles_only_by_their_names() {
        for (shell, removed) in [
            (Shell::Bash, BASH.0),
            (Shell::Zsh, "_users"),
            (Shell::Fish, "_users"),
        ] {
            let script = script(shell, &Arguments::command());
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("(secretwell profile-names "), "{script}");
            assert!(!script.contains(removed), "{script}");
            // The command is only for the scripts.
            let uses = script.matches("secretwell profile-names ").count();
            assert_eq!(script.matches("profile-names").count(), uses, "{script}");
        }
    }

    #[test]
    fn names_that_a_shell_would_expand_are_not_completed() {
        for name in ["production", "eu-west_1.2"] {
            assert!(is_plain(name), "{name}");
        }
        for name in [
            "", "-f", "a b", "$(id)", "`id`", "$HOME", "*", "~", "a\nb", "ä",
        ] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
