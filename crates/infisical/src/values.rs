//! The values of listed secrets. A value whose list is not reliable is read again with a separate request.

use std::collections::HashSet;
use std::time::UNIX_EPOCH;

use http::StatusCode;
use secretwell_core::{Error, ErrorKind, Secret, Version};
use secretwell_http::Response;

use crate::api::SecretsQuery;
use crate::lists::Lists;
use crate::reference::{Meaning, Reference, references, without_empty_references};
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

impl<'a> Listed<'a> {
    /// Returns the request for this secret alone.
    fn query(&self) -> Result<SecretsQuery<'a>, Error> {
        check_length(self.name)?;
        let query = SecretsQuery::single(self.folder, self.name);
        Ok(match self.entry.secret_type() {
            SecretType::Personal => query.personal(),
            SecretType::Shared => query,
        })
    }
}

/// Why a secret is read again by itself. Its list does not have the value.
pub(crate) enum Doubt {
    /// Servers return several lines of a referenced secret as one line in quotes, like this value.
    Line(Box<Secret>),
    /// The value has this unexpanded reference. Older servers sometimes expand a list only partially, and a list with a
    /// [restricted view](View) has raw values.
    Reference(String),
    /// The list has a restricted view without values.
    Hidden,
}

impl Lists {
    /// Returns the result for a listed entry, or why it needs a request. An earlier [`read_again`](Self::read_again)
    /// might have recorded the result.
    pub(crate) fn value(&self, listed: &Listed<'_>) -> Result<Result<Secret, Error>, Doubt> {
        let shown = self.shown(listed);
        shown.or_else(|doubt| listed.entry.single_read().ok_or(doubt))
    }

