//! Notices: what a source contains in addition to readable keys.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::{Origin, SecretKey};

/// The maximum length of a name in a notice, in characters.
const MAX_NAME_CHARS: usize = 100;
/// The maximum number of notices of one call.
const MAX_NOTICES: usize = 1_000;

/// Something in a source that its operator should know and that reading a key might not report.
///
/// [`SecretProvider::notices`](crate::SecretProvider::notices) returns them. The text must never contain a secret
/// value. The creator of a notice is responsible for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Notice {
    /// The category.
    pub kind: NoticeKind,
    /// The name in the source. Characters that cannot be printed are escaped, and a long name is cut. The name is
    /// empty if the entry has none.
    pub name: String,
    /// The key of that name, if there is one.
    pub key: Option<SecretKey>,
    /// The source. A provider can leave it out, because the caller knows it. A [`Chain`](crate::Chain) adds it.
    pub origin: Option<Origin>,
    /// What was found, such as `line 12: Next.js reads another value`.
    pub message: Cow<'static, str>,
    /// What to do.
    pub hint: Option<Cow<'static, str>>,
}

/// The category of a [`Notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoticeKind {
    /// The name cannot be a key, so its secret cannot be read and is not listed.
    NotAKey,
    /// The entry cannot be read, such as a malformed line. Reading its key, if it has one, returns an error.
    Unreadable,
    /// Another program that commonly reads the same document reads another value.
    ReadDifferently,
}

impl Notice {
    /// Creates a notice. `name` is the name in the source.
    pub fn new(
        kind: NoticeKind,
        name: impl fmt::Display,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let name = name.to_string();
        let mut shown: String = name.chars().take(MAX_NAME_CHARS).collect();
        if shown.len() < name.len() {
            shown.push('…');
        }
        Self {
            kind,
            name: shown.escape_debug().to_string(),
            key: None,
            origin: None,
            message: message.into(),
            hint: None,
        }
    }

    /// Sets the key of the name.
    #[must_use]
    pub fn with_key(self, key: &SecretKey) -> Self {
        Self {
            key: Some(key.clone()),
            ..self
        }
    }

    /// Sets the source, unless it is set.
    #[must_use]
    pub fn with_origin(self, origin: &Origin) -> Self {
        Self {
            origin: self.origin.or_else(|| Some(origin.clone())),
            ..self
        }
    }

    /// Sets what to do.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// Returns the first notices, at most 1,000. If there are more, the last one states how many were left out, and has the
/// most severe of their categories.
///
/// A provider passes its notices through this function, so that a hostile document cannot fill the memory. Notices that
/// are left out are dropped one by one.
pub fn collect_notices(notices: impl IntoIterator<Item = Notice>) -> Vec<Notice> {
    let mut collected = Vec::new();
    let mut left_out = 0_usize;
    let mut worst = NoticeKind::ReadDifferently;
    for notice in notices {
        if collected.len() < MAX_NOTICES {
            collected.push(notice);
        } else {
            left_out += 1;
            worst = worst.max_severity(notice.kind);
        }
    }
    if left_out > 0
        && let Some(last) = collected.last_mut()
    {
        let kind = worst.max_severity(last.kind);
        let message = format!("{} more notices were left out", left_out + 1);
        *last = Notice::new(kind, "", message).with_hint("list only a part, with a prefix");
    }
    collected
}

impl NoticeKind {
    fn max_severity(self, other: Self) -> Self {
        let severity = |kind| match kind {
            Self::ReadDifferently => 0,
            Self::NotAKey => 1,
            Self::Unreadable => 2,
        };
        std::cmp::max_by_key(self, other, |kind| severity(*kind))
    }
}

impl fmt::Display for Notice {
    /// Writes one line: `NAME: message; hint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{}: ", self.name)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        let notice = Notice::new(NoticeKind::NotAKey, "a\nb", "the name cannot be a key");
        assert_eq!(notice.to_string(), "a\\nb: the name cannot be a key");
        let long = Notice::new(NoticeKind::NotAKey, "ß".repeat(101), "too long");
        assert_eq!(long.name.chars().count(), 101);
        assert!(long.name.ends_with('…'));
        let unnamed = Notice::new(NoticeKind::Unreadable, "", "line 3: no `=`").with_hint("add it");
        assert_eq!(unnamed.to_string(), "line 3: no `=`; add it");
    }

    #[test]
    fn notices_above_the_limit_are_counted() {
        let notices = |count: usize| {
            let kind = |index| match index {
                1_200 => NoticeKind::Unreadable,
                _ => NoticeKind::NotAKey,
            };
            collect_notices((0..count).map(|index| Notice::new(kind(index), index, "x")))
        };
        assert!(notices(0).is_empty());
        assert_eq!(notices(1_000).last().unwrap().name, "999");
        let limited = notices(1_001);
        assert_eq!(limited.len(), 1_000);
        assert_eq!(limited[998].name, "998");
        assert_eq!(limited[999].message, "2 more notices were left out");
        assert_eq!(limited[999].kind, NoticeKind::NotAKey);
        let unreadable = notices(10_000).pop().unwrap();
        assert_eq!(unreadable.message, "9001 more notices were left out");
        assert_eq!(unreadable.kind, NoticeKind::Unreadable);
    }
}
