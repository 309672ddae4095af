//! HMAC-SHA256 with the secrets of the application, without a derivation of keys.

use hmac::{Hmac, KeyInit, Mac};
use secretwell_core::{Error, ErrorKind, SecretValue};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use super::secrets::BetterAuthSecrets;

/// Length of a tag in bytes.
pub(super) const TAG: usize = 32;

/// The keys of all secrets.
pub(super) struct MacKeys {
    /// The first signs. It is never empty.
    current: Vec<Hmac<Sha256>>,
    older: Vec<Hmac<Sha256>>,
}

/// Which secret a tag belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    Current,
    Older,
}

/// Which secrets are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    Current,
    All,
}

#[cfg(test)]
thread_local! {
    /// Number of tags that were computed and compared on this thread.
    pub(super) static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl MacKeys {
    pub(super) fn new(secrets: &BetterAuthSecrets) -> Result<Self, Error> {
        let keys = |secrets: &[SecretValue]| secrets.iter().map(key).collect::<Result<_, _>>();
        Ok(Self {
            current: keys(secrets.current_secrets())?,
            older: keys(secrets.older_secrets())?,
        })
    }

    /// Returns the tag of a text that consists of `parts`, by the current secret.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> [u8; TAG] {
        tag(&self.current[0], parts)
    }

    /// Returns which of the accepted secrets has signed a text that consists of `parts`, or `None`.
    ///
    /// The number of comparisons depends on the number of secrets only, and each takes constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], given: &[u8], accept: Accept) -> Option<Signer> {
        let older = match accept {
            Accept::Current => &[],
            Accept::All => self.older.as_slice(),
        };
        let matches = |keys: &[Hmac<Sha256>]| {
            let equal = keys.iter().map(|key| {
                #[cfg(test)]
                COMPARISONS.set(COMPARISONS.get() + 1);
                tag(key, parts).ct_eq(given)
            });
            equal.fold(Choice::from(0), |any, equal| any | equal)
        };
        let (current, older) = (matches(&self.current), matches(older));
        match (bool::from(current), bool::from(older)) {
            (true, _) => Some(Signer::Current),
            (false, true) => Some(Signer::Older),
            (false, false) => None,
        }
    }
}

fn key(secret: &SecretValue) -> Result<Hmac<Sha256>, Error> {
    Hmac::new_from_slice(secret.expose_bytes())
        .map_err(|_| Error::new(ErrorKind::Invalid, "the secret cannot be used as a key"))
}

fn tag(key: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; TAG] {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HMAC appends zero bytes to a short key, so different secrets can have the same tags.
    #[test]
    fn tag_of_two_secrets_is_accepted() {
        let key = |secret: &str| key(&secret.into()).unwrap();
        let equal = || vec![key("secret"), key("secret\0"), key("other")];
        let keys = MacKeys {
            current: equal(),
            older: Vec::new(),
        };
        let given = keys.sign(&[b"text"]);
        let verify = |keys: &MacKeys| keys.verify(&[b"text"], &given, Accept::All);
        assert_eq!(verify(&keys), Some(Signer::Current));
        let keys = MacKeys {
            current: vec![key("new")],
            older: equal(),
        };
        assert_eq!(verify(&keys), Some(Signer::Older));
    }
}
