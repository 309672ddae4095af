//! Cookies that the service shares with a JavaScript application: [`Cookie`] reads them from a request,
//! and writes and clears them in a response.

mod attributes;
#[cfg(test)]
pub(super) mod browser;
mod candidates;
mod header;
#[cfg(test)]
mod tests;

use std::time::Duration;

use secretwell_core::Error;

use super::error::TokenError;
use super::text;
use attributes::Attributes;
pub use attributes::{SameSite, Scheme};
#[cfg(feature = "tower")]
pub(super) use header::bearer_token;
#[cfg(feature = "tower")]
pub use header::cookies;
pub(super) use header::pairs;

/// Maximum length of a `Set-Cookie` header. Browsers ignore a cookie whose name and value are longer than
/// 4096 bytes. Some include the attributes.
pub(super) const MAX_LINE: usize = 4096;
/// Maximum lifetime of a cookie: 400 days. Browsers shorten a longer one.
const MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// Default of [`Limits::total`]: Node.js rejects requests whose headers exceed 16 KiB. A quarter is left
/// for the other headers and cookies.
pub(super) const DEFAULT_TOTAL: usize = 12 * 1024;
/// The number of bytes that a renewed value can exceed [`Limits::total`] or the current cookies by. A
/// renewed token can contain an identifier and the name of its key for the first time.
const RENEWAL_MARGIN: usize = 1024;

/// The limits of the cookies of one value. A value that is too long for one cookie is split into chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum length of the value in one cookie, in bytes.
    pub(super) value: usize,
    /// Maximum length of one `Set-Cookie` header, in bytes. At most 4096.
    pub(super) line: usize,
    /// Maximum number of cookies. If it is 1, values are not split, and chunks are not read.
    pub(super) chunks: usize,
    /// Maximum length of all cookies of the value in a request, in bytes.
    pub(super) total: usize,
}

impl Limits {
    /// The limits of a cookie that is not split.
    pub(super) const WHOLE: Self = Self {
        value: MAX_LINE,
        line: MAX_LINE,
        chunks: 1,
        total: MAX_LINE,
    };
}

/// A cookie with its name, attributes and limits.
///
/// A value that is too long for one cookie is split into chunks, whose names end with `.0`, `.1` and so
/// on.
#[derive(Debug, Clone)]
pub(super) struct Cookie {
    name: String,
    attributes: Attributes,
    limits: Limits,
}

impl Cookie {
    /// Creates a cookie for the path `/` of one host, with `SameSite=Lax`.
    ///
    /// `name` must be valid. A configured name is set by [`with_name`](Self::with_name).
    pub(super) fn new(name: impl Into<String>, scheme: Scheme, limits: Limits) -> Self {
        Self {
            name: name.into(),
            attributes: Attributes::new(scheme),
            limits,
        }
    }

    /// Sets another name. The cookie remains `Secure` if it was.
    pub(super) fn with_name(mut self, name: impl Into<String>) -> Result<Self, Error> {
        self.name = name.into();
        self.checked()
    }

    pub(super) fn domain(mut self, domain: &str) -> Result<Self, Error> {
        self.attributes.set_domain(domain)?;
        self.checked()
    }

    pub(super) fn path(mut self, path: impl Into<String>) -> Result<Self, Error> {
        self.attributes.path = path.into();
        self.checked()
    }

    pub(super) fn same_site(mut self, same_site: SameSite) -> Result<Self, Error> {
        self.attributes.same_site = same_site;
        self.checked()
    }

    pub(super) fn partitioned(mut self) -> Result<Self, Error> {
        self.attributes.partitioned = true;
        self.checked()
    }

    pub(super) fn max_total(mut self, bytes: usize) -> Self {
        self.limits.total = bytes;
        self
    }

