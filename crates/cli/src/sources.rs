//! The sources of secrets, from the command line, the environment and the configuration file.

use std::env::{self, VarError};
use std::path::Path;
use std::sync::Arc;

use secretwell::auth::Mode;
use secretwell::{SecretKey, SecretProvider};

use crate::args::{RunArgs, SelectionArgs, SourceArgs};
use crate::config_file::ConfigFile;
use crate::exit::{Failure, Reason};
use crate::fetch::KeySelection;
use crate::profile::Profile;
use crate::urls::absolute_urls;
use crate::variables::Naming;

/// The variable that holds the source URLs if neither `--from` nor a profile is given.
const FROM: &str = "SECRETWELL_FROM";
/// The variable that holds the name of the profile if `--profile` is not given.
const PROFILE: &str = "SECRETWELL_PROFILE";

/// The sources of secrets, and the profile with further settings.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) provider: Arc<dyn SecretProvider>,
    /// The URLs that `provider` was created from, with absolute paths. One of them can name several sources, separated
    /// by commas.
    pub(crate) urls: Vec<String>,
    pub(crate) profile: Profile,
}

impl Sources {
    /// Determines the sources. Options take precedence over variables, and variables over the default profile.
    pub(crate) fn from_args(args: &SourceArgs) -> Result<Self, Failure> {
        let (from, name) = (variable(FROM)?, variable(PROFILE)?);
        let has_profile_option = args.profile.is_some() || args.config.is_some();
        let given = match &args.from[..] {
            [] if has_profile_option => None,
            [] => from,
            from => Some(from.join(",")),
        };
        let profile_requested = has_profile_option || name.is_some();
        let file = match &args.config {
            Some(path) => Some(ConfigFile::read(path)?),
            None if profile_requested || given.is_none() => ConfigFile::search()?,
            None => None,
        };
        let mut profile = match &file {
            Some(file) => read_profile(file, args.profile.clone().or(name))?,
            None if profile_requested => return Err(ConfigFile::not_found()),
            None => Profile::default(),
        };
        let urls = match (given, &file) {
            // The working directory is the directory of options and variables.
            (Some(from), _) => vec![absolute_urls(&from, Path::new("."))?],
            (None, Some(file)) if profile.from.is_empty() => {
                let message = format!(
                    "{}: the profile has no source; add `from = [\"…\"]`, or use --from",
                    file.path.display()
                );
                return Err(Failure::new(Reason::Configuration, message));
            }
            (None, Some(_)) => std::mem::take(&mut profile.from),
            (None, None) => {
                let message = format!(
                    "no source is configured; use --from URL, set {FROM}, or add a profile to secretwell.toml"
                );
                return Err(Failure::new(Reason::Usage, message));
            }
        };
        let provider = secretwell::from_url(&urls.join(","))?;
        let config = file.map(|file| file.path.display().to_string());
        tracing::info!(target: "secretwell::command", event = "sources_selected", origin = %provider.origin(), config, "secrets are read from these sources");
        Ok(Self {
            provider,
            urls,
            profile,
        })
    }

    /// Returns the keys to read. Options take precedence over the profile.
    pub(crate) fn key_selection(&self, args: &SelectionArgs) -> KeySelection {
        let (profile, mapped_by_args) = (&self.profile, args.map.iter().map(|(key, _)| key));
        if !args.only.is_empty() {
            return KeySelection::Only(unique(args.only.iter().chain(mapped_by_args)));
        }
        let required = profile.require.iter().chain(mapped_by_args);
        if !profile.only.is_empty() {
            return KeySelection::Only(unique(profile.only.iter().chain(required)));
        }
        // A key with a variable name is required, so that a misspelled key is reported.
        let mapped_by_profile = profile.map.iter().map(|(key, _)| key);
        KeySelection::All {
            require: unique(required.chain(mapped_by_profile)),
        }
    }

    /// Returns the keys that `run` reads without options, and the keys that it requires.
    pub(crate) fn selection_of_profile(&self) -> KeySelection {
        let previous = self.profile.previous.iter().map(|(key, _)| key);
        self.key_selection(&SelectionArgs::default())
            .including(previous)
    }

    /// Returns the rules that name the variables. Options take precedence over the profile.
    ///
    /// # Errors
    /// Fails if the command line sets several names for one key, because only one of them would be passed.
    pub(crate) fn naming(&self, args: &SelectionArgs) -> Result<Naming, Failure> {
        check_single_names("--map", &args.map)?;
        let prefix = args.prefix.as_ref().or(self.profile.prefix.as_ref());
        let maps = self.profile.map.iter().chain(&args.map);
        let mut naming = Naming::new(prefix.map_or("", String::as_str), maps.cloned());
        naming.upcase = args.upcase || self.profile.upcase;
        naming.shell_names = args.shell_names || self.profile.shell_names;
        Ok(naming)
    }

    /// Returns the keys whose previous values are passed, and the variables. Options take precedence over the profile,
    /// and `--only` leaves out the other keys of the profile.
    pub(crate) fn previous(&self, args: &RunArgs) -> Vec<(SecretKey, String)> {
        let selected = self.key_selection(&args.selection);
        let of_profile = self.profile.previous.iter().filter(|(key, _)| {
            let is_selected = args.selection.only.is_empty() || selected.required().contains(key);
            is_selected && args.previous.iter().all(|(other, _)| other != key)
        });
        of_profile.chain(&args.previous).cloned().collect()
    }
}

/// Checks that `option` sets at most one name for each key.
pub(crate) fn check_single_names(
    option: &str,
    names: &[(SecretKey, String)],
) -> Result<(), Failure> {
    for (index, (key, name)) in names.iter().enumerate() {
        let earlier = names[..index].iter().find(|(other, _)| other == key);
        if let Some((_, other)) = earlier.filter(|(_, other)| other != name) {
            let (name, other) = (name.escape_debug(), other.escape_debug());
            let message =
                format!("{option} sets two names for {key}, `{other}` and `{name}`; remove one");
            return Err(Failure::new(Reason::Usage, message));
        }
    }
    Ok(())
}

/// Reads the profile `name` of `file`. The default is the profile of the mode.
fn read_profile(file: &ConfigFile, name: Option<String>) -> Result<Profile, Failure> {
    let name = match name {
        Some(name) => name,
        None => {
            let mode = Mode::from_env().map_err(|error| {
                let hint = error.hint().unwrap_or_default();
                let hint = format!("{hint}; a profile of another name is set with {PROFILE}");
                error.with_hint(hint)
            });
            mode?.to_string()
        }
    };
    Profile::read(file, &name)
}

/// Returns the value of a variable. A blank variable counts as not set.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) => Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            let message = format!("{name} is not valid UTF-8; correct it, or unset it");
            Err(Failure::new(Reason::Configuration, message))
        }
    }
}

/// Removes duplicates and keeps the order.
fn unique<'a>(keys: impl Iterator<Item = &'a SecretKey>) -> Vec<SecretKey> {
    let mut unique = Vec::new();
    for key in keys {
        if !unique.contains(key) {
            unique.push(key.clone());
        }
    }
    unique
}
