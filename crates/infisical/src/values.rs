//! The values of listed secrets. A value whose list is not reliable is read again with a separate request.

use secretwell_core::{Error, ErrorKind, Secret, Version};

use crate::api::SecretsQuery;
use crate::lists::Lists;
use crate::reference::{references, without_empty_references};
use crate::settings::ApiVersion;
use crate::wire::{self, Entry, Listing, SecretType, View};

/// The maximum length in characters of a name in a request. The server's router rejects longer ones.
const MAX_NAME_CHARS: usize = 100;

/// A secret in a list.
pub(crate) struct Listed<'a> {
    pub(crate) folder: &'a str,
    pub(crate) name: &'a str,
    pub(crate) entry: &'a Entry,
    /// The list with the secret.
    pub(crate) listing: &'a Listing,
}

impl Lists {
    /// Returns the secret of a listed entry. These entries are read again by themselves, because their list
    /// does not have the value:
    ///
    /// - Older servers sometimes expand the references in a list only partially.
    /// - A list with a [restricted view](View) has raw values or no values.
    /// - Servers return several lines of a referenced secret as one line in quotes.
    pub(crate) async fn value(&self, listed: &Listed<'_>) -> Result<Secret, Error> {
        let Listed { entry, listing, .. } = listed;
        let mut reference = None;
        if listing.view() != View::Names {
            let secret = entry.secret()?;
            if !self.api.settings.expand {
                return Ok(secret);
            }
            reference = match listing.view() {
                View::Raw => {
                    let found = references(secret.value.expose_text()?).next();
                    match found.map(|reference| reference.name.to_owned()) {
                        None => return Ok(secret),
                        reference => reference,
                    }
                }
                _ => match self.resolve(listed, secret)? {
                    Ok(secret) if entry.might_be_encoded_lines() => {
                        return Box::pin(self.require_stored_lines(listed, secret)).await;
                    }
                    Ok(secret) => return Ok(secret),
                    Err(reference) => Some(reference),
                },
            };
        }
        if let Some(result) = entry.single_read() {
            return result;
        }
        // Most values need no request, so its large future is allocated only here.
        let result = Box::pin(self.read_single(listed, reference.as_deref())).await;
        if is_reusable(listing, reference.as_deref(), &result) {
            entry.record_single_read(&result);
        }
        result
    }

    /// Reads one listed secret. `reference` is the first reference in its listed value.
    async fn read_single(
        &self,
        listed: &Listed<'_>,
        reference: Option<&str>,
    ) -> Result<Secret, Error> {
        check_length(listed.name)?;
        let mut query = SecretsQuery::single(listed.folder, listed.name);
        let is_personal = listed.entry.secret_type() == SecretType::Personal;
        if is_personal {
            query = query.personal();
        }
        let response = self.api.fetch_secrets(&query, None).await?;
        let unresolved = reference.map(wire::unresolved_reference);
        // The server responds like this to a reference into a missing folder. The error is temporary,
        // because an outage that has just begun might cause the same response.
        let is_broken = wire::is_internal_error(&response) || wire::is_missing_place(&response);
        if let Some(error) = unresolved.clone().filter(|_| is_broken) {
            return Err(error.temporary());
        }
        let entry = match wire::parse_single(&response) {
            // Not every server returns the login's own value in a single read.
            Err(error) if is_personal && error.is_not_found() => {
                return Err(unresolved.unwrap_or(error));
            }
            result => result?,
        };
        if entry.secret_type() != listed.entry.secret_type()
            && let Some(error) = unresolved
        {
            return Err(error);
        }
        let secret = entry.secret()?;
        if !self.api.settings.expand {
            return Ok(secret);
        }
        let resolved = self.resolve(listed, secret)?;
        resolved.map_err(|reference| wire::unresolved_reference(&reference))
    }