    fn checked(self) -> Result<Self, Error> {
        self.attributes.check(&self.name)?;
        Ok(self)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the scheme of the application that sets the cookie.
    #[cfg(feature = "authjs")]
    pub(super) fn scheme(&self) -> Scheme {
        match self.attributes.is_secure(&self.name) {
            true => Scheme::Https,
            false => Scheme::Http,
        }
    }

    /// Returns whether a cookie of this name contains the value or a chunk of it.
    pub(super) fn owns(&self, name: &str) -> bool {
        name == self.name || self.chunk_index(name).is_some()
    }

    /// Returns the values in a `Cookie` header that can be the value of this cookie, in the order in
    /// which to try them. Empty values are omitted.
    ///
    /// Several cookies can have one name, if they differ in their domain or path. The header does not
    /// contain these. Single cookies come first, in the order of the header, then joined chunks. Each
    /// kind is limited to a few values, so an arbitrary header costs only a few attempts.
    #[cfg(any(feature = "authjs", test))]
    pub(super) fn candidates<'a>(&'a self, header: &'a str) -> impl Iterator<Item = String> + 'a {
        self.whole(header)
            .chain(std::iter::once_with(|| self.joined(header)).flatten())
    }

    /// Returns those of the [`candidates`](Self::candidates) that are not split.
    pub(super) fn whole<'a>(&'a self, header: &'a str) -> impl Iterator<Item = String> + 'a {
        let whole = pairs(header).filter(|(name, _)| *name == self.name);
        candidates::of_cookies(whole.map(|(_, value)| value))
    }

    /// Returns those of the [`candidates`](Self::candidates) that are split.
    pub(super) fn joined<'a>(&'a self, header: &'a str) -> impl Iterator<Item = String> + 'a {
        let chunks =
            pairs(header).filter_map(|(name, value)| Some((self.chunk_index(name)?, value)));
        candidates::of_chunks(chunks)
    }

    /// Returns the `Set-Cookie` headers that set `value`.
    ///
    /// `max_age` of `None` means that the browser deletes the cookie when it is closed. `request` is the
    /// `Cookie` header of the request. The headers also clear its cookies that the value does not
    /// overwrite: other chunks, and cookies of this host beside a cookie of the domain.
    ///
    /// # Errors
    /// Returns [`TokenError::TooLarge`] if the value exceeds the limits. The sum of its cookies may exceed
    /// its limit if the request already contained cookies of this size.
    pub(super) fn set(
        &self,
        value: &str,
        max_age: Option<Duration>,
        request: &str,
    ) -> Result<Vec<String>, TokenError> {
        let max_age = max_age.map(|age| age.min(MAX_AGE));
        let max_value = self.max_value(max_age);
        if max_value < LONGEST_CHARACTER {
            return Err(TokenError::TooLarge);
        }
        let values = split(value, max_value);
        if values.len() > self.limits.chunks {
            return Err(TokenError::TooLarge);
        }
        let is_split = values.len() > 1;
        let name = |index| match is_split {
            true => format!("{}.{index}", self.name),
            false => self.name.clone(),
        };
        let written: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(index, value)| (name(index), value))
            .collect();
        let size = |(name, value): (&str, &str)| name.len() + "=; ".len() + value.len();
        let total: usize = written
            .iter()
            .map(|(name, value)| size((name, value)))
            .sum();
        let current: usize = self.pairs_of(request).map(size).sum();
        if total
            > self
                .limits
                .total
                .max(current.saturating_add(RENEWAL_MARGIN))
        {
            return Err(TokenError::TooLarge);
        }

        let mut headers = self.clear_host_only(request);
        let attributes = &self.attributes;
        headers.extend(
            written
                .iter()
                .map(|(name, value)| attributes.header(name, value, max_age)),
        );
        let leftover = self.names_in(request).into_iter();
        let leftover = leftover.filter(|name| written.iter().all(|(written, _)| written != name));
        headers.extend(leftover.map(|name| attributes.clear(name)));
        Ok(headers)
    }

    /// Returns the `Set-Cookie` header that sets `value` in one cookie.
    #[cfg(feature = "authjs")]
    pub(super) fn header(&self, value: &str, max_age: Option<Duration>) -> String {
        let value = text::percent_encode(value);
        self.attributes.header(&self.name, &value, max_age)
    }

    /// Returns the `Set-Cookie` headers that clear the cookies in a request's `Cookie` header.
    ///
    /// For a cookie of a domain, they also clear the cookies of this host only.
    pub(super) fn clear(&self, request: &str) -> Vec<String> {
        let mut headers = self.clear_host_only(request);
        let names = self.names_in(request).into_iter();
        headers.extend(names.map(|name| self.attributes.clear(name)));
        headers
    }

    /// Returns the `Set-Cookie` headers that clear the cookies of this host only. Empty if the cookie has
    /// no domain.
    ///
    /// A browser sends such a cookie in addition to that of the domain, and the application does not
    /// clear it. It was set before the domain was configured.
    pub(super) fn clear_host_only(&self, request: &str) -> Vec<String> {
        let Some(attributes) = self.attributes.host_only() else {
            return Vec::new();
        };
        let names = self.names_in(request).into_iter();
        names.map(|name| attributes.clear(name)).collect()
    }

    /// Returns the maximum length of the value in one cookie. It leaves space for the attributes.
    fn max_value(&self, max_age: Option<Duration>) -> usize {
        let longest_name = format!("{}.99", self.name);
        let overhead = self.attributes.header(&longest_name, "", max_age).len();
        let line = self.limits.line.min(MAX_LINE);
        self.limits.value.min(line.saturating_sub(overhead))
    }

    /// Returns the cookies of a `Cookie` header that belong to this cookie.
    fn pairs_of<'a>(&'a self, header: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        pairs(header).filter(|(name, _)| self.owns(name))
    }

    /// Returns the names of [`pairs_of`](Self::pairs_of), each once.
    fn names_in<'a>(&'a self, header: &'a str) -> Vec<&'a str> {
        let mut names: Vec<&str> = self.pairs_of(header).map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Parses the index of a chunk from the name of its cookie.
    fn chunk_index(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(self.name.as_str())?.strip_prefix('.')?;
        let index: usize = digits.parse().ok()?;
        let is_plain = index.to_string() == digits;
        (is_plain && index < self.limits.chunks && self.limits.chunks > 1).then_some(index)
    }
}

/// Maximum length of a percent-encoded character (`%F0%9F%98%80`).
const LONGEST_CHARACTER: usize = 12;

/// Percent-encodes `value` and splits it into parts of at most `max` bytes. An encoded character is not
/// split.
fn split(value: &str, max: usize) -> Vec<String> {
    let (mut parts, mut part, mut encoded) = (Vec::new(), String::new(), String::new());
    for character in value.chars() {
        encoded.clear();
        text::push_percent_encoded(&mut encoded, character);
        if part.len() + encoded.len() > max {
            parts.push(std::mem::take(&mut part));
        }
        part += &encoded;
    }
    parts.push(part);
    parts
}
