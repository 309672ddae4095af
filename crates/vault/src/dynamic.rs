//! The configuration of dynamic secrets.

use std::fmt;

use secretwell_core::SecretValue;

/// The configuration of a dynamic secret.
#[derive(Clone)]
pub(crate) struct Dynamic {
    pub(crate) prefix: String,
    pub(crate) path: String,
    /// The body of a write. `None` if the path is read.
    pub(crate) body: Option<SecretValue>,
}

/// Omits the body, which might contain a secret.
impl fmt::Debug for Dynamic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.prefix, self.path)
    }
}