    /// Returns an expanded secret in which no reference is left. If it contains an unexpanded reference, returns
    /// the reference's name.
    fn resolve(
        &self,
        listed: &Listed<'_>,
        mut secret: Secret,
    ) -> Result<Result<Secret, String>, Error> {
        let text = secret.value.expose_text()?;
        let is_v4 = self.api.version() == Some(ApiVersion::V4);
        let is_empty = |name: &str| listed.listing.is_empty_secret(listed.folder, name);
        Ok(match without_empty_references(text, is_v4, is_empty) {
            Ok(None) => Ok(secret),
            Ok(Some(value)) => {
                secret.value = value;
                Ok(secret)
            }
            Err(reference) => Err(reference.to_owned()),
        })
    }

    /// Returns `secret`, whose value has the form of lines that the server has encoded.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the value is not stored in this form. The encoding cannot be
    /// reversed, because the lines might have contained the same characters.
    async fn require_stored_lines(
        &self,
        listed: &Listed<'_>,
        secret: Secret,
    ) -> Result<Secret, Error> {
        if let Some(result) = listed.entry.single_read() {
            return result;
        }
        check_length(listed.name)?;
        let query = SecretsQuery::single(listed.folder, listed.name).view(View::Raw);
        let stored = wire::parse_single(&self.api.fetch_secrets(&query, None).await?)?.secret()?;
        let result = match stored.value == secret.value {
            true => Ok(secret),
            false => {
                let message =
                    "the server returned the lines of a referenced secret as one line in quotes";
                Err(Error::new(ErrorKind::Invalid, message).with_hint(
                    "turn off multi-line encoding for this secret in Infisical, or read the referenced \
                     secret itself",
                ))
            }
        };
        listed.entry.record_single_read(&result);
        result
    }

    /// Reads one version of a secret.
    pub(crate) async fn version(
        &self,
        folder: &str,
        name: &str,
        version: &Version,
    ) -> Result<Secret, Error> {
        let Some(number) = version.number().filter(|number| *number > 0) else {
            let message = "versions are numbers that start at 1";
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        check_length(name)?;
        let query = SecretsQuery::single(folder, name).version(number);
        let response = self.api.fetch_secrets(&query, None).await?;
        let entry = match wire::parse_single(&response) {
            Err(error) if wire::is_missing_place(&response) => {
                return Err(self.missing_place(folder, error).await);
            }
            result => result?,
        };
        if entry.version().number() != version.number() {
            let message = "the server returned another version than the requested one";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("use a newer server, and check that the version exists"));
        }
        let secret = entry.secret()?;
        if !self.api.settings.expand {
            return Ok(secret);
        }
        let listed = Listed {
            folder,
            name,
            entry: &entry,
            listing: &Listing::default(),
        };
        let resolved = self.resolve(&listed, secret)?;
        resolved.map_err(|reference| wire::unresolved_reference(&reference))
    }
}

/// Returns whether the result of a single read stays valid while the list is unchanged. `reference` is the
/// first reference in the list. If it leads into another folder, its value can change without a change of
/// the list. A list of raw values does not change either when a referenced value changes.
fn is_reusable(listing: &Listing, reference: Option<&str>, result: &Result<Secret, Error>) -> bool {
    let is_local = reference.is_some_and(|reference| !reference.contains('.'));
    listing.view() == View::Expanded
        && match result {
            Ok(_) => is_local,
            Err(error) => {
                let is_final = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Denied);
                is_final && !error.is_temporary()
            }
        }
}

/// Checks that a name is short enough for a request. A longer one can only be read from a list.
fn check_length(name: &str) -> Result<(), Error> {
    match name.chars().count() > MAX_NAME_CHARS {
        false => Ok(()),
        true => {
            let message = "the secret's name is too long for a request of this secret alone";
            Err(Error::new(ErrorKind::InvalidKey, message)
                .with_hint(format!("use at most {MAX_NAME_CHARS} characters")))
        }
    }
}
