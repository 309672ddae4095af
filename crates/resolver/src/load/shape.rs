//! The forms of values, which a plan finds and a deserializer uses.

/// The form of a value that fills a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Text that is passed on as it is.
    Text,
    List {
        /// Whether an item can be any text. Then a text that begins with `[` must be a JSON array.
        items_are_text: bool,
    },
    /// A JSON object.
    Map,
    Other,
}

impl Form {
    /// A list whose items are not text, and can begin with a bracket.
    pub(super) const ADDRESSES: Self = Self::List {
        items_are_text: false,
    };
}

/// Returns whether a struct is [`std::time::Duration`] in serde's representation. A duration is parsed
/// from text.
pub(super) fn is_duration(name: &str, fields: &[&str]) -> bool {
    name == "Duration" && fields == ["secs", "nanos"]
}

/// Returns whether a struct is [`std::time::SystemTime`] in serde's representation, which has no text.
pub(super) fn is_system_time(name: &str, fields: &[&str]) -> bool {
    name == "SystemTime" && fields == ["secs_since_epoch", "nanos_since_epoch"]
}
