//! The sources of secrets, from the command line, the environment and the configuration file.

use std::env::{self, VarError};
use std::sync::Arc;

use secretwell::auth::Mode;
use secretwell::{SecretKey, SecretProvider};

use crate::args::{SelectionArgs, SourceArgs};
use crate::exit::{Failure, Reason};
use crate::fetch::KeySelection;
use crate::profile::Profile;
use crate::variables::Naming;

/// The variable that holds the source URLs if neither `--from` nor a profile is given.
const FROM: &str = "SECRETWELL_FROM";

/// The sources of secrets, and the profile with further settings.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) provider: Arc<dyn SecretProvider>,
    /// The URLs that `provider` was created from. One of them can name several sources, separated by commas.
    pub(crate) urls: Vec<String>,
    pub(crate) profile: Profile,
}

impl Sources {
    /// Determines the sources. Options take precedence over the variable, and the variable takes precedence
    /// over the default profile.
    pub(crate) fn from_args(args: &SourceArgs) -> Result<Self, Failure> {
        let profile_requested = args.profile.is_some() || args.config.is_some();
        let variable = match env::var(FROM) {
            Err(VarError::NotUnicode(_)) => {
                let message =
                    format!("{FROM} is not valid UTF-8; set it to a URL such as `env://`");
                return Err(Failure::new(Reason::Configuration, message));
            }
            variable => variable.unwrap_or_default(),
        };
        let mut profile = Profile::default();
        let urls = match (&args.from[..], variable.trim()) {
            (from @ [_, ..], _) => {
                if profile_requested {
                    profile = read_profile(args)?;
                }
                from.to_vec()
            }
            ([], from) if !profile_requested && !from.is_empty() => vec![from.to_owned()],
            ([], _) if profile_requested || args.config_path().exists() => {
                profile = read_profile(args)?;
                if profile.from.is_empty() {
                    let file = args.config_path().display();
                    let message = format!(
                        "{file}: the profile has no source; add `from = [\"…\"]`, or use --from"
                    );
                    return Err(Failure::new(Reason::Configuration, message));
                }
                std::mem::take(&mut profile.from)
            }
            ([], _) => Vec::new(),
        };
        if urls.is_empty() {
            return Err(Failure::new(
                Reason::Usage,
                format!(
                    "no source is configured; use --from URL, set {FROM}, or add a profile to {}",
                    args.config_path().display()
                ),
            ));
        }
        Ok(Self {
            provider: secretwell::from_url(&urls.join(","))?,
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

    /// Returns the rules that name the variables. Options take precedence over the profile.
    pub(crate) fn naming(&self, args: &SelectionArgs) -> Naming {
        let prefix = args.prefix.as_ref().or(self.profile.prefix.as_ref());
        let maps = self.profile.map.iter().chain(&args.map);
        let mut naming = Naming::new(prefix.map_or("", String::as_str), maps.cloned());
        naming.upcase = args.upcase || self.profile.upcase;
        naming.shell_names = args.shell_names || self.profile.shell_names;
        naming
    }
}

fn read_profile(args: &SourceArgs) -> Result<Profile, Failure> {
    let name = match &args.profile {
        Some(name) => name.clone(),
        None => Mode::from_env()?.to_string(),
    };
    Profile::read(args.config_path(), &name)
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