    /// Returns the result for an entry whose list has the value.
    fn shown(&self, listed: &Listed<'_>) -> Result<Result<Secret, Error>, Doubt> {
        let Listed {
            folder,
            entry,
            listing,
            ..
        } = listed;
        if listing.view() == View::Names {
            return Err(Doubt::Hidden);
        }
        let secret = entry.secret();
        if !self.api.settings.expand {
            return Ok(secret);
        }
        let meaning = |reference: &Reference<'_>| match reference.name {
            _ if self.is_text(reference) => Meaning::Text,
            name if listing.is_empty_secret(folder, name) => Meaning::Empty,
            _ => Meaning::Unresolved,
        };
        // The server encodes lines only while it expands a value.
        let might_be_encoded = listing.view() == View::Expanded && entry.might_be_encoded_lines();
        match secret.and_then(|secret| resolve(secret, meaning)) {
            Ok(Ok(secret)) if might_be_encoded => Err(Doubt::Line(Box::new(secret))),
            Ok(Ok(secret)) => Ok(Ok(secret)),
            Ok(Err(reference)) => Err(Doubt::Reference(reference)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Reads a listed entry by itself.
    pub(crate) async fn read_again(
        &self,
        listed: &Listed<'_>,
        doubt: &Doubt,
    ) -> Result<Secret, Error> {
        let (result, is_stable) = match doubt {
            Doubt::Line(secret) => {
                let query = listed.query()?;
                let result = self.require_stored_line(listed.name, query, secret).await;
                (result, true)
            }
            Doubt::Reference(reference) => {
                let result = self.read_single(listed, Some(reference)).await;
                (result, has_stable_references(listed))
            }
            Doubt::Hidden => (self.read_single(listed, None).await, false),
        };
        if is_reusable(listed.listing, is_stable, &result) {
            listed.entry.record_single_read(&result);
        }
        result
    }

    /// Reads one listed secret. `reference` is the first unresolved reference in its listed value.
    async fn read_single(
        &self,
        listed: &Listed<'_>,
        reference: Option<&str>,
    ) -> Result<Secret, Error> {
        if listed.entry.is_imported() && self.resolves_imports_in_lists(listed.listing) {
            return self.read_import(listed, reference).await;
        }
        let query = listed.query()?;
        let is_personal = listed.entry.secret_type() == SecretType::Personal;
        let response = self.api.fetch_secrets(&query, None).await?;
        let unresolved = reference.map(wire::unresolved_reference);
        // The server responds like this to a reference into a missing folder. The error is temporary,
        // because an outage that has just begun might cause the same response.
        let is_broken = wire::is_internal_error(&response) || wire::is_missing_place(&response);
        if let Some(error) = unresolved.clone().filter(|_| is_broken) {
            return Err(error.temporary());
        }
        // Not every server returns the login's own value in a single read.
        let no_personal_value = || unresolved.clone().unwrap_or_else(wire::no_personal_value);
        let entry = match listed_entry(&response, listed.name) {
            Err(_) if is_personal && response.status == StatusCode::NOT_FOUND => {
                return Err(no_personal_value());
            }
            result => result?,
        };
        if entry.secret_type() != listed.entry.secret_type() {
            return Err(no_personal_value());
        }
        self.complete(listed, query, &entry).await
    }

    /// Returns whether the references of imported secrets lead to secrets of the importing folder. Newer servers
    /// resolve them in this way, but only in lists. In a read of one secret, they lead to the imported folder.
    /// Only newer servers require a restricted view.
    fn resolves_imports_in_lists(&self, listing: &Listing) -> bool {
        self.api.version() == Some(ApiVersion::V4) || listing.view() != View::Expanded
    }

    /// Reads an imported secret without expansion. Its value is known only if it has no references.
    async fn read_import(
        &self,
        listed: &Listed<'_>,
        reference: Option<&str>,
    ) -> Result<Secret, Error> {
        let unresolved = |reference: &str| match listed.listing.view() {
            View::Expanded => wire::unresolved_reference(reference),
            _ => wire::unexpanded_import(reference),
        };
        if let Some(reference) = reference {
            return Err(unresolved(reference));
        }
        let response = self
            .api
            .fetch_secrets(&listed.query()?.view(View::Raw), None)
            .await?;
        let secret = listed_entry(&response, listed.name)?.secret()?;
        let meaning = |reference: &Reference<'_>| match self.is_text(reference) {
            true => Meaning::Text,
            false => Meaning::Unresolved,
        };
        match self.api.settings.expand {
            true => resolve(secret, meaning)?.map_err(|reference| unresolved(&reference)),
            false => Ok(secret),
        }
    }

    /// Returns the secret of a single read, after checking that it is completely expanded.
    async fn complete(
        &self,
        listed: &Listed<'_>,
        query: SecretsQuery<'_>,
        entry: &Entry,
    ) -> Result<Secret, Error> {
        let secret = entry.secret()?;
        if !self.api.settings.expand {
            return Ok(secret);
        }
        let empty = self.empty_elsewhere(listed, &secret).await?;
        let resolved = resolve(secret, |it| self.meaning(listed, it, &empty))?;
        let secret = resolved.map_err(|reference| wire::unresolved_reference(&reference))?;
        match entry.might_be_encoded_lines() {
            true => self.require_stored_line(listed.name, query, &secret).await,
            false => Ok(secret),
        }
    }

    /// Returns whether the server never replaces such a reference.
    fn is_text(&self, reference: &Reference<'_>) -> bool {
        reference.is_legacy && self.api.version() == Some(ApiVersion::V4)
    }

    /// Returns the meaning of a reference in the value of a single read. `empty` has the names of references to empty
    /// secrets of other folders.
    fn meaning(
        &self,
        listed: &Listed<'_>,
        reference: &Reference<'_>,
        empty: &HashSet<String>,
    ) -> Meaning {
        let Listed {
            folder, listing, ..
        } = listed;
        match reference.name {
            _ if self.is_text(reference) => Meaning::Text,
            name if listing.is_empty_secret(folder, name) || empty.contains(name) => Meaning::Empty,
            // The server would have replaced it with the value of such a secret.
            name if reference.is_unusual
                && !name.contains('.')
                && listing.find(folder, name).is_none() =>
            {
                Meaning::Text
            }
            _ => Meaning::Unresolved,
        }
    }

    /// Returns the names of the references to empty secrets of other folders. Older servers leave these references as
    /// they are. The search ends with the first unresolved reference, because the value is then invalid.
    async fn empty_elsewhere(
        &self,
        listed: &Listed<'_>,
        secret: &Secret,
    ) -> Result<HashSet<String>, Error> {
        let mut empty = HashSet::new();
        for reference in references(secret.value.expose_text()?) {
            if self.meaning(listed, &reference, &empty) != Meaning::Unresolved {
                continue;
            }
            if !self.is_empty_elsewhere(&reference).await? {
                break;
            }
            empty.insert(reference.name.to_owned());
        }
        Ok(empty)
    }

    /// Returns whether a reference such as `environment.folder.NAME` leads to an empty secret.
    ///
    /// # Errors
    /// Returns an error if the read of that secret fails and might succeed later.
    async fn is_empty_elsewhere(&self, reference: &Reference<'_>) -> Result<bool, Error> {
        let parts = reference
            .name
            .rsplit_once('.')
            .filter(|_| self.api.version() == Some(ApiVersion::V3));
        // A text with other characters might be a part of a secret value, which does not belong into a request.
        let is_plain = |place: &str| {
            !reference.is_unusual && !place.contains(['*', '%']) && !place.contains("..")
        };
        let Some((place, name)) =
            parts.filter(|(place, name)| is_plain(place) && check_length(name).is_ok())
        else {
            return Ok(false);
        };
        let (environment, folders) = place.split_once('.').unwrap_or((place, ""));
        let folder = format!("/{}", folders.replace('.', "/"));
        let query = SecretsQuery::single(&folder, name).environment(environment);
        let response = self.api.fetch_secrets(&query, None).await?;
        match wire::parse_single(&response, name).and_then(|entry| entry.secret()) {
            Ok(secret) => Ok(secret.value.is_empty()),
            Err(error) if error.is_temporary() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Returns the secret `name`, whose value has the form of lines that the server has encoded. `query` requested it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the value is not stored in this form. The encoding cannot be
    /// reversed, because the lines might have contained the same characters.
    async fn require_stored_line(
        &self,
        name: &str,
        query: SecretsQuery<'_>,
        secret: &Secret,
    ) -> Result<Secret, Error> {
        let response = self.api.fetch_secrets(&query.view(View::Raw), None).await?;
        let stored = listed_entry(&response, name)?.secret()?;
        if stored.value == secret.value {
            return Ok(secret.clone());
        }
        let message = "the server returned the lines of a referenced secret as one line in quotes";
        Err(Error::new(ErrorKind::Invalid, message).with_hint(
            "turn off multi-line encoding for this secret in Infisical, or read the referenced secret itself",
        ))
    }

    /// Reads one version of a secret. Servers find it by the name of the secret. It can therefore belong to a deleted
    /// secret or to an imported one, or to the folder of a service token.
    ///
    /// # Errors
    /// Returns [`ErrorKind::NotFound`] if the version does not belong to the secret that the folder's list contains.
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
        let entry = match wire::parse_single(&response, name) {
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
        let belongs_to_listed = |listing: &Listing| {
            let current = listing.find(folder, name).map(Entry::version);
            let is_current =
                current.is_some_and(|current| is_same_secret(current, entry.version()));
            is_current && is_same_secret(version, entry.version())
        };
        // The versions of a history are read one after the other, so that one list is enough.
        let mut listing = self.list_for(folder, true).await?;
        if !belongs_to_listed(&listing) {
            listing = self.list(folder, false).await?;
        }
        if !belongs_to_listed(&listing) {
            return Err(wire::other_secret());
        }
        let listed = Listed {
            folder,
            name,
            entry: &entry,
            listing: &listing,
        };
        self.complete(&listed, query, &entry).await
    }
}

/// Returns an expanded secret without its references to empty secrets, or the name of the first unresolved
/// reference.
fn resolve(
    mut secret: Secret,
    meaning: impl Fn(&Reference<'_>) -> Meaning,
) -> Result<Result<Secret, String>, Error> {
    let resolved = match without_empty_references(secret.value.expose_text()?, meaning) {
        Err(reference) => return Ok(Err(reference.to_owned())),
        Ok(resolved) => resolved,
    };
    if let Some(value) = resolved {
        secret.value = value;
    }
    Ok(Ok(secret))
}

/// Returns whether the result of a single read can change only with the list: all references in the listed value lead
/// to the same folder, and the referenced values have no references.
fn has_stable_references(listed: &Listed<'_>) -> bool {
    let Listed {
        folder, listing, ..
    } = listed;
    let is_stable = |name: &str| {
        let referenced = listing.find(folder, name);
        !name.contains('.')
            && referenced.is_none_or(|entry| entry.text().is_some_and(|it| !it.contains("${")))
    };
    let text = listed.entry.text();
    text.is_some_and(|text| references(text).all(|reference| is_stable(reference.name)))
}

/// Returns whether the result of a single read stays valid while the list is unchanged. A list of raw values does
/// not change when a referenced value changes. `is_stable` is whether a value can change only with the list.
fn is_reusable(listing: &Listing, is_stable: bool, result: &Result<Secret, Error>) -> bool {
    let is_final = result.as_ref().err().is_none_or(|error| {
        matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Denied) && !error.is_temporary()
    });
    listing.view() == View::Expanded && is_stable && is_final
}

/// Parses the response to a read of the secret `name`, which a list contains.
fn listed_entry(response: &Response, name: &str) -> Result<Entry, Error> {
    wire::parse_single(response, name).map_err(|error| match error.is_not_found() {
        true => wire::not_returned(),
        false => error,
    })
}

/// Returns whether two versions belong to the same secret, as far as both have an identity.
fn is_same_secret(one: &Version, other: &Version) -> bool {
    let without_time = |version: &Version| version.clone().with_created_at(UNIX_EPOCH);
    let has_same_identity = |one: &Version, other: &Version| {
        let (one, other) = (without_time(one), without_time(other));
        one == other || one.is_older_than(&other) || other.is_older_than(&one)
    };
    let is_unidentified = |version: &Version| {
        let number = version.number().unwrap_or_default();
        has_same_identity(version, &Version::numbered(number))
    };
    has_same_identity(one, other) || is_unidentified(one) || is_unidentified(other)
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

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::wire::Scope;

    #[test]
    fn versions_of_one_secret_have_one_identity() {
        let version = |id: &str, number| {
            let time = UNIX_EPOCH + std::time::Duration::from_secs(number);
            let version = Version::numbered(number).with_created_at(time);
            version.with_identity(id)
        };
        for (one, other) in [(1, 1), (1, 2), (2, 1)] {
            assert!(is_same_secret(&version("a", one), &version("a", other)));
            assert!(!is_same_secret(&version("a", one), &version("b", other)));
            let unidentified = Version::numbered(other);
            assert!(is_same_secret(&version("a", one), &unidentified));
            assert!(is_same_secret(&unidentified, &version("a", one)));
        }
    }

    #[test]
    fn read_is_stable_only_if_the_referenced_values_have_no_references() {
        let secret = |(name, value): (&str, &str)| {
            format!(r#"{{"secretKey":"{name}","secretValue":"{value}","version":1}}"#)
        };
        let secrets = [
            ("PLAIN", "value"),
            ("LOCAL", "<${PLAIN}${MISSING}>"),
            ("REMOTE", "${prod.x.Y}"),
            ("INDIRECT", "${PLAIN}${REMOTE}"),
        ];
        let body = format!(r#"{{"secrets":[{}]}}"#, secrets.map(secret).join(","));
        let response = Response::new(StatusCode::OK, HeaderMap::new(), body.into_bytes());
        let scope = Scope {
            folder: "/",
            recursive: false,
            view: View::Expanded,
            personal: false,
        };
        let listing = Listing::parse(&response, scope).unwrap();
        let is_stable = |name| {
            let entry = listing.find("/", name).unwrap();
            has_stable_references(&Listed {
                folder: "/",
                name,
                entry,
                listing: &listing,
            })
        };
        assert!(is_stable("PLAIN"));
        assert!(is_stable("LOCAL"));
        assert!(!is_stable("REMOTE"));
        assert!(!is_stable("INDIRECT"));
    }
}
