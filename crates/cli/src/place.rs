//! Where the secrets are, and which of them count.

use std::env::{self, VarError};
use std::sync::Arc;

use secretwell::auth::Mode;
use secretwell::{SecretKey, SecretProvider};

use crate::args::{Place, Selection};
use crate::environment::Naming;
use crate::exit::{Failure, Reason};
use crate::profile::Profile;
use crate::read::Wanted;

/// Names the sources where no option does.
const FROM: &str = "SECRETWELL_FROM";

/// The sources, and what a profile adds to them.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) provider: Arc<dyn SecretProvider>,
    /// The sources one by one.
    pub(crate) urls: Vec<String>,
    pub(crate) profile: Profile,
}

impl Setup {
    /// Finds the sources. An option is stronger than a variable, and a variable than the file.
    pub(crate) fn find(place: &Place) -> Result<Self, Failure> {
        let wants_profile = place.profile.is_some() || place.config.is_some();
        let variable = match env::var(FROM) {
            Err(VarError::NotUnicode(_)) => {
                let message = format!("{FROM} is not text; write a source like `env://` into it");
                return Err(Failure::new(Reason::Configuration, message));
            }
            variable => variable.unwrap_or_default(),
        };
        let mut profile = Profile::default();
        let urls = match (&place.from[..], variable.trim()) {
            (from @ [_, ..], _) => {
                if wants_profile {
                    profile = read_profile(place)?;
                }
                from.to_vec()
            }
            ([], from) if !wants_profile && !from.is_empty() => vec![from.to_owned()],
            ([], _) if wants_profile || place.file().exists() => {
                profile = read_profile(place)?;
                if profile.from.is_empty() {
                    let file = place.file().display();
                    let message = format!(
                        "{file}: the profile names no source; add `from = [\"…\"]`, or say --from"
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
                    "no source is named; say where the secrets are by --from URL, by the variable {FROM}, \
                     or by a profile in {}",
                    place.file().display()
                ),
            ));
        }
        Ok(Self {
            provider: secretwell::from_url(&urls.join(","))?,
            urls,
            profile,
        })
    }

    /// The secrets that count: the command line's word, or else the profile's.
    pub(crate) fn wanted(&self, selection: &Selection) -> Wanted {
        let (profile, named) = (&self.profile, selection.map.iter().map(|(key, _)| key));
        if !selection.only.is_empty() {
            return Wanted::Only(unique(selection.only.iter().chain(named)));
        }
        let required = profile.require.iter().chain(named);
        if !profile.only.is_empty() {
            return Wanted::Only(unique(profile.only.iter().chain(required)));
        }
        // A name is given to a secret that there should be.
        let mapped = profile.map.iter().map(|(key, _)| key);
        Wanted::All {
            require: unique(required.chain(mapped)),
        }
    }

    /// The names of their variables: the command line's first, then the profile's.
    pub(crate) fn naming(&self, selection: &Selection) -> Naming {
        let prefix = selection.prefix.as_ref().or(self.profile.prefix.as_ref());
        let maps = self.profile.map.iter().chain(&selection.map);
        Naming::new(prefix.map_or("", String::as_str), maps.cloned())
    }
}

fn read_profile(place: &Place) -> Result<Profile, Failure> {
    let name = match &place.profile {
        Some(name) => name.clone(),
        None => Mode::from_env()?.to_string(),
    };
    Profile::read(place.file(), &name)
}

/// The keys without those that came before.
fn unique<'a>(keys: impl Iterator<Item = &'a SecretKey>) -> Vec<SecretKey> {
    let mut unique = Vec::new();
    for key in keys {
        if !unique.contains(key) {
            unique.push(key.clone());
        }
    }
    unique
}
